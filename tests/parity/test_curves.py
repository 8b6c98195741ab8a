"""Curve statistics against scipy, simulation and hand counts; and what they must never say."""

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from parity.__main__ import main
from parity.curves import compare_runs, read_runs, summaries
from parity.statistics import compare_numbers, equivalence_test, holm, permutation_test


def write_runs(folder, curves, losses=None):
    """Runs as `fit` writes them, from (runs, epochs) validation AUC."""
    for number, curve in enumerate(curves):
        run = folder / f"run-{number}"
        run.mkdir(parents=True)
        rows = [f"{epoch},{0.7 - 0.1 * auc},0.6,{auc},{auc},0.001,1.0" for epoch, auc in enumerate(curve)]
        (run / "curves.csv").write_text(
            "epoch,train_loss,val_loss,train_auc,val_auc,learning_rate,seconds\n" + "\n".join(rows) + "\n"
        )
        if losses is not None:
            rows = [f"0,{batch},{loss}" for batch, loss in enumerate(losses[number])]
            (run / "batches.csv").write_text("epoch,batch,loss\n" + "\n".join(rows) + "\n")
    return folder


def test_permutation_p_is_scipys(rng):
    a, b = rng.normal(size=(4, 1)), rng.normal(0.8, size=(5, 1))
    expected = stats.permutation_test(
        (a[:, 0], b[:, 0]), lambda x, y: (x.mean() - y.mean()) ** 2, alternative="greater", n_resamples=np.inf
    ).pvalue
    assert permutation_test(a, b) == pytest.approx(expected)


def test_permutation_of_whole_curves_counted_by_hand():
    a, b = np.zeros((2, 3)), np.ones((2, 3))
    assert permutation_test(a, b) == pytest.approx(2 / 6)  # of 6 ways to share out, this one and its mirror image
    assert permutation_test(a, a) == 1


def test_permutation_p_is_uniform_where_nothing_differs(rng):
    p = [permutation_test(rng.normal(size=(5, 4)), rng.normal(size=(5, 4))) for _ in range(300)]
    assert abs(np.mean(np.array(p) <= 0.05) - 0.05) < 0.04
    sampled = permutation_test(rng.normal(size=(15, 4)), rng.normal(size=(15, 4)))  # too many ways: drawn
    assert 0 < sampled <= 1


def test_permutation_with_ties_counts_exactly(rng):
    """AUCs near 1 are multiples of one over the number of pairs: many ways to share the runs out give equal means."""
    for _ in range(20):
        first, second = (1 - rng.integers(0, 12, 5) / 6400 for _ in range(2))
        pooled = [round((1 - value) * 6400) for value in (*first, *second)]
        sums = [abs(2 * sum(pooled[i] for i in chosen) - sum(pooled)) for chosen in combinations(range(10), 5)]
        exact = np.mean(np.array(sums) >= sums[0])  # in whole numbers
        assert permutation_test(first[:, None], second[:, None]) == pytest.approx(exact, abs=1e-12)


def test_sets_of_unequal_lengths_are_compared_over_the_same_batches(tmp_path, rng):
    """One process, ten epochs and twenty: the mean loss of all batches would differ, for it falls."""
    folders = []
    for name, epochs in (("short", 10), ("long", 20)):
        folders.append(tmp_path / name)
        for run in range(8):
            folder = folders[-1] / f"run-{run}"
            folder.mkdir(parents=True)
            losses = np.exp(-np.arange(epochs) / 5)[:, None] + rng.normal(0, 0.01, (epochs, 4))
            rows = [f"{e},{losses[e].mean()},0.5,0.8,{0.8 + rng.normal(0, 0.001)},0.001,1" for e in range(epochs)]
            header = "epoch,train_loss,val_loss,train_auc,val_auc,learning_rate,seconds"
            (folder / "curves.csv").write_text("\n".join([header, *rows]) + "\n")
            batches = [f"{e},{b},{losses[e, b]}" for e in range(epochs) for b in range(4)]
            (folder / "batches.csv").write_text("\n".join(["epoch,batch,loss", *batches]) + "\n")
    report = compare_runs(*map(read_runs, folders))
    (loss,) = (d for d in report.differences if d.statistic == "batch_loss")
    assert loss.verdict == "equivalent"
    assert "cut from 20 to 10 epochs" in str(report)
    band = report.to_dict()["bands"]["long"]["train_loss"]
    np.testing.assert_allclose(band["mean"], report.candidate.values["train_loss"].mean(0))
    assert (np.array(band["min"]) < band["max"]).all()


