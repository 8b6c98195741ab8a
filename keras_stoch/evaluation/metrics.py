"""How good scores and probabilities are, as numbers of plain arrays, and intervals that draw groups whole.

Section 5.1.5 of the paper, and what a reader of a medical journal asks for beside it: calibration, operating points.
"""

import math

import numpy as np
import pandas as pd
from scipy.special import expit

ECE_BINS = 15  # of equal width, as in Guo et al., On Calibration of Modern Neural Networks, 2017
MIN_SENSITIVITY = 0.8  # from which the partial area counts, as in ISIC 2024
CALIBRATED = ("brier", "log_loss", "ece", "ece_equal_mass")  # what depends on the temperature
TITLES = {
    "auc": "ROC AUC",
    "partial_auc": f"partial AUC above {MIN_SENSITIVITY:.0%} sensitivity (at most {1 - MIN_SENSITIVITY:.1f})",
    "average_precision": "average precision",
    "brier": "Brier score",
    "log_loss": "log loss",
    "ece": f"calibration error, {ECE_BINS} bins of equal width",
    "ece_equal_mass": f"calibration error, {ECE_BINS} bins of equal mass",
    "sensitivity": "sensitivity at the threshold",
    "specificity": "specificity at the threshold",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
}


class Measures:
    """All measures of one set of images, prepared so that thousands of weightings of it cost little.

    auc: area under the ROC curve. partial_auc: the part of it above 80% sensitivity, ISIC 2024's measure: between 0 and
    0.2, by chance 0.02. average_precision: precision weighted by the steps of recall. brier and log_loss: of the
    probabilities. ece: expected calibration error, the mean over images of |mean probability - share of malignant
    images| of their bin; 15 bins of equal width. ece_equal_mass: the same, with 15 bins of as many images each, as far
    as equal probabilities allow. With a threshold: sensitivity, specificity, ppv, npv.

    Args:
        targets: (images,) of 0 and 1.
        logits: (images,), by which they are ranked.
        temperature: that logits are divided by to become probabilities.
        threshold: logit from which on an image counts as malignant; None leaves decisions out.
    """

    def __init__(self, targets, logits, temperature: float = 1.0, threshold: float | None = None):
        logits = np.asarray(logits, np.float64)
        self.order = np.argsort(logits, kind="stable")
        ascending = logits[self.order]
        self.positive = np.asarray(targets)[self.order] == 1
        # Where the next distinct score begins: equal scores are told apart by no threshold.
        self.starts = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])
        self.probabilities = expit(ascending / temperature)
        scaled = ascending / temperature
        self.losses = np.logaddexp(0, np.where(self.positive, -scaled, scaled))
        self.bins = {
            "ece": _starts(equal_width_bins(self.probabilities)),
            "ece_equal_mass": _starts(equal_mass_bins(self.probabilities)),
        }
        self.called = None if threshold is None else ascending >= threshold

    def __call__(self, weights=None) -> dict[str, np.ndarray]:
        """Measures by name, NaN where undefined.

        Args:
            weights: (..., images), how often each image counts; once if None.

        Returns:
            float64 arrays (...).
        """
        weights = np.ones(len(self.order)) if weights is None else np.asarray(weights, np.float64)
        weights = weights[..., self.order]
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._ranked(weights) | self._calibrated(weights) | self._decided(weights)

    def _ranked(self, weights):
        positive = np.add.reduceat(weights * self.positive, self.starts, axis=-1)
        negative = np.add.reduceat(weights * ~self.positive, self.starts, axis=-1)
        positives, negatives = positive.sum(-1), negative.sum(-1)
        below = np.cumsum(negative, -1)
        wins = (positive * (below - negative / 2)).sum(-1)  # pairs in the right order; ties count half
        # Of the malignant, the share that a threshold misses, and of the benign the share that it spares: from 0 up.
        zero = np.zeros((*weights.shape[:-1], 1))
        missed = np.concatenate([zero, np.cumsum(positive, -1) / positives[..., None]], -1)
        spared = np.concatenate([zero, below / negatives[..., None]], -1)
        limit = 1 - MIN_SENSITIVITY
        widths = np.diff(np.minimum(missed, limit), axis=-1)
        steps = np.diff(missed, axis=-1)
        # Heights at the middle of what is left of each step: the curve is straight in between.
        used = np.divide(widths, steps, out=np.zeros_like(steps), where=steps > 0)
        heights = spared[..., :-1] + np.diff(spared, axis=-1) * used / 2
        from_top = np.cumsum(positive[..., ::-1], -1), np.cumsum((positive + negative)[..., ::-1], -1)
        precision = np.divide(*from_top, out=np.zeros_like(from_top[0]), where=from_top[1] > 0)
        both = (positives > 0) & (negatives > 0)
        return {
            "auc": np.where(both, wins / (positives * negatives), np.nan),
            "partial_auc": np.where(both, (widths * heights).sum(-1), np.nan),
            "average_precision": (precision * positive[..., ::-1]).sum(-1) / positives,
        }

    def _calibrated(self, weights):
        total = weights.sum(-1)
        excess = weights * (self.probabilities - self.positive)
        found = {
            "brier": (weights * np.square(self.probabilities - self.positive)).sum(-1) / total,
            "log_loss": (weights * self.losses).sum(-1) / total,
        }
        return found | {
            name: np.abs(np.add.reduceat(excess, starts, axis=-1)).sum(-1) / total for name, starts in self.bins.items()
        }

    def _decided(self, weights):
        if self.called is None:
            return {}
        true = (weights * (self.called & self.positive)).sum(-1)
        false = (weights * (self.called & ~self.positive)).sum(-1)
        positives, total = (weights * self.positive).sum(-1), weights.sum(-1)
        spared = total - positives - false
        return {
            "sensitivity": true / positives,
            "specificity": spared / (total - positives),
            "ppv": true / (true + false),
            "npv": spared / (total - true - false),
        }


