"""One hearing: what is to be done as jobs, done by processes, verdicts told as they are reached."""

from collections.abc import Callable
from dataclasses import dataclass, field

from parity.court import exhibits, jobs, ladder, study, trials
from parity.court.cases import BACKEND_CASES, CHECKS, DTYPES, MODELS, Options
from parity.court.jobs import Job
from parity.court.mutations import MUTATIONS, RUNS
from parity.court.rungs import RUNGS
from parity.environment import import_tensorflow_quietly
from parity.errors import Row

# About how many seconds a job takes on one core (two of an AMD EPYC, November 2026), for the time left and for what to
# begin with. Nothing depends on their being right. Of a model: at one size in one type.
SECONDS = {
    "b0": 20, "b0-stem64": 9, "b4": 40, "stem-b0": 16, "stem-b4": 33, "skip-b0": 18, "split-b0": 23,
    "lockstep b0": 72, "lockstep b0-stem64": 17, "lockstep b4": 62, "lockstep stem-b0": 25,
    "lockstep stem-b4": 50, "lockstep skip-b0": 26, "lockstep split-b0": 40,
    "lockstep fine-tune": 80,
    "backends": 43, "optimizer": 8, "sample": 180, "fault": 3, "fault of training": 2, "correct port": 4,
}  # fmt: skip


@dataclass
class Findings:
    """What was found so far.

    Attributes:
        rows: verdicts of the ladder.
        outcomes: of planted faults.
        acquittals: of correct ports.
        unfinished: titles of jobs that were not through.
    """

    rows: list[Row] = field(default_factory=list)
    outcomes: list[trials.Outcome] = field(default_factory=list)
    acquittals: list[trials.Acquittal] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.unfinished

    def sort(self) -> None:
        """Into the order of models and rungs, and of the table of faults."""
        models, names = [*MODELS, "RMSprop", "AdamW"], [m.name for m in MUTATIONS]

        def place(row):
            sizes = [str(case) for case in MODELS.get(row.model, ())]
            pair = (row.reference, row.candidate)
            return (
                models.index(row.model),
                sizes.index(row.size) if row.size in sizes else len(sizes),
                DTYPES.index(row.dtype),
                exhibits.PAIRS.index(pair) if pair in exhibits.PAIRS else len(exhibits.PAIRS),
                CHECKS.index(row.check),
            )

        self.rows.sort(key=place)
        self.outcomes.sort(key=lambda outcome: names.index(outcome.name))
        self.acquittals.sort(key=lambda acquittal: acquittal.seed)


def ladder_jobs(options: Options) -> list[Job]:
    """The jobs of the ladder, but for the runs of the statistics."""
    found, checks = [], set(options.checks)
    for model in options.models:
        if checks & {*RUNGS, "backends"}:
            for case in MODELS[model]:
                heard = checks & set(RUNGS) or (model, case) in BACKEND_CASES
                seconds = SECONDS[model] * len(case.dtypes)
                if "backends" in checks and (model, case) in BACKEND_CASES:
                    seconds += SECONDS["backends"]
                if heard:
                    title = f"{model} at {case}"
                    found.append(Job(ladder.compare_model, (model, case, options), title, seconds, title))
        if "lockstep" in checks:
            title = f"lockstep {model}"
            seconds = SECONDS["lockstep b0-stem64" if options.look and model == "b0" else title]
            found.append(Job(ladder.compare_lockstep, (model, options), f"{model} at 64", seconds, title))
    if "lockstep" in checks and "b0" in options.models and not options.look:
        title = "lockstep fine-tune"
        found.append(Job(ladder.compare_fine_tuning, (options,), "b0 at 64", SECONDS[title], title))
    if "optimizer" in checks:
        found.append(Job(ladder.compare_optimizers, (options,), "optimizer", SECONDS["optimizer"], "optimizer"))
    return found


def fault_jobs(names=None, folder: str | None = None, seed: int = 0) -> list[Job]:
    """The jobs of planted faults, those of whole runs excepted; what shares a reference goes together."""
    groups = {}
    for item in trials.chosen(names):
        if item.name not in RUNS:
            key = "pairs" if item.pair else "optimizer" if item.optimizer else f"{item.model} at 64"
            groups.setdefault((key, bool(item.trainer)), []).append(item.name)
    found = []
    for (key, training), chosen in groups.items():
        seconds = len(chosen) * SECONDS["fault of training" if training else "fault"]
        title = f"planted faults, {'training' if training else key}"
        found.append(Job(trials.try_mutations, (chosen, folder, seed), key, seconds, title))
    return found