def test_equivalence_is_two_welch_tests(rng):
    a, b = rng.normal(0, 1, 8), rng.normal(0.1, 2, 6)
    lower = stats.ttest_ind(b + 1.5, a, equal_var=False, alternative="greater").pvalue
    upper = stats.ttest_ind(b - 1.5, a, equal_var=False, alternative="less").pvalue
    assert equivalence_test(a, b, 1.5) == pytest.approx(max(lower, upper))
    assert equivalence_test(np.ones(3), np.ones(3), 0.1) == 0
    assert equivalence_test(np.ones(3), np.ones(3) + 0.2, 0.1) == 1


def test_equivalence_errs_in_five_percent_at_the_margin(rng):
    """At a true difference of just the margin, equivalence is claimed in 5% of cases, not more."""
    wrong = np.mean([equivalence_test(rng.normal(0, 1, 10), rng.normal(1, 1, 10), 1.0) < 0.05 for _ in range(2000)])
    assert abs(wrong - 0.05) < 0.02


def test_too_few_noisy_runs_are_undecided_and_never_equal():
    found = compare_numbers("best_auc", [0.7, 0.9], [0.9, 0.7], margin=0.02)
    assert found.difference == pytest.approx(0)
    assert found.p_different == 1
    assert found.verdict == "undecided"


def test_different_equivalent_and_both(rng):
    base = rng.normal(0.8, 0.001, 8)
    assert compare_numbers("auc", base, base + 0.1, 0.02).verdict == "different"
    both = compare_numbers("auc", base, base + 0.005, 0.02)  # found, but within the margin
    assert both.p_different < 0.05
    assert both.verdict == "equivalent"
    low, high = both.interval
    assert low < 0.005 < high


def test_holm():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]).tolist() == [1, 1]


def test_reading_drops_duplicates_and_placeholders_and_cuts(tmp_path):
    curves = [[0, 0.6, 0.7, 0.8], [0, 0.5, 0.6, 0.7], [0, 0.6, 0.7, 0.8], [0, 0.6, 0.65]]
    for number, curve in enumerate(curves):
        rows = [f"{n},{n - 1},{0.7 if n else 0},{0.6 if n else 0},{auc},{auc}" for n, auc in enumerate(curve)]
        (tmp_path / f"p{number}.csv").write_text("Epoch,Train Loss,Val Loss,Train RoC,Val RoC\n" + "\n".join(rows))
    with pytest.warns(UserWarning, match="p2.csv holds the same numbers as p0; it counts once"):
        runs = read_runs(tmp_path)
    assert runs.names == ["p0", "p1", "p3"]
    assert runs.values["val_auc"].tolist() == [[0.6, 0.7], [0.5, 0.6], [0.6, 0.65]]
    assert any("p2 is a copy of p0" in note for note in runs.notes)
    assert any("runs of 2, 3 epochs, cut to 2" in note for note in runs.notes)
    assert sum("placeholder" in note for note in runs.notes) == 4
    assert summaries(runs)["best_auc"].tolist() == [0.7, 0.6, 0.65]


def test_the_command(tmp_path, capsys, rng):
    curves = np.linspace(0.5, 0.9, 10) + rng.normal(0, 0.002, (6, 10))
    losses = rng.normal(0.5, 0.01, (6, 40))
    a = write_runs(tmp_path / "a", curves, losses)
    b = write_runs(tmp_path / "b", curves[::-1] + 1e-4, losses[::-1])
    c = write_runs(tmp_path / "c", curves - 0.2, losses + 0.5)
    out = str(tmp_path / "out")
    assert main(["curves", str(a), str(b), "--out", out]) == 0
    assert main(["curves", str(a), str(b), str(c), "--out", out]) == 1
    text = capsys.readouterr().out
    assert text.count("equivalent") >= 10
    assert "early_loss" in text
    assert "different" in text
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000


