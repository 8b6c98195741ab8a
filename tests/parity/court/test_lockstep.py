"""Training in lockstep: equal trainers agree, and each trainer keeps to its own engine, order and schedule."""

import numpy as np
import pytest

from parity.court import cases, exhibits, ladder, lockstep, mutations, trials
from parity.court.lockstep import Course, Track
from parity.court.rungs import lockstep as check
from parity.errors import relative_l2
from tests import tiny


@pytest.fixture(scope="module")
def track():
    """Both trainers at a tiny model: what is tried here is the trainer. `make parity` tries the same at B0."""
    with tiny.registered():
        length = lockstep.Length(2, 5)
        yield {name: trials.LockstepTrial(model="tiny", recipe=name, length=length) for name in lockstep.CHANGES}


@pytest.mark.parametrize("recipe", lockstep.CHANGES)
def test_an_unspoilt_trainer_agrees_to_rounding(track, recipe):
    verdict = track[recipe].judge()["lockstep"]
    assert verdict["passed"]
    assert verdict["value"] < 1e-11
    assert verdict["first_divergence"] is None


@pytest.mark.slow
def test_weights_after_the_last_step_agree():
    """Both packages, and the official model with the same drop masks."""
    rows = list(ladder.compare_lockstep("b0", cases.Options(models=("b0",))))
    assert [(row.reference, row.candidate) for row in rows] == list(exhibits.PAIRS)
    for row in rows:
        assert row.passed
        assert row.value < 1e-11
        assert len(row.details["errors"]) == 20
        name, error = row.details["weights"]
        assert error < 1e-9, name


@pytest.mark.parametrize(
    "mutation", [m for m in mutations.MUTATIONS if m.trainer], ids=lambda m: m.name.replace(" ", "-")
)
def test_every_fault_of_training_is_caught_at_its_step(mutation, track):
    verdict = track[mutation.recipe].judge(mutation.trainer)["lockstep"]
    assert not verdict["passed"]
    assert verdict["first_divergence"] == mutation.layer


# Where faults show that do so in the second epoch only, in epochs of two steps for five.
SOONER = {"step 7": "step 4", "step 6": "step 3"}


@pytest.mark.slow
def test_every_fault_shows_in_the_few_steps_of_other_models():
    """What the models beside B0 are trained for is enough; and there `keras_stoch` takes its steps without a graph."""
    with tiny.registered():
        trial = trials.LockstepTrial(model="tiny", length=lockstep.FEW_STEPS)
        assert trial.judge()["lockstep"]["value"] < 1e-11
        for mutation in mutations.MUTATIONS:
            if mutation.trainer and mutation.recipe == "paper":
                verdict = trial.judge(mutation.trainer)["lockstep"]
                place = SOONER.get(mutation.layer, mutation.layer)
                assert (verdict["passed"], verdict["first_divergence"]) == (False, place), mutation.name


def test_losses_are_those_of_a_loop_written_out(track):
    """The torch side against a plain loop over the same course, which knows nothing of trainers."""
    import torch

    track = track["paper"]
    course = track.course
    adapter = exhibits.build("torch_ref", "tiny", trials.SIZE, "float64")
    adapter.assign(track.arrays)
    model, velocity, losses = adapter.model.train(), {}, []
    for step in range(7):
        epoch, place = divmod(step, course.steps_per_epoch)
        order = np.random.default_rng((course.seed, epoch, 0)).permutation(len(course.targets))
        chosen = order[place * course.batch_size : (place + 1) * course.batch_size]
        masks = {name: torch.from_numpy(mask) for name, mask in course.draws[step]["drop_masks"].items()}
        images = torch.from_numpy(course.inputs[chosen].astype(np.float64).transpose(0, 3, 1, 2).copy())
        logits = model(images, drop_masks={n: m.permute(0, 3, 1, 2) if m.ndim == 4 else m for n, m in masks.items()})
        targets = torch.from_numpy(course.targets[chosen].astype(np.float64))[:, None]
        loss = (torch.log1p(torch.exp(-logits.abs())) + logits.clamp(min=0) - logits * targets).mean()
        losses.append(float(loss.detach()))
        rate = 1e-5 * (0.9 ** max(0, epoch + 1 - 1))
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                velocity[name] = 0.99 * velocity.get(name, 0.0) + 0.01 * weight.grad**2
                weight -= rate * weight.grad / torch.sqrt(velocity[name] + 1e-8)
    np.testing.assert_allclose(track.reference.losses[:7], losses, rtol=0, atol=1e-10)


