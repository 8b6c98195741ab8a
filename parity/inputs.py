"""Inputs, looked at before any model: what can't be compared on, or would hide a fault, is refused in a sentence."""

import contextlib
from collections.abc import Mapping

import numpy as np

from parity.adapters.base import Adapter
from parity.trace import map_inputs

SHAPES = "arrays are (batch, height, width, channels) or whatever the Keras model takes"


def prepare(inputs, reference: Adapter, candidate: Adapter) -> tuple[list, list[str]]:
    """The batches to compare on, as arrays of the types that the models ask for, and what to tell of them.

    Args:
        inputs: as `compare` takes them.

    Raises:
        ValueError: if there are none, some are not finite or do not vary, two of one batch are equal, or their number,
            shape or type is not what the models take.
    """
    if inputs is None:
        raise ValueError(f"Inputs are missing; {SHAPES}. Received: None")
    specs = next((s for s in (a.input_specs() for a in (candidate, reference) if a.framework == "keras") if s), None)
    batches = inputs if isinstance(inputs, list) else [inputs]
    if not batches:
        raise ValueError("A list of inputs holds batches, at least one. Received: []")
    if any(isinstance(batch, int | float | list) for batch in batches):
        raise ValueError("A list of inputs holds batches, each an array, tuple or dict. Received: a list of numbers")
    plain = isinstance(inputs, list) and not any(isinstance(batch, Mapping | tuple) for batch in batches)
    if plain and specs and len(specs) > 1:
        raise ValueError(
            f"A list means batches; the {len(specs)} inputs of one batch go into a tuple. Received: a list"
        )
    batches = [_as_arrays(batch) for batch in batches]
    notes = []
    for batch in batches:
        notes += _look(batch)
        for side in (reference, candidate):
            _count(batch, side)
        if specs:
            _shapes(batch, specs)
    first = _structure(batches[0])
    for batch in batches[1:]:
        if _structure(batch) != first:
            raise ValueError(f"All batches must be of one structure. Received: {first} and {_structure(batch)}")
    asked = _as_asked(batches, specs, reference, candidate)
    for side in (reference, candidate):
        _refuse_channels_first(side, asked[0])
    return asked, list(dict.fromkeys(notes))


def recorded_inputs(inputs, *sides: Adapter):
    """The inputs to compare on: those given, or those of a trace.

    Raises:
        ValueError: if both are there and differ, or two traces were recorded on different inputs.
    """
    traces = [side for side in sides if side.recorded]
    for side in traces:
        recorded = side.batches if len(side.batches) > 1 else side.batches[0]
        if inputs is None:
            inputs = recorded
        given = [_as_arrays(batch) for batch in (inputs if isinstance(inputs, list) else [inputs])]
        if len(given) != len(side.batches) or not all(map(_equal, given, side.batches)):
            raise ValueError(f"{side.name} was recorded on other inputs; leave them out, or record it on these")
    return inputs


def _equal(batch, other) -> bool:
    ours, theirs = _named(batch), _named(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def _refuse_channels_first(side: Adapter, inputs) -> None:
    """Refuses a Keras model with channels first if it does not run: on a CPU most layers have no such kernel."""
    first = [n for n, layer in side.layers().items() if getattr(layer, "data_format", "") == "channels_first"]
    if not first:
        return
    try:
        with side.as_found():
            side.outputs(inputs)
    except Exception as error:
        raise ValueError(
            f"{side.name} does not run here: TensorFlow on a CPU lacks operations for channels first. Received: layer "
            f'{first[0]} with data_format="channels_first"'
        ) from error


def load(path) -> np.ndarray | dict | tuple:
    """Inputs of a .npz file: its only array; arrays by name; or a tuple, where they are called arr_0, arr_1, ...

    Raises:
        ValueError: if it holds none.
    """
    with np.load(path, allow_pickle=False) as file:
        if isinstance(file, np.ndarray):
            return file
        arrays = dict(file)
    if not arrays:
        raise ValueError(f"{path} holds no arrays")
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if all(name.startswith("arr_") for name in arrays):
        return tuple(arrays.values())
    return arrays


def _as_arrays(batch):
    if isinstance(batch, Mapping):
        return {str(name): _as_array(array) for name, array in batch.items()}
    if isinstance(batch, tuple):
        arrays = tuple(map(_as_array, batch))
        return arrays[0] if len(arrays) == 1 else arrays
    return _as_array(batch)


def _as_array(value) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"Inputs must be arrays of numbers; {SHAPES}. Received: {type(value).__name__}")
    return array


def _named(batch) -> dict[str, np.ndarray]:
    if isinstance(batch, dict):
        return {f"input {name!r}": array for name, array in batch.items()}
    if isinstance(batch, tuple):
        return {f"input {number}": array for number, array in enumerate(batch)}
    return {"input": batch}


