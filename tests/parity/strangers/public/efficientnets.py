"""Reported faults of EfficientNets: what goes in, how batch norm trains, and drop connect."""

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.strangers.corpus.pairs import batch_norm, keras_chain, module, pixels, random
from tests.parity.strangers.models import DropPath, L
from tests.parity.strangers.public.reported import reported

ops = keras.ops
TRANSFER = {"transfer": True}
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@reported(
    "tensorflow/tensorflow/issues/49930", "pixels divided by the root of their deviation", "forward",
    {"normalization", "rescaling", "stem"}, "root of the reference's deviation",
)  # fmt: skip
def root_of_the_deviation(wrong):
    def forward(self, x):
        mean, std = (torch.tensor(n, dtype=x.dtype)[:, None, None] for n in (MEAN, STD))
        return F.silu(self.stem((x / 255 - mean) / std))

    original = module(forward, stem=nn.Conv2d(3, 4, 3, 2, bias=False))
    layers = (
        ("rescaling", L.Rescaling(1 / 255)),
        ("normalization", L.Normalization(mean=MEAN, variance=STD if wrong else STD**2)),
        ("stem", L.Conv2D(4, 3, 2, use_bias=False)), ("act", L.Activation("silu")),
    )  # fmt: skip
    return original, keras_chain((9, 11, 3), *layers), pixels(2, 9, 11, 3), TRANSFER


def _block(norm, drop, add=True):
    """An inverted residual of EfficientNet without expansion, 9x11 pixels and 4 channels."""
    inputs = keras.Input((9, 11, 4))
    x = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="dwconv")(inputs)
    x = L.Activation("silu", name="activation")(norm(name="bn")(x))
    x = norm(name="project_bn")(L.Conv2D(4, 1, use_bias=False, name="project_conv")(x))
    x = x if drop is None else drop(x)
    return keras.Model(inputs, L.Add(name="add")([x, inputs]))


def _torch_block(drop=0.2, momentum=0.01):
    return module(
        lambda self, x: x
        + self.drop(self.project_bn(self.project_conv(F.silu(self.bn(self.dwconv(x)))))),
        dwconv=nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), bn=nn.BatchNorm2d(4, 1e-3, momentum),
        project_conv=nn.Conv2d(4, 4, 1, bias=False), project_bn=nn.BatchNorm2d(4, 1e-3, momentum),
        drop=DropPath(drop),
    )  # fmt: skip


def _official(**made):
    return L.BatchNormalization(**made)


def _dropped(rate=0.2, examples=True):
    return L.Dropout(rate, noise_shape=(None, 1, 1, 1) if examples else None, name="drop")


@reported(
    "lukemelas/EfficientNet-PyTorch/issues/229", "Keras's momentum taken for torch's", "configuration", "bn",
    "momentum is 0.99 in the reference and 0.01",
)  # fmt: skip
def momentum_of_the_other_framework(wrong):
    return _block(_official, _dropped()), _torch_block(momentum=0.99 if wrong else 0.01), random(3, 9, 11, 4), TRANSFER


class FusedNorm(L.BatchNormalization):
    """Batch norm as Keras 2 ran it on TensorFlow's fused kernel, which keeps the unbiased variance."""

    def call(self, x, training=None, mask=None):
        kept = ops.copy(self.moving_variance)  # what is assigned below may be written over it
        made = super().call(x, training=training, mask=mask)
        if training and self.trainable:
            n = x.shape[1] * x.shape[2] * ops.cast(ops.shape(x)[0], self.moving_variance.dtype)
            moved = ops.convert_to_tensor(self.moving_variance) - self.momentum * kept
            self.moving_variance.assign(self.momentum * kept + moved * n / (n - 1))
        return made


keras.saving.register_keras_serializable("strangers")(FusedNorm)


@reported(
    "keras-team/keras/issues/20507", "batch norm that keeps another variance since Keras 3", "batch_norm", "bn",
    "the candidate keeps the biased variance, the reference the unbiased one",
)  # fmt: skip
def variance_since_keras_3(wrong):
    old, new = (_block(kind, _dropped()) for kind in (FusedNorm, _official if wrong else FusedNorm))
    return old, new, random(3, 9, 11, 4), TRANSFER


@reported(
    "keras-team/keras/issues/16144", "a survival probability that is zero in all blocks: nothing is dropped",
    "configuration", "drop", "rate is 0.2 in the reference and no such layer",
)  # fmt: skip
def survival_of_all(wrong):
    return _torch_block(), _block(batch_norm_as_official, None if wrong else _dropped()), random(3, 9, 11, 4), TRANSFER


def batch_norm_as_official(**made):
    return batch_norm(epsilon=1e-3, momentum=0.99, **made)


@reported(
    "keras-team/keras-applications/issues/200", "rates of drop connect that count the unscaled blocks",
    "configuration", "drop", "rate is 0.0125 in the reference and 0.0333",
)  # fmt: skip
def rates_of_unscaled_blocks(wrong):
    rate = 0.2 * 1 / (6 if wrong else 16)
    return _torch_block(0.2 / 16), _block(_official, _dropped(rate)), random(3, 9, 11, 4), TRANSFER


@reported(
    "tensorflow/tensorflow/issues/45916", "drop connect that drops single numbers, not whole examples",
    "configuration", "drop", "whole examples", "single numbers",
)  # fmt: skip
def drop_connect_of_single_numbers(wrong):
    reference, candidate = (_block(_official, _dropped(examples=examples)) for examples in (True, not wrong))
    return reference, candidate, random(3, 9, 11, 4), TRANSFER
