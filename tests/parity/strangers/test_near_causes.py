"""A cause that stands near another, or near none, is told as it is: none is hidden, none is invented."""

import keras
import pytest
import torch
import torch.nn.functional as F
from keras import ops
from torch import nn

import parity
from parity.causes import FAMILIES
from tests.parity.strangers.models import L, TorchDense, causes, image, keras_dense, random


@pytest.mark.slow
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


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_where_one_number_is_made_the_stride_is_not_a_difference(order):
    """A 2x2 map of which a stride of 2 leaves one: strides of 1 with less padding would make it too."""
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    port = image(L.Conv2D(4, 3, strides=2, padding="same", name="0"), size=(2, 2, 3))
    pair = nn.Sequential(nn.Conv2d(3, 4, 3, 2, padding=1)), port
    told = "padding ((1, 1), (1, 1))", "padding ((0, 1), (0, 1))"
    first, second = order
    report = parity.compare(pair[first], pair[second], random(2, 2, 2, 3), names="order", transfer=True, training=False)
    assert f"the reference computes with {told[first]}, the candidate with {told[second]}." in causes(report), report


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


def shuffled(x, groups):
    """(B, C, H, W) with the channels of each group one after the other, as ShuffleNet has them."""
    batch, channels, *size = x.shape
    return x.reshape(batch, groups, channels // groups, *size).transpose(1, 2).reshape(batch, channels, *size)


def keras_shuffled(x, groups):
    size, channels = x.shape[1:-1], x.shape[-1]
    x = ops.reshape(x, (-1, *size, groups, channels // groups))
    return ops.reshape(ops.swapaxes(x, -1, -2), (-1, *size, channels))


class Shuffles(nn.Module):
    """Two units of a ShuffleNet: half of the channels pass, half are convolved, then all are shuffled."""

    def __init__(self, groups=(2, 2), split=True):
        super().__init__()
        torch.manual_seed(0)
        self.groups, self.split = groups, split
        self.a = nn.Conv2d(3, 12, 3)
        self.b, self.c = (nn.Conv2d(6 if split else 12, 6 if split else 12, 1) for _ in "bc")
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = self.a(x)
        for conv, groups in zip((self.b, self.c), self.groups, strict=True):
            if self.split:
                x, y = x.chunk(2, 1)
                x = torch.cat([x, torch.relu(conv(y))], 1)
            else:
                x = torch.relu(conv(x))
            x = x if groups == 1 else shuffled(x, groups)
        return self.head(x.mean((2, 3)))


def keras_shuffles(groups=(2, 2), split=True):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 9, 3))
    x = L.Conv2D(12, 3, name="a")(inputs)
    for name, times in zip("bc", groups, strict=True):
        if split:
            y = L.Conv2D(6, 1, name=name)(x[..., 6:])
            x = L.Concatenate()([x[..., :6], ops.relu(y)])
        else:
            x = ops.relu(L.Conv2D(12, 1, name=name)(x))
        x = x if times == 1 else keras_shuffled(x, times)
    return keras.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x)))


FORGOTTEN = "shuffles the channels in 2 groups before it, the"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs", "split", "told"),
    [
        ((2, 2), (1, 2), True, [f"c: the reference {FORGOTTEN} candidate does not"]),
        ((2, 2), (1, 2), False, [f"c: the reference {FORGOTTEN} candidate does not"]),
        ((1, 2), (2, 2), True, [f"c: the candidate {FORGOTTEN} reference does not"]),
        ((3, 1), (2, 1), False, ["c: before it the reference shuffles the channels in 3 groups, the candidate in 2"]),
        ((2, 3), (1, 4), False, [f"c: the reference {FORGOTTEN}", "in 3 groups, the candidate in 4"]),
        ((2, 2), (2, 1), True, [f"the reference {FORGOTTEN} candidate does not"]),
    ],
)
@pytest.mark.parametrize("port", ["keras", "torch"])
def test_a_shuffle_of_channels(ours, theirs, split, told, port):
    if port == "keras":
        pair = Shuffles(ours, split), keras_shuffles(theirs, split)
    else:
        pair = keras_shuffles(ours, split), Shuffles(theirs, split)
    report = parity.compare(*pair, random(2, 8, 9, 3), transfer=True, training=False)
    assert not report.passed
    for words in told:
        assert words in causes(report), report
    assert len(report.causes) == len(told), report


def test_right_shuffles_have_no_cause():
    report = parity.compare(Shuffles(), keras_shuffles(), random(2, 8, 9, 3), transfer=True, training=False)
    assert report.passed, report
    assert not report.causes


