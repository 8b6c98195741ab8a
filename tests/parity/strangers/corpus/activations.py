"""Pairs of activations: every one that both frameworks have, and those that are taken for one another."""

import keras
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.strangers.corpus.pairs import fault, layered, module, pixels, random, right
from tests.parity.strangers.models import L, TorchDense, keras_dense

ops = keras.ops


def _activation(name, original, port, **wrong):
    """Between two dense layers, as a module and as a layer of the same place."""

    def layers(activation):
        return lambda: [L.Dense(8), _layer(activation), L.Dense(3)]

    faults = {name: (layers(activation), "forward", "1") for name, activation in wrong.items()}
    layered("activation", name, (6,), lambda: [nn.Linear(6, 8), original(), nn.Linear(8, 3)], layers(port), faults)


def _layer(activation):
    return activation() if isinstance(activation, type) else L.Activation(activation)


def _leaky(slope):
    return lambda x: ops.leaky_relu(x, slope)


_activation("relu", nn.ReLU, "relu", gelu="gelu")
_activation("relu6", nn.ReLU6, "relu6", relu="relu")
_activation("leaky_relu", lambda: nn.LeakyReLU(0.1), _leaky(0.1), keras_default=L.LeakyReLU, another=_leaky(0.01))
_activation("elu", nn.ELU, "elu", selu="selu")
_activation("selu", nn.SELU, "selu")
_activation("celu", lambda: nn.CELU(0.5), lambda x: ops.celu(x, 0.5), alpha="celu")
_activation("gelu", nn.GELU, lambda x: ops.gelu(x, approximate=False), tanh=lambda x: ops.gelu(x, approximate=True))
_activation("gelu_tanh", lambda: nn.GELU("tanh"), lambda x: ops.gelu(x, approximate=True), quick=lambda x: (
    x * ops.sigmoid(1.702 * x)))  # fmt: skip
_activation("silu", nn.SiLU, "silu", hard="hard_silu")
_activation("mish", nn.Mish, "mish", silu="silu")
_activation("softplus", nn.Softplus, "softplus", relu="relu")
_activation("softsign", nn.Softsign, "softsign", tanh="tanh")
_activation("tanh", nn.Tanh, "tanh")
_activation("sigmoid", nn.Sigmoid, "sigmoid", hard="hard_sigmoid")
_activation("hard_sigmoid", nn.Hardsigmoid, "hard_sigmoid", keras_two=lambda x: ops.clip(0.2 * x + 0.5, 0.0, 1.0))
_activation("hard_swish", nn.Hardswish, "hard_silu", silu="silu")
_activation("hard_tanh", nn.Hardtanh, "hard_tanh", tanh="tanh")
_activation("log_sigmoid", nn.LogSigmoid, "log_sigmoid")
_activation("tanh_shrink", nn.Tanhshrink, "tanh_shrink")
_activation("soft_shrink", nn.Softshrink, "soft_shrink", hard="hard_shrink")
_activation("threshold", lambda: nn.Threshold(0.5, 0.0), lambda x: ops.threshold(x, 0.5, 0.0), relu="relu")
_activation("log_softmax", lambda: nn.LogSoftmax(-1), "log_softmax", softmax="softmax")

layered(
    "activation", "softmax_over_channels", (5, 7, 3),
    lambda: [nn.Conv2d(3, 4, 1), nn.Softmax(1)],
    lambda: [L.Conv2D(4, 1), L.Softmax()],
    {"over_columns": (lambda: [L.Conv2D(4, 1), L.Softmax(2)], "forward", "1")},
)  # fmt: skip
layered(
    "activation", "glu", (5, 7, 3),
    lambda: [nn.Conv2d(3, 8, 1), nn.GLU(1), nn.Conv2d(4, 5, 1)],
    lambda: [L.Conv2D(8, 1), L.Lambda(lambda x: ops.glu(x, -1)), L.Conv2D(5, 1)],
    {
        "halves_exchanged": (
            lambda: [L.Conv2D(8, 1), L.Lambda(lambda x: x[..., 4:] * ops.sigmoid(x[..., :4])), L.Conv2D(5, 1)],
            "forward", "1"),
    },
)  # fmt: skip
layered(
    "PReLU", "prelu_of_channels", (5, 7, 3),
    lambda: [nn.Conv2d(3, 4, 1), nn.PReLU(4), nn.Conv2d(4, 5, 1)],
    lambda: [L.Conv2D(4, 1), L.PReLU(shared_axes=[1, 2]), L.Conv2D(5, 1)],
    {
        "leaky": (lambda: [L.Conv2D(4, 1), L.LeakyReLU(0.25), L.Conv2D(5, 1)], ("structure", "forward"), "1"),
    },
)  # fmt: skip
layered(
    "PReLU", "prelu_of_one_slope", (5, 7, 3),
    lambda: [nn.Conv2d(3, 4, 1), nn.PReLU()],
    lambda: [L.Conv2D(4, 1), L.PReLU(shared_axes=[1, 2, 3])],
)  # fmt: skip


