"""Rung 6: the gradient of every parameter, in training mode."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from parity.errors import Error, norms, summarise
from parity.layout import compatible
from parity.trace import judge_sides

EVERYTHING = "all gradients"
FACTORS = 4


def check(reference, candidate, truth=None) -> dict:
    """Compares gradients tensor by tensor, and all of them as one vector.

    A tensor's error is taken relative to its own norm, or to the typical norm of all tensors where that is larger:
    some true gradients are zero (a bias in front of a batch norm), and their rounding is relative to nothing.
    """
    expected = reference.gradients if truth is None else truth.gradients
    norms = [np.linalg.norm(expected[name].astype(np.float64, copy=False).ravel()) for name in expected]
    typical = float(np.sqrt(np.mean(np.square(norms)))) if norms else 0.0
    names = [n for n in reference.gradients if n in candidate.gradients and (truth is None or n in truth.gradients)]
    shapes = {name: reference.gradients[name].shape for name in names}
    if any(not compatible(candidate.gradients[name].shape, shape) for name, shape in shapes.items()):
        shapes = {n: s for n, s in shapes.items() if compatible(candidate.gradients[n].shape, s)}
    sides = (reference, candidate, truth)
    arrays = [None if side is None else _Gradients(side, candidate, shapes, truth is not None) for side in sides]
    errors = judge_sides(*sides, arrays, typical)
    if truth is None and errors:
        errors.append(_all(arrays[0], arrays[1], errors))
    if candidate.ranges and truth is None:
        # A gradient is made of products of activations, each of which may be off by as much as that.
        errors = [replace(error, tolerance=error.tolerance * FACTORS) for error in errors]
    result = {"measure": "relative L2"} | summarise(errors)
    missing = sorted(set(reference.gradients) ^ set(candidate.gradients))
    excused = [name for name in missing if not candidate.strict and _told_elsewhere(name, reference, candidate)]
    if excused and errors:
        more = f" and {len(excused) - 5} more" if len(excused) > 5 else ""
        result["message"] = (
            f"gradients not compared, for one side has none by that name: {', '.join(excused[:5])}{more}"
        )
    missing = [name for name in missing if name not in excused]
    if missing and errors:
        result |= {"passed": False, "message": f"only one side has a gradient for {', '.join(missing[:5])}"}
    # Gradients flow backwards: the last tensor in the order of the model is the first to go wrong.
    wrong = [e.name for e in errors if not e.passed and e.name != EVERYTHING]
    result["first_divergence"] = wrong[-1].rsplit("/", 1)[0] if wrong else None
    return result


def _told_elsewhere(name: str, *sides) -> bool:
    """Whether a weight has no partner, of which the structure rung tells, or is computed of others."""
    weights = [side.adapter.weights() for side in sides]
    return any(name not in w for w in weights) or any(name in w and not w[name].exact for w in weights)


class _Gradients(Mapping):
    """A side's gradients in the reference's shapes, those of the candidate in the order in which it holds the weights.

    All of them as one vector go by `EVERYTHING`, if that is asked for.
    """

    def __init__(self, side, candidate, shapes: dict, everything: bool):
        self._found, self._shapes = side.gradients, shapes
        self._names = [*shapes, EVERYTHING] if shapes and everything else [*shapes]
        self._orders = candidate.rearranged if side is candidate else {}

    def __getitem__(self, name):
        if name == EVERYTHING:
            return self._everything()
        array = self._found[name]
        return (self._orders[name](array) if name in self._orders else array).reshape(self._shapes[name])

    def _everything(self) -> np.ndarray:
        whole, place = None, 0
        for name in self._shapes:
            part = self[name].ravel()
            if whole is None:
                whole = np.empty(sum(map(math.prod, self._shapes.values())), part.dtype)
            whole[place : place + part.size] = part
            place += part.size
        return whole

    def __contains__(self, name):
        return name in self._names

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


def _all(ours: _Gradients, theirs: _Gradients, errors: list[Error]) -> Error:
    """The error of all gradients as one vector, which need not be in memory."""
    squares = np.zeros(2)
    for name in ours:
        squares += np.square(norms(theirs[name], ours[name]))
    apart, norm = map(float, np.sqrt(squares))
    value = 0.0 if apart == 0 else apart / norm if norm else float("inf")
    if not np.isfinite(squares).all():  # what is no number on both sides counts for equal
        value = float(np.max([error.value for error in errors]))
    undecided = errors[0].undecided if all(error.undecided for error in errors) else ""
    return Error(EVERYTHING, value, errors[0].tolerance, float(np.max([e.max_abs for e in errors])), undecided)
