"""Rung 3: the same numbers where they belong, and a round trip between the frameworks that loses no bit."""

import numpy as np

from parity.adapters.base import in_parts
from parity.errors import NOT_COMPARED, eps_of, identical, relative_l2
from parity.layout import compatible
from parity.shelf import Shelf
from parity.values import rearrangement


def check(reference, candidate, truth=None) -> dict:
    """Compares every weight, then sends the reference's through the candidate and back.

    Models of different types are compared in the narrower one, unless the candidate's trace is `strict`.
    """
    strict = candidate.strict
    kept = [dict(side.adapter.weights()) for side in (reference, candidate)]
    ours, theirs = ({name: weight.array for name, weight in side.items()} for side in kept)
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
    groups = list(in_parts({name: ours[name] for name in common if name not in inexact}))
    del kept, ours, theirs, tied, both
    lost = [n for names in groups for n in _lost(reference.adapter, candidate.adapter, names, strict)]
    ours, theirs = ({n: w.array for n, w in side.adapter.weights().items()} for side in (reference, candidate))
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


def _lost(reference, candidate, names: list[str], strict: bool) -> list[str]:
    """Those of some weights that do not come back as they were from a round trip through the candidate."""
    held, own = reference.weights(), candidate.weights()
    ours = {name: np.array(held[name].array) for name in names}
    theirs = Shelf((n, own[n].array) for n in names if not _bit_for_bit(own[n].array, ours[n]))
    del held, own  # what a variable held stays in memory as long as it is looked at
    received = {}
    try:
        candidate.assign(ours)
        arrived, held = candidate.weights(), reference.weights()
        for name, array in ours.items():
            received[name] = arrived[name].array.reshape(array.shape)
            if np.may_share_memory(received[name], held[name].array):  # two sides of one model, say
                received[name] = received[name].copy()
        del arrived, held
        reference.assign({name: np.zeros(array.shape, array.dtype) for name, array in ours.items()})
        reference.assign(received)
        back = reference.weights()
        return [name for name in names if not _same(ours[name], back[name].array, strict, False)]
    finally:
        received.clear()
        reference.assign(ours)
        candidate.assign({name: array for name, array in ours.items() if name not in theirs})
        ours.clear()
        candidate.assign(theirs)


def _bit_for_bit(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and identical(a.reshape(b.shape), b)


def _same(a: np.ndarray, b: np.ndarray, strict: bool, inexact: bool) -> bool:
    b = b.reshape(a.shape)
    # Counters may be integers of any width; a float of another width has other bits.
    integers = a.dtype.kind == b.dtype.kind == "i"
    if inexact:
        return relative_l2(b, a) <= 32 * eps_of("float32")
    if not strict and a.dtype.kind == b.dtype.kind == "f":
        narrower = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
        a, b = a.astype(narrower, copy=False), b.astype(narrower, copy=False)
    return (integers or a.dtype == b.dtype) and identical(a, b)
