"""Weights: the right numbers in the wrong place, none at all, scaled, or a part of them."""

import numpy as np

from parity.adapters.base import Adapter
from parity.errors import close
from parity.values import rearrangement, varies

# What is kept of a variance, a scale or a rate where another library keeps the number itself.
FUNCTIONS = {
    "the square root": np.sqrt,
    "the square": np.square,
    "the reciprocal": np.reciprocal,
    "the reciprocal of the square root": lambda x: 1 / np.sqrt(x),
    "the logarithm": np.log,
    "the exponential": np.exp,
}


def explain(reference: Adapter, candidate: Adapter, names: list[str]) -> dict[str, str]:
    """What is wrong with weights that differ, in words, for those of which it can be told.

    Args:
        names: canonical names of weights that both sides have, in one shape.
    """
    ours, theirs = ({n: w.array for n, w in side.weights().items()} for side in (reference, candidate))
    parts = reference.parts()
    found = {}
    for role, side, other in (("candidate", candidate, ours), ("reference", reference, theirs)):
        for name in side.tied():
            if name in names and name in other:
                found[name] = f"in the {role} it is the tensor of another layer too, and one tensor can't hold both"
    for name in names:
        if name in found:
            continue
        if name in ours and name in theirs:
            told = _told(name, ours, theirs, parts.get(name, ()))
            if told:
                found[name] = told
    return found


def _told(name: str, ours: dict, theirs: dict, parts) -> str:
    array = ours[name]
    held = theirs[name].reshape(array.shape)
    found = rearrangement(array, held)
    if found is not None:
        return f"the right numbers in another order: {found[0]}"
    layer = name.rpartition("/")[0]
    others = [n for n in ours if n != name and ours[n].size == held.size and varies(ours[n])]
    for other in sorted(others, key=lambda n: n.rpartition("/")[0] != layer):
        if np.float32(ours[other].flat[0]) == np.float32(held.flat[0]) and np.array_equal(
            np.float32(ours[other].ravel()), np.float32(held.ravel())
        ):
            return f"it holds what belongs to {other}"
    for part, numbers in parts:
        if np.allclose(numbers, held, rtol=1e-6, atol=1e-12):
            return f"it holds {part} alone, where {' and '.join(p for p, _ in parts)} are to be added"
    if not varies(held):
        return f"it is {held.flat[0]:g} everywhere, as it was made: it was not transferred"
    for words, function in FUNCTIONS.items():
        if close(array, held, 1e-5, 0.0, function=function) and not close(array, held, 1e-3, 1e-8):
            return f"it is {words} of the reference's"
    every = list(range(array.ndim))
    norm, both = (
        float(np.einsum(held, every, other, every, [], dtype=np.float64, casting="unsafe")) for other in (held, array)
    )
    ratio = both / norm if norm else 0.0
    if ratio and close(held, array, 1e-5, 1e-7 * max(abs(float(array.max())), abs(float(array.min()))), ratio):
        return f"it is {1 / ratio:.6g} times the reference's"
    return ""
