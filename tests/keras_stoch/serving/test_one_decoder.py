"""One file, one picture: `prepare`, `predict`, the served model and `keras-stoch windows` read every kind alike."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_stoch
from keras_stoch.cli import main
from keras_stoch.data.decoding import BITS, eight_bits, exif_orientation
from keras_stoch.data.prepare import Settings, prepare, prepare_image
from keras_stoch.serving.headers import stored_orientation
from tests.keras_stoch.serving.kinds import Kind, kinds
from tests.keras_stoch.serving.writers import segment, tiff, with_segments

KINDS = kinds()
SIDE = 64


def prepared_truth(kind: Kind, size=SIDE):
    return np.asarray(prepare_image(Image.fromarray(kind.pixels), Settings(size=size, min_side=1))[0])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name of a kind -> its file. They are called 0.jpg, 1.png, ..."""
    folder, found = tmp_path_factory.mktemp("kinds"), {}
    for number, (name, kind) in enumerate(KINDS.items()):
        found[name] = folder / f"{number}{kind.suffix}"
        found[name].write_bytes(kind.data)
    return found


@pytest.fixture(scope="module")
def prepared(files, tmp_path_factory):
    """Name of a kind -> what `prepare` makes of it, or why it does not."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    labels = out.with_name("labels.csv")
    labels.write_text("image,target\n" + "\n".join(f"{path.stem},{n % 2}" for n, path in enumerate(files.values())))
    settings = Settings(size=SIDE, min_side=1, format="png")
    record = prepare(next(iter(files.values())).parent, labels, out, settings=settings, split="random")
    dropped = record["dropped"]
    return {
        name: dropped[path.stem]["reason"]
        if path.stem in dropped
        else np.asarray(Image.open(out / "images" / f"{path.stem}.png"))
        for name, path in files.items()
    }


@pytest.fixture(scope="module")
def linear():
    """A model whose logit tells the picture, and how it lies: a weighted sum of its pixels.

    A grey level on every pixel changes it by less than 0.02, a quarter turn by about one.
    """
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(1)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs)))
    model = keras.Model(inputs, outputs)
    rows, columns = np.indices((32, 32)) / 31
    weights = (np.stack([rows - 0.5, 2 * columns - 1, rows - columns], -1) + 0.2) / 240
    model.set_weights([np.float32(weights.reshape(-1, 1)), np.zeros(1, np.float32)])
    return model


@pytest.fixture(scope="module")
def served(linear, tmp_path_factory):
    path = keras_stoch.export(linear, tmp_path_factory.mktemp("linear") / "served")
    return tf.saved_model.load(str(path)).signatures["serve_bytes"]


@pytest.fixture(scope="module")
def predicted(linear, files):
    table = keras_stoch.predict_photographs(linear, files.values())
    return dict(zip(files, table.to_dict("records"), strict=True))


def logit(probability):
    return np.log(probability / (1 - probability))


def expected_logit(linear, kind):
    small = Image.fromarray(prepared_truth(kind, 1024)).resize((32, 32), Image.Resampling.BILINEAR)
    return float(linear(np.float32(small)[None])[0, 0])


def test_there_are_enough_kinds():
    assert len(KINDS) > 140


@pytest.mark.parametrize("name", KINDS)
def test_prepare(name, prepared):
    kind = KINDS[name]
    if kind.pixels is None:
        assert "unreadable" in prepared[name] or "pixels are refused" in prepared[name]
    elif kind.pixels is ...:
        assert prepared[name].shape == (SIDE, SIDE, 3)
    else:
        assert np.abs(np.int32(prepared[name]) - prepared_truth(kind)).mean() < kind.close


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_predict(name, predicted, linear):
    kind, row = KINDS[name], predicted[name]
    assert bool(row["error"]) == (kind.pixels is None)
    if isinstance(kind.pixels, np.ndarray):
        assert abs(logit(row["probability"]) - expected_logit(linear, kind)) < 0.02 * kind.close


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_serve(name, served, predicted, linear):
    kind = KINDS[name]
    if kind.serving is not None:
        with pytest.raises(tf.errors.InvalidArgumentError, match=kind.serving):
            served(images=tf.constant([kind.data]))
        return
    found = logit(served(images=tf.constant([kind.data]))["probability"].numpy()[0])
    assert abs(found - expected_logit(linear, kind)) < 0.02 * kind.close
    assert abs(found - logit(predicted[name]["probability"])) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_windows(every, files, tiny, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("keras_stoch.evaluation.figures.windows_figure", lambda pixels, *_: seen.append(pixels))
    for name, path in list(files.items())[::every]:
        kind, before = KINDS[name], len(seen)
        code = main(["windows", str(path), "--model", "tiny-stem", "--out", str(tmp_path / "windows.png")])
        if kind.pixels is None:
            assert (code, len(seen)) == (2, before), name
            assert capsys.readouterr().err.startswith(f"error: {path}: "), name
        else:
            assert (code, len(seen)) == (0, before + 1), name
        if isinstance(kind.pixels, np.ndarray):
            truth = Image.fromarray(prepared_truth(kind, 1024)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            assert np.abs(np.int32(seen[-1]) - np.asarray(truth)).mean() < kind.close, name


def test_a_turn_or_a_dark_picture_would_show(linear):
    """The differences that the tests above allow are far below those that matter."""
    right = KINDS["jpeg"]
    turned = Kind(b"", np.rot90(right.pixels))
    dark = Kind(b"", right.pixels // 16)
    for wrong in (turned, dark):
        assert abs(expected_logit(linear, wrong) - expected_logit(linear, right)) > 0.15


@pytest.mark.slow
def test_one_batch_of_all_that_serving_reads(served):
    """Kinds do not disturb each other."""
    readable = [kind.data for kind in KINDS.values() if kind.serving is None]
    together = served(images=tf.constant(readable))["probability"].numpy()
    alone = [served(images=tf.constant([data]))["probability"].numpy()[0] for data in readable[::9]]
    np.testing.assert_allclose(together[::9], alone, rtol=0, atol=1e-6)


def test_random_exif_is_read_alike(rng):
    """EXIF with bytes changed, cut and repeated: the graph finds the orientation that Python finds, or none as it."""
    in_graph = tf.function(stored_orientation, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    found = []
    for _ in range(600):
        data = bytearray(tiff(int(rng.integers(0, 10)), "<>"[rng.integers(2)], int(rng.choice([3, 4]))))
        for _ in range(rng.integers(0, 3)):
            data[rng.integers(len(data))] = rng.integers(256)
        data = bytes(data)[: rng.integers(4, len(data) + 1) if rng.random() < 0.3 else None]
        found.append(exif_orientation(data))
        assert int(in_graph(tf.constant(data))) == found[-1], data
    assert set(found) == set(range(1, 9))


@pytest.mark.slow
def test_random_segments_end(served):
    """Bytes that only begin like a photograph are refused, whatever follows, and the next request is answered."""
    rng, good = np.random.default_rng(1), KINDS["jpeg"].data
    for start in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
        for _ in range(10):
            with pytest.raises(tf.errors.InvalidArgumentError):
                served(images=tf.constant([start + rng.bytes(300)]))
    many = with_segments(good, segment(0xFE, b"") * 40_000)
    with pytest.raises(tf.errors.InvalidArgumentError, match="its header does not end"):
        served(images=tf.constant([many]))
    assert np.isfinite(served(images=tf.constant([good]))["probability"].numpy()).all()


@pytest.mark.parametrize("bits", BITS)
def test_bits_in_use(bits):
    top = 2**bits - 1
    assert eight_bits(np.array([0, top]), top).tolist() == [0, 255]
    assert eight_bits(np.array([top // 2]), top)[0] in (127, 128)
