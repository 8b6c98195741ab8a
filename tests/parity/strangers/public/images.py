"""Reported faults of convolutions, poolings, norms and activations of images."""

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.strangers.corpus.pairs import array, batch_norm, chain, conv, keras_chain, module, norm, random, vary
from tests.parity.strangers.models import L
from tests.parity.strangers.public.reported import reported

ops = keras.ops
TRANSFER = {"transfer": True}


@reported(
    "keras-team/keras/issues/19291", "`same` for padding 1 where a convolution strides", "forward", "0",
    "padding ((1, 1), (1, 1))", "padding ((0, 1), (0, 1))",
)  # fmt: skip
def padding_of_a_strided_convolution(wrong):
    original = chain(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
    layers = [None, ("0", L.Conv2D(4, 3, 2, "same")), ("1", L.ReLU())]
    if not wrong:
        layers[:2] = [("pad", L.ZeroPadding2D(1)), ("0", L.Conv2D(4, 3, 2))]
    return original, keras_chain((8, 10, 3), *layers), random(2, 8, 10, 3), TRANSFER


@reported(
    "AxisCommunications/onnx-to-keras/issues/31", "a maximum over windows that are padded with zeros", "forward", "1",
    "filled with nothing", "filled with zeros",
)  # fmt: skip
def maximum_over_zeros(wrong):
    original = chain(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1))
    layers = [("0", L.Conv2D(4, 3)), ("1", L.MaxPooling2D(3, 2, "same"))]
    if wrong:
        layers[1:] = [("pad", L.ZeroPadding2D(1)), ("1", L.MaxPooling2D(3, 2))]
    return original, keras_chain((9, 11, 3), *layers), random(2, 9, 11, 3) - 1.0, TRANSFER


@reported(
    "microsoft/MMdnn/issues/909", "an average that leaves its padding out", "forward", "1",
    "which is counted", "which is not counted",
)  # fmt: skip
def average_without_its_padding(wrong):
    original = chain(nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, 1))
    layers = [("0", L.Conv2D(4, 3)), ("1", L.AveragePooling2D(3, 2, "same"))]
    if not wrong:
        layers[1:] = [("pad", L.ZeroPadding2D(1)), ("1", L.AveragePooling2D(3, 2))]
    return original, keras_chain((9, 11, 3), *layers), random(2, 9, 11, 3), TRANSFER


@reported(
    "PINTO0309/onnx2tf/pull/211", "an average whose last windows count what `ceil_mode` adds", "forward", "1",
    "which is not counted", "which is counted",
)  # fmt: skip
def average_beyond_the_edge(wrong):
    original = chain(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2, 2, ceil_mode=True))
    layers = [("0", L.Conv2D(4, 3)), ("1", L.AveragePooling2D(2, 2, "same"))]
    if wrong:
        layers[1:] = [("pad", L.ZeroPadding2D(((0, 1), (0, 1)))), ("1", L.AveragePooling2D(2, 2))]
    return original, keras_chain((9, 11, 3), *layers), random(2, 9, 11, 3), TRANSFER


@reported(
    "pytorch/pytorch/issues/10604", "bilinear enlarging with and without aligned corners", "forward",
    {"up", "interpolate"}, "bilinear interpolation with aligned corners", "bilinear interpolation",
)  # fmt: skip
def aligned_corners(wrong):
    original = module(
        lambda self, x: F.interpolate(self.conv(x), scale_factor=2, mode="bilinear", align_corners=wrong),
        conv=nn.Conv2d(3, 4, 3),
    )
    layers = ("conv", L.Conv2D(4, 3)), ("up", L.UpSampling2D(2, interpolation="bilinear"))
    return original, keras_chain((7, 9, 3), *layers), random(2, 7, 9, 3), TRANSFER


@reported(
    "PINTO0309/onnx2tf/issues/91", "channels to space in the other order of channels", "forward",
    {"shuffle", "pixel_shuffle", "1"}, "order",
)  # fmt: skip
def pixel_shuffle(wrong):
    def shuffled(x):
        blocks = (2, 2, 3) if wrong else (3, 2, 2)
        x = ops.reshape(x, (-1, 5, 7, *blocks))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5) if wrong else (0, 1, 4, 2, 5, 3))
        return ops.reshape(x, (-1, 10, 14, 3))

    original = chain(nn.Conv2d(3, 12, 3), nn.PixelShuffle(2))
    layers = ("0", L.Conv2D(12, 3)), ("1", L.Lambda(shuffled))
    return original, keras_chain((7, 9, 3), *layers), random(2, 7, 9, 3), TRANSFER


