"""What is chosen on one set of images and applied to all others as it is: a temperature and an operating threshold.

RUN/calibration.json   temperature, threshold, how each was chosen, on what, and what they reach there
RUN/calibration.csv    the images that they were chosen on, with their logits
"""

import hashlib
import io
import json
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit

from keras_stoch.evaluation.metrics import Measures, equal_mass_bins, equal_width_bins
from keras_stoch.files import write_atomically
from keras_stoch.storage import as_path

TEMPERATURES = (0.01, 100.0)  # where the search ends
COLUMNS = ("image", "file", "target", "group", "hash", "logit")


@dataclass(frozen=True)
class Calibration:
    """A temperature and an operating threshold, and where they come from.

    Attributes:
        temperature: logits are divided by it before they become probabilities.
        threshold_logit: from which on an image counts as malignant, before division; None if none was asked for.
        rule: "sensitivity" or "specificity", which the threshold was to reach; None without threshold.
        at: what was to be reached of it.
        sensitivity, specificity: what the threshold reaches on the images it was chosen on.
        data, split: the prepared folder and the part of it that both were chosen on.
        images, malignant: their number.
        passes: draws that their logits were averaged over.
        log_loss_before, log_loss_after: mean log loss on these images without and with the temperature.
        at_bound: whether the search ended at one of `TEMPERATURES`: the scores separate the classes, or tell nothing.
        weights: digest of the weights that gave the logits.
    """

    temperature: float
    threshold_logit: float | None
    rule: str | None
    at: float | None
    sensitivity: float | None
    specificity: float | None
    data: str
    split: str
    images: int
    malignant: int
    passes: int
    log_loss_before: float
    log_loss_after: float
    at_bound: bool
    weights: str

    @property
    def threshold(self) -> float | None:
        """The threshold as a calibrated probability, which may be exactly 0 or 1; logits decide."""
        return None if self.threshold_logit is None else float(expit(self.threshold_logit / self.temperature))

    def probability(self, logits) -> np.ndarray:
        """Calibrated probabilities of logits, float64."""
        return expit(np.asarray(logits, np.float64) / self.temperature)

    def __str__(self):
        where = f"{self.images} images ({self.malignant} malignant) of {self.data}, split {self.split!r}"
        lines = [
            f"temperature {self.temperature:.4f}, fitted on {where}: log loss {self.log_loss_before:.4f} before, "
            f"{self.log_loss_after:.4f} after"
        ]
        if self.at_bound:
            lines.append(
                "  the search ended at its bound: the classes are separated, or no temperature mends these logits"
            )
        if self.rule is not None:
            lines.append(
                f"threshold {self.threshold:.4g} (logit {self.threshold_logit:.4g}), for {self.rule} of at least "
                f"{self.at:.0%} there: sensitivity {self.sensitivity:.1%}, specificity {self.specificity:.1%}"
            )
        return "\n".join(lines)


