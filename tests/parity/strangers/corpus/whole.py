"""Pairs of whole small models: nested, subclassed, with a flattened feature map, channels last inside torch."""

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.strangers.corpus.pairs import batch_norm, conv, dense, fault, module, norm, random, right, vary
from tests.parity.strangers.models import L

ops = keras.ops


def _nested(activation="relu"):
    """A model in a model: the backbone has names of its own."""
    backbone = nn.Sequential()
    backbone.add_module("conv1", nn.Conv2d(3, 4, 3))
    backbone.add_module("act", nn.ReLU())
    backbone.add_module("conv2", nn.Conv2d(4, 5, 1))
    original = module(lambda self, x: self.head(self.backbone(x).amax((2, 3))), backbone=backbone, head=nn.Linear(5, 3))
    image = keras.Input((7, 9, 3))
    x = L.Activation(activation, name="act")(L.Conv2D(4, 3, name="conv1")(image))
    inner = keras.Model(image, L.Conv2D(5, 1, name="conv2")(x), name="backbone")
    inputs = keras.Input((7, 9, 3))
    port = keras.Model(inputs, L.Dense(3, name="head")(L.GlobalMaxPooling2D(name="pool")(inner(inputs))))
    return original, port, random(2, 7, 9, 3), {"transfer": True}


@right("nested models")
def nested():
    return _nested()


@fault("nested models", "forward", "backbone_act")
def nested__activation():
    return _nested("elu")


class Subclassed(keras.Model):
    """A port as a class, without a config."""

    def __init__(self, activation):
        super().__init__()
        self.conv = L.Conv2D(4, 3, name="conv")
        self.norm = batch_norm(name="norm")
        self.fc = L.Dense(5, name="fc")
        self.activation = activation

    def call(self, x, training=False):
        x = self.activation(self.norm(self.conv(x), training=training))
        return self.fc(ops.mean(x, (1, 2)))


def _subclassed(activation=ops.relu):
    original = module(
        lambda self, x: self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3))),
        conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 5),
    )  # fmt: skip
    port = Subclassed(activation)
    port(np.zeros((1, 7, 9, 3), np.float32))
    port.conv.set_weights(conv(original.conv))
    port.norm.set_weights(norm(original.norm))
    port.fc.set_weights(dense(original.fc))
    return original, port, random(3, 7, 9, 3), {}


@right("subclassed models")
def subclassed():
    return _subclassed()


@fault("subclassed models", "forward", {"relu", "elu", "Elu"})
def subclassed__elu():
    return _subclassed(ops.elu)


def _flattened(rows="permuted"):
    """A classifier on a flattened feature map; torch's rows are (C, H, W), Keras's (H, W, C)."""
    original = module(lambda self, x: self.fc(torch.relu(self.conv(x)).flatten(1)), conv=nn.Conv2d(3, 4, 3),
                      fc=nn.Linear(4 * 5 * 7, 6))  # fmt: skip
    inputs = keras.Input((7, 9, 3))
    layers = L.Conv2D(4, 3, activation="relu", name="conv"), L.Dense(6, name="fc")
    x = layers[0](inputs)
    if rows == "transposed in the model":
        x = ops.transpose(x, (0, 3, 1, 2))
    port = keras.Model(inputs, layers[1](L.Flatten(name="flatten")(x)))
    layers[0].set_weights(conv(original.conv))
    kernel, bias = dense(original.fc)
    kernel = kernel.reshape(4, 5, 7, 6)
    order = {"permuted": (1, 2, 0, 3), "columns before rows": (2, 1, 0, 3)}.get(rows, (0, 1, 2, 3))
    layers[1].set_weights([kernel.transpose(order).reshape(-1, 6), bias])
    return original, port, random(2, 7, 9, 3), {}


@right("flatten")
def flattened_with_permuted_rows():
    return _flattened()


@right("flatten")
def flattened_in_the_order_of_torch():
    return _flattened("transposed in the model")


@fault("flatten", "forward", {"fc", "flatten"})
def flattened__rows_as_they_were():
    return _flattened("naive")


@fault("flatten", ("weights", "forward"), {"fc", "flatten"})
def flattened__columns_before_rows():
    return _flattened("columns before rows")


def _channels_last(epsilon=1e-6, activation="gelu"):
    """A ConvNeXt block: channels last inside torch, with a layer scale that is a bare parameter."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.dwconv, self.norm = nn.Conv2d(4, 4, 7, padding=3, groups=4), nn.LayerNorm(4, eps=1e-6)
            self.pwconv1, self.pwconv2 = nn.Linear(4, 16), nn.Linear(16, 4)
            self.gamma = nn.Parameter(torch.ones(4))

        def forward(self, x):
            y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
            y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
            return x + y.permute(0, 3, 1, 2)

    @keras.saving.register_keras_serializable("strangers")
    class LayerScale(L.Layer):
        def build(self, shape):
            self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")

        def call(self, x):
            return x * self.gamma

    original = vary(Net())
    inputs = keras.Input((9, 11, 4))
    x = L.DepthwiseConv2D(7, padding="same", name="dwconv")(inputs)
    x = L.LayerNormalization(epsilon=epsilon, name="norm")(x)
    scale = LayerScale(name="scale")
    x = scale(L.Dense(4, name="pwconv2")(L.Dense(16, activation=activation, name="pwconv1")(x)))
    port = keras.Model(inputs, L.Add(name="add")([inputs, x]))
    options = {"names": {"torch": [], "keras": [("^scale$", "")]}, "transfer": True}
    return original, port, random(2, 9, 11, 4), options


@right("channels last inside torch")
def convnext_block():
    return _channels_last()


@fault("channels last inside torch", "configuration", "norm")
def convnext_block__epsilon():
    return _channels_last(epsilon=1e-3)


@fault("channels last inside torch", "forward", {"pwconv1", "gelu"})
def convnext_block__silu():
    return _channels_last(activation="silu")
