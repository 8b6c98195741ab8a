"""Object storage: the prepared folder and the runs at an address, here TensorFlow's file system in memory (ram://)."""

import io
import json
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import keras_stoch
from keras_stoch.cli import main
from keras_stoch.data.pipeline import Pipeline, damage_named
from keras_stoch.data.prepare import Settings, prepare
from keras_stoch.files import write_atomically
from keras_stoch.storage import Remote, as_path, is_remote
from keras_stoch.training.runs import RunFolder, runs_of
from tests.tiny import SIZES

FIT = {"epochs": 1, "batch_size": 8, "hold_epochs": 1} | {"low_res": 32}


def upload(folder: Path, address: str) -> str:
    """Copies a folder of this machine to an address."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            target = f"{address}/{path.relative_to(folder).as_posix()}"
            tf.io.gfile.makedirs(target.rpartition("/")[0])
            tf.io.gfile.copy(str(path), target, overwrite=True)
    return address


@pytest.fixture(scope="module")
def folder(lesions, tmp_path_factory):
    """The lesions, prepared with two shards."""
    base = tmp_path_factory.mktemp("storage")
    pd.read_csv(lesions / "manifest.csv")[["image", "target"]].to_csv(base / "labels.csv", index=False)
    settings = Settings(size=64, min_side=64)
    prepare(lesions, base / "labels.csv", base / "prepared", settings=settings, shards=2, validation=0.3)
    return base / "prepared"


@pytest.fixture(scope="module")
def address(folder):
    return upload(folder, "ram://bucket/prepared")


def test_addresses_are_told_from_paths(tmp_path):
    assert isinstance(as_path("gs://bucket/a"), Remote)
    assert as_path(Path("gs://bucket/a")) == "gs://bucket/a"  # pathlib makes one slash of two
    assert as_path("gs://bucket/a/") / "b/c.png" == "gs://bucket/a/b/c.png"
    assert as_path("gs://bucket/a") / "ram://other/x" == "ram://other/x"
    assert as_path("gs://bucket/a") / str(tmp_path) == tmp_path
    assert as_path("gs://bucket/a/b.csv").with_name("c.csv").parent.name == "a"
    assert as_path("file:///tmp/x") == Path("/tmp/x")
    for path in ("C:/data", "c://data", "data", "./a://b", "/gs://x", tmp_path, Path("a:/b")):
        assert not is_remote(path), path


def test_an_address_has_the_manners_of_a_path(tmp_path):
    for folder in (as_path("ram://manners"), tmp_path / "manners"):
        (folder / "a" / "b").mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "a" / "one.csv", "x\n")
        (folder / "a" / "two.csv").write_bytes(b"\xff")
        assert (folder / "a").is_dir()
        assert not (folder / "a").is_file()
        assert (folder / "a" / "one.csv").is_file()
        assert not (folder / "none").exists()
        assert not (folder / "none" / "x").is_file()
        assert sorted(path.name for path in (folder / "a").iterdir()) == ["b", "one.csv", "two.csv"]
        assert [path.name for path in sorted(folder.glob("*/*.csv"))] == ["one.csv", "two.csv"]
        assert list(folder.glob("*/none-*")) == list((folder / "none").glob("*")) == []
        assert (folder / "a" / "one.csv").read_text() == "x\n"
        assert (folder / "a" / "two.csv").read_text(errors="replace") == "\ufffd"
        (folder / "a" / "two.csv").unlink()
        (folder / "a" / "two.csv").unlink(missing_ok=True)
        for missing in (folder / "a" / "two.csv", folder / "none" / "x"):
            with pytest.raises(FileNotFoundError, match=str(missing)):
                missing.read_bytes()
        with pytest.raises(FileNotFoundError):
            (folder / "a" / "two.csv").unlink()
        assert (folder / "a").is_relative_to(folder)
        assert (folder / "a" / "one.csv").relative_to(folder).as_posix() == "a/one.csv"


@pytest.mark.parametrize("source", ["files", "shards"])
def test_batches_are_those_of_the_folder_here(folder, address, source):
    options = {"batch_size": 8, "low_res": 32, "high_res": 64, "shuffle": True, "augment": True, "source": source}
    here, there = Pipeline(folder, **options), Pipeline(address, **options)
    assert here.rows.equals(there.rows)
    for one, other in zip(here.epoch(1), there.epoch(1), strict=True):
        for x, y in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
            assert (x.numpy() == y.numpy()).all()


def test_what_is_missing_or_damaged_there_is_named(folder):
    address = upload(folder, "ram://bucket/spoilt")
    second = pd.read_csv(folder / "manifest.csv").query("split == 'train'")["file"].iloc[1]
    options = {"batch_size": 8, "low_res": 32, "high_res": 64}

    def read():
        pipeline = Pipeline(address, **options)
        with damage_named(pipeline.files):
            list(pipeline.epoch(0))

    write_atomically(f"{address}/{second}", (folder / second).read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{address}/{second} is damaged"):
        read()
    tf.io.gfile.remove(f"{address}/{second}")
    with pytest.raises(ValueError, match="A file of the prepared folder is missing"):
        read()
    with pytest.raises(ValueError, match="ram://bucket/none is no prepared folder: there is no manifest.csv"):
        Pipeline("ram://bucket/none")
    with pytest.raises(ValueError, match=r"TensorFlow has no file system for s9://.*; it has .*ram://"):
        Pipeline("s9://bucket/prepared")


class Stop(Exception):
    pass


def stop_at(batch):
    """A callback that ends training after a batch."""

    def stop(done, logs):
        if done == batch:
            raise Stop

    return keras.callbacks.LambdaCallback(on_train_batch_end=stop)


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_to_what_one_here_comes_to(folder, address, tiny, tmp_path):
    out, options = "ram://bucket/stopped", FIT | SIZES | {"epochs": 2}
    keras_stoch.fit("tiny-stem", folder, tmp_path / "runs", **options)
    with pytest.raises(Stop):
        keras_stoch.fit("tiny-stem", address, out, callbacks=[stop_at(3)], checkpoint_seconds=0, **options)
    keras_stoch.fit("tiny-stem", address, out, checkpoint_seconds=0, **options)
    here, there = tmp_path / "runs" / "run-0", as_path(out) / "run-0"
    assert (here / "batches.csv").read_bytes() == (there / "batches.csv").read_bytes()
    rows = [[line.split(",")[:6] for line in (run / "curves.csv").read_text().splitlines()] for run in (here, there)]
    assert rows[0] == rows[1]
    assert len(rows[1]) == 3
    assert len([*(there / "checkpoints").iterdir()]) == 2
    one, other = keras_stoch.load_run(here), keras_stoch.load_run(there)
    for x, y in zip(one.get_weights(), other.get_weights(), strict=True):
        assert np.array_equal(x, y)


@pytest.mark.slow
def test_a_run_at_an_address_from_shards(address, tiny, traced_once, capfd):
    """By the command line: trained, loaded, calibrated, not mixed with another."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in FIT.items()]
    command = ["fit", "tiny", "--data", address, "--out", "ram://bucket/runs", "--shards", *options]
    assert main(command) == 0
    assert "ram://bucket/runs is in object storage, which has no locks" in capfd.readouterr().err
    run = as_path("ram://bucket/runs/run-0")
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "environment.json", "best.weights.h5", "last.weights.h5", "result.json"} <= names
    data = json.loads((run / "config.json").read_text())["data"]
    assert (data["folder"], data["shards"], data["preparation"]["size"]) == (address, True, 64)
    table = pd.read_csv(io.BytesIO((run.parent / "results.csv").read_bytes()))
    assert runs_of(str(run.parent)) == [run]
    found = keras_stoch.evaluate(str(run), address, calibrate="validation", bootstraps=10)
    assert found.auc == pytest.approx(table["best_val_auc"][0], abs=1e-6)
    assert (run / "calibration.json").is_file()
    assert main([word for word in command if word != "--shards"]) == 2  # images come in another order
    assert "data.shards: True there, None now" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["prepare", "RAW", "LABELS", "ram://x/y"], "A prepared folder is written on this machine"),
        (
            ["prepare", "ram://x/raw", "LABELS", "o"],
            "Photographs are read from this machine; copy or mount ram://x/raw",
        ),
        (["fit", "b0", "--data", "PREPARED", "--shards", "--out", "o"], "PREPARED has no shards; `keras-stoch prepare"),
        (["lesions", "ram://x/y"], "A prepared folder is written on this machine"),
        (["split", "ram://bucket/prepared", "--folds", "2"], "A prepared folder is written on this machine"),
        (
            ["augment", "ram://bucket/prepared", "--out", "ram://x/y.png"],
            "A figure or a table is written on this machine",
        ),
        (["export", "ram://bucket/runs/run-0", "ram://x/served"], "An export is written on this machine"),
        (["experiment", "--out", "ram://x/y"], "An experiment is written on this machine"),
        (["fit", "b0", "--data", "ram://x/none", "--out", "o"], "ram://x/none is no prepared folder"),
        (["fit", "b0", "--data", "s9://x/y", "--out", "o"], "TensorFlow has no file system for s9://x/y"),
        (["evaluate", "ram://x/none", "ram://x/y"], "ram://x/none is no run: there is no config.json"),
    ],
)
def test_what_is_written_here_or_is_not_there_is_told(address, command, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RAW").mkdir()
    (tmp_path / "LABELS").write_text("image,target\na,1\n")
    (tmp_path / "PREPARED").mkdir()
    (tmp_path / "PREPARED" / "manifest.csv").touch()
    assert main(command) == 2
    told = capfd.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LABELS", "PREPARED", "RAW"]


def test_tables_wait_for_the_checkpoint(tmp_path):
    """An object is written anew for every row: rows wait, and are there with the checkpoint, and at the end."""
    rows = []
    for path in ("ram://tables/run-0", tmp_path / "run-0"):
        folder = RunFolder(path, {"seed": 0})
        folder.begin(0, 0)
        for batch in range(3):
            folder.add_batch(0, batch, 0.5)
        folder.save({"x": np.zeros(2)}, {"epoch": 0, "batch": 3})
        assert (folder.path / "batches.csv").read_text().count("\n") == 4
        folder.add_batch(0, 3, 0.25)
        folder.close()
        rows.append((folder.path / "batches.csv").read_text())
        assert RunFolder(path, {"seed": 0}).load()[1] == {"epoch": 0, "batch": 3}
    assert rows[0] == rows[1]
    assert rows[0].count("\n") == 5
