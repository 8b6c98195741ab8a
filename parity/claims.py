"""The paper's claims about its models (section 5), put to its own published curves."""

import warnings
from pathlib import Path

from scipy import stats

from parity.curves import compare_numbers, curves_figure, holm, permutation_test, read_runs, summaries

# Candidate, reference, statistic, sign of the claimed difference, the claim and where it stands.
CLAIMS = (
    ("split-b0", "b0", "best_auc", 1, "the split model consistently outperforms B0 in validation (5.1.4)"),
    ("split-b0", "b0", "train_auc", 1, "and in training (5.1.4)"),
    ("split-b0", "b4", "best_auc", 1, "the split model outperforms B4 (5.1.4)"),
    ("split-b0-tta3", "split-b0", "best_auc", 1, "averaging 3 passes lifts the split model (5.1.5)"),
    ("skip-b0", "b0", "train_auc", 1, "the skip model outperforms B0 in training (5.1.3)"),
    ("skip-b0", "b0", "best_auc", -1, "but not in validation (5.1.3)"),
    ("skip-b0", "b0-stem64", "best_auc", -1, "nor B0 with 64 channels (5.1.3)"),
    ("skip-b0", "stem-b0", "best_auc", 1, "the skip model improves on the stem model (5.1.3)"),
    ("stem-b0", "b0", "best_auc", -1, "the stem model falls short of B0 in validation (5.1.2.1)"),
    ("stem-b0", "b0-stem64", "best_auc", -1, "and of B0 with 64 channels in validation (5.1.2.1)"),
    ("stem-b0", "b0-stem64", "train_auc", -1, "and in training (5.1.2.1)"),
    ("stem-b4", "b4", "best_auc", -1, "the stem model on B4 falls short of B4 in validation (5.1.2.2)"),
    ("stem-b4", "b4", "train_auc", -1, "and in training (5.1.2.2)"),
)
TABLE = {  # section 5.1.6: maximum validation ROC AUC over all runs
    "b0": 0.9584,
    "b4": 0.9588,
    "stem-b0": 0.9534,
    "skip-b0": 0.9571,
    "split-b0": 0.9594,
    "split-b0-tta3": 0.9605,
}
MARGIN = 0.001  # AUC: the paper reads differences of 0.001 (0.9594 against 0.9584) as progress


def read_all(folder) -> dict:
    """The published sets of runs by model."""
    sets = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicates are told in the table
        for name in sorted({name for claim in CLAIMS for name in claim[:2]}):
            sets[name] = read_runs(Path(folder) / name, name)
    return sets


