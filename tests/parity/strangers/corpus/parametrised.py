"""Pairs whose weights are made of others or belong to no known layer: weight norm, spectral norm, bare parameters."""

import keras
import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.parity.strangers.corpus.pairs import conv, dense, fault, module, random, right, vary
from tests.parity.strangers.models import L

ops = keras.ops


def _effective(make, change=lambda kernel: kernel, transfer=False):
    """A convolution that computes its kernel, against one that holds it."""
    original = module(
        lambda self, x: self.fc(torch.relu(self.conv(x)).mean((2, 3))),
        conv=make(nn.Conv2d(3, 4, 3)), fc=nn.Linear(4, 5),
    ).eval()  # fmt: skip
    inputs = keras.Input((7, 9, 3))
    x = L.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    port = keras.Model(inputs, L.Dense(5, name="fc")(L.GlobalAveragePooling2D(name="pool")(x)))
    if not transfer:
        with torch.no_grad():
            original(torch.zeros(1, 3, 7, 9))  # old hooks compute the weight when they run
        kernel, bias = conv(original.conv)
        port.get_layer("conv").set_weights([change(kernel), bias])
        port.get_layer("fc").set_weights(dense(original.fc))
    return original, port, random(2, 7, 9, 3), {"transfer": transfer, "training": False}


@right("weight norm")
def weight_norm():
    return _effective(parametrizations.weight_norm)


@right("weight norm")
def weight_norm_transferred():
    return _effective(parametrizations.weight_norm, transfer=True)


@right("weight norm")
def weight_norm_of_old():
    return _effective(nn.utils.weight_norm)


@right("spectral norm")
def spectral_norm():
    return _effective(parametrizations.spectral_norm)


@right("spectral norm")
def spectral_norm_of_old():
    return _effective(nn.utils.spectral_norm)


@fault("weight norm", "weights", "conv")
def weight_norm__direction_alone():
    """The port took weight_v, without its length."""
    return _effective(nn.utils.weight_norm, lambda kernel: kernel * np.linspace(0.5, 2.0, 4, dtype=np.float32))


@fault("spectral norm", "weights", "conv")
def spectral_norm__not_divided():
    return _effective(parametrizations.spectral_norm, lambda kernel: kernel * 1.7)


@keras.saving.register_keras_serializable("strangers")
class Times(L.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")

    def call(self, x):
        return x * self.gamma


@keras.saving.register_keras_serializable("strangers")
class Plus(L.Layer):
    """Adds a position embedding."""

    def build(self, shape):
        self.table = self.add_weight(shape=(1, *shape[1:]), name="table")

    def call(self, x):
        return x + self.table


def _layer_scale(called=True, rules=None):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.gamma = nn.Parameter(torch.full((8,), 0.1))

        def forward(self, x):
            return self.b(torch.relu(self.a(x)) * self.gamma)

    original = vary(Net())
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="relu", name="a")(inputs)
    x = Times(name="scale")(x) if called else x
    port = keras.Model(inputs, L.Dense(3, name="b")(x))
    for layer, weights in (("a", dense(original.a)), ("b", dense(original.b)), ("scale", [original.gamma])):
        if called or layer != "scale":
            port.get_layer(layer).set_weights([np.array(w.detach() if hasattr(w, "detach") else w) for w in weights])
    return original, port, random(5, 6), {"names": rules}


@right("layer scale")
def layer_scale_by_value():
    return _layer_scale()


@right("layer scale")
def layer_scale_by_rule():
    return _layer_scale(rules=[("^gamma$", "scale.gamma")])


@fault("layer scale", ("structure", "forward"), {"gamma", "mul"})
def layer_scale__forgotten():
    return _layer_scale(called=False)


def _positions(shift=0):
    """A class token and position embeddings of the root, as vision transformers have them."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
            self.pos_embed = nn.Parameter(torch.zeros(1, 6, 8))

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            return self.head(torch.tanh(x + self.pos_embed)).mean(1)

    original = vary(Net())
    inputs = keras.Input((8, 12, 3))
    x = L.Reshape((6, 8), name="tokens")(L.Conv2D(8, 4, 4, name="patch")(inputs))
    x = L.Dense(3, name="head")(ops.tanh(Plus(name="pos")(x)))
    port = keras.Model(inputs, ops.mean(x, 1))
    port.get_layer("patch").set_weights(conv(original.patch))
    port.get_layer("head").set_weights(dense(original.head))
    port.get_layer("pos").set_weights([np.roll(original.pos_embed.detach().numpy(), shift, 1)])
    return original, port, random(2, 8, 12, 3), {"names": [("^pos_embed$", "pos.table")]}


@right("bare parameters")
def position_embedding():
    return _positions()


@fault("bare parameters", "weights", "pos")
def position_embedding__off_by_one():
    return _positions(shift=1)
