"""Pairs of norms: batch, layer, group, instance and RMS norm, frozen, folded, without scale."""

import keras
import numpy as np
import torch
from torch import nn

from tests.parity.strangers.corpus.pairs import (
    batch_norm,
    chain,
    conv,
    fault,
    keras_chain,
    layered,
    module,
    norm,
    random,
    right,
)
from tests.parity.strangers.models import L

ops = keras.ops


def _conv_norm(made):
    return lambda: [L.Conv2D(4, 3), made(), L.ReLU()]


layered(
    "BatchNormalization", "batch_norm_2d", (7, 9, 3),
    lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()],
    _conv_norm(batch_norm),
    {
        "keras_epsilon": (_conv_norm(lambda: batch_norm(epsilon=1e-3)), "configuration", "1"),
        "torch_momentum": (_conv_norm(lambda: batch_norm(momentum=0.1)), "configuration", "1"),
        "keras_momentum": (_conv_norm(lambda: batch_norm(momentum=0.99)), "configuration", "1"),
        "over_rows": (_conv_norm(lambda: batch_norm(axis=1)), ("structure", "forward"), "1"),
        "frozen": (_conv_norm(lambda: batch_norm(trainable=False)), "batch_norm", "1"),
        "left_out": (lambda: [L.Conv2D(4, 3), None, L.ReLU()], "structure", "1"),
        "after_the_activation": (
            lambda: [("0", L.Conv2D(4, 3)), ("2", L.ReLU()), ("1", batch_norm())], "forward", {"1", "2"}),
    },
)  # fmt: skip
layered(
    "BatchNormalization", "batch_norm_1d", (6,),
    lambda: [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)],
    lambda: [L.Dense(8), batch_norm(), L.Dense(3)],
    {"layer_norm": (lambda: [L.Dense(8), L.LayerNormalization(epsilon=1e-5), L.Dense(3)],
                    ("configuration", "structure", "forward"), "1")},
)  # fmt: skip
layered(
    "BatchNormalization", "batch_norm_without_scale", (7, 9, 3),
    lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)],
    lambda: [L.Conv2D(4, 3), batch_norm(center=False, scale=False)],
    training=False,
)  # fmt: skip
layered(
    "BatchNormalization", "batch_norm_at_inference", (7, 9, 3),
    lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None)],
    lambda: [L.Conv2D(4, 3), batch_norm(momentum=0.99)],
    training=False,
)  # fmt: skip
layered(
    "LayerNormalization", "layer_norm", (5, 6),
    lambda: [nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)],
    lambda: [L.Dense(8), L.LayerNormalization(epsilon=1e-5), L.Dense(3)],
    {
        "keras_epsilon": (lambda: [L.Dense(8), L.LayerNormalization(), L.Dense(3)], "configuration", "1"),
        "over_time": (lambda: [L.Dense(8), L.LayerNormalization(axis=1, epsilon=1e-5), L.Dense(3)],
                      ("structure", "forward"), "1"),
    },
)  # fmt: skip
layered(
    "LayerNormalization", "layer_norm_of_bare_numbers", (5, 6),
    lambda: [nn.Linear(6, 8), nn.LayerNorm(8, elementwise_affine=False)],
    lambda: [L.Dense(8), L.LayerNormalization(epsilon=1e-5, center=False, scale=False)],
)  # fmt: skip
layered(
    "GroupNormalization", "group_norm", (5, 7, 3),
    lambda: [nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.SiLU()],
    lambda: [L.Conv2D(6, 1), L.GroupNormalization(2, epsilon=1e-5), L.Activation("silu")],
    {
        "number_of_groups": (
            lambda: [L.Conv2D(6, 1), L.GroupNormalization(3, epsilon=1e-5), L.Activation("silu")],
            ("configuration", "forward"), "1"),
        "keras_epsilon": (
            lambda: [L.Conv2D(6, 1), L.GroupNormalization(2), L.Activation("silu")], "configuration", "1"),
    },
)  # fmt: skip
layered(
    "instance norm", "instance_norm", (5, 7, 3),
    lambda: [nn.Conv2d(3, 6, 1), nn.InstanceNorm2d(6, affine=True)],
    lambda: [L.Conv2D(6, 1), L.GroupNormalization(-1, epsilon=1e-5)],
    {"one_group": (lambda: [L.Conv2D(6, 1), L.GroupNormalization(1, epsilon=1e-5)], ("configuration", "forward"),
                   "1")},
)  # fmt: skip
layered(
    "RMSNormalization", "rms_norm", (5, 6),
    lambda: [nn.Linear(6, 8), nn.RMSNorm(8, eps=1e-6), nn.Linear(8, 3)],
    lambda: [L.Dense(8), L.RMSNormalization(epsilon=1e-6), L.Dense(3)],
    {"epsilon": (lambda: [L.Dense(8), L.RMSNormalization(epsilon=1e-2), L.Dense(3)], ("configuration", "forward"),
                 "1")},
)  # fmt: skip


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of (B, C, H, W)."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


