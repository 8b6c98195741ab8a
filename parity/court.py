"""Judges ports that `mutations` has broken, and correct ones: the ladder must catch the first and pass the second."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from parity import exhibits, images, lockstep, study
from parity.checks import RUNGS, optimizer, statistics
from parity.checks import lockstep as lockstep_check
from parity.evidence import Evidence
from parity.mutations import MUTATIONS, RUNS, Mutation
from torch_ref.architectures import ARCHITECTURES

SIZE, HIGH_RES = 64, 160  # pixels; small, for a fault does not care


@dataclass(frozen=True)
class Outcome:
    """What the ladder said of a mutation.

    Attributes:
        failed: rung to the layer it named, for every rung that failed, in order.
        value: the error on the lowest of them.
        seconds: the judgement took.
        details: of the statistics rung, if it was asked: what its check tells.
    """

    mutation: Mutation
    failed: dict[str, str | None]
    value: float | None
    seconds: float
    details: dict = field(default_factory=dict)

    @property
    def caught(self) -> bool:
        """Whether the expected rung is the lowest that failed, and named the right layer."""
        return next(iter(self.failed.items()), None) == (self.mutation.rung, self.mutation.layer)


class LockstepCourt:
    """Judges spoilt trainers of `torch_ref` against `keras_stoch` in lockstep, whose side is trained once."""

    def __init__(self, paths=None, seed: int = 0):
        ours = exhibits.build("keras_stoch", "b0", SIZE, "float64")
        self.course = lockstep.make_course(ours, paths, SIZE, seed=seed, epochs=2)
        first, _ = self.course.take(range(self.course.batch_size))
        self.arrays = exhibits.randomise(ours, first, seed)
        self.reference = lockstep.follow(ours, self.arrays, self.course, masks=True)

    def judge(self, spoil=lambda trainer: None) -> dict[str, dict]:
        """The verdict of the lockstep rung on a fresh port, trained by a trainer that `spoil` has broken."""
        subject = exhibits.build("torch_ref", "b0", SIZE, "float64")
        return {
            "lockstep": lockstep_check.check(
                self.reference, lockstep.follow(subject, self.arrays, self.course, masks=True, spoil=spoil)
            )
        }


def faulty_runs(plan: study.Plan) -> list[tuple[str, study.Plan]]:
    """Arguments of `study.train_package` for every fault of `RUNS`, by the plan of the correct packages."""
    return [
        (package, dataclasses.replace(plan, runs=runs, early_runs=early_runs))
        for package, runs, early_runs in RUNS.values()
    ]


def judge_runs(name: str, samples: dict[str, study.Sample], plan: study.Plan) -> dict[str, dict]:
    """The verdict of the statistics rung on runs with a fault.

    Args:
        name: of the fault, one of `RUNS`.
        samples: by name, of the official model and of the fault. What is missing is trained, and added.
        plan: of the official model's runs.
    """
    fault = dict(faulty_runs(plan))
    package = RUNS[name][0]
    for trained, by in (("official", plan), (package, fault[package])):
        if trained not in samples:
            samples[trained] = study.train_package(trained, by)
    return {"statistics": statistics.check(samples["official"], samples[package], plan.seed)}


class Court:
    """Judges mutated `torch_ref` models against one `keras_stoch` model, whose evidence is computed once."""

    def __init__(self, model: str = "b0", seed: int = 0, paths=None, batch: int = 2, steps: int = 2):
        self.model, self.seed = model, seed
        self.options = {}
        if ARCHITECTURES[model].join is None:
            self.batches = images.make_batches(paths, batch, (SIZE, SIZE), range(seed, seed + steps))
        else:
            large = images.make_batches(paths, batch, (HIGH_RES, HIGH_RES), range(seed, seed + steps))
            self.batches = [images.with_detail(pictures, SIZE) for pictures in large]
            self.options = {"high_res": HIGH_RES, "window_sharing": "image"}
        self.keras = exhibits.build("keras_stoch", model, SIZE, "float64", **self.options)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """New random weights, masks and directions; the images stay."""
        self.seed = seed
        self.draws = exhibits.make_draws(self.keras, self.batches[0], seed)
        windows = {name: draw for name, draw in self.draws.items() if name != "drop_masks"}
        self.arrays = exhibits.randomise(self.keras, self.batches[0], seed, windows)
        self.reference = Evidence(self.keras, self.batches, self.draws, seed)

    def judge(self, apply: Callable[[nn.Module], None] | None = None) -> dict[str, dict]:
        """Verdicts by rung on a fresh port, broken by `apply` if given."""
        subject = exhibits.build("torch_ref", self.model, SIZE, "float64", **self.options)
        subject.assign(self.arrays)
        if apply is not None:
            apply(subject.model)
        candidate = Evidence(subject, self.batches, self.draws, self.seed)
        verdicts = {}
        for name, check in RUNGS.items():
            try:
                verdicts[name] = check(self.reference, candidate)
            except RuntimeError as error:  # torch's word for shapes that do not go together
                verdicts[name] = {
                    "passed": False,
                    "value": None,
                    "first_divergence": None,
                    "message": str(error),
                }
        return verdicts


def run(
    names=None,
    paths=None,
    report: Callable[[Outcome], None] = lambda outcome: None,
    jobs: int = 1,
    samples=None,
    plan=None,
) -> list[Outcome]:
    """Tries every mutation (or those named).

    Args:
        names: of mutations; None for all.
        paths: photographs.
        report: is called with every outcome.
        jobs: processes.
        samples: see `judge_runs`.
        plan: the `study.Plan` of these.

    Raises:
        ValueError: for an unknown name.
    """
    from parity import jobs as processes

    known = {m.name: m for m in MUTATIONS}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"Unknown mutation: {', '.join(unknown)}. Known are: {'; '.join(known)}")
    chosen = list(names or known)
    # What shares a reference is judged together.
    groups = {}
    for name in chosen:
        m = known[name]
        groups.setdefault("lockstep" if m.trainer else m.rung if m.apply is None else m.model, []).append(name)
    live = report if jobs == 1 else None
    order = sorted(groups, key=lambda kind: kind not in ("statistics", "lockstep"))  # these take longest
    given = {} if samples is None else samples, plan or study.Plan()
    calls = [(_judge_group, (groups[kind], paths, *given, live)) for kind in order]
    found = {}
    for _, outcomes in processes.run(calls, jobs):
        for name, *told in outcomes:
            found[name] = Outcome(known[name], *told)
            if live is None:
                report(found[name])
    return [found[name] for name in chosen]


def _judge_group(names, paths, samples, plan, report) -> list[tuple]:
    """(name and the fields of `Outcome` after the first) of mutations of one kind; plain values, for they travel."""
    known, court, found = {m.name: m for m in MUTATIONS}, None, []
    for name in names:
        item, start = known[name], time.perf_counter()
        if item.trainer is not None:
            court = court or LockstepCourt(paths)
            verdicts = court.judge(item.trainer)
        elif item.optimizer is not None:
            verdicts = {"optimizer": optimizer.check(optimizer.SETTINGS[0], make_optimizer=item.optimizer)}
        elif item.apply is None:
            verdicts = judge_runs(name, samples, plan)
        else:
            court = court or Court(item.model, paths=paths)
            verdicts = court.judge(item.apply)
        failed = {rung: v.get("first_divergence") for rung, v in verdicts.items() if not v["passed"]}
        value = verdicts[next(iter(failed))]["value"] if failed else None
        details = verdicts.get("statistics", {}).get("details", {})
        found.append((name, failed, value, time.perf_counter() - start, details))
        if report is not None:
            report(Outcome(item, *found[-1][1:]))
    return found


def false_alarms(seeds, paths=None, report: Callable[[int, dict], None] = lambda seed, failed: None) -> dict:
    """Judges correct ports with other weights; returns seed to failed rungs, which should all be empty."""
    court = Court(paths=paths, steps=2)
    found = {}
    for seed in seeds:
        court.reseed(seed)
        verdicts = court.judge()
        found[seed] = {rung: v.get("first_divergence") for rung, v in verdicts.items() if not v["passed"]}
        report(seed, found[seed])
    return found


def margin(outcome: Outcome) -> str:
    """The error on the rung that caught a mutation, for tables."""
    value = outcome.value
    return "-" if value is None else ("NaN" if np.isnan(value) else f"{value:.1e}")
