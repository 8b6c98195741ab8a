"""Another activation, another axis of a softmax, another scale: functions of one array."""

import numpy as np
from scipy import special

from parity.causes.scene import Cause, Scene, fits, nearest


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
    """The name of the function that makes one of the targets of `x`, the last first, and it; None if none does.

    On some inputs two functions are one (ReLU and ReLU6 below 6): then it can't be told.
    """
    made = {name: _run(function, x) for name, (function, _, _) in _candidates(x).items()}
    for target in reversed(targets):
        found = [name for name, array in made.items() if fits(array, [target])]
        if found:
            return (found[0], _candidates(x)[found[0]][0]) if len(found) == 1 else None
    return None


def code(name: str, x: np.ndarray) -> tuple[str, str]:
    """How Keras and PyTorch write a function."""
    return _candidates(x)[name][1:]


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
            if theirs.shape != ours.shape or ours.dtype.kind != "f" or not fits(theirs, [ours]):
                continue
            expected, found = named(theirs, scene.made[0]), named(ours, scene.made[1])
            if expected is None or found is None or expected[0] == found[0]:
                continue
            keras, torch = code(expected[0], theirs)
            after = nearest(_run(expected[1], ours), scene.made[0])
            return Cause(f"the reference computes {expected[0]}, the candidate {found[0]}.", scene.before, after, keras,
                         torch)  # fmt: skip
    return None
