"""The folder of a torch run: which data it was trained on, who may write into it, and what is said on the way."""

import json
import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from torch_ref.files import locked
from torch_ref.training import fit
from torch_ref.training.__main__ import main
from torch_ref.training.runs import RunFolder

pytestmark = pytest.mark.usefixtures("tiny")
OPTIONS = {"epochs": 1, "batch_size": 16, "low_res": 32}
COMMAND = ["--epochs", "1", "--batch-size", "16", "--low-res", "32"]


@pytest.fixture(scope="module")
def run(lesions, tmp_path_factory):
    """The folder of runs of "tiny" on `lesions`."""
    from tests.tiny import registered

    out = tmp_path_factory.mktemp("torch") / "runs"
    with registered():
        fit("tiny", lesions, out, **OPTIONS)
    return out


@pytest.fixture
def copied(run, lesions, tmp_path):
    """Copies of the runs, and of the folder that they were trained on."""
    shutil.copytree(run, tmp_path / "runs")
    shutil.copytree(lesions, tmp_path / "moved")
    return tmp_path / "runs", tmp_path / "moved"


def test_a_run_records_its_data_as_the_keras_side_does(run, lesions):
    from keras_stoch.data.identity import identify
    from keras_stoch.data.pipeline import read_manifest

    found = json.loads((run / "run-0" / "config.json").read_text())["data"]
    manifest, root = read_manifest(lesions)
    theirs = identify(lesions, manifest, [str(root / name) for name in manifest["file"]])
    for name in ("kind", "folder", "images", "preparation"):
        assert found[name] == theirs[name]
    environment = json.loads((run / "run-0" / "environment.json").read_text())
    assert environment["history"] == []
    assert environment["command"]


def replaced(data):
    path = data / pd.read_csv(data / "manifest.csv")["file"][5]
    Image.fromarray(np.full((64, 64, 3), 130, np.uint8)).save(path, "JPEG", quality=95)


def other_digest(data):
    manifest = pd.read_csv(data / "manifest.csv")
    manifest.loc[[0, 2], "sha256"] = manifest.loc[[2, 0], "sha256"].to_numpy()
    manifest.to_csv(data / "manifest.csv", index=False)


@pytest.mark.parametrize("change", [replaced, other_digest])
def test_other_pixels_under_the_same_names_are_refused(copied, change):
    runs, data = copied
    assert fit("tiny", data, runs, **OPTIONS)[0]["epochs"] == 1  # moved, and read
    change(data)
    with pytest.raises(ValueError, match="data.pixels: .* the images have other pixels than those"):
        fit("tiny", data, runs, **OPTIONS)


def test_other_splits_are_refused(copied):
    runs, data = copied
    manifest = pd.read_csv(data / "manifest.csv")
    manifest.loc[manifest.index[:2], "split"] = "validation"
    manifest.to_csv(data / "manifest.csv", index=False)
    with pytest.raises(ValueError, match="data.manifest: .* other files, targets or splits"):
        fit("tiny", data, runs, **OPTIONS)


def test_a_second_process_is_refused(tmp_path, lesions):
    (tmp_path / "run-0").mkdir()
    with (
        locked(tmp_path / ".run-0.lock", "held"),
        pytest.raises(ValueError, match="run-0 is being trained by another process"),
    ):
        fit("tiny", lesions, tmp_path, **OPTIONS)
    folder = RunFolder(tmp_path / "run-0", {})
    with pytest.raises(ValueError, match="run-0 is being trained by another process"):
        RunFolder(tmp_path / "run-0", {})
    folder.close()
    RunFolder(tmp_path / "run-0", {}).close()


def test_a_run_that_kept_nothing_binds_nobody(tmp_path, lesions, capsys):
    arguments = ["tiny", str(lesions), str(tmp_path), *COMMAND]
    assert main([*arguments, "--learning-rate", "1e30", "--quiet"]) == 3
    assert capsys.readouterr().err.startswith("stopped: The ")
    assert main([*arguments, "--quiet"]) == 0
    assert len(json.loads((tmp_path / "run-0" / "environment.json").read_text())["history"]) == 1


def test_the_command_line_tells_each_epoch(tmp_path, lesions, capsys):
    arguments = ["tiny", str(lesions), str(tmp_path), *COMMAND]
    assert main(arguments) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert "48 (24 malignant) for training, 12 (6 malignant) for validation" in first
    assert second.startswith("epoch 1/1: loss 0.")
    assert "0 min left" in second
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tinny", "nowhere", "out"], "Did you mean 'tiny'?"),
        (["tiny", "nowhere", "out"], "nowhere is no prepared folder"),
        (
            ["tiny", "nowhere", "out", "--epochs", "0"],
            "--epochs must be an integer of at least 1. Received: --epochs 0",
        ),
        (["tiny", "nowhere", "out", "--passes", "3"], "'tiny' draws no windows. Received: --passes 3"),
    ],
)
def test_messages_speak_of_options(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_not_be_written(lesions, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["tiny", str(lesions), str(tmp_path / "file" / "runs"), *COMMAND]) == 2
    assert "error: The run's folder can not be written: Not a directory" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half(lesions, tmp_path, capsys, monkeypatch):
    arguments = ["tiny", str(lesions), str(tmp_path / "runs"), *COMMAND, "--quiet"]

    def full(path, content):
        with open(path, "wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: No space left on device: ")
    assert told.count("\n") == 1
    monkeypatch.undo()
    assert not list((tmp_path / "runs" / "run-0").glob("*.pt"))
    assert not list((tmp_path / "runs" / "run-0").glob(".*partial*"))
    assert main(arguments) == 0


def test_the_nearest_option_is_suggested(lesions, tmp_path):
    with pytest.raises(ValueError, match="Unknown options: epoch. A recipe has: .*Did you mean epochs?"):
        fit("tiny", lesions, tmp_path, epoch=3)


@pytest.mark.parametrize("position", [0, 20])
def test_a_damaged_image_and_one_of_another_size_are_named(copied, tmp_path, position):
    _, data = copied
    manifest = pd.read_csv(data / "manifest.csv")
    path = data / manifest["file"][manifest["split"] == "train"].iloc[position]
    for content, message in ((b"no picture", "is damaged"), (path.read_bytes()[:400], "is damaged")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path.name} {message}"):
            fit("tiny", data, tmp_path / "new", **OPTIONS)
    Image.new("RGB", (96, 96)).save(path)
    with pytest.raises(ValueError, match="has (64x64|96x96) pixels, not (96x96|64x64)"):
        fit("tiny", data, tmp_path / "new", **OPTIONS)
    path.unlink()
    with pytest.raises(ValueError, match=f"1 files of .* are missing, first .*{path.name}"):
        fit("tiny", data, tmp_path / "new", **OPTIONS)


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_object_storage_is_refused_in_words(lesions, tmp_path, kind):
    for data, out in ((kind("gs://bucket/prepared"), tmp_path), (lesions, kind("gs://bucket/runs"))):
        with pytest.raises(ValueError, match=r"torch_ref reads and writes folders of this machine; .* Received: gs:/"):
            fit("b0", data, out, epochs=1, batch_size=8, low_res=32)
