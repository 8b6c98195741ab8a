"""Climbs the ladder for every pair of packages: generators that yield verdicts as they are reached."""

import functools
import time
from collections.abc import Iterator

from parity import images
from parity.court import exhibits, lockstep, study
from parity.court.cases import BACKEND_CASES, DTYPES, LOCKSTEP_CASES, MODELS, Case, Options
from parity.court.rungs import RUNGS, backends, optimizer, statistics
from parity.court.rungs import lockstep as lockstep_rung
from parity.errors import Row
from parity.trace import Trace


def _row(model, reference, candidate, check, dtype, size, function, *arguments) -> Row:
    """The verdict of a check, and the seconds it took."""
    start = time.perf_counter()
    row = Row(model, reference, candidate, check, dtype, size=size, **function(*arguments))
    row.seconds = round(time.perf_counter() - start, 3)
    return row


@functools.lru_cache(maxsize=4)
def _batches(folder: str | None, count: int, pixels: int, seeds: tuple[int, ...]) -> tuple:
    """Batches of square images, made once a process: five cases see the same at 1024 pixels."""
    paths = images.find_images(folder) if folder else None
    return tuple(images.make_batches(paths, count, (pixels, pixels), seeds))


def compare_model(model: str, case: Case, options: Options) -> Iterator[Row]:
    """One model at one size, every pair: float64 first, which then is the truth for float32.

    All that is drawn at random, windows and drop masks, is drawn once and given to every package.
    """
    seeds = range(options.seed, options.seed + options.steps)
    pixels = case.high_res or case.low_res
    batches = list(_batches(options.images, options.batch, pixels, tuple(seeds)))
    if case.high_res is not None:
        batches = [exhibits.with_detail(batch, case.low_res) for batch in batches]
    arrays, draws, truth = None, None, {}
    for dtype in case.dtypes:
        packages = [package for package in exhibits.PACKAGES if exhibits.has(package, model)]
        adapters = {p: exhibits.shared(p, model, case.low_res, dtype, **case.options) for p in packages}
        if arrays is None:
            draws = exhibits.make_draws(adapters["keras_stoch"], batches[0], options.seed)
            arrays = exhibits.randomise(adapters["torch_ref"], batches[0], options.seed, draws)
        traces = {}
        for package, adapter in adapters.items():
            adapter.assign(arrays)
            traces[package] = Trace(adapter, batches, draws, seed=options.seed, dropout=True)
        for reference, candidate in exhibits.pairs(model):
            for check in RUNGS:
                if check == "windows" and case.high_res is None:
                    continue  # nothing stochastic to look at
                if check in options.checks:
                    sides = traces[reference], traces[candidate], truth.get(reference)
                    yield _row(model, reference, candidate, check, dtype, str(case), RUNGS[check], *sides)
        if dtype == "float32" and "backends" in options.checks and (model, case) in BACKEND_CASES:
            for backend in backends.BACKENDS:
                name, sides = f"keras_stoch on {backend}", (traces["keras_stoch"], truth["keras_stoch"], backend)
                yield _row(model, "keras_stoch", name, "backends", dtype, str(case), backends.check, *sides)
        truth = traces


def compare_optimizers(options: Options) -> Iterator[Row]:
    """The optimisers alone."""
    for dtype in DTYPES:
        for name in optimizer.SETTINGS:
            kind, _, told = name.partition(", ")
            arguments = (name, dtype, options.seed)
            yield _row(kind, "official", "torch_ref", "optimizer", dtype, told, optimizer.check, *arguments)


def compare_lockstep(model: str, options: Options) -> Iterator[Row]:
    """All packages train one model side by side, with everything that is drawn given to them."""
    case = LOCKSTEP_CASES[options.full]
    if MODELS[model][0].high_res is None:
        case = case._replace(high_res=None)
    length = lockstep.FEW_STEPS if options.look else lockstep.LENGTHS.get(model, lockstep.FEW_STEPS)
    for reference, candidate in exhibits.pairs(model):
        start = time.perf_counter()
        common = (model, case.low_res, tuple(case.options.items()), length, options.seed, options.images)
        sides = [lockstep.track(package, *common) for package in (reference, candidate)]
        row = _row(model, reference, candidate, "lockstep", "float64", str(case), lockstep_rung.check, *sides)
        row.seconds = round(time.perf_counter() - start, 3)
        yield row


def compare_fine_tuning(options: Options, model: str = "b0") -> Iterator[Row]:
    """All packages fine-tune a model side by side, each from a file of official weights that it reads for itself.

    Of a variant each branch begins with what of the official model has its shape.
    """
    case = LOCKSTEP_CASES[options.full]
    if MODELS[model][0].high_res is None:
        case = case._replace(high_res=None)
    length = lockstep.FINE_TUNING if model in lockstep.LENGTHS else lockstep.FEW_STEPS
    arguments = () if model in exhibits.OFFICIAL else tuple(case.options.items())
    for reference, candidate in exhibits.pairs(model):
        start = time.perf_counter()
        common = (model, case.low_res, arguments, length, options.seed, options.images, "fine-tune")
        sides = [lockstep.track(package, *common) for package in (reference, candidate)]
        size = f"{case.low_res}, fine-tune" if case.high_res is None else f"{case}, fine-tune"
        row = _row(model, reference, candidate, "lockstep", "float64", size, lockstep_rung.check, *sides)
        row.seconds = round(time.perf_counter() - start, 3)
        yield row


def train_sample(package: str, plan: study.Plan) -> Iterator[study.Sample]:
    """All runs of one package, or of a fault, as a job."""
    yield study.train_package(package, plan)


def compare_samples(samples: dict[str, study.Sample], plan: study.Plan) -> Iterator[Row]:
    """The statistics of the official model's runs against each package's."""
    reference = samples["official"]
    for candidate in study.PACKAGES[1:]:
        size = f"{plan.size}, {plan.runs}+{plan.early_runs} runs"
        sides = (reference, samples[candidate], plan.seed)
        row = _row(plan.model, "official", candidate, "statistics", "float32", size, statistics.check, *sides)
        row.details["looks"] = plan.looks
        row.seconds = round(samples[candidate].seconds, 3)
        yield row
