"""Another activation, another axis of a softmax, another scale: functions of one array."""

import numpy as np
from scipy import special

from parity.causes.scene import Cause, Scene, canonical, fits, nearest
from parity.values import distance

ROUNDING = 1e-15
NEARER = 1e3  # times as far as the function that is nearest is another
OR = " or "


def _softplus(x):
    return np.logaddexp(0, x)


def _hard_sigmoid(x):
    return np.clip(x / 6 + 0.5, 0, 1)


def _leaky(slope):
    return lambda x: np.where(x > 0, x, slope * x)


# Name to (function, in Keras, in PyTorch).
ACTIVATIONS = {
    "no activation": (lambda x: x, "keras.activations.linear", "no function"),
    "ReLU": (lambda x: np.maximum(x, 0), 'activation="relu"', "F.relu(x)"),
    "ReLU6": (lambda x: np.clip(x, 0, 6), 'activation="relu6"', "F.relu6(x)"),
    "exact GELU": (
        lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2))),
        "keras.ops.gelu(x, approximate=False)",
        "F.gelu(x)",
    ),
    "GELU by tanh": (
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "keras.ops.gelu(x, approximate=True)",
        'F.gelu(x, approximate="tanh")',
    ),
    "GELU by sigmoid": (lambda x: x * special.expit(1.702 * x), "x * keras.ops.sigmoid(1.702 * x)",
                        "x * torch.sigmoid(1.702 * x)"),
    "SiLU": (lambda x: x * special.expit(x), 'activation="silu"', "F.silu(x)"),
    "sigmoid": (special.expit, 'activation="sigmoid"', "torch.sigmoid(x)"),
    "tanh": (np.tanh, 'activation="tanh"', "torch.tanh(x)"),
    "hard sigmoid": (_hard_sigmoid, 'activation="hard_sigmoid"', "F.hardsigmoid(x)"),
    "hard sigmoid of slope 0.2": (lambda x: np.clip(0.2 * x + 0.5, 0, 1), "keras.ops.clip(0.2 * x + 0.5, 0, 1)",
                                  "(0.2 * x + 0.5).clamp(0, 1)"),
    "hard swish": (lambda x: x * _hard_sigmoid(x), 'activation="hard_silu"', "F.hardswish(x)"),
    "softplus": (_softplus, 'activation="softplus"', "F.softplus(x)"),
    "softsign": (lambda x: x / (1 + np.abs(x)), 'activation="softsign"', "F.softsign(x)"),
    "Mish": (lambda x: x * np.tanh(_softplus(x)), 'activation="mish"', "F.mish(x)"),
    "ELU": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), 'activation="elu"', "F.elu(x)"),
    "CELU of alpha 0.5": (lambda x: np.where(x > 0, x, 0.5 * np.expm1(np.minimum(x, 0) / 0.5)),
                          "keras.ops.celu(x, 0.5)", "F.celu(x, 0.5)"),
    "SELU": (
        lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
        'activation="selu"',
        "F.selu(x)",
    ),
    "hard tanh": (lambda x: np.clip(x, -1, 1), "keras.ops.clip(x, -1, 1)", "F.hardtanh(x)"),
    "tanh shrink": (lambda x: x - np.tanh(x), 'activation="tanh_shrink"', "F.tanhshrink(x)"),
    "log sigmoid": (lambda x: -_softplus(-x), 'activation="log_sigmoid"', "F.logsigmoid(x)"),
    "square": (np.square, "keras.ops.square(x)", "x.square()"),
    "absolute value": (np.abs, "keras.ops.abs(x)", "x.abs()"),
    "exponential": (np.exp, "keras.ops.exp(x)", "x.exp()"),
    **{
        f"leaky ReLU of slope {slope}": (
            _leaky(slope),
            f"keras.layers.LeakyReLU(negative_slope={slope})",
            f"F.leaky_relu(x, {slope})",
        )
        for slope in (0.01, 0.05, 0.1, 0.2, 0.25, 0.3)
    },
}  # fmt: skip


def named(x: np.ndarray, targets: list[np.ndarray]):
    """(name, function, place) of the function that makes one of the targets of `x`, the last first; None if none does.

    On some inputs several functions are one (ReLU and ReLU6 below 6): of two both are named, of more it can't be told.
    On small numbers some are nearly one (both forms of GELU): told is the one that agrees to rounding.
    """
    made = {name: _run(function, x) for name, (function, _, _) in _candidates(x).items()}
    for place in reversed(range(len(targets))):
        target = targets[place]
        apart = {name: distance(array, target) for name, array in made.items() if fits(array, [target])}
        least = min(apart.values(), default=0.0)
        found = [name for name, far in apart.items() if far <= NEARER * max(least, ROUNDING)]
        if found:
            known = _candidates(x)[found[0]][0]
            return (OR.join(found), known, place) if len(found) <= 2 else None
    known = fitted(x, targets[-1]) if targets else None
    return None if known is None else (*known, len(targets) - 1)


def fitted(x: np.ndarray, y: np.ndarray):
    """The name of a function with numbers of its own that makes `y` of `x`, and it; None if none does."""
    if x.shape != y.shape or y.dtype.kind != "f" or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    x, y = x.astype(np.float64), y.astype(np.float64)
    flat, made = x.ravel(), y.ravel()
    if flat.size < 8 or np.ptp(flat) == 0 or np.ptp(made) == 0:
        return None
    for name, function in _guesses(flat, made):
        if fits(_run(function, x), [y]):
            return name, function
    return None