layered(
    "LayerNormalization", "layer_norm_of_channels", (5, 7, 3),
    lambda: [nn.Conv2d(3, 6, 2, 2), LayerNorm2d(6, eps=1e-6)],
    lambda: [L.Conv2D(6, 2, 2), L.LayerNormalization(epsilon=1e-6)],
    {"of_everything": (lambda: [L.Conv2D(6, 2, 2), L.GroupNormalization(1, epsilon=1e-6)], "forward", "1")},
)  # fmt: skip


class FrozenBatchNorm2d(nn.Module):
    """As detection models have it: four buffers, no parameter."""

    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def _frozen(**changed):
    original = chain(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4), nn.ReLU())
    port = keras_chain((7, 9, 3), L.Conv2D(4, 3), batch_norm(trainable=False, **changed), L.ReLU())
    port.get_layer("0").set_weights(conv(original[0]))
    port.get_layer("1").set_weights(norm(original[1]))
    return original, port, random(3, 7, 9, 3), {"training": False}


@right("BatchNormalization")
def frozen_batch_norm():
    return _frozen()


@fault("BatchNormalization", ("configuration", "forward"), "1")
def frozen_batch_norm__epsilon():
    return _frozen(epsilon=1e-3)


def _folded(wrong=1.0):
    """The port has the norm inside the convolution."""
    original = chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    port = keras_chain((7, 9, 3), L.Conv2D(4, 3), None, L.ReLU())
    (kernel, bias), (gamma, beta, mean, variance) = conv(original[0]), norm(original[1])
    scale = gamma / np.sqrt(variance + 1e-5 * wrong)
    port.get_layer("0").set_weights([kernel * scale, (bias - mean) * scale + beta])
    return original, port, random(3, 7, 9, 3), {"training": False, "ignore": ["^1"]}


@right("BatchNormalization")
def norm_inside_the_convolution():
    return _folded()


@fault("BatchNormalization", ("weights", "forward"), "0")
def norm_inside_the_convolution__epsilon():
    return _folded(wrong=1000.0)


def _by_hand(order=(0, 1, 2, 3)):
    """A port by hand whose norms have other names."""
    original = module(
        lambda self, x: torch.relu(self.norm(self.conv(x))), conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)
    )
    inputs = keras.Input((7, 9, 3))
    layers = L.Conv2D(4, 3, name="conv"), batch_norm(name="norm")
    port = keras.Model(inputs, ops.relu(layers[1](layers[0](inputs))))
    layers[0].set_weights(conv(original.conv))
    weights = norm(original.norm)
    layers[1].set_weights([weights[place] for place in order])
    return original, port, random(3, 7, 9, 3), {}


@right("BatchNormalization")
def batch_norm_by_hand():
    return _by_hand()


@fault("BatchNormalization", "weights", "norm")
def batch_norm_by_hand__gamma_for_beta():
    return _by_hand((1, 0, 2, 3))


@fault("BatchNormalization", "weights", "norm")
def batch_norm_by_hand__mean_for_beta():
    return _by_hand((0, 2, 1, 3))


@fault("BatchNormalization", "weights", "norm")
def batch_norm_by_hand__statistics_of_a_fresh_layer():
    original, port, inputs, options = _by_hand()
    layer = port.get_layer("norm")
    layer.moving_mean.assign(np.zeros(4))
    layer.moving_variance.assign(np.ones(4))
    return original, port, inputs, options


def _rms(root):
    """RMS norm as functional code with a bare parameter."""

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, x):
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale

    @keras.saving.register_keras_serializable("strangers")
    class Port(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), name="scale")

        def call(self, x):
            return x * root(ops.mean(x * x, -1, keepdims=True)) * self.scale

    original = chain(nn.Linear(6, 8), Norm(), nn.Linear(8, 3))
    return original, keras_chain((5, 6), L.Dense(8), Port(), L.Dense(3)), random(2, 5, 6), {"transfer": True}


@right("RMSNormalization")
def rms_norm_written_out():
    return _rms(lambda square: ops.rsqrt(square + 1e-6))


@fault("RMSNormalization", "forward", "1")
def rms_norm_written_out__epsilon_outside_the_root():
    return _rms(lambda square: 1 / (ops.sqrt(square) + 1e-2))
