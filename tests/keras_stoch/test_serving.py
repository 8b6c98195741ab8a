"""Exports against the model they were made from, loaded where neither Keras nor this package is."""

import functools
import importlib.util
import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_stoch
from keras_stoch import serving
from keras_stoch.data.photographs import open_image
from keras_stoch.data.prepare import Settings, prepare_image
from keras_stoch.serving import exif_orientation, prepare_bytes
from tests.conftest import shake
from tests.keras_stoch.small import build

# Runs with TensorFlow alone: an import of Keras, or of this package, fails.
ALONE = """
import json, sys
sys.modules["keras"] = sys.modules["keras_stoch"] = None
import numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures
given = dict(np.load(sys.argv[2]))
windows = given.pop("windows")
images = tf.constant([open(path, "rb").read() for path in sys.argv[3:]])
answers = {
    "windows": served["serve_windows"](**{k: tf.constant(v) for k, v in given.items()}, windows=tf.constant(windows)),
    "first": served["serve"](**{k: tf.constant(v) for k, v in given.items()}),
    "second": served["serve"](**{k: tf.constant(v) for k, v in given.items()}),
    "bytes": served["serve_bytes"](images=images),
    "seed 7": served["serve_seeded"](images=images, seed=tf.constant(7, tf.int64)),
    "seed 7 again": served["serve_seeded"](images=images[:1], seed=tf.constant(7, tf.int64)),
    "seed 8": served["serve_seeded"](images=images, seed=tf.constant(8, tf.int64)),
}
print(json.dumps({name: answer["probability"].numpy().tolist() for name, answer in answers.items()}))
"""


