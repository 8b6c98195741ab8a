"""Channels first is refused in words, wherever it comes from."""

import keras
import numpy as np
import pytest

import keras_stoch
from keras_stoch.contracts import input_sizes

REFUSED = r"\(batch, height, width, channels\) alone.*Received: "


@pytest.fixture
def first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format(before)


@pytest.mark.parametrize("name", ["tiny", "tiny-stem"])
def test_models(tiny, first, name):
    with pytest.raises(ValueError, match=REFUSED + r"keras.config.image_data_format\(\) == 'channels_first'"):
        keras_stoch.create_model(name)


def test_the_layer(first):
    with pytest.raises(ValueError, match=REFUSED + "keras.config"):
        keras_stoch.StochasticConv2D(4, 3, output_size=15)


def test_the_layers_argument():
    with pytest.raises(ValueError, match=REFUSED + "data_format='channels_first'"):
        keras_stoch.StochasticConv2D(4, 3, output_size=15, data_format="channels_first")
    options = {"data_format": "channels_last", "implementation": "slices"}  # which is not compiled
    layer = keras_stoch.StochasticConv2D(4, 3, output_size=15, **options)
    assert layer(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 15, 15, 4)


def test_models_of_ones_own():
    inputs = keras.Input((3, 32, 32))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match=r"\(batch, side, side, 3\), channels last. Received: \(None, 3, 32, 32\)"):
        input_sizes(model)
