"""Rung 8: both sides train from the same weights, images, windows and drop masks, to the same losses and weights."""

import numpy as np

from parity.errors import relative_l2

TOLERANCE = 1e-8  # of a loss near 0.7; rounding alone is amplified to about 1e-12 over 20 steps
WEIGHTS = 1e-6  # of a tensor's norm after the last step; seen are 1e-9 at most


def check(reference, candidate) -> dict:
    """Compares two `lockstep.Track`s, step by step.

    The place is the first step at which the losses part by more than `TOLERANCE`; where none do, the weights after the
    last step, averaged ones too, if one of them is off by more than `WEIGHTS`.
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
    # NaN is farthest.
    farthest = max(weights, key=lambda name: np.nan_to_num(weights[name], nan=np.inf), default=None)
    lost = farthest is not None and not weights[farthest] <= WEIGHTS
    same = len(reference.losses) == len(candidate.losses)
    return {
        "passed": not apart and not lost and same and steps > 0,
        "measure": "absolute difference of losses",
        "value": value,
        "tolerance": TOLERANCE,
        "worst": names[int(np.argmax(differences))] if steps else None,
        "first_divergence": apart[0] if apart else f"weights after {names[-1]}" if lost and names else None,
        "message": "" if same else f"{len(reference.losses)} steps against {len(candidate.losses)}",
        "details": {
            "errors": [[n, float(v), TOLERANCE, float(v)] for n, v in zip(names, differences, strict=True)],
            "losses": [reference.losses.tolist(), candidate.losses.tolist()],
            "weights": [farthest, weights.get(farthest)],
        },
    }
