"""Pairs about weights that came over, and layers paired by name, value, order and rules; convert and ignore."""

import keras
import numpy as np
import torch
from torch import nn

from tests.parity.strangers.corpus.pairs import (
    batch_norm,
    chain,
    conv,
    dense,
    fault,
    ids,
    layered,
    module,
    norm,
    random,
    right,
    vary,
)
from tests.parity.strangers.models import L

ops = keras.ops


def _mlp(named="fc{}", rules=None, change=None, sizes=(6, 6, 6, 6), **options):
    """Three dense layers; the port has its weights by hand unless they are transferred."""
    parts = {f"fc{n}": nn.Linear(sizes[n - 1], sizes[n]) for n in (1, 2, 3)}
    original = module(lambda self, x: self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x))))), **parts)
    inputs = x = keras.Input((6,))
    layers = [L.Dense(sizes[n], activation="tanh" if n < 3 else None, name=named.format(n)) for n in (1, 2, 3)]
    for layer in layers:
        x = layer(x)
    if not options.get("transfer"):
        weights = [dense(getattr(original, name)) for name in parts]
        weights = change(weights) if change else weights
        for layer, arrays in zip(layers, weights, strict=True):
            layer.set_weights(arrays)
    return original, keras.Model(inputs, x), random(5, 6), {"names": rules} | options


@right("names")
def equal_names():
    return _mlp()


@right("by value")
def other_names():
    return _mlp("layer_of_mine_{}")


@right("order")
def by_order():
    return _mlp("layer_of_mine_{}", "order")


@right("order")
def by_order_transferred():
    return _mlp("layer_of_mine_{}", "order", transfer=True)


@right("order")
def by_place_transferred():
    return _mlp("layer_of_mine_{}", transfer=True, sizes=(6, 8, 7, 3))


@right("rules")
def by_a_regular_expression():
    return _mlp("dense_{}", [(r"^fc(\d)$", r"dense_\1")])


@right("counting rules")
def by_counting():
    return _mlp("dense_{}0", [("fc{n}", "dense_{n*10}")])


@right("rules")
def by_rules_of_both_sides():
    return _mlp("dense_{}", {"torch": [(r"^fc", "part")], "keras": [(r"^dense_", "part")]})


@right("rules")
def by_rules_and_order():
    return _mlp("mine_{}", [("^fc2$", "mine_2"), "order"])


@fault("weights", "weights", "fc2")
def one_tensor_not_transferred():
    return _mlp(change=lambda w: [w[0], [w[1][0], np.zeros(6)], w[2]])


@fault("weights", "weights", "fc2")
def kernel_not_transposed():
    return _mlp(change=lambda w: [w[0], [w[1][0].T, w[1][1]], w[2]])


@fault("weights", "weights", {"fc1", "fc2"})
def two_layers_exchanged():
    return _mlp(change=lambda w: [w[1], w[0], w[2]])


@fault("weights", "weights", "mine_2")
def one_bias_of_another_layer__by_order():
    return _mlp("mine_{}", "order", change=lambda w: [w[0], [w[1][0], w[0][1]], w[2]])


@fault("by value", ("weights", "structure", "forward"), {"fc3", "mine_3"})
def one_layer_not_transferred__other_names():
    return _mlp("mine_{}", change=lambda w: [w[0], w[1], [w[2][0] * 0.5 + 0.1, w[2][1]]])


@fault("weights", "weights", "fc1")
def one_number_of_a_kernel():
    def change(weights):
        kernel = weights[0][0].copy()
        kernel[2, 3] += 1e-3
        return [[kernel, weights[0][1]], *weights[1:]]

    return _mlp(change=change)


@right("names")
def modules_in_modules():
    """torch's dots are Keras's underscores."""
    original = vary(nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 3)))
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="relu", name="0_0")(inputs)
    return original, keras.Model(inputs, L.Dense(3, name="1")(x)), random(5, 6), {"transfer": True}


def _deep(wrong=False, names=None):
    """Six convolutions and norms with Keras's own names, weights by hand: only numbers tell who is who."""
    modules = []
    for channels, out in ((3, 4), (4, 5), (5, 6)):
        modules += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    original = chain(*modules)
    inputs = x = keras.Input((7, 9, 3))
    layers = []
    for place, filters in enumerate((4, 5, 6)):
        layers += [L.Conv2D(filters, 3, padding="same", use_bias=False), batch_norm()]
        x = layers[-1](layers[-2](x))
        x = ops.relu(x) if not wrong or place != 1 else ops.elu(x)
    for layer, source in zip(layers, (m for m in original if not isinstance(m, nn.ReLU)), strict=True):
        layer.set_weights((conv if isinstance(source, nn.Conv2d) else norm)(source))
    return original, keras.Model(inputs, x), random(3, 7, 9, 3), {"names": names}


@right("by value")
def deep_with_names_of_keras():
    return _deep()


@right("order")
def deep_by_order():
    return _deep(names="order")


@fault("by value", "forward", {"5", "elu", "Elu"})
def deep_with_names_of_keras__elu():
    return _deep(wrong=True)


