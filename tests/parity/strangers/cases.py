"""Faults that an instrument can pass over in silence, each a function of no arguments.

Each returns (reference, candidate, inputs, keyword arguments of `parity.compare`, the rung that must fail, its place),
or instead of rung and place the word of a `ValueError`: a comparison that must be refused.
"""

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.strangers.models import L, Subclassed, TorchDense, keras_dense, keras_image, random, torch_image

CASES = []


def case(function):
    CASES.append(function)
    return function


@case
def state_that_no_config_has():
    """A layer's attribute set after construction: the copy in float64 is another model, the wrong one."""

    @keras.saving.register_keras_serializable("strangers")
    class Gain(L.Layer):
        gain = 1.0

        def call(self, x):
            return x * self.gain

    port = keras_dense(Gain(name="middle"))
    port.get_layer("middle").gain = 3.0
    return TorchDense(lambda x: x), port, random(4, 6), {"transfer": True}, "forward", "middle"


@case
def a_limit_that_no_config_has():
    """The same, and the attribute matters beyond the range of the inputs only."""

    @keras.saving.register_keras_serializable("strangers")
    class Clip(L.Layer):
        limit = 5.0

        def call(self, x):
            return keras.ops.clip(x, 0.0, self.limit)

    port = keras_image(Clip())
    port.get_layer("1").limit = 4.0
    pixels = np.random.default_rng(0).uniform(size=(2, 8, 8, 3))
    return torch_image(nn.Hardtanh(0.0, 5.0)), port, pixels, {"transfer": True}, "forward", "1"


