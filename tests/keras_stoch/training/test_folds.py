"""Cross-validation: runs on folds, one run by itself, ensembles and averages over folds, in both packages."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import keras_stoch
from keras_stoch.cli import main
from keras_stoch.data.splits import of_run, split
from keras_stoch.evaluation.predictions import mean_logit
from keras_stoch.evaluation.scores import Members
from tests.keras_stoch.conftest import EPOCH
from tests.keras_stoch.reuse import engines_reused
from tests.tiny import registered
from torch_ref.training import fit as torch_fit

pytestmark = pytest.mark.usefixtures("tiny", "traced_once")
OPTIONS = EPOCH | {"low_res": 32}


@pytest.fixture(scope="module")
def crossed(lesions, tmp_path_factory):
    """A folder of two folds and a test part, and the runs of both, of which the second was trained first."""
    folder = shutil.copytree(lesions, tmp_path_factory.mktemp("folds") / "lesions")
    split(folder, folds=2, test=0.2)
    out = folder.parent / "runs"
    with registered(), engines_reused():
        for run in (1, 0):
            keras_stoch.fit("tiny", folder, out, run=run, runs=2, seed=5, **OPTIONS)
    return folder, out


def config(run):
    return json.loads((run / "config.json").read_text())


@pytest.mark.slow
def test_each_run_has_its_fold_and_its_seed(crossed):
    _, out = crossed
    found = [config(out / f"run-{n}") for n in (0, 1)]
    assert [one["data"]["fold"] for one in found] == [0, 1]
    assert [one["seed"] for one in found] == [5, 6]
    assert found[0]["data"]["manifest"] != found[1]["data"]["manifest"]
    assert found[0]["data"]["pixels"] == found[1]["data"]["pixels"]
    table = pd.read_csv(out / "results.csv")
    assert table["run"].tolist() == ["run-0", "run-1"]
    assert table["seed"].tolist() == [5, 6]


@pytest.mark.slow
def test_the_run_is_that_of_all_runs(crossed, tmp_path):
    """One of two by itself is bit for bit the one that comes of training both."""
    folder, out = crossed
    keras_stoch.fit("tiny", folder, tmp_path / "both", runs=2, seed=5, **OPTIONS)
    for run in ("run-0", "run-1"):
        assert (tmp_path / "both" / run / "batches.csv").read_text() == (out / run / "batches.csv").read_text()


@pytest.mark.slow
def test_every_image_is_judged_by_the_run_that_was_not_trained_on_it(crossed):
    folder, out = crossed
    manifest = pd.read_csv(folder / "manifest.csv")
    found = keras_stoch.evaluate(out, folder, bootstraps=20)
    seen = manifest[manifest["split"] != "test"]
    assert found.images["image"].tolist() == seen["image"].tolist()
    for number, row in enumerate(found.members.to_dict("records")):
        own = keras_stoch.evaluate(out / f"run-{number}", folder, bootstraps=20)
        of, _ = of_run(manifest, number)
        assert own.images["image"].tolist() == of.loc[of["split"] == "validation", "image"].tolist()
        both = found.images.set_index("image").loc[own.images["image"], "logit"]
        np.testing.assert_allclose(both, own.images["logit"], rtol=1e-5)
        assert row["auc"] == pytest.approx(own.auc)
        assert row["auc"] == pytest.approx(roc_auc_score(own.images["target"], own.images["logit"]))
        assert (row["fold"], row["images"]) == (number, len(own.images))
    mean, spread = found.members["auc"].mean(), found.members["auc"].std()
    told = str(found)
    assert f"2 runs, each by itself on its own fold:\n  ROC AUC {mean:.4f}, standard deviation {spread:.4f}" in told
    assert found.files == [str(folder / name) for name in seen["file"]]
    assert len(found.record()["members"]) == 2


def test_test_images_are_judged_by_all_runs(crossed):
    folder, out = crossed
    together = keras_stoch.evaluate(out, folder, "test", bootstraps=20)
    alone = [keras_stoch.evaluate(out / f"run-{n}", folder, "test", bootstraps=20).images["logit"] for n in (0, 1)]
    np.testing.assert_allclose(together.images["logit"], mean_logit(np.stack(alone, 1)), rtol=1e-5)
    assert len(together.images) == (pd.read_csv(folder / "manifest.csv")["split"] == "test").sum()


def test_calibrated_on_all_folds_and_tested_once(crossed):
    folder, out = crossed
    keras_stoch.evaluate(out, folder, calibrate="validation", sensitivity=0.8, bootstraps=20)
    found = keras_stoch.evaluate(out, folder, "test", bootstraps=20)
    assert found.calibration.images == (pd.read_csv(folder / "manifest.csv")["split"] != "test").sum()
    assert found.change is not None
    assert found.paired == 0


def test_one_run_looks_at_its_own_folder_only(crossed, tmp_path, capsys):
    """Run 1 may be trained where another experiment's run 0 is, and not where its run 1 is."""
    out = tmp_path / "runs"
    shutil.copytree(crossed[1] / "run-0", out / "run-0")
    sizes = ["--low-res", "32", "--epochs", "1", "--batch-size", "16"]
    command = ["fit", "tiny", "--data", str(crossed[0]), "--out", str(out), *sizes, "--seed", "9", "--run"]
    assert main([*command, "0"]) == 2
    assert "holds a run with other settings (--seed: 5 there, 9 now)" in capsys.readouterr().err
    assert main([*command, "1"]) == 0
    assert f"{out}/run-1: best validation AUC" in capsys.readouterr().out


