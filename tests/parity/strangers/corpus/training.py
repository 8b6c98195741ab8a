"""Pairs about training: dropout, momenta, what only training mode shows, and what does not matter at inference."""

import keras
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.strangers.corpus.pairs import fault, layered, module, random, right
from tests.parity.strangers.models import L

ops = keras.ops

layered(
    "dropout", "dropout", (6,),
    lambda: [nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3)],
    lambda: [L.Dense(8), L.Dropout(0.3), L.Dense(3)],
    {
        "keep_probability_for_rate": (lambda: [L.Dense(8), L.Dropout(0.7), L.Dense(3)], "configuration", "1"),
        "scaled_at_inference": (
            lambda: [L.Dense(8), ("1", L.Dropout(0.3)), ("scale", L.Rescaling(0.7)), ("2", L.Dense(3))], "forward",
            {"scale", "2"}),
    },
)  # fmt: skip
layered(
    "dropout", "dropout_at_inference", (6,),
    lambda: [nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3)],
    lambda: [L.Dense(8), None, L.Dense(3)],
    training=False,
)  # fmt: skip
layered(
    "dropout", "dropout_of_channels", (7, 9, 3),
    lambda: [nn.Conv2d(3, 4, 1), nn.Dropout2d(0.2), nn.ReLU()],
    lambda: [L.Conv2D(4, 1), L.SpatialDropout2D(0.2), L.ReLU()],
    {"rate": (lambda: [L.Conv2D(4, 1), L.SpatialDropout2D(0.25), L.ReLU()], "configuration", "1")},
)  # fmt: skip


@keras.saving.register_keras_serializable("strangers")
class AlwaysOn(L.Dropout):
    """For averages over draws, as people write it."""

    def call(self, inputs, training=False):
        return super().call(inputs, training=True)


@keras.saving.register_keras_serializable("strangers")
class NeverTraining(L.BatchNormalization):
    """Keeps its statistics whatever it is told."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


@fault("dropout", "determinism", "drop")
def dropout_left_on():
    original = module(
        lambda self, x: self.b(F.dropout(torch.relu(self.a(x)), 0.3, self.training)),
        a=nn.Linear(6, 8), b=nn.Linear(8, 3),
    )  # fmt: skip
    inputs = keras.Input((6,))
    x = AlwaysOn(0.3, name="drop")(L.Dense(8, activation="relu", name="a")(inputs))
    return original, keras.Model(inputs, L.Dense(3, name="b")(x)), random(5, 6), {"transfer": True}


@keras.saving.register_keras_serializable("strangers")
class Switch(L.Layer):
    """Multiplies by one factor in training and by another at inference."""

    def __init__(self, learning=1.0, serving=1.0, **options):
        super().__init__(**options)
        self.learning, self.serving = learning, serving

    def call(self, x, training=False):
        return x * (self.learning if training else self.serving)

    def get_config(self):
        return super().get_config() | {"learning": self.learning, "serving": self.serving}


class TorchSwitch(nn.Module):
    def __init__(self, learning=1.0, serving=1.0):
        super().__init__()
        self.learning, self.serving = learning, serving

    def forward(self, x):
        return x * (self.learning if self.training else self.serving)


def _switched(learning, serving):
    return lambda: [L.Dense(8), Switch(learning, serving), L.Dense(3)]


layered(
    "training mode", "switched", (6,),
    lambda: [nn.Linear(6, 8), TorchSwitch(2.0, 3.0), nn.Linear(8, 3)], _switched(2.0, 3.0),
    {
        "in_training": (_switched(1.0, 3.0), "batch_norm", "1"),
        "at_inference": (_switched(2.0, 1.0), "forward", "1"),
    },
)  # fmt: skip


def _normalised(cls=L.BatchNormalization, momentum=0.9, training=True, gradient=lambda x: x, told=None):
    """A norm among others; `told` is the mode that its layer is called in."""
    original = module(lambda self, x: self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3))),
                      conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 5))  # fmt: skip
    inputs = keras.Input((7, 9, 3))
    x = L.Conv2D(4, 3, name="conv")(inputs)
    x = cls(epsilon=1e-5, momentum=momentum, name="norm")(x, training=told)
    x = ops.mean(ops.relu(gradient(x)), (1, 2))
    port = keras.Model(inputs, L.Dense(5, name="fc")(x))
    batches = [random(3, 7, 9, 3), random(3, 7, 9, 3, seed=1)]
    return original, port, batches, {"transfer": True, "training": training}


@right("training mode")
def norm_of_batches():
    return _normalised()


@right("training mode")
def norm_at_inference_whatever_the_momentum():
    return _normalised(momentum=0.99, training=False)


@right("training mode")
def norm_of_batches_told_the_mode():
    """In a functional model the mode that the model is called in wins over the one that the layer was called in."""
    return _normalised(told=False)


@fault("training mode", "batch_norm", "norm")
def norm_of_batches__inference_only():
    return _normalised(NeverTraining)


@fault("training mode", ("configuration", "batch_norm"), "norm")
def norm_of_batches__momentum():
    return _normalised(momentum=0.1)


@fault("gradients", "gradients", {"norm", "conv", "stop_gradient"})
def norm_of_batches__gradient_stopped():
    """The values are right, nothing learns below."""
    return _normalised(gradient=ops.stop_gradient)


def _frozen(trainable):
    original = module(lambda self, x: self.b(torch.tanh(self.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    original.a.requires_grad_(False)
    inputs = keras.Input((6,))
    port = keras.Model(
        inputs, L.Dense(3, name="b")(L.Dense(8, activation="tanh", trainable=trainable, name="a")(inputs))
    )
    return original, port, random(5, 6), {"transfer": True}


@right("gradients")
def frozen_on_both_sides():
    return _frozen(trainable=False)


@right("frozen at inference")
def frozen_on_one_side_at_inference():
    original, port, inputs, options = _frozen(trainable=True)
    return original, port, inputs, options | {"training": False}


@right("bias of zeros")
def bias_of_zeros_at_inference():
    """Keras has a bias of zeros where torch has none."""
    original = module(lambda self, x: self.b(torch.relu(self.a(x))), a=nn.Linear(6, 8, bias=False), b=nn.Linear(8, 3))
    inputs = keras.Input((6,))
    port = keras.Model(inputs, L.Dense(3, name="b")(L.Dense(8, activation="relu", name="a")(inputs)))
    return original, port, random(5, 6), {"transfer": True, "training": False}
