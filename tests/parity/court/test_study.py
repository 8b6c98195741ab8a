"""Statistics of independent runs: what the verdicts are made of, and that other initialisers are found out."""

import dataclasses

import numpy as np
import pytest

from parity.court import study, trials
from parity.court.rungs import statistics
from parity.court.study import EARLY, Plan, Sample, make_task

SMALL = Plan(size=32, runs=2, early_runs=4, epochs=1, batch_size=8, images=96, sets=1, validation=32, looks=(0, 4, 12))


def sample(name, seed, shift=0.0, runs=8, early=36):
    """Runs as random numbers: the early loss is moved by a factor of exp(shift)."""
    rng = np.random.default_rng(seed)
    start = np.exp(rng.normal(3.3 + shift, 0.25, (runs + early, 1))) * np.ones((1, EARLY))
    rest = np.exp(rng.normal(0, 0.15, (runs, 1))) * np.ones((1, 40))
    curves = 0.92 + rng.normal(0, 0.005, (runs, 9))
    return Sample(name, curves, np.concatenate([start[:runs], rest], 1), start)


def test_equal_packages_are_found_equivalent():
    passed = [statistics.check(sample("a", 2 * n), sample("b", 2 * n + 1))["passed"] for n in range(15)]
    assert np.mean(passed) > 0.8


def test_another_start_is_found_different_and_named():
    verdict = statistics.check(sample("a", 0), sample("b", 1, shift=1.0))
    assert not verdict["passed"]
    assert verdict["first_divergence"] == "early_loss"
    assert "early_loss different: +" in verdict["message"]


def test_each_fault_is_found_by_the_statistic_that_it_spoils():
    samples = {"official": sample("official", 0), study.CONTROL: sample(study.CONTROL, 1, shift=-3, runs=2, early=4)}
    swapped = sample(study.SWAPPED, 2, runs=2, early=0)
    samples[study.SWAPPED] = dataclasses.replace(swapped, curves=np.linspace(0.5, 0.1, 9) * np.ones((2, 1)))
    for name, place in (("torch's default initialisers", "early_loss"), ("validation images in BGR", "best_auc")):
        assert trials.judge_runs(name, samples, Plan()).failed == {"statistics": place}


def test_faults_are_planted_in_what_they_say(monkeypatch):
    """In the targets of about a third of the images; in the order of the channels of validation images only."""
    (pixels, targets), (held, held_targets) = make_task(SMALL)
    seen = {}

    def record(trainer, task, plan, seed, limit):
        seen["task"] = task
        return [0.0] * EARLY, [0.5]

    monkeypatch.setattr(study, "_train_run", record)
    monkeypatch.setattr(study, "_TorchRuns", lambda package, plan: None)
    study.train_package(study.SWAPPED, SMALL)
    (x, y), (v, w) = seen["task"]
    assert (x == pixels).all()
    assert (y == targets).all()
    assert (w == held_targets).all()
    assert (v == held[..., [2, 1, 0]]).all()
    assert (v != held).any()
    study.train_package(study.MISLABELLED, SMALL)
    (x, y), (v, w) = seen["task"]
    assert (x == pixels).all()
    assert (v == held).all()
    assert (w == held_targets).all()
    assert 0.2 < (y != targets).mean() < 0.5


def test_too_few_runs_do_not_pass():
    """Not to find a difference is no proof that there is none."""
    undecided = 0
    for n in range(10):
        verdict = statistics.check(sample("a", 2 * n, runs=2, early=0), sample("b", 2 * n + 1, runs=2, early=0))
        undecided += not verdict["passed"] and "undecided" in verdict["message"]
    assert undecided >= 6


def test_summaries_by_hand():
    losses = np.concatenate([np.full((2, EARLY), 4.0), np.full((2, 3), 0.25), np.full((2, 3), 1.0)], 1)
    curves = np.array([[0.5, 0.9, 0.9, 0.8, 0.1, 0.7], [0.6, 0.7, 0.7, 1.0, 0.8, 0.9]])
    found = Sample("x", curves, losses, losses[:, :EARLY]).summaries()
    np.testing.assert_allclose(found["early_loss"], np.log(4))
    np.testing.assert_allclose(found["batch_loss"], np.log(0.5))  # the geometric mean of 1/4 and 1
    assert found["best_auc"].tolist() == [0.9, 1.0]
    assert found["final_auc"].tolist() == pytest.approx([0.75, 0.85])


def test_an_ideal_observer_of_the_task_has_an_auc_of_nine_tenths():
    """Phi(d / sqrt 2) of two normal distributions of one width, whose means are d widths apart."""
    from scipy.stats import norm
    from sklearn.metrics import roc_auc_score

    plan = dataclasses.replace(SMALL, size=8, images=2000, sets=2)
    (images, targets), (held, _) = make_task(plan)
    assert images.shape == (4000, 8, 8, 3)
    assert held.shape == (32, 8, 8, 3)
    assert targets.sum() == 2000
    assert 0 <= images.min() < images.max() <= 255
    amount = images.mean((1, 2)) @ study.BLUER  # what chance has given each image, as far as pixels hold it
    assert norm.cdf(study.SEPARATION / np.sqrt(2)) == pytest.approx(0.9, abs=1e-4)
    assert roc_auc_score(targets, amount) == pytest.approx(0.9, abs=0.015)  # standard error 0.005, and clipping


