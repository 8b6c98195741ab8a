"""The command line: what it prints, writes and refuses, and its exit codes."""

import numpy as np
import pytest
from PIL import Image

from keras_stoch.cli import main
from tests.keras_stoch.conftest import FIT_OPTIONS

pytestmark = pytest.mark.usefixtures("traced_once")


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
        (
            ["experiment", "--images", "5", "--out", "new"],
            "--images must be an integer of at least 10. Received: --images 5",
        ),
    ],
)
def test_wrong_data_arguments_exit_with_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # nothing was begun


@pytest.mark.slow
def test_export_of_a_model_file(tmp_path, capsys):
    from tests.keras_stoch.small import build

    build().save(tmp_path / "model.keras")
    assert main(["export", str(tmp_path / "model.keras"), str(tmp_path / "copy.keras"), "--format", "keras"]) == 0
    assert (tmp_path / "copy.keras").stat().st_size > 1000
    assert str(tmp_path / "copy.keras") in capsys.readouterr().out


@pytest.mark.slow
def test_evaluate_writes_what_it_says(tiny, stem_run, lesions, tmp_path, capsys):
    import json

    import pandas as pd
    from sklearn.metrics import roc_auc_score

    assert main(["evaluate", str(stem_run), str(lesions), "--passes", "2", "--out", str(tmp_path / "found")]) == 0
    assert "ROC AUC" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "found" / "predictions.csv")
    found = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert len(table) == found["images"] == 12
    assert found["passes"] == 2
    # Ranked by the logit of the mean probability, which has the order of that, as long as it is not rounded to 0 or 1.
    if table["probability"].between(1e-6, 1 - 1e-6).all():
        assert found["auc"] == pytest.approx(roc_auc_score(table["target"], table["probability"]))
    assert found["interval"][0] <= found["auc"] <= found["interval"][1]
    assert (table["spread"] >= 0).all()
    roc = pd.read_csv(tmp_path / "found" / "roc.csv")
    for specificity, sensitivity in found["sensitivity"].items():
        allowed = roc[roc["false_positive_rate"] <= 1 - float(specificity) + 1e-9]
        assert sensitivity == allowed["true_positive_rate"].max()
    with Image.open(tmp_path / "found" / "roc.png") as figure:
        assert figure.width > 300


@pytest.mark.slow
def test_predict_takes_every_photograph_and_tells_the_broken(tiny, stem_run, tmp_path, capsys):
    import io

    import pandas as pd

    for patient in ("a", "b"):
        (tmp_path / "photographs" / patient).mkdir(parents=True)
        Image.effect_noise((80, 60), 60).save(tmp_path / "photographs" / patient / "img_1.png")
    (tmp_path / "photographs" / "b" / "broken.jpg").write_bytes(b"no picture")
    assert main(["predict", str(stem_run), str(tmp_path / "photographs")]) == 0
    told = capsys.readouterr()
    table = pd.read_csv(io.StringIO(told.out))
    assert [name.split("photographs/")[1] for name in table["file"]] == ["a/img_1.png", "b/broken.jpg", "b/img_1.png"]
    assert table["probability"].notna().tolist() == [True, False, True]
    assert "1 of 3 images could not be read" in told.err
    assert main(["predict", str(stem_run), str(tmp_path / "photographs" / "b" / "broken.jpg")]) == 2
    assert main(["predict", str(stem_run), str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "is a folder; name a file to write" in capsys.readouterr().err
    new = tmp_path / "new" / "x.csv"
    assert main(["predict", str(stem_run), str(tmp_path), "--out", str(new), "--passes", "3"]) == 0
    assert len(pd.read_csv(new)) == 3
    assert (pd.read_csv(new)["spread"].dropna() > 0).all()  # draws differ
    assert (table["spread"].dropna() == 0).all()  # and one does not


@pytest.mark.slow
def test_a_damaged_prepared_image_is_named(tiny, stem_run, lesions, tmp_path, capsys):
    import shutil

    import pandas as pd

    shutil.copytree(lesions, tmp_path / "lesions")
    first = tmp_path / "lesions" / pd.read_csv(lesions / "manifest.csv")["file"][0]
    whole = first.read_bytes()
    first.write_bytes(whole[:400])
    for command in (["augment"], ["evaluate", str(stem_run)]):
        assert main([*command, str(tmp_path / "lesions"), *(["--split", "all"] if len(command) > 1 else [])]) == 2
        assert f"error: {first} is damaged (" in capsys.readouterr().err
    Image.new("RGB", (96, 96)).save(first)
    assert main(["evaluate", str(stem_run), str(tmp_path / "lesions"), "--split", "all"]) == 2
    told = capsys.readouterr().err
    assert " has 64x64 pixels, and " in told
    assert f"{first} 96x96; prepare it again" in told
    assert len(told.splitlines()) < 5
    first.write_bytes(whole)
    last = tmp_path / "lesions" / pd.read_csv(lesions / "manifest.csv").query("split == 'validation'")["file"].iloc[-1]
    last.write_bytes(last.read_bytes()[:400])
    assert main(["evaluate", str(stem_run), str(tmp_path / "lesions")]) == 2
    assert f"error: {last} is damaged (unreadable: " in capsys.readouterr().err
    arguments = ["fit", "tiny-stem", "--data", str(tmp_path / "lesions"), "--out", str(tmp_path / "runs"), *FIT_OPTIONS]
    assert main(arguments) == 2
    assert f"error: {last} is damaged" in capsys.readouterr().err


def test_exit_codes(tiny, stem_run, lesions, tmp_path, capsys, monkeypatch):
    import keras_stoch

    arguments = ["fit", "tiny-stem", "--data", str(lesions), "--out", str(tmp_path / "runs"), *FIT_OPTIONS]
    assert main([*arguments, "--learning-rate", "1e30"]) == 3
    assert "stopped: The " in capsys.readouterr().err

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras_stoch, "fit", interrupted)
    monkeypatch.setattr(keras_stoch, "evaluate", interrupted)
    assert main(arguments) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on where this one stopped\n"
    assert main(["evaluate", str(stem_run), str(lesions)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_every_subcommand_has_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "Exit codes: 0 done, 2 a wrong argument or bad input, 3 training diverged, 130" in " ".join(text.split())
    commands = (
        "prepare",
        "split",
        "audit",
        "lesions",
        "augment",
        "fit",
        "evaluate",
        "compare",
        "evidence",
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