def _look(batch) -> list[str]:
    """Refuses arrays on which a comparison says nothing."""
    arrays, notes = _named(batch), []
    for name, array in arrays.items():
        if array.ndim == 0 or array.size == 0:
            raise ValueError(f"The {name} has no batch axis or is empty; {SHAPES}. Received: shape {array.shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int((~np.isfinite(array)).sum())
            raise ValueError(
                f"The {name} must be finite. Received: {bad} of {array.size} values that are NaN or infinite"
            )
        if array.size > 1 and (array == array.flat[0]).all():
            if array.dtype.kind == "f" or len(arrays) == 1:
                raise ValueError(
                    f"The {name} does not vary, which hides most faults; give real or random values. Received: "
                    f"{array.shape} of {array.flat[0]}"
                )
            notes.append(f"The {name} is {array.flat[0]} everywhere; what it does otherwise was not seen.")
        elif len(array) > 1 and (array == array[:1]).all():
            notes.append(f"All examples of the {name} are equal; whether they are kept apart was not seen.")
    names = list(arrays)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            a, b = arrays[name], arrays[other]
            if a.size > 1 and a.shape == b.shape and np.array_equal(a, b):
                raise ValueError(
                    f"The inputs must differ, or their exchange could not be seen. Received: equal arrays as {name} "
                    f"and {other}"
                )
    return notes


def _count(batch, side: Adapter) -> None:
    """Refuses a number of inputs, or names, that a model does not take."""
    if side.recorded:
        return
    specs = side.input_specs()
    if specs is None:
        return
    names = [spec.name for spec in specs]
    required = [spec.name for spec in specs if not spec.optional]
    if isinstance(batch, dict):
        if not set(required) <= set(batch) <= set(names):
            raise ValueError(f"{side.name} takes inputs {', '.join(names)}. Received: {', '.join(batch)}")
        return
    given = len(batch) if isinstance(batch, tuple) else 1
    if not len(required) <= given <= len(names):
        wanted = str(len(names)) if len(required) == len(names) else f"{len(required)} to {len(names)}"
        raise ValueError(
            f"{side.name} takes {wanted} inputs ({', '.join(names)}), as a tuple or dict of arrays. Received: {given}"
        )


def _shapes(batch, specs) -> None:
    """Refuses arrays that do not go with the shapes that the Keras model was built for."""
    by_name = {spec.name: spec for spec in specs}
    arrays = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, tuple) else (batch,)
    chosen = [by_name.get(name) for name in batch] if isinstance(batch, dict) else specs
    for array, spec in zip(arrays, chosen, strict=False):
        if spec is None or spec.shape is None or _fits(array.shape, spec.shape):
            continue
        told = f"Expected: {spec.shape}, the batch first. Received: {array.shape}"
        if _fits((1, *array.shape), spec.shape):
            raise ValueError(f"The batch axis is missing; give array[None] for one example. {told}")
        moved = (array.shape[0], *array.shape[2:], array.shape[1]) if array.ndim > 2 else ()
        if _fits(moved, spec.shape):
            raise ValueError(f"Inputs are channels last, as Keras has them; give np.moveaxis(array, 1, -1). {told}")
        what = "number of channels" if _fits(array.shape[:-1], spec.shape[:-1]) else "shape"
        raise ValueError(f"The input has another {what} than the Keras model takes. {told}")


def _fits(shape, expected) -> bool:
    return len(shape) == len(expected) and all(b in (None, a) for a, b in zip(shape, expected, strict=True))


def _structure(batch) -> str:
    if isinstance(batch, dict):
        return "dict of " + ", ".join(f"{name} with {batch[name].ndim} axes" for name in sorted(batch))
    arrays = batch if isinstance(batch, tuple) else (batch,)
    return f"{type(batch).__name__} with " + ", ".join(str(array.ndim) for array in arrays) + " axes"


def _as_asked(batches, specs, reference, candidate) -> list:
    """Integers as floats where the models compute with them, as they are where they are looked up.

    A Keras model that was built for integers says so. Else it is tried out: layers of embeddings ask for integers,
    others for floats, and a torch module that takes only one of the two decides.
    """
    if specs and isinstance(batches[0], dict):
        order = {spec.name: spec for spec in specs}
        specs = [order.get(name) for name in batches[0]]
    asked = [spec.integer if spec else None for spec in specs or ()]

    def converted(batch, to_float):
        found = iter(asked)

        def convert(array):
            integer = next(found, None)
            if integer and array.dtype.kind == "f":
                if (array != np.rint(array)).any():
                    raise ValueError(f"The Keras model takes integers here. Received: {array.dtype} with fractions")
                return array.astype(np.int64)
            if not integer and array.dtype.kind in "iu" and to_float:
                return array.astype(np.float32)
            wide = array.dtype.kind in "iu" and array.dtype.itemsize < 8 and array.dtype != np.uint8
            return array.astype(np.int64) if wide else array

        return map_inputs(convert, batch)

    kinds = {*reference.kinds().values(), *candidate.kinds().values()}
    attempts = (False, True) if "embedding" in kinds else (True, False)
    torch_sides = [side for side in (reference, candidate) if side.framework == "torch"]
    for to_float in attempts:
        found = converted(batches[0], to_float)
        if all(_runs(side, found) for side in torch_sides):
            break
    else:
        to_float = attempts[0]
    return [converted(batch, to_float) for batch in batches]


def _runs(side: Adapter, inputs) -> bool:
    arrays = _named(inputs).values()
    if not any(array.dtype.kind in "iu" for array in arrays) and len(arrays) == 1:
        return True  # nothing to be found out
    with side.as_found(), contextlib.suppress(Exception):
        side.outputs(inputs)
        return True
    return False