def encode(pixels, format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def picture(height, width, seed=0, channels=3):
    """Smooth and structured, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, channels), dtype=np.uint8).squeeze())
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def model():
    # Larger weights, so that the windows matter to the probability.
    return shake(build())


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    return {
        "low_res": rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8),
        "high_res": rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8),
        "windows": rng.integers(0, 34, (3, 6, 2), dtype=np.int32),
    }


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return keras_stoch.export(model, tmp_path_factory.mktemp("export") / "served")


@pytest.fixture(scope="module")
def served(exported):
    return tf.saved_model.load(str(exported)).signatures


def expected(model, given):
    inputs = {name: given[name] for name in ("low_res", "high_res")}
    return np.asarray(tf.sigmoid(model(inputs, windows=given["windows"])))[:, 0]


@pytest.fixture(scope="module")
def alone(exported, given, tmp_path_factory):
    """Answers of two processes that have TensorFlow alone."""
    folder = tmp_path_factory.mktemp("alone")
    np.savez(folder / "given.npz", **given)
    photographs = [folder / "a.png", folder / "b.jpg"]
    photographs[0].write_bytes(encode(picture(300, 200)))
    photographs[1].write_bytes(encode(picture(500, 700, 1), "JPEG"))
    command = [sys.executable, "-c", ALONE, str(exported), str(folder / "given.npz"), *map(str, photographs)]
    found = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def test_same_probability_for_same_windows_without_keras(alone, model, given):
    np.testing.assert_allclose(alone[0]["windows"], expected(model, given), rtol=0, atol=1e-6)


def test_draws_differ_from_call_to_call_and_from_start_to_start(alone):
    one, other = alone
    assert one["first"] != one["second"]
    assert one["first"] not in (other["first"], other["second"])
    assert one["bytes"] != other["bytes"]


def test_equal_seeds_give_equal_answers_whatever_the_batch(alone):
    one, other = alone
    assert one["seed 7"] == other["seed 7"]
    np.testing.assert_allclose(one["seed 7 again"], one["seed 7"][:1], rtol=0, atol=1e-6)
    assert one["seed 7"] != one["seed 8"]


def test_averaging(served, model):
    images = tf.constant([encode(picture(80, 90, seed)) for seed in range(2)])
    one = served["serve_averaged"](images=images, n=tf.constant(1))
    assert one["spread"].numpy().tolist() == [0, 0]
    many = served["serve_averaged"](images=images, n=tf.constant(150))
    assert (many["spread"].numpy() > 0).all()
    single = np.array([served["serve_bytes"](images=images)["probability"].numpy() for _ in range(150)])
    error = 5 * single.std(0) / np.sqrt(150) * np.sqrt(2)
    assert (np.abs(many["probability"].numpy() - single.mean(0)) < error).all()
    np.testing.assert_allclose(many["spread"].numpy(), single.std(0), rtol=0.4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="n must be at least 1"):
        served["serve_averaged"](images=images, n=tf.constant(0))


def test_image_signature_derives_the_small_image(served, model):
    from keras_stoch.data.augment import reduce

    images = np.stack([picture(64, 64, seed) for seed in range(2)])
    draws = [served["serve_image"](images=tf.constant(images))["probability"].numpy() for _ in range(100)]
    inputs = {"low_res": reduce(tf.constant(images), 32).numpy(), "high_res": images}
    ours = [np.asarray(tf.sigmoid(model(inputs)))[:, 0] for _ in range(100)]
    error = 5 * np.std(ours, 0) * np.sqrt(2 / 100)
    assert (np.abs(np.mean(draws, 0) - np.mean(ours, 0)) < error + 1e-6).all()


@pytest.mark.parametrize("count", [1, 5])
def test_any_batch(served, count):
    assert served["serve_bytes"](images=tf.constant([encode(picture(40, 40))] * count))["probability"].shape == (count,)


def test_what_is_no_image_fails_alone(served):
    good = encode(picture(40, 40))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[images\] \[1\] \[is no photograph"):
        served["serve_bytes"](images=tf.constant([good, b"<html>"]))
    # A BMP is refused: TensorFlow reads the indices of its palette as grey.
    for bad in (b"", encode(picture(40, 40), "BMP"), encode(picture(40, 40), "GIF")):
        with pytest.raises(tf.errors.InvalidArgumentError, match="is no photograph"):
            served["serve_bytes"](images=tf.constant([bad]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        served["serve_bytes"](images=tf.constant([encode(picture(400, 400), "JPEG")[:300]]))
    assert np.isfinite(served["serve_bytes"](images=tf.constant([good]))["probability"].numpy()).all()


KINDS = {
    "small": (picture(300, 200), "PNG", {}),
    "wide": (picture(700, 1500, 1), "PNG", {}),
    "very large, cropped": (picture(3100, 3200, 2), "JPEG", {"quality": 95}),
    "large in one direction, not cropped": (picture(3000, 3200, 3), "JPEG", {"quality": 95}),
    "grey": (picture(400, 300, 4, 1), "PNG", {}),
    "transparent": (np.dstack([picture(300, 300, 5), picture(300, 300, 6)[..., 0]]), "PNG", {}),
    "grey and transparent": (np.dstack([picture(300, 300, 5, 1), picture(300, 300, 6)[..., 0]]), "PNG", {}),
    "very large, odd, transparent": (np.dstack([picture(3101, 3203, 2), picture(3101, 3203, 6)[..., 0]]), "PNG", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_prepared_as_prepare_does(kind, tmp_path):
    pixels, format, options = KINDS[kind]
    encoded = encode(pixels, format, **options)
    (tmp_path / "photo").write_bytes(encoded)
    ours, _ = prepare_image(open_image(tmp_path / "photo"), Settings(size=256, min_side=1))
    found = prepare_bytes(tf.constant(encoded), 0, 256, 256).numpy()
    difference = np.abs(np.int32(found) - np.asarray(ours))
    assert difference.max() <= 4  # Pillow rounds between its two passes, and TensorFlow's filter is float32
    assert difference.mean() < 0.3


def test_real_photographs_are_prepared_as_prepare_does(photographs):
    for path in photographs[:: max(1, len(photographs) // 6)]:
        ours, _ = prepare_image(open_image(path), Settings(min_side=1))
        found = prepare_bytes(tf.constant(path.read_bytes()), 0, 1024, 1024).numpy()
        assert np.abs(np.int32(found) - np.asarray(ours)).mean() < 0.5, path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a camera"  # another tag before it
    exif[0x0112] = orientation
    encoded = encode(picture(200, 300), "JPEG", exif=exif, quality=95)
    assert int(exif_orientation(tf.constant(encoded))) == orientation
    (tmp_path / "photo.jpg").write_bytes(encoded)
    ours, _ = prepare_image(open_image(tmp_path / "photo.jpg"), Settings(size=128, min_side=1))
    found = prepare_bytes(tf.constant(encoded), 0, 128, 128).numpy()
    assert np.abs(np.int32(found) - np.asarray(ours)).mean() < 0.5


def test_broken_exif_is_no_orientation():
    for tail in (b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", bytes(range(256))):
        encoded = b"\xff\xd8\xff\xe1\0\x10Exif\0\0" + tail
        assert int(exif_orientation(tf.constant(encoded))) == 1
    assert int(exif_orientation(tf.constant(b""))) == 1


def ordinary():
    """A small model of Keras's own layers, 32x32 pixels to one logit."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, strides=2)(inputs))
    return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(x)))


