"""Rung 4: every intermediate tensor at inference, then the output; errors accumulate along the way."""

from parity.errors import judge, summarise


def check(reference, candidate, truth=None) -> dict:
    true = None if truth is None else truth.activations
    errors = judge(reference.activations, candidate.activations, true, tolerance=candidate.tolerance)
    result = {"measure": "relative L2"} | summarise(errors)
    if errors:
        result["details"]["output"] = errors[-1].value
    return result
