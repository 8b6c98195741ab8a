"""Equivalence and difference of two sets of runs in one number each.

These are two questions. "Not significantly different" is what too few runs say of anything; so equality is never
concluded from it. Equivalence is shown by two one-sided tests (TOST, Schuirmann 1987): the difference of the means
lies within a margin that was stated before, at 5%. Difference is shown by a permutation test of the runs' labels,
exact where there are few runs. Both, either or none can come out:

    equivalent   within the margin, whether or not a difference was found
    different    a difference was found, and equivalence was not shown
    undecided    neither: more runs are needed
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

EXACT = 20_000  # permutations up to which all are counted
SAMPLED = 10_000


@dataclass
class Difference:
    """Reference against candidate in one number per run.

    Attributes:
        statistic: its name.
        reference, candidate: means.
        difference: candidate minus reference.
        interval: 95% bootstrap interval of the difference (percentiles; with few runs it is somewhat too narrow).
        p_different: of the permutation test of the means, two-sided.
        margin: for equivalence, stated beforehand.
        p_equivalent: the larger of the two one-sided Welch tests against the margin.
        verdict: "equivalent", "different" or "undecided".
    """

    statistic: str
    reference: float
    candidate: float
    difference: float
    interval: tuple[float, float]
    p_different: float
    margin: float
    p_equivalent: float
    verdict: str

    @property
    def equivalent(self) -> bool:
        return self.verdict == "equivalent"


def compare_numbers(statistic, reference, candidate, margin, *, alpha=0.05, bootstraps=10_000, seed=0) -> Difference:
    """Compares one number per run of two sets.

    Args:
        statistic: name, for the report.
        reference, candidate: float arrays (runs,), at least 2 each.
        margin: positive; the difference that counts as none.
        alpha: level of both tests.
        bootstraps: resamples for the interval.
        seed: of resampling.

    Raises:
        ValueError: for fewer than two runs, or a margin that is not positive.
    """
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if min(len(reference), len(candidate)) < 2:
        raise ValueError(f"Statistics need two runs of each at least. Received: {len(reference)} and {len(candidate)}")
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be positive. Received: {margin!r}")
    rng = np.random.default_rng(seed)
    means = [
        sample[rng.integers(len(sample), size=(bootstraps, len(sample)))].mean(1) for sample in (candidate, reference)
    ]
    interval = np.percentile(means[0] - means[1], [2.5, 97.5])
    different = permutation_test(reference[:, None], candidate[:, None], seed=seed)
    equivalent = equivalence_test(reference, candidate, margin)
    verdict = "equivalent" if equivalent < alpha else "different" if different < alpha else "undecided"
    return Difference(
        statistic,
        float(reference.mean()),
        float(candidate.mean()),
        float(candidate.mean() - reference.mean()),
        (float(interval[0]), float(interval[1])),
        different,
        margin,
        equivalent,
        verdict,
    )


def equivalence_test(reference, candidate, margin: float) -> float:
    """p of the two one-sided tests (TOST), with Welch's variance: small if the means differ by less than `margin`."""
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    a, b = reference.var(ddof=1) / len(reference), candidate.var(ddof=1) / len(candidate)
    error = math.sqrt(a + b)
    difference = candidate.mean() - reference.mean()
    if error == 0:
        return 0.0 if abs(difference) < margin else 1.0
    freedom = (a + b) ** 2 / (a**2 / (len(reference) - 1) + b**2 / (len(candidate) - 1))
    above = stats.t.sf((difference + margin) / error, freedom)  # against "smaller than -margin"
    below = stats.t.cdf((difference - margin) / error, freedom)  # against "larger than margin"
    return float(max(above, below))


def permutation_test(reference: np.ndarray, candidate: np.ndarray, seed: int = 0) -> float:
    """p that labels of runs do not matter, for whole curves.

    The statistic is the mean over epochs of the squared difference of the mean curves. With up to 20,000 ways to
    share the runs out, all are counted, and p can not fall below one over their number; else 10,000 are drawn.

    Args:
        reference, candidate: (runs, epochs).
        seed: of the draw.
    """
    pooled = np.concatenate([reference, candidate])
    pooled = pooled - pooled.mean(0)  # labels do not know of a constant, but rounding does
    total, first = len(pooled), len(reference)

    def statistics(labels):
        """Of ways to share the runs out, (ways, runs) of 0 and 1."""
        sums = labels @ pooled
        return np.square(sums / first - (pooled.sum(0) - sums) / (total - first)).mean(1)

    observed = statistics(np.arange(total)[None] < first)[0] * (1 - 1e-9)  # equal splits must count as equal
    if math.comb(total, first) <= EXACT:
        labels = np.zeros((math.comb(total, first), total))
        chosen = np.array(list(itertools.combinations(range(total), first)))
        np.put_along_axis(labels, chosen, 1, axis=1)
        return float(np.mean(statistics(labels) >= observed))
    rng = np.random.default_rng(seed)
    labels = rng.permuted(np.tile(np.arange(total) < first, (SAMPLED, 1)), axis=1)
    return float((1 + np.sum(statistics(labels) >= observed)) / (1 + SAMPLED))


def holm(p_values) -> np.ndarray:
    """Holm's correction for many comparisons: adjusted p-values, in the given order."""
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values)
    steps = np.maximum.accumulate(p_values[order] * (len(p_values) - np.arange(len(p_values))))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted
