"""Small pairs of models to make right and wrong ports of."""

import keras
import numpy as np
import torch
from torch import nn

L = keras.layers


def random(*shape, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(size=shape) * scale


class TorchDense(nn.Module):
    """(B, 6) -> (B, 3) by way of `middle`."""

    def __init__(self, middle=torch.relu):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.middle = middle

    def forward(self, x):
        return self.b(self.middle(self.a(x)))


def keras_dense(middle="relu"):
    """The same as a functional model; `middle` an activation, or a layer."""
    inputs = keras.Input((6,))
    layer = middle if isinstance(middle, L.Layer) else L.Activation(middle, name="middle")
    return keras.Model(inputs, L.Dense(3, name="b")(layer(L.Dense(8, name="a")(inputs))))


class Subclassed(keras.Model):
    """The same without a config: there is no copy in float64."""

    def __init__(self, middle=keras.ops.relu, last=None):
        super().__init__()
        self.a, self.b = L.Dense(8, name="a"), L.Dense(3, name="b")
        self.middle, self.last = middle, last
        self(np.zeros((1, 6), np.float32))

    def call(self, x, training=False):
        x = self.b(self.middle(self.a(x)))
        return x if self.last is None else self.last(x)


def torch_image(*layers):
    """A convolution of (B, 3, 8, 8) with 4 filters, and more."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers)


def keras_image(*layers):
    """The same with Keras layers, which are named by their place."""
    inputs = x = keras.Input((8, 8, 3))
    for place, layer in enumerate((L.Conv2D(4, 3), *layers)):
        layer.name = str(place)
        x = layer(x)
    return keras.Model(inputs, x)


def first(report):
    """(rung, place) of the first failure; None if there is none."""
    failure = report.first_failure
    return failure and (failure.check, failure.first_divergence)


def row(report, check):
    return next(row for row in report.rows if row.check == check)


def causes(report) -> str:
    return "\n".join(map(str, report.causes))


def image(*layers, size=(9, 11, 3)):
    """A functional model of layers."""
    inputs = x = keras.Input(size)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


class DropPath(nn.Module):
    """Leaves whole examples out of a branch."""

    def __init__(self, drop_prob):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * (torch.rand(len(x), 1, 1, 1) < keep).to(x.dtype) / keep