def test_model_without_detail_branch(tmp_path):
    model = shake(ordinary())
    path = keras_stoch.export(model, tmp_path / "served")
    served = tf.saved_model.load(str(path)).signatures
    assert set(served) - {"serving_default"} == {"serve", "serve_image", "serve_bytes"}
    pixels = np.stack([picture(32, 32, seed) for seed in range(2)])
    ours = np.asarray(tf.sigmoid(model(np.float32(pixels))))[:, 0]
    found = served["serve"](low_res=tf.constant(pixels))["probability"].numpy()
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-6)


@functools.cache
def named(name, sharing="batch"):
    """A model of the library's own, inputs for it (float32, as other runtimes take them), and its probabilities."""
    rng = np.random.default_rng(1)
    low = np.float32(np.stack([picture(32, 32, seed) for seed in range(3)]))
    if name == "b0":
        model = shake(keras_stoch.create_model(name, low_res=32))
        return model, {"low_res": low}, np.asarray(tf.sigmoid(model(low)))[:, 0]
    model = shake(keras_stoch.create_model(name, low_res=32, high_res=128, window_sharing=sharing))
    high = np.float32(np.stack([picture(128, 128, seed) for seed in range(3)]))
    shape = (3, 32, 2) if sharing == "image" else (32, 2)
    windows = rng.integers(0, 128 - 33 + 1, shape, dtype=np.int32)
    found = model({"low_res": low, "high_res": high}, windows=windows)
    return model, {"low_res": low, "high_res": high, "windows": windows}, np.asarray(tf.sigmoid(found))[:, 0]


# Each export of a whole model takes many seconds, so that the formats share the models out.
@pytest.mark.slow
def test_a_model_by_name_as_saved_model(tmp_path):
    model, given, expected = named("stem-b0")
    served = tf.saved_model.load(str(keras_stoch.export(model, tmp_path / "served"))).signatures
    feed = {name: tf.constant(value if name == "windows" else np.uint8(value)) for name, value in given.items()}
    np.testing.assert_allclose(served["serve_windows"](**feed)["probability"].numpy(), expected, rtol=0, atol=1e-5)
    # Nothing in it asks for XLA, which servers on CPUs are built or started without.
    assert b"_XlaMustCompile" not in (tmp_path / "served" / "saved_model.pb").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("case", [("b0",), ("stem-b0", "image"), ("split-b0",)], ids="-".join)
