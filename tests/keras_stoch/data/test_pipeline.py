"""Batches: what is in them, their order, resuming, workers, shards, and the torch twin."""

import shutil

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from keras_stoch.data.augment import reduce
from keras_stoch.data.pipeline import Pipeline, damage_named
from keras_stoch.data.prepare import Settings, prepare
from keras_stoch.data.synthetic import write_lesions
from torch_ref.data import make_loader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 generated lesions of 128 pixels: 24 for training and 6 for validation."""
    return write_lesions(tmp_path_factory.mktemp("lesions") / "prepared", 30, size=128)


def whole(pipeline, epoch=0, start=0):
    """All batches of an epoch, each as a flat tuple of arrays."""
    return [tuple(np.asarray(x) for x in tf.nest.flatten(batch)) for batch in pipeline.epoch(epoch, start)]


def same(first, second):
    return len(first) == len(second) and all(
        (x == y).all() for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True)
    )


def test_contents_without_augmentation(folder):
    pipeline = Pipeline(folder, "validation", batch_size=4, low_res=32, high_res=128)
    batches = list(pipeline.epoch(0))
    assert [len(targets) for _, targets in batches] == [4, 2]
    manifest = pd.read_csv(folder / "manifest.csv").query("split == 'validation'")
    for row, (position, image) in zip(manifest.itertuples(), np.ndindex(2, 4), strict=False):
        inputs, targets = batches[position]
        with Image.open(folder / row.file) as file:
            pixels = np.asarray(file.convert("RGB"))
        assert (inputs["high_res"][image].numpy() == pixels).all()
        assert (inputs["low_res"][image].numpy() == reduce(tf.constant(pixels), 32).numpy()).all()
        assert targets[image] == row.target
    assert inputs["high_res"].dtype == inputs["low_res"].dtype == tf.uint8


def test_low_res_alone_decodes_at_reduced_scale(folder):
    pipeline = Pipeline(folder, "validation", batch_size=6, low_res=32, high_res=None)
    assert pipeline.working_size == 32
    ((images, _),) = pipeline.epoch(0)
    both = Pipeline(folder, "validation", batch_size=6, low_res=32, high_res=128)
    ((inputs, _),) = both.epoch(0)
    assert images.shape == inputs["low_res"].shape
    assert np.abs(np.int32(images) - np.int32(inputs["low_res"])).mean() < 2  # two antialiasing filters


@pytest.mark.slow
def test_order_and_augmentation_are_functions_of_seed_and_epoch(folder):
    def make(seed=0):
        return Pipeline(folder, batch_size=8, low_res=32, high_res=64, augment=True, shuffle=True, seed=seed)

    assert same(whole(make(), 3), whole(make(), 3))
    assert not same(whole(make(), 3), whole(make(), 4))
    assert not same(whole(make(), 3), whole(make(1), 3))
    assert same(whole(make(), 3, start=1), whole(make(), 3)[1:])  # resumed in mid-epoch
    orders = np.array([make().order(epoch) for epoch in range(200)])
    assert (np.sort(orders) == np.arange(24)).all()
    assert len(np.unique(orders[:, 0])) == 24  # every image comes first at some time


def test_workers_get_the_parts_of_one_batch(folder):
    options = {"batch_size": 8, "low_res": 32, "high_res": 64, "augment": True, "shuffle": True, "remainder": "drop"}
    one = whole(Pipeline(folder, **options), 2)
    assert len(one) == Pipeline(folder, **options).steps > 1
    parts = [whole(Pipeline(folder, **options, worker=n, workers=2), 2) for n in range(2)]
    joined = [tuple(np.concatenate(xs) for xs in zip(a, b, strict=True)) for a, b in zip(*parts, strict=True)]
    assert same(one, joined)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["files", "shards"])
def test_remainders(tmp_path_factory, source):
    folder = shard_folder(tmp_path_factory)
    pipeline = Pipeline(folder, batch_size=5, low_res=32, high_res=32, remainder="drop", source=source)
    assert [len(batch[-1]) for batch in whole(pipeline)] == [5] * pipeline.steps == [5, 5]
    padded = Pipeline(folder, batch_size=5, low_res=32, high_res=32, remainder="pad", source=source)
    batches = whole(padded)
    assert [batch[-1].tolist() for batch in batches] == [[1] * 5, [1] * 5, [1, 1, 0, 0, 0]]
    assert (batches[2][0][2:] == batches[0][0][:3]).all()  # filled up with the first


_SHARDS = []


def shard_folder(tmp_path_factory):
    """12 training images prepared into files and shards, made once."""
    if not _SHARDS:
        base = tmp_path_factory.mktemp("shards")
        lesions = write_lesions(base / "raw", 16, size=64)
        rows = pd.read_csv(lesions / "manifest.csv")[["image", "target"]]
        rows.to_csv(base / "labels.csv", index=False)
        settings = Settings(size=64, min_side=64, format="png")
        prepare(lesions, base / "labels.csv", base / "out", settings=settings, shards=3, validation=0.25)
        _SHARDS.append(base / "out")
    return _SHARDS[0]


@pytest.mark.slow
def test_shards_give_the_same_augmented_images(tmp_path_factory):
    folder = shard_folder(tmp_path_factory)
    options = {"batch_size": 12, "low_res": 32, "high_res": 64, "augment": True, "shuffle": True}
    files, shards = (
        {row.tobytes() for row in whole(Pipeline(folder, **options, source=s), 1)[0][0]} for s in ("files", "shards")
    )
    assert files == shards
    first, again, later = (whole(Pipeline(folder, **options, source="shards"), epoch) for epoch in (1, 1, 2))
    assert same(first, again)
    assert not same(first, later)
    parts = [
        whole(Pipeline(folder, **options | {"remainder": "drop"}, source="shards", worker=n, workers=3), 1)
        for n in range(3)
    ]
    assert {row.tobytes() for part in parts for row in part[0][0]} == files


@pytest.mark.parametrize("high_res", [128, 64, None])
def test_torch_gives_the_same_batches(folder, high_res):
    """Equal order and targets; pixels to one grey level, where float32 falls on a half."""
    ours = Pipeline(folder, batch_size=8, low_res=32, high_res=high_res, augment=True, shuffle=True, seed=5)
    theirs = make_loader(folder, "train", 8, 32, high_res, augment=True, shuffle=True, seed=5)
    theirs.dataset.set_epoch(2)
    theirs.batch_sampler.set_epoch(2, start=1)
    for (inputs, targets), (other, other_targets) in zip(ours.epoch(2, start=1), theirs, strict=True):
        assert (targets.numpy() == other_targets.numpy()).all()
        inputs = inputs if high_res else {"low_res": inputs}
        assert inputs.keys() == other.keys()
        for name in inputs:
            difference = np.abs(np.int32(inputs[name]) - np.int32(other[name].permute(0, 2, 3, 1)))
            assert difference.max() <= 1
            assert (difference > 0).mean() < 5e-3


@pytest.mark.parametrize("size", [130, 102])
def test_torch_gives_the_same_small_images_of_odd_sizes(tmp_path, size):
    """130 can be halved by the JPEG decoder, but not quartered, without rest."""
    folder = write_lesions(tmp_path / "lesions", 10, size=size)
    options = {"batch_size": 4, "low_res": 32, "high_res": None}
    ours = whole(Pipeline(folder, "train", **options))
    theirs = make_loader(folder, "train", **options)
    for (images, _), (inputs, _) in zip(ours, theirs, strict=True):
        difference = np.abs(np.int32(images) - np.int32(inputs["low_res"].permute(0, 2, 3, 1)))
        assert difference.max() <= 1


def test_torch_workers_too(folder):
    loaders = [make_loader(folder, "train", 8, 32, None, True, True, 1, True, rank, 2) for rank in range(2)]
    one = make_loader(folder, "train", 8, 32, None, True, True, 1, True)
    for (a, b), (x, y) in zip(zip(*loaders, strict=True), one, strict=True):
        assert (np.concatenate([a[0]["low_res"], b[0]["low_res"]]) == x["low_res"].numpy()).all()
        assert (np.concatenate([a[1], b[1]]) == y.numpy()).all()


def test_it_feeds_keras_fit(folder):
    import keras

    pipeline = Pipeline(folder, batch_size=8, low_res=32, high_res=None)
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)])
    model.compile(loss="mse")
    assert np.isfinite(model.fit(pipeline.epoch(0), shuffle=False, verbose=0).history["loss"][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "nowhere"}, "nowhere is no prepared folder: there is no manifest.csv. `keras-stoch prepare"),
        ({"split": "test"}, "No image of split 'test'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1. Received: 0"),
        ({"batch_size": 100, "remainder": "drop"}, "24 images of split 'train' fill no batch of 100"),
        ({"high_res": 512}, "have 128 pixels a side, which is less than high_res=512"),
        ({"high_res": 32}, "high_res must be an integer of at least 64"),
        ({"remainder": "maybe"}, "remainder must be one of keep, drop, pad"),
        ({"workers": 3, "batch_size": 8, "remainder": "drop"}, "must be a multiple of workers x replicas"),
        ({"workers": 2}, "remainder must be 'drop' or 'pad'"),
        ({"source": "shards"}, "No shards of split 'train'"),
        ({"source": "shards", "split": None}, "source='shards' needs a prepared folder as data, and one split"),
    ],
)
def test_what_is_refused(folder, arguments, message):
    options = {"data": folder, "batch_size": 4, "low_res": 64, "high_res": 128} | arguments
    with pytest.raises(ValueError, match=message):
        next(iter(Pipeline(**options).epoch(0)))


def test_bad_manifests(folder):
    manifest = pd.read_csv(folder / "manifest.csv")
    with pytest.raises(ValueError, match="source='shards' needs a prepared folder"):
        Pipeline(manifest, root=folder, source="shards")  # shards know the folder's own rows and targets
    for frame, message in (
        (manifest.drop(columns="target"), "lacks the columns target"),
        (manifest.assign(target=2), "Targets must be 0 or 1. Received: .*2.* for images/SYN_0000000.jpg"),
        (manifest.assign(file="gone.jpg"), "24 files of the DataFrame are missing, first .*gone.jpg"),
    ):
        with pytest.raises(ValueError, match=message):
            Pipeline(frame, root=folder, low_res=32, high_res=None)


def damaged(path):
    path.write_bytes(path.read_bytes()[:400])


def no_picture(path):
    path.write_bytes(b"no picture")


def empty(path):
    path.write_bytes(b"")


def larger(path):
    Image.new("RGB", (96, 96)).save(path, "JPEG")


def oblong(path):
    Image.new("RGB", (64, 48)).save(path, "JPEG")


@pytest.mark.parametrize("position", [0, 7])
@pytest.mark.parametrize("spoil", [damaged, no_picture, empty, larger, oblong])
def test_an_image_that_can_not_be_used_is_named(lesions, tmp_path, spoil, position):
    """The first one, by which the size is known, and another."""
    shutil.copytree(lesions, tmp_path / "data")
    names = pd.read_csv(lesions / "manifest.csv")["file"]
    spoil(tmp_path / "data" / names[position])

    def read():
        pipeline = Pipeline(tmp_path / "data", None, batch_size=10, low_res=32, high_res=64)
        with damage_named(pipeline.files):
            for _ in pipeline.epoch(0):
                pass

    # Where the first has another size, it is the second that differs from it.
    suspects = {names[position], names[1]} if spoil is larger else {names[position]}
    with pytest.raises(ValueError, match="|".join(suspects)) as told:
        read()
    assert len(str(told.value)) < 500
