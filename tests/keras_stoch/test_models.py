"""The models against keras.applications, and what `create_model` refuses."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_stoch
import keras_stoch.layers
from keras_stoch.architectures import ARCHITECTURES
from tests.conftest import shake

OFFICIAL = {"b0": keras.applications.EfficientNetB0, "b4": keras.applications.EfficientNetB4}


@functools.cache
def both(name, num_classes):
    """The official model and ours, with new weights; not to be changed."""
    return OFFICIAL[name](weights=None, classes=num_classes), keras_stoch.create_model(name, num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "num_classes"),
    [("b0", 1), ("b0", 7), *(pytest.param("b4", count, marks=pytest.mark.slow) for count in (1, 7))],
)
def test_counts_and_names_are_the_official_ones(name, num_classes):
    official, model = both(name, num_classes)
    assert model.count_params() == official.count_params()
    assert [w.shape for w in model.trainable_weights] == [w.shape for w in official.trainable_weights]
    ours, theirs = ([layer.name for layer in m.layers] for m in (model, official))
    assert ours[3:] == theirs[3:]  # the first three, input and rescaling, are unnamed in the official model


@pytest.mark.parametrize(("name", "count"), [("b0", 4_050_852), pytest.param("b4", 17_675_616, marks=pytest.mark.slow)])
def test_published_parameter_counts(name, count):
    assert both(name, 1)[1].count_params() == count


@pytest.mark.parametrize("size", [pytest.param(64, marks=pytest.mark.slow), 75])
def test_equals_the_official_model_bit_for_bit(size, official_b0, rng):
    official = keras.applications.EfficientNetB0(
        weights=None, classes=1, classifier_activation=None, input_shape=(size, size, 3)
    )
    official.set_weights(official_b0.get_weights())
    next(layer for layer in official.layers if isinstance(layer, keras.layers.Normalization)).finalize_state()
    model = keras_stoch.create_model("b0", size, weights=official)
    x = rng.uniform(0, 255, (2, size, size, 3)).astype("float32")
    np.testing.assert_array_equal(model(x), official(x))


def test_initialisers_are_the_official_ones():
    official, model = both("b0", 7)
    for layer in official.layers:
        for attribute in ("kernel_initializer", "depthwise_initializer"):
            if hasattr(layer, attribute) and getattr(layer, attribute) is not None:
                ours = getattr(model.get_layer(layer.name), attribute).get_config()
                theirs = getattr(layer, attribute).get_config()
                ours.pop("seed"), theirs.pop("seed")
                assert ours == theirs, layer.name


def test_save_and_load(tiny, tmp_path, images):
    model = shake(keras_stoch.create_model("tiny", 64))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is keras_stoch.EfficientNet
    np.testing.assert_array_equal(again(images), model(images))
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]


# NumPy is the backend that is imported fastest, and what is imported first does not depend on it.
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", pytest.param("tensorflow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("imports", ["import keras, keras_stoch", "import keras_stoch, keras"])
def test_a_fresh_process_loads_a_saved_model(tiny, tmp_path, imports, backend):
    keras_stoch.create_model("tiny", 64).save(tmp_path / "model.keras")
    load = "keras.models" if imports.startswith("import keras,") else "keras_stoch"
    code = f"{imports}; print({load}.load_model({str(tmp_path / 'model.keras')!r}).name)"
    environment = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "tiny", done.stderr


def test_uint8_and_float_pixels_give_the_same(tiny, images):
    model = shake(keras_stoch.create_model("tiny", 64))
    np.testing.assert_array_equal(model(images.astype("uint8")), model(images))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(tiny, policy, images):
    keras.utils.set_random_seed(0)  # how far half precision errs depends on the weights
    exact = shake(keras_stoch.create_model("tiny", 64))
    mixed = keras_stoch.create_model("tiny", 64, dtype=policy)
    mixed.set_weights(exact.get_weights())
    assert mixed.get_layer("stem_conv").compute_dtype == policy.removeprefix("mixed_")
    assert mixed.get_layer("stem_conv").kernel.dtype == "float32"
    logits = mixed(images)
    assert logits.dtype == "float32"
    np.testing.assert_allclose(logits, exact(images), atol=0.05)


def test_summary_names_the_layers(capsys):
    both("b0", 1)[1].summary(print_fn=lambda line, *_, **__: print(line))
    assert "block7a_project_bn" in capsys.readouterr().out


def test_a_block_with_a_residual_drops():
    drops = [layer for layer in both("b0", 1)[1].layers if isinstance(layer, keras.layers.Dropout)]
    assert len(drops) == 10  # nine residual blocks and the top


def test_drop_masks_are_obeyed(tiny, images):
    model = shake(keras_stoch.create_model("tiny", 64, drop_connect=0.5))
    drops = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert len(drops) == 2  # one residual block and the top
    keep = {layer.name: np.ones((2, 1, 1, 1)) for layer in drops}
    keep["top_dropout"] = np.ones((2, 1))
    first = {**keep, "block2a_drop": np.array([1.0, 0.0]).reshape(2, 1, 1, 1)}

    # By hand: masked and scaled by the keep probability at one layer, scaled alone at the others.
    layer = model.get_layer("block2a_drop")
    x = np.random.default_rng(0).normal(size=(2, 2, 2, 16)).astype("float32")
    np.testing.assert_allclose(
        layer(x, training=True, drop_masks=first),
        x * np.array([1.0, 0.0]).reshape(2, 1, 1, 1) / (1 - layer.rate),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(layer(x, training=False, drop_masks=first), x)
    a, b, c = (np.asarray(model(images, training=True, drop_masks=m)) for m in (keep, first, first))
    assert not np.allclose(a, b)
    np.testing.assert_allclose(b, c, rtol=1e-5)


def test_drawn_masks_have_the_right_rate():
    layer = keras_stoch.layers.Dropout(0.3, noise_shape=(None, 1, 1, 1), seed=1)
    y = np.asarray(layer(np.ones((4000, 2, 2, 1), "float32"), training=True))
    assert set(np.unique(y.round(4))) == {0.0, np.float32(1 / 0.7).round(4)}
    assert (y == y[:, :1, :1]).all()
    # Binomial: four standard deviations around the expected fraction.
    assert abs((y[:, 0, 0, 0] == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)


def test_gradients_reach_every_weight(tiny, images):
    import tensorflow as tf

    model = keras_stoch.create_model("tiny", 64)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True) ** 2)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert all(g is not None for g in gradients)
    assert np.isfinite([float(tf.norm(g)) for g in gradients]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "b9"}, r"Expected one of b0, b0-stem64, b4, stem-b0.*Received: name='b9'"),
        ({"name": "b0", "low_res": 31}, "at least 32 pixels.*Received: low_res=31"),
        ({"name": "b0", "low_res": (64, 64, 3)}, "Received: low_res="),
        ({"name": "b0", "low_res": 64.0}, "Received: low_res=64.0"),
        ({"name": "b0", "dropout": 1.0}, r"dropout must be a number in \[0, 1\)"),
        ({"name": "b0", "drop_connect": -0.1}, "drop_connect must be"),
        ({"name": "b0", "num_classes": 0}, "num_classes must be a positive int"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_stoch.create_model(**arguments)


def test_rectangles(tiny):
    model = keras_stoch.create_model("tiny", (64, 96))
    assert model.input_shape == (None, 64, 96, 3)
    assert model(np.zeros((1, 64, 96, 3))).shape == (1, 1)


def test_importing_is_light():
    code = "import keras_stoch, sys; sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_of_the_table(name):
    architecture = ARCHITECTURES[name]
    blocks = architecture.blocks
    assert len({block.name for block in blocks}) == len(blocks) == {"b4": 32, "stem-b4": 32}.get(name, 16)
    assert [b.drop_fraction for b in blocks] == [i / len(blocks) for i in range(len(blocks))]
    assert sum(block.strides == 2 for block in blocks) == 4