def test_a_setting_that_explains_a_factor_is_told_once():
    original = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, eps=1e-5), nn.Linear(8, 3))
    layers = [L.Dense(8, name="0"), L.BatchNormalization(epsilon=1e-2, momentum=0.9, name="1"), L.Dense(3, name="2")]
    report = parity.compare(original, image(*layers, size=(6,)), random(4, 6), transfer=True, training=False)
    (finding,) = report.causes
    assert "epsilon is 1e-05 in the reference and 0.01" in str(finding), report
    assert finding.place.candidate.layer == "1"
    assert finding.cause.after < 1e-12


@pytest.mark.parametrize("framework", ["keras", "torch"])
def test_a_bias_that_one_side_lacks_hides_nothing_behind_it(framework):
    class Net(nn.Module):
        def __init__(self, bias, act):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.act = nn.Conv2d(3, 5, 3, bias=bias), nn.Linear(5, 3), act
            if bias:
                nn.init.normal_(self.a.bias)

        def forward(self, x):
            return self.b(self.act(self.a(x)).mean((2, 3)))

    def other(bias, act):
        layers = L.Conv2D(5, 3, use_bias=bias, bias_initializer="normal", name="a"), L.Activation(act)
        return image(*layers, L.GlobalAveragePooling2D(), L.Dense(3, name="b"))

    if framework == "keras":
        pair = other(True, "sigmoid"), Net(False, F.hardsigmoid)
    else:
        pair = Net(True, torch.sigmoid), other(False, "hard_sigmoid")
    report = parity.compare(*pair, random(2, 9, 11, 3), transfer=True, training=False)
    assert "use_bias is True in the reference and False" in causes(report), report
    assert "the reference computes sigmoid, the candidate hard sigmoid" in causes(report), report


@pytest.mark.slow
@pytest.mark.parametrize("port", ["keras", "torch"])
def test_what_one_side_inserts_hides_nothing_that_takes_it_too(port):
    """An activation behind a block is taken by the next block and by the residual around that."""

    class Net(nn.Module):
        def __init__(self, faulty):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.head = (nn.Conv2d(n, 6, 3, padding=1) for n in (3, 6, 6))
            self.faulty = faulty

        def forward(self, x):
            x = F.silu(self.a(x)) if self.faulty else self.a(x)
            x = self.head(x + torch.tanh(self.b(x)))
            return F.relu(x) if self.faulty else F.gelu(x)

    def other(faulty):
        inputs = keras.Input((8, 9, 3))
        a, b, head = (L.Conv2D(6, 3, padding="same", name=name) for name in ("a", "b", "head"))
        x = ops.silu(a(inputs)) if faulty else a(inputs)
        x = head(x + ops.tanh(b(x)))
        return keras.Model(inputs, ops.relu(x) if faulty else ops.gelu(x, approximate=False))

    pair = (Net(False), other(True)) if port == "keras" else (other(False), Net(True))
    report = parity.compare(*pair, random(2, 8, 9, 3), transfer=True, training=False)
    assert "the candidate applies SiLU before b, the reference does not" in causes(report), report
    assert "the reference computes exact GELU, the candidate ReLU" in causes(report), report
    assert len(report.causes) == 2, report


@pytest.mark.parametrize(
    ("size", "axis", "told"), [((7,), 0, "the batch"), ((5, 7), 1, "axis -2"), ((4, 5, 7), 2, "axis -2")]
)
def test_a_softmax_of_an_axis_that_keras_exchanges_with_the_last(size, axis, told):
    port = image(L.Dense(7, name="0"), L.Softmax(axis=axis, name="1"), size=size)
    dim = 1 if len(size) == 3 else -1
    dense = nn.Conv2d(7, 7, 1) if len(size) == 3 else nn.Linear(7, 7)
    original = nn.Sequential(dense, nn.Softmax(dim))
    options = {"convert": {"0/kernel": lambda kernel: kernel.reshape(7, 7)}} if len(size) == 3 else {}
    report = parity.compare(original, port, random(3, *size), transfer=True, training=False, **options)
    words = f"the reference computes softmax over the last axis, the candidate softmax over {told}"
    assert words in causes(report), report


@pytest.mark.parametrize("explained", [False, True])
def test_a_cause_that_can_not_be_tried_is_told_where_none_was_found(explained, monkeypatch):
    def broken(scene):
        raise RuntimeError("no such axis\nin the second line")

    families = (broken, *FAMILIES) if explained else (broken,)
    monkeypatch.setattr("parity.diagnosis.FAMILIES", families)
    report = parity.compare(TorchDense(F.silu), keras_dense("tanh"), random(4, 6), transfer=True)
    told = [note for note in report.notes if "RuntimeError: no such axis)" in note]
    assert bool(told) != explained, report.notes
    assert bool(report.causes[0].says) == explained
