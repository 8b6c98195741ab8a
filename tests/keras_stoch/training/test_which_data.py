"""Which data a run was trained on: named, recorded, and the same when it goes on."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import keras_stoch
from keras_stoch.cli import main
from keras_stoch.data import synthetic
from keras_stoch.data.identity import identify
from keras_stoch.data.pipeline import read_manifest
from tests.keras_stoch.conftest import EPOCH, FIT_OPTIONS

pytestmark = pytest.mark.usefixtures("traced_once")


def identity(folder):
    manifest, root = read_manifest(folder)
    return identify(folder, manifest, [str(root / name) for name in manifest["file"]])


@pytest.fixture
def copied(lesions, plain_run, tmp_path):
    """A copy of the folder that `plain_run` was trained on, and a copy of the run."""
    shutil.copytree(lesions, tmp_path / "moved")
    shutil.copytree(plain_run, tmp_path / "runs" / "run-0")
    return tmp_path / "moved", tmp_path / "runs"


def go_on(data, out, epochs=4):
    return keras_stoch.fit("tiny", data, out, seed=3, low_res=32, **EPOCH | {"epochs": epochs})[0]


def test_data_are_named(tmp_path, capsys):
    assert main(["fit", "b0", "--out", str(tmp_path / "runs")]) == 2
    assert "error: --data must be named" in capsys.readouterr().err
    with pytest.raises(ValueError, match="data must be named: .* 'lesions' for generated ones. Received: None"):
        keras_stoch.fit("b0", None, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_generated_lesions_are_called_so_and_said_first(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("KERAS_STOCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write = synthetic.write_lesions
    monkeypatch.setattr(synthetic, "write_lesions", lambda out, count, **options: write(out, 60, **options))
    assert main(["fit", "tiny-stem", "--data", "lesions", "--out", "runs", *FIT_OPTIONS]) == 0
    config = json.loads((tmp_path / "runs" / "run-0" / "config.json").read_text())["data"]
    assert (config["kind"], config["images"], config["malignant"]) == ("generated", 60, 30)
    assert config["preparation"]["size"] == 64
    assert config["folder"].startswith(str(tmp_path / "cache"))
    first, second, *_ = capfd.readouterr().err.splitlines()
    assert first == "data: generated lesions of 64 pixels, in the user's cache"
    assert second.startswith("tiny-stem, trained on generated images of " + config["folder"])
    assert "48 (24 malignant) for training, 12 (6 malignant) for validation" in second


@pytest.mark.slow
def test_a_folder_of_that_name_is_a_folder(tiny, lesions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(lesions, tmp_path / "lesions")
    assert main(["fit", "tiny", "--data", "lesions", "--low-res", "32", "--batch-size", "16", "--epochs", "1"]) == 0
    config = json.loads((tmp_path / "runs" / "latest" / "run-0" / "config.json").read_text())["data"]
    assert config["folder"] == str(tmp_path / "lesions")


@pytest.mark.slow
def test_a_run_records_folder_preparation_and_pixels(plain_run, lesions):
    config = json.loads((plain_run / "config.json").read_text())["data"]
    assert config == identity(lesions)
    assert config["folder"] == str(lesions)
    assert config["preparation"] == json.loads((lesions / "prepare.json").read_text())["synthetic"]


def test_prepared_photographs_are_recorded_with_their_settings(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    for n in range(12):
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(tmp_path / "raw" / f"i{n}.png")
    rows = pd.DataFrame({"image": [f"i{n}" for n in range(12)], "target": np.arange(12) % 2})
    rows.to_csv(tmp_path / "labels.csv", index=False)
    from keras_stoch.data.prepare import Settings

    settings = Settings(size=64, min_side=64)
    keras_stoch.prepare(tmp_path / "raw", tmp_path / "labels.csv", tmp_path / "out", settings=settings)
    found = identity(tmp_path / "out")
    assert (found["kind"], found["images"], found["malignant"]) == ("prepared", 12, 6)
    assert (found["preparation"]["size"], found["preparation"]["quality"]) == (64, 95)
    # A change that no perceptual hash sees, in one photograph, which gives a file of the same size or not.
    pixels = np.asarray(Image.open(tmp_path / "raw" / "i3.png")).copy()
    pixels[0, 0] ^= 64
    Image.fromarray(pixels).save(tmp_path / "raw" / "i3.png")
    keras_stoch.prepare(tmp_path / "raw", tmp_path / "labels.csv", tmp_path / "out", settings=settings)
    again = identity(tmp_path / "out")
    assert again["pixels"] != found["pixels"]
    assert again["manifest"] == found["manifest"]


def test_it_goes_on_where_the_data_have_moved_to(tiny, copied):
    data, out = copied
    assert go_on(data, out)["epochs"] == 4
    assert json.loads((out / "run-0" / "config.json").read_text())["data"]["folder"] == str(data)


def replaced_in_place(data):
    path = data / pd.read_csv(data / "manifest.csv")["file"][5]
    Image.fromarray(np.full((64, 64, 3), 130, np.uint8)).save(path, "JPEG", quality=95)


def drawn_from_another_seed(data):
    shutil.rmtree(data)
    keras_stoch.write_lesions(data, 60, size=64, seed=1)


def swapped(data):
    """Two files of one target and split, whose sizes may be equal: only the digests of the manifest tell."""
    manifest = pd.read_csv(data / "manifest.csv")
    manifest.loc[[0, 2], "sha256"] = manifest.loc[[2, 0], "sha256"].to_numpy()
    manifest.to_csv(data / "manifest.csv", index=False)


def without_digests(data):
    """A manifest of another's making: the files themselves are read."""
    manifest = pd.read_csv(data / "manifest.csv").drop(columns="sha256")
    manifest.to_csv(data / "manifest.csv", index=False)