def _branches_of_one_shape(exchanged=False):
    """Two branches that only their weights tell apart."""
    original = module(
        lambda self, x: torch.sigmoid(self.gate(x)) * torch.tanh(self.value(x)),
        value=nn.Linear(6, 5), gate=nn.Linear(6, 5),
    )  # fmt: skip
    inputs = keras.Input((6,))
    first, second = L.Dense(5, name="left"), L.Dense(5, name="right")
    port = keras.Model(inputs, ops.sigmoid(first(inputs)) * ops.tanh(second(inputs)))
    names = ("value", "gate") if exchanged else ("gate", "value")
    for layer, name in zip((first, second), names, strict=True):
        layer.set_weights(dense(getattr(original, name)))
    return original, port, random(5, 6), {}


@right("by value")
def two_branches():
    return _branches_of_one_shape()


@fault("by value", "forward", {"sigmoid", "tanh", "Sigmoid", "Tanh", "multiply", "mul"})
def two_branches__exchanged():
    return _branches_of_one_shape(exchanged=True)


def _scaled(convert=True, factor=2.0, wrong=1.0):
    """The port keeps a kernel divided by two and multiplies by two: no kind explains that."""
    original = module(lambda self, x: self.b(torch.relu(self.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3))

    @keras.saving.register_keras_serializable("strangers")
    class Halved(L.Dense):
        def call(self, x):
            return ops.matmul(x, self.kernel * factor) + self.bias

    inputs = keras.Input((6,))
    layers = Halved(8, name="a"), L.Dense(3, name="b")
    port = keras.Model(inputs, layers[1](ops.relu(layers[0](inputs))))
    kernel, bias = dense(original.a)
    layers[0].set_weights([kernel / factor * wrong, bias])
    layers[1].set_weights(dense(original.b))
    options = {"convert": {"a/kernel": lambda array: array / factor}} if convert else {}
    return original, port, random(5, 6), options


@right("convert and ignore")
def converted():
    return _scaled()


@fault("convert and ignore", "weights", "a")
def converted__wrong_all_the_same():
    return _scaled(wrong=1.01)


def _ignored(**options):
    """The original has an auxiliary head, the port has not."""
    original = module(
        lambda self, x: self.fc(torch.relu(self.a(x))), a=nn.Linear(6, 8), aux=nn.Linear(8, 2), fc=nn.Linear(8, 3)
    )
    inputs = keras.Input((6,))
    x = L.Dense(8, activation=options.pop("activation", "relu"), name="a")(inputs)
    return original, keras.Model(inputs, L.Dense(3, name="fc")(x)), random(5, 6), {"transfer": True} | options


@right("convert and ignore")
def auxiliary_head_ignored():
    return _ignored(ignore=["^aux"])


@right("convert and ignore")
def auxiliary_head_without_effect():
    return _ignored(training=False)


@fault("convert and ignore", "forward", {"a", "relu"})
def auxiliary_head_ignored__activation():
    return _ignored(ignore=["^aux"], activation="softplus")


def _idle_layer(called=True):
    """The port has a layer that is never called."""
    original = module(
        lambda self, x: self.c(torch.relu(self.b(torch.relu(self.a(x))))),
        a=nn.Linear(6, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 3),
    )  # fmt: skip

    class Port(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (L.Dense(n, name=name) for n, name in ((8, "a"), (8, "b"), (3, "c")))
            for layer, width in ((self.a, 6), (self.b, 8), (self.c, 8)):
                layer.build((None, width))

        def call(self, x):
            x = ops.relu(self.a(x))
            return self.c(ops.relu(self.b(x)) if called else x)

    port = Port()
    port(np.zeros((1, 6), np.float32))
    for name in "abc":
        getattr(port, name).set_weights(dense(getattr(original, name)))
    return original, port, random(5, 6), {}


@right("a layer never called")
def every_layer_called():
    return _idle_layer()


@fault("a layer never called", ("structure", "forward"), "b")
def every_layer_called__but_one():
    return _idle_layer(called=False)


layered(
    "embedding", "embedding", (7,),
    lambda: [nn.Embedding(20, 6), nn.Linear(6, 3)],
    lambda: [L.Embedding(20, 6), L.Dense(3)],
    {"scaled": (
        lambda: [L.Embedding(20, 6), ("scale", L.Rescaling(6**0.5)), ("1", L.Dense(3))], "forward", {"scale", "1"})},
    inputs=lambda: ids(3, 7),
)  # fmt: skip


def _embedding_by_hand(shift):
    original = chain(nn.Embedding(20, 6), nn.Linear(6, 3))
    inputs = keras.Input((7,), dtype="int32")
    layers = L.Embedding(20, 6, name="0"), L.Dense(3, name="1")
    port = keras.Model(inputs, layers[1](layers[0](inputs)))
    layers[0].set_weights([np.roll(original[0].weight.detach().numpy(), shift, 0)])
    layers[1].set_weights(dense(original[1]))
    return original, port, ids(3, 7), {}


@right("embedding")
def embedding_by_hand():
    return _embedding_by_hand(0)


@fault("embedding", "weights", "0")
def embedding_by_hand__ids_off_by_one():
    return _embedding_by_hand(1)


layered(
    "Dense", "dense", (6,),
    lambda: [nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3)],
    lambda: [L.Dense(8, use_bias=False), L.ReLU(), L.Dense(3)],
    {
        "bias_forgotten": (lambda: [L.Dense(8, use_bias=False), L.ReLU(), L.Dense(3, use_bias=False)],
                           ("structure", "configuration"), "2"),
        "activation_twice": (lambda: [L.Dense(8, use_bias=False), L.ReLU(), L.Dense(3, activation="relu")], "forward",
                             "2"),
    },
)  # fmt: skip
