"""How far two tensors are apart, how far they may be, and where two models part first."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import numpy as np

FLOAT64_TOLERANCE = 1e-10
# Two correct float32 implementations differ by the order of their sums. Each is judged by its distance from the
# float64 result; the candidate's may be this many times the reference's own.
FLOAT32_FACTOR = 8.0
FLOAT32_FLOOR = 8 * float(np.finfo(np.float32).eps)


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
    tolerance: float = FLOAT64_TOLERANCE,
) -> list[Error]:
    """Errors of all tensors that both models have, in the reference's order.

    Without `truth` (float64) the candidate's distance from the reference may be `tolerance`. With it (float32) the
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
            value, allowed, target = relative_l2(actual, expected, floor), tolerance, expected
        else:
            target = truth[name]
            inherited = max(inherited, relative_l2(expected, target, floor))
            value, allowed = relative_l2(actual, target, floor), FLOAT32_FACTOR * inherited + FLOAT32_FLOOR
        same_shape = np.shape(actual) == np.shape(target)
        max_abs = float(np.max(np.abs(np.asarray(actual, float) - target), initial=0.0)) if same_shape else np.inf
        errors.append(Error(name, value, allowed, max_abs))
    return errors


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
