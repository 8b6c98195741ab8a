"""A model as functions of tensors, without Python state: what every format is written from."""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

from keras_stoch.contracts import check_logit, input_sizes
from keras_stoch.data.augment import reduce
from keras_stoch.data.decoding import MAX_PIXELS
from keras_stoch.evaluation.predictions import AveragedPasses
from keras_stoch.models import StochasticModel
from keras_stoch.serving.photographs import prepare_bytes


class Served:
    """A model as functions of tensors, without Python state: what `export` writes.

    Args:
        model: Keras model with one logit as output.
        max_draws, max_pixels: as in `export`.
        calibration: `Calibration` whose temperature and threshold every answer applies; None for probabilities alone.
    """

    def __init__(self, model, max_draws=256, max_pixels=MAX_PIXELS, calibration=None):
        check_logit(model)
        self.model, self.max_draws, self.max_pixels = model, max_draws, max_pixels
        self.calibration = calibration
        self.low_res, self.high_res = input_sizes(model)
        self.size = max(self.high_res or 0, 1024, self.low_res)  # as `predict_photographs` prepares them
        # Those of nested models too: their own draws would be the same after every load.
        stochastic = [layer for layer in model._flatten_layers() if hasattr(layer, "draw_windows")]
        if self.high_res and not stochastic:
            raise ValueError("A model with high_res and no StochasticConv2D can not be exported; model.export can")
        known = isinstance(model, StochasticModel) and len(stochastic) == 1 and stochastic[0] in model.layers
        if stochastic and not known:
            raise ValueError(
                "A model of your own with a StochasticConv2D can not be exported: its windows have no way in"
            )
        self.layer = stochastic[0] if stochastic else None
        self.parts = AveragedPasses(model) if stochastic else None
        low = tf.TensorSpec((None, self.low_res, self.low_res, 3), tf.uint8, "low_res")
        self.signature = (low,)
        if stochastic:
            shape = (self.layer.filters, 2)
            self.signature += (
                tf.TensorSpec((None, self.high_res, self.high_res, 3), tf.uint8, "high_res"),
                tf.TensorSpec((None, *shape) if self.per_image else shape, tf.int32, "windows"),
            )
        # Traced once, and called by all endpoints.
        self.core = traced(self.logit, *self.signature)

    @property
    def spans(self) -> list[int]:
        """How many rows and columns a window can begin at."""
        return [self.high_res - side + 1 for side in self.layer.window]

    @property
    def per_image(self) -> bool:
        return self.layer.window_sharing == "image"

    def endpoints(self) -> dict:
        """Name -> tf.function with a signature."""
        encoded = tf.TensorSpec((None,), tf.string, "images")
        side = self.high_res or self.low_res
        pixels = tf.TensorSpec((None, side, side, 3), tf.uint8, "images")
        if self.layer is None:
            return {
                "serve": traced(lambda low_res: self.answer(self.core(low_res)), *self.signature),
                "serve_image": traced(lambda images: self.answer(self.core(images)), pixels),
                "serve_bytes": traced(lambda images: self.answer(self.core(**self.decode(images))), encoded),
            }
        n = tf.TensorSpec((), tf.int32, "n")
        seed = tf.TensorSpec((), tf.int64, "seed")
        return {
            "serve": traced(self._drawn, *self.signature[:2]),
            "serve_windows": traced(self._given, *self.signature),
            "serve_image": traced(lambda images: self._drawn(self.shrink(images), images), pixels),
            "serve_bytes": traced(lambda images: self._drawn(**self.decode(images)), encoded),
            "serve_averaged": traced(self._averaged, encoded, n),
            "serve_seeded": traced(self._seeded, encoded, seed),
        }

    def answer(self, logits) -> dict:
        """What an endpoint says of logits (batch,): probability, and where they are known calibrated and decision."""
        found = {"probability": tf.sigmoid(logits)}
        if self.calibration is not None:
            found["calibrated"] = tf.sigmoid(logits / self.calibration.temperature)
            if self.calibration.threshold_logit is not None:
                found["decision"] = tf.cast(logits >= self.calibration.threshold_logit, tf.int32)
        return found

    def logit(self, low_res, high_res=None, windows=None):
        """float32 (batch,)."""
        low_res = tf.cast(low_res, tf.float32)
        if high_res is None:
            logits = self.model(low_res, training=False)
        else:
            logits = self.model({"low_res": low_res, "high_res": high_res}, training=False, windows=windows)
        return tf.cast(logits[:, 0], tf.float32)

    def draw(self, images):
        """Windows from a source that nothing seeds: a generator's saved state would repeat itself in every server."""
        filters = self.layer.filters
        shape = [tf.shape(images)[0], filters] if self.per_image else [filters]
        # Both seeds zero: seeded by the operating system when a process first runs this.
        columns = [
            tf.raw_ops.RandomUniformInt(shape=shape, minval=0, maxval=tf.constant(span), seed=0, seed2=0)
            for span in self.spans
        ]
        return tf.stack(columns, axis=-1)

    def shrink(self, images):
        """The small images, as the input pipeline makes them."""
        return reduce(images, self.low_res)

    def decode(self, encoded):
        """Encoded photographs -> dict of uint8 "low_res" and "high_res" (if the model has that)."""
        images = decoder(self.size, self.high_res or self.low_res, self.max_pixels)(encoded)
        if self.high_res is None:
            return {"low_res": images}
        return {"low_res": self.shrink(images), "high_res": images}

    def _drawn(self, low_res, high_res):
        return self.answer(self.core(low_res, high_res, self.draw(high_res)))

    def _given(self, low_res, high_res, windows):
        words = ["windows must lie between 0 and", [span - 1 for span in self.spans], "(top, left). Received:", windows]
        inside = tf.reduce_all((windows >= 0) & (windows < tf.constant(self.spans)))
        with tf.control_dependencies([tf.debugging.Assert(inside, words, summarize=8)]):
            windows = tf.identity(windows)
        return self.answer(self.core(low_res, high_res, windows))

    def _averaged(self, images, n):
        few = tf.debugging.Assert(n >= 1, ["n must be at least 1. Received:", n])
        many = tf.debugging.Assert(n <= self.max_draws, ["n must be at most", self.max_draws, ". Received:", n])
        with tf.control_dependencies([few, many]):
            images, n = tf.identity(images), tf.identity(n)  # nothing is decoded before
        inputs = self.decode(images)
        common = self.parts.global_branch(tf.cast(inputs["low_res"], tf.float32), training=False)

        def once(_):
            high_res = inputs["high_res"]
            detail = self.parts.detail_branch(high_res, training=False, windows=self.draw(high_res))
            logits = self.parts.head(tf.concat([common, detail], axis=-1), training=False)
            return tf.cast(logits[:, 0], tf.float32)

        logits = tf.map_fn(once, tf.range(n), fn_output_signature=tf.TensorSpec((None,), tf.float32))
        draws = tf.sigmoid(logits)
        # The logit of the mean probability, as `evaluate` has it, in a form that does not overflow.
        mean = tf.reduce_logsumexp(tf.math.log_sigmoid(logits), 0)
        mean -= tf.reduce_logsumexp(tf.math.log_sigmoid(-logits), 0)
        found = {"probability": tf.reduce_mean(draws, 0), "spread": tf.math.reduce_std(draws, 0)}
        return self.answer(mean) | found

    def _seeded(self, images, seed):
        inputs = self.decode(images)
        columns = [
            tf.random.stateless_uniform((self.layer.filters,), tf.stack([seed, axis]), 0, span, tf.int32)
            for axis, span in enumerate(self.spans)
        ]
        windows = tf.stack(columns, axis=-1)
        if self.per_image:
            windows = tf.tile(windows[None], [tf.shape(images)[0], 1, 1])
        return self.answer(self.core(**inputs, windows=windows))

    def function_of_windows(self, batch):
        """The function of "serve_windows" with float32 images, and its signature: what other runtimes know to take."""
        signature = tuple(
            tf.TensorSpec((batch, *spec.shape[1:]), tf.float32, spec.name) if spec.name != "windows" else spec
            for spec in self.signature
        )
        if self.layer is not None and self.per_image:
            signature = (*signature[:2], tf.TensorSpec((batch, *signature[2].shape[1:]), tf.int32, "windows"))

        def function(low_res, high_res=None, windows=None):
            if windows is not None:
                # These runtimes can't refuse, and read other memory than the image's.
                windows = tf.clip_by_value(windows, 0, tf.constant(self.spans) - 1)
            return self.answer(self.logit(low_res, high_res, windows))

        return traced(function, *signature), signature

    @contextlib.contextmanager
    def plain(self):
        """A model in operations that every runtime has: the stochastic layer not compiled by XLA, and normalisation by
        constants, of which tf2onnx would make inputs if they were tensors."""
        changed = []

        def change(item, name, value):
            changed.append((item, name, getattr(item, name)))
            setattr(item, name, value)

        if self.layer is not None:
            change(self.layer, "implementation", "blocks")
        for layer in self.model._flatten_layers():
            if isinstance(layer, keras.layers.Normalization) and layer.mean is not None:
                for name in ("mean", "variance"):
                    change(layer, name, np.asarray(getattr(layer, name)))
        try:
            yield
        finally:
            for item, name, value in changed:
                setattr(item, name, value)


@functools.cache
def decoder(size: int, side: int, max_pixels: int):
    """A function from encoded photographs (batch,) to uint8 (batch, side, side, 3); a large graph, made once."""

    def decode(encoded):
        return tf.map_fn(
            lambda pair: prepare_bytes(*pair, size, side, max_pixels),
            (encoded, tf.range(tf.shape(encoded)[0])),
            fn_output_signature=tf.TensorSpec((side, side, 3), tf.uint8),
        )

    return traced(decode, tf.TensorSpec((None,), tf.string, "images"))


def traced(function, *signature):
    """A tf.function of this signature."""
    return tf.function(function, input_signature=signature, autograph=False)
