"""The file of a trace: arrays and one JSON text in a .npz, which NumPy alone reads; see docs/traces.md."""

import hashlib
import json
from pathlib import Path

import numpy as np

from parity.sketch import SUMS, Sketch, sketch

FORMAT = "parity trace"
VERSION = 1
TEXT = "trace.json"  # the text's name among the arrays: its bytes in UTF-8, as uint8


class Writer:
    """Collects arrays under short names, each once, and writes them with the text that refers to them.

    Args:
        statistics: whether `tensor` keeps sketches instead of arrays.
    """

    def __init__(self, statistics: bool = False):
        self.statistics = statistics
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[str, str] = {}

    def array(self, array) -> dict:
        """What refers to an array that is kept whole."""
        array = np.asarray(array)
        name = self._known(array)
        if name is None and array.ndim > 2:  # the same in the other framework's axis order
            name = self._known(np.moveaxis(array, -1, 1))
            if name is not None:
                return {"array": name, "channels": "first"}
        return {"array": name or self._added(array)}

    def tensor(self, array) -> dict:
        """What refers to an array, or to the sketch of one that is larger than a sketch."""
        if not self.statistics or np.size(array) <= SUMS:
            return self.array(array)
        made = sketch(array)
        return {"sketch": self._added(made.sums), "shape": list(made.shape), "dtype": made.dtype.name}

    def _known(self, array) -> str | None:
        return self._names.get(_digest(array))

    def _added(self, array) -> str:
        name = self._names.setdefault(_digest(array), f"a{len(self.arrays)}")
        self.arrays.setdefault(name, np.ascontiguousarray(array).reshape(array.shape))
        return name

    def write(self, path, document: dict) -> Path:
        """Writes the file whole or not at all; its name is what was given."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, "version": VERSION, **document}, default=_plain)
        part = path.with_name(path.name + ".part")
        with open(part, "wb") as file:
            np.savez(file, **{TEXT: np.frombuffer(text.encode(), np.uint8)}, **self.arrays)
        part.replace(path)
        return path


class Reader:
    """A trace that was read: `document`, and the arrays that it refers to, read when they are asked for.

    Raises:
        ValueError: if the file is none of this format.
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            self._file = np.load(self.path, allow_pickle=False)
            text = bytes(self._file[TEXT]).decode()
            self.document = json.loads(text)
        except FileNotFoundError:
            raise ValueError(f"No such trace: {path}") from None
        except Exception as error:
            raise ValueError(
                f"{path} is no trace as `parity.record` writes them ({type(error).__name__}: {error})"
            ) from error
        version = self.document.get("version")
        if self.document.get("format") != FORMAT or version != VERSION:
            raise ValueError(f"{path} is a trace of version {version}; this parity reads version {VERSION}")
        self._kept: dict[str, np.ndarray] = {}

    def get(self, reference: dict | None):
        """The array or sketch that something in the document refers to; None for None."""
        if reference is None:
            return None
        if "sketch" in reference:
            dtype = np.dtype(reference["dtype"])
            return Sketch(tuple(reference["shape"]), dtype, self._array(reference["sketch"]))
        array = self._array(reference["array"])
        return np.moveaxis(array, 1, -1) if reference.get("channels") == "first" else array

    def _array(self, name: str) -> np.ndarray:
        if name not in self._kept:
            self._kept[name] = self._file[name]
        return self._kept[name]


def is_trace(path) -> bool:
    """Whether a file is a trace, without reading its arrays."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return not isinstance(file, np.ndarray) and TEXT in file
    except Exception:  # no archive of arrays at all
        return False


def inputs_text(batch, keep) -> dict:
    """A batch, as an array, tuple or dict of arrays, in the document; `keep` refers to an array."""
    if isinstance(batch, dict):
        return {"kind": "dict", "arrays": {name: keep(array) for name, array in batch.items()}}
    if isinstance(batch, tuple):
        return {"kind": "tuple", "arrays": [keep(array) for array in batch]}
    return {"kind": "array", "arrays": [keep(batch)]}


def inputs_of(text: dict, get):
    """The inverse of `inputs_text`."""
    if text["kind"] == "dict":
        return {name: get(reference) for name, reference in text["arrays"].items()}
    arrays = tuple(get(reference) for reference in text["arrays"])
    return arrays if text["kind"] == "tuple" else arrays[0]


def _digest(array: np.ndarray) -> str:
    content = np.ascontiguousarray(array)
    return hashlib.sha1(f"{content.dtype}{array.shape}".encode() + content.tobytes()).hexdigest()


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
