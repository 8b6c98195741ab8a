"""Training curves of sets of runs: read, summarised, compared (see `statistics`), drawn."""

import csv
import json
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from parity.statistics import Difference, compare_numbers, permutation_test

MEASURES = ("train_loss", "val_loss", "train_auc", "val_auc")
_NAMES = {"Epoch": "epoch", "Train Loss": "train_loss", "Val Loss": "val_loss", "Train RoC": "train_auc"}
_NAMES["Val RoC"] = "val_auc"
# Margins within which two implementations count as the same, fixed before any comparison was run: in AUC, half of what
# separates one run from another of the same model at these sizes; in loss, a tenth of a coin's (0.69).
MARGINS = {"auc": 0.02, "loss": 0.07}


@dataclass
class Runs:
    """Curves of several runs of one thing.

    Attributes:
        name: of the set.
        values: measure -> float array (runs, epochs), cut to the shortest run.
        names: of the runs.
        batches: float array (runs, batches) of the loss of every batch, where the runs tell it, or None.
        notes: what was found and done while reading: duplicates, placeholders, unequal lengths.
    """

    name: str
    values: dict[str, np.ndarray]
    names: list[str]
    batches: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self):
        return len(self.names)

    @property
    def epochs(self) -> int:
        return self.values["val_auc"].shape[1]

    def cut(self, epochs: int) -> "Runs":
        """The first epochs alone, and their batches."""
        if epochs >= self.epochs:
            return self
        batches = None if self.batches is None else self.batches[:, : epochs * (self.batches.shape[1] // self.epochs)]
        notes = [*self.notes, f"cut from {self.epochs} to {epochs} epochs, the other's length"]
        return Runs(self.name, {m: v[:, :epochs] for m, v in self.values.items()}, self.names, batches, notes)


def read_runs(folder, name: str | None = None, only: int | None = None) -> Runs:
    """Reads the per-epoch curves below a folder: `*/curves.csv` of training runs, or any `*.csv` of published ones.

    A `.json` file is read as `save_runs` writes it.

    A leading row of zeros is a placeholder and is dropped; equal runs count once, with a warning; runs are cut to the
    length of the shortest, because a maximum over more epochs is larger.

    Args:
        folder: of the curves, or a record.
        name: of the set; the folder's or the record's if None.
        only: take only runs of just so many epochs.

    Raises:
        ValueError: if there is no curve, or a file has other columns or values that are no numbers.
    """
    folder = Path(folder)
    if folder.suffix == ".json" and not folder.is_dir():
        return _read_record(folder, name, only)
    paths = sorted(folder.glob("*/curves.csv")) or sorted(folder.glob("curves.csv")) or sorted(folder.glob("*.csv"))
    if not paths:
        raise ValueError(f"No curves below {folder}: neither */curves.csv nor *.csv")
    found, notes = {}, []
    for path in paths:
        curve = read_curve(path)
        label = path.parent.name if path.name == "curves.csv" else path.stem
        zeros = [measure for measure in MEASURES if curve[measure][0] == 0]
        if len(zeros) == len(MEASURES):
            curve = {measure: values[1:] for measure, values in curve.items()}
            notes.append(f"{label}: a placeholder row of zeros dropped")
        if only is not None and len(curve["epoch"]) != only:
            continue
        twin = next((other for other, (known, _) in found.items() if _same(known, curve)), None)
        if twin is not None:
            notes.append(f"{label} is a copy of {twin}: dropped")
            warnings.warn(f"{path} holds the same numbers as {twin}; it counts once", stacklevel=2)
            continue
        found[label] = (curve, _read_batches(path))
    if not found:
        raise ValueError(f"No run below {folder} has {only} epochs")
    lengths = {label: len(curve["epoch"]) for label, (curve, _) in found.items()}
    epochs = min(lengths.values())
    if epochs == 0:
        raise ValueError(f"A run below {folder} has no epoch: {min(lengths, key=lengths.get)}")
    if len(set(lengths.values())) > 1:
        notes.append(f"runs of {', '.join(map(str, sorted(set(lengths.values()))))} epochs, cut to {epochs}")
    values = {m: np.array([curve[m][:epochs] for curve, _ in found.values()]) for m in MEASURES}
    batches = [losses for _, losses in found.values()]
    whole = all(losses is not None for losses in batches)
    length = min((len(losses) for losses in batches), default=0) if whole else 0
    losses = np.array([losses[:length] for losses in batches]) if length else None
    return Runs(name or folder.name, values, list(found), losses, notes)


def save_runs(runs: Runs, path, about: dict | None = None) -> Path:
    """Writes a set of runs as one JSON file that `read_runs` reads.

    Args:
        runs: from `read_runs`.
        path: of the file.
        about: whatever else is worth knowing, JSON.
    """
    told = {"name": runs.name, "about": about or {}, "runs": runs.names, "notes": runs.notes}
    told["values"] = {measure: values.tolist() for measure, values in runs.values.items()}
    told["batches"] = None if runs.batches is None else runs.batches.tolist()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told) + "\n")
    return path


