"""The paper's claims about its models (section 5), put to its own published curves."""

import warnings
from pathlib import Path

from scipy import stats

from parity.curves import curves_figure, read_curve, read_runs, summaries
from parity.statistics import compare_numbers, holm, permutation_test

# What a claim says of candidate minus reference, and the test that decides it.
ABOVE, BELOW, NOT_ABOVE, EQUAL = "above", "below", "not above", "equal"
# Candidate, reference, statistic, what is claimed, and the claim and where it stands.
CLAIMS = (
    ("split-b0", "b0", "best_auc", ABOVE, "the split model consistently outperforms B0 in validation (5.1.4)"),
    ("split-b0", "b0", "train_auc", ABOVE, "and in training (5.1.4)"),
    ("split-b0", "b4", "best_auc", ABOVE, "the split model outperforms B4 (5.1.4)"),
    ("split-b0-tta3", "split-b0", "best_auc", ABOVE, "averaging 3 passes lifts the split model (5.1.5)"),
    ("skip-b0", "b0", "train_auc", ABOVE, "the skip model outperforms B0 in training (5.1.3)"),
    ("skip-b0", "b0", "best_auc", NOT_ABOVE, "but fails to outperform it in validation (5.1.3)"),
    ("skip-b0", "b0-stem64", "best_auc", NOT_ABOVE, "the same of B0 with 64 channels (5.1.3, figure)"),
    ("skip-b0", "stem-b0", "best_auc", ABOVE, "the skip model improves on the stem model (5.1.3)"),
    ("stem-b0", "b0", "late_auc", EQUAL, "the stem model equals B0 in training from epoch 30 on (5.1.2.1)"),
    ("stem-b0", "b0", "best_auc", BELOW, "and falls short of it in validation (5.1.2.1)"),
    ("stem-b0", "b0-stem64", "best_auc", BELOW, "and of B0 with 64 channels in validation (5.1.2.1)"),
    ("stem-b0", "b0-stem64", "train_auc", BELOW, "and in training (5.1.2.1)"),
    ("stem-b4", "b4", "best_auc", BELOW, "the stem model on B4 falls short of B4 in validation (5.1.2.2)"),
    ("stem-b4", "b4", "train_auc", BELOW, "and in training (5.1.2.2)"),
)
LATE = 30  # epochs after which "late_auc", the mean training AUC, begins
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
    return {name: _quietly(folder, name) for name in sorted({name for claim in CLAIMS for name in claim[:2]})}


def by_length(folder, name) -> dict:
    """Number of epochs -> the runs of that length alone, for a model whose runs have several; else empty."""
    lengths = {len(read_curve(path)["val_auc"]) - 1 for path in (Path(folder) / name).glob("*.csv")}
    return {n: _quietly(folder, name, n) for n in sorted(lengths)} if len(lengths) > 1 else {}


