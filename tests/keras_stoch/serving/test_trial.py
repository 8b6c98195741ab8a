"""Exports are opened and compared before they are put in place; half precision, windows and requests out of range."""

import struct
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_stoch
from keras_stoch.data.decoding import MAX_PIXELS
from keras_stoch.serving import litert, onnx
from keras_stoch.serving.endpoints import Served
from keras_stoch.serving.precision import half_type, in_single_precision
from tests.conftest import shake
from tests.keras_stoch.serving.pictures import encode, ordinary, picture

pytestmark = pytest.mark.slow

ENDINGS = {"tf_saved_model": "", "keras": ".keras", "onnx": ".onnx", "litert": ".tflite"}


def of_precision(policy, name="tiny-stem"):
    high = {"high_res": 64} if name != "tiny" else {}
    return shake(keras_stoch.create_model(name, low_res=32, dtype=policy, **high))


def run_onnx(path, given):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {wanted.type for wanted in session.get_inputs()} <= {"tensor(float)", "tensor(int32)"}
    return session.run(["probability"], given)[0]


def run_litert(path, given):
    return tf.lite.Interpreter(str(path)).get_signature_runner()(**given)["probability"]


RUN = {"onnx": run_onnx, "litert": run_litert}


def given_to(model, windows):
    rng = np.random.default_rng(0)
    low, high = (np.float32(rng.integers(0, 256, (1, side, side, 3))) for side in (32, 64))
    filters = model.get_layer("detail_stem_conv").filters
    return {"low_res": low, "high_res": high, "windows": np.broadcast_to(np.int32(windows), (filters, 2)).copy()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.parametrize("format", RUN)
@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", *(pytest.param(p, marks=pytest.mark.slow) for p in ("mixed_float16", "bfloat16"))]
)
def test_half_precision_is_written_in_float32(tiny, tmp_path, format, policy):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    model = of_precision(policy)
    path = keras_stoch.export(model, tmp_path / f"model{ENDINGS[format]}", format=format)
    given = given_to(model, (3, 7))
    single = keras_stoch.create_model("tiny-stem", low_res=32, high_res=64)
    single.set_weights([np.float32(w) if w.dtype.kind != "u" else w for w in model.get_weights()])
    for layer in single.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    inputs = {name: given[name] for name in ("low_res", "high_res")}
    expected = np.asarray(tf.sigmoid(single(inputs, windows=given["windows"])))[:, 0]
    np.testing.assert_allclose(RUN[format](path, given), expected, rtol=0, atol=1e-5)
    assert half_type(model) == policy.removeprefix("mixed_")  # and the model is as it was


def test_copies_in_float32_keep_what_layers_hold(rng):
    """Nested models, layers inside of layers, statistics, integers."""
    inner = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, strides=2, dtype="bfloat16")])
    inputs = keras.Input((32, 32, 3), dtype="bfloat16")
    normalization = keras.layers.Normalization(dtype="mixed_float16")
    normalization.adapt(rng.uniform(0, 255, (4, 32, 32, 3)))
    x = inner(normalization(inputs))
    x = keras.layers.TimeDistributed(keras.layers.Dense(3, dtype="mixed_bfloat16"), dtype="mixed_bfloat16")(x[:, 0])
    x = keras.layers.BatchNormalization(dtype="mixed_bfloat16")(x)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(x)))
    copy = in_single_precision(model)
    assert half_type(model) == "bfloat16"
    assert half_type(copy) is None
    assert {v.dtype for v in copy.weights} <= {"float32", "int32", "int64"}
    assert copy.input.dtype == "float32"
    for one, other in zip(copy.weights, model.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one, "float64"), np.asarray(keras.ops.cast(other, "float64")))
    images = rng.uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(copy(images), np.asarray(model(images), "float32"), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("format", [pytest.param("tf_saved_model", marks=pytest.mark.slow), "keras", "onnx", "litert"])
def test_an_export_that_answers_otherwise_is_no_export(format, tmp_path, monkeypatch):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    path, model = tmp_path / f"model{ENDINGS[format]}", ordinary()
    if format == "tf_saved_model":
        keras_stoch.export(model, path)
    else:
        path.write_bytes(b"an earlier export")
    before = path.stat().st_mtime_ns
    real = Served.logit
    calls = []

    def shifted(self, low_res, high_res=None, windows=None):
        """What is written, or for .keras what is loaded, is the first; the model's own answer the second."""
        calls.append(0)
        return real(self, low_res, high_res, windows) * (-1 if len(calls) == 1 else 1)

    monkeypatch.setattr(Served, "logit", shifted)
    with pytest.raises(ValueError, match=rf"as {format} gives other probabilities than the model.* apart"):
        keras_stoch.export(shake(model), path, format=format, overwrite=True)
    assert path in tmp_path.iterdir()
    assert not list(tmp_path.glob(".*"))
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(("format", "writer"), [("onnx", onnx), ("litert", litert)])
def test_what_can_not_be_opened_is_no_export(format, writer, tmp_path, monkeypatch):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    monkeypatch.setattr(writer, "write", lambda served, path: path.write_bytes(b"nothing"))
    with pytest.raises(ValueError, match=f"written as {format} can not be run, and is deleted"):
        keras_stoch.export(ordinary(), tmp_path / f"model{ENDINGS[format]}", format=format)
    assert not list(tmp_path.iterdir())


def test_what_litert_can_not_hold_is_told_in_a_sentence(tmp_path):
    class Strange(keras.layers.Layer):
        def call(self, x):
            return tf.linalg.svd(x[:, :, :, 0], compute_uv=False)

    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Dense(1)(Strange()(inputs)))
    with pytest.raises(ValueError, match="LiteRT can not hold this model: ") as told:
        keras_stoch.export(model, tmp_path / "model.tflite", format="litert")
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def stem():
    from tests.tiny import registered

    with registered():
        return of_precision(None)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.parametrize("format", ["onnx", pytest.param("litert", marks=pytest.mark.slow)])
