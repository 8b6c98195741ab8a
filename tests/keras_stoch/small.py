"""A small model with all that is random in a large one, and processes of their own that train it."""

import csv
import functools
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np

RECIPE = {"epochs": 6, "batch_size": 8, "hold_epochs": 1, "learning_rate": 1e-3}


def build():
    """A model with batch norm, a stochastic stem, dropout and one logit."""
    import keras

    from keras_stoch.layers import Dropout, StochasticConv2D
    from keras_stoch.models import EfficientNet

    low = keras.Input((32, 32, 3), name="low_res")
    high = keras.Input((64, 64, 3), name="high_res")
    x = keras.layers.Rescaling(1 / 255)(low)
    x = keras.layers.Conv2D(6, 3, strides=2, name="stem_conv")(x)
    x = keras.layers.BatchNormalization(name="stem_bn")(x)
    y = StochasticConv2D(6, 3, output_size=15, strides=2, rescale=1 / 255, window_sharing="image", name="detail")(high)
    y = keras.layers.BatchNormalization(name="detail_bn")(y)
    both = keras.layers.Concatenate(name="join")([keras.layers.GlobalMaxPooling2D()(v) for v in (x, y)])
    both = Dropout(0.3, name="top_dropout")(keras.layers.Activation("swish")(both))
    return EfficientNet({"low_res": low, "high_res": high}, keras.layers.Dense(1, name="predictions")(both))


def injected(batches=6, batch=8, seed=0):
    """A tf.data.Dataset with windows and drop masks as third part of every batch, and one without."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    count = batches * batch
    inputs = {
        "low_res": rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        "high_res": rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8),
    }
    targets = np.float32(np.arange(count) % 2)
    draws = {
        "windows": rng.integers(0, 64 - 31 + 1, (count, 6, 2), dtype=np.int32),
        "drop_masks": {"top_dropout": rng.random((count, 12)) < 0.7},
    }
    make = tf.data.Dataset.from_tensor_slices
    return make((inputs, targets, draws)).batch(batch), make((inputs, targets)).batch(batch)


def started(function, *arguments, **environment):
    """A process that calls a function of this file.

    It is forked from one that has imported TensorFlow and not yet used it, which saves ten seconds each.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *IMPORTED])
    process = context.Process(target=_run, args=(function, arguments, environment), daemon=True)
    process.start()
    return process


IMPORTED = (
    *("keras", "tensorflow", "pandas", "sklearn.metrics"),
    *("keras_stoch.models", "keras_stoch.data.pipeline", "keras_stoch.training.engine"),
)


def _run(function, arguments, environment):
    os.environ |= environment
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    function(*arguments)


def train_slowly(prepared, out):
    """Trains, with a checkpoint after every step or two, until it is done, or killed."""
    import keras
    import tensorflow as tf

    import keras_stoch

    tf.config.threading.set_intra_op_parallelism_threads(2)

    def tell(batch, logs):
        """Says that this process has taken a step, and leaves time for being killed."""
        Path(f"{out}-began-{os.getpid()}").touch()
        time.sleep(0.01)

    slow = keras.callbacks.LambdaCallback(on_train_batch_end=tell)
    keras_stoch.fit(build, prepared, out, checkpoint_seconds=0.02, callbacks=[slow], **RECIPE)


def train_as_worker(prepared, out):
    """Trains as one of the workers that TF_CONFIG names."""
    import keras_stoch

    # By its name, before any other operation of TensorFlow, as that demands; then the same one again.
    keras_stoch.fit(build, prepared, f"{out}/drawn", strategy="multiworker", **RECIPE | {"epochs": 1})
    train_injected(f"{out}/given", "multiworker")


def rows(path):
    """The rows of a table, as dicts of strings."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def weights(path):
    """The arrays of a file of weights of `build()`."""
    model = _built()
    model.load_weights(path)
    return model.get_weights()


_built = functools.cache(build)


def train_injected(out, strategy):
    """Trains with given windows and masks, and returns the losses of all steps."""
    import keras_stoch

    data, validation = injected()
    keras_stoch.fit(build, data, out, validation_data=validation, strategy=strategy, **RECIPE | {"epochs": 2})
    return [float(row["loss"]) for row in rows(f"{out}/run-0/batches.csv")]