def fit_temperature(targets, logits) -> tuple[float, bool]:
    """The temperature of least mean log loss, between 0.01 and 100, and whether the search ended there.

    Args:
        targets: (images,) of 0 and 1.
        logits: (images,).

    Reference: Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    logits = np.asarray(logits, np.float64)
    signed = np.where(np.asarray(targets) == 1, -logits, logits)
    low, high = np.log(TEMPERATURES)

    def loss(log_temperature):
        return np.logaddexp(0, signed * np.exp(-log_temperature)).mean()

    # Convex in 1 / temperature, so that there is one minimum.
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-10}).x
    best = min((found, low, high), key=loss)
    at_bound = bool(min(best - low, high - best) < 1e-4)
    return float(np.exp(best)), at_bound


def choose_threshold(targets, logits, *, sensitivity=None, specificity=None) -> float:
    """The logit from which on an image counts as malignant.

    The highest threshold that reaches the sensitivity, or the lowest that reaches the specificity; in the middle
    between the two scores it separates, so that rounding does not decide.

    Args:
        targets: (images,) of 0 and 1.
        logits: (images,).
        sensitivity, specificity: in (0, 1]; one of them.

    Raises:
        ValueError: for none or both, values out of range, or if the specificity leaves no image that is called
            malignant.
    """
    if (sensitivity is None) == (specificity is None):
        raise ValueError(f"One of sensitivity and specificity must be given. Received: {sensitivity=}, {specificity=}")
    name, wanted = ("sensitivity", sensitivity) if specificity is None else ("specificity", specificity)
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not 0 < wanted <= 1:
        raise ValueError(f"{name} must lie in (0, 1]. Received: {wanted!r}")
    targets, logits = np.asarray(targets), np.asarray(logits, np.float64)
    scores = np.unique(logits)
    of_class = np.sort(logits[targets == (1 if name == "sensitivity" else 0)])
    below = np.searchsorted(of_class, scores, "left")  # of the class, how many each threshold spares
    if name == "sensitivity":
        place = np.flatnonzero(len(of_class) - below >= wanted * len(of_class) - 1e-9)[-1]
    else:
        enough = np.flatnonzero(below >= wanted * len(of_class) - 1e-9)
        if not len(enough):
            raise ValueError(
                f"No threshold reaches a specificity of {wanted:.1%}: the highest score of all is a benign image's"
            )
        place = enough[0]
    return float(scores[place] if place == 0 else (scores[place - 1] + scores[place]) / 2)


def calibrate(images: pd.DataFrame, *, sensitivity=None, specificity=None, data, split, passes, weights) -> Calibration:
    """Fits a temperature, and chooses a threshold if a sensitivity or a specificity is asked for.

    Args:
        images: DataFrame with target and logit.
        sensitivity, specificity: see `choose_threshold`; both None for no threshold.
        data, split, passes, weights: attributes of `Calibration`.

    Raises:
        ValueError: see `choose_threshold`, or if only one class is there.
    """
    targets, logits = images["target"].to_numpy(), images["logit"].to_numpy()
    if len(set(targets)) < 2:
        raise ValueError(f"Calibration needs both classes. Received: {len(targets)} images with target {targets[0]}")
    threshold, rule, at = None, None, None
    if sensitivity is not None or specificity is not None:
        threshold = choose_threshold(targets, logits, sensitivity=sensitivity, specificity=specificity)
        rule, at = ("sensitivity", sensitivity) if specificity is None else ("specificity", specificity)
    temperature, at_bound = fit_temperature(targets, logits)
    before, after = (Measures(targets, logits, t, threshold)() for t in (1.0, temperature))
    return Calibration(
        temperature=temperature,
        threshold_logit=threshold,
        rule=rule,
        at=None if at is None else float(at),
        sensitivity=float(after["sensitivity"]) if rule else None,
        specificity=float(after["specificity"]) if rule else None,
        data=str(data),
        split=split or "all",
        images=len(images),
        malignant=int(targets.sum()),
        passes=passes,
        log_loss_before=float(before["log_loss"]),
        log_loss_after=float(after["log_loss"]),
        at_bound=at_bound,
        weights=weights,
    )


def save_calibration(folder, calibration: Calibration, images: pd.DataFrame):
    """Stores a calibration in the folder of a run, with the images it was made on."""
    folder = as_path(folder)
    table = images.reindex(columns=COLUMNS).to_csv(index=False, lineterminator="\n")
    write_atomically(folder / "calibration.csv", table)
    # The digest tells that both files are of one calibration: a kill may come between them.
    record = asdict(calibration) | {"table": hashlib.sha256(table.encode()).hexdigest()}
    write_atomically(folder / "calibration.json", json.dumps(record, indent=1) + "\n")


def load_calibration(folder, weights: str | None = None) -> tuple[Calibration, pd.DataFrame] | None:
    """The calibration of a run and the images it was made on; None if there is none.

    Args:
        folder: of the run.
        weights: digest of the weights that it is to be used with.

    Raises:
        ValueError: if it was made for other weights, or its two files do not belong together.
    """
    folder = as_path(folder)
    if not (folder / "calibration.json").is_file():
        return None
    again = "`keras-stoch evaluate RUN PREPARED --calibrate validation` makes it anew"
    record = json.loads((folder / "calibration.json").read_text())
    digest = record.pop("table")
    table = (folder / "calibration.csv").read_bytes() if (folder / "calibration.csv").is_file() else b""
    if hashlib.sha256(table).hexdigest() != digest:
        raise ValueError(f"{folder}: calibration.csv is not the table of calibration.json; {again}")
    if weights is not None and record["weights"] != weights:
        raise ValueError(f"{folder}/calibration.json was made for other weights than those there now; {again}")
    text = {"image": str, "group": str, "hash": str}
    return Calibration(**record), pd.read_csv(io.BytesIO(table), dtype=text, float_precision="round_trip")


def reliability(targets, probabilities) -> pd.DataFrame:
    """The reliability diagram, for both binnings of the expected calibration error.

    Returns:
        DataFrame: binning ("equal width", "equal mass"), images, mean_probability, malignant_share, and low and high,
        the 95% Wilson interval of that share.
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities)
    parts = []
    for binning, numbers in (
        ("equal width", equal_width_bins(probabilities)),
        ("equal mass", equal_mass_bins(probabilities)),
    ):
        frame = pd.DataFrame({"bin": numbers, "p": probabilities, "y": targets}).groupby("bin")
        table = frame.agg(images=("y", "size"), mean_probability=("p", "mean"), malignant_share=("y", "mean"))
        low, high = wilson(table["malignant_share"], table["images"])
        parts.append(table.assign(binning=binning, low=low, high=high).reset_index(drop=True))
    columns = ["binning", "images", "mean_probability", "malignant_share", "low", "high"]
    return pd.concat(parts, ignore_index=True)[columns]


def wilson(share, count) -> tuple[np.ndarray, np.ndarray]:
    """95% Wilson score interval of a share among `count`."""
    share, count, z = np.asarray(share, float), np.asarray(count, float), 1.959963984540054
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def weights_digest(*files) -> str:
    """16 hexadecimal digits that tell the weights of one or several files from others."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(as_path(file).read_bytes()).digest())
    return digest.hexdigest()[:16]
