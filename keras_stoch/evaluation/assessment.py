"""`evaluate`: how good a model is on a set of images, with all that its run stores applied as it is."""

import datetime
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from keras_stoch.evaluation import calibration as calibrations
from keras_stoch.evaluation.calibration import Calibration, load_calibration, reliability, save_calibration
from keras_stoch.evaluation.external import change, with_hashes
from keras_stoch.evaluation.metrics import CALIBRATED, ECE_BINS, TITLES, measure
from keras_stoch.evaluation.page import write_page
from keras_stoch.evaluation.records import save_record
from keras_stoch.evaluation.scores import Members
from keras_stoch.evaluation.subgroups import by_subgroup, told_uncertainty, uncertainty
from keras_stoch.files import of_this_machine, write_atomically
from keras_stoch.storage import as_path


@dataclass
class Evaluation:
    """How well a model tells the classes apart, how far its probabilities can be taken at their word, and for whom.

    Attributes:
        images: DataFrame with target, logit (of the mean probability over the draws), probability (that mean), spread
            (its standard deviation over the draws; an uncertainty that the model itself tells), what else the manifest
            knows, and, where the run stores them, calibrated (probability after temperature) and decision (0 or 1).
        measures: DataFrame by measure (see `metrics.Measures`): value, and low and high of its 95% bootstrap interval,
            in which groups (lesion, patient) are drawn whole; probabilities are the calibrated ones.
        uncalibrated: the same for what depends on the temperature, without it; None if there is none.
        curve: DataFrame of the ROC curve: false_positive_rate, true_positive_rate, threshold (a probability).
        sensitivity: dict from specificity to the sensitivity that is reached there.
        reliability: DataFrame, see `calibration.reliability`.
        subgroups: DataFrame, see `subgroups.by_subgroup`.
        uncertainty: dict, see `subgroups.uncertainty`; None with one draw.
        calibration: `Calibration` that was applied; None if the run stores none.
        change: DataFrame, see `external.change`: against the images of the calibration; None if these are the same.
        paired: how many images are in both sets.
        members: DataFrame, one row per model by itself, see `scores.Scores`; with folds, each on its own.
        passes: draws averaged over.
        bootstraps: resamples behind every interval.
        names: of the models.
        data, split: what was evaluated.
        files: paths of the images.
        notes: what a reader must know.
    """

    images: pd.DataFrame
    measures: pd.DataFrame
    uncalibrated: pd.DataFrame | None
    curve: pd.DataFrame
    sensitivity: dict[float, float]
    reliability: pd.DataFrame
    subgroups: pd.DataFrame
    uncertainty: dict | None
    calibration: Calibration | None
    change: pd.DataFrame | None
    paired: int
    members: pd.DataFrame
    passes: int
    bootstraps: int
    names: list[str]
    data: str
    split: str
    files: list[str] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    @property
    def auc(self) -> float:
        """Exact area under the ROC curve."""
        return float(self.measures.loc["auc", "value"])

    @property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of the area."""
        return tuple(float(self.measures.loc["auc", name]) for name in ("low", "high"))

    def __str__(self):
        lines = [
            f"ROC AUC {self.auc:.4f}, 95% interval {self.interval[0]:.4f} to {self.interval[1]:.4f}, "
            f"{len(self.images)} images, {int(self.images['target'].sum())} malignant, "
            f"{self.passes} draw{'s' * (self.passes > 1)}"
        ]
        lines += [f"sensitivity {value:.1%} at specificity {at:.0%}" for at, value in self.sensitivity.items()]
        for name, row in self.measures.drop(index="auc").iterrows():
            line = f"{TITLES[name]} {row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
            if self.uncalibrated is not None and name in CALIBRATED:
                line += f", uncalibrated {self.uncalibrated.loc[name, 'value']:.4f}"
            lines.append(line)
        if self.passes > 1 or len(self.names) > 1:
            lines.append(f"mean spread over draws {self.images['spread'].mean():.4f}")
            lines.append(told_uncertainty(self.uncertainty))
        if len(self.members) > 1:
            lines.append(told_members(self.members))
        if self.calibration is not None:
            lines.append(str(self.calibration))
        if self.change is not None:
            lines.append(
                f"change from {self.calibration.data}, split {self.calibration.split!r} "
                f"({self.paired} of {len(self.images)} images are in both and paired):"
            )
            lines += [
                f"  {TITLES[name]} {row['internal']:.4f} -> {row['external']:.4f}: {row['change']:+.4f} "
                f"({row['low']:+.4f} to {row['high']:+.4f})"
                for name, row in self.change.iterrows()
            ]
        for row in self.subgroups.to_dict("records"):
            told = row["note"] or f"AUC {row['auc']:.4f} ({row['auc_low']:.4f} to {row['auc_high']:.4f})"
            lines.append(
                f"{row['attribute']} {row['value']}: {row['images']} images, {row['malignant']} malignant, {told}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def record(self) -> dict:
        """Everything but the images, as plain values for JSON; None where a number does not exist."""
        found = {
            "models": self.names,
            "data": self.data,
            "split": self.split,
            "images": len(self.images),
            "malignant": int(self.images["target"].sum()),
            "passes": self.passes,
            "bootstraps": self.bootstraps,
            "auc": self.auc,
            "interval": list(self.interval),
            "sensitivity": {str(at): value for at, value in self.sensitivity.items()},
            "measures": self.measures.to_dict("index"),
            "uncalibrated": None if self.uncalibrated is None else self.uncalibrated.to_dict("index"),
            "binning": f"{ECE_BINS} bins, of equal width in ece, of equal mass in ece_equal_mass",
            "reliability": self.reliability.to_dict("records"),
            "subgroups": self.subgroups.to_dict("records"),
            "uncertainty": self.uncertainty,
            "calibration": None
            if self.calibration is None
            else asdict(self.calibration) | {"threshold": self.calibration.threshold},
            "change": None if self.change is None else self.change.to_dict("index"),
            "paired": self.paired,
            "members": self.members.to_dict("records"),
            "notes": self.notes,
        }
        return _plain(found)

    def save(self, folder) -> Path:
        """Writes predictions.csv, roc.csv, subgroups.csv, evaluation.json and the page evaluation.html."""
        folder = of_this_machine(folder, "An evaluation is")
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (
            ("predictions", self.images.drop(columns=["hash", "sha256"], errors="ignore")),
            ("roc", self.curve),
            ("subgroups", self.subgroups),
        ):
            write_atomically(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
        write_atomically(folder / "evaluation.json", json.dumps(self.record(), indent=1, allow_nan=False) + "\n")
        write_page(self, folder / "evaluation.html")
        return folder


def told_members(members: pd.DataFrame) -> str:
    """Mean, standard deviation and range over the models, each by itself."""
    apart = "fold" in members and members["fold"].nunique() > 1
    told = [f"{len(members)} runs, each by itself{' on its own fold' if apart else ''}:"]
    for name in ("auc", "partial_auc", "average_precision", "brier", "ece"):
        values = members[name]
        told.append(
            f"  {TITLES[name]} {values.mean():.4f}, standard deviation {values.std():.4f}, {values.min():.4f} to "
            f"{values.max():.4f}"
        )
    return "\n".join(told)


def evaluate(
    model,
    data,
    split: str | None = "validation",
    *,
    root=None,
    passes: int = 1,
    batch_size: int = 32,
    specificities=(0.8, 0.9, 0.95),
    calibrate: str | None = None,
    sensitivity: float | None = None,
    specificity: float | None = None,
    bootstraps: int = 2000,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Evaluates a model on a prepared folder.

    A temperature and a threshold that the run stores are applied as they are, and on other images than those they were
    chosen on the change from these is told: external validation. What is found out of a single run is kept in its
    folder, for the card that `export` writes.

    Args:
        model: a model with one logit as output; the folder of a run (its best weights are taken); a folder of runs, or
            a list, as an ensemble whose probabilities are averaged.
        data: prepared folder, or the DataFrame of a manifest.
        split: of the manifest; None for all images.
        root: folder that the files of a DataFrame are in.
        passes: draws of the windows to average over.
        batch_size: images at once.
        specificities: at which to tell the sensitivity.
        calibrate: split of `data` to fit the temperature on, and to choose the threshold on; both are then stored with
            the run.
        sensitivity, specificity: what the threshold is to reach on that split; one of them, or none for no threshold.
        bootstraps: resamples for the intervals.
        seed: of the resamples. The draws of the windows are the model's own.
        progress: show a bar, or lines in a log, on stderr.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: if the split is empty or has one class only, for arguments out of range, or if what the run stores
            was chosen for other weights.

    Example:

    ```python
    keras_stoch.evaluate("runs/split/run-0", "prepared", calibrate="validation", sensitivity=0.9)
    print(keras_stoch.evaluate("runs/split/run-0", "another_hospital", None))
    ```
    """
    _check(specificities, bootstraps, calibrate, sensitivity, specificity)
    members = Members(model)
    ask = {"root": root, "passes": passes, "batch_size": batch_size, "progress": progress}
    scores = members.score(data, split, **ask)
    images, notes = scores.images, []
    targets = images["target"].to_numpy()
    if len(set(targets)) < 2:
        raise ValueError(f"A ROC curve needs both classes. Received: {len(targets)} images with target {targets[0]}")
    place = "a DataFrame" if isinstance(data, pd.DataFrame) else str(as_path(data).absolute())
    stored = None
    if calibrate is not None:
        chosen_on = None if calibrate == "all" else calibrate
        own = scores if chosen_on == split else members.score(data, chosen_on, **ask)
        wanted = {"sensitivity": sensitivity, "specificity": specificity}
        about = {"data": place, "split": calibrate, "passes": passes, "weights": members.weights}
        stored = calibrations.calibrate(own.images, **wanted, **about), with_hashes(own.images, own.files)
        if members.folder is not None:
            save_calibration(members.folder, *stored)
    elif members.folder is not None:
        stored = load_calibration(members.folder, members.weights)
    calibration, internal = stored or (None, None)
    temperature = 1.0 if calibration is None else calibration.temperature
    threshold = None if calibration is None else calibration.threshold_logit
    found, paired = None, 0
    if calibration is None:
        notes.append(
            "no temperature or threshold is stored with the run, so probabilities are as the network gives them"
        )
    else:
        images["calibrated"] = calibration.probability(images["logit"])
        if threshold is not None:
            images["decision"] = (images["logit"] >= threshold).astype(int)
        if calibration.passes != passes:
            notes.append(f"temperature and threshold were chosen with {calibration.passes} draws, these are {passes}")
        if (calibration.data, calibration.split) == (place, split or "all") and not isinstance(data, pd.DataFrame):
            notes.append("temperature and threshold were chosen on these very images, which flatters them")
        else:
            external = with_hashes(images, scores.files)
            found, paired = change(internal, external, calibration, bootstraps=bootstraps, seed=seed)
    groups = images.get("group")
    resampling = {"bootstraps": bootstraps, "seed": seed}
    common = {"temperature": temperature, "threshold": threshold, **resampling}
    measures = measure(targets, images["logit"], groups, **common)
    if undefined := int(measures["undefined"].max()):
        notes.append(
            f"up to {undefined} of {bootstraps} resamples leave a measure undefined, and its interval without them"
        )
    uncalibrated = None
    if calibration is not None:
        uncalibrated = measure(targets, images["logit"], groups, **resampling).loc[list(CALIBRATED)]
    curve, reached = _roc(targets, images["logit"].to_numpy(), specificities)
    drawn = passes > 1 or len(members.models) > 1
    evaluation = Evaluation(
        images,
        measures,
        uncalibrated,
        curve=curve,
        sensitivity=reached,
        reliability=reliability(targets, images["probability" if calibration is None else "calibrated"]),
        subgroups=by_subgroup(images, **common),
        uncertainty=uncertainty(images, threshold, **resampling) if drawn else None,
        calibration=calibration,
        change=found,
        paired=paired,
        members=scores.members,
        passes=passes,
        bootstraps=bootstraps,
        names=members.names,
        data=place,
        split=split or "all",
        files=scores.files,
        notes=notes,
    )
    if members.folder is not None and (members.folder / "config.json").is_file():
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        try:
            save_record(members.folder, evaluation.record() | {"evaluated": now}, members.weights)
        except OSError as error:
            notes.append(f"not kept with the run for the card of an export: {error.strerror or error}")
    return evaluation


