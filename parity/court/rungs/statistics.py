"""Rung 9: independent training runs of both sides have the same statistics, as far as so many runs can tell."""

from dataclasses import asdict

from parity.court.study import ALPHA, compare_samples


def check(reference, candidate, seed: int = 0) -> dict:
    """Compares two `study.Sample`s. Passed only if every statistic is shown to be equivalent.

    The value is the largest p of the tests for equivalence. The place is the statistic whose difference is
    surest, or else the first that the runs do not decide, called so.
    """
    differences = compare_samples(reference, candidate, seed)
    failed = sorted(
        (d for d in differences if not d.equivalent), key=lambda d: d.p_different if d.verdict == "different" else 1.0
    )
    worst = max(differences, key=lambda d: d.p_equivalent)
    return {
        "passed": not failed,
        "measure": "largest p of two one-sided tests",
        "value": worst.p_equivalent,
        "tolerance": ALPHA,
        "worst": worst.statistic,
        "first_divergence": _place(failed[0]) if failed else None,
        "message": "; ".join(
            f"{d.statistic} {d.verdict}: {d.difference:+.3f}, margin {d.margin:.3f}, p of no difference "
            f"{d.p_different:.3f}"
            for d in failed
        ),
        "details": {
            "runs": [len(reference.curves), len(candidate.curves)],
            "early_runs": [len(reference.early), len(candidate.early)],
            "curves": {side.name: side.curves.tolist() for side in (reference, candidate)},
            "early_losses": {side.name: side.early.tolist() for side in (reference, candidate)},
            "differences": [asdict(difference) for difference in differences],
        },
    }


def _place(difference) -> str:
    return difference.statistic + ("" if difference.verdict == "different" else ", undecided")