def test_windows_outside_are_moved_to_the_edge(format, stem, tmp_path):
    """64 pixels and windows of 33: offsets are 0 to 31."""
    path = keras_stoch.export(stem, tmp_path / f"model{ENDINGS[format]}", format=format)
    for outside, edge in (((-1, 5), (0, 5)), ((32, 500), (31, 31)), ((10_000, -(2**31)), (31, 0))):
        found, expected = (RUN[format](path, given_to(stem, offsets)) for offsets in (outside, edge))
        np.testing.assert_array_equal(found, expected)
    assert RUN[format](path, given_to(stem, (0, 0))) != RUN[format](path, given_to(stem, (31, 31)))


@pytest.fixture(scope="module")
def served(stem, tmp_path_factory):
    path = tmp_path_factory.mktemp("limits") / "served"
    return tf.saved_model.load(str(keras_stoch.export(stem, path, max_draws=5, max_pixels=10_000))).signatures


def test_windows_outside_are_refused_by_a_server(served, stem):
    given = given_to(stem, (31, 31))
    given = {name: tf.constant(np.uint8(v) if name != "windows" else v) for name, v in given.items()}
    assert served["serve_windows"](**given)["probability"].shape == (1,)
    for offsets in ((32, 0), (0, -1), (500, 500)):
        given["windows"] = tf.constant(given_to(stem, offsets)["windows"])
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"windows must lie between 0 and\] \[31 31"):
            served["serve_windows"](**given)


def test_draws_are_limited(served):
    images = tf.constant([encode(picture(40, 40))])
    assert served["serve_averaged"](images=images, n=tf.constant(5))["probability"].shape == (1,)
    for n in (6, 2**31 - 1):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"n must be at most\] \[5\]"):
            served["serve_averaged"](images=images, n=tf.constant(n))
    # Before anything is decoded.
    with pytest.raises(tf.errors.InvalidArgumentError, match="n must be at most"):
        served["serve_averaged"](images=tf.constant([b"no image"]), n=tf.constant(10**6))


@pytest.mark.parametrize("name", ["serve_bytes", "serve_averaged", "serve_seeded"])
def test_pixels_are_limited_before_they_are_decoded(served, name):
    more = {"serve_averaged": {"n": tf.constant(1)}, "serve_seeded": {"seed": tf.constant(1, tf.int64)}}.get(name, {})
    for format in ("PNG", "JPEG"):
        fits, large = (tf.constant([encode(picture(100, width), format)]) for width in (100, 101))
        assert served[name](images=fits, **more)["probability"].shape == (1,)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"limit:\] \[100\] \[101\] \[10000\]"):
            served[name](images=large, **more)
    # A header of 400 megapixels without the pixels: what is refused has not been decoded.
    head = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    with pytest.raises(tf.errors.InvalidArgumentError, match="more pixels than are allowed"):
        served[name](images=tf.constant([bomb + b"\0\0\0\0IEND\xaeB`\x82"]), **more)


def test_limits_have_defaults_and_are_checked(tmp_path):
    served = Served(ordinary())
    assert (served.max_draws, served.max_pixels) == (256, MAX_PIXELS)
    for name in ("max_draws", "max_pixels"):
        for wrong in (0, -1, 2.5, True, 2**31, "9"):
            with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1. Received: {wrong!r}"):
                keras_stoch.export(ordinary(), tmp_path / "x", **{name: wrong})
    assert not list(tmp_path.iterdir())