def test_an_epoch_without_a_training_auc_is_no_hindrance(tmp_path, rng):
    curves = np.linspace(0.5, 0.9, 10) + rng.normal(0, 0.002, (6, 10))
    sets = []
    for name in "ab":
        folder = write_runs(tmp_path / name, curves if name == "a" else curves[::-1], rng.normal(0.5, 0.01, (6, 40)))
        for path in folder.rglob("*.csv"):
            lines = path.read_text().splitlines()
            if "train_auc" in lines[0]:
                cells = lines[3].split(",")
                cells[lines[0].split(",").index("train_auc")] = "nan"
                path.write_text("\n".join([*lines[:3], ",".join(cells), *lines[4:]]))
        sets.append(read_runs(folder))
    assert np.isnan(sets[0].values["train_auc"]).any()
    assert np.isfinite(compare_runs(*sets).p_curve)
    with pytest.raises(ValueError, match="a: train_auc is no number in some epoch"):
        compare_runs(*sets, measure="train_auc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "has no column epoch, train_loss"),
        ("epoch,train_loss,val_loss,train_auc,val_auc\n", "has no rows"),
        ("epoch,train_loss,val_loss,train_auc,val_auc\n0,1,1,1,nan\n", "row 2: val_auc is no number"),
        ("epoch,train_loss,val_loss,train_auc,val_auc\n0,1,1,x,1\n", "could not convert"),
    ],
)
def test_bad_files(tmp_path, capsys, content, message):
    (tmp_path / "x.csv").write_text(content)
    assert main(["curves", str(tmp_path), str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="No curves below"):
        read_runs(tmp_path)
    with pytest.raises(ValueError, match="two runs of each at least. Received: 1 and 2"):
        compare_numbers("x", [1], [1, 2], 0.1)
    with pytest.raises(ValueError, match="margin must be positive"):
        compare_numbers("x", [1, 2], [1, 2], 0)
    runs = read_runs(write_runs(tmp_path / "a", [[0.5, 0.6], [0.6, 0.7]]))
    with pytest.raises(ValueError, match="measure must be one of"):
        compare_runs(runs, runs, measure="loss")


def test_the_published_curves():
    """The table of section 5.1.6 and the copies among the files, where the curves are at hand."""
    sample = os.environ.get("ISIC_SAMPLE")
    folder = Path(sample).parent / "paper" / "published_curves" if sample else None
    if folder is None or not folder.is_dir():
        pytest.skip("needs the published curves beside the folder that ISIC_SAMPLE names")
    from parity.court import claims

    sets = claims.read_all(folder)
    assert {name: len(runs) for name, runs in sets.items()} == {
        "b0": 14,
        "b0-stem64": 5,
        "b4": 5,
        "skip-b0": 2,
        "split-b0": 6,
        "split-b0-tta3": 3,
        "stem-b0": 5,
        "stem-b4": 5,
    }
    for name, maximum in claims.TABLE.items():
        reproduced = round(claims._maximum(folder / name), 4) == maximum
        assert reproduced == (name not in ("stem-b0", "skip-b0"))
    verdicts = {row["claim"]: row["verdict"] for row in claims.test_claims(sets)}
    assert verdicts["the split model consistently outperforms B0 in validation (5.1.4)"] == "holds"
    lengths = claims.by_length(folder, "stem-b0")
    assert {epochs: len(runs) for epochs, runs in lengths.items()} == {50: 3, 60: 2}
    assert round(lengths[60].values["val_auc"].max(), 4) == claims.TABLE["stem-b0"]
    assert not claims.by_length(folder, "b0")
    assert verdicts["averaging 3 passes lifts the split model (5.1.5)"] == "not shown"
