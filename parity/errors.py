"""How far two tensors are apart, how far they may be, and which of many parts first."""

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import numpy as np

FLOAT64_TOLERANCE = 1e-10
# Two correct float32 implementations differ by the order of their sums. Each is judged by its distance from the
# float64 result; the candidate's may be this many times the reference's own.
FLOAT32_FACTOR = 8.0
# The rounding of a sum of about a thousand terms, where the reference happened to have less.
FLOAT32_FLOOR = 32 * float(np.finfo(np.float32).eps)
# In `comparison.compare`: Keras and TensorFlow round some constants (of Rescaling, of GELU) to float32 even in float64.
CONSTANT_TOLERANCE = 1e-7
# For float32 models of which neither can be computed in float64: a guess, used only where nothing better is to be had.
FLOAT32_ALONE = 1e-4


@dataclass
class Row:
    """One verdict, as it stands in report.json."""

    model: str
    reference: str
    candidate: str
    check: str
    dtype: str
    passed: bool
    measure: str
    value: float | None
    tolerance: float | None
    worst: str | None = None
    first_divergence: str | None = None
    size: str = ""
    message: str = ""
    seconds: float = 0.0
    details: dict = field(default_factory=dict)

    def asdict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Error:
    """The error of one tensor, and what is allowed."""

    name: str
    value: float
    tolerance: float
    max_abs: float

    @property
    def passed(self) -> bool:
        return self.value <= self.tolerance  # False for NaN


def relative_l2(actual: np.ndarray, expected: np.ndarray, floor: float = 0.0) -> float:
    """||actual - expected|| / max(||expected||, floor), Euclidean norms in float64.

    Infinite where the shapes differ; NaN where a NaN is involved.

    Args:
        floor: keeps the measure finite where the true value is zero.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        return float("inf")
    difference = float(np.linalg.norm((actual - expected).ravel()))
    scale = max(float(np.linalg.norm(expected.ravel())), floor)
    if difference == 0.0:
        return 0.0
    return difference / scale if scale > 0 else float("inf")


def judge(
    reference: dict[str, np.ndarray],
    candidate: dict[str, np.ndarray],
    truth: dict[str, np.ndarray] | None = None,
    floor: float = 0.0,
    tolerance: float | None = None,
) -> list[Error]:
    """Errors of all tensors that both models have, in the reference's order.

    The errors of two equally good float32 computations are two draws from one distribution. For large tensors their
    norms are alike; for an output of a few values one may be small by luck, which the factor takes into account: it is
    at least the ratio that two such norms exceed once in a million (the root of a quantile of the F distribution).

    Without `truth` the candidate's distance from the reference may be `tolerance`, by default
    `FLOAT64_TOLERANCE` for float64 arrays. With it (float32) the
    candidate's distance from the truth may be `FLOAT32_FACTOR` times the largest that the reference has had so far,
    since an error once made is carried on.

    Args:
        reference, candidate: arrays by name.
        truth: the reference computed in float64.
        floor: see `relative_l2`.
    """
    errors, inherited = [], 0.0
    for name, expected in reference.items():
        if name not in candidate:
            continue
        actual = candidate[name]
        if truth is None:
            value, target = relative_l2(actual, expected, floor), expected
            allowed = tolerance or (FLOAT64_TOLERANCE if actual.dtype == np.float64 else FLOAT32_ALONE)
        else:
            target = truth[name]
            inherited = max(inherited, relative_l2(expected, target, floor))
            value = relative_l2(actual, target, floor)
            allowed = _float32_factor(np.size(target)) * inherited + FLOAT32_FLOOR
        same_shape = np.shape(actual) == np.shape(target)
        max_abs = float(np.max(np.abs(np.asarray(actual, float) - target), initial=0.0)) if same_shape else np.inf
        errors.append(Error(name, value, allowed, max_abs))
    return errors


@functools.cache
def _float32_factor(size: int) -> float:
    from scipy import stats

    return max(FLOAT32_FACTOR, float(np.sqrt(stats.f.isf(1e-6, size, size))))


def summarise(errors: Iterable[Error]) -> dict:
    """The fields of a `Row` that follow from a list of errors: the worst tensor, and the first that diverged."""
    errors = list(errors)
    if not errors:
        return {
            "passed": False,
            "value": None,
            "tolerance": None,
            "message": "nothing could be compared: the two sides have no tensor in common",
        }
    # NaN is worse than anything.
    worst = max(errors, key=lambda e: np.inf if np.isnan(e.value) else e.value / e.tolerance)
    first = next((e.name for e in errors if not e.passed), None)
    return {
        "passed": first is None,
        "value": worst.value,
        "tolerance": worst.tolerance,
        "worst": worst.name,
        "first_divergence": first,
        "details": {"errors": [[e.name, e.value, e.tolerance, e.max_abs] for e in errors]},
    }
