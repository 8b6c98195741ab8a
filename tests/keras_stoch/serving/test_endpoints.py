"""The signatures of a SavedModel against the model, loaded where neither Keras nor this package is."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_stoch
from keras_stoch.data.augment import reduce
from keras_stoch.serving.photographs import prepare_bytes
from tests.conftest import shake
from tests.keras_stoch.serving.pictures import encode, expected, ordinary, picture

# Runs with TensorFlow alone: an import of Keras, or of this package, fails. Two processes load the model and answer;
# they part after the import, before TensorFlow has been used.
ALONE = """
import json, os, sys
sys.modules["keras"] = sys.modules["keras_stoch"] = None
import numpy as np, tensorflow as tf
first = os.fork()
if first:
    assert os.waitpid(first, 0)[1] == 0
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
answers = {name: answer["probability"].numpy().tolist() for name, answer in answers.items()}
print(os.getpid(), json.dumps(answers), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return keras_stoch.export(model, tmp_path_factory.mktemp("export") / "served")


@pytest.fixture(scope="module")
def served(exported):
    return tf.saved_model.load(str(exported)).signatures


@pytest.fixture(scope="module")
def alone(exported, given, tmp_path_factory):
    """Answers of two processes that have TensorFlow alone."""
    folder = tmp_path_factory.mktemp("alone")
    np.savez(folder / "given.npz", **given)
    photographs = [folder / "a.png", folder / "b.jpg"]
    photographs[0].write_bytes(encode(picture(300, 200)))
    photographs[1].write_bytes(encode(picture(500, 700, 1), "JPEG"))
    command = [sys.executable, "-c", ALONE, str(exported), str(folder / "given.npz"), *map(str, photographs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert len(found) == 2
    return [json.loads(answers) for answers in found.values()]


@pytest.mark.slow
def test_same_probability_for_same_windows_without_keras(alone, model, given):
    np.testing.assert_allclose(alone[0]["windows"], expected(model, given), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_draws_differ_from_call_to_call_and_from_start_to_start(alone):
    one, other = alone
    assert one["first"] != one["second"]
    assert one["first"] not in (other["first"], other["second"])
    assert one["bytes"] != other["bytes"]


@pytest.mark.slow
def test_equal_seeds_give_equal_answers_whatever_the_batch(alone):
    one, other = alone
    assert one["seed 7"] == other["seed 7"]
    np.testing.assert_allclose(one["seed 7 again"], one["seed 7"][:1], rtol=0, atol=1e-6)
    assert one["seed 7"] != one["seed 8"]


@pytest.mark.slow
def test_nothing_asks_for_xla(exported):
    """Servers on CPUs are built or started without it."""
    assert b"_XlaMustCompile" not in (exported / "saved_model.pb").read_bytes()


@pytest.mark.slow
def test_averaging(served, model):
    images = tf.constant([encode(picture(80, 90, seed)) for seed in range(2)])
    one = served["serve_averaged"](images=images, n=tf.constant(1))
    assert one["spread"].numpy().tolist() == [0, 0]
    many = served["serve_averaged"](images=images, n=tf.constant(150))
    assert (many["spread"].numpy() > 0).all()
    # Every image of a batch has its own draw; decoding takes the time, so that there are fewer calls with strings.
    pixels = np.stack([prepare_bytes(image, 0, 1024, 64).numpy() for image in images])
    drawn = served["serve_image"](images=tf.constant(np.tile(pixels, (150, 1, 1, 1))))
    single = drawn["probability"].numpy().reshape(150, 2)
    decoded = np.array([served["serve_bytes"](images=images)["probability"].numpy() for _ in range(30)])
    for found, count in ((single, 150), (decoded, 30)):
        error = 5 * single.std(0) * np.sqrt(1 / 150 + 1 / count)
        assert (np.abs(many["probability"].numpy() - found.mean(0)) < error).all()
    np.testing.assert_allclose(many["spread"].numpy(), single.std(0), rtol=0.4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="n must be at least 1"):
        served["serve_averaged"](images=images, n=tf.constant(0))


@pytest.mark.slow
def test_image_signature_derives_the_small_image(served, model):
    images = np.stack([picture(64, 64, seed) for seed in range(2)] * 100)  # every one with its own draw
    draws = served["serve_image"](images=tf.constant(images))["probability"].numpy().reshape(100, 2)
    inputs = {"low_res": reduce(tf.constant(images), 32).numpy(), "high_res": images}
    ours = np.asarray(tf.sigmoid(model(inputs))).reshape(100, 2)
    error = 5 * np.std(ours, 0) * np.sqrt(2 / 100)
    assert (np.abs(np.mean(draws, 0) - np.mean(ours, 0)) < error + 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5])
def test_any_batch(served, count):
    assert served["serve_bytes"](images=tf.constant([encode(picture(40, 40))] * count))["probability"].shape == (count,)


@pytest.mark.slow
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


def test_model_without_detail_branch(tmp_path):
    """An ordinary sequential one, for all its signatures."""
    model = shake(keras.Sequential([keras.Input((32, 32, 3)), *ordinary().layers[1:]]))
    path = keras_stoch.export(model, tmp_path / "served")
    served = tf.saved_model.load(str(path)).signatures
    assert set(served) - {"serving_default"} == {"serve", "serve_image", "serve_bytes"}
    pixels = np.stack([picture(32, 32, seed) for seed in range(2)])
    ours = np.asarray(tf.sigmoid(model(np.float32(pixels))))[:, 0]
    found = served["serve"](low_res=tf.constant(pixels))["probability"].numpy()
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-6)
    assert served["serve_bytes"](images=tf.constant([encode(picture(40, 40))]))["probability"].shape == (1,)


@pytest.mark.slow
def test_photographs_get_the_probabilities_that_predict_gives(tiny, tmp_path, photographs):
    """A whole chain of its own: TensorFlow's decoder, crop and resize against Pillow's."""
    model = shake(keras_stoch.create_model("tiny", low_res=64))
    served = tf.saved_model.load(str(keras_stoch.export(model, tmp_path / "served"))).signatures
    paths = photographs[:: max(1, len(photographs) // 5)]
    found = served["serve_bytes"](images=tf.constant([path.read_bytes() for path in paths]))["probability"].numpy()
    table = keras_stoch.predict_photographs(model, paths)
    difference = np.abs(np.log(found / (1 - found)) - np.log(table["probability"] / (1 - table["probability"])))
    assert (difference < 0.1 * max(1, np.ptp(np.log(found / (1 - found))))).all()


@pytest.mark.slow
def test_a_run_is_exported_by_its_folder(tiny, plain_run, tmp_path):
    served = tf.saved_model.load(str(keras_stoch.export(plain_run, tmp_path / "served"))).signatures
    encoded = tf.constant([encode(picture(32, 32, seed)) for seed in range(2)])
    pixels = np.stack([prepare_bytes(image, 0, 1024, 32).numpy() for image in encoded])
    ours = np.asarray(tf.sigmoid(keras_stoch.load_run(plain_run)(np.float32(pixels))))[:, 0]
    assert np.ptp(ours) > 1e-4
    np.testing.assert_allclose(served["serve"](low_res=tf.constant(pixels))["probability"], ours, rtol=0, atol=1e-6)
    np.testing.assert_allclose(served["serve_bytes"](images=encoded)["probability"], ours, rtol=0, atol=1e-6)
