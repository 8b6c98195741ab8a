"""Balanced epochs: by seed and epoch alone, half of each class, the same in both packages."""

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

import keras_stoch
from keras_stoch.data.sampling import balanced_draw
from torch_ref import data as torch_data


@given(st.lists(st.integers(0, 1), min_size=2, max_size=60), st.integers(0, 9), st.integers(0, 9))
def test_half_of_each_and_nobody_forgotten(targets, seed, epoch):
    targets = np.array(targets)
    if len(set(targets.tolist())) < 2:
        with pytest.raises(ValueError, match="balanced needs images of both targets, 0 and 1. Received: none of"):
            balanced_draw(targets, seed, epoch)
        return
    drawn = balanced_draw(targets, seed, epoch)
    assert len(drawn) == len(targets)
    assert targets[drawn].sum() == len(targets) // 2
    for target in (0, 1):
        times = np.bincount(drawn, minlength=len(targets))[targets == target]
        assert times.max() - times.min() <= 1
    np.testing.assert_array_equal(drawn, balanced_draw(targets, seed, epoch))
    np.testing.assert_array_equal(drawn, torch_data.balanced_draw(targets, seed, epoch))


def test_epochs_and_seeds_differ():
    targets = np.arange(40) % 8 == 0
    draws = [tuple(balanced_draw(targets, seed, epoch)) for seed in range(2) for epoch in range(3)]
    assert len(set(draws)) == 6
    # After some epochs every benign image has been seen.
    assert len(set(np.concatenate([balanced_draw(targets, 0, epoch) for epoch in range(12)]))) == 40


@pytest.fixture
def rare(lesions):
    """A manifest with three malignant images for training, and the folder that it is of."""
    manifest = pd.read_csv(lesions / "manifest.csv")
    train = manifest[manifest["split"] == "train"]
    kept = train[(train["target"] == 0) | (train["target"].cumsum() <= 3)]
    return kept.reset_index(drop=True), lesions


def test_batches_are_those_of_the_draw_and_of_the_twin(rare, tmp_path):
    manifest, folder = rare
    table = manifest.assign(file=[str(folder / name) for name in manifest["file"]])
    options = {"batch_size": 5, "low_res": 32, "high_res": None, "shuffle": True, "augment": True, "seed": 4}
    pipeline = keras_stoch.Pipeline(table, balanced=True, remainder="drop", **options)
    (tmp_path / "manifest.csv").write_text(table.to_csv(index=False))
    loader = torch_data.make_loader(tmp_path, balanced=True, drop_remainder=True, **options)
    for epoch in (0, 2):
        batches = list(pipeline.epoch(epoch))
        targets = np.concatenate([targets for _, targets in batches])
        expected = table["target"].to_numpy()[pipeline.drawn(epoch)[pipeline.order(epoch)]][: len(targets)]
        np.testing.assert_array_equal(targets, expected)
        assert abs(targets.mean() - 0.5) < 0.15
        loader.dataset.set_epoch(epoch)
        loader.batch_sampler.set_epoch(epoch)
        for (ours, of_ours), (theirs, of_theirs) in zip(batches, loader, strict=True):
            np.testing.assert_array_equal(of_ours, of_theirs)
            difference = np.abs(np.int16(ours) - np.int16(theirs["low_res"].permute(0, 2, 3, 1)))
            assert difference.mean() < 1
        # One image again in an epoch is turned otherwise.
        again = list(pipeline.epoch(epoch, 2))
        np.testing.assert_array_equal(again[0][0], batches[2][0])


def test_an_image_that_is_drawn_twice_is_augmented_twice(rare):
    manifest, folder = rare
    pipeline = keras_stoch.Pipeline(
        manifest, low_res=32, high_res=None, batch_size=len(manifest), augment=True, balanced=True, root=folder
    )
    ((images, targets),) = pipeline.epoch(0)
    first = pipeline.drawn(0)[-1]
    twice = np.flatnonzero(pipeline.drawn(0) == first)
    assert len(twice) > 2
    assert (np.asarray(targets)[twice] == 1).all()
    assert (np.asarray(images)[twice[0]] != np.asarray(images)[twice[1]]).any()


def test_what_can_not_be_balanced(rare):
    manifest, folder = rare
    with pytest.raises(ValueError, match="balanced needs images of both targets, 0 and 1. Received: none of 1"):
        keras_stoch.Pipeline(manifest.assign(target=0), balanced=True, root=folder)
    with pytest.raises(ValueError, match="balanced=True needs images by number"):
        keras_stoch.Pipeline(folder, balanced=True, low_res=32, high_res=64, source="shards")
