"""Shards: the same batches however many workers read them, every image once, and no worker reads another's bytes."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from keras_stoch.data.pipeline import Pipeline
from keras_stoch.data.shards import Shards, write_shards

IO = Path("/proc/self/io")


def write_folder(folder: Path, images: int, shards: int, size=16, held=5) -> Path:
    """A prepared folder of noise, the first `held` images for validation; image n has n as its first pixel."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for n in range(images):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        pixels[0, 0] = n
        Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
    names = [f"{n}" for n in range(images)]
    files = [f"images/{name}.png" for name in names]
    split = ["validation"] * held + ["train"] * (images - held)
    manifest = pd.DataFrame({"image": names, "file": files, "target": np.arange(images) % 2, "split": split})
    manifest.to_csv(folder / "manifest.csv", index=False)
    (folder / "prepare.json").write_text(f'{{"settings": {{"size": {size}}}}}')
    write_shards(manifest, folder, shards)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """64 images: 59 for training in 8 shards, and 5 for validation in one."""
    return write_folder(tmp_path_factory.mktemp("shards") / "prepared", 64, 8)


def epoch(folder, number=1, start=0, **options):
    """The batches of an epoch: tuples of the images' numbers, targets and, if there are any, weights."""
    common = {"batch_size": 8, "low_res": 16, "high_res": None, "source": "shards", "shuffle": True, "seed": 3}
    batches = Pipeline(folder, **common | options).epoch(number, start)
    return [(images[:, 0, 0, 0].numpy(), *(part.numpy() for part in rest)) for images, *rest in batches]


def joined(parts):
    """The batches of several workers put together, one worker's part after the other's."""
    return [
        tuple(np.concatenate(columns) for columns in zip(*of_step, strict=True)) for of_step in zip(*parts, strict=True)
    ]