@case
def adapted_normalization():
    """The port was adapted to data, the original normalises by other numbers: copies by config alone agree."""
    norm = L.Normalization(name="norm")
    norm.adapt(random(64, 6, seed=1) * 2 + 3)
    inputs = keras.Input((6,))
    port = keras.Model(inputs, L.Dense(3, name="fc")(norm(inputs)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(x)

    return Net(), port, random(4, 6), {"transfer": True}, "forward", "norm"


@case
def the_candidate_excuses_itself():
    """Only the candidate has a copy in float64, and its float32 is bad: that is its own affair, not an excuse."""

    @keras.saving.register_keras_serializable("strangers")
    class Rough(L.Layer):
        def call(self, x):
            return keras.ops.subtract(keras.ops.add(x, 3000.0), 3000.0)

    class Original(Subclassed):
        def call(self, x, training=False):
            return self.b(keras.ops.relu(self.a(x)))

    inputs = keras.Input((6,))
    x = L.Activation("relu", name="middle")(L.Dense(8, name="a")(inputs))
    port = keras.Model(inputs, Rough(name="rough")(L.Dense(3, name="b")(x) * 1.0002))
    return Original(), port, random(4, 6), {"transfer": True}, "forward", "Mul"


@case
def dropout_always_on():
    """F.dropout without training=self.training: the noise of the reference must not become the tolerance."""
    return TorchDense(lambda x: F.dropout(torch.relu(x), 0.5)), Subclassed(keras.ops.tanh), random(4, 6), {
        "transfer": True
    }, "determinism", "before b"  # fmt: skip


@case
def a_noisy_candidate():
    @keras.saving.register_keras_serializable("strangers")
    class Always(L.Layer):
        def call(self, x):
            return keras.random.dropout(keras.ops.relu(x), 0.3)

    return TorchDense(), keras_dense(Always(name="middle")), random(4, 6), {"transfer": True}, "determinism", "middle"


@case
def an_exponent_called_p():
    """A pooling whose exponent is called p is no dropout, and a wrong exponent is a fault."""

    class GeM(nn.Module):
        p = 3.0

        def forward(self, x):
            return x.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)

    pool = L.Lambda(lambda x: keras.ops.mean(keras.ops.maximum(x, 1e-6) ** 2.9, (1, 2)) ** (1 / 2.9))
    return torch_image(GeM()), keras_image(pool), random(2, 8, 8, 3), {"transfer": True}, "forward", "1"


@case
def a_tensor_of_rounding():
    """A projection's residual is zero but for rounding, whose relative error is of order one. The fault comes later."""

    class Zero(nn.Module):
        def forward(self, x):
            return (x * 3 - x - x) - x

    class Net(TorchDense):
        def __init__(self):
            super().__init__()
            self.zero = Zero()

        def forward(self, x):
            x = self.a(x)
            return self.b(torch.relu(x + self.zero(x)))

    class KerasZero(L.Layer):
        def call(self, x):
            return (x * 3 - x - x) - x

    class Port(Subclassed):
        def call(self, x, training=False):
            x = self.a(x)
            return self.b(keras.ops.tanh(x + self.middle(x)))

    return Net(), Port(KerasZero(name="zero")), random(4, 6), {"transfer": True, "training": False}, "forward", "relu"


def _beyond(name, original, port, place="1"):
    """A fault that inputs between 0 and 1 do not show: activations of a convolution of pixels stay small."""

    def made():
        pixels = np.random.default_rng(0).uniform(size=(2, 8, 8, 3))
        return torch_image(original()), keras_image(port()), pixels, {"transfer": True}, "forward", place

    made.__name__ = name
    case(made)


_beyond("relu_for_relu6", nn.ReLU6, lambda: L.ReLU())
_beyond("a_clip_too_tight", lambda: nn.Hardtanh(-8.0, 8.0), lambda: L.Lambda(lambda x: keras.ops.clip(x, -5.0, 5.0)))


@case
def two_layers_of_one_name():
    original = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    port = keras.Sequential([keras.Input((6,)), L.Dense(6, name="fc")])
    return original, port, random(4, 6), {"names": [(r"^\d$", "fc")], "transfer": True}, "both be called 'fc'"


@case
def equal_inputs():
    """x * w against w * x: with one array for both, an exchange is invisible."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x, y):
            return self.a(x) - self.b(y)

    inputs = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    port = keras.Model(list(inputs), L.Dense(4, name="a")(inputs[1]) - L.Dense(4, name="b")(inputs[0]))
    x = random(2, 3)
    return Two(), port, (x, x.copy()), {"transfer": True}, "exchange could not be seen"


@case
def inputs_of_zeros():
    return TorchDense(), keras_dense("tanh"), np.zeros((4, 6)), {"transfer": True}, "does not vary"


@case
def inputs_with_nan():
    x = random(4, 6)
    x[0, 0] = np.nan
    return TorchDense(), keras_dense("tanh"), x, {"transfer": True}, "must be finite"


@case
def the_second_head():
    """Only the second output is wrong."""

    class Heads(TorchDense):
        def __init__(self):
            super().__init__()
            self.c = nn.Linear(8, 2)

        def forward(self, x):
            x = torch.relu(self.a(x))
            return {"b": self.b(x), "c": self.c(x)}

    inputs = keras.Input((6,))
    x = L.ReLU(name="act")(L.Dense(8, name="a")(inputs))
    wrong = L.Activation("tanh", name="squash")(L.Dense(2, name="c")(x))
    port = keras.Model(inputs, {"b": L.Dense(3, name="b")(x), "c": wrong})
    return Heads(), port, random(4, 6), {"transfer": True}, "forward", "squash"


@case
def a_root_variable_left_behind():
    """A variable of the model itself, not of a layer."""

    class Scaled(keras.Model):
        def __init__(self):
            super().__init__()
            self.fc = L.Dense(3, name="fc")
            self.scale = self.add_weight(shape=(3,), name="scale", initializer="ones")
            self(np.zeros((1, 6), np.float32))

        def call(self, x):
            return self.fc(x) * self.scale

    original, port = Scaled(), Scaled()
    port.set_weights(original.get_weights())
    port.scale.assign([1.0, 2.0, 1.0])
    return original, port, random(4, 6), {}, "weights", "scale"


@case
def a_frozen_batch_norm():
    """At inference the same; in training Keras's keeps its statistics."""
    frozen = L.BatchNormalization(epsilon=1e-5, momentum=0.9, trainable=False)
    return torch_image(nn.BatchNorm2d(4)), keras_image(frozen), random(4, 8, 8, 3), {
        "transfer": True
    }, "batch_norm", "1"  # fmt: skip
