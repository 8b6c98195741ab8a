"""Rung 5: outputs in training mode (batch statistics), and the moving averages after several steps."""

from parity.errors import judge, summarise


def check(reference, candidate, truth=None) -> dict:
    true = None if truth is None else truth.training
    errors = judge(reference.training, candidate.training, true, tolerance=candidate.tolerance)
    result = {"measure": "relative L2"} | summarise(errors)
    first = result.get("first_divergence")
    if first and "/" in first:
        result["first_divergence"] = first.rsplit("/", 1)[0]
    return result