@reported(
    "PINTO0309/onnx2tf/issues/180", "rows and columns exchanged in one branch before a concatenation", "forward",
    {"join", "cat", "turn", "transpose", "head"}, "rows and columns are exchanged in channels 4 to 7 of 8",
)  # fmt: skip
def branch_on_its_side(wrong):
    original = module(
        lambda self, x: self.head(torch.cat([self.a(x), self.b(x)], 1)),
        a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3), head=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    inputs = keras.Input((8, 8, 3))
    a, b = (L.Conv2D(4, 3, name=name)(inputs) for name in "ab")
    b = L.Permute((2, 1, 3), name="turn")(b) if wrong else b
    port = keras.Model(inputs, L.Conv2D(2, 1, name="head")(L.Concatenate(name="join")([a, b])))
    return original, port, random(2, 8, 8, 3), TRANSFER


@reported(
    "gmalivenko/pytorch2keras/issues/7", "a transposed convolution that is cropped at another side", "forward", "0",
    "crop",
)  # fmt: skip
def crop_of_a_transposed_convolution(wrong):
    original = chain(nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1), nn.ReLU())
    layers = [("0", L.Conv2DTranspose(4, 3, 2, "same")), ("1", L.ReLU())]
    if not wrong:
        layers[:1] = [("0", L.Conv2DTranspose(4, 3, 2)), ("crop", L.Cropping2D(((1, 0), (1, 0))))]
    return original, keras_chain((5, 7, 3), *layers), random(2, 5, 7, 3), TRANSFER


@reported(
    "pytorch/vision/issues/191", "a bottleneck that strides in its first 1x1 convolution", "configuration", "0",
    "strides is (1, 1) in the reference and (2, 2)", "strides is (2, 2) in the reference and (1, 1)",
)  # fmt: skip
def stride_in_the_first_convolution(wrong):
    original = chain(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1, bias=False))
    strides = (2, 1) if wrong else (1, 2)
    layers = (
        ("0", L.Conv2D(6, 1, strides[0], use_bias=False)), ("1", batch_norm()), ("2", L.ReLU()),
        ("pad", L.ZeroPadding2D(1)), ("3", L.Conv2D(6, 3, strides[1], use_bias=False)),
    )  # fmt: skip
    return original, keras_chain((9, 11, 4), *layers), random(2, 9, 11, 4), TRANSFER


@reported(
    "PaddlePaddle/Paddle/issues/44820", "a hard sigmoid of slope 0.2 for one of 1/6", "forward", "1",
    "computes hard sigmoid,", "hard sigmoid of slope 0.2",
)  # fmt: skip
def slope_of_a_hard_sigmoid(wrong):
    original = chain(nn.Conv2d(3, 4, 3), nn.Hardsigmoid())
    gate = (lambda x: ops.clip(0.2 * x + 0.5, 0, 1)) if wrong else "hard_sigmoid"
    layers = ("0", L.Conv2D(4, 3)), ("1", L.Activation(gate))
    return original, keras_chain((7, 9, 3), *layers), random(2, 7, 9, 3, scale=4), TRANSFER


@reported(
    "jinyu121/DW2TF/issues/2", "the framework's own slope and epsilon", "configuration", "1",
    "epsilon is 1e-05 in the reference and 0.001", "leaky ReLU of slope 0.1, the candidate leaky ReLU of slope 0.2",
)  # fmt: skip
def defaults_of_the_framework(wrong):
    original = chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.1))
    epsilon, slope = (1e-3, 0.2) if wrong else (1e-5, 0.1)
    layers = ("0", L.Conv2D(4, 3)), ("1", batch_norm(epsilon=epsilon)), ("2", L.LeakyReLU(negative_slope=slope))
    return original, keras_chain((7, 9, 3), *layers), random(2, 7, 9, 3), TRANSFER


@reported(
    "huggingface/pytorch-image-models/issues/1090", "a layer norm of the unbiased variance", "forward",
    {"norm", "layer_norm"}, "over the last axis", "unbiased",
)  # fmt: skip
def unbiased_layer_norm(wrong):
    class ChannelNorm(nn.LayerNorm):
        def forward(self, x):
            variance, mean = torch.var_mean(x, 1, unbiased=wrong, keepdim=True)
            return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight[:, None, None] + self.bias[:, None, None]

    class Original(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    models = [
        module(lambda self, x: self.head(self.norm(self.stem(x))), stem=nn.Conv2d(3, 6, 2, 2), norm=kind(6),
               head=nn.Conv2d(6, 2, 1)) for kind in (Original, ChannelNorm)
    ]  # fmt: skip
    models[1].load_state_dict(models[0].state_dict())
    return *models, random(2, 8, 10, 3), {}


@reported(
    "mil-tokyo/webdnn/issues/284", "a dilation that was ignored", "forward", "0", "dilation 2", "dilation 1",
)  # fmt: skip
def ignored_dilation(wrong):
    inputs = keras.Input((9, 11, 3))
    x = L.ReLU(name="1")(L.Conv2D(4, 3, padding="same", dilation_rate=2, name="0")(inputs))
    rate = 1 if wrong else 2
    port = chain(nn.Conv2d(3, 4, 3, padding=rate, dilation=rate), nn.ReLU())
    return keras.Model(inputs, x), port, random(2, 9, 11, 3), TRANSFER


@reported(
    "UpStride/classification-api/pull/12", "a batch norm over the wrong axis", "forward", "1", "axis",
)  # fmt: skip
def axis_of_a_batch_norm(wrong):
    original = chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())  # as many columns as channels: no shape tells
    layers = ("0", L.Conv2D(4, 3)), ("1", batch_norm(axis=2 if wrong else -1)), ("2", L.ReLU())
    return original, keras_chain((7, 6, 3), *layers), random(2, 7, 6, 3), TRANSFER | {"training": False}


