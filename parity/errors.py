"""How far two tensors are apart, how far they may be, and which of many parts first."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

FLOAT64_TOLERANCE = 1e-10
AT_ONCE = 2**20  # numbers of an array that are compared together, for what is made of them takes memory too
FLOAT32_EPS = float(np.finfo(np.float32).eps)
EPS = {"float64": float(np.finfo(np.float64).eps), "float16": 2.0**-10, "bfloat16": 2.0**-7}
# Two correct float32 implementations differ by the order of their sums. Each is judged by its distance from the
# float64 result; the candidate's may be this many times the reference's own.
FLOAT32_FACTOR = 8.0
# Roundings of a sum of about a thousand terms, where the reference happened to have less: 32 * eps.
FLOOR_ROUNDINGS = 32
# No tolerance grows beyond this many roundings, 1e-3 in float32: EfficientNets use up to a tenth of it, their gradients
# a quarter. A tensor on which float32 itself is off by more has lost most of its digits, and is no yardstick.
CEILING_ROUNDINGS = 8192
# A difference of equal tensors is zero, but computed it is rounding, and its relative error is of order one. So no
# tensor counts as smaller than this part of the model's typical tensor: rounding, 2e-16, is then 2e-11 of it.
NEAR_ZERO = 1e-5
# In `comparison.compare`: Keras and TensorFlow round some constants (of Rescaling, of GELU) to float32 even in float64.
CONSTANT_TOLERANCE = 1e-7
# For float32 models of which neither can be computed in float64: a guess, used only where nothing better is to be had.
FLOAT32_ALONE = 1e-4


# What a row says. A check that could not be made has not passed, and has not failed either.
OK, FAIL, NOT_COMPARED = "ok", "FAIL", "not compared"


def eps_of(dtype: str) -> float:
    """The relative spacing of a float type, by name; that of float32 for an unknown one."""
    return EPS.get(dtype.removeprefix("mixed_"), FLOAT32_EPS)


def ceiling(eps: float) -> float:
    """The largest tolerance in a type: 1e-3 in float32, never more than a quarter."""
    return min(CEILING_ROUNDINGS * eps, 0.25)


@dataclass
class Row:
    """One verdict, as it stands in report.json; `passed` is true only if `status` is "ok"."""

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
    status: str = ""

    def __post_init__(self):
        self.status = self.status or (OK if self.passed else FAIL)

    def asdict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Error:
    """The error of one tensor, and what is allowed.

    Attributes:
        undecided: why no verdict is possible: float32 itself is as far off, or no number in it is finite.
    """

    name: str
    value: float
    tolerance: float
    max_abs: float
    undecided: str = ""

    @property
    def passed(self) -> bool:
        return self.value <= self.tolerance  # False for NaN


def relative_l2(actual: np.ndarray, expected: np.ndarray, floor: float = 0.0) -> float:
    """||actual - expected|| / max(||expected||, floor), Euclidean norms in float64.

    Infinite where the shapes differ; NaN where only one has a NaN. Equal infinities, and NaN in both, are equal.

    Args:
        floor: keeps the measure finite where the true value is zero.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape or (actual.dtype.kind == "c") != (expected.dtype.kind == "c"):
        return float("inf")
    with np.errstate(invalid="ignore", over="ignore"):
        difference, norm = norms(actual, expected)
        if not np.isfinite(difference) or not np.isfinite(norm):
            actual, expected = _float64(actual), _float64(expected)
            alike = ~np.isfinite(expected) & ((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
            actual, expected = actual[~alike], expected[~alike]
            if not np.isfinite(expected).all() and np.isfinite(actual).all():
                return float("inf")
            difference, norm = (float(np.linalg.norm(x)) for x in (actual - expected, expected))
    if difference == 0.0:
        return 0.0
    scale = max(norm, floor)
    return difference / scale if scale > 0 else float("inf")


def identical(array: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have one shape and the same numbers, or none, in every place."""
    if np.array_equal(array, other):  # without the copies that a look for NaN takes
        return True
    floats = array.dtype.kind == other.dtype.kind == "f"
    return floats and np.isnan(array).any() and np.array_equal(array, other, equal_nan=True)


def close(array: np.ndarray, other: np.ndarray, rtol: float, atol: float, factor=1.0, function=None) -> bool:
    """Whether |function(array) * factor - other| <= atol + rtol |other| throughout, of arrays of one shape.

    Args:
        factor: of a shape that goes with the arrays' last axes.
    """
    factor = np.broadcast_to(np.asarray(factor, np.float64), array.shape)
    for a, b, f in _parts(array, other, factor):
        with np.errstate(all="ignore"):
            made = a if function is None else function(a)
            if not (np.abs(made * f - b) <= atol + rtol * np.abs(b)).all():
                return False
    return True


def norms(actual: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Euclidean norms in float64 of the difference of two arrays of one shape, and of the second."""
    squares = np.zeros(2)
    for a, b in _parts(actual, expected):
        apart = a - b
        squares += apart @ apart, b @ b
    return tuple(map(float, np.sqrt(squares)))


def _farthest(actual, expected) -> float:
    """The largest absolute difference of two arrays of one shape; NaN where there is one."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.max([np.max(np.abs(a - b)) for a, b in _parts(actual, expected)], initial=0.0))


def _parts(*arrays):
    """Arrays of one shape as flat ones in float64; of large ones a part at a time, for a copy takes memory too."""
    arrays = list(map(np.asarray, arrays))
    if any(array.dtype.kind == "c" for array in arrays):
        arrays = [np.stack([array.real, array.imag]) for array in arrays]
    if arrays[0].size > AT_ONCE:
        options = {"flags": ["external_loop", "buffered"], "buffersize": AT_ONCE, "casting": "unsafe"}
        yield from np.nditer(arrays, op_dtypes=[np.float64] * len(arrays), **options)
    elif arrays[0].size:
        yield tuple(_float64(array).ravel() for array in arrays)


def _float64(array) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag])
    return np.asarray(array, np.float64)


def _root_mean_square(array) -> float:
    """Of the finite values; 0 if there are none."""
    array = _float64(array).ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        value = float(np.linalg.norm(array)) / max(array.size, 1) ** 0.5
        if not np.isfinite(value):
            array = array[np.isfinite(array)]
            value = float(np.linalg.norm(array)) / max(array.size, 1) ** 0.5
    return value if np.isfinite(value) else 0.0


def judge(
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray] | None = None,
    floor: float = 0.0,
    tolerance: float | None = None,
    owner: str = "reference",
    eps: float = FLOAT32_EPS,
) -> list[Error]:
    """Errors of all tensors that both models have, in the reference's order.

    Without `truth` the candidate's distance from the reference may be `tolerance`, by default `FLOAT64_TOLERANCE` for
    float64 arrays.

    With it (float32) the model whose copy the truth is, its *owner*, says how much rounding costs: the other side's
    distance from the truth may be `FLOAT32_FACTOR` times the owner's. What the owner has done so far counts too, since
    an error once made is carried on, but in units of a typical tensor: a tensor that is nearly zero, and all rounding,
    excuses nothing that follows. No tolerance passes `ceiling`; where the owner's own error does, there is no verdict.

    The errors of two equally good float32 computations are two draws from one distribution. For large tensors their
    norms are alike; for an output of a few values one may be small by luck, which the factor takes into account: it is
    at least the ratio that two such norms exceed once in a million (the root of a quantile of the F distribution).

    Args:
        reference, candidate: arrays by name.
        truth: the owner computed in float64.
        floor: see `relative_l2`.
        tolerance: relative, used without truth.
        owner: "reference" or "candidate"; the candidate's own copy can't excuse the candidate.
        eps: relative spacing of the type that is judged by the truth.
    """
    names = [name for name in reference if name in candidate and (truth is None or name in truth)]
    targets = reference if truth is None else truth  # together they may not fit into memory: one after the other
    sizes = [size for name in names if (size := _root_mean_square(targets[name])) > 0]
    typical = float(np.median(sizes)) if sizes else 0.0
    owned, judged = (reference, candidate) if owner == "reference" else (candidate, reference)
    errors, inherited = [], 0.0
    for name in names:
        target = targets[name]
        whole = typical * np.size(target) ** 0.5  # the norm of a typical tensor of this size
        smallest, undecided = max(floor, NEAR_ZERO * whole), ""
        if truth is None:
            actual = candidate[name]
            value = relative_l2(actual, target, smallest)
            double = np.asarray(actual).dtype == np.float64
            allowed = tolerance or (FLOAT64_TOLERANCE if double else FLOAT32_ALONE)
        else:
            actual = owned[name]
            own = relative_l2(actual, target, smallest)
            carried = relative_l2(actual, target, max(smallest, whole))
            actual = judged[name]
            if own > ceiling(eps):  # next to nothing but rounding
                own, smallest = carried, max(smallest, whole)
            value = relative_l2(actual, target, smallest)
            if np.isfinite(carried):
                inherited = max(inherited, carried)
            allowed = float32_factor(np.size(target)) * max(own, inherited) + FLOOR_ROUNDINGS * eps
            if not own <= ceiling(eps) and (value <= allowed or np.isnan(own)):
                undecided = f"the {owner}'s own rounding is {own:.1e} here"
            allowed = min(allowed, ceiling(eps))
        if np.size(target) and np.asarray(target).dtype.kind == "f" and not np.isfinite(target).any():
            undecided = undecided or ("no number in it is finite" if value == 0 else "")
        same_shape = np.shape(actual) == np.shape(target)
        far = _farthest(actual, target) if same_shape else float("inf")
        errors.append(Error(name, value, allowed, far, undecided))
    return errors


@functools.cache
def float32_factor(size: int) -> float:
    """What the ratio of two such norms, of equal rounding, exceeds once in a million: the root of F's quantile.

    Without SciPy, which is not there where files are verified: with t = sin(a)^2, F's tail is that of sin(2a)^(n - 1).
    """
    if not 0 < size < 64:  # many numbers are steadier than what is allowed anyhow
        return FLOAT32_FACTOR
    angles = np.geomspace(1e-9, np.pi / 4, 20_001)
    density = np.sin(2 * angles) ** (size - 1)
    tail = np.concatenate([[angles[0] * density[0]], np.diff(angles) * (density[1:] + density[:-1]) / 2]).cumsum()
    angle = np.interp(1e-6, tail / (2 * tail[-1]), angles)
    return max(FLOAT32_FACTOR, float(1 / np.tan(angle)))


def summarise(errors: Iterable[Error]) -> dict:
    """The fields of a `Row` that follow from a list of errors: the worst tensor, and the first that diverged."""
    errors = list(errors)
    judged = [e for e in errors if not e.undecided]
    if not judged:
        why = errors[0].undecided if errors else "the two sides have no tensor in common"
        return {
            "passed": False,
            "status": NOT_COMPARED,
            "value": None,
            "tolerance": None,
            "message": f"nothing could be compared: {why}",
        }
    # NaN is worse than anything.
    worst = max(judged, key=lambda e: np.inf if np.isnan(e.value) else e.value / e.tolerance)
    first = next((e.name for e in judged if not e.passed), None)
    return {
        "passed": first is None,
        "value": worst.value,
        "tolerance": worst.tolerance,
        "worst": worst.name,
        "first_divergence": first,
        "details": {
            "errors": [[e.name, e.value, e.tolerance, e.max_abs] for e in judged],
            "undecided": [[e.name, e.undecided] for e in errors if e.undecided],
        },
    }
