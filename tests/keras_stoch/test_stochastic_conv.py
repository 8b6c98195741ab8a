"""The stochastic layer against a convolution by hand, and Keras's contract of a layer."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_stoch import StochasticConv2D, stochastic
from keras_stoch.windows import draw_windows, window_size

FORMS = tuple(stochastic.IMPLEMENTATIONS)


def by_hand(images, kernel, windows, strides, output_size):
    """The definition, in float64 and four loops."""
    kh, kw, _, filters = kernel.shape
    out = np.zeros((len(images), *output_size, filters))
    for b in range(len(images)):
        for f in range(filters):
            top, left = windows[b, f] if windows.ndim == 3 else windows[f]
            for y in range(output_size[0]):
                for x in range(output_size[1]):
                    row, column = top + y * strides[0], left + x * strides[1]
                    patch = images[b, row : row + kh, column : column + kw]
                    out[b, y, x, f] = (patch * kernel[..., f]).sum()
    return out


CASES = [  # image, channels, kernel, strides, output, filters
    ((20, 20), 3, (3, 3), (2, 2), (6, 6), 4),
    ((19, 26), 3, (3, 2), (2, 3), (5, 7), 3),  # nothing square
    ((13, 9), 2, (1, 5), (1, 1), (13, 5), 2),  # the window fills the image: one position
    ((16, 16), 1, (5, 5), (3, 1), (2, 9), 5),
    ((15, 15), 3, (2, 2), (4, 4), (3, 3), 1),  # stride beyond the kernel
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sharing", ["batch", "image"])
@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_every_form_is_the_definition(case, form, sharing, dtype, rng):
    size, channels, kernel_size, strides, output, filters = case
    images = rng.integers(0, 256, (3, *size, channels)).astype(dtype)
    kernel = rng.normal(size=(*kernel_size, channels, filters))
    spans = np.subtract(size, window_size(output, kernel_size, strides)) + 1
    windows = rng.integers(0, spans, (filters, 2) if sharing == "batch" else (3, filters, 2))
    expected = by_hand(images.astype(float), kernel, windows, strides, output)
    actual = stochastic.IMPLEMENTATIONS[form](
        tf.constant(images), tf.constant(kernel), tf.constant(windows, tf.int32), strides, output
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sharing", ["batch", "image"])
def test_gradients_agree_with_finite_differences(form, sharing, rng):
    images, kernel = rng.normal(size=(2, 11, 12, 2)), rng.normal(size=(3, 2, 2, 3))
    windows = tf.constant(rng.integers(0, 3, (3, 2) if sharing == "batch" else (2, 3, 2)), tf.int32)
    upstream = rng.normal(size=(2, 4, 5, 3))
    strides, output = (2, 2), (4, 5)

    def value(images, kernel):
        return (by_hand(images, kernel, windows.numpy(), strides, output) * upstream).sum()

    x, k = tf.constant(images), tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch([x, k])
        loss = tf.reduce_sum(stochastic.IMPLEMENTATIONS[form](x, k, windows, strides, output) * upstream)
    image_gradient, kernel_gradient = tape.gradient(loss, [x, k])
    for array, gradient, place in [
        (kernel, kernel_gradient, (1, 1, 0, 2)),
        (kernel, kernel_gradient, (2, 0, 1, 0)),
        (images, image_gradient, (1, 5, 4, 1)),
        (images, image_gradient, (0, 10, 11, 0)),
    ]:
        if gradient is None:
            assert form == "taps"  # it promises none for the image
            continue
        moved = [array.copy(), array.copy()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        pairs = [(m, kernel) if array is images else (images, m) for m in moved]
        numeric = (value(*pairs[0]) - value(*pairs[1])) / 2e-6
        assert float(gradient[place]) == pytest.approx(numeric, rel=1e-6, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("output", [(17, 4), (34, 3)])  # a row at a time, and two
def test_the_gradient_of_maps_with_many_rows(output, rng):
    size = np.add(window_size(output, (3, 2), (2, 3)), (3, 4))
    images, kernel = tf.constant(rng.normal(size=(2, *size, 2))), tf.constant(rng.normal(size=(3, 2, 2, 3)))
    windows = tf.constant(rng.integers(0, 4, (2, 3, 2)), tf.int32)
    upstream, found = rng.normal(size=(2, *output, 3)), []
    for form in ("slices", "taps"):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = tf.reduce_sum(stochastic.IMPLEMENTATIONS[form](images, kernel, windows, (2, 3), output) * upstream)
        found.append(tape.gradient(loss, kernel))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10)


@pytest.mark.parametrize("sharing", ["batch", "image"])
def test_second_derivatives_are_those_of_slices(sharing, rng):
    """Of a loss that is not linear in the maps, as a penalty on gradients has them."""
    images, kernel = tf.constant(rng.normal(size=(2, 11, 12, 2))), tf.constant(rng.normal(size=(3, 2, 2, 3)))
    windows = tf.constant(rng.integers(0, 3, (3, 2) if sharing == "batch" else (2, 3, 2)), tf.int32)
    found = []
    for form in ("slices", "taps"):
        with tf.GradientTape() as outer:
            outer.watch(kernel)
            with tf.GradientTape() as inner:
                inner.watch(kernel)
                loss = tf.reduce_sum(stochastic.IMPLEMENTATIONS[form](images, kernel, windows, (2, 2), (4, 5)) ** 3)
            penalty = tf.reduce_sum(inner.gradient(loss, kernel) ** 2)
        found.append(outer.gradient(penalty, kernel))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10)


@pytest.mark.slow
def test_normalisation_folds_exactly(rng):
    images = rng.integers(0, 256, (2, 20, 20, 3)).astype("uint8")
    windows = rng.integers(0, 8, (4, 2))
    layer = StochasticConv2D(4, 3, 6, 2, rescale=1 / 255, normalize=True, dtype="float64")
    layer.build(images.shape)
    layer.bias.assign(rng.normal(size=4))
    layer.mean.assign([0.485, 0.456, 0.406])
    layer.variance.assign([0.05, 0.06, 0.07])
    std = np.sqrt(layer.variance.numpy())
    unfolded = (images * float(np.float32(1 / 255)) - layer.mean.numpy()) / std
    expected = by_hand(unfolded, layer.kernel.numpy(), windows, (2, 2), (6, 6)) + layer.bias.numpy()
    np.testing.assert_allclose(layer(images, windows=windows), expected, rtol=1e-12, atol=1e-12)
    # Of uint8 and of float pixels XLA makes programs of their own, which may round otherwise.
    same = layer(images.astype(float), windows=windows)
    np.testing.assert_allclose(layer(images, windows=windows), same, rtol=1e-12, atol=1e-14)


def test_draws_are_uniform_with_both_ends_and_independent():
    seed = keras.random.SeedGenerator(7)
    draws = np.stack([draw_windows((14, 17), (10, 10), 50, seed=seed) for _ in range(200)]).reshape(-1, 2)
    table = np.zeros((5, 8))
    np.add.at(table, tuple(draws.T), 1)
    assert stats.chisquare(table.ravel()).pvalue > 1e-4
    assert stats.chisquare(table.sum(1)).pvalue > 1e-4
    assert stats.chisquare(table.sum(0)).pvalue > 1e-4
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_draws_differ_by_call_and_repeat_by_seed(rng):
    images = rng.normal(size=(2, 40, 40, 1)).astype("float32")

    def run(seed):
        layer = StochasticConv2D(3, 3, 5, seed=seed, kernel_initializer="ones")
        return [np.asarray(layer(images, training=t)) for t in (True, False, False)]

    first, again, other = run(1), run(1), run(2)
    assert not np.array_equal(first[1], first[2])  # at inference too
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_sharing_shares(rng):
    images = np.repeat(rng.normal(size=(1, 40, 40, 1)).astype("float32"), 4, 0)
    batch, image = (StochasticConv2D(3, 3, 5, window_sharing=s, seed=1)(images) for s in ("batch", "image"))
    assert np.ptp(batch, axis=0).max() == 0
    assert np.ptp(image, axis=0).max() > 0


def test_replicas_draw_differently(mirrored):
    with mirrored.scope():
        layer = StochasticConv2D(4, 3, 5, seed=3)
        layer.build((1, 400, 400, 1))
    draws = mirrored.run(tf.function(lambda: layer.draw_windows((400, 400))))
    first, second = (d.numpy() for d in mirrored.experimental_local_results(draws))
    assert not np.array_equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "jit"), [("auto", False), ("auto", True), ("indexed", True)])
@pytest.mark.parametrize("sharing", ["batch", "image"])
def test_under_tf_function(form, jit, sharing, rng):
    images = rng.integers(0, 256, (2, 24, 25, 2)).astype("uint8")
    layer = StochasticConv2D(4, 3, 6, 2, window_sharing=sharing, seed=1, implementation=form)
    layer.build(images.shape)
    upstream = tf.constant(rng.normal(size=(2, 6, 6, 4)), tf.float32)

    def run(x, windows=None):
        with tf.GradientTape() as tape:
            maps = layer(x, windows=windows)
            loss = tf.reduce_sum(maps * upstream)
        return maps, tape.gradient(loss, layer.kernel.value)

    compiled = tf.function(run, jit_compile=jit)
    windows = layer.draw_windows((24, 25), 2)
    maps, gradient = compiled(images, windows)
    expected = by_hand(images.astype(float), layer.kernel.numpy().astype(float), windows.numpy(), (2, 2), (6, 6))
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gradient, run(images, windows)[1], rtol=1e-4, atol=1e-2)
    drawn = tf.function(layer, jit_compile=jit)
    assert not np.array_equal(drawn(images), drawn(images))


def test_images_and_windows_that_do_not_belong_together(rng):
    layer = StochasticConv2D(2, 3, 4)
    images = rng.normal(size=(3, 20, 30, 3)).astype("float32")
    layer(images)
    with pytest.raises(ValueError, match="expected axis -1 of input shape to have value 3"):
        layer(images[..., :2])
    with pytest.raises(ValueError, match="windows of 2 images were given for 3"):
        layer(images, windows=np.zeros((2, 2, 2), int))


def test_a_window_beyond_the_image(rng):
    """Told where numbers are at hand; NaN, and no pixels of another place, where they are not."""
    images = rng.normal(size=(2, 20, 30, 1)).astype("float32")
    layer = StochasticConv2D(2, 3, 4)
    layer(images, windows=[[14, 24], [0, 0]])
    for bad in ([[15, 24], [0, 0]], [[14, 25], [0, 0]], [[0, -1], [0, 0]]):
        message = rf"6x6 pixels in an image of 20x30 .*\(14, 24\). Received: 1 of 2 .*\({bad[0][0]}, {bad[0][1]}\)"
        with pytest.raises(ValueError, match=message):
            layer(images, windows=bad)
        graph = tf.function(lambda windows: layer(images, windows=windows))
        assert np.isnan(graph(tf.constant(bad))).all()


COUNTED = """
import glob, sys
import keras, numpy as np
import keras_stoch

