"""Judges ports that `mutations` has broken, and correct ones: the ladder must catch the first and pass the second."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from parity import comparison, diagnosis, images
from parity.court import exhibits, lockstep, study
from parity.court.mutations import CAUSES, MUTATIONS, RUNS, Mutation
from parity.court.rungs import RUNGS, optimizer, statistics
from parity.court.rungs import lockstep as lockstep_rung
from parity.errors import Row
from parity.trace import Trace, pair_values

SIZE, HIGH_RES = 64, 160  # pixels; small, for a fault does not care


@dataclass(frozen=True)
class Outcome:
    """What the ladder said of a mutation.

    Attributes:
        name: of the mutation.
        failed: the lowest rung that failed to the layer it named; empty if none did. Rungs above are not climbed:
            what they find may follow from it.
        value: the error there.
        seconds: the judgement took.
        details: of the statistics rung, if it was asked: what its check tells.
        causes: why it failed, so far as that was found out.
    """

    name: str
    failed: dict[str, str | None]
    value: float | None
    seconds: float
    details: dict = field(default_factory=dict)
    causes: tuple[str, ...] = ()

    @property
    def mutation(self) -> Mutation:
        return next(m for m in MUTATIONS if m.name == self.name)

    @property
    def caught(self) -> bool:
        """Whether the expected rung is the lowest that failed, and named the right layer."""
        return self.failed == {self.mutation.rung: self.mutation.layer}

    @property
    def cause(self) -> str:
        """The cause that says what the fault is; "" if none does."""
        words = CAUSES.get(self.name, ())
        return next((c for c in self.causes if words and all(word in c for word in words)), "")

    @property
    def explained(self) -> bool:
        return bool(self.cause)

    @property
    def margin(self) -> str:
        """The error on the rung that caught it, for tables."""
        return "-" if self.value is None else ("NaN" if np.isnan(self.value) else f"{self.value:.1e}")


@dataclass(frozen=True)
class Acquittal:
    """What the ladder said of a correct port: `failed` should be empty."""

    seed: int
    failed: dict[str, str | None]
    seconds: float


class Trial:
    """Judges `torch_ref` models against one `keras_stoch` model, whose trace is made once for each set of weights."""

    def __init__(self, model: str = "b0", seed: int = 0, paths=None, batch: int = 2, steps: int = 2):
        from torch_ref.architectures import ARCHITECTURES

        self.model = model
        self.options = {}
        if ARCHITECTURES[model].join is None:
            self.batches = images.make_batches(paths, batch, (SIZE, SIZE), range(seed, seed + steps))
        else:
            large = images.make_batches(paths, batch, (HIGH_RES, HIGH_RES), range(seed, seed + steps))
            self.batches = [exhibits.with_detail(pictures, SIZE) for pictures in large]
            self.options = {"high_res": HIGH_RES, "window_sharing": "image"}
        self.keras = exhibits.shared("keras_stoch", model, SIZE, "float64", **self.options)
        self.port = exhibits.build("torch_ref", model, SIZE, "float64", **self.options)
        self.reseed(seed)

    def reseed(self, seed: int, given=None) -> None:
        """New random weights, but those given, new masks and directions; the images stay."""
        self.seed = seed
        self.draws = exhibits.make_draws(self.keras, self.batches[0], seed)
        self.arrays = exhibits.randomise(self.port, self.batches[0], seed, self.draws, given)
        self.reference = Trace(self.keras, self.batches, self.draws, seed, dropout=True)

    def judge(self, apply: Callable = lambda model: None) -> dict[str, dict]:
        """Verdicts by rung on a fresh port, broken by `apply`, up to the first that fails."""
        self.keras.assign(self.arrays)  # the model is shared
        adapter = exhibits.copied(self.port)
        apply(adapter.model)
        candidate = Trace(adapter, self.batches, self.draws, self.seed, dropout=True)
        verdicts = {}
        for name, check in RUNGS.items():
            try:
                verdicts[name] = check(self.reference, candidate)
            except RuntimeError as error:  # torch's word for shapes that do not go together
                verdicts[name] = {"passed": False, "value": None, "first_divergence": None, "message": str(error)}
            if not verdicts[name]["passed"]:
                verdicts[name]["causes"] = self._causes(name, verdicts[name], candidate)
                break
        return verdicts

    def _causes(self, name: str, verdict: dict, candidate: Trace) -> list[str]:
        """Why a rung failed, as `parity.compare` would say it."""
        fields = {key: value for key, value in verdict.items() if key != "causes"}
        sides = self.reference, candidate
        row = Row(
            self.model,
            *(side.adapter.name for side in sides),
            name,
            "float64",
            **{"measure": "", "tolerance": None} | fields,
        )
        if name == "forward":
            candidate.parted = pair_values(*sides, self.batches[0])
        notes = []
        told = diagnosis.findings([row], *sides, notes)
        said = [str(finding) for finding in told if finding.says]
        return said or ([verdict["message"]] if name == "windows" else notes)


class LockstepTrial:
    """Judges spoilt trainers of `torch_ref` against the track of `keras_stoch`, which the ladder has trained."""

    EPOCHS = 2  # of the course; every planted fault shows by then

    def __init__(self, seed=0, folder: str | None = None, model: str = "b0", recipe: str = "paper", length=None):
        self.model = model
        length = length or (lockstep.LENGTHS["b0"] if recipe == "paper" else lockstep.FINE_TUNING)
        common = (model, SIZE, (), length, seed, folder, recipe)
        whole, self.arrays = lockstep.start(*common)
        steps = self.EPOCHS * whole.steps_per_epoch
        self.course = dataclasses.replace(whole, draws=whole.draws[:steps])
        self.reference = lockstep.track("keras_stoch", *common).cut(steps)
        self.port = exhibits.build("torch_ref", model, SIZE, "float64")

    def judge(self, spoil=lambda trainer: None) -> dict[str, dict]:
        """The verdict of the lockstep rung on a fresh port, trained by a trainer that `spoil` has broken.

        Training ends with the first step whose loss parts, which is the verdict.
        """
        expected = self.reference.losses

        def parted(losses):
            return not abs(losses[-1] - expected[len(losses) - 1]) <= lockstep_rung.TOLERANCE

        track = lockstep.follow(exhibits.copied(self.port), self.arrays, self.course, spoil, parted)
        return {"lockstep": lockstep_rung.check(self.reference.cut(len(track.losses)), track)}


def judge_pair(item: Mutation) -> dict[str, dict]:
    """The verdict of `parity.compare` on a pair of strangers with a fault: that of the lowest rung that failed."""
    import keras
    import torch

    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    reference, candidate, inputs, options = item.pair()
    try:
        report = comparison.compare(reference, candidate, inputs, transfer=True, **options)
    except ValueError as error:
        place = item.layer if item.layer in str(error) else str(error)
        return {"refused": {"passed": False, "value": None, "first_divergence": place, "causes": [str(error)]}}
    row = report.first_failure
    causes = [str(finding) for finding in report.causes if finding.says]
    return {} if row is None else {row.check: row.asdict() | {"causes": causes or [row.message]}}


def faulty_runs(plan: study.Plan) -> list[tuple[str, study.Plan]]:
    """Arguments of `study.train_package` for every fault of `RUNS`, by the plan of the correct packages."""
    return [
        (package, dataclasses.replace(plan, runs=runs, early_runs=early_runs))
        for package, runs, early_runs in RUNS.values()
    ]


def chosen(names=None) -> list[Mutation]:
    """Mutations by name, or all.

    Raises:
        ValueError: for an unknown name.
    """
    known = {m.name: m for m in MUTATIONS}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"Unknown mutation: {', '.join(unknown)}. Known are: {'; '.join(known)}")
    return [known[name] for name in names or known]


@functools.lru_cache(maxsize=2)
def _trial(model, folder):
    return Trial(model, paths=images.find_images(folder) if folder else None)


@functools.lru_cache(maxsize=2)
def _lockstep_trial(seed, folder, recipe):
    return LockstepTrial(seed, folder, recipe=recipe)


def try_mutations(names: list[str], folder: str | None = None, seed: int = 0) -> Iterator[Outcome]:
    """Judges planted faults, but those of whole runs.

    Args:
        names: of mutations.
        folder: of photographs, or None.
        seed: of the lockstep course, that of the ladder.
    """
    for item in chosen(names):
        start = time.perf_counter()
        if item.pair is not None:
            verdicts = judge_pair(item)
        elif item.trainer is not None:
            verdicts = _lockstep_trial(seed, folder, item.recipe).judge(item.trainer)
        elif item.optimizer is not None:
            verdicts = {"optimizer": optimizer.check(item.settings, make_optimizer=item.optimizer)}
        else:
            verdicts = _trial(item.model, folder).judge(item.apply)
        yield _outcome(item.name, verdicts, time.perf_counter() - start)


def judge_runs(name: str, samples: dict[str, study.Sample], plan: study.Plan) -> Outcome:
    """The verdict of the statistics rung on runs with a fault.

    Args:
        name: of the fault, one of `RUNS`.
        samples: by name, of the official model and of the fault.
        plan: of the official model's runs.
    """
    faulty = samples[RUNS[name][0]]
    verdicts = {"statistics": statistics.check(samples["official"], faulty, plan.seed)}
    return _outcome(name, verdicts, faulty.seconds)


def _outcome(name, verdicts, seconds) -> Outcome:
    failed = {rung: v.get("first_divergence") for rung, v in verdicts.items() if not v["passed"]}
    value = verdicts[next(iter(failed))]["value"] if failed else None
    causes = tuple(cause for rung in failed for cause in verdicts[rung].get("causes", ()))
    return Outcome(name, failed, value, seconds, verdicts.get("statistics", {}).get("details", {}), causes)


def acquit(seeds, folder: str | None = None) -> Iterator[Acquittal]:
    """Judges correct ports, each with other weights, masks and directions."""
    trial = _trial("b0", folder)
    trial.keras.compiled = True  # two dozen passes of one model are worth a graph
    # A graph holds the normalisation of the input as constants, so that stays as it is.
    normalization = {name: array for name, array in trial.arrays.items() if name.startswith("normalization/")}
    try:
        for seed in seeds:
            start = time.perf_counter()
            with lockstep.graphs_as_written():
                trial.reseed(seed, normalization)
                verdicts = trial.judge()
            failed = {rung: v.get("first_divergence") for rung, v in verdicts.items() if not v["passed"]}
            yield Acquittal(seed, failed, time.perf_counter() - start)
    finally:
        trial.keras.compiled = False
        trial.reseed(0)
