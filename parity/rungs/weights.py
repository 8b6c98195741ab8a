"""Rung 3: the same numbers where they belong, and a round trip between the frameworks that loses no bit."""

import numpy as np

from parity.errors import NOT_COMPARED
from parity.transfer import weights_beside


def check(reference, candidate, truth=None) -> dict:
    """Compares every weight, then sends the reference's through the candidate and back.

    Models of different types are compared in the narrower one, unless the candidate's trace is `strict`.
    """
    strict = candidate.strict
    ours, theirs = (
        {name: np.array(weight.array) for name, weight in side.adapter.weights().items()}
        for side in (reference, candidate)
    )
    tied = [
        {n: w.array for n, w in weights_beside(*sides).items() if n not in own}
        for own, sides in (
            (ours, (reference.adapter, candidate.adapter)),
            (theirs, (candidate.adapter, reference.adapter)),
        )
    ]
    common = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
    different = [name for name in common if not _same(ours[name], theirs[name], strict)]
    both = (ours | tied[0]), (theirs | tied[1])
    different += [n for part in tied for n in part if not _same(both[0][n], both[1][n], strict)]

    sent = {name: ours[name] for name in common}
    try:
        candidate.adapter.assign(sent)
        arrived = candidate.adapter.weights()
        received = {name: np.array(arrived[name].array) for name in common}
        reference.adapter.assign({name: np.zeros_like(array) for name, array in sent.items()})
        reference.adapter.assign(received)
        back = reference.adapter.weights()
        lost = [name for name in common if not _same(sent[name], back[name].array, strict)]
    finally:
        reference.adapter.assign(ours)
        candidate.adapter.assign(theirs)
    problems = different + lost
    first = problems[0].rsplit("/", 1)[0] if problems else None
    message = ""
    if not common:
        message = "nothing could be compared: no tensor in common"
    elif len(different) == len(common):
        message = "no tensor is equal: the weights were never transferred"
    elif problems:
        message = f"{len(different)} of {len(common)} tensors differ, {len(lost)} lost in the round trip"
    result = {
        "passed": bool(common) and not problems,
        "measure": "tensors that differ",
        "value": float(len(problems)) if common else None,
        "tolerance": 0.0,
        "worst": problems[0] if problems else None,
        "first_divergence": first,
        "message": message,
        "details": {"compared": len(common), "different": different[:50], "lost": lost[:50]},
    }
    return result if common else result | {"status": NOT_COMPARED}


def _same(a: np.ndarray, b: np.ndarray, strict: bool) -> bool:
    # Counters may be integers of any width; a float of another width has other bits.
    integers = a.dtype.kind == b.dtype.kind == "i"
    if not strict and a.dtype.kind == b.dtype.kind == "f":
        narrower = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
        a, b = a.astype(narrower), b.astype(narrower)
    return (integers or a.dtype == b.dtype) and np.array_equal(a, b, equal_nan=not integers)
