"""The file of a deployed model behind the face of an `Adapter`: SavedModel, ONNX, LiteRT, torch.export.

Such a model is known by its inputs and outputs. Each runtime is imported when its first file is opened.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from parity.adapters.base import Adapter, Call, InputSpec, named_outputs
from parity.graph import Unanswered
from parity.layout import ordered

USUAL, AS_GIVEN = ("channels first", "channels first"), ("as given", "as given")


class ArtefactAdapter(Adapter):
    """A file of a deployed model.

    Args:
        path: of the file, or folder of a SavedModel.
        run: from a dict of arrays by input name, of the types that the file asks for, to a dict of outputs by name.
        specs: of its inputs: name, shape with None for any size, type as NumPy calls it.
        framework: "saved_model", "onnx", "litert" or "torch.export".
        title: what is told of it: its runtime, a signature.
    """

    opaque = True
    dtype = "float32"

    def __init__(self, path, run: Callable, specs: list[tuple], framework: str, title: str = ""):
        super().__init__(path, f"{Path(path).name}{title}")
        self.run, self.specs, self.framework = run, specs, framework
        self.orders = AS_GIVEN if framework in ("saved_model", "litert") else None

    def walk(self):
        return iter(())

    def kinds(self):
        return {}

    def weights(self, trainable=True):
        return {}

    def assign(self, arrays):
        if arrays:
            raise ValueError(f"Weights can't be put into a file. Received: {self.name}")

    def settings(self):
        return {}

    def input_specs(self):
        if self.orders is None or self.orders[0] != "as given":  # shapes are told in the file's axis order
            return [InputSpec(name, None, not dtype.startswith("float")) for name, _, dtype in self.specs]
        return [
            InputSpec(name, shape and (None if shape[0] == 1 else shape[0], *shape[1:]), not dtype.startswith("float"))
            for name, shape, dtype in self.specs
        ]

    def outputs(self, inputs, training=False, draws=None):
        if training:
            raise ValueError(f"{self.name} is a file of a deployed model, which does not train")
        given = self._by_name(inputs)
        if self.orders is None:
            self.orders = self._guess(given)
        fed = {
            name: self._cast(name, ordered(given[name], self.orders[0], back=True), dtype)
            for name, _, dtype in self.specs
            if name in given
        }
        for name, shape, _ in self.specs:  # a runtime may not look, and read beyond what it is given
            if shape and name in fed and not _fits(fed[name].shape, (None if shape[0] == 1 else shape[0], *shape[1:])):
                raise ValueError(f"{self.name} takes {name} of shape {shape}. Received: {fed[name].shape}")
        found = self._run(fed)
        return {name: ordered(np.asarray(array), self.orders[1]) for name, array in found.items()}

    def _run(self, fed: dict) -> dict:
        """The outputs; of a file that takes one example at a time, put together."""
        single = [name for name, shape, _ in self.specs if shape and shape[0] == 1 and name in fed]
        count = max((len(fed[name]) for name in single), default=1)
        if count == 1 or any(len(fed[name]) != count for name in single):
            return named_outputs(self.run(fed))
        found = [
            named_outputs(self.run({name: a[n : n + 1] if name in single else a for name, a in fed.items()}))
            for n in range(count)
        ]
        return {name: np.concatenate([np.atleast_1d(one[name]) for one in found]) for name in found[0]}

    def capture(self, inputs, training=False, draws=None):
        return {name: Call((), array, final=True) for name, array in self.outputs(inputs, training).items()}

    def without_dropout(self):
        return contextlib.nullcontext()

    def preserved(self, trainable=True):
        return contextlib.nullcontext()

    def _by_name(self, inputs) -> dict:
        names = [name for name, _, _ in self.specs]
        if isinstance(inputs, dict):
            if set(inputs) != set(names):
                raise ValueError(f"{self.name} takes inputs {', '.join(names)}. Received: {', '.join(inputs)}")
            return inputs
        arrays = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(arrays) != len(names):
            raise ValueError(f"{self.name} takes {len(names)} inputs ({', '.join(names)}). Received: {len(arrays)}")
        return dict(zip(names, arrays, strict=True))

    def _guess(self, given) -> tuple[str, str]:
        """The axis order of the inputs, by the shapes that the file asks for; channels first if both would do."""
        for orders in (USUAL, AS_GIVEN):
            shapes = [(np.shape(ordered(given[n], orders[0], back=True)), shape) for n, shape, _ in self.specs]
            if all(shape is None or _fits(found, shape) for found, shape in shapes):
                return orders
        return AS_GIVEN

    def _cast(self, name, array, dtype):
        array = np.asarray(array)
        if np.dtype(dtype).kind in "iu" and array.dtype.kind == "f":
            limits, least, most = np.iinfo(dtype), array.min(initial=0), array.max(initial=0)
            if (array != np.rint(array)).any() or least < limits.min or most > limits.max:
                raise Unanswered(f"{self.name} takes {dtype} as {name}, and these inputs are none")
        return np.ascontiguousarray(array.astype(dtype, copy=False))


def _fits(found, shape) -> bool:
    return len(found) == len(shape) and all(b is None or a == b for a, b in zip(found, shape, strict=True))


def opened(path, signature: str | None = None) -> ArtefactAdapter:
    """The adapter of a file, by its name and what it is.

    Args:
        path: a folder with saved_model.pb, or a file .onnx, .tflite or .pt2.
        signature: of a SavedModel; by default "serving_default", "serve", or the only one.

    Raises:
        ValueError: if it is none of these, or its runtime is not installed.
    """
    path = Path(path)
    kinds = {".onnx": _onnx, ".tflite": _litert, ".pt2": _torch_export}
    saved = path.is_dir() and (path / "saved_model.pb").is_file()
    if not path.exists():
        raise ValueError(f"No such file: {path}")
    if not saved and (path.suffix not in kinds or path.is_dir()):
        raise ValueError(
            f"Known are traces (.npz by `parity.record`), SavedModel folders, .onnx, .tflite and .pt2. Received: {path}"
        )
    try:
        return _saved_model(path, signature) if saved else kinds[path.suffix](path)
    except ImportError as error:
        raise ValueError(f"{path} needs a runtime that is not installed: {error}") from error
    except ValueError:
        raise
    except Exception as error:  # whatever a runtime says of a damaged file
        text = str(error).strip()
        raise ValueError(f"{path} can't be opened: {text.splitlines()[0] if text else type(error).__name__}") from error


def _saved_model(path: Path, signature: str | None) -> ArtefactAdapter:
    from parity.environment import import_tensorflow_quietly

    import_tensorflow_quietly()
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    known = list(loaded.signatures)
    wanted = [signature] if signature else ["serving_default", "serve", *known[:1]]
    chosen = next((name for name in wanted if name in known), None)
    if chosen is None:
        raise ValueError(f"{path} has the signatures {', '.join(known) or 'none'}. Received: {signature}")
    function = loaded.signatures[chosen]
    specs = function.structured_input_signature[1]
    if any(spec.dtype == tf.string for spec in specs.values()):
        raise ValueError(f"{path}: signature {chosen!r} takes strings; name one that takes numbers: {', '.join(known)}")

    def run(arrays):
        found = function(**{name: tf.constant(array, specs[name].dtype) for name, array in arrays.items()})
        return {name: tensor.numpy() for name, tensor in found.items()}

    run.loaded = loaded  # the signature alone does not keep its variables
    told = [
        (name, None if spec.shape.rank is None else tuple(spec.shape.as_list()), spec.dtype.name)
        for name, spec in specs.items()
    ]
    return ArtefactAdapter(path, run, told, "saved_model", f" ({chosen})")


def _onnx(path: Path) -> ArtefactAdapter:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    types = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
             "tensor(bool)": "bool"}  # fmt: skip
    told = []
    for spec in session.get_inputs():
        shape = tuple(n if isinstance(n, int) else None for n in spec.shape)
        told.append((spec.name, shape, types.get(spec.type, spec.type.removeprefix("tensor(").removesuffix(")"))))
    names = [output.name for output in session.get_outputs()]
    return ArtefactAdapter(path, lambda arrays: dict(zip(names, session.run(names, arrays), strict=True)), told, "onnx")


def _litert(path: Path) -> ArtefactAdapter:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another package that is to replace it
        interpreter = Interpreter(model_path=str(path))
    signatures = interpreter.get_signature_list()
    if not signatures:
        raise ValueError(f"{path} has no signature, by which its inputs had names")
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    details = runner.get_input_details()

    def run(arrays):
        return runner(**{name: np.ascontiguousarray(array) for name, array in arrays.items()})

    run.interpreter = interpreter
    told = [
        (name, tuple(None if n == -1 else int(n) for n in d["shape_signature"]), np.dtype(d["dtype"]).name)
        for name, d in details.items()
    ]
    return ArtefactAdapter(path, run, told, "litert")


def _torch_export(path: Path) -> ArtefactAdapter:
    import torch

    program = torch.export.load(str(path))
    module = program.module()
    placeholders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    names = list(program.graph_signature.user_inputs)
    called, keywords = program.call_spec.in_spec, []
    if called.num_children > 1:
        # Older versions of torch have no `child`, newer ones warn of `children_specs`.
        keywords = list((called.child(1) if hasattr(called, "child") else called.children_specs[1]).context)
    told = []
    for name in names:
        value = placeholders[name]
        shape = tuple(n if isinstance(n, int) else None for n in value.shape)
        told.append((name, shape, str(value.dtype).removeprefix("torch.")))
    by_keyword = len(keywords) == len(names)
    if by_keyword:  # a placeholder may have another name than the argument
        told = [(keyword, *spec[1:]) for keyword, spec in zip(keywords, told, strict=True)]

    def run(arrays):
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        with torch.no_grad():
            found = module(**tensors) if by_keyword else module(*tensors.values())
        return {name.removeprefix("output").strip() or "output": t.numpy() for name, t in named_outputs(found).items()}

    return ArtefactAdapter(path, run, told, "torch.export")
