"""docs/other-numbers.md tells of symptoms by the words of a report: each is done here, and reported in those words."""

from pathlib import Path

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import ops
from torch import nn

import parity
from tests.parity.strangers.corpus.pairs import array, batch_norm, chain, conv, keras_chain, module, norm, random
from tests.parity.strangers.models import L

PAGE = " ".join((Path(__file__).parents[3] / "docs/other-numbers.md").read_text().split())
IMAGES = random(3, 8, 10, 3)
TRANSFER = {"transfer": True}


def normed(**changed):
    return keras_chain((8, 10, 3), L.Conv2D(4, 3), batch_norm(**changed), L.ReLU())


def original():
    return chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def never_transferred():
    return original(), normed(), {}


def another_order():
    net, port = chain(nn.Conv2d(3, 4, 3)), keras_chain((8, 10, 3), L.Conv2D(4, 3))
    kernel, bias = conv(net[0])
    port.get_layer("0").set_weights([kernel.swapaxes(0, 1), bias])
    return net, port, {}


def exchanged():
    net, port = original(), normed()
    port.get_layer("0").set_weights(conv(net[0]))
    gamma, beta, mean, variance = norm(net[1])
    port.get_layer("1").set_weights([beta, gamma, mean, variance])
    return net, port, {}


def shared_blocks():
    blocks = [nn.Linear(6, 6) for _ in range(2)]
    net = chain(nn.Linear(3, 6), *blocks)
    inputs = keras.Input((3,))
    first, block = L.Dense(6, name="0"), L.Dense(6, name="1")
    return net, keras.Model(inputs, block(block(first(inputs)))), TRANSFER


def strided():
    return chain(nn.Conv2d(3, 4, 3, 2, 1)), keras_chain((8, 10, 3), L.Conv2D(4, 3, 2, "same")), TRANSFER


def by_tanh():
    port = keras_chain((8, 10, 3), L.Conv2D(4, 3), L.Activation(ops.gelu))
    return chain(nn.Conv2d(3, 4, 3), nn.GELU()), port, TRANSFER


def forgotten():
    net = chain(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 1))
    return net, keras_chain((8, 10, 3), L.Conv2D(4, 3), None, L.Conv2D(2, 1)), TRANSFER


def corners():
    net = module(
        lambda self, x: F.interpolate(self.conv(x), scale_factor=2, mode="bilinear", align_corners=True),
        conv=nn.Conv2d(3, 4, 3),
    )
    port = keras_chain((8, 10, 3), ("conv", L.Conv2D(4, 3)), ("up", L.UpSampling2D(2, interpolation="bilinear")))
    return net, port, TRANSFER


def cut():
    net = module(lambda self, x: self.b(self.a(x).detach()), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 2, 1))
    return keras_chain((8, 10, 3), ("a", L.Conv2D(4, 3)), ("b", L.Conv2D(2, 1))), net, TRANSFER


@keras.saving.register_keras_serializable("other_numbers")
class Quiet(L.Dropout):
    """Called as if it did not train."""

    def call(self, x, training=False):
        return super().call(x, training=False)


def dropping(torch_drop, keras_drop):
    net = chain(nn.Conv2d(3, 4, 3), torch_drop)
    return net, keras_chain((8, 10, 3), L.Conv2D(4, 3), keras_drop), TRANSFER


# Words of the page to (what makes the pair, words of the report that are not on the page).
LINES = {
    "never transferred": never_transferred,
    "right numbers in another order": another_order,
    "it holds what belongs to": exchanged,
    "configuration": lambda: (original(), normed(epsilon=1e-3), TRANSFER),
    "twice in its place": shared_blocks,
    "padding ((0, 1), (0, 1))": strided,
    "GELU by tanh": by_tanh,
    "applies SiLU before": forgotten,
    "bilinear interpolation with aligned corners": corners,
    "momentum": lambda: (original(), normed(momentum=0.1), TRANSFER),
    "keeps the biased variance, the reference the unbiased one": lambda: (
        original(), normed(), TRANSFER | {"strict": True}),
    "it is frozen": lambda: (original(), normed(trainable=False), TRANSFER),
    "rate is 0.2 in the reference and 0.5": lambda: dropping(nn.Dropout(0.2), L.Dropout(0.5)),
    "whole channels": lambda: dropping(nn.Dropout2d(0.2), L.Dropout(0.2)),
    "drops nothing in training": lambda: dropping(nn.Dropout(0.2), Quiet(0.2)),
    "cut from the gradient": cut,
    "apart only on inputs of mean 0 and standard deviation 10": lambda: (
        chain(nn.Conv2d(3, 4, 3), nn.ReLU6()), keras_chain((8, 10, 3), L.Conv2D(4, 3), L.ReLU()), TRANSFER),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", LINES)
def test_the_symptom_is_reported_in_the_words_of_the_page(words):
    assert words in PAGE
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    reference, candidate, options = LINES[words]()
    inputs = random(4, 3) if words == "twice in its place" else IMAGES
    report = parity.compare(reference, candidate, inputs, **options)
    assert not report.passed, report
    assert words in str(report), report


def test_the_numbers_that_the_page_names():
    """Defaults of both frameworks."""
    parameters = [nn.Parameter(torch.zeros(1))]
    assert torch.optim.RMSprop(parameters).defaults["alpha"] == 0.99
    assert keras.optimizers.RMSprop().rho == 0.9
    assert torch.optim.Adam(parameters).defaults["eps"] == 1e-8
    assert keras.optimizers.Adam().epsilon == 1e-7
    assert (nn.BatchNorm2d(1).eps, L.BatchNormalization().epsilon) == (1e-5, 1e-3)
    x = torch.linspace(-2, 2, 9)
    exact, tanh = F.gelu(x).numpy(), F.gelu(x, approximate="tanh").numpy()
    np.testing.assert_allclose(ops.gelu(array(x)), tanh, atol=1e-6)
    np.testing.assert_allclose(keras.activations.gelu(array(x), approximate=False), exact, atol=1e-6)
    np.testing.assert_allclose(keras.activations.gelu(array(x)), exact, atol=1e-6)
    assert hasattr(torch.backends.cuda.matmul, "allow_tf32")
