"""Pairs of convolutions: of one to three dimensions, grouped, depthwise, separable, transposed."""

import numpy as np
from torch import nn

from tests.parity.strangers.corpus.pairs import array, chain, conv, fault, keras_chain, layered, random, right
from tests.parity.strangers.models import L

BEFORE = ("configuration", "forward")

layered(
    "Conv1D", "conv1d_strided", (11, 3),
    lambda: [nn.Conv1d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv1d(4, 5, 3, padding=1)],
    lambda: [L.Conv1D(4, 3, 2), L.ReLU(), L.Conv1D(5, 3, padding="same")],
    {
        "causal": (lambda: [L.Conv1D(4, 3, 2), L.ReLU(), L.Conv1D(5, 3, padding="causal")], "forward", "2"),
        "stride_at_the_second": (
            lambda: [L.Conv1D(4, 3), L.ReLU(), L.Conv1D(5, 3, 2, padding="same")], BEFORE, "0"),
    },
)  # fmt: skip
layered(
    "Conv1D", "conv1d_causal", (11, 3),
    lambda: [nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(3, 4, 3, dilation=2)],
    lambda: [None, L.Conv1D(4, 3, padding="causal", dilation_rate=2)],
    {
        "same": (lambda: [None, L.Conv1D(4, 3, padding="same", dilation_rate=2)], "forward", "1"),
        "padded_at_the_end": (lambda: [L.ZeroPadding1D((0, 4)), L.Conv1D(4, 3, dilation_rate=2)], "forward",
                              {"0", "1"}),
    },
)  # fmt: skip
layered(
    "Conv2D", "conv2d_padded_by_hand", (8, 10, 3),
    lambda: [nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1)],
    lambda: [("pad", L.ZeroPadding2D(1)), ("0", L.Conv2D(4, 3, 2)), ("1", L.ReLU()), ("2", L.Conv2D(5, 1))],
    {
        "same": (lambda: [L.Conv2D(4, 3, 2, padding="same"), L.ReLU(), L.Conv2D(5, 1)], "forward", "0"),
        "padded_at_the_end": (
            lambda: [("pad", L.ZeroPadding2D(((0, 1), (0, 1)))), ("0", L.Conv2D(4, 3, 2)), ("1", L.ReLU()),
                     ("2", L.Conv2D(5, 1))], "forward", {"pad", "0"}),
        "forgotten_bias": (
            lambda: [("pad", L.ZeroPadding2D(1)), ("0", L.Conv2D(4, 3, 2)), ("1", L.ReLU()),
                     ("2", L.Conv2D(5, 1, use_bias=False))], ("configuration", "structure"), "2"),
    },
)  # fmt: skip
layered(
    "Conv2D", "conv2d_dilated", (11, 9, 3),
    lambda: [nn.Conv2d(3, 4, 3, padding=2, dilation=2, bias=False)],
    lambda: [L.Conv2D(4, 3, padding="same", dilation_rate=2, use_bias=False)],
    {"without_dilation": (lambda: [L.Conv2D(4, 3, padding="same", use_bias=False)], BEFORE, "0")},
)  # fmt: skip
layered(
    "Conv2D", "conv2d_of_unequal_sides", (8, 10, 3),
    lambda: [nn.Conv2d(3, 4, (3, 5), stride=(1, 2), padding=(1, 0))],
    lambda: [("pad", L.ZeroPadding2D((1, 0))), ("0", L.Conv2D(4, (3, 5), (1, 2)))],
    {
        "strides_exchanged": (
            lambda: [("pad", L.ZeroPadding2D((1, 0))), ("0", L.Conv2D(4, (3, 5), (2, 1)))], BEFORE, "0"),
        "padding_exchanged": (
            lambda: [("pad", L.ZeroPadding2D((0, 1))), ("0", L.Conv2D(4, (3, 5), (1, 2)))], "forward", {"pad", "0"}),
    },
)  # fmt: skip
layered(
    "Conv2D", "conv2d_pointwise_as_dense", (5, 7, 3),
    lambda: [nn.Conv2d(3, 4, 1), nn.GELU(), nn.Conv2d(4, 6, 1)],
    lambda: [L.Dense(4), L.Activation("gelu"), L.Dense(6)],
)  # fmt: skip
layered(
    "Conv2D", "conv2d_padded_by_reflection", (8, 10, 3),
    lambda: [nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")],
    lambda: [("pad", L.Lambda(lambda x: _wrapped(x))), ("0", L.Conv2D(4, 3))],
    {"zeros": (lambda: [L.Conv2D(4, 3, padding="same")], "forward", "0")},
)  # fmt: skip
layered(
    "grouped convolution", "grouped", (7, 9, 4),
    lambda: [nn.Conv2d(4, 6, 3, groups=2)],
    lambda: [L.Conv2D(6, 3, groups=2)],
)  # fmt: skip
layered(
    "depthwise convolution", "depthwise_with_multiplier", (7, 9, 4),
    lambda: [nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.ReLU6()],
    lambda: [L.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), L.ReLU(6.0)],
    {"valid": (lambda: [L.DepthwiseConv2D(3, depth_multiplier=2), L.ReLU(6.0)], "forward", "0")},
)  # fmt: skip
layered(
    "depthwise convolution", "depthwise_1d", (12, 5),
    lambda: [nn.Conv1d(5, 5, 3, groups=5, stride=2)],
    lambda: [L.DepthwiseConv1D(3, 2)],
    {"strides": (lambda: [L.DepthwiseConv1D(3)], BEFORE, "0")},
)  # fmt: skip
layered(
    "Conv3D", "conv3d", (5, 6, 7, 2),
    lambda: [nn.Conv3d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 4, (1, 2, 3))],
    lambda: [L.Conv3D(3, 3, padding="same"), L.ReLU(), L.Conv3D(4, (1, 2, 3))],
    {
        "same_twice": (lambda: [L.Conv3D(3, 3, padding="same"), L.ReLU(), L.Conv3D(4, (1, 2, 3), padding="same")],
                       "forward", "2"),
    },
)  # fmt: skip
layered(
    "transposed convolution", "transposed_same", (5, 7, 3),
    lambda: [nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1)],
    lambda: [L.Conv2DTranspose(4, 4, 2, padding="same")],
    {"another_stride": (lambda: [L.Conv2DTranspose(4, 4, 3, padding="same")], BEFORE, "0")},
)  # fmt: skip
layered(
    "transposed convolution", "transposed_with_output_padding", (5, 7, 3),
    lambda: [nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), nn.ReLU()],
    lambda: [("0", L.Conv2DTranspose(4, 3, 2)), ("crop", L.Cropping2D(((1, 0), (1, 0)))), ("1", L.ReLU())],
    {
        "cropped_at_the_end": (
            lambda: [("0", L.Conv2DTranspose(4, 3, 2)), ("crop", L.Cropping2D(((0, 1), (0, 1)))), ("1", L.ReLU())],
            "forward", {"0", "crop"}),
        "same": (lambda: [L.Conv2DTranspose(4, 3, 2, padding="same"), L.ReLU()], "forward", "0"),
    },
)  # fmt: skip
layered(
    "transposed convolution", "transposed_1d_without_bias", (9, 3),
    lambda: [nn.ConvTranspose1d(3, 5, 4, stride=2, bias=False), nn.Tanh()],
    lambda: [L.Conv1DTranspose(5, 4, 2, use_bias=False), L.Activation("tanh")],
    {"relu": (lambda: [L.Conv1DTranspose(5, 4, 2, use_bias=False), L.ReLU()], "forward", "1")},
)  # fmt: skip


