"""The rungs of a comparison read together: what looks wrong by its name or place, and is shown right by the outputs."""

import numpy as np

from parity.errors import NOT_COMPARED, OK, Row, close
from parity.layout import compatible
from parity.rungs.structure import layer_of
from parity.transfer import weights_of_both
from parity.values import rearrangement

PARTS = 64  # into which the numbers of a rearranged weight are divided to see whether each part counts
NUMERICAL = ("forward", "isolated", "batch_norm", "gradients")


def reconcile(rows: list[Row], reference, candidate) -> None:
    """Takes back verdicts on weights that the numbers disprove, and says what was seen.

    Only where all outputs agree, on the given inputs and on those of a wide range, in training mode too if that was
    asked for. Then weights that hold the right numbers in another order are right so (rows behind a flatten). Weights
    without partner are either split or joined on the other side, or do nothing; what is neither takes part in
    outputs that agree, but can't be compared by itself, and the rung is not "ok" but "not compared".
    """
    found = {row.check: row for row in rows}
    structure = found.get("structure")
    if structure is not None and structure.status == NOT_COMPARED and not structure.details["matched"]:
        for check in NUMERICAL:
            if check in found and found[check].status not in (OK, NOT_COMPARED):
                _settle(found[check], NOT_COMPARED, "no weight has a partner, so that a difference says nothing")
        return
    shown = [found[check] for check in NUMERICAL if check in found]
    if (
        "forward" not in found
        or not found["forward"].passed
        or any(row.status not in (OK, NOT_COMPARED) for row in shown)
    ):
        return
    weights = found.get("weights")
    if weights is not None and weights.status not in (OK, NOT_COMPARED):
        orders, details = weights.details["rearranged"], weights.details
        if candidate.serving:
            orders = orders | _folded(details["different"], reference, candidate)
        # What was not looked at can't show that another order is right: rows of an embedding that no input names.
        blind = [name for name in candidate.rearranged if not _counts(candidate, reference, name)]
        orders = {name: how for name, how in orders.items() if name not in blind}
        if blind:
            weights.message += f"; these inputs do not show whether the order is right: {_some(blind)}"
        if (
            set(details["different"]) <= set(orders)
            and len(details["different"]) == weights.value
            and not details["lost"]
        ):
            told = "; ".join(f"{name}: {how}" for name, how in list(orders.items())[:5])
            _settle(weights, OK, f"held otherwise, and rightly so, for the outputs agree: {told}")
    if structure is not None and structure.status not in (OK, NOT_COMPARED):
        _reconcile_structure(structure, reference, candidate)


def _counts(candidate, reference, name: str) -> bool:
    """Whether the outputs tell every number of a rearranged weight that is not where the reference has it.

    Asked of a batch by setting the numbers that were moved, a part at a time, to others.
    """
    adapter = candidate.adapter
    if adapter.recorded:
        return False  # it can't be asked
    array = np.array(adapter.weights()[name].array, order="C")
    moved = np.flatnonzero(array.ravel() != reference.adapter.weights()[name].array.ravel())
    moved = moved.astype(np.int32) if array.size < 2**31 else moved
    flat = array.reshape(-1)
    with adapter.preserved():
        before = adapter.outputs(candidate.batches[0], draws=candidate.draws)
        for part in np.array_split(moved, min(len(moved), PARTS)):
            was = flat[part]
            flat[part] = was * 1.5 + 0.25
            adapter.assign({name: array})
            flat[part] = was
            after = adapter.outputs(candidate.batches[0], draws=candidate.draws)
            if all(np.array_equal(before[key], after[key], equal_nan=True) for key in before):
                return False
        adapter.assign({name: array})
        del array, flat, was, moved, part  # before all is read again
    return True


