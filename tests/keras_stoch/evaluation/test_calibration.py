"""Temperature and threshold: fitted to the minimum, chosen to reach what was asked, stored and applied as they are."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from keras_stoch.evaluation.calibration import (
    calibrate,
    choose_threshold,
    fit_temperature,
    load_calibration,
    reliability,
    save_calibration,
    weights_digest,
    wilson,
)
from keras_stoch.evaluation.metrics import Measures

ABOUT = {"data": "prepared", "split": "validation", "passes": 1, "weights": "w"}


def frame(targets, logits):
    return pd.DataFrame({"image": [f"i{n}" for n in range(len(targets))], "target": targets, "logit": logits})


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_a_planted_temperature_is_found(rng, truth):
    logits = rng.normal(0, 2, 100_000)
    targets = (rng.random(len(logits)) < expit(logits)).astype(int)
    found, at_bound = fit_temperature(targets, truth * logits)
    assert found == pytest.approx(truth, rel=0.03)
    assert not at_bound


def test_the_temperature_is_that_of_logistic_regression_without_intercept(rng):
    """The slope of scikit-learn's unpenalised fit is one over the temperature."""
    from sklearn.linear_model import LogisticRegression

    logits = rng.normal(0, 2, 300)
    targets = (rng.random(300) < expit(logits / 2 + 0.3)).astype(int)
    fitted = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits[:, None], targets)
    assert fit_temperature(targets, logits)[0] == pytest.approx(1 / fitted.coef_[0, 0], rel=1e-4)


def test_a_search_that_ends_at_its_bound_says_so():
    targets = np.array([0, 0, 1, 1])
    for logits, expected in (([-2.0, -1, 1, 2], 0.01), ([2.0, 1, -1, -2], 100.0)):
        found, at_bound = fit_temperature(targets, logits)
        assert (found, at_bound) == (pytest.approx(expected), True)
        assert "ended at its bound" in str(calibrate(frame(targets, logits), **ABOUT))


@pytest.mark.parametrize("digits", [0, 8], ids=["ties", "no ties"])
@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.95, 1.0])
def test_the_threshold_reaches_what_was_asked_and_no_more_than_needed(rng, wanted, digits):
    targets = rng.integers(0, 2, 101)
    logits = np.round(rng.normal(0, 1, 101) + targets, digits)
    logits[0], targets[0] = 9.0, 1  # so that every specificity can be reached
    scores = np.unique(logits)
    for name, other in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
        threshold = choose_threshold(targets, logits, **{name: wanted})
        reached = Measures(targets, logits, threshold=threshold)()
        assert reached[name] >= wanted
        # No score as threshold reaches it too and more of the other.
        for score in scores:
            found = Measures(targets, logits, threshold=score)()
            assert found[name] < wanted or found[other] <= reached[other]
        # Rounded to float32, as a server computes, it decides the same.
        np.testing.assert_array_equal(np.float32(logits) >= np.float32(threshold), logits >= threshold)


def test_thresholds_that_can_not_be():
    targets, logits = np.array([0, 1, 0]), np.array([0.0, 1, 2])
    with pytest.raises(ValueError, match=r"No threshold reaches a specificity of 100\.0%"):
        choose_threshold(targets, logits, specificity=1.0)
    for wrong in ({}, {"sensitivity": 0.9, "specificity": 0.9}):
        with pytest.raises(ValueError, match="One of sensitivity and specificity must be given"):
            choose_threshold(targets, logits, **wrong)
    for value in (0, 1.1, -0.5, "0.9", True, float("nan")):
        with pytest.raises(ValueError, match=r"sensitivity must lie in \(0, 1\]. Received: "):
            choose_threshold(targets, logits, sensitivity=value)
    with pytest.raises(ValueError, match="Calibration needs both classes. Received: 2 images with target 1"):
        calibrate(frame([1, 1], [0.0, 1]), **ABOUT)


def test_what_is_stored_comes_back_to_the_last_bit(tmp_path, rng):
    images = frame(rng.integers(0, 2, 50), rng.normal(0, 1, 50))
    images["image"], images["group"] = [f"{n:03d}" for n in range(50)], np.arange(50) // 2
    made = calibrate(images, sensitivity=0.8, **ABOUT)
    assert load_calibration(tmp_path) is None
    save_calibration(tmp_path, made, images)
    found, table = load_calibration(tmp_path, "w")
    assert found == made
    assert (table["logit"] == images["logit"]).all()
    assert table["image"].tolist() == images["image"].tolist()  # with its zeros in front
    np.testing.assert_allclose(found.probability([1.0, -2000]), [expit(1 / made.temperature), 0], atol=1e-12)
    assert found.threshold == pytest.approx(expit(made.threshold_logit / made.temperature))
    assert "for sensitivity of at least 80% there: sensitivity " in str(found)


def test_what_was_stored_for_other_weights_or_altered_is_refused(tmp_path, rng):
    images = frame([0, 1, 0, 1], rng.normal(0, 1, 4))
    save_calibration(tmp_path, calibrate(images, **ABOUT), images)
    with pytest.raises(ValueError, match="was made for other weights than those there now"):
        load_calibration(tmp_path, "others")
    table = tmp_path / "calibration.csv"
    table.write_text(table.read_text().replace("i0", "i9"))
    with pytest.raises(ValueError, match=r"calibration\.csv is not the table of calibration\.json"):
        load_calibration(tmp_path, "w")
    table.unlink()
    with pytest.raises(ValueError, match=r"calibration\.csv is not the table of calibration\.json"):
        load_calibration(tmp_path, "w")
    assert json.loads((tmp_path / "calibration.json").read_text())["images"] == 4


def test_weights_are_told_apart(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (tmp_path / name for name in "abc")
    assert weights_digest(a) == weights_digest(c) != weights_digest(b)
    assert weights_digest(a, b) != weights_digest(b, a)


def test_reliability_counts_every_image_once_in_each_binning(rng):
    probabilities = rng.random(200)
    targets = (rng.random(200) < probabilities).astype(int)
    table = reliability(targets, probabilities)
    for _, part in table.groupby("binning"):
        assert part["images"].sum() == 200
        assert (part["images"] * part["malignant_share"]).sum() == pytest.approx(targets.sum())
        assert (part["images"] * part["mean_probability"]).sum() == pytest.approx(probabilities.sum())
    errors = (table["images"] * (table["mean_probability"] - table["malignant_share"]).abs()).groupby(table["binning"])
    logits = np.log(probabilities / (1 - probabilities))
    found = Measures(targets, logits)()
    assert errors.sum()["equal width"] / 200 == pytest.approx(found["ece"])
    assert errors.sum()["equal mass"] / 200 == pytest.approx(found["ece_equal_mass"])


def test_wilson_interval_is_scipys():
    from scipy.stats import binomtest

    for hits, count in ((81, 263), (15, 148), (0, 20), (29, 29), (1, 2)):
        expected = binomtest(hits, count).proportion_ci(method="wilson")
        np.testing.assert_allclose(np.ravel(wilson(hits / count, count)), expected, atol=1e-12)
