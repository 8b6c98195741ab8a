"""Long training runs of each package on one task, resumable, as records that other runs can be compared with.

The statistics rung trains for 48 steps, which is as long as it can wait. These runs take a night of two cores and end
where nothing is learnt any more. Each package's runs become one JSON file that `python -m parity curves` reads.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from parity import curves
from parity.court import jobs, study
from parity.court.jobs import Job

PLAN = study.Plan(
    size=64,
    runs=20,
    early_runs=0,
    epochs=12,
    hold_epochs=4,
    decay=0.7,
    batch_size=8,
    images=400,
    sets=12,
    validation=400,
    looks=(),
    momentum=None,
)  # 600 steps
SECONDS = {"keras": 90, "torch": 110}  # of one run on one core, about
FIELDS = ("epoch", *curves.MEASURES)


def train(out, plan: study.Plan = PLAN, processes: int = 2, progress=None) -> list[curves.Runs]:
    """Trains what is not there yet, and writes the records.

    Args:
        out: folder; each run has one of its own below, `official/run-00`, that is there when the run is through.
        plan: what is trained; a folder of another plan is refused.
        processes: how many.
        progress: as in `session.hold`.

    Returns:
        The runs of each package, those of the official model first.

    Raises:
        ValueError: if `out` holds runs of another plan.
    """
    out = Path(out)
    _same_plan(out, plan)
    work = [job for package in study.PACKAGES for job in _jobs(package, out, plan)]
    if progress is not None:
        progress.start(work, processes)
    try:
        for job, result in jobs.run(work, processes, progress.begun if progress else lambda job: None):
            if result is None and progress is not None:
                progress.done(job)
    finally:
        if progress is not None:
            progress.stop()
    return [curves.read_runs(out / package) for package in study.PACKAGES]


def _same_plan(out: Path, plan: study.Plan) -> None:
    stated = json.loads(json.dumps(asdict(plan)))
    path = out / "plan.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found != stated:
            other = {k: (found.get(k), v) for k, v in stated.items() if found.get(k) != v}
            raise ValueError(
                f"{out} holds runs of another plan; choose another --out. Different (there, here): {other}"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stated, indent=1) + "\n")


def _jobs(package: str, out: Path, plan: study.Plan) -> list[Job]:
    """Two halves of a package's runs, so that three packages keep two cores busy."""
    left = [run for run in range(plan.runs) if not _folder(out, package, run).exists()]
    kind = "torch" if package.startswith("torch_ref") else "keras"
    return [
        Job(
            train_some,
            (package, half, str(out), plan),
            "",
            SECONDS[kind] * len(half),
            f"{package}, {len(half)} runs from run {half[0]} on",
        )
        for half in (left[::2], left[1::2])
        if half
    ]


def _folder(out, package: str, run: int) -> Path:
    return Path(out) / package / f"run-{run:02d}"


def train_some(package: str, runs: list[int], out: str, plan: study.Plan) -> Iterator[int]:
    """Trains runs of one package by number, as a job; yields the number of each that is through."""
    task, trainer = study.make_task(plan), study.make_trainer(package, plan)
    for run in runs:
        rows, losses = train_run(trainer, task, plan, study.SEEDS[package] + plan.seed + run)
        _write_run(_folder(out, package, run), rows, losses)
        yield run


def train_run(trainer, task, plan: study.Plan, seed: int) -> tuple[list[list[float]], list[list[float]]]:
    """(a row of `FIELDS` for every epoch, (epoch, batch, loss) for every batch) of one run."""
    from sklearn.metrics import log_loss, roc_auc_score

    (pixels, targets), (held, held_targets) = task
    trainer.begin(seed)
    rows, losses = [], []
    for epoch in range(plan.epochs):
        seen, logits, of_epoch = [], [], []
        for batch, indices in enumerate(study.epoch_batches(trainer, plan, seed, epoch)):
            loss, scores = trainer.step(pixels[indices], np.float32(targets[indices]), epoch)
            of_epoch.append([epoch, batch, loss])
            seen.append(targets[indices])
            logits.append(scores)
        scores = np.float64(trainer.scores(held))
        rows.append(
            [
                epoch,
                float(np.mean([loss for *_, loss in of_epoch])),
                float(log_loss(held_targets, 1 / (1 + np.exp(-scores)))),
                float(roc_auc_score(np.concatenate(seen), np.concatenate(logits))),
                float(roc_auc_score(held_targets, scores)),
            ]
        )
        losses += of_epoch
    return rows, losses


def _write_run(folder: Path, rows, losses) -> None:
    """A run's tables as `fit` writes them, there as a whole or not at all."""
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, header, table in (("curves", FIELDS, rows), ("batches", ("epoch", "batch", "loss"), losses)):
        lines = [",".join(header), *(",".join(map(repr, row)) for row in table)]
        (draft / f"{name}.csv").write_text("\n".join(lines) + "\n")
    os.rename(draft, folder)


def write(sets: list[curves.Runs], folder, plan: study.Plan = PLAN) -> list[curves.CurveReport]:
    """Writes a record per package, a figure, and the comparison of each with the first as JSON and as text."""
    folder = Path(folder)
    about = {"task": "parity.court.study.make_task", "plan": asdict(plan)}
    for runs in sets:
        curves.save_runs(runs, folder / f"{runs.name}.json", about)
    curves.curves_figure(sets, folder / "curves.png", ("val_auc", "train_loss"))
    reports = [curves.compare_runs(sets[0], other) for other in sets[1:]]
    (folder / "comparison.txt").write_text("\n\n".join(map(str, reports)) + "\n")
    return reports
