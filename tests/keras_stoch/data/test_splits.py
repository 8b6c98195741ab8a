"""Training, validation and test, and folds: every group on one side, every part with its share of both classes."""

import shutil

import numpy as np
import pandas as pd
import pytest

from keras_stoch.cli import main
from keras_stoch.data.splits import of_run, split


@pytest.fixture
def prepared(tmp_path, rng):
    """A manifest of 600 images of patients with 1 to 9 images each, a fifth of them malignant, and no images."""
    groups = np.repeat(np.arange(300), rng.integers(1, 10, 300))[:600]
    manifest = pd.DataFrame(
        {"image": [f"{n:04d}" for n in range(600)], "file": [f"images/{n}.jpg" for n in range(600)]}
    )
    manifest["target"] = (rng.random(600) < 0.2).astype(int)
    manifest["split"], manifest["group"] = "train", groups
    manifest["age"] = ["45.0", ""] * 300
    (tmp_path / "manifest.csv").write_text(manifest.to_csv(index=False, lineterminator="\n"))
    return tmp_path


def read(folder):
    return pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)


def test_folds_are_whole_groups_of_equal_shares(prepared):
    before = read(prepared)
    told = split(prepared, folds=5, seed=1)
    table = read(prepared)
    assert table.drop(columns=["split", "fold"]).equals(before.drop(columns="split"))  # to the letter
    assert set(table["fold"]) == set("01234")
    assert table.groupby("group")["fold"].nunique().max() == 1
    sizes = table.groupby("fold").size()
    malignant = (table["target"] == "1").groupby(table["fold"]).mean()
    assert sizes.between(105, 135).all()
    assert malignant.max() - malignant.min() < 0.05
    assert told["part"].tolist() == [f"fold {n}" for n in range(5)]
    assert told["images"].tolist() == sizes.tolist()
    assert told["groups"].sum() == table["group"].nunique()


def test_test_images_are_in_no_fold(prepared):
    split(prepared, folds=4, test=0.2)
    table = read(prepared)
    assert 100 <= (table["split"] == "test").sum() <= 140
    assert (table.loc[table["split"] == "test", "fold"] == "").all()
    assert table.groupby("group")["split"].apply(lambda parts: "test" in set(parts) and len(set(parts)) > 1).sum() == 0
    manifest = pd.read_csv(prepared / "manifest.csv")
    validated = []
    for run in range(4):
        of, fold = of_run(manifest, run)
        assert fold == run
        assert (of["split"] == "test").equals(manifest["split"] == "test")
        validated.append(of.index[of["split"] == "validation"])
        assert set(of["split"]) == {"train", "validation", "test"}
    # Every image but those of the test is validated once.
    assert sorted(np.concatenate(validated)) == sorted(manifest.index[manifest["split"] != "test"])
    assert of_run(manifest, 6)[1] == 2


def test_three_parts_without_folds(prepared):
    split(prepared, folds=3)
    told = split(prepared, validation=0.15, test=0.25, seed=2)
    table = read(prepared)
    assert "fold" not in table
    shares = table["split"].value_counts() / 600
    assert shares["validation"] == pytest.approx(0.15, abs=0.02)
    assert shares["test"] == pytest.approx(0.25, abs=0.02)
    assert table.groupby("group")["split"].nunique().max() == 1
    assert told["part"].tolist() == ["train", "validation", "test"]
    assert of_run(pd.read_csv(prepared / "manifest.csv"), 1)[1] is None


def test_the_seed_decides(prepared):
    found = []
    for seed in (0, 0, 1):
        split(prepared, folds=3, seed=seed)
        found.append(read(prepared)["fold"].tolist())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be None or an integer of at least 2. Received: 1"),
        ({"folds": True}, "folds must be None or an integer"),
        ({"validation": 0}, "validation must be a share of more than 0 and less than 1. Received: 0"),
        ({"test": 1.0}, "test must be a share of at least 0 and less than 1. Received: 1.0"),
        ({"test": "0.2"}, "test must be a share"),
        ({"validation": 0.5, "test": 0.5}, "validation and test leave nothing to train on"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"folds": 400}, "would have .* images with targets .*; both classes are needed"),
    ],
)
def test_what_can_not_be_divided_is_left_as_it_is(prepared, options, message):
    before = (prepared / "manifest.csv").read_bytes()
    with pytest.raises(ValueError, match=message):
        split(prepared, **options)
    assert (prepared / "manifest.csv").read_bytes() == before


def test_shards_and_other_folders_are_refused(prepared, tmp_path):
    with pytest.raises(ValueError, match="is no prepared folder"):
        split(tmp_path / "none", folds=2)
    with pytest.raises(ValueError, match="A prepared folder is written on this machine, and can be copied"):
        split("gs://bucket/prepared", folds=2)
    (prepared / "shards").mkdir()
    (prepared / "shards" / "train-00000-of-00001.tfrecord").touch()
    with pytest.raises(ValueError, match="has shards, which are cut along its split"):
        split(prepared, folds=2)


def test_from_the_command_line(lesions, tmp_path, capsys):
    folder = shutil.copytree(lesions, tmp_path / "lesions")
    assert main(["split", str(folder), "--folds", "3", "--test", "0.2"]) == 0
    assert "fold 2" in capsys.readouterr().out
    assert main(["split", str(folder), "--folds", "1"]) == 2
