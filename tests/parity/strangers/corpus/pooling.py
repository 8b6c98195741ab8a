"""Pairs of poolings, resizings and paddings."""

import keras
import torch.nn.functional as F
from torch import nn

from tests.parity.strangers.corpus.pairs import chain, fault, keras_chain, layered, random, right
from tests.parity.strangers.models import L

ops = keras.ops
AFTER = "forward"


def _pooled(name, original, port, kind="pooling", shape=(9, 12, 3), **wrong):
    """A convolution of 3x3 to 4 channels, the pooling, and a convolution of 1x1 that follows."""

    def layers(pool):
        def made():
            found = pool()
            found = found if isinstance(found, list) else [("1", found)]
            return [("0", L.Conv2D(4, 3)), *found, ("2", L.Conv2D(5, 1))]

        return made

    faults = {}
    for key, pool in wrong.items():
        pool, places = pool if isinstance(pool, tuple) else (pool, "1")
        faults[key] = (layers(pool), AFTER, places)
    layered(kind, name, shape, lambda: [nn.Conv2d(3, 4, 3), original(), nn.Conv2d(4, 5, 1)], layers(port), faults)


def _padded_max(fill, amount):
    def made():
        amounts = (0, 0), *amount, (0, 0)
        return [
            ("pad", L.Lambda(lambda x: ops.pad(x, amounts, constant_values=fill))),
            ("1", L.MaxPooling2D(3, 2)),
        ]

    return made


both = (1, 1), (1, 1)
_pooled(
    "max_pool", lambda: nn.MaxPool2d(2), lambda: L.MaxPooling2D(2),
    average=lambda: L.AveragePooling2D(2), strides=lambda: L.MaxPooling2D(2, 1),
    ceil=lambda: L.MaxPooling2D(2, padding="same"),
)  # fmt: skip
_pooled(
    "max_pool_padded", lambda: nn.MaxPool2d(3, 2, 1), _padded_max(-1e9, both),
    zeros=(_padded_max(0.0, both), {"pad", "1"}),
    at_the_end=(_padded_max(-1e9, ((0, 1), (0, 1))), {"pad", "1"}), same=lambda: L.MaxPooling2D(3, 2, padding="same"),
)  # fmt: skip
_pooled(
    "max_pool_padded_behind_relu", lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    lambda: [("act", L.ReLU()), ("pad", L.ZeroPadding2D(1)), ("1_1", L.MaxPooling2D(3, 2))],
)  # fmt: skip
_pooled("max_pool_ceil", lambda: nn.MaxPool2d(2, ceil_mode=True), lambda: L.MaxPooling2D(2, padding="same"),
        floor=lambda: L.MaxPooling2D(2))  # fmt: skip
_pooled("average_pool", lambda: nn.AvgPool2d(2), lambda: L.AveragePooling2D(2), maximum=lambda: L.MaxPooling2D(2))
_pooled(
    "average_pool_padding_not_counted", lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    lambda: L.AveragePooling2D(3, 1, padding="same"),
    counted=(lambda: [("pad", L.ZeroPadding2D(1)), ("1", L.AveragePooling2D(3, 1))], {"pad", "1"}),
)  # fmt: skip
_pooled(
    "average_pool_padding_counted", lambda: nn.AvgPool2d(3, 1, 1),
    lambda: [("pad", L.ZeroPadding2D(1)), ("1", L.AveragePooling2D(3, 1))],
    not_counted=lambda: L.AveragePooling2D(3, 1, padding="same"),
)  # fmt: skip
_pooled("adaptive_pool", lambda: nn.AdaptiveAvgPool2d((7, 5)), lambda: L.AveragePooling2D((1, 2)),
        maximum=lambda: L.MaxPooling2D((1, 2)))  # fmt: skip