def port_jobs(seeds: int, folder: str | None = None) -> list[Job]:
    """The jobs of correct ports."""
    if not seeds:
        return []
    return [Job(trials.acquit, (range(seeds), folder), "b0 at 64", seeds * SECONDS["correct port"], "correct ports")]


def sample_jobs(plan: study.Plan, faults: list[str], packages=study.PACKAGES) -> list[Job]:
    """The jobs that train runs for the statistics, of packages and of faults of `RUNS`."""
    faulty = dict(trials.faulty_runs(plan))
    chosen = [(package, plan) for package in packages]
    chosen += [(RUNS[name][0], faulty[RUNS[name][0]]) for name in faults]
    whole = plan.runs + plan.early_runs / 10
    return [
        Job(
            ladder.train_sample,
            (package, by),
            "study torch" if package.startswith("torch_ref") else "study keras",
            SECONDS["sample"] * (by.runs + by.early_runs / 10) / whole,
            f"training runs, {package}",
        )
        for package, by in chosen
    ]


def hold(
    options: Options | None,
    faults: list[str] | None = None,
    seeds: int = 0,
    processes: int = 1,
    report: Callable = lambda found: None,
    progress=None,
    folder: str | None = None,
) -> Findings:
    """Holds a hearing.

    Args:
        options: what the ladder compares; None for no ladder.
        faults: names of mutations to try.
        seeds: how many correct ports to try.
        processes: how many.
        report: is called with each `Row`, `Outcome` and `Acquittal` as it is reached.
        progress: has `start(jobs, processes)`, `begun(job)`, `done(job)` and `stop()`; see `progress.Progress`.
        folder: of photographs, for faults and ports.

    Returns:
        `Findings`. After Ctrl-C, those that there are, with the jobs that were not through.
    """
    faults, findings, samples = faults or [], Findings(), {}
    seed = options.seed if options else 0
    plan = options.plan if options else study.Plan()
    runs = [name for name in faults if name in RUNS]
    others = [name for name in faults if name not in RUNS]
    statistics = options is not None and "statistics" in options.checks
    work = ladder_jobs(options) if options else []
    if others:
        work += fault_jobs(others, folder, seed)
    work += port_jobs(seeds, folder)
    if statistics or runs:
        work += sample_jobs(plan, runs, study.PACKAGES if statistics else ("official",))
    work = in_order(work)
    if processes == 1 or len(work) == 1:  # then it is done here; workers keep what frameworks write to themselves
        import_tensorflow_quietly()
    if progress is not None:
        progress.start(work, processes)

    def tell(found):
        kind = {Row: "rows", trials.Outcome: "outcomes", trials.Acquittal: "acquittals"}[type(found)]
        getattr(findings, kind).append(found)
        report(found)

    waiting = {job.title for job in work} | ({"statistics"} if statistics or runs else set())
    try:
        for job, result in jobs.run(work, processes, progress.begun if progress else lambda job: None):
            if result is None:
                waiting.discard(job.title)
                if progress is not None:
                    progress.done(job)
            elif isinstance(result, study.Sample):
                samples[result.name] = result
            else:
                tell(result)
        if statistics:
            for row in ladder.compare_samples(samples, plan):
                tell(row)
        for name in runs:
            tell(trials.judge_runs(name, samples, plan))
        waiting.discard("statistics")
    except KeyboardInterrupt:
        titles = [*(job.title for job in work), "statistics"]
        findings.unfinished = [title for title in titles if title in waiting]
    finally:
        if progress is not None:
            progress.stop()
    findings.sort()
    return findings


def in_order(work: list[Job]) -> list[Job]:
    """A job whose first verdict comes soon, then the longest groups of one key first, so that none begins last."""
    total = {}
    for job in work:
        total[job.key] = total.get(job.key, 0) + job.seconds
    soon = [job for job in work if job.key.startswith("b0 at") and job.function is ladder.compare_model][:1]
    rest = sorted((job for job in work if job not in soon), key=lambda job: -total[job.key])
    return soon + rest
