"""What the tests of serving are fed with: pictures, and a small model of Keras's own layers."""

import io

import keras
import numpy as np
import tensorflow as tf
from PIL import Image


def encode(pixels, format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def picture(height, width, seed=0, channels=3):
    """Smooth and structured, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, channels), dtype=np.uint8).squeeze())
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def ordinary():
    """A small model of Keras's own layers, 32x32 pixels to one logit."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, strides=2)(inputs))
    return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(x)))


def expected(model, given):
    """Probabilities of a model with given windows."""
    inputs = {name: given[name] for name in ("low_res", "high_res")}
    return np.asarray(tf.sigmoid(model(inputs, windows=given["windows"])))[:, 0]