def _guesses(x, y):
    """(name, function) with numbers taken from where they show."""
    first, last = int(np.argmin(x)), int(np.argmax(x))
    slope = (y[last] - y[first]) / (x[last] - x[first])
    offset = y[first] - slope * x[first]
    offset = 0.0 if abs(offset) <= 1e-9 * abs(y).max() else offset
    line = f"a factor of {slope:.6g}" + (f" and an offset of {offset:.6g}" if offset else "")
    yield line, lambda v: slope * v + offset
    low, high = y.min(), y.max()
    yield f"clipping to {low:.6g} and {high:.6g}", lambda v: np.clip(v, low, high)
    yield f"clipping at {high:.6g}", lambda v: np.minimum(v, high)
    yield f"clipping from {low:.6g}", lambda v: np.maximum(v, low)
    if x[first] < 0:
        leak = y[first] / x[first]
        yield f"leaky ReLU of slope {leak:.6g}", _leaky(leak)
        alpha = y[first] / np.expm1(x[first])
        yield f"ELU of alpha {alpha:.6g}", lambda v: np.where(v > 0, v, alpha * np.expm1(np.minimum(v, 0)))
    middle = int(np.argmin(np.abs(x - 1)))
    part = y[middle] / x[middle] if x[middle] else 0.0
    if 0 < part < 1:
        beta = special.logit(part) / x[middle]
        yield f"SiLU of slope {beta:.6g}", lambda v: v * special.expit(beta * v)
    for name, (function, _, _) in ACTIVATIONS.items():
        base = _run(function, x)
        norm = float(base @ base)
        factor = float(base @ y) / norm if np.isfinite(norm) and norm else 0.0
        if factor:
            yield f"{name} times {factor:.6g}", lambda v, f=function, k=factor: k * f(v)


def described(x: np.ndarray, y: np.ndarray) -> str:
    """What makes `y` of `x`, in words; "" if that has no name."""
    known = named(x, [y])
    return known[0] if known is not None else ""


def code(name: str, x: np.ndarray) -> tuple[str, str]:
    """How Keras and PyTorch write a function; "" for one with numbers of its own."""
    found = _candidates(x).get(name)
    return found[1:] if found else ("", "")


def _candidates(x: np.ndarray) -> dict:
    found = dict(ACTIVATIONS)
    for axis in range(x.ndim):
        if x.shape[axis] > 1:
            back = axis - x.ndim
            last = "the last axis" if back == -1 else f"axis {back} of Keras's order"
            last = last if axis else "the batch"
            place = _torch_axis(x, axis)
            for name, run in (("softmax", special.softmax), ("log_softmax", special.log_softmax)):
                found[f"{name.replace('_', ' ')} over {last}"] = (
                    lambda v, axis=axis, run=run: run(v, axis),
                    f"keras.ops.{name}(x, axis={back})",
                    f"F.{name}(x, {place})",
                )
    if x.ndim > 2:
        found["softmax over all numbers of an example"] = (
            lambda v: special.softmax(v, tuple(range(1, v.ndim))), "keras.ops.softmax(x, axis=(1, ...))",
            "F.softmax(x.flatten(1), 1).view_as(x)",
        )  # fmt: skip
    return found


def _torch_axis(x: np.ndarray, axis: int) -> int:
    """An axis of Keras's order in torch's."""
    return axis if x.ndim < 4 or axis == 0 else 1 if axis == x.ndim - 1 else axis + 1


def _run(function, x):
    with np.errstate(all="ignore"):
        return function(x)


def find(scene: Scene) -> Cause | None:
    """Both sides apply a known function to one and the same array, or one the reference's at other bounds."""
    reference, candidate = scene.given
    for theirs in reference:
        for ours in candidate:
            flat = ours.ndim < theirs.ndim and ours.size == theirs.size and len(ours) == len(theirs)
            if ours.dtype.kind != "f" or not fits(theirs.reshape(ours.shape) if flat else theirs, [ours]):
                continue
            expected, found = named(theirs, scene.made[0]), named(ours, scene.made[1])
            if expected is None or found is None:
                continue
            if set(expected[0].split(OR)) & set(found[0].split(OR)) and not flat:
                continue
            if _follows(scene, theirs, expected[1], found[1]):
                continue  # the reference does what the candidate does, too, behind this
            after = nearest(_run(expected[1], theirs), scene.made[0])
            of = f" of the axes {theirs.shape[1:]} in one" if flat else ""
            says = f"the reference computes {expected[0]}, the candidate {found[0]}{of}."
            return scene.cured(says, after, (expected[2], found[2]), *code(expected[0], theirs))
    return None


def _follows(scene: Scene, x: np.ndarray, expected, found) -> bool:
    """Whether the reference does to what it has computed what the candidate does to the array itself."""
    made = _run(expected, x)
    again = _run(found, made)
    if again.shape != made.shape or fits(again, [made]):
        return False
    graph = scene.graphs[0]
    end = next((v for v in scene.place.reference.outputs if graph.values[v].size == made.size), None)
    later = [n.outputs[0] for n in graph.nodes if end is not None and end in n.inputs]
    return fits(again, [canonical(scene.layouts[0], graph.values[v]) for v in later])
