"""Rung 8: both sides train from the same weights, images, windows and drop masks, and report the same losses."""

import numpy as np

from parity.errors import relative_l2

TOLERANCE = 1e-8  # of a loss near 0.7; rounding alone is amplified to about 1e-12 over 20 steps


def check(reference, candidate) -> dict:
    """Compares two `lockstep.Track`s, step by step.

    The place is the first step at which the losses part by more than `TOLERANCE`. Weights after the last step are told
    in the details.
    """
    steps = min(len(reference.losses), len(candidate.losses))
    differences = np.abs(candidate.losses[:steps] - reference.losses[:steps])
    names = [f"step {number}" for number in range(1, steps + 1)]
    apart = [name for name, value in zip(names, differences, strict=True) if not value <= TOLERANCE]
    value = float(differences.max(initial=0.0))  # NaN if one is
    weights = {
        name: relative_l2(candidate.weights[name], array, floor=1e-3)
        for name, array in reference.weights.items()
        if name in candidate.weights
    }
    farthest = max(weights, key=weights.get, default=None)
    same = len(reference.losses) == len(candidate.losses)
    return {
        "passed": not apart and same and steps > 0,
        "measure": "absolute difference of losses",
        "value": value,
        "tolerance": TOLERANCE,
        "worst": names[int(np.argmax(differences))] if steps else None,
        "first_divergence": apart[0] if apart else None,
        "message": "" if same else f"{len(reference.losses)} steps against {len(candidate.losses)}",
        "details": {
            "errors": [[n, float(v), TOLERANCE, float(v)] for n, v in zip(names, differences, strict=True)],
            "losses": [reference.losses.tolist(), candidate.losses.tolist()],
            "weights": [farthest, weights.get(farthest)],
        },
    }
