"""The four architectures of the paper: structure, reduction to official blocks, weights, averaging over draws."""

import keras
import numpy as np
import pytest
import torch

import keras_stoch
import torch_ref
from keras_stoch import AveragedPasses, layers
from keras_stoch.evaluation.figures import coverage
from tests import tiny as small
from tests.conftest import shake


def inputs(rng, low=64, high=160, batch=2):
    return {
        "low_res": rng.uniform(0, 255, (batch, low, low, 3)).astype("float32"),
        "high_res": rng.integers(0, 256, (batch, high, high, 3)).astype("uint8"),
    }


def shaken(name, **kwargs):
    """A model for small images whose weights and statistics have no initial values."""
    model = keras_stoch.create_model(name, 64, 160, **kwargs)
    rng = np.random.default_rng(0)
    for w in model.weights:
        if w.dtype == "float32" and "seed" not in w.path:
            w.assign(w.numpy() * rng.uniform(0.8, 1.2, w.shape) + 0.01 * rng.uniform(size=w.shape))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "place", "shape"),
    [
        ("stem-b0", "join", (None, 112, 112, 64)),
        pytest.param("stem-b4", "join", (None, 190, 190, 96), marks=pytest.mark.slow),
        ("skip-b0", "join", (None, 28, 28, 80)),
        ("split-b0", "join", (None, 2560)),
    ],
)
def test_branches_meet_where_the_paper_says(name, place, shape):
    model = keras_stoch.create_model(name)
    assert model.get_layer(place).output.shape == shape
    assert model.input["high_res"].shape == (None, 1024, 1024, 3)


@pytest.fixture(scope="module")
def official():
    return shake(small.official(classes=1, classifier_activation=None))


def of(name, request):
    """The official model of the size of a stochastic one."""
    if "b4" in name:
        return keras.applications.EfficientNetB4(weights=None, classes=1, input_shape=(64, 64, 3))
    return request.getfixturevalue("official" if name.startswith("tiny") else "official_b0")


# The detail branch of stem-* is the stem alone.
@pytest.mark.parametrize("name", ["tiny-skip", "tiny-split", pytest.param("split-b0", marks=pytest.mark.slow)])
def test_with_an_ordinary_stem_the_detail_branch_is_official(tiny, name, rng):
    """Fed the official stem's maps, the detail branch computes what the official blocks do."""
    size, options = 64, {"include_top": False, "pooling": "avg", "input_shape": (64, 64, 3)}
    if name.startswith("tiny"):
        official = small.official(**options)
    else:
        official = keras.applications.EfficientNetB0(weights=None, **options)
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


WHOLE = [pytest.param(name, marks=pytest.mark.slow) for name in ("stem-b0", "stem-b4", "skip-b0", "split-b0")]
LAST = {"stem": ("stem_conv",) * 2, "skip": ("block1a_project_conv", "block3b_project_conv")}
LAST["split"] = ("block2a_project_conv", "block7a_project_conv")
WIDENED = {"stem": ("block1a",) * 2, "skip": ("block2a", "block4a"), "split": ("predictions",) * 2}


@pytest.mark.parametrize("name", ["tiny-stem", "tiny-skip", "tiny-split", *WHOLE])
def test_official_weights_fill_every_branch_that_has_the_shape(tiny, name, request):
    official = of(name, request)
    kind = next(kind for kind in LAST if kind in name.split("-"))
    model = keras_stoch.create_model(name, 64, 160)
    report = keras_stoch.load_official_weights(model, official)
    last, widened = (table[kind][not name.startswith("tiny")] for table in (LAST, WIDENED))
    for prefix in ("", "detail_"):
        for layer in ("stem_conv", last):
            np.testing.assert_array_equal(model.get_layer(f"{prefix}{layer}").kernel, official.get_layer(layer).kernel)
    assert report.kept
    assert all(tensor.startswith(widened) for tensor in report.kept)
    twin = torch_ref.create_model(name, 64, 160)
    twin_report = torch_ref.load_official_weights(twin, official)
    assert len(twin_report.loaded) == len(report.loaded)
    assert len(twin_report.kept) == len(report.kept)


def test_imagenet_statistics_fold_into_the_stochastic_stem(tiny, official, rng):
    weights = keras_stoch.read_official_weights(official)
    tensors = weights.tensors | {
        "normalization/mean": np.float32([0.485, 0.456, 0.406]),
        "normalization/variance": np.float32([0.229, 0.224, 0.225]),
    }
    weights = type(weights)("imagenet", tensors, True)
    model = keras_stoch.create_model("tiny-stem", 64, 160, weights=weights)
    stem = model.get_layer("detail_stem_conv")
    patch = rng.integers(0, 256, (1, *stem.window, 3)).astype("float32")
    std, mean = np.float32([0.229, 0.224, 0.225]), np.float32([0.485, 0.456, 0.406])
    expected = keras.ops.conv((patch / 255 - mean) / std, stem.kernel, 2, "valid")
    actual = stem(patch, windows=np.zeros((8, 2)))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sharing", ["batch", "image"])