def _wrapped(x):
    import keras

    x = keras.ops.concatenate([x[:, -1:], x, x[:, :1]], 1)
    return keras.ops.concatenate([x[:, :, -1:], x, x[:, :, :1]], 2)


def _separable(changed=None):
    original = chain(nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False), nn.Conv2d(6, 5, 1), nn.ReLU())
    port = keras_chain(
        (7, 9, 3), ("sep", L.SeparableConv2D(5, 3, depth_multiplier=2, padding="same")), ("act", L.ReLU())
    )
    depthwise = array(original[0].weight).reshape(3, 2, 3, 3).transpose(2, 3, 0, 1)  # (rows, columns, in, multiplier)
    pointwise, bias = conv(original[1])
    kernels = {"depthwise": depthwise, "pointwise": pointwise, "bias": bias}
    if changed:
        kernels |= changed(kernels)
    port.get_layer("sep").set_weights([kernels[name] for name in ("depthwise", "pointwise", "bias")])
    return original, port, random(2, 7, 9, 3), {"names": [("^0$", "sep_depthwise"), ("^1$", "sep_pointwise")]}


@right("separable convolution")
def separable():
    return _separable()


@fault("separable convolution", "weights", {"sep", "sep_depthwise"})
def separable__multiplier_before_channels():
    """The depthwise kernel's output channels lie as (channels, multiplier), not the other way round."""
    return _separable(lambda k: {"depthwise": k["depthwise"].reshape(3, 3, 2, 3).transpose(0, 1, 3, 2)})


