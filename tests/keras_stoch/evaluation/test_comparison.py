"""Models on the same images: DeLong's test by its definition, the paired bootstrap, Holm's correction."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import keras_stoch
from keras_stoch.evaluation import comparison, scores
from keras_stoch.evaluation.calibration import calibrate, save_calibration
from keras_stoch.evaluation.comparison import compare, delong, delong_covariance, holm


def drawn(rng, images=80, models=3, digits=8):
    targets = rng.integers(0, 2, images)
    common = rng.normal(0, 1, images) + targets
    return targets, np.round(common + rng.normal(0, 0.6, (models, images)), digits)


@pytest.mark.parametrize("digits", [0, 8], ids=["ties", "no ties"])
def test_delong_is_its_definition(rng, digits):
    """The covariance of the structural components, image by image, as in the paper of 1988."""
    targets, found = drawn(rng, digits=digits)
    areas, covariance = delong_covariance(targets, found)
    kernel = np.sign(found[:, targets == 1][:, :, None] - found[:, targets == 0][:, None, :]) / 2 + 0.5
    over, under = kernel.mean(2), kernel.mean(1)
    np.testing.assert_allclose(areas, [roc_auc_score(targets, one) for one in found], atol=1e-14)
    for a, b in itertools.product(range(3), repeat=2):
        expected = np.cov(over[a], over[b])[0, 1] / over.shape[1] + np.cov(under[a], under[b])[0, 1] / under.shape[1]
        assert covariance[a, b] == pytest.approx(expected, abs=1e-14)
    for (a, b), told in delong(targets, found).items():
        parts = [np.var(part[a] - part[b], ddof=1) / part.shape[1] for part in (over, under)]
        assert told["high"] - told["low"] == pytest.approx(2 * 1.959963985 * np.sqrt(sum(parts)), rel=1e-8)


def test_delong_says_different_as_rarely_as_it_should():
    """500 times two models that are equally good: about 5% of p below 0.05."""
    p = []
    for n in range(500):
        targets, found = drawn(np.random.default_rng(n), 200, 2)
        p.append(delong(targets, found)[0, 1]["p"])
    assert 0.025 <= np.mean(np.array(p) < 0.05) <= 0.08


def test_models_that_rank_alike_are_not_different(rng):
    targets, found = drawn(rng, models=1)
    same = np.stack([found[0], 3 * found[0] + 1])
    assert delong(targets, same)[0, 1] == {"difference": 0, "low": 0, "high": 0, "p": 1}


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]).tolist() == [1, 1]
    assert holm([0.2]).tolist() == [0.2]


@pytest.fixture
def stored(tmp_path, rng):
    """Folders of three runs that hold nothing but a calibration: two alike, and one that is worse."""
    targets, found = drawn(rng, 200, 3)
    found[2] = rng.normal(0, 1, 200)
    for n, logits in enumerate(found):
        run = tmp_path / f"run-{n}"
        run.mkdir()
        (run / "config.json").write_text("{}")
        (run / "best.weights.h5").write_bytes(bytes([n]))
        store(run, targets, logits, np.arange(200))
    return tmp_path, targets, found


def store(run, targets, logits, groups, name="i"):
    from keras_stoch.evaluation.calibration import weights_digest

    images = pd.DataFrame({"target": targets, "logit": logits, "group": groups})
    images["image"] = [f"{name}{n}" for n in range(len(targets))]
    images["file"] = images["image"] + ".jpg"
    digest = weights_digest(run / "best.weights.h5")
    save_calibration(run, calibrate(images, data="d", split="validation", passes=1, weights=digest), images)


def test_runs_are_compared_by_what_they_store(stored):
    folder, targets, found = stored
    runs = [folder / f"run-{n}" for n in range(3)]
    table = compare(runs)
    assert table.method == "delong"
    assert [tuple(pair) for pair in table.pairs[["first", "second"]].to_numpy()] == [
        (str(a), str(b)) for a, b in itertools.combinations(runs, 2)
    ]
    np.testing.assert_allclose(table.models["value"], [roc_auc_score(targets, one) for one in found])
    np.testing.assert_allclose(table.pairs["p_holm"], holm(table.pairs["p"]))
    assert table.pairs["p_holm"].iloc[0] > 0.05
    assert (table.pairs["p_holm"].iloc[1:] < 0.001).all()
    assert (table.pairs["low"] <= table.pairs["difference"]).all()
    # The bootstrap agrees with DeLong's test.
    other = compare(runs, method="bootstrap", bootstraps=2000)
    np.testing.assert_allclose(other.pairs["difference"], table.pairs["difference"])
    np.testing.assert_allclose(other.pairs[["low", "high"]], table.pairs[["low", "high"]], atol=0.012)
    assert other.pairs["p"].iloc[0] == pytest.approx(table.pairs["p"].iloc[0], abs=0.05)
    assert other.pairs["p"].iloc[1] == pytest.approx(2 / 2001)  # never zero
    saved = json.loads(table.save(folder / "compared.json").read_text())
    assert saved["pairs"][1]["p_holm"] == table.pairs["p_holm"].iloc[1]
    assert "p corrected by Holm's method, pairs: 3" in str(table)


def test_groups_with_several_images_are_drawn_whole(stored):
    folder, targets, found = stored
    runs = [folder / "run-0", folder / "run-1"]
    for run, logits in zip(runs, found, strict=False):
        store(run, targets, logits, np.arange(200) // 20)
    assert compare(runs, bootstraps=200).method == "bootstrap"
    with pytest.raises(ValueError, match="DeLong's test takes images as independent, but groups hold several"):
        compare(runs, method="delong")
    alone = compare(runs, measure="brier", bootstraps=200)
    assert alone.method == "bootstrap"
    with pytest.raises(ValueError, match="DeLong's test is for the AUC"):
        compare(runs, measure="brier", method="delong")


def test_what_can_not_be_compared(stored):
    folder, targets, found = stored
    runs = [folder / "run-0", folder / "run-1"]
    store(runs[1], targets[:150], found[1][:150], np.arange(150))
    with pytest.raises(ValueError, match=r"store logits of different images \(200 and 150\); give --data PREPARED"):
        compare(runs)
    store(runs[1], targets, found[1], np.arange(200), "other")
    with pytest.raises(ValueError, match="store logits of different images"):
        compare(runs)
    (runs[1] / "calibration.json").unlink()
    with pytest.raises(ValueError, match="run-1 stores no logits; give --data PREPARED"):
        compare(runs)
    (runs[0] / "best.weights.h5").write_bytes(b"trained on")
    with pytest.raises(ValueError, match="was made for other weights"):
        compare(runs)
    for arguments, options, message in (
        ((runs[:1],), {}, "models must be two or more"),
        ((str(runs[0]),), {}, "models must be two or more"),
        ((runs,), {"method": "t-test"}, "method must be one of auto, delong, bootstrap. Received: 't-test'"),
        ((runs,), {"measure": "accuracy"}, "measure must be one of auc"),
        ((runs,), {"bootstraps": 0}, "bootstraps must be an integer of at least 1"),
        (([object(), object()],), {}, "A model that is no run stores no logits; give data"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(*arguments, **options)


def test_models_that_draw_nothing_take_one_pass(monkeypatch, lesions):
    """b0 and split-b0 are compared with three draws: those of split."""
    asked = []

    def logits(model, batches, passes):
        count = sum(len(batch["low_res"] if isinstance(batch, dict) else batch) for batch in batches)
        asked.append((model.name, passes))
        return np.random.default_rng(0).normal(0, 1, (count, passes))

    class Named:
        def __init__(self, name):
            self.name = name

    monkeypatch.setattr(scores, "draw_logits", logits)
    monkeypatch.setattr(scores, "input_sizes", lambda model: (32, 64 if model.name == "split" else None))
    models = [Named("b0"), Named("split")]
    found = keras_stoch.compare(models, lesions, passes=3)
    assert asked == [("b0", 1), ("split", 3)]
    assert found.images == 12
    assert found.models["model"].tolist() == ["b0", "split"]
    assert compare([models[0], models[0]], lesions).models["model"].tolist() == ["0: b0", "1: b0"]
    with pytest.raises(ValueError, match="A comparison needs both classes"):
        compare(models, pd.read_csv(lesions / "manifest.csv").query("target == 1"), root=lesions)


def test_command_line_takes_the_measures_that_compare_takes():
    from keras_stoch.commands.evaluation import MEASURES

    assert MEASURES == comparison.MEASURES
