"""Measures by sex, age, site, year and source, where the manifest knows them; and whether uncertainty tells errors."""

import numpy as np
import pandas as pd

from keras_stoch.data.photographs import SUFFIXES
from keras_stoch.evaluation.metrics import bootstrap_auc, interval, measure, roc_auc

FEWEST = 10  # images of each class, and groups; below it a measure is not computed
AGES = ((30, "under 30"), (50, "30 to 49"), (70, "50 to 69"), (np.inf, "70 and over"))
UNKNOWN = "unknown"
KEPT = ("auc", "partial_auc", "average_precision", "brier", "ece", "sensitivity", "specificity")


def memberships(images: pd.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """(attribute, value, bool (images,)) for every value that the images have.

    An image that several years list is in each of them. Attributes that nothing is known of, or that are the same for
    all images, are left out.

    Args:
        images: DataFrame; `sex`, `age` (years), `site`, `years` ("2017 2019") and `source` (a path, of which the folder
            counts, or a name) are looked at.
    """
    found = []
    for attribute, column, names in (
        ("sex", "sex", lambda value: [str(value).strip().lower()]),
        ("age", "age", lambda value: [next(name for limit, name in AGES if float(value) < limit)]),
        ("site", "site", lambda value: [str(value).strip().lower()]),
        ("year", "years", lambda value: str(value).removesuffix(".0").split()),
        ("source", "source", lambda value: [_folder(str(value))]),
    ):
        if column not in images or not images[column].notna().any():
            continue
        values = [names(value) or [UNKNOWN] if pd.notna(value) else [UNKNOWN] for value in images[column]]
        order = [name for _, name in AGES] if attribute == "age" else []
        different = sorted({name for some in values for name in some})
        if len(different) < 2:
            continue
        different.sort(key=lambda name: (name == UNKNOWN, order.index(name) if name in order else 0))
        found += [(attribute, name, np.array([name in some for some in values])) for name in different]
    return found


def _folder(source: str) -> str:
    """The folder of a photograph's path; another text as it is."""
    if not source.lower().endswith(SUFFIXES):
        return source
    folder = source.replace("\\", "/").rpartition("/")[0]
    return folder or "top folder"


def by_subgroup(images: pd.DataFrame, *, temperature=1.0, threshold=None, bootstraps=2000, seed=0) -> pd.DataFrame:
    """The measures of every subgroup.

    Args:
        images: DataFrame with target, logit, and where known group and the columns of `memberships`.
        temperature, threshold, bootstraps, seed: see `metrics.measure`.

    Returns:
        DataFrame: attribute, value, images, malignant, groups (lesions or patients), note (why nothing was computed,
        else empty), and of each measure its value, and its interval under name_low and name_high.
    """
    rows = []
    names = [name for name in KEPT if threshold is not None or name not in ("sensitivity", "specificity")]
    for attribute, value, inside in memberships(images):
        part = images[inside]
        groups = part.get("group")
        malignant = int(part["target"].sum())
        number = len(part) if groups is None else groups.nunique()
        row = {"attribute": attribute, "value": value, "images": len(part), "malignant": malignant, "groups": number}
        few = [
            f"{count} {what}"
            for count, what in ((malignant, "malignant"), (len(part) - malignant, "benign"), (number, "groups"))
            if count < FEWEST
        ]
        row["note"] = f"too few: {', '.join(few)}; {FEWEST} needed" if few else ""
        found = None
        if not few:
            found = measure(
                *(part["target"], part["logit"], groups),
                temperature=temperature, threshold=threshold, bootstraps=bootstraps, seed=seed,
            )  # fmt: skip
        for name in names:
            for suffix, column in (("", "value"), ("_low", "low"), ("_high", "high")):
                row[name + suffix] = np.nan if found is None else found.loc[name, column]
        rows.append(row)
    columns = ["attribute", "value", "images", "malignant", "groups", "note"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def uncertainty(images: pd.DataFrame, threshold: float | None = None, *, bootstraps=2000, seed=0) -> dict:
    """Whether the spread over draws tells when the model is wrong.

    Args:
        images: DataFrame with target, logit, spread, and where known group.
        threshold: logit from which on an image counts as malignant; None for 0, a probability of one half.
        bootstraps, seed: see `metrics.measure`.

    Returns:
        {"errors", "images", "threshold_logit", "note": why nothing was computed, else ""}, and
        "spread" and "nearness", dicts of value, low and high: the probability that a wrong image has more spread, or
        lies nearer to the threshold, than a right one (areas under the ROC curve; 0.5 tells nothing); "fifths", by
        spread from least to most: images, errors, mean_spread.
    """
    at = 0.0 if threshold is None else threshold
    logits, spread = images["logit"].to_numpy(), images["spread"].to_numpy()
    wrong = ((logits >= at) != (images["target"].to_numpy() == 1)).astype(int)
    groups = images.get("group")
    found = {"errors": int(wrong.sum()), "images": len(images), "threshold_logit": at, "note": ""}
    fifths = [part for part in np.array_split(np.argsort(spread, kind="stable"), 5) if len(part)]
    found["fifths"] = [
        {"images": len(part), "errors": int(wrong[part].sum()), "mean_spread": float(spread[part].mean())}
        for part in fifths
    ]
    if min(wrong.sum(), len(wrong) - wrong.sum()) < FEWEST:
        found["note"] = f"too few: {wrong.sum()} wrong of {len(wrong)}; {FEWEST} wrong and {FEWEST} right are needed"
        return found
    for name, score in (("spread", spread), ("nearness", -np.abs(logits - at))):
        resampled = bootstrap_auc(wrong, score, groups, bootstraps, seed)
        found[name] = {"value": roc_auc(wrong, score), **interval(resampled)}
    return found


def told_uncertainty(found: dict) -> str:
    """In one sentence whether the spread over draws tells when the model is wrong."""
    if found["note"]:
        return f"whether the spread tells errors can not be said, {found['note']}"
    spread, near = found["spread"], found["nearness"]
    return (
        f"a wrong image has more spread than a right one with probability {spread['value']:.3f} "
        f"({spread['low']:.3f} to {spread['high']:.3f}), and lies nearer to the threshold with {near['value']:.3f} "
        f"({near['low']:.3f} to {near['high']:.3f}); {found['errors']} of {found['images']} are wrong"
    )