def test_runs_of_folds_share_no_training_images(crossed):
    folder, out = crossed
    with pytest.raises(ValueError, match="The runs are of different folds, and share no images of split 'train'"):
        keras_stoch.evaluate(out, folder, "train")


def test_on_other_data_folds_do_not_count(crossed, lesions):
    """Another folder has its own split, and all runs are asked about it."""
    found = Members(crossed[1]).score(lesions, "validation")
    assert len(found.images) == 12
    assert "fold" not in found.members


def test_a_folder_that_was_divided_anew_is_not_gone_on_with(crossed, tmp_path):
    folder = shutil.copytree(crossed[0], tmp_path / "lesions")
    out = shutil.copytree(crossed[1], tmp_path / "runs")
    split(folder, folds=3, seed=9)
    with pytest.raises(ValueError, match="the manifest names other files, targets or splits"):
        keras_stoch.fit("tiny", folder, out, runs=2, seed=5, **OPTIONS)


@pytest.mark.slow
def test_predict_takes_several_runs(crossed, lesions, tmp_path, capsys):
    image = lesions / "images" / "SYN_0000003.jpg"
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    _, out = crossed
    alone = [keras_stoch.predict_photographs(out / f"run-{n}", [image])["probability"][0] for n in (0, 1)]
    for model in (out, [out / "run-0", out / "run-1"]):
        found = keras_stoch.predict_photographs(model, [broken, image])
        assert found["probability"][1] == pytest.approx(np.mean(alone), rel=1e-5)
        assert found["spread"][1] == pytest.approx(np.std(alone), rel=1e-3, abs=1e-7)
        assert found["error"][0]
    assert main(["predict", str(out), str(image)]) == 0
    assert "SYN_0000003" in capsys.readouterr().out
    with pytest.raises(ValueError, match="No model was given"):
        keras_stoch.predict_photographs([], [image])


@pytest.mark.parametrize("options", [{"run": -1}, {"run": 2, "runs": 2}, {"run": 1.0}, {"run": True}])
def test_wrong_runs_are_refused(crossed, tmp_path, options):
    with pytest.raises(ValueError, match="run must be an integer of at least 0"):
        keras_stoch.fit("tiny", crossed[0], tmp_path / "runs", **options, **OPTIONS)
    with pytest.raises(ValueError, match="run must be an integer of at least 0"):
        torch_fit("tiny", crossed[0], tmp_path / "runs", device="cpu", **options, **OPTIONS)
    assert not (tmp_path / "runs").exists()


def test_the_twin_has_the_same_folds(crossed, lesions, tmp_path):
    folder, _ = crossed
    torch_fit("tiny", folder, tmp_path / "runs", device="cpu", run=1, seed=5, **OPTIONS)
    assert [path.name for path in (tmp_path / "runs").glob("run-*")] == ["run-1"]
    found = config(tmp_path / "runs" / "run-1")
    assert (found["data"]["fold"], found["seed"]) == (1, 6)
    # On a folder without folds nothing is recorded of them.
    torch_fit("tiny", lesions, tmp_path / "plain", device="cpu", **OPTIONS)
    assert "fold" not in config(tmp_path / "plain" / "run-0")["data"]


def test_the_twin_is_given_the_same_images(crossed):
    from torch_ref.data import PreparedImages, fold_of

    folder, _ = crossed
    manifest = pd.read_csv(folder / "manifest.csv")
    for run in (0, 1, 2):
        of, fold = of_run(manifest, run)
        assert fold_of(folder, run) == fold == run % 2
        for part in ("train", "validation", "test"):
            files = PreparedImages(folder, part, 32, None, fold=fold).files
            assert files == of.loc[of["split"] == part, "file"].tolist()
