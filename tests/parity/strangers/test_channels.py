"""Causes in numbers of channels, in crops, in weights, in what a layer is fed: said where it is so, and only there."""

import keras
import numpy as np
import pytest
import torch
from keras import ops
from torch import nn

import parity
from parity.errors import FLOAT32_FACTOR, float32_factor
from parity.kinds import settings
from tests.parity.strangers.corpus.pairs import batch_norm, chain, conv, keras_chain, module, norm, random
from tests.parity.strangers.models import L, causes, row

IMAGES = random(3, 7, 9, 3)
TRANSFER = {"transfer": True}


def scaled(scale, offset):
    """Inputs scaled and shifted by channel before a convolution, in torch and in Keras."""

    def forward(self, x):
        a, b = (torch.tensor(n, dtype=x.dtype)[:, None, None] for n in (scale, offset))
        return self.conv(x * a + b)

    return module(forward, conv=nn.Conv2d(3, 4, 3)), lambda a, b: keras_chain(
        (7, 9, 3), ("scale", L.Rescaling(a, b)), ("conv", L.Conv2D(4, 3))
    )


def inception_for_imagenet():
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    original, port = scaled(1 / std, -mean / std)
    return original, port([2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]), TRANSFER


def flipped():
    original = chain(nn.ConvTranspose2d(3, 4, 4, 3))
    port = keras_chain((7, 9, 3), L.Conv2DTranspose(4, 4, 3))
    parity.torch_to_keras(original, port)
    layer = port.get_layer("0")
    layer.kernel.assign(ops.flip(ops.flip(layer.kernel, 0), 1))
    return original, port, {}


def cropped():
    original = chain(nn.ConvTranspose2d(3, 4, 5, 3, padding=2))
    layers = ("0", L.Conv2DTranspose(4, 5, 3)), ("crop", L.Cropping2D(((1, 3), (1, 3))))
    return original, keras_chain((7, 9, 3), *layers), TRANSFER


def inverse_deviation():
    original = chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    original[1].running_var.uniform_(0.5, 2)
    port = keras_chain((7, 9, 3), L.Conv2D(4, 3), batch_norm())
    port.get_layer("0").set_weights(conv(original[0]))
    *others, variance = norm(original[1])
    port.get_layer("1").set_weights([*others, 1 / np.sqrt(variance)])
    return original, port, {}


def fed_elsewhere():
    original = module(lambda self, x: x + self.b(self.a(x)), a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 3, 1))
    inputs = keras.Input((7, 9, 3))
    a, b = (L.Conv2D(3, 1, name=name) for name in "ab")
    return original, keras.Model(inputs, inputs + b(inputs) + 0 * a(inputs)), TRANSFER


def small_epsilons():
    original = chain(nn.Conv2d(3, 6, 1), nn.GroupNorm(1, 6, eps=1e-8))
    return original, keras_chain((7, 9, 3), L.Conv2D(6, 1), L.GroupNormalization(1, epsilon=1e-6)), TRANSFER


def rows_reversed():
    inputs = keras.Input((7, 9, 3))
    x = L.Conv2D(4, 1, name="a")(inputs)
    x = L.Concatenate()([x, L.Conv2D(4, 1, name="b")(inputs)[:, ::-1]])
    original = module(
        lambda self, x: self.head(torch.cat([self.a(x), self.b(x)], 1)),
        a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), head=nn.Conv2d(8, 2, 3),
    )  # fmt: skip
    return original, keras.Model(inputs, L.Conv2D(2, 3, name="head")(x)), TRANSFER


def flat_softmax():
    original = module(lambda self, x: self.fc(x).softmax(-1), fc=nn.Conv2d(3, 4, 1))
    inputs = keras.Input((7, 9, 3))
    flat = ops.softmax(ops.reshape(L.Conv2D(4, 1, name="fc")(inputs), (-1, 252)))
    return original, keras.Model(inputs, ops.reshape(flat, (-1, 7, 9, 4))), TRANSFER


SAID = {
    inception_for_imagenet: ("(x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]", "(x - 0.5) / 0.5"),
    flipped: ("0/kernel: the right numbers in another order: rows and columns of the kernel are reversed",),
    cropped: ("a crop of ((2, 2), (2, 2))", "a crop of ((1, 3), (1, 3))", "Cropping2D(((2, 2), (2, 2)))"),
    inverse_deviation: ("1/moving_variance: it is the reciprocal of the square root of the reference's",),
    fed_elsewhere: ("b: the reference feeds it what comes from a, the candidate input 1",),
    small_epsilons: ("epsilon is 1e-08 in the reference and 1e-06",),
    rows_reversed: ("rows are reversed in channels 4 to 7 of 8",),
    flat_softmax: ("softmax over",),
}


@pytest.mark.parametrize("make", SAID, ids=lambda make: make.__name__)
def test_said(make):
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    reference, candidate, options = make()
    report = parity.compare(reference, candidate, IMAGES, training=False, **options)
    assert not report.passed, report
    for words in SAID[make]:
        assert words in causes(report), report