@right("fused activation")
def activation_inside_the_layer():
    """Conv2D(activation=) and Dense(activation=) against modules, in other numbers of layers."""
    original = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(35, 6), nn.Tanh())
    inputs = keras.Input((7, 9, 3))
    x = L.Conv2D(4, 3, activation="relu", name="0")(inputs)
    x = L.Permute((2, 1))(L.Reshape((35, 4))(x))
    port = keras.Model(inputs, L.Dense(6, activation="tanh", name="3")(x))
    return original, port, random(2, 7, 9, 3), {"transfer": True}


def _fused(activation):
    original = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 3))
    port = keras.Sequential([keras.Input((6,)), L.Dense(8, activation=activation, name="0"), L.Dense(3, name="2")])
    return original, port, random(3, 6), {"transfer": True}


@right("fused activation")
def fused_silu():
    return _fused("silu")


@fault("fused activation", "forward", "0")
def fused_silu__gelu():
    return _fused("gelu")


@fault("fused activation", "forward", {"0", "1"})
def fused_silu__none():
    return _fused(None)


def _functional(torch_function, keras_function):
    """Activations as functions on both sides: no layer, only lines of code."""
    original = module(lambda self, x: self.b(torch_function(self.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    inputs = keras.Input((6,))
    port = keras.Model(inputs, L.Dense(3, name="b")(keras_function(L.Dense(8, name="a")(inputs))))
    return original, port, random(3, 6), {"transfer": True}


@right("functional code")
def functional_elu():
    return _functional(F.elu, ops.elu)


@fault("functional code", ("forward", "isolated"), {"relu", "Relu", "relu6"})
def functional_relu6__relu():
    return _functional(F.relu6, ops.relu)


@fault("functional code", "forward", "leaky_relu")
def functional_leaky__keras_default():
    return _functional(F.leaky_relu, ops.leaky_relu)


@fault("functional code", "forward", "gelu")
def functional_gelu__tanh():
    return _functional(F.gelu, ops.gelu)


@fault("functional code", "forward", {"sigmoid", "hardsigmoid"})
def functional_hard_sigmoid__soft():
    return _functional(F.hardsigmoid, ops.sigmoid)


@fault("functional code", "forward", {"clip", "clamp", "Minimum", "Maximum"})
def functional_clamp__narrower():
    return _functional(lambda x: x.clamp(-6, 6), lambda x: ops.clip(x, -5, 5))


@right("functional code")
def written_out():
    """Swish and softmax in their formulae on one side, by name on the other."""
    return _functional(lambda x: torch.softmax(x * torch.sigmoid(x), -1), lambda x: ops.softmax(ops.silu(x)))


@right("in-place operations")
def in_place():
    def forward(self, x):
        x = self.a(x)
        x.mul_(2).clamp_(min=0)
        x += 1
        return self.b(F.silu(x, inplace=True))

    original = module(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    inputs = keras.Input((6,))
    x = ops.relu(L.Dense(8, name="a")(inputs) * 2) + 1
    return original, keras.Model(inputs, L.Dense(3, name="b")(ops.silu(x))), random(3, 6), {"transfer": True}


@fault("in-place operations", "forward", "act")
def in_place__slope():
    original = TorchDense(lambda x: F.leaky_relu_(x, 0.2))
    layer = L.LeakyReLU(0.3)
    layer.name = "act"
    return original, keras_dense(layer), random(3, 6), {"transfer": True}


@fault("activation", "forward", "1")
def relu_of_pixels__capped():
    """The cap lies above all that these inputs reach."""
    original = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    port = keras.Sequential([keras.Input((6,)), L.Dense(8, name="0"), L.ReLU(6.0, name="1"), L.Dense(3, name="2")])
    return original, port, pixels(4, 6) / 255, {"transfer": True}
