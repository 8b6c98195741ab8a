"""Every format against the model it was made from, in the runtime that it is for."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import keras_stoch
from tests.conftest import shake
from tests.keras_stoch.serving.pictures import expected, picture
from tests.tiny import NAMES


@functools.cache
def named(name, sharing="batch"):
    """A model of the library's own, inputs for it (float32, as other runtimes take them), and its probabilities."""
    rng = np.random.default_rng(1)
    low = np.float32(np.stack([picture(32, 32, seed) for seed in range(3)]))
    if name in ("b0", "tiny"):
        model = shake(keras_stoch.create_model(name, low_res=32))
        return model, {"low_res": low}, np.asarray(tf.sigmoid(model(low)))[:, 0]
    model = shake(keras_stoch.create_model(name, low_res=32, high_res=64, window_sharing=sharing))
    high = np.float32(np.stack([picture(64, 64, seed) for seed in range(3)]))
    filters = model.get_layer("detail_stem_conv").filters
    shape = (3, filters, 2) if sharing == "image" else (filters, 2)
    windows = rng.integers(0, 64 - 33 + 1, shape, dtype=np.int32)
    found = model({"low_res": low, "high_res": high}, windows=windows)
    return model, {"low_res": low, "high_res": high, "windows": windows}, np.asarray(tf.sigmoid(found))[:, 0]


def cases(names, large):
    """Tiny models, one of them with windows for every image; and a whole one, which takes most of a minute.

    Two whole branches are tried fast; windows for every image are those of the small model below.
    """
    return [
        pytest.param(case, id="-".join(case), marks=() if case == ("tiny-split",) else pytest.mark.slow)
        for case in [*((name,) for name in names), ("tiny-stem", "image"), (large,)]
    ]


@pytest.mark.slow
def test_a_model_by_name_as_saved_model(tiny, tmp_path):
    model, given, probabilities = named("tiny-split")
    served = tf.saved_model.load(str(keras_stoch.export(model, tmp_path / "served"))).signatures
    feed = {name: tf.constant(value if name == "windows" else np.uint8(value)) for name, value in given.items()}
    np.testing.assert_allclose(served["serve_windows"](**feed)["probability"].numpy(), probabilities, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(NAMES, "split-b0"))
def test_models_by_name_as_onnx(tiny, case, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, onnx and tf2onnx")
    model, given, probabilities = named(*case)
    path = keras_stoch.export(model, tmp_path / "model.onnx", format="onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {wanted.name for wanted in session.get_inputs()} == set(given)
    (found,) = session.run(["probability"], given)
    np.testing.assert_allclose(found, probabilities, rtol=0, atol=1e-5)
    normalization = model.get_layer("normalization")
    assert not isinstance(normalization.mean, np.ndarray)  # the model is as it was


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.parametrize("case", cases(("tiny",), "stem-b0"))
def test_models_by_name_as_litert(tiny, case, tmp_path):
    model, given, probabilities = named(*case)
    path = keras_stoch.export(model, tmp_path / "model.tflite", format="litert")
    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    feed = {name: value[:1] if name != "windows" or value.ndim == 3 else value for name, value in given.items()}
    np.testing.assert_allclose(runner(**feed)["probability"], probabilities[:1], rtol=0, atol=1e-5)


def test_keras_file(model, given, tmp_path):
    path = keras_stoch.export(model, tmp_path / "model.keras", format="keras")
    loaded = keras_stoch.load_model(path)
    np.testing.assert_allclose(expected(loaded, given), expected(model, given), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_onnx(model, given, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, onnx and tf2onnx")
    pytest.importorskip("tf2onnx", reason="needs tf2onnx")
    path = keras_stoch.export(model, tmp_path / "model.onnx", format="onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for part in (slice(None), slice(1)):
        feed = {name: value[part] if name == "windows" else np.float32(value[part]) for name, value in given.items()}
        (found,) = session.run(["probability"], feed)
        np.testing.assert_allclose(found, expected(model, given)[part], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_litert(model, given, tmp_path):
    path = keras_stoch.export(model, tmp_path / "model.tflite", format="litert")
    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    feed = {name: value[:1] if name == "windows" else np.float32(value[:1]) for name, value in given.items()}
    np.testing.assert_allclose(runner(**feed)["probability"], expected(model, given)[:1], rtol=0, atol=1e-5)
