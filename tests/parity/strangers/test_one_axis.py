"""Layers over one axis, whose channels torch has before their steps and TensorFlow computes as images of one row."""

import keras
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import parity
from tests.parity.strangers.models import L, causes, image, random

SIZE = (20, 4)


class Padded(nn.Module):
    def __init__(self, amount, conv):
        super().__init__()
        self.c, self.amount = conv, amount

    def forward(self, x):
        return self.c(F.pad(x, self.amount))


def compared(original, *layers, size=SIZE):
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    port = image(*layers, size=size)
    return parity.compare(original, port, random(2, *size), names="order", transfer=True, training=False)


RIGHT = {
    "a module pads": lambda: (
        nn.Sequential(nn.ConstantPad1d((0, 1), 0.0), nn.Conv1d(4, 6, 3, 2)),
        L.Conv1D(6, 3, 2, padding="same", name="1"),
    ),
    "a function pads": lambda: (Padded((2, 0), nn.Conv1d(4, 6, 3)), L.Conv1D(6, 3, padding="causal", name="c")),
    "Keras pads": lambda: (
        nn.Sequential(nn.Conv1d(4, 6, 3, padding=1)), L.ZeroPadding1D(1), L.Conv1D(6, 3, name="0")
    ),
    "dilated": lambda: (
        Padded((8, 0), nn.Conv1d(4, 6, 3, dilation=4)),
        L.Conv1D(6, 3, padding="causal", dilation_rate=4, name="c"),
    ),
    "depthwise": lambda: (
        nn.Sequential(nn.Conv1d(4, 4, 3, padding=1, groups=4), nn.MaxPool1d(2)),
        L.ZeroPadding1D(1), L.DepthwiseConv1D(3, name="0"), L.MaxPooling1D(2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_port_passes_wherever_it_pads(name):
    report = compared(*RIGHT[name]())
    assert report.passed, report
    assert not report.causes, report


WRONG = {
    "padding ((1, 1),), the candidate with padding ((0, 1),)": lambda: (
        nn.Sequential(nn.Conv1d(4, 6, 3, 2, padding=1)), L.Conv1D(6, 3, 2, padding="same", name="0")
    ),
    "padding ((1, 1),), the candidate with padding ((2, 0),)": lambda: (
        nn.Sequential(nn.Conv1d(4, 6, 3, padding=1)), L.Conv1D(6, 3, padding="causal", name="0")
    ),
    "padding by reflection, the candidate with padding by zeros": lambda: (
        nn.Sequential(nn.Conv1d(4, 6, 3, padding=1, padding_mode="reflect")),
        L.Conv1D(6, 3, padding="same", name="0"),
    ),
    "the maximum of 3 windows, stride 2, padding ((1, 1),) filled with nothing, the candidate the maximum": lambda: (
        nn.Sequential(nn.Conv1d(4, 6, 3), nn.MaxPool1d(3, 2, 1)),
        L.Conv1D(6, 3, name="0"), L.MaxPooling1D(3, 2, padding="same"),
    ),
    "the mean of 3 windows, stride 2, padding ((1, 1),), which is counted, the candidate the mean": lambda: (
        nn.Sequential(nn.Conv1d(4, 6, 3), nn.AvgPool1d(3, 2, 1)),
        L.Conv1D(6, 3, name="0"), L.AveragePooling1D(3, 2, padding="same"),
    ),
    "exact GELU, the candidate GELU by tanh": lambda: (
        nn.Sequential(nn.Conv1d(4, 6, 3), nn.GELU()),
        L.Conv1D(6, 3, name="0"), L.Lambda(lambda x: keras.ops.gelu(x, approximate=True)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("told", WRONG)
def test_a_fault_has_its_cause(told):
    report = compared(*WRONG[told]())
    assert not report.passed, report
    assert told in causes(report), report


def test_the_code_that_mends_a_padding_is_of_one_axis():
    report = compared(nn.Sequential(nn.Conv1d(4, 6, 3, 2, padding=1)), L.Conv1D(6, 3, 2, padding="same", name="0"))
    assert "keras.layers.ZeroPadding1D((1, 1)) before a convolution without padding" in causes(report), report
    assert "F.pad(x, (1, 1)) before a convolution without padding" in causes(report), report
