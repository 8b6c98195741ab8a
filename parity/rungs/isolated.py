"""Rung 4, isolated: every layer and block is fed the reference's input, so that one fault shows in one place."""

from parity.errors import judge, summarise


def check(reference, candidate, truth=None) -> dict:
    expected, actual, true = {}, {}, {}
    skipped = []
    for name, call in reference.calls.items():
        other = candidate.calls.get(name)
        if other is None or other.replay is None or not call.inputs:
            continue
        shapes = [[x.shape for x in c.inputs] for c in (call, other)]
        if shapes[0] != shapes[1]:
            skipped.append(name)  # an input of another shape: the accumulated comparison tells
            continue
        expected[name], actual[name] = call.output, other.replay(call.inputs)
        if truth is not None:
            true[name] = truth.calls[name].replay(call.inputs)
    errors = judge(expected, actual, true if truth is not None else None, tolerance=candidate.tolerance)
    result = {"measure": "relative L2"} | summarise(errors)
    result.setdefault("details", {})["skipped"] = skipped
    return result
