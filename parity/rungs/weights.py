"""Rung 3: the same numbers where they belong, and a round trip between the frameworks that loses no bit."""

import numpy as np

from parity.errors import NOT_COMPARED, eps_of, relative_l2
from parity.layout import compatible
from parity.values import rearrangement


def check(reference, candidate, truth=None) -> dict:
    """Compares every weight, then sends the reference's through the candidate and back.

    Models of different types are compared in the narrower one, unless the candidate's trace is `strict`.
    """
    strict = candidate.strict
    kept = [dict(side.adapter.weights()) for side in (reference, candidate)]
    ours, theirs = ({name: np.array(weight.array) for name, weight in side.items()} for side in kept)
    inexact = {name for side in kept for name, weight in side.items() if not weight.exact}
    tied = [
        {n: w.array for n, w in side.adapter.tied().items() if n in names and n not in own}
        for side, own, names in ((reference, ours, theirs), (candidate, theirs, ours))
    ]
    common = [name for name in ours if name in theirs and compatible(ours[name].shape, theirs[name].shape)]
    different = [name for name in common if not _same(ours[name], theirs[name], strict, name in inexact)]
    both = (ours | tied[0]), (theirs | tied[1])
    different += [n for part in tied for n in part if not _same(both[0][n], both[1][n], strict, False)]

    # What is computed of others can't be sent and come back bit for bit.
    sent = {name: ours[name] for name in common if name not in inexact}
    try:
        candidate.adapter.assign(sent)
        arrived = candidate.adapter.weights()
        received = {name: np.array(arrived[name].array) for name in sent}
        reference.adapter.assign({name: np.zeros_like(array) for name, array in sent.items()})
        reference.adapter.assign({name: array.reshape(sent[name].shape) for name, array in received.items()})
        back = reference.adapter.weights()
        lost = [name for name in sent if not _same(sent[name], back[name].array, strict, False)]
    finally:
        reference.adapter.assign({name: ours[name] for name in sent})
        candidate.adapter.assign({name: theirs[name] for name in sent})
    orders = {}
    if not strict:
        for name in different:
            found = rearrangement(ours[name], theirs[name]) if name in ours and name in theirs else None
            if found is not None:
                orders[name], candidate.rearranged[name] = found
    problems = different + lost
    first = problems[0].rsplit("/", 1)[0] if problems else None
    message = ""
    if not common:
        message = "nothing could be compared: no tensor in common"
    elif len(different) == len(common):
        message = "no tensor is equal: the weights were never transferred"
    elif problems:
        message = f"{len(different)} of {len(common)} tensors differ, {len(lost)} lost in the round trip"
    if orders:
        told = "; ".join(f"{name} ({how})" for name, how in list(orders.items())[:5])
        message = f"{message}; the right numbers in another order: {told}"
    result = {
        "passed": bool(common) and not problems,
        "measure": "tensors that differ",
        "value": float(len(problems)) if common else None,
        "tolerance": 0.0,
        "worst": problems[0] if problems else None,
        "first_divergence": first,
        "message": message,
        "details": {
            "compared": len(common),
            "different": different[:50],
            "lost": lost[:50],
            "rearranged": orders,
        },
    }
    return result if common else result | {"status": NOT_COMPARED}


def _same(a: np.ndarray, b: np.ndarray, strict: bool, inexact: bool) -> bool:
    b = b.reshape(a.shape)
    # Counters may be integers of any width; a float of another width has other bits.
    integers = a.dtype.kind == b.dtype.kind == "i"
    if inexact:
        return relative_l2(b, a) <= 32 * eps_of("float32")
    if not strict and a.dtype.kind == b.dtype.kind == "f":
        narrower = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
        a, b = a.astype(narrower), b.astype(narrower)
    return (integers or a.dtype == b.dtype) and np.array_equal(a, b, equal_nan=not integers)
