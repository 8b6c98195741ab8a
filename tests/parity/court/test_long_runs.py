"""Long runs: tables by hand, nothing trained twice, and records that `curves` reads as it reads folders."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from parity import curves
from parity.__main__ import main
from parity.court import long_runs, study
from parity.court.study import Plan

TINY = Plan(
    size=8, runs=3, early_runs=0, epochs=2, batch_size=8, images=24, sets=2, validation=20, looks=(), momentum=None
)


class Trainer:
    """Sees the colour, and knows how often it was asked."""

    begun: ClassVar[list] = []

    def __init__(self, package):
        self.package = package

    def begin(self, seed):
        self.begun.append((self.package, seed))
        self.rng = np.random.default_rng(seed)

    def order(self, seed, epoch, count):
        return np.random.default_rng((seed, epoch)).permutation(count).reshape(-1, TINY.batch_size)

    def step(self, pixels, targets, epoch):
        return 0.5 + 0.01 * self.rng.random(), self.scores(pixels)

    def scores(self, pixels):
        return np.float32(pixels.mean((1, 2)) @ study.BLUER / 40 + self.rng.normal(0, 0.1, len(pixels)))


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(Trainer, "begun", [])
    monkeypatch.setattr(study, "make_trainer", lambda package, plan: Trainer(package))
    return Trainer


def test_tables_of_a_run_by_hand(fakes):
    from sklearn.metrics import roc_auc_score

    task = study.make_task(TINY)
    rows, losses = long_runs.train_run(Trainer("x"), task, TINY, seed=3)
    assert [(epoch, batch) for epoch, batch, _ in losses] == [(e, b) for e in range(2) for b in range(3)]
    again = Trainer("x")
    again.begin(3)
    held, targets = task[1]
    for epoch, row in enumerate(rows):
        found = [again.step(task[0][0][i], None, epoch) for i in study.epoch_batches(again, TINY, 3, epoch)]
        seen = np.concatenate([task[0][1][i] for i in study.epoch_batches(again, TINY, 3, epoch)])
        scores = np.float64(again.scores(held))
        assert row[0] == epoch
        assert row[1] == pytest.approx(np.mean([loss for loss, _ in found]))
        assert row[2] == pytest.approx(np.mean(np.log1p(np.exp(np.where(targets == 1, -scores, scores)))))
        assert row[3] == roc_auc_score(seen, np.concatenate([logits for _, logits in found]))
        assert row[4] == roc_auc_score(targets, scores)


def test_what_is_there_is_not_trained_again(fakes, tmp_path):
    sets = long_runs.train(tmp_path, TINY, processes=1)
    assert [(runs.name, len(runs), runs.epochs) for runs in sets] == [(package, 3, 2) for package in study.PACKAGES]
    assert len(fakes.begun) == len(set(fakes.begun)) == 9
    lost = tmp_path / "torch_ref" / "run-01"
    before = (lost / "curves.csv").read_bytes()
    (lost.parent / ".run-01").mkdir()  # half of a run, of a process that was killed
    (lost.parent / ".run-01" / "curves.csv").write_text("half")
    for path in lost.iterdir():
        path.unlink()
    lost.rmdir()
    fakes.begun.clear()
    long_runs.train(tmp_path, TINY, processes=1)
    assert fakes.begun == [("torch_ref", study.SEEDS["torch_ref"] + 1)]
    assert (lost / "curves.csv").read_bytes() == before
    assert not (lost.parent / ".run-01").exists()


def test_another_plan_is_refused(fakes, tmp_path):
    long_runs.train(tmp_path, TINY, processes=1)
    with pytest.raises(ValueError, match=r"another plan; choose another --out.*'epochs': \(2, 3\)"):
        long_runs.train(tmp_path, dataclasses.replace(TINY, epochs=3), processes=1)


def test_records_say_what_folders_say(fakes, tmp_path, capsys):
    sets = long_runs.train(tmp_path / "runs", TINY, processes=1)
    reports = long_runs.write(sets, tmp_path / "record", TINY)
    assert [report.candidate.name for report in reports] == ["keras_stoch", "torch_ref"]
    assert (tmp_path / "record" / "curves.png").stat().st_size > 5000
    told = (tmp_path / "record" / "comparison.txt").read_text()
    for runs in sets:
        read = curves.read_runs(tmp_path / "record" / f"{runs.name}.json")
        assert (read.name, read.names, read.notes) == (runs.name, runs.names, runs.notes)
        np.testing.assert_array_equal(read.batches, runs.batches)
        for measure in curves.MEASURES:
            np.testing.assert_array_equal(read.values[measure], runs.values[measure])
    record, folder = tmp_path / "record" / "official.json", tmp_path / "runs" / "keras_stoch"
    main(["curves", str(record), str(folder), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[1:9] == told.splitlines()[1:9]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "no record of runs as parity writes it"),
        ("{", "no record of runs as parity writes it"),
        ('{"name": "a", "values": {}}', "KeyError"),
        (
            '{"name": "a", "runs": ["0"], "notes": [], "batches": null, "values": {"train_loss": [[1.0]], '
            '"val_loss": [[1.0]], "train_auc": [[1.0]], "val_auc": [[1.0, 2.0]]}}',
            r"shapes \[\(1, 1\), \(1, 2\)\]",
        ),
    ],
)
def test_a_damaged_record_is_refused(text, says, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        curves.read_runs(tmp_path / "a.json")


def test_every_job_counts_in_the_line_of_progress(tmp_path):
    """By its title, which two halves of a package's runs had in common once."""
    titles = [job.title for package in study.PACKAGES for job in long_runs._jobs(package, tmp_path, TINY)]
    assert len(set(titles)) == len(titles) == 2 * len(study.PACKAGES)