@fault("separable convolution", "weights", {"sep", "sep_pointwise"})
def separable__pointwise_of_another_order():
    return _separable(lambda k: {"pointwise": k["pointwise"][:, :, ::-1]})


def _by_hand(change):
    """Two convolutions whose weights were ported by hand; the kernels are square, so that any order fits."""
    original = chain(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    port = keras_chain((6, 9, 4), L.Conv2D(4, 3, padding="same"), L.ReLU(), L.Conv2D(4, 3, padding="same"))
    port.get_layer("0").set_weights(conv(original[0]))
    kernel, bias = conv(original[2])
    port.get_layer("2").set_weights([change(kernel), bias])
    return original, port, random(2, 6, 9, 4), {}


@right("Conv2D")
def conv2d_by_hand():
    return _by_hand(lambda kernel: kernel)


@fault("Conv2D", "weights", "2")
def conv2d_by_hand__flipped():
    return _by_hand(lambda kernel: kernel[::-1, ::-1])


@fault("Conv2D", "weights", "2")
def conv2d_by_hand__rows_for_columns():
    return _by_hand(lambda kernel: kernel.transpose(1, 0, 2, 3))


@fault("Conv2D", "weights", "2")
def conv2d_by_hand__inputs_for_outputs():
    return _by_hand(lambda kernel: kernel.transpose(0, 1, 3, 2))


@fault("Conv2D", "weights", "2")
def conv2d_by_hand__half_precision_on_the_way():
    return _by_hand(lambda kernel: kernel.astype(np.float16).astype(np.float32))


@fault("transposed convolution", "weights", "0")
def transposed_by_hand__flipped():
    """People flip the kernel who read that Keras's is the gradient of a convolution; torch's is too."""
    original = chain(nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1))
    port = keras_chain((5, 7, 3), L.Conv2DTranspose(4, 4, 2, padding="same"))
    kernel = array(original[0].weight).transpose(2, 3, 1, 0)
    port.get_layer("0").set_weights([kernel[::-1, ::-1], array(original[0].bias)])
    return original, port, random(2, 5, 7, 3), {}


@right("transposed convolution")
def transposed_by_hand():
    original = chain(nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1))
    port = keras_chain((5, 7, 3), L.Conv2DTranspose(4, 4, 2, padding="same"))
    port.get_layer("0").set_weights([array(original[0].weight).transpose(2, 3, 1, 0), array(original[0].bias)])
    return original, port, random(2, 5, 7, 3), {}
