"""Rung 4: every intermediate tensor at inference, then the output; errors accumulate along the way."""

from parity.compare import judge, summarise


def check(reference, candidate, truth=None) -> dict:
    errors = judge(
        reference.activations, candidate.activations, None if truth is None else truth.activations
    )
    result = {"measure": "relative L2"} | summarise(errors)
    if errors:
        result["details"]["output"] = errors[-1].value
    return result