def test_each_epoch_has_its_own_images():
    from keras_stoch.data.sampling import epoch_order

    class Trainer:
        def order(self, seed, epoch, count):
            return epoch_order(count, seed, epoch).reshape(-1, 8)

    plan = dataclasses.replace(SMALL, epochs=4, sets=2)
    seen = [study.epoch_batches(Trainer(), plan, 3, epoch) for epoch in range(4)]
    assert [(s.min(), s.max()) for s in seen] == [(0, 95), (96, 191), (0, 95), (96, 191)]
    assert all(len(np.unique(s)) == 96 for s in seen)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["keras_stoch", "torch_ref"])
def test_runs_are_independent(package):
    plan = dataclasses.replace(SMALL, early_runs=1)
    found = study.train_package(package, plan)
    assert found.curves.shape == (2, 3)
    assert found.losses.shape == (2, 12)
    assert found.early.shape == (3, EARLY)
    assert len(np.unique(found.early[:, 0])) == 3  # other weights in every run
    assert np.isfinite(found.losses).all()


def test_a_run_begins_anew_in_the_same_compiled_model(tiny):
    """Nothing of an earlier run is left: not the weights, the optimiser's averages, nor the moving averages."""
    plan = dataclasses.replace(SMALL, model="tiny")
    runs = study._KerasRuns("keras_stoch", plan)
    (images, targets), _ = make_task(plan)
    assert {layer.momentum for layer in runs.engine.model.layers if hasattr(layer, "momentum")} == {0.9}
    runs.begin(5)
    fresh = {name: array.copy() for name, array in runs.engine.state().items()}
    runs.step(images[:8], np.float32(targets[:8]), 0)
    assert any(not np.array_equal(array, fresh[name]) for name, array in runs.engine.state().items())
    runs.begin(5)
    for name, array in runs.engine.state().items():
        np.testing.assert_array_equal(array, fresh[name])


def test_the_momentum_is_that_of_the_plan(tiny):
    """Or each package's own; torch counts it the other way."""
    import torch

    found = []
    for momentum in (0.9, None):
        runs = study._TorchRuns("torch_ref", dataclasses.replace(SMALL, model="tiny", momentum=momentum))
        runs.begin(0)
        found.append({m.momentum for m in runs.model.modules() if isinstance(m, torch.nn.BatchNorm2d)})
    assert [[round(m, 9) for m in kinds] for kinds in found] == [[0.1], [0.01]]


@pytest.mark.slow
@pytest.mark.parametrize("package", ["official", "keras_stoch"])
def test_a_run_begins_with_weights_like_those_of_a_new_model(package):
    """Constants equal; random tensors of the same mean and spread, but other values for another seed."""
    runs = study._KerasRuns(package, SMALL)
    new = runs._build(3).get_weights()
    runs.begin(4)
    found = runs.engine.model.get_weights()
    runs.begin(6)
    other = runs.engine.model.get_weights()
    random = 0
    for a, b, c in zip(new, found, other, strict=True):
        if a.size == 1 or a.std() == 0:
            np.testing.assert_array_equal(a, b)
            continue
        random += 1
        assert not np.array_equal(b, c)
        assert abs(b.std() / a.std() - 1) < 6 / np.sqrt(a.size)
        assert abs(b.mean() - a.mean()) < 8 * a.std() / np.sqrt(a.size)
    assert random == 82  # convolutions, depthwise and not, those of squeeze-and-excite, and the dense layer


@pytest.mark.slow
def test_torchs_initialisers_give_another_start():
    """The early loss of random weights: the official initialiser of the last layer makes it tens of times larger."""
    (images, targets), _ = make_task(SMALL)
    losses = {}
    for package in ("torch_ref", study.CONTROL):
        runs = study._TorchRuns(package, SMALL)
        first = []
        for seed in range(12):
            runs.begin(seed)
            first.append(runs.step(images[:8], np.float32(targets[:8]), 0)[0])
        losses[package] = np.mean(first)
    assert losses["torch_ref"] > 3 * losses[study.CONTROL]


@pytest.mark.slow
def test_the_figure_shows_all_packages_and_all_faults(tmp_path):
    from parity.court import report
    from parity.court.session import Findings
    from parity.court.trials import Outcome
    from parity.errors import Row

    rows = []
    for n, name in enumerate(study.PACKAGES[1:], start=1):
        fields = statistics.check(sample("official", 0), sample(name, n))
        rows.append(Row("b0", "official", name, "statistics", "float32", size="64", **fields))
        rows[-1].details["looks"] = list(range(9))
    names = (study.CONTROL, study.MISLABELLED, study.SWAPPED, "a fourth")
    verdicts = [statistics.check(sample("official", 0), sample(name, 4, shift=-3)) for name in names]
    faults = [
        Outcome("validation images in BGR", {"statistics": "early_loss"}, 1.0, 0.0, v["details"]) for v in verdicts
    ]
    page = report.write(Findings(rows, faults), tmp_path, {}, 1.0)
    svg = (tmp_path / "figures" / "statistics.svg").read_text()
    for name in (*study.PACKAGES, *names):
        assert f"<!-- {name} (44 runs) -->" in svg
    assert svg[svg.index("<path") :] in page.read_text()
