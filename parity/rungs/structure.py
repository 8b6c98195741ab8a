"""Rung 2: the same number of parameters, every tensor on both sides matched exactly once, in the same shape."""

import math

from parity.transfer import match


def check(reference, candidate, truth=None) -> dict:
    report = match(reference.adapter, candidate.adapter)
    counts = []
    for side in (reference, candidate):
        weights = side.adapter.weights().values()
        counts.append(sum(math.prod(w.array.shape) for w in weights if w.trainable))
    problems = [name for name, _, _ in report.wrong_shape] + list(report.unused) + list(report.unmatched)
    first = next((_layer(name) for name in problems), None)
    return {
        "passed": report.complete and counts[0] == counts[1] and len(report.matched) > 0,
        "measure": "tensors without partner",
        "value": float(len(problems)),
        "tolerance": 0.0,
        "worst": problems[0] if problems else None,
        "first_divergence": first,
        "message": "" if report.complete else str(report),
        "details": {"matched": len(report.matched), "parameters": counts},
    }


def _layer(name: str) -> str:
    """The layer of a tensor, whether its name is Keras's (a/b), torch's (a.b.weight) or canonical."""
    return name.rsplit("/", 1)[0] if "/" in name else name.rsplit(".", 1)[0].replace(".", "_")
