import numpy as np
import pytest
from PIL import Image

from keras_stoch.cli import main


def test_windows_draws_a_figure(tmp_path, capsys):
    Image.fromarray(np.full((300, 400, 3), 128, np.uint8)).save(tmp_path / "photo.png")
    out = tmp_path / "figures" / "windows.png"
    assert main(["windows", str(tmp_path / "photo.png"), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as figure:
        assert figure.size == (1400, 400)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["windows", "nowhere.jpg"], "nowhere.jpg"),
        (["windows", "x.jpg", "--model", "b0"], "b0 has no stochastic stem"),
        (["windows", "x.jpg", "--model", "b9"], "Expected one of b0"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_from_lesions_to_figure(tmp_path, capsys):
    """Lesions, their labels as a plain table, preparation, audit and figure, one after the other."""
    import pandas as pd

    lesions, out = tmp_path / "lesions", tmp_path / "out"
    assert main(["lesions", str(lesions), "--count", "10", "--size", "64", "--figure", str(tmp_path / "l.png")]) == 0
    pd.read_csv(lesions / "manifest.csv")[["image", "target"]].to_csv(tmp_path / "labels.csv", index=False)
    arguments = ["prepare", str(lesions), str(tmp_path / "labels.csv"), str(out), "--size", "64", "--min-side", "64"]
    assert main([*arguments, "--format", "png"]) == 0
    assert "10 images kept (5 malignant, 0 cropped), 8 for training and 2 for validation" in capsys.readouterr().out
    assert (
        main(["audit", str(tmp_path / "labels.csv"), "--images", str(lesions), "--json", str(tmp_path / "a.json")]) == 0
    )
    assert "Validation rows that training has seen" in capsys.readouterr().out
    assert main(["augment", str(out), "--low-res", "32", "--images", "2", "--out", str(tmp_path / "a.png")]) == 0
    for name in ("a.png", "l.png"):
        with Image.open(tmp_path / name) as figure:
            assert np.asarray(figure).std() > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "nowhere", "nowhere.csv", "out"], "No such label file or folder: nowhere.csv"),
        (["prepare", "nowhere", "nowhere.csv", "out", "--quality", "100"], "quality must be at most 95"),
        (["audit", "nowhere.csv"], "No such label file or folder"),
        (["augment", "nowhere"], "nowhere is no prepared folder"),
        (["lesions", "new", "--strength", "4"], "strength must lie between 0 and 3. Received: 4.0"),
        (["export", "nowhere", "served"], "nowhere is no run"),
        (["export", "nowhere", "x.h5", "--format", "keras"], "must end with .keras"),
        (["experiment", "--images", "5", "--out", "new"], "count must be an integer of at least 10"),
    ],
)
def test_wrong_data_arguments_exit_with_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_export_of_a_model_file(tmp_path, capsys):
    from tests.keras_stoch.small import build

    build().save(tmp_path / "model.keras")
    assert main(["export", str(tmp_path / "model.keras"), str(tmp_path / "copy.keras"), "--format", "keras"]) == 0
    assert (tmp_path / "copy.keras").stat().st_size > 1000
    assert str(tmp_path / "copy.keras") in capsys.readouterr().out


def test_every_subcommand_has_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "Exit codes: 0 done, 1 training diverged, 2 a wrong argument" in " ".join(text.split())
    commands = (
        "prepare",
        "audit",
        "lesions",
        "augment",
        "fit",
        "evaluate",
        "predict",
        "export",
        "experiment",
        "models",
    )
    for command in commands:
        assert command in text
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"usage: keras-stoch {command}" in capsys.readouterr().out
