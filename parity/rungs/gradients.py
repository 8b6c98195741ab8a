"""Rung 6: the gradient of every parameter, in training mode."""

import numpy as np

from parity.errors import summarise
from parity.trace import judge_sides

EVERYTHING = "all gradients"


def check(reference, candidate, truth=None) -> dict:
    """Compares gradients tensor by tensor, and all of them as one vector.

    A tensor's error is taken relative to its own norm, or to the typical norm of all tensors where that is larger:
    some true gradients are zero (a bias in front of a batch norm), and their rounding is relative to nothing.
    """
    expected = reference.gradients if truth is None else truth.gradients
    norms = [np.linalg.norm(g.astype(np.float64).ravel()) for g in expected.values()]
    typical = float(np.sqrt(np.mean(np.square(norms)))) if norms else 0.0
    arrays = [
        None if side is None else _with_total(side.gradients, reference.gradients)
        for side in (reference, candidate, truth)
    ]
    errors = judge_sides(reference, candidate, truth, arrays, typical)
    result = {"measure": "relative L2"} | summarise(errors)
    missing = sorted(set(reference.gradients) ^ set(candidate.gradients))
    if missing and errors:
        result |= {"passed": False, "message": f"only one side has a gradient for {', '.join(missing[:5])}"}
    # Gradients flow backwards: the last tensor in the order of the model is the first to go wrong.
    wrong = [e.name for e in errors if not e.passed and e.name != EVERYTHING]
    result["first_divergence"] = wrong[-1].rsplit("/", 1)[0] if wrong else None
    return result


def _with_total(gradients: dict, order: dict) -> dict:
    found = {name: gradients[name] for name in order if name in gradients}
    if found:
        found[EVERYTHING] = np.concatenate([g.ravel() for g in found.values()])
    return found
