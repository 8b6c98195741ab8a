"""The ladder must catch every planted fault where it was planted, and raise no alarm on correct ports."""

import pytest

from parity.court import mutations, trials
from parity.court.rungs import RUNGS, optimizer

# Passed over in silence once, each for a reason of its own.
QUICK = ("configuration", "structure", "weights", "forward", "isolated")
FAST = ("ReLU for ReLU6", "float32 alone, off by 8e-6", "two tables for one that is tied")


@pytest.fixture(scope="module")
def judges():
    return {}


def of_models() -> list:
    """Those of training are tried in test_lockstep.py and test_study.py. The first of some rungs is tried fast."""
    found, rungs = [], set()
    for m in mutations.MUTATIONS:
        if m.apply or m.optimizer or m.pair:
            first = m.name in FAST or (m.rung in QUICK and m.rung not in rungs)
            rungs.add(m.rung)
            marks = () if first else (pytest.mark.slow,)
            found.append(pytest.param(m, id=m.name.replace(" ", "-"), marks=marks))
    return found


@pytest.mark.parametrize("mutation", of_models())
def test_every_fault_is_caught_where_it_was_planted(mutation, judges):
    if mutation.pair is not None:
        (outcome,) = trials.try_mutations([mutation.name])
        assert outcome.caught, outcome
        assert outcome.explained == (mutation.name in mutations.CAUSES), outcome
        return
    if mutation.optimizer is not None:
        verdict = optimizer.check(mutation.settings, make_optimizer=mutation.optimizer)
        assert not verdict["passed"]
        assert verdict["first_divergence"] == mutation.layer
        assert mutation.name not in mutations.CAUSES or named(mutation, verdict)
        return
    if mutation.model not in judges:
        judges[mutation.model] = trials.Trial(mutation.model)
    verdicts = judges[mutation.model].judge(mutation.apply)
    failed = {rung: v["first_divergence"] for rung, v in verdicts.items() if not v["passed"]}
    assert failed == {mutation.rung: mutation.layer}
    assert named(mutation, verdicts[mutation.rung])


def named(mutation, verdict) -> bool:
    """Whether the cause is named, of a fault whose cause can be; of another, whether none is."""
    told = trials.Outcome(mutation.name, {}, None, 0.0, causes=tuple(verdict["causes"]))
    return told.explained if mutation.name in mutations.CAUSES else not told.causes


def test_most_causes_are_to_be_named():
    assert mutations.CAUSES.keys() <= {m.name for m in mutations.MUTATIONS}
    assert len(mutations.CAUSES) >= 48


def test_there_are_enough_and_every_rung_has_one():
    assert len(mutations.MUTATIONS) >= 15
    assert len({m.name for m in mutations.MUTATIONS}) == len(mutations.MUTATIONS)
    # Isolated comparison localises what the accumulated one has found; it never stands first.
    found = {m.rung for m in mutations.MUTATIONS}
    assert found == {*RUNGS, "optimizer", "lockstep", "statistics", "determinism", "refused"} - {"isolated"}


@pytest.mark.slow
def test_correct_ports_raise_no_alarm():
    """The first six of the twenty that `make parity` tries."""
    found = list(trials.acquit(range(6)))
    assert [acquittal.seed for acquittal in found] == list(range(6))
    assert not [acquittal for acquittal in found if acquittal.failed]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Unknown mutation: no such"):
        trials.chosen(["no such"])
