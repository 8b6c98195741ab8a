"""The four architectures of the paper: structure, reduction to official blocks, weights, averaging over draws."""

import keras
import numpy as np
import pytest
import torch

import keras_stoch
import torch_ref
from keras_stoch import AveragedPasses, layers, summary
from keras_stoch.evaluation.figures import coverage

NAMES = ("stem-b0", "stem-b4", "skip-b0", "split-b0")


def inputs(rng, low=64, high=160, batch=2):
    return {
        "low_res": rng.uniform(0, 255, (batch, low, low, 3)).astype("float32"),
        "high_res": rng.integers(0, 256, (batch, high, high, 3)).astype("uint8"),
    }


def shaken(name, **kwargs):
    """A small model whose weights and statistics have no initial values."""
    model = keras_stoch.create_model(name, 64, 160, **kwargs)
    rng = np.random.default_rng(0)
    for w in model.weights:
        if w.dtype == "float32" and "seed" not in w.path:
            w.assign(w.numpy() * rng.uniform(0.8, 1.2, w.shape) + 0.01 * rng.uniform(size=w.shape))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return model


@pytest.mark.parametrize(
    ("name", "place", "shape"),
    [
        ("stem-b0", "join", (None, 112, 112, 64)),
        ("stem-b4", "join", (None, 190, 190, 96)),
        ("skip-b0", "join", (None, 28, 28, 80)),
        ("split-b0", "join", (None, 2560)),
    ],
)
def test_branches_meet_where_the_paper_says(name, place, shape):
    model = keras_stoch.create_model(name)
    assert model.get_layer(place).output.shape == shape
    assert model.input["high_res"].shape == (None, 1024, 1024, 3)


@pytest.mark.slow
def test_counts():
    rows = {row["model"]: row for row in summary.table()}
    assert rows["b0"]["trainable"] == 4_008_829
    # The stem-b0 differs from b0-stem64 in no trained weight: same shapes, other pixels.
    assert rows["stem-b0"]["trainable"] == rows["b0-stem64"]["trainable"]
    assert rows["stem-b0"]["multiply_adds"] == rows["b0-stem64"]["multiply_adds"]
    # Two backbones and a dense layer of twice the width, but one bias.
    assert rows["split-b0"]["trainable"] == 2 * rows["b0"]["trainable"] - 1
    assert rows["split-b0"]["multiply_adds"] == 2 * rows["b0"]["multiply_adds"]
    assert 380e6 < rows["b0"]["multiply_adds"] < 400e6  # EfficientNet's paper: 0.39 billion
    assert 4.1e9 < rows["b4"]["multiply_adds"] < 4.5e9  # 4.2 billion
    assert "| `split-b0` | 224 + 1024 | 8,017,657 |" in summary.render(list(rows.values()))


@pytest.mark.parametrize("name", ["skip-b0", "split-b0"])  # the detail branch of stem-* is the stem alone
def test_with_an_ordinary_stem_the_detail_branch_is_official(name, rng):
    """Fed the official stem's maps, the detail branch computes what the official blocks do."""
    size = 64
    official = keras.applications.EfficientNetB0(
        weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3)
    )
    model = keras_stoch.create_model(name, size, 160, weights=official)
    join = model.get_layer("join")
    model_stem = model.get_layer("detail_stem_activation").output
    detail = keras.Model(model_stem, join.input[1])
    place = join.input[1]._keras_history.operation.name.removeprefix("detail_")
    reference = keras.Model(
        official.input, [official.get_layer("stem_activation").output, official.get_layer(place).output]
    )
    stem_maps, expected = reference(rng.uniform(0, 255, (2, size, size, 3)))
    np.testing.assert_array_equal(detail(stem_maps), expected)


@pytest.mark.parametrize("name", NAMES)
def test_official_weights_fill_every_branch_that_has_the_shape(name, official_b0):
    if "b4" in name:
        official_b0 = keras.applications.EfficientNetB4(weights=None, classes=1, input_shape=(64, 64, 3))
    model = keras_stoch.create_model(name, 64, 160)
    report = keras_stoch.load_official_weights(model, official_b0)
    for prefix in ("", "detail_"):
        np.testing.assert_array_equal(
            model.get_layer(f"{prefix}stem_conv").kernel, official_b0.get_layer("stem_conv").kernel
        )
    widened = {"stem": "block1a", "skip": "block4a", "split": "predictions"}[name.split("-")[0]]
    assert report.kept
    assert all(tensor.startswith(widened) for tensor in report.kept)
    twin = torch_ref.create_model(name, 64, 160)
    twin_report = torch_ref.load_official_weights(twin, official_b0)
    assert len(twin_report.loaded) == len(report.loaded)
    assert len(twin_report.kept) == len(report.kept)


def test_both_backbones_of_split_start_from_official_weights(official_b0):
    model = keras_stoch.create_model("split-b0", 64, 160, weights=official_b0)
    a, b = (model.get_layer(f"{p}block7a_project_conv").kernel.numpy() for p in ("", "detail_"))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, official_b0.get_layer("block7a_project_conv").kernel)


def test_imagenet_statistics_fold_into_the_stochastic_stem(official_b0, rng):
    weights = keras_stoch.read_official_weights(official_b0)
    tensors = weights.tensors | {
        "normalization/mean": np.float32([0.485, 0.456, 0.406]),
        "normalization/variance": np.float32([0.229, 0.224, 0.225]),
    }
    weights = type(weights)("imagenet", tensors, True)
    model = keras_stoch.create_model("split-b0", 64, 160, weights=weights)
    stem = model.get_layer("detail_stem_conv")
    patch = rng.integers(0, 256, (1, *stem.window, 3)).astype("float32")
    std, mean = np.float32([0.229, 0.224, 0.225]), np.float32([0.485, 0.456, 0.406])
    expected = keras.ops.conv((patch / 255 - mean) / std, stem.kernel, 2, "valid")
    actual = stem(patch, windows=np.zeros((32, 2)))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["stem-b0", "skip-b0", "split-b0"])
