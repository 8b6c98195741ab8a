"""Is it worth it? What a reader would try before a detail branch, for the same seconds of training.

On generated lesions whose class lies in detail finer than the small image (see `experiment`), each candidate is trained
for equal seconds, several times, and asked about images of its own set, with as many crops, or draws of the windows, as
inference may take milliseconds:

    b0 at 32            the small image alone
    b0 at 64, b0 at 96  a larger small image: what a longer look at fewer pixels would have cost
    crops               b0 on one random crop of 32 pixels at full resolution; k crops averaged in test
    tiles               b0 on all 16 tiles of the full image, their logits averaged, trained end to end
    split-b0            32 + 128, one draw of the windows; n draws averaged in test

Source: the question is every reviewer's; sections 4.1.4 and 4.1.7 of the paper compare with B0 and B4 alone.
Expected: nothing is promised. Where the cue is all over the lesion, as here, a crop at full resolution sees it too.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from keras_stoch.data.synthetic import write_lesions
from keras_stoch.files import write_atomically
from keras_stoch.progress import duration, tell
from keras_stoch.training.fit import fit
from keras_stoch.training.recipe import is_int

ENDLESS = 100_000  # epochs: time ends a run
CLOSE = 1.05  # milliseconds that count as equal


@dataclass(frozen=True)
class Baselines:
    """What is compared, and for how long.

    Attributes:
        hours: that training may take in all, shared equally by all runs of all candidates; what is drawn, measured and
            evaluated beside it takes some minutes more.
        runs: per candidate.
        images: generated lesions, a fifth of them for choosing the best epoch.
        test_images: lesions of another set, for the table.
        low_res, high_res: sides in pixels; high_res a multiple of low_res.
        sides: of b0's other images.
        strength: of the detail, see `draw_lesion`.
        batch_size: images per step.
        crops, draws: numbers of crops and draws that are averaged over in test.

    Raises:
        ValueError: for values that nothing could be trained with.
    """

    hours: float = 2.0
    runs: int = 3
    images: int = 3000
    test_images: int = 1000
    low_res: int = 32
    high_res: int = 128
    sides: tuple[int, ...] = (64, 96)
    strength: float = 3.0
    batch_size: int = 32
    crops: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    draws: tuple[int, ...] = (1, 2, 3, 5, 10)

    def __post_init__(self):
        number = isinstance(self.hours, int | float) and not isinstance(self.hours, bool)
        if not number or not 0 < self.hours < float("inf"):
            raise ValueError(f"hours must be a positive number. Received: hours={self.hours!r}")
        least = {"runs": 1, "images": 10, "test_images": 10, "low_res": 32, "high_res": 64, "batch_size": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if not is_int(value) or value < minimum:
                raise ValueError(f"{name} must be an integer of at least {minimum}. Received: {name}={value!r}")
        if self.high_res % self.low_res:
            raise ValueError(f"high_res must be a multiple of {self.low_res}. Received: high_res={self.high_res}")
        if self.batch_size > self.images - round(self.images * 0.2):
            raise ValueError(f"images must be enough for a batch of {self.batch_size}. Received: images={self.images}")

    @property
    def seconds(self) -> float:
        """Of training, for each run."""
        return self.hours * 3600 / (self.runs * len(candidates(self)))


@dataclass(frozen=True)
class Candidate:
    """One way to see detail.

    Attributes:
        name: in the table.
        build: function that makes the model.
        side: of the small image that it takes, in pixels; None for one that takes both.
        crops: whether it takes crops at full resolution.
        settings: numbers of crops or draws that its answers are averaged over.
    """

    name: str
    build: Callable
    side: int | None
    crops: bool = False
    settings: tuple[int, ...] = (1,)


def candidates(settings: Baselines) -> list[Candidate]:
    """All that are compared."""
    low, high = settings.low_res, settings.high_res

    def b0(side):
        from keras_stoch.models import create_model

        return create_model("b0", low_res=side)

    def tiles():
        import keras
        from keras import ops

        count = high // low
        images = keras.Input((high, high, 3))
        x = ops.reshape(images, (-1, count, low, count, low, 3))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, low, low, 3))
        logits = ops.reshape(b0(low)(x), (-1, count * count))
        return keras.Model(images, ops.mean(logits, axis=1, keepdims=True), name="tiles")

    def split():
        from keras_stoch.models import create_model

        return create_model("split-b0", low_res=low, high_res=high)

    return [
        *(Candidate(f"b0 at {side}", lambda side=side: b0(side), side) for side in (low, *settings.sides)),
        Candidate("crops", lambda: b0(low), low, crops=True, settings=settings.crops),
        Candidate("tiles", tiles, high),
        Candidate("split-b0", split, None, settings=settings.draws),
    ]


def run(out="runs/baselines", settings: Baselines | None = None, progress=False) -> pd.DataFrame:
    """Trains, measures, and writes results.csv, table.csv and baselines.png; goes on where it was interrupted.

    Args:
        out: folder.
        settings: `Baselines`.
        progress: tell of every run and epoch, and of the time left; show bars of what is drawn.

    Returns:
        The table, see `table`.
    """
    settings, out = settings or Baselines(), Path(out)
    common = {"size": settings.high_res, "strength": settings.strength, "progress": progress}
    data = write_lesions(out / "lesions", settings.images, **common)
    test = write_lesions(out / "test", settings.test_images, seed=1, **common)
    # Run by run, so that an interrupted comparison has something of each.
    jobs = [(number, candidate) for number in range(settings.runs) for candidate in candidates(settings)]
    for done, (number, candidate) in enumerate(jobs, 1):
        after = (len(jobs) - done) * settings.seconds
        _train(candidate, data, out / candidate.name.replace(" ", "-"), number, settings, after, progress)
    rows = []
    for candidate in candidates(settings):
        tell(f"{candidate.name}: milliseconds and test images", progress)
        rows += measured(candidate, test, out / candidate.name.replace(" ", "-"), settings)
    results = pd.DataFrame(rows)
    write_atomically(out / "results.csv", results.to_csv(index=False, lineterminator="\n"))
    found = table(results)
    write_atomically(out / "table.csv", found.to_csv(index=False, lineterminator="\n"))
    figure(results, out / "baselines.png")
    return found


def _train(candidate, data, out, number, settings, after, progress):
    """One run, until its seconds are spent; `after` are those of the runs behind it."""
    import keras

    class Until(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            curves = pd.read_csv(out / f"run-{number}" / "curves.csv")  # those before an interruption too
            spent, mean = curves["seconds"].sum(), curves["seconds"].mean()
            if spent + mean / 2 > settings.seconds:
                self.model.stop_training = True
            left = after if self.model.stop_training else after + settings.seconds - spent
            tell(
                f"{candidate.name}, run {number + 1} of {settings.runs}: epoch {epoch + 1}, AUC {logs['val_auc']:.4f} "
                f"(best {curves['val_auc'].max():.4f}), {duration(spent)} of {duration(settings.seconds)}; "
                f"{duration(left)} of training left",
                progress,
            )

    tell(f"{candidate.name}, run {number + 1} of {settings.runs}: in {out / f'run-{number}'}", progress)
    recipe = {"epochs": ENDLESS, "hold_epochs": ENDLESS, "batch_size": settings.batch_size, "augment": False}
    if candidate.crops:
        given = {"data": _crops(data, "train", candidate.side, settings, number)}
        given["validation_data"] = _crops(data, "validation", candidate.side, settings, number)(0)
    else:
        given = {"data": data}
    fit(
        candidate.build,
        out=out,
        runs=settings.runs,
        run=number,
        callbacks=[Until()],
        **given,
        **recipe,
    )


def _crops(data, split, side, settings, seed):
    """A function of the epoch that gives batches of one random crop of each image, at full resolution."""
    import tensorflow as tf

    from keras_stoch.data.pipeline import Pipeline

    training = split == "train"
    options = {"shuffle": True, "remainder": "drop"} if training else {}
    options |= {"batch_size": settings.batch_size, "low_res": settings.high_res, "high_res": None, "augment": False}
    pipeline = Pipeline(data, split, seed=seed, **options)

    def of_epoch(epoch):
        def crop(number, batch):
            return random_crops(batch[0], side, tf.stack([seed * ENDLESS + epoch, number])), batch[1]

        return pipeline.epoch(epoch).enumerate().map(crop)

    return of_epoch


def random_crops(images, side: int, seed):
    """One crop (batch, side, side, 3) of each image (batch, height, width, 3), by a seed of two integers."""
    import tensorflow as tf

    shape = tf.shape(images)
    first, second = tf.unstack(tf.cast(seed, tf.int32))
    rows, columns = (
        tf.random.stateless_uniform(shape[:1], (first, second + (axis << 20)), 0, shape[axis] - side + 1, tf.int32)
        for axis in (1, 2)
    )
    rows, columns = rows[:, None] + tf.range(side), columns[:, None] + tf.range(side)
    images = tf.gather(images, rows, axis=1, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)


def measured(candidate, test, out, settings) -> list[dict]:
    """A row for each run and setting: AUC on the test images, milliseconds for an image, what training took."""
    from keras_stoch.data.pipeline import Pipeline
    from keras_stoch.evaluation.metrics import roc_auc
    from keras_stoch.evaluation.predictions import draw_logits, mean_logit

    both = candidate.side is None
    sizes = {"low_res": settings.low_res, "high_res": settings.high_res} if both else {"high_res": None}
    if not both:
        sizes["low_res"] = settings.high_res if candidate.crops else candidate.side
    pipeline = Pipeline(test, None, batch_size=settings.batch_size, **sizes)
    batches = [inputs for inputs, _ in pipeline.epoch(0)]
    model, rows, most = candidate.build(), [], max(candidate.settings)
    example = random_crops(batches[0], candidate.side, [0, 0]) if candidate.crops else batches[0]
    milliseconds = _milliseconds(model, example, candidate)
    for number in range(settings.runs):
        folder = out / f"run-{number}"
        model.load_weights(folder / "best.weights.h5")
        if candidate.crops:
            # One stream of batches: every call would compile the model anew.
            looks = (random_crops(b, candidate.side, [n, k]) for k in range(most) for n, b in enumerate(batches))
            logits = draw_logits(model, looks).reshape(most, -1).T
        else:
            logits = draw_logits(model, batches, most)
        curves = pd.read_csv(folder / "curves.csv")
        for n in candidate.settings:
            rows.append(
                {
                    "candidate": candidate.name,
                    "averaged": n,
                    "run": number,
                    "auc": roc_auc(pipeline.targets, mean_logit(logits[:, :n])),
                    "milliseconds": milliseconds[n],
                    "training_seconds": float(curves["seconds"].sum()),
                    "epochs": len(curves),
                    "parameters": model.count_params(),
                }
            )
    return rows


def _milliseconds(model, example, candidate) -> dict[int, float]:
    """Of inference, for one image of a batch, with n crops or draws: medians of seven."""
    import tensorflow as tf

    from keras_stoch.evaluation.predictions import AveragedPasses

    once = tf.function(lambda inputs: model(inputs, training=False), autograph=False, reduce_retracing=True)
    count, found = len(example["low_res"] if isinstance(example, dict) else example), {}
    for n in candidate.settings:
        compiled, given, taken = once, example, []
        if candidate.crops:
            given = tf.concat([example] * n, 0)
        elif n > 1:
            averaged = AveragedPasses(model)
            compiled = tf.function(lambda inputs, n=n, averaged=averaged: averaged(inputs, n), autograph=False)
        for _ in range(9):
            started = time.perf_counter()
            np.asarray(compiled(given))
            taken.append(time.perf_counter() - started)
        found[n] = 1000 * float(np.median(taken[2:])) / count
    return found


def table(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each candidate, trained for equal seconds; and at equal milliseconds of inference.

    Args:
        results: a row for each candidate, setting and run.

    Returns:
        DataFrame: candidate, parameters, epochs, training_seconds (means over runs); then for one look, for as many as
        fit into the milliseconds of one draw of split-b0, and of three: averaged, milliseconds, auc (mean), auc_min,
        auc_max, NaN where not even one fits.
    """
    points = _points(results)
    split = points[points["candidate"] == "split-b0"].set_index("averaged")["milliseconds"]
    limits = {"": None, "_at_1_draw": split.get(1), "_at_3_draws": split.get(3)}
    rows = []
    for name, part in points.groupby("candidate", sort=False):
        row = {"candidate": name} | {
            column: results.loc[results["candidate"] == name, column].mean()
            for column in ("parameters", "epochs", "training_seconds")
        }
        for suffix, limit in limits.items():
            fits = part[part["averaged"] == 1]
            if limit is not None:
                fits = part[part["milliseconds"] <= limit * CLOSE].nlargest(1, "averaged")
            elif suffix:
                fits = part.iloc[:0]
            for column in ("averaged", "milliseconds", "auc", "auc_min", "auc_max"):
                row[column + suffix] = fits[column].iloc[0] if len(fits) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _points(results):
    """Mean, minimum and maximum over runs, by candidate and setting."""
    groups = results.groupby(["candidate", "averaged"], sort=False)
    return groups.agg(
        auc=("auc", "mean"), auc_min=("auc", "min"), auc_max=("auc", "max"), milliseconds=("milliseconds", "mean")
    ).reset_index()


def figure(results: pd.DataFrame, path) -> Path:
    """AUC by milliseconds of inference: mean, and bars from minimum to maximum over runs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    drawn = Figure(figsize=(8.5, 5), layout="constrained")
    ax = drawn.subplots()
    for name, part in _points(results).groupby("candidate", sort=False):
        part = part.sort_values("milliseconds")
        bars = [part["auc"] - part["auc_min"], part["auc_max"] - part["auc"]]
        ax.errorbar(part["milliseconds"], part["auc"], yerr=bars, marker="o", ms=5, lw=1.6, capsize=3, label=name)
        for row in part.itertuples() if len(part) > 1 else ():
            ax.annotate(
                f"{row.averaged}", (row.milliseconds, row.auc), (4, -11), textcoords="offset points", fontsize=8
            )
    ax.axhline(0.5, color="0.6", lw=1, ls="--")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.set_xlabel("milliseconds of inference for an image (numbers: crops or draws averaged)")
    ax.set_ylabel("ROC AUC on test images")
    seconds, runs = results["training_seconds"].mean(), results["run"].nunique()
    ax.set_title(f"{seconds:.0f} seconds of training each, {runs} runs", fontsize=10)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=9)
    drawn.savefig(path, dpi=110)
    return Path(path)
