"""Measures against scikit-learn and closed forms, with weights as with repeated images; and their intervals."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from keras_stoch.evaluation.metrics import (
    Measures,
    bootstrap_auc,
    equal_mass_bins,
    equal_width_bins,
    measure,
    numbered,
    resamples,
)


def partial_auc(targets, scores, least=0.8):
    """ISIC 2024's, by scikit-learn: classes and scores turned round, the area up to 20%, unscaled again."""
    most = 1 - least
    scaled = roc_auc_score(1 - targets, -scores, max_fpr=most)
    return most**2 / 2 + (most - most**2 / 2) * (scaled - 0.5) / 0.5


@pytest.mark.parametrize("digits", [0, 1, 8], ids=["many ties", "ties", "no ties"])
@pytest.mark.parametrize("images", [20, 333])
def test_measures_are_scikit_learns(rng, images, digits):
    targets = rng.integers(0, 2, images)
    logits = np.round(rng.normal(0, 1, images) + targets, digits)
    weights = np.stack([np.ones(images, int), *rng.integers(0, 4, (3, images))])
    found = Measures(targets, logits, temperature=2.0, threshold=0.5)(weights)
    for n, counts in enumerate(weights):
        y, s = np.repeat(targets, counts), np.repeat(logits, counts)
        p, called = expit(s / 2), s >= 0.5
        expected = {
            "auc": roc_auc_score(y, s),
            "partial_auc": partial_auc(y, s),
            "average_precision": average_precision_score(y, s),
            "brier": brier_score_loss(y, p),
            "log_loss": log_loss(y, p),
            "sensitivity": recall_score(y, called),
            "specificity": recall_score(1 - y, ~called),
            "ppv": precision_score(y, called),
            "npv": precision_score(1 - y, ~called),
        }
        for name, value in expected.items():
            assert found[name][n] == pytest.approx(value, abs=1e-12), name


def test_partial_area_by_hand():
    """One curve that climbs to 50% at once and to 100% at 40% of the benign; the best, the worst and chance."""
    targets, logits = np.array([1, 1, 0, 0, 0, 0, 0]), np.array([9.0, 3, 5, 4, 2, 1, 0])
    # From 80% to 100% sensitivity three of five benign images are spared.
    assert Measures(targets, logits)()["partial_auc"] == pytest.approx(0.2 * 0.6)
    assert Measures([1, 0], [1.0, 0])()["partial_auc"] == pytest.approx(0.2)
    assert Measures([1, 0], [0.0, 1])()["partial_auc"] == 0
    assert Measures([1, 0], [0.0, 0])()["partial_auc"] == pytest.approx(0.02)


def test_calibration_error_by_hand():
    p = np.array([0.05, 0.05, 0.05, 0.05, 0.95, 0.95])
    logits = np.log(p / (1 - p))
    found = Measures([0, 0, 0, 1, 1, 0], logits)()
    assert found["ece"] == pytest.approx(4 / 6 * abs(0.05 - 0.25) + 2 / 6 * abs(0.95 - 0.5))
    # Probabilities of a calibrated forecaster have none in the limit; overconfident ones have.
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 200_000)
    targets = (rng.random(len(logits)) < expit(logits)).astype(int)
    for name in ("ece", "ece_equal_mass"):
        assert Measures(targets, logits)()[name] < 0.005
        assert Measures(targets, 3 * logits)()[name] > 0.1


def test_bins_of_equal_width_and_of_equal_mass():
    assert equal_width_bins([0, 1e-9, 0.1, 0.1 + 1e-9, 0.999, 1], 10).tolist() == [0, 0, 0, 1, 9, 9]
    assert equal_mass_bins([0.9, 0.1, 0.5, 0.7, 0.2, 0.3], 3).tolist() == [2, 0, 1, 2, 0, 1]
    # Equal probabilities share a bin, wherever they stand.
    assert len(set(equal_mass_bins([0.5] * 7 + [0.6], 4)[:7])) == 1


def test_a_sure_model_has_finite_losses():
    found = Measures([0, 1, 1], [-3000.0, 2000, -4000])()
    assert found["log_loss"] == pytest.approx(4000 / 3)
    assert found["auc"] == 0.5


def test_a_measure_that_does_not_exist_is_nan():
    weights = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    found = Measures([0, 0, 1, 1], [0.0, 1, 2, 3], threshold=9.0)(weights)
    assert np.isnan(found["auc"]).tolist() == [True, True, False]
    assert np.isnan(found["ppv"]).all()
    assert np.isnan(found["sensitivity"]).tolist() == [True, False, False]


def test_undefined_resamples_are_counted():
    """Two images, one of each class: half of all resamples hold one class twice."""
    table = measure([0, 1], [0.0, 1], bootstraps=2000)
    assert table.loc["auc", "undefined"] == pytest.approx(1000, abs=120)
    assert tuple(table.loc["auc", ["low", "high"]]) == (1, 1)
    assert table.loc["brier", "undefined"] == 0


def test_groups_are_drawn_whole(rng):
    """Ten copies of every image in one group: the interval is that of the images, and not ten times as sure."""
    targets = rng.integers(0, 2, 60)
    logits = rng.normal(0, 1, 60) + targets
    copies = np.repeat(np.arange(60), 10)
    alone = measure(targets, logits, bootstraps=1000)
    grouped = measure(targets[copies], logits[copies], copies, bootstraps=1000)
    for name in ("auc", "brier", "average_precision"):
        np.testing.assert_allclose(grouped.loc[name, ["low", "high"]], alone.loc[name, ["low", "high"]], atol=1e-12)
    torn = measure(targets[copies], logits[copies], None, bootstraps=1000)
    width = {name: table.loc["auc", "high"] - table.loc["auc", "low"] for name, table in
             (("alone", alone), ("torn", torn))}  # fmt: skip
    assert width["torn"] < 0.5 * width["alone"]


def test_the_interval_covers_as_often_as_it_says():
    """Of 200 samples from two normal distributions, whose AUC is known, 95% or nearly so cover it."""
    from scipy.stats import norm

    truth, hits = norm.cdf(1 / np.sqrt(2)), 0
    for n in range(200):
        rng = np.random.default_rng(n)
        targets = np.arange(100) % 2
        logits = rng.normal(0, 1, 100) + targets
        low, high = np.percentile(bootstrap_auc(targets, logits, None, 300, n), [2.5, 97.5])
        hits += low <= truth <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_strata_are_drawn_apart():
    groups, strata = np.arange(10), np.array([0] * 3 + [1] * 7)
    drawn = np.concatenate(list(resamples(groups, 50, 0, strata)))
    assert (drawn[:, :3].sum(1) == 3).all()
    assert (drawn[:, 3:].sum(1) == 7).all()
    assert len(np.unique(drawn, axis=0)) > 40


def test_chunks_do_not_show(rng, monkeypatch):
    """Many images are resampled in parts, for memory's sake; the draws are those of one part."""
    groups = numbered(rng.integers(0, 5, 30), 30)
    whole = np.concatenate(list(resamples(groups, 40, 3)))
    parts = []
    generator = np.random.default_rng(3)
    for _ in range(40):
        counts = np.bincount(generator.integers(5, size=5), minlength=5)
        parts.append(counts[groups])
    np.testing.assert_array_equal(whole, parts)
