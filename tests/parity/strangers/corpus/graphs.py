"""Pairs whose point is how layers are joined: residuals, concatenation, shared layers."""

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.strangers.corpus.pairs import batch_norm, dense, fault, module, random, right, vary
from tests.parity.strangers.models import L


class Basic(nn.Module):
    """A residual block as torchvision names it."""

    def __init__(self, channels, out, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.downsample = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(Basic(4, 4), Basic(4, 4))
        self.layer2 = nn.Sequential(Basic(4, 6, 2))
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.layer2(self.layer1(F.relu(self.stem(x))))
        return self.fc(x.mean((2, 3)))


def _residual(wrong=None, naming="torch"):
    """A small residual network; its Keras names are torch's, or those of keras.applications."""

    def name(stage, block, part):
        if naming == "torch":
            return f"layer{stage}_{block}_{part}"
        parts = {"conv1": "1_conv", "bn1": "1_bn", "conv2": "2_conv", "bn2": "2_bn", "downsample_0": "0_conv",
                 "downsample_1": "0_bn"}  # fmt: skip
        return f"conv{stage + 1}_block{block + 1}_{parts[part]}"

    def padded_conv(x, filters, stride, key):
        if stride > 1 and wrong != "same":
            return L.Conv2D(filters, 3, stride, use_bias=False, name=key)(L.ZeroPadding2D(1)(x))
        return L.Conv2D(filters, 3, stride, padding="same", use_bias=False, name=key)(x)

    def block(x, stage, number, filters, stride=1):
        last = stage == 2
        first, second = (1, stride) if wrong == "stride" and last else (stride, 1)
        y = padded_conv(x, filters, first, name(stage, number, "conv1"))
        y = batch_norm(name=name(stage, number, "bn1"))(y)
        if not (wrong == "relu_left_out" and number == 1):
            y = L.ReLU()(y)
        y = padded_conv(y, filters, second, name(stage, number, "conv2"))
        y = batch_norm(name=name(stage, number, "bn2"))(y)
        if last:
            x = L.Conv2D(filters, 1, stride, use_bias=False, name=name(stage, number, "downsample_0"))(x)
            x = batch_norm(name=name(stage, number, "downsample_1"))(x)
        x = y if wrong == "no_residual" and number == 1 else L.Add()([x, y])
        return L.ReLU(name=f"{name(stage, number, 'conv2')}_out")(x)

    inputs = keras.Input((8, 10, 3))
    x = L.Conv2D(4, 3, activation="relu", name="stem")(inputs)
    x = block(block(x, 1, 0, 4), 1, 1, 4)
    x = L.GlobalAveragePooling2D()(block(x, 2, 0, 6, 2))
    port = keras.Model(inputs, L.Dense(5, name="fc")(x))
    return vary(Residual()), port, random(3, 8, 10, 3), {"transfer": True, "training": False}


@right("residual blocks")
def residual_with_names_of_torch():
    return _residual()


@right("counting rules")
def residual_with_names_of_keras_applications():
    original, port, inputs, options = _residual(naming="keras")
    rules = [
        (r"layer{s}.{i}", "conv{s+1}_block{i+1}"),
        (r"\.conv(\d)$", r"_\1_conv"),
        (r"\.bn(\d)$", r"_\1_bn"),
        (r"\.downsample\.0$", "_0_conv"),
        (r"\.downsample\.1$", "_0_bn"),
    ]
    return original, port, inputs, options | {"names": rules}


@right("order")
def residual_by_order():
    original, port, inputs, options = _residual(naming="keras")
    return original, port, inputs, options | {"names": "order"}


@right("residual blocks")
def residual_in_training():
    original, port, inputs, options = _residual()
    return original, port, inputs, options | {"training": True}


@fault("residual blocks", ("configuration", "forward"), {"layer2_0_conv1", "layer2_0_conv2"})
def residual__stride_at_the_second():
    return _residual("stride")


@fault("residual blocks", "forward", "layer2_0_conv1")
def residual__same_padding():
    return _residual("same")


@fault("residual blocks", "forward", {"layer1_1_relu", "layer1_1_conv2"})
def residual__relu_left_out():
    """Between the norm and the second convolution there is nothing."""
    return _residual("relu_left_out")


@fault("residual blocks", "forward", {"add", "layer1_1", "layer1_1_conv2_out"})
def residual__left_out():
    return _residual("no_residual")


def _sum(wrong=None):
    """Two residuals of functional code: y = a + b(a), z = y + c(y)."""

    def forward(self, x):
        x = torch.tanh(self.a(x))
        y = x + torch.tanh(self.b(x))
        return self.fc(y + torch.tanh(self.c(y)))

    original = module(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 8), fc=nn.Linear(8, 3))
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="tanh", name="a")(inputs)
    y = L.Add(name="first")([x, L.Dense(8, activation="tanh", name="b")(x)])
    into = x if wrong == "input" else y
    z = L.Dense(8, activation="tanh", name="c")(into)
    over = x if wrong == "residual" else y
    second = L.Subtract if wrong == "subtract" else L.Add
    z = second(name="second")([over, z])
    return original, keras.Model(inputs, L.Dense(3, name="fc")(z)), random(4, 6), {"transfer": True}


