"""Averages over draws, in numbers that a sure model does not overflow."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

import keras_stoch
from keras_stoch.evaluation import predictions
from keras_stoch.evaluation import scores as scores_module
from keras_stoch.evaluation.metrics import bootstrap_auc
from keras_stoch.evaluation.predictions import mean_logit


def test_mean_logit_is_that_of_the_mean_probability(rng):
    logits = rng.normal(0, 2, (50, 3))
    np.testing.assert_allclose(mean_logit(logits), logit(expit(logits).mean(1)), rtol=1e-12)
    np.testing.assert_array_equal(mean_logit(logits[:, :1]), logits[:, 0])


def test_mean_logit_does_not_overflow():
    logits = np.array([[900.0, 901.0], [-2000.0, -1990.0], [1e5, -1e5]])
    found = mean_logit(logits)
    assert np.isfinite(found).all()
    assert found[0] == pytest.approx(900 + np.log(2) - np.log1p(np.exp(-1)), abs=1e-9)
    assert found[1] == pytest.approx(-1990 - np.log(2), abs=1e-3)
    assert found[2] == pytest.approx(0)


@pytest.mark.parametrize("passes", [1, 3])
def test_a_sure_model_is_ranked_by_its_logits(monkeypatch, lesions, passes):
    """Its probabilities are all exactly 0, which would look like an AUC of 0.5."""
    held = pd.read_csv(lesions / "manifest.csv").query("split == 'validation'")
    scores = np.random.default_rng(0).normal(-2000, 50, len(held)) + 40 * held["target"].to_numpy()
    monkeypatch.setattr(scores_module, "input_sizes", lambda model: (32, None))
    monkeypatch.setattr(scores_module, "draw_logits", lambda *_: np.repeat(scores[:, None], passes, 1))
    found = keras_stoch.evaluate(object(), lesions, passes=passes, bootstraps=20)
    assert (found.images["probability"] == 0).all()
    assert found.auc == pytest.approx(roc_auc_score(held["target"], scores))
    assert found.curve["threshold"].between(0, 1).all()


def test_bootstrap_draws_groups_whole(rng):
    """With one group of both classes, every resample is the sample itself."""
    targets, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    assert set(bootstrap_auc(targets, scores, np.zeros(4), 10)) == {0.75}


def test_arguments_out_of_range(tmp_path):
    for options, message in (
        ({"specificities": (80,)}, "specificities must lie between 0 and 1"),
        ({"bootstraps": 0}, "bootstraps must be an integer of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_stoch.evaluate(object(), tmp_path, **options)


def test_sensitivity_with_many_ties_and_a_dataframe(monkeypatch, lesions):
    """Ten scores, each of one benign and one malignant image: at 80% specificity two of ten are found, by hand."""
    manifest = pd.read_csv(lesions / "manifest.csv")[:20].assign(split="validation")
    scores = np.repeat(np.arange(10.0), 2)
    monkeypatch.setattr(scores_module, "input_sizes", lambda model: (32, None))
    monkeypatch.setattr(scores_module, "draw_logits", lambda *_: scores[:, None])
    found = keras_stoch.evaluate(object(), manifest, root=lesions, bootstraps=5)
    assert found.sensitivity[0.8] == pytest.approx(0.2)


def test_averaging_runs_the_global_branch_once(tiny):
    """Counted, where every call is one: eagerly."""
    model = keras_stoch.create_model("tiny-split", low_res=32, high_res=128)
    averaged = predictions.AveragedPasses(model)
    calls = {"global_branch": 0, "detail_branch": 0}
    for name in calls:
        branch = getattr(averaged, name)

        def counted(*args, _name=name, _branch=branch, **kwargs):
            calls[_name] += 1
            return _branch(*args, **kwargs)

        setattr(averaged, name, counted)
    images = {"low_res": np.zeros((1, 32, 32, 3)), "high_res": np.zeros((1, 128, 128, 3), np.uint8)}
    assert averaged(images, 3).shape == (3, 1, 1)
    assert calls == {"global_branch": 1, "detail_branch": 3}


def test_a_model_that_gives_probabilities_is_refused(tiny):
    model = keras_stoch.create_model("tiny", low_res=32, activation="sigmoid")
    images = np.zeros((1, 32, 32, 3))
    for refused in (
        lambda: predictions.draw_logits(model, [images]),
        lambda: keras_stoch.predict(model, images),
    ):
        with pytest.raises(ValueError, match="must put out logits, but 'predictions' ends with a sigmoid"):
            refused()
    assert keras_stoch.predict(model, images, activation=None).shape == (1, 1)
