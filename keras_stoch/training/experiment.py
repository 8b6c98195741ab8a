"""Does the detail branch see what a small image can not carry? The paper's comparison on generated lesions.

Every model is trained several times on one data set whose class lies in detail finer than the small image (see
`data.synthetic`), and the results are put in the paper's form: a table of validation AUC (section 5.1.6) and curves
(figures 20 to 26). Split is evaluated with one draw and with three averaged, from the same weights.

Expected if the method does what it is for: b0 at chance (0.5), models with a detail branch above it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from keras_stoch.architectures import get_architecture
from keras_stoch.data.synthetic import write_lesions
from keras_stoch.files import of_this_machine, write_atomically
from keras_stoch.training.fit import fit
from keras_stoch.training.recipe import Recipe, is_int, make_recipe
from keras_stoch.training.subjects import make_subject


@dataclass(frozen=True)
class Experiment:
    """What is trained on what; the defaults take two cores about about an hour.

    Attributes:
        models: names.
        runs: per model.
        images: generated lesions, a fifth of them for validation.
        low_res, high_res: sides in pixels.
        strength: of the detail, see `draw_lesion`. At 1, the default elsewhere, 2400 images teach it to no model.
        epochs, batch_size, hold_epochs: see `Recipe`. Shorter than the paper's, whose epochs have 380 steps.
        augment: off, for a few thousand images are too few to learn fine texture at all scales from.
        passes: draws that the last row of the table averages over.

    Raises:
        ValueError: for values that nothing could be trained with.
    """

    models: tuple[str, ...] = ("b0", "stem-b0", "skip-b0", "split-b0")
    runs: int = 3
    images: int = 3000
    low_res: int = 32
    high_res: int = 128
    strength: float = 3.0
    epochs: int = 10
    batch_size: int = 32
    hold_epochs: int = 6
    augment: bool = False
    passes: int = 3

    def __post_init__(self):
        for name, least in (("runs", 1), ("images", 10), ("passes", 1), ("high_res", 64)):
            value = getattr(self, name)
            if not is_int(value) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}. Received: {name}={value!r}")
        if not self.models:
            raise ValueError("models must name one or more. Received: none")
        for model in self.models:
            make_subject(model, self.recipe(model), self.runs)
        training = self.images - round(self.images * 0.2)
        if self.batch_size > training:
            raise ValueError(
                f"images must be enough for a batch of {self.batch_size}, with a fifth of them for validation. "
                f"Received: images={self.images}"
            )

    def recipe(self, model: str) -> Recipe:
        """How a model is trained."""
        names = ("epochs", "batch_size", "hold_epochs", "low_res", "augment")
        given = {name: getattr(self, name) for name in names}
        return make_recipe(given | ({"high_res": self.high_res} if get_architecture(model).join else {}))


def run(out="runs/experiment", settings: Experiment | None = None, progress=False) -> pd.DataFrame:
    """Trains, evaluates, and writes results.csv and curves.png; goes on where it was interrupted.

    Args:
        out: folder.
        settings: `Experiment`.
        progress: show bars.

    Returns:
        One row per model: runs, mean, minimum and maximum of the best validation AUC, and the final one.
    """
    settings = settings or Experiment()
    out = of_this_machine(out, "An experiment is")
    data = write_lesions(
        out / "lesions", settings.images, size=settings.high_res, strength=settings.strength, progress=progress
    )
    # Run by run and not model by model: an interrupted experiment has something of each.
    for runs in range(1, settings.runs + 1):
        for model in settings.models:
            fit(model, data, out / model, runs=runs, progress=progress, **asdict(settings.recipe(model)))
    table = collect(out, settings)
    write_atomically(out / "results.csv", table.to_csv(index=False, lineterminator="\n"))
    curves_figure(out, settings)
    return table


def collect(out, settings: Experiment) -> pd.DataFrame:
    """The table, from the runs below `out`."""
    from keras_stoch.evaluation.assessment import evaluate

    out, rows = Path(out), []
    for model in settings.models:
        results = pd.read_csv(out / model / "results.csv")
        rows.append(_row(model, results["best_val_auc"], results["final_val_auc"]))
    if settings.passes > 1 and "split-b0" in settings.models:
        runs = sorted((out / "split-b0").glob("run-*"))
        averaged = [evaluate(run, out / "lesions", passes=settings.passes, bootstraps=1).auc for run in runs]
        rows.append(_row(f"split-b0, {settings.passes} draws", averaged, [np.nan] * len(averaged)))
    return pd.DataFrame(rows)


def _row(name, best, final) -> dict:
    return {
        "model": name,
        "runs": len(best),
        "best_auc_mean": float(np.mean(best)),
        "best_auc_min": float(np.min(best)),
        "best_auc_max": float(np.max(best)),
        "final_auc_mean": float(np.mean(final)),
    }


def curves_figure(out, settings: Experiment) -> Path:
    """Validation and training AUC by epoch: mean, and band from minimum to maximum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, column, title in zip(axes, ("val_auc", "train_auc"), ("validation", "training"), strict=True):
        for number, model in enumerate(settings.models):
            curves = [pd.read_csv(path)[column] for path in sorted((out / model).glob("run-*/curves.csv"))]
            values = np.array([curve[: min(map(len, curves))] for curve in curves])
            epochs = np.arange(1, values.shape[1] + 1)
            ax.fill_between(epochs, values.min(0), values.max(0), color=f"C{number}", alpha=0.18, lw=0)
            ax.plot(epochs, values.mean(0), color=f"C{number}", lw=1.8, label=f"{model} ({len(values)} runs)")
        ax.axhline(0.5, color="0.6", lw=1, ls="--")
        ax.set_xlabel("epoch")
        ax.set_title(f"{title} ROC AUC")
        ax.grid(alpha=0.25)
    axes[0].legend(fontsize=9)
    figure.savefig(out / "curves.png", dpi=110)
    return out / "curves.png"
