"""Moving averages: of the unbiased variance, with another momentum, or not moved at all."""

import numpy as np

from parity.causes.scene import EXACT
from parity.values import distance


def explain(reference, candidate) -> dict[str, str]:
    """Layer to what is otherwise with its moving averages, for those that differ in a way that has a name.

    Args:
        reference, candidate: traces with passes in training mode.
    """
    before = reference.adapter.weights()
    settings = [side.adapter.settings() for side in (reference, candidate)]
    steps = len(reference.batches)
    found = {}
    for name in before:
        layer, _, variable = name.rpartition("/")
        if not variable.startswith("moving_") or name not in reference.training or name not in candidate.training:
            continue
        old, new, other = before[name].array, reference.training[name], candidate.training[name]
        if old.shape != new.shape or new.shape != other.shape or distance(other, new) <= EXACT:
            continue
        moved, otherwise = new - old, other - old
        if not otherwise.any() and moved.any():
            found.setdefault(layer, "the candidate does not move its averages in training: it is frozen.")
            continue
        momentum = settings[0].get(layer, {}).get("momentum")
        if variable == "moving_variance" and momentum is not None:
            kept = momentum**steps * old
            factor = _ratio(other - kept, new - kept)
            if factor is not None and layer not in found:
                n = factor / (factor - 1)
                if abs(n - round(n)) < 1e-3 * abs(n) and abs(n) > 1:
                    kind = "the unbiased variance, the reference the biased one"
                    kind = kind if n > 0 else "the biased variance, the reference the unbiased one"
                    found[layer] = f"the candidate keeps {kind}: {factor:.6g} times it, as of {abs(round(n))} values."
        elif (factor := _ratio(otherwise, moved)) is not None:
            found[layer] = f"the candidate's averages move {factor:.6g} times as far: another momentum."
    return found


def _ratio(array: np.ndarray, other: np.ndarray) -> float | None:
    """The constant factor between two arrays; None if there is none."""
    norm = float((other * other).sum())
    ratio = float((array * other).sum()) / norm if norm else 0.0
    return ratio if ratio and abs(ratio - 1) > 1e-9 and distance(other * ratio, array) <= EXACT else None
