"""Predictions, averaged over draws of the windows. Section 4.1.7 of the paper."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops
from PIL import Image
from scipy.special import expit, log_expit, logsumexp

from keras_stoch.contracts import check_logit, check_no_sigmoid, input_sizes
from keras_stoch.data.photographs import Dropped, no_warnings, open_image
from keras_stoch.data.prepare import Settings, prepare_image
from keras_stoch.progress import progress_bar
from keras_stoch.training.runs import loaded, runs_of

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


def predict_photographs(model, paths, *, passes: int = 1, batch_size: int = 16, progress: bool = False) -> pd.DataFrame:
    """Probabilities for photographs of any size and kind, through the crop and resize of `prepare`.

    Args:
        model: a model with one logit as output; the folder of a run; a folder of runs or a list, as an ensemble whose
            probabilities are averaged.
        paths: of photographs. Small ones are enlarged, none is dropped.
        passes: draws to average over.
        batch_size: images at once.
        progress: show a bar, or lines in a log, on stderr.

    Returns:
        DataFrame: file, probability, spread, error (why a file could not be read, else empty).
    """
    rows = [{"file": str(path), "probability": np.nan, "spread": np.nan, "error": ""} for path in paths]
    models = [loaded(run) for run in runs_of(model)]
    if not models:
        raise ValueError("No model was given: name a run, a folder of runs, or several runs")
    with progress_bar(len(rows) * len(models), "predict", progress) as bar:
        logits = np.concatenate([_photograph_logits(one, rows, passes, batch_size, bar) for one in models], axis=1)
    readable = [row for row in rows if not row["error"]]
    for row, of_image in zip(readable, expit(logits), strict=True):
        row["probability"], row["spread"] = float(of_image.mean()), float(of_image.std())
    return pd.DataFrame(rows, columns=["file", "probability", "spread", "error"])


def _photograph_logits(model, rows, passes, batch_size, bar) -> np.ndarray:
    """Logits of every draw for the photographs that can be read; the others are told why in their row."""
    low_res, high_res = input_sizes(model)
    settings = Settings(size=max(high_res or 0, 1024, low_res), min_side=1)

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
            bar.update(len(batch))
            small = np.stack([np.asarray(i.resize((low_res,) * 2, Image.Resampling.BILINEAR)) for _, i in batch])
            yield {"low_res": small, "high_res": np.stack([np.asarray(i) for _, i in batch])} if high_res else small

    return draw_logits(model, inputs(), passes)


def prepared_inputs(model, photograph) -> dict[str, np.ndarray]:
    """One photograph as a batch for a model with a detail branch: "low_res" and "high_res", uint8.

    Args:
        model: a model with the inputs low_res and high_res.
        photograph: path, prepared as by `predict_photographs`; or uint8 pixels (high_res, high_res, 3).

    Raises:
        ValueError: if it can not be read, or has another size.
    """
    low_res, high_res = input_sizes(model)
    if isinstance(photograph, str | Path):
        settings = Settings(size=max(high_res, 1024, low_res), min_side=1)
        try:
            with no_warnings():
                image, _ = prepare_image(open_image(photograph), settings)
        except Dropped as reason:
            raise ValueError(f"{photograph} can not be read: {reason}") from None
        if high_res != image.width:
            image = image.resize((high_res,) * 2, Image.Resampling.BILINEAR)
    else:
        pixels, shape = np.asarray(photograph), (high_res, high_res, 3)
        if pixels.shape != shape or pixels.dtype != np.uint8:
            raise ValueError(f"Pixels must be uint8 of the shape {shape}. Received: {pixels.dtype}, {pixels.shape}")
        image = Image.fromarray(pixels)
    small = np.asarray(image.resize((low_res,) * 2, Image.Resampling.BILINEAR))
    return {"low_res": small[None], "high_res": np.asarray(image)[None]}


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