@right("residuals")
def residuals_of_functions():
    return _sum()


@fault("residuals", "forward", {"second", "add"})
def residuals_of_functions__from_the_wrong_place():
    return _sum("residual")


@fault("residuals", "forward", {"second", "add"})
def residuals_of_functions__subtracted():
    return _sum("subtract")


@fault("residuals", "forward", "c")
def residuals_of_functions__branch_from_the_wrong_place():
    return _sum("input")


def _branches(order=(0, 1, 2)):
    """An inception block."""

    def forward(self, x):
        return self.head(torch.cat([F.relu(self.b1(x)), F.relu(self.b3(x)), F.relu(self.b5(x))], 1))

    parts = {f"b{size}": nn.Conv2d(3, 4, size, padding=size // 2) for size in (1, 3, 5)}
    original = module(forward, **parts, head=nn.Conv2d(12, 5, 1))
    inputs = keras.Input((7, 9, 3))
    found = [L.Conv2D(4, size, padding="same", activation="relu", name=f"b{size}")(inputs) for size in (1, 3, 5)]
    x = L.Concatenate(name="cat")([found[place] for place in order])
    return original, keras.Model(inputs, L.Conv2D(5, 1, name="head")(x)), random(2, 7, 9, 3), {"transfer": True}


@right("concatenation")
def branches():
    return _branches()


@fault("concatenation", "forward", {"cat", "head"})
def branches__in_another_order():
    return _branches((0, 2, 1))


@fault("concatenation", ("structure", "forward"), {"b5", "cat"})
def branches__one_twice():
    return _branches((0, 1, 1))


def _unet(wrong=None):
    """Down, up, and a skip."""

    def forward(self, x):
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        b = F.interpolate(b, scale_factor=2, mode="nearest")
        return self.out(torch.cat([b, a], 1))

    original = module(
        forward, down1=nn.Conv2d(3, 4, 3, padding=1), down2=nn.Conv2d(4, 4, 3, padding=1), out=nn.Conv2d(8, 2, 1)
    )
    inputs = keras.Input((8, 12, 3))
    a = L.Conv2D(4, 3, padding="same", activation="relu", name="down1")(inputs)
    b = L.Conv2D(4, 3, padding="same", activation="relu", name="down2")(L.MaxPooling2D(name="pool")(a))
    b = L.UpSampling2D(interpolation="bilinear" if wrong == "bilinear" else "nearest", name="up")(b)
    skip = L.Concatenate(name="skip")([a, b] if wrong == "order" else [b, a])
    port = keras.Model(inputs, L.Conv2D(2, 1, name="out")(skip))
    return original, port, random(2, 8, 12, 3), {"transfer": True}


@right("concatenation")
def unet():
    return _unet()


@fault("concatenation", "forward", {"skip", "cat", "out"})
def unet__skip_first():
    return _unet("order")


@fault("resizing", "forward", {"up", "interpolate"})
def unet__bilinear():
    return _unet("bilinear")


def _shared(times=2):
    def forward(self, x):
        return self.fc(torch.tanh(self.step(torch.tanh(self.step(x)))))

    original = module(forward, step=nn.Linear(6, 6), fc=nn.Linear(6, 3))
    inputs = x = keras.Input((6,))
    step = L.Dense(6, activation="tanh", name="step")
    for _ in range(times):
        x = step(x)
    port = keras.Model(inputs, L.Dense(3, name="fc")(x))
    return original, port, random(4, 6), {"transfer": True}


@right("shared layers")
def shared_layer():
    return _shared()


@fault("shared layers", "forward", {"step", "step_1", "tanh"})
def shared_layer__called_once():
    return _shared(times=1)


@fault("shared layers", "forward", {"step", "step_2", "tanh"})
def shared_layer__called_three_times():
    return _shared(times=3)


@right("shared layers")
def tied_embedding():
    """A language model whose last layer is its embedding."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Embedding(20, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 20, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(torch.tanh(self.mix(self.embed(x))))

    original = Net()
    inputs = keras.Input((7,), dtype="int32")
    embed = L.ReversibleEmbedding(20, 8, name="embed")
    x = L.Dense(8, activation="tanh", name="mix")(embed(inputs))
    port = keras.Model(inputs, embed(x, reverse=True))
    embed.set_weights([original.embed.weight.detach().numpy()])
    port.get_layer("mix").set_weights(dense(original.mix))
    return original, port, np.random.default_rng(0).integers(0, 20, (3, 7)), {}
