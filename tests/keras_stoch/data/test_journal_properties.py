"""Properties of the journal of `prepare`: whatever a kill or a disk makes of it, no image is lost or believed."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import keras_stoch
from keras_stoch.data.prepare import Settings
from tests.keras_stoch.properties import FEW

SETTINGS = Settings(size=64, min_side=64, format="png")
COUNT = 6


def prepare(raw, out):
    return keras_stoch.prepare(raw, raw / "labels.csv", out, settings=SETTINGS, workers=1)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Photographs, of which one is too small and one is broken, and their labels."""
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for n in range(COUNT):
        side = 40 if n == 2 else 80
        Image.fromarray(rng.integers(0, 256, (side, 80, 3), dtype=np.uint8)).save(folder / f"i{n}.png")
    (folder / f"i{COUNT}.png").write_bytes(b"no picture")
    rows = pd.DataFrame({"image": [f"i{n}" for n in range(COUNT + 1)], "target": np.arange(COUNT + 1) % 2})
    rows.to_csv(folder / "labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def whole(raw, tmp_path_factory):
    """What an undisturbed run leaves: {name: bytes} of all files but the journal, and the lines of that."""
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare(raw, out)
    return contents(out), (out / "journal.jsonl").read_text().splitlines(keepends=True)


def contents(out):
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", ".lock")
    }


OTHER_LINES = (
    *("null", "3", "[]", '"x"', "{}", '{"image": "i0"}', '{"image": ["i0"], "stamp": 3}', "[" * 2000),
    *('{"image": "i1", "stamp": null, "dropped": null}', '{"image": "i1", "stamp": ["i1.png", 1, 2], "dropped": 1}'),
)
NOISE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(OTHER_LINES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ).map(json.dumps),
)


def disturbed(out, whole, lines):
    """Makes a folder hold what an undisturbed run leaves, with another journal."""
    shutil.rmtree(out, ignore_errors=True)
    for name, content in whole[0].items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    (out / "journal.jsonl").write_bytes(lines)


@pytest.mark.slow
@settings(FEW, max_examples=30)
@given(data=st.data())
def test_a_torn_noisy_shuffled_journal_gives_the_same_folder(tmp_path, raw, whole, data):
    lines = [*whole[1], *(line + "\n" for line in data.draw(st.lists(NOISE, max_size=4)))]
    lines = data.draw(st.permutations(lines))
    text = "".join(
        data.draw(st.lists(st.sampled_from(lines), max_size=len(lines))) if data.draw(st.booleans()) else lines
    )
    content = text.encode("utf-8", "replace")
    content = content[: data.draw(st.integers(0, len(content)))]
    out = tmp_path / "out"
    disturbed(out, whole, content)
    for name in data.draw(st.sets(st.sampled_from([n for n in whole[0] if n.startswith("images/")]))):
        damage = data.draw(st.sampled_from(["gone", "cut"]))
        (out / name).unlink() if damage == "gone" else (out / name).write_bytes(whole[0][name][:100])
    prepare(raw, out)
    assert contents(out) == whole[0]
    journal = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert {entry["image"] for entry in journal} >= {f"i{n}" for n in range(COUNT + 1)}


@settings(FEW, max_examples=20)
@given(changed=st.sets(st.integers(0, COUNT - 1), min_size=1))
def test_what_has_changed_is_prepared_again(tmp_path, raw, whole, changed):
    """The journal says so by name, size and time; pixels of the same size are another time's."""
    out = tmp_path / "out"
    disturbed(out, whole, "".join(whole[1]).encode())
    lines = []
    for line in whole[1]:
        entry = json.loads(line)
        if entry["image"] in {f"i{n}" for n in changed}:
            entry["stamp"][2] -= 1
            (out / "images" / f"{entry['image']}.png").unlink(missing_ok=True)
        lines.append(json.dumps(entry) + "\n")
    (out / "journal.jsonl").write_text("".join(lines))
    prepare(raw, out)
    assert contents(out) == whole[0]


def test_a_preparation_without_an_image_binds_nobody(raw, tmp_path):
    """All were too small; another setting may have the folder, and takes none of the verdicts of the first."""
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="No image is left"):
        keras_stoch.prepare(raw, raw / "labels.csv", out, settings=Settings(size=64, min_side=2000))
    record = prepare(raw, out)
    assert record["counts"]["kept"] == COUNT - 1
    with pytest.raises(ValueError, match="holds images of other settings"):
        keras_stoch.prepare(raw, raw / "labels.csv", out, settings=Settings(size=32, min_side=64))


def test_lesions_without_an_image_bind_nobody(tmp_path, monkeypatch):
    from keras_stoch.data import synthetic

    def interrupted(*_):
        raise KeyboardInterrupt

    real = synthetic.draw_lesion
    monkeypatch.setattr(synthetic, "draw_lesion", lambda *a: real(*a) if isinstance(a[1], int) else interrupted())
    with pytest.raises(KeyboardInterrupt):
        keras_stoch.write_lesions(tmp_path / "out", 10, size=64, workers=1)
    monkeypatch.undo()
    keras_stoch.write_lesions(tmp_path / "out", 10, size=64, seed=3)
    with pytest.raises(ValueError, match="holds something else"):
        keras_stoch.write_lesions(tmp_path / "out", 10, size=64)


def test_a_second_preparation_is_refused(raw, tmp_path):
    from keras_stoch.files import locked

    (tmp_path / "out").mkdir()
    with (
        locked(tmp_path / "out" / ".lock", "held"),
        pytest.raises(ValueError, match="is being prepared by another process"),
    ):
        prepare(raw, tmp_path / "out")
    assert prepare(raw, tmp_path / "out")["counts"]["kept"] == COUNT - 1


def test_a_full_disk_leaves_no_half_shard(raw, tmp_path, monkeypatch):
    import tensorflow as tf

    real = tf.io.TFRecordWriter.write

    def full(self, record):
        real(self, record)
        raise tf.errors.ResourceExhaustedError(None, None, "x.tfrecord; No space left on device")

    monkeypatch.setattr(tf.io.TFRecordWriter, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        keras_stoch.prepare(raw, raw / "labels.csv", tmp_path / "out", settings=SETTINGS, shards=1)
    assert not list((tmp_path / "out" / "shards").iterdir())
    assert not (tmp_path / "out" / "manifest.csv").exists()
    monkeypatch.undo()
    record = keras_stoch.prepare(raw, raw / "labels.csv", tmp_path / "out", settings=SETTINGS, shards=1)
    assert len(record["shards"]) == 2


def test_a_full_disk_leaves_no_half_image(raw, whole, tmp_path, monkeypatch):
    from keras_stoch import files

    count, real = [0], files.os.fsync

    def full(descriptor):
        count[0] += 1
        if count[0] == 4:
            raise OSError(28, "No space left on device")
        return real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        prepare(raw, tmp_path / "out")
    monkeypatch.undo()
    assert not list((tmp_path / "out").rglob("*.partial"))
    prepare(raw, tmp_path / "out")
    assert contents(tmp_path / "out") == whole[0]
