"""`evaluate` from the command line: what is stored with a run, applied elsewhere, written down and shown."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import keras_stoch
from keras_stoch.cli import main
from keras_stoch.evaluation import scores
from keras_stoch.evaluation.calibration import load_calibration
from keras_stoch.evaluation.predictions import mean_logit

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture
def run(stem_run, tmp_path):
    """A copy of a trained run, to be written into."""
    return shutil.copytree(stem_run, tmp_path / "runs" / "run-0")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Other lesions, of another strength and seed; not to be written into."""
    return keras_stoch.write_lesions(tmp_path_factory.mktemp("other") / "other", 40, size=64, strength=2.0, seed=5)


@pytest.mark.slow
def test_calibrated_here_and_applied_there(tiny, run, lesions, other, tmp_path, capsys):
    here = ["evaluate", str(run), str(lesions), "--calibrate", "validation", "--sensitivity", "0.8", "--passes", "2"]
    assert main(here) == 0
    told = capsys.readouterr().out
    assert "note: temperature and threshold were chosen on these very images, which flatters them" in told
    assert "for sensitivity of at least 80% there" in told
    known, _ = load_calibration(run)
    assert (known.images, known.malignant, known.passes, known.split) == (12, 6, 2, "validation")
    assert known.sensitivity >= 0.8
    before = (run / "calibration.json").read_bytes()

    out = tmp_path / "found"
    assert main(["evaluate", str(run), str(other), "--split", "all", "--passes", "2", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"change from {lesions}, split 'validation' (0 of 40 images are in both and paired)" in told
    assert (run / "calibration.json").read_bytes() == before
    found = json.loads((out / "evaluation.json").read_text())
    images = pd.read_csv(out / "predictions.csv", float_precision="round_trip")
    assert found["calibration"]["temperature"] == known.temperature
    np.testing.assert_allclose(images["calibrated"], expit(images["logit"] / known.temperature), rtol=1e-12)
    assert (images["decision"] == (images["logit"] >= known.threshold_logit)).all()
    malignant = images["target"] == 1
    assert found["measures"]["sensitivity"]["value"] == pytest.approx(images["decision"][malignant].mean())
    assert found["measures"]["specificity"]["value"] == pytest.approx(1 - images["decision"][~malignant].mean())
    brier = {"measures": images["calibrated"], "uncalibrated": images["probability"]}
    for part, probability in brier.items():
        expected = ((probability - images["target"]) ** 2).mean()
        assert found[part]["brier"]["value"] == pytest.approx(expected, rel=1e-6)
    change = found["change"]["auc"]
    assert change["change"] == pytest.approx(found["auc"] - change["internal"])
    assert change["low"] <= change["change"] <= change["high"]


@pytest.mark.slow
def test_paired_where_images_are_the_same(tiny, run, lesions, tmp_path):
    """The same lesions in another folder: all are paired, and nothing changes but what draws change."""
    keras_stoch.evaluate(run, lesions, calibrate="validation", bootstraps=50)
    copy = shutil.copytree(lesions, tmp_path / "copy")
    found = keras_stoch.evaluate(run, copy, bootstraps=50)
    assert found.paired == 12
    assert abs(found.change.loc["log_loss", "change"]) < 0.1


@pytest.mark.slow
def test_what_was_chosen_for_other_weights_is_not_applied(tiny, run, lesions, capsys):
    keras_stoch.evaluate(run, lesions, calibrate="validation", bootstraps=20)
    shutil.copy(run / "last.weights.h5", run / "best.weights.h5")
    with open(run / "best.weights.h5", "ab") as file:
        file.write(b"\0")
    assert main(["evaluate", str(run), str(lesions)]) == 2
    assert "calibration.json was made for other weights than those there now" in capsys.readouterr().err
    found = keras_stoch.evaluate(run, lesions, calibrate="validation", bootstraps=20)
    assert found.calibration.weights == scores.Members(run).weights


def test_another_number_of_draws_is_told(tiny, run, lesions):
    keras_stoch.evaluate(run, lesions, calibrate="validation", bootstraps=20)
    notes = keras_stoch.evaluate(run, lesions, passes=3, bootstraps=20).notes
    assert "temperature and threshold were chosen with 1 draws, these are 3" in notes


def test_without_calibration_it_is_said(tiny, stem_run, lesions):
    found = keras_stoch.evaluate(stem_run, lesions, bootstraps=20)
    assert found.calibration is None
    assert found.change is None
    assert "calibrated" not in found.images
    assert found.notes[0].startswith("no temperature or threshold is stored with the run")


def test_a_live_model_is_calibrated_for_this_once(tiny, lesions):
    model = keras_stoch.create_model("tiny", low_res=32)
    found = keras_stoch.evaluate(model, lesions, calibrate="train", specificity=0.7, bootstraps=20)
    assert (found.calibration.images, found.calibration.split) == (48, "train")
    assert found.change is not None  # the training images are others


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensitivity": 0.9}, "sensitivity=0.9 chooses a threshold, which needs a split to choose it on"),
        ({"calibrate": "validation", "sensitivity": 2}, r"sensitivity must lie in \(0, 1\]. Received: 2"),
        ({"calibrate": "validation", "specificity": True}, r"specificity must lie in \(0, 1\]. Received: True"),
        ({"calibrate": "validation", "sensitivity": 0.9, "specificity": 0.9}, "One of sensitivity and specificity"),
        ({"calibrate": "nothing"}, "No image of split 'nothing'"),
    ],
)
def test_wrong_arguments(tiny, run, lesions, options, message):
    with pytest.raises(ValueError, match=message):
        keras_stoch.evaluate(run, lesions, **options)
    assert not (run / "calibration.json").exists()