@pytest.mark.parametrize("sharing", ["batch", "image"])
def test_averaged_passes_are_whole_passes(name, sharing, rng):
    model = shaken(name, window_sharing=sharing)
    x = inputs(rng)
    windows = rng.integers(0, 90, (3, 32, 2) if sharing == "batch" else (3, 2, 32, 2))
    expected = np.stack([model(x, windows=w) for w in windows])
    assert np.ptp(expected, axis=0).min() > 0  # the draws matter
    np.testing.assert_allclose(AveragedPasses(model)(x, 3, windows=windows), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_predict_averages_probabilities_over_draws(rng):
    x = inputs(rng, batch=5)
    a = keras_stoch.predict(shaken("split-b0", seed=3), x, passes=4, batch_size=2)
    assert a.shape == (5, 1)
    assert ((a > 0) & (a < 1)).all()
    single = keras_stoch.create_model("b0", 64)
    np.testing.assert_allclose(
        keras_stoch.predict(single, x["low_res"], batch_size=2),
        keras.ops.sigmoid(single(x["low_res"])),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="needs a model with a detail branch"):
        keras_stoch.predict(single, x["low_res"], passes=2)


@pytest.mark.slow
def test_save_load_fit_and_predict(tmp_path, rng):
    model = shaken("stem-b0", window_sharing="image")
    x = inputs(rng, batch=4)
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((4, 1)), batch_size=2, verbose=0)
    assert not np.array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))
    model.save(tmp_path / "m.keras")
    again = keras_stoch.load_model(tmp_path / "m.keras")
    windows = rng.integers(0, 90, (4, 32, 2))
    np.testing.assert_array_equal(again(x, windows=windows), model(x, windows=windows))


def test_uint8_images_reach_the_layer_as_they_are(rng, monkeypatch):
    model = keras_stoch.create_model("stem-b0", 64, 160)
    seen = []
    original = layers.stochastic.IMPLEMENTATIONS["taps"]
    monkeypatch.setitem(
        layers.stochastic.IMPLEMENTATIONS, "taps", lambda images, *a: seen.append(images.dtype) or original(images, *a)
    )
    x = inputs(rng)
    model(x)
    model({**x, "high_res": x["high_res"].astype("float32")})
    assert [dtype.name for dtype in seen] == ["uint8", "float32"]


def test_torch_twin_refuses_what_keras_refuses():
    for package in (keras_stoch, torch_ref):
        with pytest.raises(ValueError, match="has no high-resolution input"):
            package.create_model("b0", 64, 160)
    with pytest.raises(ValueError, match="high_res is needed"):
        torch_ref.create_model("stem-b0", 64, 160)(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"at least 65x65 pixels.*Received: 60x60"):
        keras_stoch.create_model("stem-b0", 64, 60)


def test_coverage_by_hand():
    count = coverage([[0, 0], [1, 2]], (2, 3), (4, 6))
    expected = np.zeros((4, 6), int)
    expected[0:2, 0:3] += 1
    expected[1:3, 2:5] += 1
    np.testing.assert_array_equal(count, expected)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_form_on_the_other_backends(backend, tmp_path, rng):
    import os
    import subprocess
    import sys

    pytest.importorskip(backend)
    images, kernel = rng.integers(0, 256, (2, 14, 15, 3)).astype("uint8"), rng.normal(size=(3, 2, 3, 4))
    np.savez(tmp_path / "in.npz", images=images, kernel=kernel, batch=rng.integers(0, 4, (4, 2)),
             image=rng.integers(0, 4, (2, 4, 2)))  # fmt: skip
    code = f"""
import numpy as np
from keras import ops
from keras_stoch import StochasticConv2D, stochastic
d = np.load({str(tmp_path / "in.npz")!r})
out = {{}}
for form in ("naive", "slices", "gather"):
    for sharing in ("batch", "image"):
        k = ops.convert_to_tensor(d["kernel"], "float32")
        y = stochastic.IMPLEMENTATIONS[form](
            ops.convert_to_tensor(d["images"]), k, ops.convert_to_tensor(d[sharing], "int32"), (2, 3), (5, 4))
        out[f"{{form}} {{sharing}}"] = ops.convert_to_numpy(y)
layer = StochasticConv2D(3, 3, 5, 2, window_sharing="image", seed=0)
a, b = layer(d["images"]), layer(d["images"])
assert a.shape == (2, 5, 5, 3) and not np.array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
np.savez({str(tmp_path / "out.npz")!r}, **out)
"""
    env = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    from tests.keras_stoch.test_stochastic_conv import by_hand

    found, given = np.load(tmp_path / "out.npz"), np.load(tmp_path / "in.npz")
    for name in found.files:
        expected = by_hand(images.astype(float), kernel, given[name.split()[1]], (2, 3), (5, 4))
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-2)


@pytest.mark.slow
def test_fit_of_keras_under_mirrored_strategy(rng, mirrored):
    with mirrored.scope():
        model = keras_stoch.create_model("stem-b0", 32, 96, window_sharing="image")
        model.compile("sgd", "mse")
    x = inputs(rng, 32, 96, batch=8)
    history = model.fit(x, np.zeros((8, 1)), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