def _roc(targets, logits, specificities):
    """The ROC curve, and the sensitivity at each specificity."""
    from scipy.special import expit
    from sklearn.metrics import roc_curve

    # Ranked by logits: probabilities of a model that is very sure are all 0 or 1, and tell no more.
    # All thresholds: the ones that lie on a straight piece of the curve are operating points too.
    false, true, thresholds = roc_curve(targets, logits, drop_intermediate=False)
    curve = pd.DataFrame({"false_positive_rate": false, "true_positive_rate": true, "threshold": expit(thresholds)})
    return curve, {float(at): float(true[false <= 1 - at + 1e-12].max()) for at in specificities}


def _check(specificities, bootstraps, calibrate, sensitivity, specificity):
    if not all(0 < at < 1 for at in specificities):
        raise ValueError(f"specificities must lie between 0 and 1. Received: {specificities!r}")
    if isinstance(bootstraps, bool) or not isinstance(bootstraps, int) or bootstraps < 1:
        raise ValueError(f"bootstraps must be an integer of at least 1. Received: {bootstraps!r}")
    for name, value in (("sensitivity", sensitivity), ("specificity", specificity)):
        if value is None:
            continue
        if calibrate is None:
            raise ValueError(
                f"{name}={value!r} chooses a threshold, which needs a split to choose it on: calibrate='validation'"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise ValueError(f"{name} must lie in (0, 1]. Received: {value!r}")
    if sensitivity is not None and specificity is not None:
        raise ValueError(f"One of sensitivity and specificity can be reached. Received: {sensitivity=}, {specificity=}")


def _plain(value):
    """Python's own types, and None for what is no number."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