def test_options_are_refused_by_their_names_on_the_command_line(capsys):
    assert main(["evaluate", "run", "data", "--specificity", "0.9"]) == 2
    assert "--specificity chooses a threshold, which needs --calibrate SPLIT" in capsys.readouterr().err
    assert main(["compare", "run"]) == 2
    assert "compare takes two runs or more" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_from_the_command_line(tiny, run, stem_run, plain_run, lesions, tmp_path, capsys):
    arguments = ["compare", str(plain_run), str(run), str(stem_run), "--data", str(lesions), "--passes", "2"]
    assert main([*arguments, "--out", str(tmp_path / "new" / "compared.json")]) == 0
    assert "p corrected by Holm's method, pairs: 3" in capsys.readouterr().out
    found = json.loads((tmp_path / "new" / "compared.json").read_text())
    assert [row["model"] for row in found["models"]] == [str(plain_run), str(run), str(stem_run)]
    assert found["images"] == 12
    assert main(["compare", str(plain_run), str(run)]) == 2
    assert "stores no logits; give --data PREPARED" in capsys.readouterr().err


def test_a_folder_of_runs_is_an_ensemble(monkeypatch, tmp_path, lesions):
    """Probabilities are averaged over draws and runs, and runs are asked in their order."""
    logits = {f"run-{n}": np.random.default_rng(n).normal(0, 1, (12, 2)) for n in (0, 2, 10)}
    for name in logits:
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
        (tmp_path / "runs" / name / "best.weights.h5").write_bytes(name.encode())
    monkeypatch.setattr(scores, "loaded", lambda run: run.name)
    monkeypatch.setattr(scores, "input_sizes", lambda model: (32, 64))
    monkeypatch.setattr(scores, "draw_logits", lambda model, batches, passes: logits[model])
    found = keras_stoch.evaluate(tmp_path / "runs", lesions, passes=2, calibrate="validation", bootstraps=20)
    assert [name.rpartition("/")[2] for name in found.names] == list(logits)
    together = np.concatenate(list(logits.values()), axis=1)
    np.testing.assert_allclose(found.images["logit"], mean_logit(together))
    np.testing.assert_allclose(found.images["probability"], expit(together).mean(1))
    np.testing.assert_allclose(found.images["spread"], expit(together).std(1))
    assert (tmp_path / "runs" / "calibration.json").exists()
    again = keras_stoch.evaluate([tmp_path / "runs" / "run-2", tmp_path / "runs" / "run-0"], lesions, passes=2)
    np.testing.assert_allclose(again.images["logit"], mean_logit(np.hstack([logits["run-2"], logits["run-0"]])))
    assert again.calibration is None
    again.save(tmp_path / "page")
    text = " ".join(Page((tmp_path / "page" / "evaluation.html").read_text()).text)
    assert "The runs" in text
    for name in ("auc", "brier"):
        assert f"{again.members[name].mean():.4f}" in text
        assert f"{again.members[name].std():.4f}" in text
    with pytest.raises(ValueError, match="No model was given"):
        keras_stoch.evaluate([], lesions)


class Page(HTMLParser):
    """What a page refers to, and the text of its elements."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_beside_it(monkeypatch, tmp_path, lesions, rng):
    manifest = pd.read_csv(lesions / "manifest.csv")
    manifest["image"] = manifest["image"].where(manifest.index != 0, "<script>alert('x')</script>")
    manifest["sex"] = np.where(manifest.index % 4 < 2, "male", "fe<b>male")
    logits = rng.normal(0, 2, (60, 3)) + manifest["target"].to_numpy()[:, None]
    logits[0] = 20 * (0.5 - manifest["target"][0])  # the worst error of all
    monkeypatch.setattr(scores, "input_sizes", lambda model: (32, 64))
    monkeypatch.setattr(scores, "draw_logits", lambda *_: logits)
    found = keras_stoch.evaluate(object(), manifest, None, root=lesions, passes=3, calibrate="all", sensitivity=0.9)
    (tmp_path / "x").mkdir()
    found.files[found.files.index(str(lesions / manifest["file"][0]))] = "gone.jpg"
    found.save(tmp_path / "x")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        *("evaluation.html", "evaluation.json", "predictions.csv", "roc.csv", "subgroups.csv"),
    ]
    page = Page((tmp_path / "x" / "evaluation.html").read_text())
    assert page.tags.count("svg") == 5
    assert page.tags.count("img") == 11  # twelve, less the one whose file is gone
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "script" not in page.tags
    text = " ".join(page.text)
    assert "<script>alert('x')</script>" in text
    assert "no longer there" in text
    assert "fe<b>male" in text
    for title in ("Measures", "Temperature and threshold", "Subgroups", "Does the spread", "Worst errors"):
        assert title in text
    assert re.search(rf"ROC AUC\s+{found.auc:.4f}", text)
    json.loads((tmp_path / "x" / "evaluation.json").read_text(), parse_constant=lambda word: pytest.fail(word))


def test_worst_errors_stand_in_their_order(monkeypatch, lesions):
    from keras_stoch.evaluation.page import write_page

    held = pd.read_csv(lesions / "manifest.csv").query("split == 'validation'")
    logits = np.where(held["target"] == 1, -1.0, 1.0) * np.arange(1, 13)  # ever more wrong
    monkeypatch.setattr(scores, "input_sizes", lambda model: (32, None))
    monkeypatch.setattr(scores, "draw_logits", lambda *_: logits[:, None])
    found = keras_stoch.evaluate(object(), lesions, bootstraps=20)
    text = write_page(found, lesions.parent / "worst.html").read_text()
    shown = [name for name in re.findall(r"figcaption>(SYN_\d+)<br>", text)]
    assert shown == held["image"].tolist()[::-1]
