"""Rung 6: the gradient of every parameter, in training mode."""

from dataclasses import replace

import numpy as np

from parity.errors import summarise
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
    norms = [np.linalg.norm(g.astype(np.float64).ravel()) for g in expected.values()]
    typical = float(np.sqrt(np.mean(np.square(norms)))) if norms else 0.0
    names = [n for n in reference.gradients if n in candidate.gradients and (truth is None or n in truth.gradients)]
    shapes = {name: reference.gradients[name].shape for name in names}
    if any(not compatible(candidate.gradients[name].shape, shape) for name, shape in shapes.items()):
        shapes = {n: s for n, s in shapes.items() if compatible(candidate.gradients[n].shape, s)}
    arrays = [
        None if side is None else _with_total(_reordered(side, candidate), shapes)
        for side in (reference, candidate, truth)
    ]
    errors = judge_sides(reference, candidate, truth, arrays, typical)
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


def _reordered(side, candidate) -> dict:
    """A side's gradients, those of the candidate in the order in which the reference holds the weights."""
    found = side.gradients
    if side is not candidate or not candidate.rearranged:
        return found
    return {n: g.ravel()[candidate.rearranged[n]] if n in candidate.rearranged else g for n, g in found.items()}


def _with_total(gradients: dict, shapes: dict) -> dict:
    found = {name: gradients[name].reshape(shape) for name, shape in shapes.items()}
    if found:
        found[EVERYTHING] = np.concatenate([g.ravel() for g in found.values()])
    return found
