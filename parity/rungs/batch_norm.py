"""Rung 5: outputs in training mode (batch statistics), and the moving averages after several steps."""

from collections import ChainMap

from parity.errors import relative_l2, summarise
from parity.rungs.dropping import idle
from parity.trace import is_output, judge_sides

UNBIASED = "torch keeps the unbiased variance of a batch, Keras the biased one"


def check(reference, candidate, truth=None) -> dict:
    """Compares one pass in training mode, the outputs of further ones, and the moving averages after them.

    torch multiplies the variance of the n values of a batch by n / (n - 1) before it keeps it, Keras does not. No port
    between their own layers can help that. Unless the candidate's trace is `strict`, a moving variance that
    agrees once this is undone is told with its size, and is no failure.
    """
    sides = (reference, candidate, truth)
    arrays = [None if side is None else side.training for side in sides]
    errors = judge_sides(*sides, arrays)
    known = []
    mixed = {side.adapter.framework for side in (reference, candidate)} == {"keras", "torch"}
    if not candidate.strict and mixed and any(not e.passed for e in errors):
        arrays = [None if side is None else ChainMap(side.biased, side.training) for side in sides]
        corrected = {e.name: e for e in judge_sides(*sides, arrays)}
        for place, error in enumerate(errors):
            if error.name.endswith("/moving_variance") and not error.passed and corrected[error.name].passed:
                size = relative_l2(candidate.training[error.name], reference.training[error.name])
                known.append([error.name, size])
                errors[place] = corrected[error.name]
    cut = _cut(errors, candidate)
    result = {"measure": "relative L2"} | summarise([e for e in errors if e.name not in cut])
    first = result.get("first_divergence")
    if first and "/" in first:
        result["first_divergence"] = first.rsplit("/", 1)[0]
    if cut:
        result.setdefault("details", {})["cut"] = cut
    asleep = idle(reference, candidate)
    if asleep:
        layer, role = asleep[0]
        result.pop("status", None)
        result.setdefault("details", {})["idle"] = asleep
        told = f"{layer} drops nothing in training in the {role}, though it has a rate"
        result |= {"passed": False, "first_divergence": result.get("first_divergence") or layer,
                   "message": "; ".join(filter(None, (result.get("message"), told)))}  # fmt: skip
    if known:
        result.setdefault("details", {})["known"] = known
        names = ", ".join(name.rsplit("/", 1)[0] for name, _ in known[:3]) + (", ..." if len(known) > 3 else "")
        size = max(size for _, size in known)
        told = f"known difference of the frameworks: {UNBIASED} ({names}: {size:.1e} apart)"
        result["message"] = "; ".join(filter(None, (result.get("message"), told)))
    return result


def _cut(errors, candidate) -> list[str]:
    """Tensors of one name that are not the same place: those of the forward rung, and all that heal downstream."""
    if not candidate.ranges:
        return []
    failed = [e.name for e in errors if not e.passed and not e.undecided]
    ends = [e for e in errors if "/" in e.name or is_output(e.name.partition(" of step ")[0])]
    healed = any(is_output(e.name) for e in ends) and all(e.passed or e.undecided for e in ends)
    return [name for name in failed if healed or name in candidate.cut]