def test_maps_of_places_are_no_scales_of_channels():
    """Other numbers at every place: nothing that is tried explains them."""
    maps = [np.random.default_rng(seed).uniform(0.5, 2, (7, 9, 3)) for seed in range(2)]
    original = module(lambda self, x: self.conv(x * torch.tensor(maps[0].transpose(2, 0, 1), dtype=x.dtype)),
                      conv=nn.Conv2d(3, 4, 3))  # fmt: skip
    layers = ("scale", L.Lambda(lambda x: x * ops.cast(maps[1], x.dtype))), ("conv", L.Conv2D(4, 3))
    report = parity.compare(original, keras_chain((7, 9, 3), *layers), IMAGES, training=False, transfer=True)
    assert not report.passed
    assert not [finding.says for finding in report.causes if finding.says], report


def test_an_epsilon_is_not_told_twice():
    original = chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    layers = L.Conv2D(4, 3), batch_norm(epsilon=1e-3), L.Conv2D(4, 1), batch_norm(epsilon=1e-3)
    report = parity.compare(original, keras_chain((7, 9, 3), *layers), IMAGES, transfer=True)
    assert causes(report) == "1: epsilon is 1e-05 in the reference and 0.001 in the candidate. So in 2 layers: 1, 3."


def test_functions_inside_of_functions_have_a_copy_in_float64():
    def twice(x):
        return 2 * x

    report = parity.compare(
        chain(nn.Conv2d(3, 4, 3)), keras_chain((7, 9, 3), ("0", L.Conv2D(4, 3)), ("twice", L.Lambda(twice))), IMAGES,
        transfer=True, training=False,
    )  # fmt: skip
    assert row(report, "forward").dtype == "float64", report
    assert "a factor of 2" in causes(report), report


@pytest.mark.parametrize(
    ("layer", "framework", "dropped"),
    [
        (L.Dropout(0.2), "keras", "single numbers"),
        (L.Dropout(0.2, noise_shape=(None, 1, 1, 1)), "keras", "whole examples"),
        (L.Dropout(0.2, noise_shape=(None, 1, None)), "keras", "whole channels"),
        (L.SpatialDropout1D(0.2), "keras", "whole channels"),
        (nn.Dropout(0.2), "torch", "single numbers"),
        (nn.Dropout3d(0.2), "torch", "whole channels"),
        (type("DropPath", (nn.Module,), {"drop_prob": 0.2})(), "torch", "whole examples"),
        (type("StochasticDepth", (nn.Module,), {"p": 0.2, "mode": "batch"})(), "torch", None),
        (L.GaussianDropout(0.2), "keras", None),
    ],
)
def test_what_a_layer_drops_at_once(layer, framework, dropped):
    assert settings(layer, framework).get("drops") == dropped


class Unscaled(nn.Module):
    """One that does not scale: whoever keeps all examples by chance was not asleep."""

    drop_prob = 1e-6

    def forward(self, x):
        return x * (torch.rand(len(x), 1, 1, 1) >= self.drop_prob) if self.training else x


def test_chance_is_not_taken_for_a_dropout_that_is_asleep():
    original = chain(nn.Conv2d(3, 4, 3), nn.Dropout(1e-6), nn.ReLU())
    port = chain(nn.Conv2d(3, 4, 3), Unscaled(), nn.ReLU())
    port.load_state_dict(original.state_dict())
    report = parity.compare(original, port, IMAGES)
    assert "drops nothing" not in str(report), report


class Asleep(nn.Dropout):
    def forward(self, x):
        return x


def test_a_dropout_asleep_in_both_hides_no_other():
    """By name; and of those that the other model does not have, those of one side alone."""
    original = chain(nn.Conv2d(3, 4, 3), Asleep(0.2), nn.Dropout(0.2), nn.Conv2d(4, 4, 1))
    port = chain(nn.Conv2d(3, 4, 3), Asleep(0.2), Asleep(0.2), nn.Conv2d(4, 4, 1))
    port.load_state_dict(original.state_dict())
    for pair, role in (((original, port), "candidate"), ((port, original), "reference")):
        report = parity.compare(*pair, IMAGES)
        assert not report.passed
        assert any(f"the {role} drops nothing in training" in str(cause) for cause in report.causes), report
        assert len([cause for cause in report.causes if "drops nothing" in str(cause)]) == 1, report
    assert "drops nothing" not in str(parity.compare(port, port, IMAGES))


def test_the_allowance_of_few_numbers_is_that_of_f():
    stats = pytest.importorskip("scipy.stats")
    for size in (1, 2, 3, 5, 8, 13, 40, 63, 64, 10_000):
        expected = max(FLOAT32_FACTOR, float(np.sqrt(stats.f.isf(1e-6, size, size))))
        assert float32_factor(size) == pytest.approx(expected, rel=1e-5)
    assert float32_factor(0) == FLOAT32_FACTOR