def test_windows_are_shared_as_asked(tiny, sharing, rng):
    """Of equal images every one has the same logit, or one of its own."""
    x = {name: np.repeat(images, 4, 0) for name, images in inputs(rng, batch=1).items()}
    logits = np.asarray(shaken("tiny-stem", window_sharing=sharing)(x))
    twin = torch_ref.create_model("tiny-stem", 64, 160, window_sharing=sharing).eval()
    with torch.no_grad():
        twins = twin(**{name: torch.from_numpy(images).permute(0, 3, 1, 2) for name, images in x.items()}).numpy()
    for found in (logits, twins):
        assert (len(np.unique(found.round(6))) == 1) == (sharing == "batch")


@pytest.mark.slow
def test_drop_masks_reach_both_branches(tiny, rng):
    x, windows = inputs(rng), rng.integers(0, 90, (8, 2))
    keep = {name: np.ones((2, 1, 1, 1), "float32") for name in ("block2a_drop", "detail_block2a_drop")}
    keep["top_dropout"] = np.ones((2, 1), "float32")
    model, twin = shaken("tiny-split"), torch_ref.create_model("tiny-split", 64, 160).train()

    def of_twin(masks):
        images = {name: torch.from_numpy(array).permute(0, 3, 1, 2) for name, array in x.items()}
        masks = {name: torch.from_numpy(mask) for name, mask in masks.items()}
        with torch.no_grad():
            return twin(**images, windows=torch.from_numpy(windows), drop_masks=masks).numpy()

    for run in (lambda masks: np.asarray(model(x, training=True, windows=windows, drop_masks=masks)), of_twin):
        kept = run(keep)
        np.testing.assert_allclose(run(keep), kept, rtol=1e-5)
        for name, mask in keep.items():
            dropped = np.abs(run(keep | {name: np.zeros_like(mask)}) - kept)
            assert dropped.max() > 1e-4, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-stem", "tiny-skip", "tiny-split"])
@pytest.mark.parametrize("sharing", ["batch", "image"])
def test_averaged_passes_are_whole_passes(tiny, name, sharing, rng):
    model = shaken(name, window_sharing=sharing)
    x = inputs(rng)
    windows = rng.integers(0, 90, (3, 8, 2) if sharing == "batch" else (3, 2, 8, 2))
    expected = np.stack([model(x, windows=w) for w in windows])
    assert np.ptp(expected, axis=0).min() > 0  # the draws matter
    np.testing.assert_allclose(AveragedPasses(model)(x, 3, windows=windows), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_predict_averages_probabilities_over_draws(tiny, rng):
    x = inputs(rng, batch=5)
    a = keras_stoch.predict(shaken("tiny-split", seed=3), x, passes=4, batch_size=2)
    assert a.shape == (5, 1)
    assert ((a > 0) & (a < 1)).all()
    single = keras_stoch.create_model("tiny", 64)
    np.testing.assert_allclose(
        keras_stoch.predict(single, x["low_res"], batch_size=2),
        keras.ops.sigmoid(single(x["low_res"])),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="needs a model with a detail branch"):
        keras_stoch.predict(single, x["low_res"], passes=2)


@pytest.mark.slow
def test_save_load_fit_and_predict(tiny, tmp_path, rng):
    model = shaken("tiny-stem", window_sharing="image")
    x = inputs(rng, batch=4)
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((4, 1)), batch_size=2, verbose=0)
    assert not np.array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))
    model.save(tmp_path / "m.keras")
    again = keras_stoch.load_model(tmp_path / "m.keras")
    windows = rng.integers(0, 90, (4, 8, 2))
    np.testing.assert_array_equal(again(x, windows=windows), model(x, windows=windows))


def test_uint8_images_reach_the_layer_as_they_are(tiny, rng, monkeypatch):
    model = keras_stoch.create_model("tiny-stem", 64, 160)
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


@pytest.mark.slow
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
for form in ("naive", "slices", "blocks", "gather", "indexed"):
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
def test_fit_of_keras_under_mirrored_strategy(tiny, rng, mirrored):
    with mirrored.scope():
        model = keras_stoch.create_model("tiny-stem", 32, 96, window_sharing="image")
        model.compile("sgd", "mse")
    x = inputs(rng, 32, 96, batch=8)
    history = model.fit(x, np.zeros((8, 1)), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