images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype("uint8")
for sharing in ("batch", "image"):
    conv = keras_stoch.StochasticConv2D(4, 3, 6, 2, window_sharing=sharing, rescale=1 / 255)
    model = keras.Sequential([keras.Input((40, 40, 3)), conv, keras.layers.GlobalAveragePooling2D()])
    model.compile("sgd", "mse", jit_compile=True)
    losses, counts = [], []
    for _ in range(10):
        losses.append(float(model.train_on_batch(images, np.zeros((2, 4)))))
        counts.append(len(glob.glob(sys.argv[1] + "/*before_optimizations.txt")))
    print(len(set(losses)), counts[0], counts[-1])
"""


def test_auto_on_a_gpu_is_indexed_where_reads_are_fused(monkeypatch):
    used = []

    def noted(name, form):
        return lambda *args: (used.append(name), form(*args))[1]

    monkeypatch.setattr(stochastic, "_has_gpu", lambda: True)
    forms = {name: noted(name, form) for name, form in stochastic.IMPLEMENTATIONS.items()}
    monkeypatch.setattr(stochastic, "IMPLEMENTATIONS", forms)
    layer, images = StochasticConv2D(2, 3, 4, 2), np.zeros((2, 12, 12, 3), "uint8")
    layer(images)
    tf.function(layer)(images)
    tf.function(layer, jit_compile=True)(images)
    assert used == ["gather", "gather", "indexed"]


@pytest.mark.slow
def test_a_compiled_step_is_compiled_once_for_all_draws(tmp_path):
    """XLA writes down every program that it compiles: ten steps with other windows add none to the first."""
    environment = os.environ | {"XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"}
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, tmp_path], env=environment, capture_output=True, text=True, check=True
    )
    for line in done.stdout.strip().splitlines()[-2:]:
        different, first, last = map(int, line.split())
        assert different == 10  # the windows were drawn anew
        assert first > 0
        assert last == first


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["batch", "image"])
@pytest.mark.parametrize("form", ["auto", *FORMS])
def test_unknown_batch_size(form, sharing, rng):
    layer = StochasticConv2D(2, 3, 4, window_sharing=sharing, implementation=form, seed=1)
    inputs = keras.Input((12, 12, 3))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, 4, 4, 2)
    assert model.predict(rng.normal(size=(5, 12, 12, 3)), batch_size=2, verbose=0).shape == (5, 4, 4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("form", ["auto", *FORMS])
def test_the_gradient_where_shapes_are_unknown(form, per_image, rng):
    """Without a static batch size, TensorFlow's gradient of what follows comes back without any static shape."""
    layer, behind = StochasticConv2D(2, 3, 4, implementation=form), keras.layers.Conv2D(3, 3, padding="same")

    def gradient(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(behind(layer(images, windows=windows)) ** 2)
        return tape.gradient(loss, layer.kernel.value)

    images = rng.normal(size=(5, 12, 12, 3)).astype("float32")
    windows = rng.integers(0, 7, (5, 2, 2) if per_image else (2, 2)).astype("int32")
    expected = gradient(tf.constant(images))
    unknown = tf.function(gradient, input_signature=[tf.TensorSpec((None, 12, 12, 3))])
    np.testing.assert_allclose(unknown(images), expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_mixed_precision(policy, form, rng):
    images = rng.integers(0, 256, (2, 20, 20, 3)).astype("uint8")
    windows = rng.integers(0, 8, (4, 2))
    exact = StochasticConv2D(4, 3, 6, 2, rescale=1 / 255, normalize=True, seed=0)
    mixed = StochasticConv2D(4, 3, 6, 2, rescale=1 / 255, normalize=True, implementation=form, dtype=policy)
    for layer in (exact, mixed):
        layer.build(images.shape)
    mixed.set_weights(exact.get_weights())
    assert mixed.kernel.dtype == "float32"
    outputs = mixed(images, windows=windows)
    assert outputs.dtype == policy.removeprefix("mixed_")
    expected = np.asarray(exact(images, windows=windows))
    tolerance = {"mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}[policy] * np.abs(expected).max()
    np.testing.assert_allclose(tf.cast(outputs, "float32"), expected, atol=tolerance)


def test_image_gradient_only_on_request(rng):
    images = tf.constant(rng.normal(size=(1, 12, 12, 1)), tf.float32)
    for wanted in (False, True):
        layer = StochasticConv2D(2, 3, 4, image_gradient=wanted)
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(layer(images))
        assert (tape.gradient(loss, images) is not None) == wanted


def test_layer_contract(tmp_path, rng):
    """What Keras asks of its own layers: config, rebuild, save, shapes, one seed generator."""
    arguments = {
        "filters": 4,
        "kernel_size": (3, 2),
        "output_size": (5, 6),
        "strides": (2, 1),
        "window_sharing": "image",
        "implementation": "slices",
        "activation": "relu",
        "use_bias": True,
        "rescale": 0.5,
        "normalize": True,
        "image_gradient": True,
        "seed": 5,
    }
    layer = StochasticConv2D(**arguments)
    config = layer.get_config()
    assert {k: config[k] for k in arguments} == arguments
    again = StochasticConv2D.from_config(config)
    assert again.get_config() == config
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)).get_config() == config
    inputs = keras.Input((20, 20, 3))
    model = keras.Model(inputs, layer(inputs))
    assert layer.compute_output_shape((None, 20, 20, 3)) == (None, 5, 6, 4) == model.output_shape
    assert len([v for v in layer.variables if "seed" in v.path]) == 1
    assert len(layer.trainable_weights) == 2
    assert len(layer.non_trainable_weights) == 2
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    x, windows = rng.normal(size=(2, 20, 20, 3)), rng.integers(0, 9, (2, 4, 2))
    np.testing.assert_array_equal(loaded.layers[1](x, windows=windows), layer(x, windows=windows))
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((2, 5, 6, 4)), verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "filters must be a positive int"),
        ({"kernel_size": 0}, "kernel_size must be a positive int or a pair"),
        ({"output_size": (3, 3, 3)}, "output_size must be"),
        ({"strides": 1.5}, "strides must be"),
        ({"window_sharing": "pixel"}, 'window_sharing must be "batch" or "image"'),
        ({"implementation": "magic"}, "implementation must be one of auto, naive"),
        ({"implementation": "taps", "image_gradient": True}, "has no gradient for the image"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        StochasticConv2D(**{"filters": 2, "kernel_size": 3, "output_size": 4} | arguments)


def test_bad_inputs():
    layer = StochasticConv2D(2, 3, 10, 2)
    with pytest.raises(ValueError, match=r"at least 21x21 pixels.*Received: 20x40"):
        layer(np.zeros((1, 20, 40, 3)))
    with pytest.raises(ValueError, match="at least 21x21"):
        keras.Model(x := keras.Input((20, 40, 3)), layer(x))
    layer = StochasticConv2D(2, 3, 10, 2)
    with pytest.raises(ValueError, match=r"windows must have the shape \(2, 2\).*Received: \(3, 2\)"):
        layer(np.zeros((1, 40, 40, 3)), windows=np.zeros((3, 2)))