def numbers(runs, statistic):
    """One number per run."""
    found = summaries(runs)
    if statistic == "train_auc":
        return runs.values["train_auc"][:, -max(1, runs.values["train_auc"].shape[1] // 5) :].mean(1)
    return found[statistic]


def test_claims(sets: dict) -> list[dict]:
    """Every claim with its difference, tests and verdict; p-values corrected by Holm over all claims."""
    rows = []
    for candidate, reference, statistic, sign, claim in CLAIMS:
        epochs = min(runs.values["val_auc"].shape[1] for runs in (sets[candidate], sets[reference]))
        first, second = sets[reference].cut(epochs), sets[candidate].cut(epochs)
        found = compare_numbers(statistic, numbers(first, statistic), numbers(second, statistic), MARGIN)
        measure = "train_auc" if statistic == "train_auc" else "val_auc"
        curve = permutation_test(first.values[measure], second.values[measure])
        # With 5 runs of each, the permutation test can not fall below 2/252, which no correction over 13 claims leaves
        # below 0.05, whatever the curves show. So Welch's test decides, and the permutation test stands beside it.
        welch = stats.ttest_ind(numbers(second, statistic), numbers(first, statistic), equal_var=False).pvalue
        rows.append(vars(found) | {"claim": claim, "sign": sign, "candidate": candidate, "reference": reference})
        rows[-1] |= {"runs": (len(second), len(first)), "epochs": epochs, "p_curve": curve, "p_welch": float(welch)}
    differ, equal = (holm([row[name] for row in rows]) for name in ("p_welch", "p_equivalent"))
    for row, p, q in zip(rows, differ, equal, strict=True):
        row["p_holm"], row["p_equivalent_holm"] = float(p), float(q)
        if p < 0.05:
            row["verdict"] = "holds" if row["difference"] * row["sign"] > 0 else "the opposite is found"
        elif q < 0.05:
            row["verdict"] = f"equal within {MARGIN}"
        else:
            row["verdict"] = "not shown"
    return rows


def document(folder, figures) -> str:
    """The claims as a page of Markdown; figures are written into a folder beside it."""
    sets = read_all(folder)
    lines = [
        "# The paper's claims, put to its own curves",
        "",
        "Made by",
        "",
        "    python -m parity claims PUBLISHED_CURVES --out docs/paper-claims.md",
        "",
        "from the per-epoch curves that the paper published, one file a run. That the project's models equal the",
        "official ones (5.1.1) can not be tested here: the official curves were not published.",
        "",
        "## The runs",
        "",
        "A leading row of zeros is a placeholder and was dropped from every file. Some files are copies of others and",
        "count once; runs of one model are cut to the length of the shortest.",
        "",
        "| model | files | different runs | epochs | best validation AUC, mean | over all runs | the paper's table |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    whole_maximum = {}
    for name, runs in sets.items():
        files = len(list((Path(folder) / name).glob("*.csv")))
        best = summaries(runs)["best_auc"]
        whole_maximum[name] = _maximum(Path(folder) / name)
        told = f"{TABLE[name]:.4f}" if name in TABLE else "-"
        lines.append(
            f"| `{name}` | {files} | {len(runs)} | {runs.values['val_auc'].shape[1]} | {best.mean():.4f} "
            f"| {whole_maximum[name]:.4f} | {told} |"
        )
    differ = {n: v for n, v in TABLE.items() if round(whole_maximum[n], 4) != v}
    lines += ["", _told_table(differ, whole_maximum), "", "## The claims", ""]
    lines += [
        "`best_auc` is the best validation AUC of a run, `train_auc` its training AUC, mean of the last fifth of the",
        "epochs. Intervals are bootstrap intervals of the difference of the means (95%). *p* is of Welch's test,",
        f"corrected by Holm over all {len(CLAIMS)} claims; *p perm.* of the exact permutation test of the same means",
        "and *p curve* of that of the whole curve, neither corrected (5 runs against 5 can not get below 0.008);",
        f"*p equal* of two one-sided tests that the means lie within {MARGIN}, corrected. A claim *holds*",
        "if p < 0.05 in its direction. *Not shown* means just that: these runs do not decide it.",
        "",
        "| claim | runs | difference | interval | p | p perm. | p curve | p equal | verdict |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    rows = test_claims(sets)
    for row in rows:
        lines.append(
            f"| {row['claim']}: `{row['candidate']}` against `{row['reference']}`, {row['statistic']} "
            f"| {row['runs'][0]}, {row['runs'][1]} | {row['difference']:+.4f} "
            f"| {row['interval'][0]:+.4f} to {row['interval'][1]:+.4f} | {row['p_holm']:.3f} "
            f"| {row['p_different']:.3f} | {row['p_curve']:.3f} | {row['p_equivalent_holm']:.3f} | {row['verdict']} |"
        )
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in {row["verdict"] for row in rows}}
    told = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))
    lines += [
        "",
        f"Of {len(rows)} claims: {told}.",
        "",
    ]
    for title, names in (
        ("b0, b4 and split-b0", ("b0", "b4", "split-b0")),
        ("one pass and three", ("split-b0", "split-b0-tta3")),
        ("stem and skip against b0", ("b0", "stem-b0", "skip-b0")),
    ):
        path = Path(figures) / f"claims-{names[-1]}.png"
        curves_figure([sets[name] for name in names], path, start=20)
        lines += [f"![{title}, from epoch 21]({path.parent.name}/{path.name})", ""]
    return "\n".join(lines)


def _maximum(folder) -> float:
    """The maximum over whole runs, however long, as the paper's table has it."""
    from parity.curves import _read_curve

    return max(_read_curve(path)["val_auc"].max() for path in folder.glob("*.csv"))


def _told_table(differ, maxima) -> str:
    if not differ:
        return "The paper's table of maxima (5.1.6) is reproduced to its last digit."
    told = "; ".join(f"`{n}`: {v:.4f} in the table, {maxima[n]:.4f} in the curves" for n, v in differ.items())
    return f"The paper's table of maxima (5.1.6) is reproduced to its last digit but for {told}."
