"""Small models of strangers, of which the pairs with a fault are made."""

import keras
import numpy as np
from torch import nn

L = keras.layers


class Dense(nn.Module):
    """(B, 6) -> (B, 3) by way of `middle`."""

    def __init__(self, middle):
        super().__init__()
        self.a, self.b, self.middle = nn.Linear(6, 8), nn.Linear(8, 3), middle

    def forward(self, x):
        return self.b(self.middle(self.a(x)))


def dense(middle) -> keras.Model:
    inputs = keras.Input((6,))
    layer = middle if isinstance(middle, L.Layer) else L.Activation(middle, name="middle")
    return keras.Model(inputs, L.Dense(3, name="b")(layer(L.Dense(8, name="a")(inputs))))


class Uncopied(keras.Model):
    """The same without a config, so that there is no copy in float64."""

    def __init__(self, middle):
        super().__init__()
        self.a, self.b, self.middle = L.Dense(8, name="a"), L.Dense(3, name="b"), middle
        self(np.zeros((1, 6), np.float32))

    def call(self, x, training=False):
        x = self.a(x)
        return self.b(self.middle(x))


def chain(*layers) -> keras.Model:
    """Layers behind a convolution of pixels, named by their places."""
    inputs = x = keras.Input((8, 8, 3))
    for place, layer in enumerate(layers):
        layer.name = str(place)
        x = layer(x)
    return keras.Model(inputs, x)


@keras.saving.register_keras_serializable("parity")
class Gain(L.Layer):
    gain = 1.0

    def call(self, x):
        return x * self.gain


@keras.saving.register_keras_serializable("parity")
class Clip(L.Layer):
    limit = 5.0

    def call(self, x):
        return keras.ops.clip(x, 0.0, self.limit)