def same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(x, y) for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("remainder", "start"), [("drop", 0), ("pad", 3)])
def test_the_batches_are_those_of_one_worker(folder, remainder, start):
    one = epoch(folder, start=start, remainder=remainder)
    assert len(one) == {"drop": 7, "pad": 8}[remainder] - start
    for workers in (2, 4):
        parts = [epoch(folder, start=start, worker=n, workers=workers, remainder=remainder) for n in range(workers)]
        assert {len(batch[0]) for part in parts for batch in part} == {8 // workers}
        assert same(joined(parts), one)
    # Pieces for the replicas of a worker, one after the other.
    pieces = epoch(folder, start=start, replicas=2, remainder=remainder)
    assert same(joined([pieces[::2], pieces[1::2]]), one)


@pytest.mark.parametrize(("remainder", "shuffle"), [("keep", True), ("pad", False)])
@pytest.mark.parametrize("batch_size", [6, 8, 64])
def test_every_image_comes_once_with_its_target(folder, batch_size, remainder, shuffle):
    """With lanes of equal and of unequal length, and fewer images than a batch holds."""
    batches = epoch(folder, batch_size=batch_size, shuffle=shuffle, remainder=remainder)
    columns = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    images, targets = (column[columns[2] > 0] if remainder == "pad" else column for column in columns[:2])
    assert sorted(images) == [*range(5, 64)]
    assert (targets == images % 2).all()


def test_the_order_follows_from_seed_and_epoch_alone(folder):
    tf.random.set_seed(1)
    one = epoch(folder)
    tf.random.set_seed(2)
    assert same(one, epoch(folder))
    assert not same(one, epoch(folder, number=2))
    assert not same(one, epoch(folder, seed=4))


def test_images_are_shuffled_within_blocks(tmp_path, monkeypatch):
    """In more than one block of each lane, for one worker and for two."""
    monkeypatch.setattr("keras_stoch.data.shards.BLOCK", 14)
    folder = write_folder(tmp_path / "prepared", 45, 2)
    one = epoch(folder, batch_size=4)
    images = np.concatenate([batch[0] for batch in one])
    assert sorted(images) == [*range(5, 45)]
    of_shards = [sorted(np.concatenate([batch[0][part] for batch in one])) for part in (slice(2), slice(2, 4))]
    plain = epoch(folder, batch_size=4, shuffle=False)
    in_files = [np.concatenate([batch[0][part] for batch in plain]) for part in (slice(2), slice(2, 4))]
    assert sorted(map(list, of_shards)) == sorted(sorted(file) for file in in_files)
    shuffled = np.concatenate([batch[0][:2] for batch in one])
    file = next(file for file in in_files if shuffled[0] in file)
    assert (shuffled != file).any()
    assert {*shuffled[:7]} == {*file[:7]}  # a block
    parts = [epoch(folder, batch_size=4, remainder="drop", worker=n, workers=2) for n in range(2)]
    assert same(joined(parts), one)


@pytest.mark.slow
@pytest.mark.skipif(not IO.exists(), reason="counts bytes in /proc/self/io")
def test_a_worker_reads_its_own_shards_alone(tmp_path):
    folder = write_folder(tmp_path / "prepared", 37, 8, size=200)
    whole = sum(path.stat().st_size for path in folder.glob("shards/train-*"))

    def read(worker, workers):
        before = int(IO.read_text().split()[1])
        epoch(folder, batch_size=8, low_res=200, remainder="drop", worker=worker, workers=workers)
        return int(IO.read_text().split()[1]) - before

    read(0, 1)  # what TensorFlow loads when it is first used
    besides = folder.joinpath("manifest.csv").stat().st_size + 20_000
    assert read(0, 1) >= whole
    for workers in (2, 4):
        for worker in (0, workers - 1):
            assert whole / workers * 0.95 < read(worker, workers) < whole / workers * 1.05 + besides


def test_what_is_refused(folder, tmp_path):
    for workers, batch_size, message in (
        (3, 24, "8 shards and batches of 24 can be shared out among 1 or 2 or 4 or 8 workers.* Received: workers=3"),
        (5, 10, "among 1 or 2 workers"),
    ):
        with pytest.raises(ValueError, match=message):
            epoch(folder, batch_size=batch_size, workers=workers, remainder="drop")
    torn = write_folder(tmp_path / "torn", 20, 3)
    gone = torn / "shards" / "train-00001-of-00003.tfrecord"
    gone.rename(tmp_path / gone.name)
    with pytest.raises(ValueError, match="3 whole shards of split 'train': train-00001-of-00003.tfrecord is missing"):
        epoch(torn)
    (tmp_path / gone.name).rename(gone)
    (torn / "shards" / "train-00000-of-00002.tfrecord").touch()
    with pytest.raises(ValueError, match="train-00000-of-00002.tfrecord is none of them"):
        epoch(torn)


def test_lanes_have_what_their_batches_take(folder):
    """For any number of images, shards and batches: as many in each lane as all its batches take, or one more."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        shards = int(rng.integers(1, 40))
        images, batch = int(rng.integers(shards, 500)), int(rng.integers(1, 130))
        dealt = Shards.__new__(Shards)
        dealt.files, dealt.lanes = [""] * shards, math.gcd(shards, batch)
        dealt.sizes = np.array([len(part) for part in np.array_split(np.arange(images), shards)])
        lanes = dealt._deal(int(rng.integers(100)), int(rng.integers(100)))
        assert sorted(lanes.ravel()) == [*range(shards)]
        counts = dealt.sizes[lanes].sum(axis=1)
        assert counts.max() - counts.min() <= 1
        assert counts.min() >= images // batch * batch // dealt.lanes
    # A larger shard is not always the first of its lane.
    dealt.files, dealt.lanes, dealt.sizes = ["", ""], 1, np.array([2, 1])
    assert {int(dealt._deal(0, epoch)[0, 0]) for epoch in range(30)} == {0, 1}
