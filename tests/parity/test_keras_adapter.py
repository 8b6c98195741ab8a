"""A Keras model behind its adapter: variables read and written, blocks as units made once, passes through one graph."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from parity.adapters.keras import KerasAdapter
from parity.adapters.keras_variables import read, write


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "int32"])
@pytest.mark.parametrize("shape", [(3, 2), ()])
def test_variables_are_read_and_written(dtype, shape):
    variable = keras.Variable(np.full(shape, 3), dtype=dtype)
    before = read(variable)
    array = np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(before.dtype)
    write(variable, array)
    after = read(variable)
    np.testing.assert_array_equal(after, array)
    np.testing.assert_array_equal(after, np.asarray(variable.value))
    variable.assign_add(keras.ops.ones_like(variable))
    np.testing.assert_array_equal(before, np.full(shape, 3))  # what was read is a copy
    np.testing.assert_array_equal(after, array)
    assert after.dtype == np.asarray(variable.value).dtype


def test_a_variable_on_several_devices_is_written_on_all():
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with strategy.scope():
        variable = keras.Variable(np.zeros(3), dtype="float32")
    write(variable, np.arange(3.0))
    np.testing.assert_array_equal(read(variable), np.arange(3))
    for part in strategy.experimental_local_results(variable.value):
        np.testing.assert_array_equal(part.numpy(), np.arange(3))


def blocks():
    inputs = x = keras.Input((6, 6, 2))
    for block in ("block1a", "block1b"):
        x = keras.layers.Conv2D(2, 3, padding="same", name=f"{block}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{block}_bn")(x)
    return KerasAdapter(keras.Model(inputs, x), groups=("block1a", "block1b"))


def test_a_block_is_a_unit_with_the_weights_of_now():
    adapter, images = blocks(), np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype(np.float32)
    for factor in (1.0, 3.0):
        adapter.assign({name: w.array * factor for name, w in adapter.weights().items()})
        calls = adapter.capture(images)
        assert list(calls) == [
            "block1a_conv",
            "block1a_bn",
            "block1a",
            "block1b_conv",
            "block1b_bn",
            "block1b",
            "output",
        ]
        np.testing.assert_allclose(calls["block1b"].replay(calls["block1b"].inputs), calls["output"].output, rtol=1e-6)
        np.testing.assert_array_equal(calls["block1a"].output, calls["block1b"].inputs[0])


@pytest.mark.parametrize("training", [False, True])
def test_outputs_through_a_graph_are_those_without(training):
    adapter, images = blocks(), np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype(np.float32)
    found = []
    for compiled in (False, True, True):
        adapter.compiled = compiled
        with adapter.preserved():
            outputs = adapter.outputs(images, training)
            moved = {name: w.array for name, w in adapter.weights(trainable=False).items()}
        found.append(outputs | moved)
        assert not training or found[0]["block1a_bn/moving_mean"].any()
    for other in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_allclose(other[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
