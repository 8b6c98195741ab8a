"""`compare`: several models on the same images, pair by pair, corrected for the number of pairs."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from keras_stoch.evaluation import metrics
from keras_stoch.evaluation.calibration import load_calibration
from keras_stoch.evaluation.metrics import TITLES, Measures, interval, numbered, resamples
from keras_stoch.evaluation.scores import Members
from keras_stoch.files import write_atomically

METHODS = ("auto", "delong", "bootstrap")
MEASURES = ("auc", "partial_auc", "average_precision", "brier", "log_loss")


@dataclass
class Comparison:
    """Several models on the same images.

    Attributes:
        models: DataFrame: model, value, low, high (95% bootstrap interval, groups drawn whole).
        pairs: DataFrame: first, second, difference (first - second), low, high (95%, of this pair by itself), p, and
            p_holm, corrected by Holm's method for the number of pairs.
        measure: what was compared.
        method: "delong" or "bootstrap".
        images, malignant: how many.
    """

    models: pd.DataFrame
    pairs: pd.DataFrame
    measure: str
    method: str
    images: int
    malignant: int

    def __str__(self):
        how = {"delong": "DeLong's test", "bootstrap": "paired bootstrap, groups drawn whole"}[self.method]
        lines = [f"{TITLES[self.measure]} on {self.images} images, {self.malignant} malignant"]
        width = max(map(len, self.models["model"]))
        lines += [f"  {m.model:{width}}  {m.value:.4f} ({m.low:.4f} to {m.high:.4f})" for m in self.models.itertuples()]
        lines.append(f"differences by {how}; p corrected by Holm's method, pairs: {len(self.pairs)}")
        lines += [
            f"  {p.first} - {p.second}: {p.difference:+.4f} ({p.low:+.4f} to {p.high:+.4f}), p {p.p:.3g}, "
            f"corrected {p.p_holm:.3g}"
            for p in self.pairs.itertuples()
        ]
        return "\n".join(lines)

    def save(self, path) -> Path:
        """Writes all of it as JSON."""
        record = {
            "measure": self.measure,
            "method": self.method,
            "images": self.images,
            "malignant": self.malignant,
            "models": self.models.to_dict("records"),
            "pairs": self.pairs.to_dict("records"),
        }
        return write_atomically(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def compare(
    models,
    data=None,
    split: str | None = "validation",
    *,
    root=None,
    passes: int = 1,
    batch_size: int = 32,
    measure: str = "auc",
    method: str = "auto",
    bootstraps: int = 10000,
    seed: int = 0,
) -> Comparison:
    """Compares models on the same images.

    Args:
        models: two or more of what `evaluate` takes: runs, folders of runs (ensembles) or Keras models.
        data, split, root, passes, batch_size: see `evaluate`; models that draw nothing take one pass. Without `data`,
            the logits that `evaluate` stored with each run when it calibrated it; they must be of the same images.
        measure: "auc", "partial_auc", "average_precision", "brier" or "log_loss"; probabilities are uncalibrated.
        method: "delong", for the AUC of images that are independent of each other; "bootstrap", paired, which draws
            groups whole; "auto" takes DeLong's test where it is allowed.
        bootstraps: resamples; the smallest p is 2 / (bootstraps + 1).
        seed: of the resamples.

    Returns:
        `Comparison`.

    Raises:
        ValueError: for less than two models, images of one class, images that differ, or DeLong's test asked for where
            groups hold several images.

    Reference: DeLong et al., Comparing the areas under two or more correlated ROC curves, 1988, by the algorithm of Sun
    and Xu, 2014.
    """
    if not isinstance(models, list | tuple) or len(models) < 2:
        raise ValueError(f"models must be two or more. Received: {models!r}")
    for name, value, known in (("measure", measure, MEASURES), ("method", method, METHODS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}. Received: {value!r}")
    if isinstance(bootstraps, bool) or not isinstance(bootstraps, int) or bootstraps < 1:
        raise ValueError(f"bootstraps must be an integer of at least 1. Received: {bootstraps!r}")
    if method == "delong" and measure != "auc":
        raise ValueError(f"DeLong's test is for the AUC; method='bootstrap' compares {measure!r}")
    if data is None:
        names, images, logits = _stored(models)
    else:
        asked = [Members(model) for model in models]
        options = {"root": root, "passes": passes, "batch_size": batch_size, "mixed": True}
        found = [one.score(data, split, **options).images for one in asked]
        names = [" + ".join(one.names) if one.folder is None else str(one.folder) for one in asked]
        images, logits = found[0], np.stack([table["logit"] for table in found])
    targets = images["target"].to_numpy()
    if len(set(targets)) < 2:
        raise ValueError(f"A comparison needs both classes. Received: {len(targets)} images with target {targets[0]}")
    groups = numbered(images.get("group"), len(images))
    alone = len(np.unique(groups)) == len(groups)
    if method == "delong" and not alone:
        raise ValueError("DeLong's test takes images as independent, but groups hold several; take method='bootstrap'")
    if method == "auto":
        method = "delong" if alone and measure == "auc" else "bootstrap"
    if len(set(names)) < len(names):
        names = [f"{n}: {name}" for n, name in enumerate(names)]
    rows = _models(names, targets, logits, groups, measure, min(bootstraps, 2000), seed)
    if method == "delong":
        paired = delong(targets, logits)
    else:
        paired = _paired(targets, logits, groups, measure, bootstraps, seed)
    table = pd.DataFrame(
        [{"first": names[a], "second": names[b], **found} for (a, b), found in paired.items()],
    )
    table["p_holm"] = holm(table["p"])
    return Comparison(rows, table, measure, method, len(images), int(targets.sum()))


def _models(names, targets, logits, groups, name, bootstraps, seed):
    rows = []
    for model, of in zip(names, logits, strict=True):
        found = metrics.measure(targets, of, groups, bootstraps=bootstraps, seed=seed).loc[name]
        rows.append({"model": model, "value": found["value"], "low": found["low"], "high": found["high"]})
    return pd.DataFrame(rows)


def _stored(models):
    """Names, images and logits of what `evaluate` stored with each run."""
    tables = []
    for model in models:
        if not isinstance(model, str | Path):
            raise ValueError("A model that is no run stores no logits; give data to compare on")
        members = Members(model, load=False)
        found = load_calibration(model, members.weights)
        if found is None:
            raise ValueError(
                f"{model} stores no logits; give --data PREPARED to compare on, or store them by "
                f"`keras-stoch evaluate {model} PREPARED --calibrate validation`"
            )
        tables.append(found[1])
    for model, table in zip(models[1:], tables[1:], strict=True):
        if not table[["file", "target"]].equals(tables[0][["file", "target"]]):
            raise ValueError(
                f"{models[0]} and {model} store logits of different images ({len(tables[0])} and {len(table)}); give "
                "--data PREPARED to compare all on the same"
            )
    return [str(model) for model in models], tables[0], np.stack([table["logit"] for table in tables])


def delong(targets, scores) -> dict[tuple[int, int], dict]:
    """DeLong's test of the areas under the ROC curves of every pair of models.

    Args:
        targets: (images,) of 0 and 1.
        scores: (models, images).

    Returns:
        (first, second) -> difference, low, high (95%), p (two-sided).
    """
    areas, covariance = delong_covariance(targets, scores)
    found = {}
    for a, b in itertools.combinations(range(len(areas)), 2):
        difference = float(areas[a] - areas[b])
        variance = max(covariance[a, a] + covariance[b, b] - 2 * covariance[a, b], 0.0)
        error = float(np.sqrt(variance))
        # Models that rank alike have no variance and no difference.
        p = float(2 * norm.sf(abs(difference) / error)) if error > 1e-12 else float(difference == 0)
        half = float(norm.ppf(0.975)) * error
        found[a, b] = {"difference": difference, "low": difference - half, "high": difference + half, "p": p}
    return found


def delong_covariance(targets, scores) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curves (models,) and their covariance (models, models)."""
    from scipy.stats import rankdata

    targets, scores = np.asarray(targets) == 1, np.atleast_2d(np.asarray(scores, np.float64))
    positive, negative = scores[:, targets], scores[:, ~targets]
    m, n = positive.shape[1], negative.shape[1]
    ranks = rankdata(np.concatenate([positive, negative], 1), axis=1)
    # The share of benign images below each malignant one, and of malignant images above each benign one.
    over = (ranks[:, :m] - rankdata(positive, axis=1)) / n
    under = 1 - (ranks[:, m:] - rankdata(negative, axis=1)) / m
    return over.mean(1), np.atleast_2d(np.cov(over)) / m + np.atleast_2d(np.cov(under)) / n


def _paired(targets, logits, groups, name, bootstraps, seed):
    """The same resamples for all models."""
    of = [Measures(targets, one) for one in logits]
    values = [float(one()[name]) for one in of]
    drawn = [[one(weights)[name] for one in of] for weights in resamples(groups, bootstraps, seed)]
    drawn = np.concatenate(drawn, axis=1)
    found = {}
    for a, b in itertools.combinations(range(len(of)), 2):
        differences = drawn[a] - drawn[b]
        known = differences[~np.isnan(differences)]
        # As many as it would take for the smallest side, and one more: a resample count is no p of zero.
        tail = min((known <= 0).sum(), (known >= 0).sum()) + 1
        p = float(min(2 * tail / (len(known) + 1), 1.0))
        found[a, b] = {"difference": values[a] - values[b], **interval(differences), "p": p}
    return found


def holm(p) -> np.ndarray:
    """p-values corrected for their number by Holm's step-down method."""
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected
