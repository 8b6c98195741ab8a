"""A cause that stands near another, or near none, is told as it is: none is hidden, none is invented."""

import keras
import pytest
import torch
import torch.nn.functional as F
from keras import ops
from torch import nn

import parity
from tests.parity.strangers.models import L, TorchDense, causes, image, keras_dense, random


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "mode", "told"),
    [
        ("same", (2, 2, 2, 2), "constant", ("padding ((1, 2), (1, 2))", "padding ((2, 2), (2, 2))")),
        (((1, 2), (1, 2)), (3, 0, 3, 0), "constant", ("padding ((1, 2), (1, 2))", "padding ((3, ")),
        # The last row of this padding is not reached by the stride: the padding is the same, not one shorter.
        (((2, 2), (2, 2)), (2, 2, 2, 2), "reflect", ("padding by zeros", "padding by reflection")),
    ],
)
def test_a_padding_that_one_side_does_by_itself(ours, theirs, mode, told, depthwise):
    class Port(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(3, 3, 5, 2, groups=3) if depthwise else nn.Conv2d(3, 6, 5, 2)
            self.n = nn.BatchNorm2d(self.c.out_channels, eps=1e-3)

        def forward(self, x):
            return F.relu(self.n(self.c(F.pad(x, theirs, mode=mode))))

    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    padding = [] if ours == "same" else [L.ZeroPadding2D(ours)]
    kind, sizes = (L.DepthwiseConv2D, (5,)) if depthwise else (L.Conv2D, (6, 5))
    conv = kind(*sizes, strides=2, padding="valid" if padding else "same", name="c")
    original = image(*padding, conv, L.BatchNormalization(name="n"), L.ReLU(), size=(20, 22, 3))
    report = parity.compare(original, Port(), random(2, 20, 22, 3), transfer=True, training=False)
    words = f"the reference computes with {told[0]}, the candidate with {told[1]}"
    assert words in causes(report), report


def test_a_known_fault_in_one_layer_hides_none_in_another_whose_name_begins_alike():
    class Odd(nn.Linear):
        def forward(self, x):
            return torch.cos(2 * super().forward(x)) ** 3

    class Other(L.Dense):
        def call(self, x):
            x = super().call(x)
            return ops.sin(3 * x) * x

    Other = keras.saving.register_keras_serializable("strangers")(Other)
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    original = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))
    original[1], original[10] = nn.BatchNorm1d(4, eps=1e-2), Odd(4, 4)
    layers = [L.Dense(4, name=f"{n}") for n in range(12)]
    layers[1], layers[10] = L.BatchNormalization(epsilon=1e-3, momentum=0.9, name="1"), Other(4, name="10")
    report = parity.compare(original, image(*layers, size=(4,)), random(5, 4), transfer=True, training=False)
    assert "1: epsilon is 0.01 in the reference and 0.001" in causes(report), report
    assert "10: they part at" in causes(report), report


def test_no_cause_is_named_where_none_heals():
    class Odd(L.Layer):
        def call(self, x):
            return ops.sin(3 * x) * x

        def get_config(self):
            return super().get_config()

    Odd = keras.saving.register_keras_serializable("strangers")(Odd)
    report = parity.compare(TorchDense(F.gelu), keras_dense(Odd(name="middle")), random(4, 6), transfer=True)
    assert [(finding.name, finding.says) for finding in report.causes] == [("middle", "")]


def test_right_ports_have_no_causes():
    assert parity.compare(TorchDense(), keras_dense(), random(4, 6), transfer=True).causes == []