@reported(
    "keunwoochoi/transfer_learning_music/issues/2", "deviations that were read as variances", "weights", "1",
    "square root",
)  # fmt: skip
def deviation_for_variance(wrong):
    original = chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    original[1].running_var.uniform_(0.5, 2)
    port = keras_chain((7, 9, 3), ("0", L.Conv2D(4, 3)), ("1", batch_norm()))
    port.get_layer("0").set_weights(conv(original[0]))
    *others, variance = norm(original[1])
    port.get_layer("1").set_weights([*others, np.sqrt(variance) if wrong else variance])
    return original, port, random(2, 7, 9, 3), {}


@reported(
    "open-mmlab/mmpretrain/pull/193", "squeeze and excite behind the activation instead of before it", "forward",
    {"act", "squeeze", "mean", "relu"}, "before",
)  # fmt: skip
def activation_before_the_gate(wrong):
    def forward(self, x):
        x = self.norm(self.conv(x))
        return F.hardswish(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())

    original = module(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), gate=nn.Conv2d(4, 4, 1))
    inputs = keras.Input((7, 9, 3))
    act = L.Activation("hard_silu", name="act")
    x = batch_norm(name="norm")(L.Conv2D(4, 3, name="conv")(inputs))
    x = act(x) if wrong else x
    gate = L.Conv2D(4, 1, activation="sigmoid", name="gate")(L.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x))
    x = L.Multiply(name="excite")([x, gate])
    return original, keras.Model(inputs, x if wrong else act(x)), random(2, 7, 9, 3), TRANSFER


@reported(
    "PINTO0309/onnx2tf/issues/418", "slopes of channels that were given to columns", "forward", "1",
    "slopes lie along axis 3", "along axis 2",
)  # fmt: skip
def slopes_of_columns(wrong):
    original = chain(nn.Conv2d(3, 4, 3), nn.PReLU(4))
    port = keras_chain((6, 6, 3), ("0", L.Conv2D(4, 3)), ("1", L.PReLU(shared_axes=[1, 3] if wrong else [1, 2])))
    port.get_layer("0").set_weights(conv(original[0]))
    slopes = array(original[1].weight)
    port.get_layer("1").set_weights([slopes.reshape((1, 4, 1) if wrong else (1, 1, 4))])
    return original, port, random(2, 6, 6, 3), {}


@reported(
    "google-ai-edge/litert-torch/issues/1238", "a constant that was read in the order of its memory", "forward",
    {"scale", "mul"}, "order",
)  # fmt: skip
def constant_in_memory_order(wrong):
    stored = np.random.default_rng(5).uniform(0.5, 1.5, (6, 5)).astype("float32")
    constant = torch.from_numpy(stored).T  # a view: shape (5, 6), memory of (6, 5)
    held = stored.reshape(5, 6) if wrong else stored.T
    original = module(lambda self, x: self.fc(x) * constant.to(x.dtype), fc=nn.Linear(4, 6))
    layers = ("fc", L.Dense(6)), ("scale", L.Lambda(lambda x: x * ops.cast(held, x.dtype)))
    return original, keras_chain((5, 4), *layers), random(2, 5, 4), TRANSFER


@reported(
    "AlexanderLutsenko/nobuco/issues/37", "two inputs that are exchanged", "forward", {"first", "second"},
    "first: the reference feeds it input 1, the candidate input 2", "second: the reference feeds it input 2",
)  # fmt: skip
def exchanged_inputs(wrong):
    original = vary(Sum())
    inputs = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    a, b = inputs[::-1] if wrong else inputs
    total = L.Add(name="sum")([L.Dense(3, name="first")(a), L.Dense(3, name="second")(b)])
    given = random(4, 6), random(4, 6, seed=1)
    return original, keras.Model(list(inputs), total), given, TRANSFER


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, a, b):
        return self.first(a) + self.second(b)
