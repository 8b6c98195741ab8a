"""Predictions averaged over draws of the windows, and how good they are. Sections 4.1.7 and 5.1.5 of the paper."""

import json
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops
from scipy.special import expit, log_expit, logsumexp

JOIN = "join"  # the layer at which the branches meet


class AveragedPasses:
    """A model with a detail branch, taken apart so that several draws share the work that does not depend on them.

    At inference the global branch is deterministic: n passes cost one pass of it, and n of the detail branch and of
    whatever follows the join. For split models that is the dense layer alone. The outputs are those of n whole passes.

    Args:
        model: a model from `create_model` with a detail branch. Weights are shared, not copied.

    Raises:
        ValueError: if the model has no detail branch.
    """

    def __init__(self, model):
        if not any(layer.name == JOIN for layer in model.layers):
            raise ValueError(
                f"Averaging over draws needs a model with a detail branch (stem-*, skip-*, split-*). "
                f"Received: {model.name!r}"
            )
        first, detail = model.get_layer(JOIN).input
        low_res, high_res = (model.input[name] for name in ("low_res", "high_res"))
        cls = type(model)  # keeps passing on windows=, and uint8 images as they are
        self.global_branch = cls(low_res, first, name="global_branch")
        self.detail_branch = cls(high_res, detail, name="detail_branch")
        self.head = cls(model.get_layer(JOIN).output, model.output, name="head")

    def __call__(self, inputs, passes: int = 3, windows=None):
        """Outputs of every pass: (passes, batch, classes).

        Args:
            inputs: dict of "low_res" and "high_res".
            passes: number of draws.
            windows: offsets for every pass, with a leading axis of `passes`, instead of draws.
        """
        if passes < 1:
            raise ValueError(f"passes must be at least 1. Received: passes={passes}")
        if windows is not None and len(windows) != passes:
            raise ValueError(f"windows must have one entry per pass ({passes}). Received: {len(windows)}")
        common = self.global_branch(inputs["low_res"], training=False)
        outputs = []
        for n in range(passes):
            given = {} if windows is None else {"windows": windows[n]}
            detail = self.detail_branch(inputs["high_res"], training=False, **given)
            outputs.append(self.head(ops.concatenate([common, detail], axis=-1), training=False))
        return ops.stack(outputs)


