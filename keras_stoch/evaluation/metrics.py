"""How good predictions are: ROC AUC with an interval, and sensitivities. Section 5.1.5 of the paper."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from keras_stoch.contracts import input_sizes
from keras_stoch.data.pipeline import Pipeline, damage_named
from keras_stoch.evaluation.predictions import draw_logits, mean_logit
from keras_stoch.files import write_atomically
from keras_stoch.training.runs import loaded


@dataclass
class Evaluation:
    """How well a model tells the classes apart.

    Attributes:
        images: DataFrame with target, probability (mean over the draws), spread (standard deviation over the draws; an
            uncertainty that the model itself tells) and what else the manifest knows.
        auc: exact area under the ROC curve.
        interval: its 95% bootstrap interval; groups (lesion, patient) are drawn whole.
        curve: DataFrame of the ROC curve: false_positive_rate, true_positive_rate, threshold.
        sensitivity: dict from specificity to the sensitivity that is reached there.
        passes: draws averaged over.
    """

    images: pd.DataFrame
    auc: float
    interval: tuple[float, float]
    curve: pd.DataFrame
    sensitivity: dict[float, float]
    passes: int

    def __str__(self):
        lines = [
            f"ROC AUC {self.auc:.4f}, 95% interval {self.interval[0]:.4f} to {self.interval[1]:.4f}, "
            f"{len(self.images)} images, {int(self.images['target'].sum())} malignant, "
            f"{self.passes} draw{'s' * (self.passes > 1)}"
        ]
        lines += [f"sensitivity {value:.1%} at specificity {at:.0%}" for at, value in self.sensitivity.items()]
        if self.passes > 1:
            lines.append(f"mean spread over draws {self.images['spread'].mean():.4f}")
        return "\n".join(lines)

    def save(self, folder) -> Path:
        """Writes predictions.csv, roc.csv and evaluation.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "predictions.csv", self.images.to_csv(index=False, lineterminator="\n"))
        write_atomically(folder / "roc.csv", self.curve.to_csv(index=False, lineterminator="\n"))
        record = {
            "auc": self.auc,
            "interval": list(self.interval),
            "sensitivity": {str(at): value for at, value in self.sensitivity.items()},
            "passes": self.passes,
            "images": len(self.images),
        }
        write_atomically(folder / "evaluation.json", json.dumps(record, indent=1) + "\n")
        return folder


def evaluate(
    model,
    data,
    split: str | None = "validation",
    *,
    root=None,
    passes: int = 1,
    batch_size: int = 32,
    specificities=(0.8, 0.9, 0.95),
    bootstraps: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Evaluates a model on a prepared folder.

    Args:
        model: a model with one logit as output, or the folder of a run (its best weights are taken).
        data: prepared folder, or the DataFrame of a manifest.
        split: of the manifest; None for all images.
        root: folder that the files of a DataFrame are in.
        passes: draws of the windows to average over.
        batch_size: images at once.
        specificities: at which to tell the sensitivity.
        bootstraps: resamples for the interval.
        seed: of the resamples. The draws of the windows are the model's own.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: if the split is empty or has one class only, or for arguments out of range.
    """
    from sklearn.metrics import roc_curve

    if not all(0 < at < 1 for at in specificities):
        raise ValueError(f"specificities must lie between 0 and 1. Received: {specificities!r}")
    if not isinstance(bootstraps, int) or bootstraps < 1:
        raise ValueError(f"bootstraps must be an integer of at least 1. Received: {bootstraps!r}")
    model = loaded(model)
    low_res, high_res = input_sizes(model)
    pipeline = Pipeline(data, split, batch_size=batch_size, low_res=low_res, high_res=high_res, root=root)
    targets = pipeline.targets.astype(int)
    if len(set(targets)) < 2:
        raise ValueError(f"A ROC curve needs both classes. Received: {len(targets)} images with target {targets[0]}")
    with damage_named(pipeline.files):
        logits = draw_logits(model, (inputs for inputs, _ in pipeline.epoch(0)), passes)
    draws, scores = expit(logits), mean_logit(logits)
    images = pipeline.rows.drop(columns=["hash", "split"], errors="ignore").reset_index(drop=True)
    images["probability"], images["spread"] = draws.mean(1), draws.std(1)
    # Ranked by logits: probabilities of a model that is very sure are all 0 or 1, and tell no more.
    # All thresholds: the ones that lie on a straight piece of the curve are operating points too.
    false, true, thresholds = roc_curve(targets, scores, drop_intermediate=False)
    groups = images["group"] if "group" in images else np.arange(len(images))
    resampled = bootstrap_auc(targets, scores, groups, bootstraps, seed)
    return Evaluation(
        images,
        auc=float(np.trapezoid(true, false)),
        interval=tuple(float(x) for x in np.nanpercentile(resampled, [2.5, 97.5])),
        curve=pd.DataFrame({"false_positive_rate": false, "true_positive_rate": true, "threshold": expit(thresholds)}),
        sensitivity={float(at): float(true[false <= 1 - at + 1e-12].max()) for at in specificities},
        passes=passes,
    )


def bootstrap_auc(targets, scores, groups=None, bootstraps: int = 2000, seed: int = 0) -> np.ndarray:
    """ROC AUC of resampled images: float64 (bootstraps,), NaN where a resample has one class only.

    Args:
        targets: (images,) of 0 and 1.
        scores: (images,).
        groups: (images,); groups are drawn whole, because their images are not independent. Single images if None.
        bootstraps: resamples.
        seed: int.
    """
    targets, scores = np.asarray(targets), np.asarray(scores, np.float64)
    groups = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    number = groups.max() + 1
    rng = np.random.default_rng(seed)
    rank = np.unique(scores, return_inverse=True)[1]  # equal scores share a rank
    positive = targets == 1
    found = np.empty(bootstraps)
    for n in range(bootstraps):
        weights = np.bincount(rng.integers(number, size=number), minlength=number)[groups]
        of_rank = [np.bincount(rank, weights * side, minlength=rank.max() + 1) for side in (positive, ~positive)]
        wins = of_rank[0] @ (np.cumsum(of_rank[1]) - of_rank[1] / 2)  # pairs in the right order; ties count half
        total = of_rank[0].sum() * of_rank[1].sum()
        found[n] = wins / total if total else np.nan
    return found


def roc_auc(targets, scores) -> float:
    """The exact area under the ROC curve, by scikit-learn; NaN if there is one class only, or a score is no number."""
    from sklearn.metrics import roc_auc_score

    targets = np.asarray(targets).ravel()
    if len(np.unique(targets)) < 2 or np.isnan(scores).any():
        return math.nan
    return float(roc_auc_score(targets, np.asarray(scores, np.float64).ravel()))