def _quietly(folder, name, only=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicates are told in the table
        return read_runs(Path(folder) / name, name, only)


def numbers(runs, statistic):
    """One number per run."""
    if statistic == "late_auc":
        return runs.values["train_auc"][:, LATE:].mean(1)
    if statistic == "train_auc":
        return runs.values["train_auc"][:, -max(1, runs.epochs // 5) :].mean(1)
    return summaries(runs)[statistic]


def test_claims(sets: dict) -> list[dict]:
    """Every claim with its difference, tests and verdict; deciding p-values are corrected by Holm over all claims."""
    rows = []
    for candidate, reference, statistic, claimed, claim in CLAIMS:
        row = test_claim(sets[reference], sets[candidate], statistic, claimed)
        rows.append(row | {"claim": claim, "candidate": candidate, "reference": reference})
    decided, equal = (holm([row[name] for row in rows]) for name in ("p", "p_equivalent"))
    for row, p, q in zip(rows, decided, equal, strict=True):
        row["p_holm"] = float(p)
        if p < 0.05:
            wrong = {ABOVE: row["difference"] < 0, BELOW: row["difference"] > 0}.get(row["claimed"], False)
            row["verdict"] = "the opposite is found" if wrong else "holds"
        else:
            row["verdict"] = f"equal within {MARGIN}" if q < 0.05 else "not shown"
    return rows


def test_claim(reference, candidate, statistic, claimed) -> dict:
    """The numbers of one claim; "p" is of the test that decides it, uncorrected."""
    epochs = min(reference.epochs, candidate.epochs)
    reference, candidate = reference.cut(epochs), candidate.cut(epochs)
    first, second = numbers(reference, statistic), numbers(candidate, statistic)
    found = vars(compare_numbers(statistic, first, second, MARGIN))
    found |= {"candidate_mean": found.pop("candidate"), "reference_mean": found.pop("reference")}
    measure = "val_auc" if statistic == "best_auc" else "train_auc"
    curve = permutation_test(reference.values[measure], candidate.values[measure])
    # With 5 runs of each, the permutation test can not fall below 2/252, which no correction over the claims leaves
    # below 0.05, whatever the curves show. So Welch's test decides, and the permutation test stands beside it.
    p = {
        NOT_ABOVE: stats.ttest_ind(second - MARGIN, first, equal_var=False, alternative="less").pvalue,
        EQUAL: found["p_equivalent"],
    }.get(claimed, stats.ttest_ind(second, first, equal_var=False).pvalue)
    more = {"runs": (len(candidate), len(reference)), "epochs": epochs, "p_curve": curve, "claimed": claimed}
    return found | more | {"p": float(p)}


def document(folder, figures) -> str:
    """The claims as a page of Markdown; figures are written into a folder beside it."""
    sets = read_all(folder)
    lengths = {name: by_length(folder, name) for name in sets}
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
        "count once; runs of one model are cut to the length of the shortest, and where lengths differ each stands by",
        "itself below.",
        "",
        "| model | files | different runs | epochs | best validation AUC, mean | over all runs | the paper's table |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    maxima = {}
    for name, runs in sets.items():
        maxima[name] = _maximum(Path(folder) / name)
        lines.append(_runs_row(f"`{name}`", _files(folder, name), runs, maxima[name], TABLE.get(name)))
        for epochs, part in lengths[name].items():
            files, best = _files(folder, name, epochs), part.values["val_auc"].max()
            lines.append(_runs_row(f"`{name}`, {epochs} epochs", files, part, best, None))
    differ = {n: v for n, v in TABLE.items() if round(maxima[n], 4) != v}
    lines += ["", _told_table(differ, maxima, lengths), "", "## The claims", ""]
    lines += [
        "`best_auc` is the best validation AUC of a run, `train_auc` its training AUC, mean of the last fifth of the",
        f"epochs, `late_auc` the mean of all from epoch {LATE + 1} on. Intervals are bootstrap intervals of the",
        "difference of the means (95%). *p* is of the test that decides, corrected by Holm over all claims: Welch's",
        f"test for *above* and *below*; for *not above* a one-sided one that the difference is less than {MARGIN}; for",
        f"*equal* two one-sided ones that it lies within {MARGIN}. *p perm.* is of the exact permutation test of the",
        "same means and *p curve* of that of the whole curve, neither corrected (5 runs against 5 can not get below",
        "0.008). A claim *holds* if p < 0.05 in its direction. *Not shown* means just that: they do not decide it.",
        "",
        "| claim | statistic | runs | epochs | means | difference | interval | claimed "
        "| p | p perm. | p curve | verdict |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---|",
    ]
    rows = test_claims(sets)
    for row in rows:
        lines.append(
            f"| {row['claim']}: `{row['candidate']}` against `{row['reference']}` | {row['statistic']} "
            f"| {row['runs'][0]}, {row['runs'][1]} | {row['epochs']} | {row['candidate_mean']:.4f}, "
            f"{row['reference_mean']:.4f} | {row['difference']:+.4f} "
            f"| {row['interval'][0]:+.4f} to {row['interval'][1]:+.4f} | {row['claimed']} | {row['p_holm']:.3f} "
            f"| {row['p_different']:.3f} | {row['p_curve']:.3f} | {row['verdict']} |"
        )
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in {row["verdict"] for row in rows}}
    told = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))
    lines += ["", f"Of {len(rows)} claims: {told}.", ""]
    lines += _lengths_section(sets, lengths)
    for title, names in (
        ("b0, b4 and split-b0", ("b0", "b4", "split-b0")),
        ("one pass and three", ("split-b0", "split-b0-tta3")),
        ("stem and skip against b0", ("b0", "stem-b0", "skip-b0")),
    ):
        path = Path(figures) / f"claims-{names[-1]}.png"
        curves_figure([sets[name] for name in names], path, start=20)
        lines += [f"![{title}, from epoch 21]({path.parent.name}/{path.name})", ""]
    return "\n".join(lines)


def _files(folder, name, epochs=None) -> int:
    paths = list((Path(folder) / name).glob("*.csv"))
    return len([p for p in paths if epochs is None or len(read_curve(p)["val_auc"]) - 1 == epochs])


def _runs_row(title, files, runs, best, told) -> str:
    mean = summaries(runs)["best_auc"].mean()
    return (
        f"| {title} | {files} | {len(runs)} | {runs.epochs} | {mean:.4f} | {best:.4f} "
        f"| {'-' if told is None else f'{told:.4f}'} |"
    )


def _lengths_section(sets, lengths) -> list[str]:
    """The claims about a model whose runs have several lengths, by the runs of each length alone."""
    rows = []
    for candidate, reference, statistic, claimed, claim in CLAIMS:
        for name in (candidate, reference):
            for epochs, part in lengths[name].items():
                one = sets | {name: part}
                row = test_claim(one[reference], one[candidate], statistic, claimed)
                rows.append(
                    f"| {claim}: `{candidate}` against `{reference}` | {name}, {epochs} | {row['runs'][0]}, "
                    f"{row['runs'][1]} | {row['difference']:+.4f} | {row['p']:.1e} |"
                )
    if not rows:
        return []
    return [
        "## One length at a time",
        "",
        "Runs of one model that stop at different epochs may come from different settings. The claims that involve",
        "them, by the runs of one length alone; *p* is of the same test, not corrected. Of two runs, little is known.",
        "",
        "| claim | runs of | runs | difference | p |",
        "|---|---|---:|---:|---:|",
        *rows,
        "",
    ]


def _maximum(folder) -> float:
    """The maximum over whole runs, however long, as the paper's table has it."""
    return max(read_curve(path)["val_auc"].max() for path in folder.glob("*.csv"))


def _told_table(differ, maxima, lengths) -> str:
    if not differ:
        return "The paper's table of maxima (5.1.6) is reproduced to its last digit."
    told = []
    for name, value in differ.items():
        text = f"`{name}`: {value:.4f} in the table, {maxima[name]:.4f} in the curves"
        for epochs, runs in lengths[name].items():
            if round(runs.values["val_auc"].max(), 4) == value:
                text += f" ({value:.4f} is the maximum of its runs of {epochs} epochs)"
        told.append(text)
    return f"The paper's table of maxima (5.1.6) is reproduced to its last digit but for {'; '.join(told)}."