def predict(model, inputs, passes: int = 1, batch_size: int = 32, activation="sigmoid") -> np.ndarray:
    """Predictions, averaged over draws.

    Args:
        model: a model from `create_model`, with logits as output.
        inputs: an array of images, or a dict of "low_res" and "high_res".
        passes: draws to average over; the paper's test-time augmentation is 3. Must be 1 for a model without
            stochastic layer, which would give the same every time.
        batch_size: images at once.
        activation: applied to the logits of every pass before averaging; None averages logits.

    Returns:
        float32 array (images, classes).
    """
    activation = keras.activations.get(activation)
    if activation is not keras.activations.linear:
        check_no_sigmoid(model)
    count = len(inputs["low_res"]) if isinstance(inputs, dict) else len(inputs)
    run, found = _compiled(model, passes), []
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        batch = {k: v[part] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[part]
        found.append(ops.convert_to_numpy(ops.mean(activation(run(batch)), axis=0)))
    return np.concatenate(found)


def _compiled(model, passes):
    """A function from inputs to the outputs of every pass, (passes, batch, classes); one graph under TensorFlow."""
    if passes == 1:

        def run(inputs):
            return model(inputs, training=False)[None]
    else:
        averaged = AveragedPasses(model)

        def run(inputs):
            return averaged(inputs, passes)

    if keras.backend.backend() != "tensorflow":
        return run
    import tensorflow as tf

    return tf.function(run, autograph=False, reduce_retracing=True)


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
        from keras_stoch.data.prepare import write_atomically

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

    from keras_stoch.data.pipeline import Pipeline, damage_named

    if not all(0 < at < 1 for at in specificities):
        raise ValueError(f"specificities must lie between 0 and 1. Received: {specificities!r}")
    if not isinstance(bootstraps, int) or bootstraps < 1:
        raise ValueError(f"bootstraps must be an integer of at least 1. Received: {bootstraps!r}")
    model = _loaded(model)
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


def predict_photographs(model, paths, *, passes: int = 1, batch_size: int = 16) -> pd.DataFrame:
    """Probabilities for photographs of any size and kind, through the crop and resize of `prepare`.

    Args:
        model: a model with one logit as output, or the folder of a run.
        paths: of photographs. Small ones are enlarged, none is dropped.
        passes: draws to average over.

    Returns:
        DataFrame: file, probability, spread, error (why a file could not be read, else empty).
    """
    from PIL import Image

    from keras_stoch.data.photographs import Dropped, no_warnings, open_image
    from keras_stoch.data.prepare import Settings, prepare_image

    model = _loaded(model)
    low_res, high_res = input_sizes(model)
    settings = Settings(size=max(high_res or 0, 1024, low_res), min_side=1)
    rows = [{"file": str(path), "probability": np.nan, "spread": np.nan, "error": ""} for path in paths]

    def batches():
        ready = []
        for row in rows:
            try:
                with no_warnings():
                    image, _ = prepare_image(open_image(row["file"]), settings)
            except Dropped as reason:
                row["error"] = str(reason)
                continue
            if high_res and high_res != settings.size:
                image = image.resize((high_res,) * 2, Image.Resampling.BILINEAR)
            ready.append((row, image))
            if len(ready) == batch_size:
                yield ready
                ready = []
        if ready:
            yield ready

    def inputs():
        for batch in batches():
            small = np.stack([np.asarray(i.resize((low_res,) * 2, Image.Resampling.BILINEAR)) for _, i in batch])
            yield {"low_res": small, "high_res": np.stack([np.asarray(i) for _, i in batch])} if high_res else small

    draws = expit(draw_logits(model, inputs(), passes))
    readable = [row for row in rows if not row["error"]]
    for row, of_image in zip(readable, draws, strict=True):
        row["probability"], row["spread"] = float(of_image.mean()), float(of_image.std())
    return pd.DataFrame(rows, columns=["file", "probability", "spread", "error"])


def draw_logits(model, batches, passes: int = 1) -> np.ndarray:
    """Logits of every draw: float64 (images, passes).

    Args:
        model: a model with one logit as output.
        batches: inputs of the model, batch by batch.
        passes: draws; more than 1 need a model with a detail branch.
    """
    if isinstance(passes, bool) or not isinstance(passes, int) or passes < 1:
        raise ValueError(f"passes must be an integer of at least 1. Received: {passes!r}")
    check_logit(model)
    run, found = _compiled(model, passes), [np.zeros((0, passes))]
    for inputs in batches:
        found.append(np.asarray(ops.convert_to_numpy(run(inputs)), np.float64)[..., 0].T)
    return np.concatenate(found)


def mean_logit(logits: np.ndarray) -> np.ndarray:
    """The logit of the mean probability, log(mean p) - log(mean (1 - p)), which never overflows: (images, passes) ->
    (images,)."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logsumexp(log_expit(logits), axis=1) - logsumexp(log_expit(-logits), axis=1)


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


def check_logit(model):
    """Raises ValueError unless a model puts out one logit per image."""
    if tuple(model.output_shape) != (None, 1):
        raise ValueError(f"The model must put out one logit per image, (batch, 1). Received: {model.output_shape}")
    check_no_sigmoid(model)


def check_no_sigmoid(model):
    """Raises ValueError for a model whose last layer makes probabilities, of which others would be made."""
    last = model.layers[-1]
    if getattr(last, "activation", None) in (keras.activations.sigmoid, keras.activations.softmax):
        name = last.activation.__name__
        raise ValueError(f"The model must put out logits, but {last.name!r} ends with a {name}")


def input_sizes(model) -> tuple[int, int | None]:
    """(low_res, high_res) in pixels that a model takes.

    Raises:
        ValueError: for several inputs of other names, or images that are not square.
    """
    inputs = {"low_res": model.inputs[0]} if len(model.inputs) == 1 else model.input
    if not isinstance(inputs, dict) or not set(inputs) <= {"low_res", "high_res"}:
        names = sorted(inputs) if isinstance(inputs, dict) else [tensor.name for tensor in inputs]
        raise ValueError(f"Inputs must be a dict of low_res and high_res. Received: {names}")
    for name, tensor in inputs.items():
        if len(tensor.shape) != 4 or tensor.shape[1] != tensor.shape[2] or tensor.shape[1] is None:
            raise ValueError(f"{name} must take square images of a fixed size. Received: {tuple(tensor.shape)}")
    return tuple(inputs[name].shape[1] if name in inputs else None for name in ("low_res", "high_res"))


def _loaded(model):
    if isinstance(model, str | Path):
        from keras_stoch.training import load_run

        return load_run(model)
    return model