def test_first_step_of_divergence_is_reported():
    losses = np.linspace(0.7, 0.6, 20)
    other = losses.copy()
    other[12:] += 2e-8
    verdict = check.check(Track(losses, {}), Track(other, {}))
    assert not verdict["passed"]
    assert verdict["first_divergence"] == "step 13"
    assert check.check(Track(losses, {}), Track(losses + 9e-9, {}))["passed"]
    other[3] = np.nan
    assert check.check(Track(losses, {}), Track(other, {}))["first_divergence"] == "step 4"
    assert not check.check(Track(losses, {}), Track(losses[:-1], {}))["passed"]
    assert not check.check(Track(losses[:0], {}), Track(losses[:0], {}))["passed"]


def test_weights_after_the_last_step_are_judged():
    losses, weights = np.linspace(0.7, 0.6, 10), {"a/kernel": np.ones(4), "a/kernel, averaged": np.ones(4)}
    for error, passed in ((1e-8, True), (1e-5, False), (np.nan, False)):
        verdict = check.check(
            Track(losses, weights), Track(losses, weights | {"a/kernel, averaged": np.full(4, 1 + error)})
        )
        assert verdict["passed"] is passed
        assert verdict["first_divergence"] == (None if passed else "weights after step 10")
        assert verdict["details"]["weights"][0] == "a/kernel, averaged"
    assert check.check(Track(losses, weights), Track(losses, weights).cut(10))["passed"]
    assert Track(losses, weights).cut(9).weights == {}


@pytest.mark.slow
def test_packages_fine_tune_b0_from_one_file():
    """Official weights, read by each for itself; both stages, averages, and the official model's own layers."""
    rows = list(ladder.compare_fine_tuning(cases.Options(models=("b0",))))
    assert [(row.reference, row.candidate) for row in rows] == list(exhibits.PAIRS)
    for row in rows:
        assert row.passed
        assert row.value < 1e-10
        assert len(row.details["errors"]) == 10
        assert row.details["weights"][1] < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("model", ["stem-b0", "split-b0"])
def test_packages_fine_tune_a_variant_from_the_official_file(model):
    """Each reads it into every branch, and freezes the first blocks of each; then thaws them."""
    (row,) = ladder.compare_fine_tuning(cases.Options(models=(model,)), model)
    assert (row.reference, row.candidate, row.check) == ("torch_ref", "keras_stoch", "lockstep")
    assert row.passed
    assert row.value < 1e-10
    assert len(row.details["errors"]) == 4
    assert row.details["weights"][1] < 1e-7
    # Four small steps away from the file, in every branch; the ordinary course's weights are elsewhere.
    case = cases.LOCKSTEP_CASES[False]
    common = (64, tuple(case.options.items()), lockstep.FEW_STEPS, 0, None)
    trained = lockstep.track("torch_ref", model, *common, "fine-tune").weights
    _, ordinary = lockstep.start(model, *common, "fine-tune")
    _, official = lockstep.start("b0", 64, (), lockstep.FEW_STEPS, 1, None)
    seen = 0
    for name in trained.keys() & ordinary.keys():
        array = official.get(name.removeprefix("detail_"))
        if name.endswith("/kernel") and array is not None and array.shape == trained[name].shape:
            seen += 1
            assert relative_l2(trained[name], array) < 0.01
            assert relative_l2(ordinary[name], array) > 0.1
    assert seen == {"stem-b0": 79, "split-b0": 162}[model]


def test_a_course_shares_out_its_images():
    course = Course(np.arange(20.0).reshape(10, 2), np.arange(10) % 2, [{}] * 6, batch_size=3)
    assert (course.steps_per_epoch, course.epochs) == (3, 2)
    inputs, targets = course.take([4, 0])
    assert inputs[:, 0].tolist() == [8, 0]
    assert targets.tolist() == [0, 0]
    adapter = exhibits.build("torch_ref", "b0", 32, "float64")
    order = lockstep.TorchTrainer(adapter, course).order(0)
    assert [len(batch) for batch in order] == [3, 3, 3]
    assert len(set(np.concatenate(order).tolist())) == 9


@pytest.mark.slow
def test_a_model_with_windows_keeps_in_step():
    options = cases.Options(models=("stem-b0",), checks=("lockstep",))
    (row,) = ladder.compare_lockstep("stem-b0", options)
    assert (row.check, row.reference, row.candidate, row.dtype) == ("lockstep", "torch_ref", "keras_stoch", "float64")
    assert row.passed
    assert row.value < 1e-10
    assert len(row.details["errors"]) == 4