def _read_record(path: Path, name, only) -> Runs:
    try:
        told = json.loads(path.read_text())
        values = {measure: np.array(told["values"][measure], float) for measure in MEASURES}
        batches = None if told["batches"] is None else np.array(told["batches"], float)
        runs = Runs(name or told["name"], values, told["runs"], batches, told["notes"])
        shapes = {v.shape for v in values.values()}
        whole = len(shapes) == 1 and all(len(shape) == 2 and shape[0] == len(runs) for shape in shapes)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no record of runs as parity writes it: {error!r}") from None
    if not whole or (batches is not None and batches.shape[:1] != (len(runs),)):
        raise ValueError(f"{path} is no record of runs: its curves have the shapes {sorted(shapes)}")
    if only is not None and runs.epochs != only:
        raise ValueError(f"No run of {path} has {only} epochs; they have {runs.epochs}")
    return runs


def read_curve(path: Path) -> dict[str, np.ndarray]:
    """One per-epoch CSV file as columns: "epoch" and `MEASURES`, float64 (epochs,), placeholder rows included.

    Raises:
        ValueError: for missing columns, no rows, or cells that are no numbers.
    """
    with open(path, newline="") as file:
        header, *rows = [row for row in csv.reader(file) if row]
    names = [_NAMES.get(name, name) for name in header]
    missing = [name for name in ("epoch", *MEASURES) if name not in names]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}. Its columns: {', '.join(header)}")
    if not rows:
        raise ValueError(f"{path} has no rows")
    extra = len(rows[0]) - len(names)  # a leading index without a name, as pandas writes it
    try:
        table = np.array([[float(cell or "nan") for cell in row[extra:]] for row in rows])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    curve = {name: table[:, names.index(name)] for name in ("epoch", *MEASURES)}
    for measure in MEASURES:
        # An epoch of few examples may hold one class alone and has no training AUC then.
        if measure != "train_auc" and not np.isfinite(curve[measure]).all():
            row = int(np.flatnonzero(~np.isfinite(curve[measure]))[0])
            raise ValueError(f"{path}, row {row + 2}: {measure} is no number")
    return curve


def _read_batches(path: Path):
    path = path.with_name("batches.csv")
    if not path.exists():
        return None
    with open(path, newline="") as file:
        return np.array([float(row["loss"]) for row in csv.DictReader(file)])


def _same(a, b) -> bool:
    return all(np.array_equal(a[m], b[m], equal_nan=True) for m in MEASURES)


