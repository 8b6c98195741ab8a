"""Weights from one framework to the other and back, for every kind of layer."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import keras_stoch
import parity
import torch_ref
from parity import layout
from tests.conftest import shake


def test_round_trip_is_bit_exact(tiny):
    model = shake(keras_stoch.create_model("tiny", 64))
    before = [w.copy() for w in model.get_weights()]
    there = torch_ref.create_model("tiny")
    report = parity.keras_to_torch(model, there)
    assert report.complete
    assert len(report.matched) == len(before)
    model.set_weights([np.zeros_like(w) for w in before])
    back = parity.torch_to_keras(there, model)
    assert back.complete
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("module", "layer", "shape"),
    [
        (nn.Conv2d(3, 5, (2, 4)), keras.layers.Conv2D(5, (2, 4)), (2, 7, 9, 3)),
        (nn.Conv2d(4, 6, 3, groups=2), keras.layers.Conv2D(6, 3, groups=2), (2, 7, 9, 4)),
        (nn.Conv2d(4, 8, 3, groups=4), keras.layers.DepthwiseConv2D(3, depth_multiplier=2), (2, 7, 9, 4)),
        (nn.Conv2d(4, 8, 3, groups=4), keras.layers.Conv2D(8, 3, groups=4), (2, 7, 9, 4)),
        (nn.ConvTranspose2d(3, 5, 2, 2), keras.layers.Conv2DTranspose(5, 2, 2), (2, 7, 9, 3)),
        (nn.Conv1d(3, 5, 4), keras.layers.Conv1D(5, 4), (2, 9, 3)),
        (nn.Conv3d(2, 3, 2), keras.layers.Conv3D(3, 2), (2, 5, 6, 7, 2)),
        (nn.Linear(6, 4), keras.layers.Dense(4), (3, 6)),
        (nn.LayerNorm(6, eps=1e-3), keras.layers.LayerNormalization(), (3, 5, 6)),
        (nn.GroupNorm(2, 6, eps=1e-3), keras.layers.GroupNormalization(2), (3, 5, 4, 6)),
        (nn.BatchNorm2d(3, eps=1e-3, momentum=0.01), keras.layers.BatchNormalization(), (2, 4, 5, 3)),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, tuple) else "",
)
def test_each_kind_of_layer_computes_the_same_after_transfer(module, layer, shape, rng):
    inputs = keras.Input(shape[1:])
    port = keras.Model(inputs, layer(inputs))
    for p in module.parameters():
        p.data = torch.from_numpy(rng.normal(size=p.shape)).float()
    original = nn.Sequential(module)
    report = parity.compare(
        original, port, rng.normal(size=shape), names=[(r"^0$", layer.name)], transfer=True, training=False
    )
    assert report.transfer.complete, report.transfer
    assert report.passed, report


def test_embedding_transfers(rng):
    original = nn.Sequential(nn.Embedding(11, 3))
    inputs = keras.Input((4,), dtype="int32")
    port = keras.Model(inputs, keras.layers.Embedding(11, 3, name="table")(inputs))
    parity.torch_to_keras(original, port, names=[("^0$", "table")])
    ids = rng.integers(0, 11, (2, 4))
    np.testing.assert_array_equal(port(ids), original(torch.from_numpy(ids)).detach())


@pytest.mark.parametrize("kind", ["conv", "conv_transpose", "depthwise", "dense"])
def test_axis_orders_invert_each_other(kind, rng):
    shape = {"conv": (5, 3, 2, 4), "conv_transpose": (5, 3, 2, 4), "depthwise": (6, 1, 2, 4), "dense": (5, 3)}[kind]
    array = rng.normal(size=shape)
    there = layout.torch_to_canonical(kind, "kernel", array, channels=3)
    np.testing.assert_array_equal(layout.canonical_to_torch(kind, "kernel", there), array)


class TestStrangers:
    """A module and a port whose names have nothing in common."""

    @staticmethod
    def models():
        original = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1))
        inputs = x = keras.Input((8, 8, 3))
        for layer in (
            keras.layers.Conv2D(4, 3, name="first"),
            keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name="norm"),
            keras.layers.ReLU(name="act"),
            keras.layers.Conv2D(5, 1, name="second"),
        ):
            x = layer(x)
        return original, keras.Model(inputs, x)

    def test_without_rules_nothing_matches_and_nothing_changes(self):
        original, port = self.models()
        before = port.get_weights()
        with pytest.raises(parity.TransferError, match="nothing was copied") as caught:
            parity.torch_to_keras(original, port)
        report = caught.value.report
        assert not report.matched
        assert "0.weight" in report.unused
        assert "first/kernel" in report.unmatched
        for a, b in zip(before, port.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("names", ["order", [("^0$", "first"), ("^1$", "norm"), ("^2$", "act"), ("^3$", "second")]])
    def test_rules_and_order(self, names, rng):
        original, port = self.models()
        report = parity.compare(
            original, port, rng.normal(size=(2, 8, 8, 3)), names=names, transfer=True, training=False
        )
        assert report.transfer.complete
        assert report.passed, report

    def test_a_wrong_shape_is_told(self):
        original, port = self.models()
        original[3] = nn.Conv2d(4, 6, 1)
        with pytest.raises(parity.TransferError, match="of another shape") as caught:
            parity.torch_to_keras(original, port, names="order")
        assert caught.value.report.wrong_shape[0] == ("second/kernel", (1, 1, 4, 6), (1, 1, 4, 5))

    def test_not_strict_copies_what_fits(self):
        original, port = self.models()
        original[3] = nn.Conv2d(4, 6, 1)
        report = parity.torch_to_keras(original, port, names="order", strict=False)
        assert len(report.matched) == 6
        np.testing.assert_array_equal(port.get_layer("first").kernel, original[0].weight.detach().permute(2, 3, 1, 0))

    def test_untransferred_weights_are_the_first_thing_told(self, rng):
        report = parity.compare(*self.models(), rng.normal(size=(2, 8, 8, 3)), names="order")
        assert report.first_failure.check == "weights"
        assert report.first_failure.first_divergence == "first"

    def test_two_keras_models(self, rng):
        _, a = self.models()
        b = keras.models.clone_model(a)
        b.set_weights(a.get_weights())
        assert parity.compare(a, b, rng.normal(size=(2, 8, 8, 3))).passed

    def test_bad_arguments(self):
        original, port = self.models()
        with pytest.raises(TypeError, match="Received: dict"):
            parity.torch_to_keras({}, port)
        with pytest.raises(ValueError, match="No such file: model"):
            parity.torch_to_keras("model", port)
        with pytest.raises(ValueError, match='"order"'):
            parity.torch_to_keras(original, port, names="by magic")
        with pytest.raises(ValueError, match="no weights yet"):
            parity.torch_to_keras(original, keras.Sequential([keras.layers.Dense(3)]))
