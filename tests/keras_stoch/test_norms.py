"""Batch normalisation by the fused kernel against Keras's own, in float64 and in every type."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_stoch.norms import BatchNormalization

# In float32, the gradient of three pixels alone, which cancels, is off by 2e-5 in Keras's own layer too.
TOLERANCE = {"float64": 1e-12, "float32": 4e-5, "mixed_float16": 3e-3, "mixed_bfloat16": 2e-2}


def step(layer, images, jit=False):
    """(outputs, gradients of images, gamma and beta, moving averages after one call) in training."""

    def run(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, "float64") ** 3)
        gradients = tape.gradient(loss, [images, layer.gamma.value, layer.beta.value])
        return [outputs, *gradients, layer.moving_mean.value, layer.moving_variance.value]

    return [np.float64(tf.cast(x, "float64")) for x in tf.function(run, jit_compile=jit)(tf.constant(images))]


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("policy", TOLERANCE)
@pytest.mark.parametrize("size", [(2, 3, 5, 7), (3, 1, 1, 4)])
def test_a_step_is_that_of_keras_in_float64(size, policy, jit, rng):
    images = rng.normal(3, 2, size)
    weights = [rng.normal(size=size[-1]) for _ in range(3)] + [rng.uniform(0.5, 2, size[-1])]
    layers = BatchNormalization(dtype=policy), keras.layers.BatchNormalization(dtype="float64")
    for layer in layers:
        layer.build(size)
        layer.set_weights(weights)
    images = images.astype(policy.removeprefix("mixed_")) if policy != "mixed_bfloat16" else images.astype("float32")
    found, expected = step(layers[0], images, jit), step(layers[1], images.astype("float64"))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE[policy] * np.abs(theirs).max())


def test_the_kernel_is_used_and_inference_has_none(rng):
    layer = BatchNormalization()
    layer.build((None, 4, 4, 3))

    def operations(training):
        run = tf.function(lambda x: layer(x, training=training))
        graph = run.get_concrete_function(tf.TensorSpec((None, 4, 4, 3))).graph
        return {operation.type for operation in graph.get_operations()}

    assert "FusedBatchNormV3" in operations(True)
    assert "FusedBatchNormV3" not in operations(False)


def test_what_has_no_kernel_is_keras_own(rng):
    """A dense layer's output, channels first, no gamma, a mask: the same numbers, by Keras's own way."""
    cases = [({}, (5, 6), None), ({"axis": 1}, (2, 3, 4, 5), None), ({"scale": False}, (2, 3, 4, 5), None)]
    cases += [({}, (2, 3, 4, 5), np.arange(24).reshape(2, 3, 4) % 5 > 0)]
    for options, size, mask in cases:
        images = rng.normal(3, 2, size).astype("float32")
        ours, theirs = BatchNormalization(**options), keras.layers.BatchNormalization(**options)
        expected = theirs(images, training=True, mask=mask)
        np.testing.assert_array_equal(ours(images, training=True, mask=mask), expected)
        np.testing.assert_array_equal(ours.moving_variance, theirs.moving_variance)


def test_frozen_it_keeps_its_averages(rng):
    layer = BatchNormalization()
    layer.trainable = False
    images = rng.normal(3, 2, (2, 3, 4, 5)).astype("float32")
    np.testing.assert_allclose(layer(images, training=True), images / np.sqrt(1 + layer.epsilon), rtol=1e-6)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(5))