def summaries(runs: Runs, early: int | None = None) -> dict[str, np.ndarray]:
    """One number per run for each statistic that is compared.

    best_auc: the best validation AUC; final_auc: validation AUC, mean of the last fifth of the epochs (the last epoch
    alone is mostly noise); final_loss: training loss, the same epochs; batch_loss: mean loss over all batches;
    early_loss: mean loss over the first `early` batches (a tenth if None), where an initialisation shows.
    """
    last = max(1, runs.values["val_auc"].shape[1] // 5)
    found = {
        "best_auc": runs.values["val_auc"].max(1),
        "final_auc": runs.values["val_auc"][:, -last:].mean(1),
        "final_loss": runs.values["train_loss"][:, -last:].mean(1),
    }
    if runs.batches is not None:
        early = early or max(1, runs.batches.shape[1] // 10)
        found |= {"batch_loss": runs.batches.mean(1), "early_loss": runs.batches[:, :early].mean(1)}
    return found


def bands(values: np.ndarray) -> dict[str, np.ndarray]:
    """Minimum, mean and maximum per epoch of (runs, epochs)."""
    return {"min": values.min(0), "mean": values.mean(0), "max": values.max(0)}


@dataclass
class CurveReport:
    """Two sets of runs compared.

    Attributes:
        reference, candidate: the sets, cut to one length.
        differences: one `Difference` per statistic.
        p_curve: of the permutation test on the whole curve of `measure`.
        measure: whose curves.
    """

    reference: Runs
    candidate: Runs
    differences: list[Difference]
    p_curve: float
    measure: str

    @property
    def equivalent(self) -> bool:
        return all(difference.equivalent for difference in self.differences)

    def to_dict(self) -> dict:
        return {
            "reference": {"name": self.reference.name, "runs": len(self.reference), "notes": self.reference.notes},
            "candidate": {"name": self.candidate.name, "runs": len(self.candidate), "notes": self.candidate.notes},
            "measure": self.measure,
            "p_curve": self.p_curve,
            "differences": [asdict(difference) for difference in self.differences],
            "bands": {
                side.name: {m: {k: v.tolist() for k, v in bands(values).items()} for m, values in side.values.items()}
                for side in (self.reference, self.candidate)
            },
            "equivalent": self.equivalent,
        }

    def __str__(self):
        lines = [
            f"{self.candidate.name} ({len(self.candidate)} runs) against {self.reference.name} "
            f"({len(self.reference)} runs), {self.reference.values[self.measure].shape[1]} epochs",
            f"  {'statistic':12} {'reference':>10} {'candidate':>10} {'difference':>11} {'95% interval':>20} "
            f"{'p differ':>9} {'margin':>7} {'p equal':>8}  verdict",
        ]
        lines += [
            f"  {d.statistic:12} {d.reference:10.4f} {d.candidate:10.4f} {d.difference:+11.4f} "
            f"{f'{d.interval[0]:+.4f} {d.interval[1]:+.4f}':>20} {d.p_different:9.3f} {d.margin:7.3g} "
            f"{d.p_equivalent:8.3f}  {d.verdict}"
            for d in self.differences
        ]
        lines.append(f"  whole curve of {self.measure}: permutation p {self.p_curve:.3f}")
        lines += [f"  note: {note}" for runs in (self.reference, self.candidate) for note in runs.notes]
        return "\n".join(lines)


def compare_runs(reference: Runs, candidate: Runs, *, measure="val_auc", margins=None, seed=0) -> CurveReport:
    """Compares two sets of runs.

    Args:
        reference, candidate: from `read_runs`.
        measure: whose whole curve is tested.
        margins: {"auc": ..., "loss": ...}; `MARGINS` by default.
        seed: of resampling.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}. Received: {measure!r}")
    for runs in (reference, candidate):
        if not np.isfinite(runs.values[measure]).all():
            raise ValueError(f"{runs.name}: {measure} is no number in some epoch, so that its curve can't be judged")
    margins = MARGINS | (margins or {})
    epochs = min(reference.epochs, candidate.epochs)
    reference, candidate = reference.cut(epochs), candidate.cut(epochs)
    early = None
    if reference.batches is not None and candidate.batches is not None:
        early = max(1, min(reference.batches.shape[1], candidate.batches.shape[1]) // 10)
    first, second = summaries(reference, early), summaries(candidate, early)
    differences = [
        compare_numbers(name, first[name], second[name], margins[name.split("_")[-1]], seed=seed)
        for name in first
        if name in second
    ]
    p_curve = permutation_test(reference.values[measure], candidate.values[measure], seed)
    return CurveReport(reference, candidate, differences, p_curve, measure)


def curves_figure(sets: list[Runs], path, measures=("val_auc", "train_auc"), start: int = 0) -> Path:
    """Mean curve and band from minimum to maximum per set, one panel a measure, as in the paper's figures 18 to 26."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2 * len(measures), 4.4), layout="constrained")
    axes = figure.subplots(1, len(measures), squeeze=False)[0]
    titles = {"val": "validation", "train": "training", "auc": "ROC AUC", "loss": "loss"}
    for ax, measure in zip(axes, measures, strict=True):
        for number, runs in enumerate(sets):
            band = bands(runs.values[measure])
            epochs = np.arange(1, len(band["mean"]) + 1)[start:]
            ax.fill_between(epochs, band["min"][start:], band["max"][start:], color=f"C{number}", alpha=0.18, lw=0)
            ax.plot(epochs, band["mean"][start:], color=f"C{number}", lw=1.8, label=f"{runs.name} ({len(runs)} runs)")
        ax.set_xlabel("epoch")
        ax.set_title(" ".join(titles[part] for part in measure.split("_")), fontsize=11)
        ax.grid(alpha=0.25)
    axes[0].legend(fontsize=9)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