def measure(
    targets, logits, groups=None, *, temperature=1.0, threshold=None, bootstraps: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Every measure of `Measures` with its 95% bootstrap interval.

    Args:
        targets, logits, temperature, threshold: see `Measures`.
        groups: (images,); groups are drawn whole, because their images are not independent. Single images if None.
        bootstraps: resamples.
        seed: int.

    Returns:
        DataFrame by measure: value, low, high, undefined (resamples in which the measure does not exist, for instance
        because they hold one class only; the interval is that of the others).
    """
    of = Measures(targets, logits, temperature, threshold)
    found = [of(weights) for weights in resamples(numbered(groups, len(targets)), bootstraps, seed)]
    rows = {}
    for name, value in of().items():
        resampled = np.concatenate([part[name] for part in found])
        rows[name] = {"value": float(value), **interval(resampled), "undefined": int(np.isnan(resampled).sum())}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("measure")


def interval(resampled) -> dict[str, float]:
    """{"low", "high"} of the 95% percentile interval; NaN where nothing is defined."""
    resampled = np.asarray(resampled)
    if np.isnan(resampled).all():
        return {"low": math.nan, "high": math.nan}
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def resamples(groups, bootstraps: int, seed: int = 0, strata=None):
    """Weights of resampled images, (some, images) at a time, `bootstraps` rows altogether.

    Args:
        groups: (images,) of integers from 0 on; groups are drawn whole.
        strata: (groups,) of integers; as many groups are drawn of each as it has. All are one if None.
    """
    rng = np.random.default_rng(seed)
    number = int(groups.max()) + 1
    members = [np.arange(number)] if strata is None else [np.flatnonzero(strata == s) for s in np.unique(strata)]
    rows = max(1, 2**21 // max(len(groups), 1))  # bounds the memory
    for start in range(0, bootstraps, rows):
        some = min(rows, bootstraps - start)
        counts = np.zeros(some * number, np.int64)
        for groups_of in members:
            drawn = groups_of[rng.integers(len(groups_of), size=(some, len(groups_of)))]
            counts += np.bincount((drawn + number * np.arange(some)[:, None]).ravel(), minlength=some * number)
        yield counts.reshape(some, number)[:, groups].astype(np.float64)


def bootstrap_auc(targets, scores, groups=None, bootstraps: int = 2000, seed: int = 0) -> np.ndarray:
    """ROC AUC of resampled images: float64 (bootstraps,), NaN where a resample has one class only.

    Args:
        targets: (images,) of 0 and 1.
        scores: (images,).
        groups: (images,); groups are drawn whole, because their images are not independent. Single images if None.
        bootstraps: resamples.
        seed: int.
    """
    of = Measures(targets, scores)
    parts = [of(weights)["auc"] for weights in resamples(numbered(groups, len(targets)), bootstraps, seed)]
    return np.concatenate(parts)


def roc_auc(targets, scores) -> float:
    """The exact area under the ROC curve, by scikit-learn; NaN if there is one class only, or a score is no number."""
    from sklearn.metrics import roc_auc_score

    targets = np.asarray(targets).ravel()
    if len(np.unique(targets)) < 2 or np.isnan(scores).any():
        return math.nan
    return float(roc_auc_score(targets, np.asarray(scores, np.float64).ravel()))


def equal_width_bins(probabilities, bins: int = ECE_BINS) -> np.ndarray:
    """Numbers of the bins ((n - 1) / bins, n / bins], the first with 0 too: int array (images,)."""
    return np.clip(np.ceil(np.asarray(probabilities) * bins).astype(int) - 1, 0, bins - 1)


def equal_mass_bins(probabilities, bins: int = ECE_BINS) -> np.ndarray:
    """Numbers of bins that hold as many images each, as far as equal probabilities, which share one, allow."""
    probabilities = np.asarray(probabilities)
    _, first, rank = np.unique(np.sort(probabilities), return_index=True, return_inverse=True)
    of_sorted = first[rank] * bins // len(probabilities)
    found = np.empty(len(probabilities), int)
    found[np.argsort(probabilities, kind="stable")] = of_sorted
    return found


def _starts(numbers) -> np.ndarray:
    """Where each bin begins, of numbers that ascend."""
    return np.flatnonzero(np.r_[True, np.diff(numbers) != 0])


def numbered(groups, count: int) -> np.ndarray:
    """Groups as integers from 0 on; every image its own if None."""
    return np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
