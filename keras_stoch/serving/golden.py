"""Golden inputs and outputs beside an export: what a deployed file must still give, in a format that NumPy alone reads.

One .npz: arrays a0, a1, ..., and under "trace.json" the UTF-8 bytes of a text that says which is what. It is the format
of traces in docs/traces.md, with inputs and outputs alone.
"""

import json
import platform
from importlib import metadata
from pathlib import Path

import numpy as np

from keras_stoch.data.synthetic import draw_lesion

# Relative, of all golden probabilities together. Another runtime, or machine, adds in another order.
TOLERANCE = 1e-3


def place(path: Path) -> Path:
    """Where golden inputs and outputs lie: in a folder of a SavedModel that it does not load, or beside a file."""
    return path / "assets.extra" / "golden.npz" if path.is_dir() else path.with_name(f"{path.name}.golden.npz")


def write(run, served, path: Path, format: str, count: int) -> Path:
    """Writes golden inputs, and the outputs that an export gives for them.

    Args:
        run: from a dict of arrays to the export's answers, a dict.
        served: the `Served` that it was written from.
        path: of the file to write.
        format: of the export.
        count: how many inputs.
    """
    inputs = draw(served, count, np.uint8 if format == "tf_saved_model" else np.float32)
    answers = run(inputs)
    prefix = "output {}" if len(answers) > 1 else "output"
    # A decision at the threshold itself is rounding's.
    found = {prefix.format(name): array for name, array in answers.items() if name != "decision"}
    signature = ("serve_windows" if "windows" in inputs else "serve") if format == "tf_saved_model" else None
    arrays = {}

    def keep(array):
        arrays[f"a{len(arrays)}"] = np.ascontiguousarray(array)
        return {"array": f"a{len(arrays) - 1}"}

    names = {"tf_saved_model": "saved_model"}
    document = {
        "format": "parity trace",
        "version": 1,
        "model": served.model.name,
        "framework": names.get(format, format),
        "signature": signature,
        "versions": _versions(),
        "inputs": [{"kind": "dict", "arrays": {name: keep(array) for name, array in inputs.items()}}],
        "input_specs": None,
        "statistics": False,
        "tolerance": TOLERANCE,
        "layers": [],
        "kinds": [],
        "weights": [],
        "runs": {
            "own": {
                "dtype": "float32",
                "outputs": {"inference 0": {name: keep(array) for name, array in found.items()}},
                "calls": [],
                "graph": None,
            }
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = np.frombuffer(json.dumps(document).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez_compressed(file, **{"trace.json": text}, **arrays)
    return path


def draw(served, count: int, dtype) -> dict[str, np.ndarray]:
    """Pictures of generated lesions, and windows for them."""
    rng = np.random.default_rng(0)
    side = max(served.high_res or served.low_res, 64)  # the least that a lesion is drawn in
    pictures = np.stack([draw_lesion(n % 2, n, side) for n in range(count)])
    small = np.asarray(served.shrink(pictures)).astype(dtype)
    if served.layer is None:
        return {"low_res": small}
    shape = (count, served.layer.filters) if served.per_image else (served.layer.filters,)
    windows = np.int32(np.stack([rng.integers(0, span, shape) for span in served.spans], -1))
    return {"low_res": small, "high_res": pictures.astype(dtype), "windows": windows}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("keras", "tensorflow", "torch", "jax", "numpy", "onnxruntime"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found | {"platform": f"{platform.system()} {platform.machine()}"}
