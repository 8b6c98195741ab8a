"""Climbs the ladder for every pair of packages and collects the verdicts."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from parity import exhibits, images, lockstep, study
from parity.checks import RUNGS, backends, optimizer, statistics
from parity.checks import lockstep as lockstep_check
from parity.compare import Row
from parity.evidence import Evidence

DTYPES = ("float64", "float32")


class Case(NamedTuple):
    """Sizes in pixels at which a model is compared, and how its windows are shared."""

    low_res: int
    high_res: int | None = None
    window_sharing: str = "batch"
    dtypes: tuple[str, ...] = DTYPES

    def __str__(self):
        return str(self.low_res) if self.high_res is None else f"{self.low_res}/{self.high_res} {self.window_sharing}"


# Bugs show in float64, and that is asked of every case. What float32 does in practice, the cases with all layers tell.
EXACT = ("float64",)
MODELS = {  # sizes even at every stage or at most; odd at most
    "b0": (Case(224), Case(131, dtypes=EXACT)),
    "b0-stem64": (Case(224, dtypes=EXACT),),
    "b4": (Case(128, dtypes=EXACT),),
    "stem-b0": (Case(128, 1024), Case(75, 1024, "image", EXACT)),
    "stem-b4": (Case(75, 1024, "image", EXACT),),
    "skip-b0": (Case(128, 1024, "batch", EXACT),),
    "split-b0": (Case(128, 1024), Case(75, 1024, "image", EXACT)),
}
# What is also run on Keras's other backends: a model that has every kind of layer.
BACKEND_CASES = (("stem-b0", MODELS["stem-b0"][0]),)
CHECKS = (*RUNGS, "optimizer", "lockstep", "statistics", "backends")
LOCKSTEP = {False: Case(64, 160, "image", EXACT), True: Case(224, 1024, "image", EXACT)}  # small and full
# So that the longest comparison does not begin last.
SLOWEST = ("b4", "stem-b4", "split-b0", "skip-b0", "stem-b0", "b0", "b0-stem64")


@dataclass(frozen=True)
class Options:
    """What to compare.

    Attributes:
        models, checks: names from `MODELS` and `CHECKS`; all by default.
        images: folder of photographs; None for structured pictures made here.
        seed: of weights and images.
        batch: images per batch.
        steps: batches for the moving averages; two with drop masks, if the official model is compared without.
        full: train at the paper's size, for a GPU.
    """

    models: tuple[str, ...] = tuple(MODELS)
    checks: tuple[str, ...] = CHECKS
    images: str | None = None
    seed: int = 0
    batch: int = 2
    steps: int = 3
    full: bool = False

    @property
    def plan(self) -> study.Plan:
        """Of the runs for the statistics."""
        return study.FULL if self.full else study.Plan()

    def __post_init__(self):
        for what, names, known in (("models", self.models, MODELS), ("checks", self.checks, CHECKS)):
            unknown = [name for name in names if name not in known]
            if unknown or not names:
                raise ValueError(f"Unknown {what}: {', '.join(unknown) or 'none given'}. Known are: {', '.join(known)}")
        if self.batch < 2 or self.steps < 1:
            raise ValueError(
                f"batch must be at least 2 (batch norm) and steps at least 1. Received: {self.batch}, {self.steps}"
            )


def run(
    options: Options,
    report: Callable[[Row], None] = lambda row: None,
    jobs: int = 1,
    samples: dict | None = None,
    further=(),
) -> list[Row]:
    """Runs the selected checks.

    Args:
        options: what to compare.
        report: is called with each row; with several jobs, with all rows of a model at once.
        jobs: processes, see `jobs.run`.
        samples: a dict to be filled with the `study.Sample` of each package, for whoever wants to go on with them.
        further: arguments of `study.train_package` for samples that are not compared here; they go into `samples`.

    Returns:
        All rows, in the order of models and rungs.
    """
    from parity import jobs as processes

    calls, found = [], {}
    chosen, samples = set(options.checks), {} if samples is None else samples
    if "statistics" in chosen and options.plan.model in options.models:
        trained = [*((package, options.plan) for package in study.PACKAGES), *further]
        calls += [(study.train_package, arguments) for arguments in trained]
    live = report if jobs == 1 else None
    for model in sorted(options.models, key=SLOWEST.index):
        if chosen & {*RUNGS, "backends"}:
            calls.append((_compare_model, (model, options, live)))
        if "lockstep" in chosen:
            calls.append((_lockstep, (model, options, live)))
    if "optimizer" in chosen:
        calls.append((_optimizer, (options, live)))
    for number, result in processes.run(calls, jobs):
        if isinstance(result, study.Sample):
            samples[result.name] = result
            continue
        found[number] = result
        if live is None:
            for row in result:
                report(row)
    rows = [row for number in sorted(found) for row in found[number]]
    rows.sort(key=lambda row: [*MODELS, "RMSprop"].index(row.model))
    if samples:
        rows += _statistics(samples, options.plan, report)
    return rows


class _Rows:
    """Makes rows from checks and counts their time."""

    def __init__(self, report):
        self.rows, self.report = [], report

    def add(self, model, reference, candidate, check, dtype, size, function, *arguments):
        start = time.perf_counter()
        fields = function(*arguments)
        row = Row(model, reference, candidate, check, dtype, size=size, **fields)
        row.seconds = round(time.perf_counter() - start, 3)
        self.rows.append(row)
        if self.report is not None:
            self.report(row)


def _paths(options):
    return images.find_images(options.images) if options.images else None


def _compare_model(model, options, report) -> list[Row]:
    rows = _Rows(report)
    for case in MODELS[model]:
        _compare_packages(model, case, _paths(options), options, rows.add)
    return rows.rows


def _optimizer(options, report) -> list[Row]:
    rows = _Rows(report)
    for dtype in DTYPES:
        for settings in optimizer.SETTINGS:
            size = f"momentum {settings['momentum']}"
            arguments = (settings, dtype, options.seed)
            rows.add("RMSprop", "official", "torch_ref", "optimizer", dtype, size, optimizer.check, *arguments)
    return rows.rows


def _lockstep(model, options, report) -> list[Row]:
    """Both packages side by side with everything that is drawn injected; and with the official model, no dropout."""
    rows = _Rows(report)
    size = LOCKSTEP[options.full]
    if MODELS[model][0].high_res is None:
        size = size._replace(high_res=None)
    extra = {} if size.high_res is None else {"high_res": size.high_res, "window_sharing": size.window_sharing}
    ours = exhibits.build("keras_stoch", model, size.low_res, "float64", **extra)
    course = lockstep.make_course(ours, _paths(options), size.low_res, size.high_res, seed=options.seed)
    first, _ = course.take(range(course.batch_size))
    windows = {name: draw for name, draw in course.draws[0].items() if name != "drop_masks"}
    arrays = exhibits.randomise(ours, first, options.seed, windows)
    tracks = {}
    for reference, candidate in exhibits.PAIRS:
        if reference == "official" and model not in exhibits.OFFICIAL:
            continue
        masks = "official" not in (reference, candidate)
        start = time.perf_counter()
        for package in (reference, candidate):
            if (package, masks) not in tracks:
                # A model of its own: the training step keeps a compiled graph of the first with its drop rates.
                subject = exhibits.build(package, model, size.low_res, "float64", **extra)
                tracks[package, masks] = lockstep.follow(subject, arrays, course, masks)
        sides = (tracks[reference, masks], tracks[candidate, masks])
        rows.add(model, reference, candidate, "lockstep", "float64", str(size), lockstep_check.check, *sides)
        rows.rows[-1].seconds = round(time.perf_counter() - start, 3)
    return rows.rows


def _statistics(samples, plan, report) -> list[Row]:
    rows = _Rows(report)
    reference = samples["official"]
    for candidate in study.PACKAGES[1:]:
        size = f"{plan.size}, {plan.runs}+{plan.early_runs} runs"
        sides = (reference, samples[candidate], plan.seed)
        rows.add(plan.model, "official", candidate, "statistics", "float32", size, statistics.check, *sides)
        rows.rows[-1].details["looks"] = plan.looks
        rows.rows[-1].seconds = round(samples[candidate].seconds, 3)
    return rows.rows


def _compare_packages(model, case, paths, options, add):
    """One model at one size: float64 first, which then is the truth for float32."""
    seeds = range(options.seed, options.seed + options.steps)
    pixels = case.high_res or case.low_res
    batches = images.make_batches(paths, options.batch, (pixels, pixels), seeds)
    extra = {}
    if case.high_res is not None:
        batches = [images.with_detail(batch, case.low_res) for batch in batches]
        extra = {"high_res": case.high_res, "window_sharing": case.window_sharing}
    arrays, draws, truth = None, None, {}
    label = str(case)
    for dtype in case.dtypes:
        subjects = {p: exhibits.build(p, model, case.low_res, dtype, **extra) for p in exhibits.PACKAGES}
        if arrays is None:
            draws = exhibits.make_draws(subjects["keras_stoch"], batches[0], options.seed)
            windows = {name: draw for name, draw in draws.items() if name != "drop_masks"}
            arrays = exhibits.randomise(subjects["keras_stoch"], batches[0], options.seed, windows)
        evidence, injected = {}, {}
        for package, subject in subjects.items():
            if subject is not None:
                subject.assign(arrays)
                evidence[package] = Evidence(subject, batches, windows, seed=options.seed)
                fewer = batches if subjects["official"] is None else batches[:2]
                injected[package] = Evidence(subject, fewer, draws, seed=options.seed)
        for reference, candidate in exhibits.PAIRS:
            if subjects[reference] is None:
                continue
            # The official model takes no masks, so nothing drops where it is involved. Windows are always given.
            sides = evidence if "official" in (reference, candidate) else injected
            if sides is injected:  # inference is the same: do not compute it twice
                for package in (reference, candidate):
                    injected[package].__dict__.setdefault("calls", evidence[package].calls)
            key = (reference, sides is injected)
            for check in RUNGS:
                if check == "windows" and case.high_res is None:
                    continue  # nothing stochastic to look at
                if check in options.checks:
                    add(
                        model,
                        reference,
                        candidate,
                        check,
                        dtype,
                        label,
                        RUNGS[check],
                        sides[reference],
                        sides[candidate],
                        truth.get(key),
                    )
        wanted = "backends" in options.checks and (model, case) in BACKEND_CASES
        if dtype == "float32" and wanted:
            for backend in backends.BACKENDS:
                add(
                    model,
                    "keras_stoch",
                    f"keras_stoch on {backend}",
                    "backends",
                    dtype,
                    label,
                    backends.check,
                    evidence["keras_stoch"],
                    truth["keras_stoch", False],
                    backend,
                )
        truth = {(package, False): side for package, side in evidence.items()}
        truth |= {(package, True): side for package, side in injected.items()}