layered(
    "pooling", "global_average", (7, 9, 3),
    lambda: [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)],
    lambda: [L.Conv2D(4, 3), L.GlobalAveragePooling2D(), None, L.Dense(5)],
    {"maximum": (lambda: [L.Conv2D(4, 3), L.GlobalMaxPooling2D(), None, L.Dense(5)], AFTER, "1")},
)  # fmt: skip
layered(
    "pooling", "global_average_kept_as_an_image", (7, 9, 3),
    lambda: [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1), nn.Flatten()],
    lambda: [L.Conv2D(4, 3), L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(5, 1), L.Flatten()],
)  # fmt: skip
layered(
    "pooling", "pool_1d", (11, 3),
    lambda: [nn.Conv1d(3, 4, 3), nn.MaxPool1d(2), nn.Conv1d(4, 5, 1), nn.AvgPool1d(2)],
    lambda: [L.Conv1D(4, 3), L.MaxPooling1D(2), L.Conv1D(5, 1), L.AveragePooling1D(2)],
    {"exchanged": (lambda: [L.Conv1D(4, 3), L.AveragePooling1D(2), L.Conv1D(5, 1), L.MaxPooling1D(2)], AFTER, "1")},
)  # fmt: skip
layered(
    "pooling", "pool_3d", (6, 7, 8, 2),
    lambda: [nn.Conv3d(2, 3, 1), nn.MaxPool3d(2), nn.Conv3d(3, 2, 1)],
    lambda: [L.Conv3D(3, 1), L.MaxPooling3D(2), L.Conv3D(2, 1)],
    {"average": (lambda: [L.Conv3D(3, 1), L.AveragePooling3D(2), L.Conv3D(2, 1)], AFTER, "1")},
)  # fmt: skip


def _upsampled(name, original, port, **wrong):
    _pooled(name, original, port, "resizing", (6, 8, 3), **wrong)


_upsampled("nearest", lambda: nn.Upsample(scale_factor=2), lambda: L.UpSampling2D(2),
           bilinear=lambda: L.UpSampling2D(2, interpolation="bilinear"))  # fmt: skip
_upsampled(
    "bilinear", lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    lambda: L.UpSampling2D(2, interpolation="bilinear"), nearest=lambda: L.UpSampling2D(2),
    bicubic=lambda: L.UpSampling2D(2, interpolation="bicubic"),
)  # fmt: skip
_upsampled("bilinear_to_odd_sizes", lambda: nn.Upsample((7, 13), mode="bilinear"),
           lambda: L.Resizing(7, 13), nearest=lambda: L.Resizing(7, 13, interpolation="nearest"))  # fmt: skip


def _aligned(x):
    """Bilinear resizing of 4 by 6 to 8 by 12 with corners aligned, in its formula."""
    for axis, (size, wanted) in ((1, (4, 8)), (2, (6, 12))):
        place = ops.arange(wanted, dtype=x.dtype) * ((size - 1) / (wanted - 1))
        low = ops.minimum(ops.cast(ops.floor(place), "int32"), size - 2)
        share = ops.reshape(place - ops.cast(low, x.dtype), [-1 if a == axis else 1 for a in range(4)])
        x = ops.take(x, low, axis) * (1 - share) + ops.take(x, low + 1, axis) * share
    return x


_upsampled(
    "bilinear_with_corners_aligned", lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    lambda: L.Lambda(_aligned), not_aligned=lambda: L.UpSampling2D(2, interpolation="bilinear"),
)  # fmt: skip


def _pad_mode(name, original, mode, **wrong):
    def layer(mode):
        return lambda: L.Lambda(lambda x: ops.pad(x, ((0, 0), (1, 1), (2, 2), (0, 0)), mode=mode))

    places = {"1", "2"}
    _pooled(name, original, layer(mode), "padding", **{key: (layer(other), places) for key, other in wrong.items()})


_pad_mode("pad_with_zeros", lambda: nn.ZeroPad2d((2, 2, 1, 1)), "constant", reflected="reflect")
_pad_mode("pad_by_reflection", lambda: nn.ReflectionPad2d((2, 2, 1, 1)), "reflect", symmetric="symmetric")


@right("functional code")
def functional_pooling():
    """Padding, pooling and mean as functions in torch, as layers in Keras."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, 5)

        def forward(self, x):
            x = F.relu(self.conv(F.pad(x, (0, 1, 0, 1))))
            return self.fc(F.max_pool2d(x, 2).mean((2, 3)))

    inputs = keras.Input((8, 10, 3))
    x = L.Conv2D(4, 3, 2, padding="same", activation="relu", name="conv")(inputs)
    x = L.GlobalAveragePooling2D(name="mean")(L.MaxPooling2D(2, name="pool")(x))
    port = keras.Model(inputs, L.Dense(5, name="fc")(x))
    return Net(), port, random(2, 8, 10, 3), {"transfer": True}


@fault("padding", "forward", {"0", "1"})
def pixel_shifted():
    """Padded at the top and left where the original pads at the bottom and right."""
    original = chain(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2))
    port = keras_chain((8, 10, 3), ("0", L.ZeroPadding2D(((1, 0), (1, 0)))), ("1", L.Conv2D(4, 3, 2)))
    return original, port, random(2, 8, 10, 3), {"transfer": True}