def _folded(names, reference, candidate) -> dict[str, str]:
    """Weights of layers into which a normalisation was folded: the reference's kernel times a factor by channel."""
    ours, theirs = reference.adapter.weights(), candidate.adapter.weights()
    found = {}
    for name in names:
        if not name.endswith("/kernel") or name not in ours or name not in theirs:
            continue
        a, b = (side[name].array.astype(np.float64, copy=False) for side in (ours, theirs))
        if _is_scaled(a, b.reshape(a.shape)):
            for other in names:
                if layer_of(other) == layer_of(name):
                    found[other] = "a normalisation is folded into it"
    return found


def _is_scaled(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a kernel is another times a factor for each channel of its output."""
    axes = a.ndim - 1 - (a.shape[-1] == 1 and a.ndim > 2)
    channels = list(range(axes, a.ndim))
    sums = [np.einsum(a, list(range(a.ndim)), other, list(range(a.ndim)), channels) for other in (b, a)]
    factor = sums[0] / sums[1]
    return close(a, b, 1e-4, 1e-6 * max(abs(float(b.max())), abs(float(b.min()))), factor)


def _settle(row: Row, status: str, message: str) -> None:
    row.passed, row.status, row.message = status == OK, status, message
    row.first_divergence = row.worst = None
    row.value = 0.0 if status == OK else None


def _reconcile_structure(row: Row, reference, candidate) -> None:
    ours, theirs = weights_of_both(reference.adapter, candidate.adapter)
    lonely = []
    for weights, others in ((ours, theirs), (theirs, ours)):
        lonely.append({
            name: weight for name, weight in weights.items()
            if name not in row.details["idle"]
            and not (name in others and compatible(weight.array.shape, others[name].array.shape))
        })  # fmt: skip
    joined = _joined(*lonely) + _joined(*lonely[::-1])
    told = {name for group in joined for name in group}
    idle, left = [], []
    for side, names in zip((reference, candidate), lonely, strict=True):
        for name in names.keys() - told:
            (idle if _does_nothing(side, name) else left).append(name)
    parts = [f"{whole} holds {', '.join(rest)}" for whole, *rest in joined]
    if idle:
        parts.append(f"on one side only, without effect on these outputs: {_some(idle)}")
    if left:
        parts.append(f"on one side only, though the outputs agree: {_some(left)} (not covered: no kind of layer, and "
                     "no rule, says what it is on the other side)")  # fmt: skip
    _settle(row, NOT_COMPARED if left else OK, "; ".join(parts))


def _some(names) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _joined(whole: dict, parts: dict) -> list[tuple[str, ...]]:
    """Tensors of one side that are several of the other's side by side: query, key and value in one."""
    found, used = [], set()
    for name, weight in whole.items():
        array = weight.array
        for count in (2, 3, 4, 5, 6):
            if array.ndim == 0 or array.shape[-1] % count:
                continue
            pieces = [array[..., place * (array.shape[-1] // count):][..., : array.shape[-1] // count]
                      for place in range(count)]  # fmt: skip
            held = []
            for piece in pieces:
                other = next(
                    (n for n, w in parts.items() if n not in used and n not in held and _same(piece, w.array)), None
                )
                if other is None:
                    break
                held.append(other)
            else:
                found.append((name, *held))
                used.update(held)
                break
    return found


def _same(a, b) -> bool:
    if a.size != b.size:
        return False
    return bool((a.ravel() == b.ravel()).all()) or rearrangement(a, b) is not None


def _does_nothing(side, name: str) -> bool:
    """Whether the outputs are the same, bit for bit, with other numbers in a variable."""
    adapter = side.adapter
    weights = adapter.weights()
    if adapter.recorded or name not in weights or layer_of(name) == name:
        return False
    with adapter.preserved():
        before = adapter.outputs(side.batches[0], draws=side.draws)
        adapter.assign({name: weights[name].array * 1.5 + 0.25})
        after = adapter.outputs(side.batches[0], draws=side.draws)
    return all((before[key] == after[key]).all() for key in before)