@pytest.mark.slow
@pytest.mark.parametrize("change", [replaced_in_place, drawn_from_another_seed, swapped])
def test_other_pixels_under_the_same_names_are_refused(tiny, copied, change):
    data, out = copied
    change(data)
    with pytest.raises(ValueError, match="data.pixels: .* the images have other pixels than those that the run began"):
        go_on(data, out)
    assert go_on_is_untouched(out)


def go_on_is_untouched(out):
    return json.loads((out / "run-0" / "result.json").read_text())["epochs"] == 3


def test_other_splits_and_settings_are_named(tiny, copied):
    data, out = copied
    manifest = pd.read_csv(data / "manifest.csv")
    manifest.loc[manifest.index[:2], "split"] = "validation"
    manifest.to_csv(data / "manifest.csv", index=False)
    record = json.loads((data / "prepare.json").read_text())
    record["synthetic"]["strength"] = 2.0
    (data / "prepare.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="names other files, targets or splits; .*strength: 1.0 there, 2.0 now"):
        go_on(data, out)


def test_files_without_a_digest_are_read(lesions, tmp_path):
    shutil.copytree(lesions, tmp_path / "own")
    without_digests(tmp_path / "own")
    before = identity(tmp_path / "own")["pixels"]
    path = tmp_path / "own" / pd.read_csv(lesions / "manifest.csv")["file"][0]
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # of the same size
    path.write_bytes(content)
    assert identity(tmp_path / "own")["pixels"] != before
    table = pd.read_csv(lesions / "manifest.csv")
    assert identify(table, table, [str(lesions / name) for name in table["file"]])["kind"] == "table"


@pytest.mark.slow
def test_every_start_is_recorded(tiny, copied, monkeypatch):
    data, out = copied
    first = json.loads((out / "run-0" / "environment.json").read_text())
    go_on(data, out, epochs=3)  # has ended: nothing is begun
    assert json.loads((out / "run-0" / "environment.json").read_text()) == first
    monkeypatch.chdir(data.parent)
    options = ["--epochs", "4", "--batch-size", "16", "--low-res", "32", "--seed", "3"]
    assert main(["fit", "tiny", "--data", "moved", "--out", "runs", *options]) == 0
    second = json.loads((out / "run-0" / "environment.json").read_text())
    assert second["command"] == f"keras-stoch fit tiny --data moved --out runs {' '.join(options)}"
    assert second["working_directory"] == str(data.parent)
    assert (second["data"], second["epoch"], second["batch"]) == (str(data), 3, 0)
    assert second["history"] == [{k: v for k, v in first.items() if k != "history"}]
    assert (first["epoch"], first["history"]) == (0, [])
    go_on(data, out, epochs=5)
    third = json.loads((out / "run-0" / "environment.json").read_text())
    assert [start["epoch"] for start in [*third["history"], third]] == [0, 3, 4]
    assert third["command"] != second["command"]  # of the process itself, where no command line was given