def test_models_by_name_as_onnx(case, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, onnx and tf2onnx")
    model, given, expected = named(*case)
    path = keras_stoch.export(model, tmp_path / "model.onnx", format="onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {wanted.name for wanted in session.get_inputs()} == set(given)
    (found,) = session.run(["probability"], given)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    normalization = model.get_layer("normalization")
    assert not isinstance(normalization.mean, np.ndarray)  # the model is as it was


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_a_model_by_name_as_litert(tmp_path):
    model, given, expected = named("stem-b0")
    path = keras_stoch.export(model, tmp_path / "model.tflite", format="litert")
    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    feed = {name: value[:1] if name != "windows" or value.ndim == 3 else value for name, value in given.items()}
    np.testing.assert_allclose(runner(**feed)["probability"], expected[:1], rtol=0, atol=1e-5)


def test_photographs_get_the_probabilities_that_predict_gives(tmp_path, photographs):
    """A whole chain of its own: TensorFlow's decoder, crop and resize against Pillow's."""
    model = shake(keras_stoch.create_model("b0", low_res=64))
    served = tf.saved_model.load(str(keras_stoch.export(model, tmp_path / "served"))).signatures
    paths = photographs[:: max(1, len(photographs) // 5)]
    found = served["serve_bytes"](images=tf.constant([path.read_bytes() for path in paths]))["probability"].numpy()
    table = keras_stoch.predict_photographs(model, paths)
    difference = np.abs(np.log(found / (1 - found)) - np.log(table["probability"] / (1 - table["probability"])))
    assert (difference < 0.1 * max(1, np.ptp(np.log(found / (1 - found))))).all()


@pytest.mark.slow
def test_a_run_is_exported_by_its_folder(tmp_path):
    data = keras_stoch.write_lesions(tmp_path / "lesions", 40, size=64)
    keras_stoch.fit("b0", data, tmp_path / "runs", epochs=1, batch_size=16, low_res=32)
    served = tf.saved_model.load(str(keras_stoch.export(tmp_path / "runs" / "run-0", tmp_path / "served"))).signatures
    pixels = np.stack([picture(32, 32, seed) for seed in range(2)])
    ours = np.asarray(tf.sigmoid(keras_stoch.load_run(tmp_path / "runs" / "run-0")(np.float32(pixels))))[:, 0]
    np.testing.assert_allclose(served["serve"](low_res=tf.constant(pixels))["probability"], ours, rtol=0, atol=1e-6)
    encoded = tf.constant([encode(image) for image in pixels])
    np.testing.assert_allclose(served["serve_bytes"](images=encoded)["probability"], ours, rtol=0, atol=1e-6)


def test_models_that_can_not_be_served_as_they_are(tmp_path):
    probabilities = keras_stoch.create_model("b0", low_res=32, activation="sigmoid")
    with pytest.raises(ValueError, match="must put out logits, but 'predictions' ends with a sigmoid"):
        keras_stoch.export(probabilities, tmp_path / "x")
    inputs = keras.Input((64, 64, 3))
    stem = keras_stoch.StochasticConv2D(4, 3, output_size=15, strides=2)
    inner = keras.Sequential([keras.Input((64, 64, 3)), stem, keras.layers.GlobalAveragePooling2D()])
    nested = keras.Model(inputs, keras.layers.Dense(1)(inner(inputs)))
    with pytest.raises(ValueError, match="its windows have no way in"):
        keras_stoch.export(nested, tmp_path / "x")
    wide = keras_stoch.create_model("b0", low_res=(32, 48))
    with pytest.raises(ValueError, match=r"low_res must take square images.*\(None, 32, 48, 3\)"):
        keras_stoch.export(wide, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_an_ordinary_sequential_model_is_served(tmp_path):
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)])
    served = tf.saved_model.load(str(keras_stoch.export(model, tmp_path / "served"))).signatures
    assert served["serve_bytes"](images=tf.constant([encode(picture(40, 40))]))["probability"].shape == (1,)


def test_what_is_there_is_replaced_or_left(tmp_path):
    first = ordinary()
    path = keras_stoch.export(first, tmp_path / "served")
    (path / "old").touch()
    keras_stoch.export(first, path, overwrite=True)
    assert not (path / "old").exists()
    assert [found.name for found in tmp_path.iterdir()] == ["served"]
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ValueError, match="is a link"):
        keras_stoch.export(first, tmp_path / "link", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, and a SavedModel is a folder"):
        keras_stoch.export(first, tmp_path / "file", overwrite=True)


def test_a_saved_model_that_can_not_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    model = ordinary()
    path = keras_stoch.export(model, tmp_path / "served")
    (path / "old").touch()
    real = serving.os.replace

    def full(source, target):
        if "partial" in str(source):
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(serving.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        keras_stoch.export(model, path, overwrite=True)
    assert (path / "old").exists()
    assert [found.name for found in tmp_path.iterdir()] == ["served"]


def test_keras_file(model, given, tmp_path):
    path = keras_stoch.export(model, tmp_path / "model.keras", format="keras")
    loaded = keras_stoch.load_model(path)
    np.testing.assert_allclose(expected(loaded, given), expected(model, given), rtol=0, atol=1e-6)


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


def test_missing_packages_are_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs tf2onnx and onnx: pip install 'keras-stoch\[onnx\]'"):
        keras_stoch.export(model, tmp_path / "model.onnx", format="onnx")


def test_bad_arguments_write_nothing(model, tmp_path):
    with pytest.raises(ValueError, match="format must be one of tf_saved_model, keras, onnx, litert"):
        keras_stoch.export(model, tmp_path / "x", format="pb")
    with pytest.raises(ValueError, match=r"must end with \.keras"):
        keras_stoch.export(model, tmp_path / "x.h5", format="keras")
    with pytest.raises(ValueError, match="is no run"):
        keras_stoch.export(tmp_path, tmp_path / "x")
    two = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"one logit.*\(None, 2\)"):
        keras_stoch.export(two, tmp_path / "x")
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        keras_stoch.export(model, tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())
    (tmp_path / "there" / "thesis.tex").write_text("ten years")
    for path, format in (("there", "tf_saved_model"), ("there.keras", "keras")):
        (tmp_path / "there.keras").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="is a folder, but no SavedModel that could be replaced"):
            keras_stoch.export(model, tmp_path / path, format=format, overwrite=True)
    assert (tmp_path / "there" / "thesis.tex").read_text() == "ten years"


def test_an_export_that_fails_leaves_the_old_one(model, tmp_path, monkeypatch):
    (tmp_path / "model.keras").write_text("old")
    monkeypatch.setattr(type(model), "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keras_stoch.export(model, tmp_path / "model.keras", format="keras", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert (tmp_path / "model.keras").read_text() == "old"
