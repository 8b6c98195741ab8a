"""The record of the long runs in docs/: whole, and told as it is."""

from pathlib import Path

from parity import curves
from parity.court import long_runs, study

FOLDER = Path(__file__).parents[2] / "docs" / "reference-runs"


def test_the_record_is_whole_and_its_comparison_is_its_own():
    plan, sets = long_runs.PLAN, [curves.read_runs(FOLDER / f"{package}.json") for package in study.PACKAGES]
    for runs in sets:
        assert runs.values["val_auc"].shape == (plan.runs, plan.epochs)
        assert runs.batches.shape == (plan.runs, plan.epochs * plan.images // plan.batch_size)
    told = "\n\n".join(str(curves.compare_runs(sets[0], other)) for other in sets[1:])
    assert (FOLDER / "comparison.txt").read_text() == told + "\n"


def test_the_table_in_the_docs_is_that_of_the_record():
    sets = [curves.read_runs(FOLDER / f"{package}.json") for package in study.PACKAGES]
    page = (FOLDER.parent / "parity.md").read_text()
    for other in sets[1:]:
        for d in curves.compare_runs(sets[0], other).differences:
            low, high = d.interval
            row = f"| {other.name} | {d.statistic} | {d.reference:.4f} | {d.candidate:.4f} | {d.difference:+.4f} "
            row += f"| {low:+.4f} to {high:+.4f} | {d.p_different:.3f} | {d.margin:.3g} | {d.verdict} |"
            assert row in page
