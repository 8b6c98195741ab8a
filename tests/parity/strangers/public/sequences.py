"""Reported faults of transformers, recurrent layers and what is flattened."""

import keras
import torch.nn.functional as F
from torch import nn

from tests.parity.strangers.corpus.pairs import array, chain, dense, keras_chain, module, random
from tests.parity.strangers.corpus.recurrent import cell
from tests.parity.strangers.models import L
from tests.parity.strangers.public.reported import reported

ops = keras.ops
TRANSFER = {"transfer": True}
WIDTH, HEADS = 8, 2


@reported(
    "huggingface/transformers/issues/13666", "the exact GELU for the one by tanh", "forward", {"act", "gelu"},
    "GELU by tanh", "exact GELU",
)  # fmt: skip
def exact_gelu(wrong):
    original = module(
        lambda self, x: self.b(F.gelu(self.a(x), approximate="tanh")), a=nn.Linear(6, 8), b=nn.Linear(8, 3)
    )
    act = L.Activation(lambda x: ops.gelu(x, approximate=not wrong))
    return original, keras_chain((5, 6), ("a", L.Dense(8)), ("act", act), ("b", L.Dense(3))), random(2, 5, 6), TRANSFER


@reported(
    "huggingface/transformers/pull/15332", "a layer norm with the framework's own epsilon", "configuration", "norm",
    "epsilon is 1e-12 in the reference and 1e-05",
)  # fmt: skip
def epsilon_of_the_last_norm(wrong):
    inputs = keras.Input((5, 6))
    x = L.Dense(8, activation=lambda x: ops.gelu(x, approximate=False), name="dense")(inputs)
    original = keras.Model(inputs, L.LayerNormalization(epsilon=1e-12, name="norm")(x))
    port = module(
        lambda self, x: self.norm(F.gelu(self.dense(x))),
        dense=nn.Linear(6, 8), norm=nn.LayerNorm(8, **({} if wrong else {"eps": 1e-12})),
    )  # fmt: skip
    return original, port, random(2, 5, 6), TRANSFER


@reported(
    "keras-team/keras-hub/issues/642", "an epsilon that reached the norm of the embeddings alone", "configuration",
    "attention_norm", "epsilon is 1e-12 in the reference and 1e-05", "So in 2 layers",
)  # fmt: skip
def epsilon_of_the_blocks(wrong):
    def forward(self, x):
        x = self.embeddings_norm(x)
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = self.attention_norm(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        return self.output_norm(x + self.narrow(F.gelu(self.wide(x))))

    norms = {f"{name}_norm": nn.LayerNorm(WIDTH, eps=1e-12) for name in ("embeddings", "attention", "output")}
    parts = {name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value", "out")}
    original = module(forward, **parts, **norms, wide=nn.Linear(WIDTH, 16), narrow=nn.Linear(16, WIDTH))

    def norm(name, epsilon=1e-5 if wrong else 1e-12):
        return L.LayerNormalization(epsilon=epsilon, name=f"{name}_norm")

    inputs = keras.Input((5, WIDTH))
    x = norm("embeddings", 1e-12)(inputs)
    x = norm("attention")(x + attended(x))
    y = L.Dense(16, activation=lambda x: ops.gelu(x, approximate=False), name="wide")(x)
    port = keras.Model(inputs, norm("output")(x + L.Dense(WIDTH, name="narrow")(y)))
    return original, port, random(2, 5, WIDTH), TRANSFER


def attended(x, scale=(WIDTH // HEADS) ** -0.5):
    """Self-attention of dense layers query, key, value and out, of 5 tokens."""

    def heads(name):
        return ops.transpose(ops.reshape(L.Dense(WIDTH, name=name)(x), (-1, 5, HEADS, WIDTH // HEADS)), (0, 2, 1, 3))

    q, k, v = heads("query"), heads("key"), heads("value")
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * scale)
    mixed = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, 5, WIDTH))
    return L.Dense(WIDTH, name="out")(mixed)


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))


def _attention(scale):
    inputs = keras.Input((5, WIDTH))
    return SelfAttention(), keras.Model(inputs, attended(inputs, scale)), random(2, 5, WIDTH), TRANSFER


@reported(
    "braindecode/braindecode/pull/902", "attention scaled by the whole width, not by a head's", "forward",
    {"multiply", "matmul", "div", "truediv", "Multiply", "softmax", "mul"}, "x * 0.5, the candidate x * 0.353553",
)  # fmt: skip
def scale_of_the_whole_width(wrong):
    return _attention(WIDTH**-0.5 if wrong else (WIDTH // HEADS) ** -0.5)


@reported(
    "ethen8181/machine-learning/issues/13", "attention that is not scaled", "forward",
    {"softmax", "matmul", "div", "truediv", "mul", "multiply"}, "applies a factor of 0.5 before",
)  # fmt: skip
def scale_forgotten(wrong):
    inputs = keras.Input((5, WIDTH))
    scale = 1.0 if wrong else (WIDTH // HEADS) ** -0.5
    return SelfAttention(), keras.Model(inputs, attended(inputs, scale)), random(2, 5, WIDTH), TRANSFER


@reported(
    "onnx/keras-onnx/issues/529", "a softmax over everything for one over an axis", "forward", {"softmax", "soft"},
    "softmax over axis -2 of Keras's order", "softmax over the last axis of the axes (5, 4) in one",
)  # fmt: skip
def softmax_of_a_flat_array(wrong):
    original = module(lambda self, x: self.fc(x).softmax(1), fc=nn.Linear(6, 4))

    def soft(x):
        return ops.reshape(ops.softmax(ops.reshape(x, (-1, 20))), (-1, 5, 4)) if wrong else ops.softmax(x, 1)

    return original, keras_chain((5, 6), ("fc", L.Dense(4)), ("soft", L.Lambda(soft))), random(2, 5, 6), TRANSFER


@reported(
    "keras-team/keras/issues/15915", "a GRU whose reset and update gates are exchanged", "weights", "rnn",
    "stand in the order (1, 0, 2)",
)  # fmt: skip
def gates_of_a_gru(wrong):
    original = module(lambda self, x: self.fc(self.rnn(x)[0]), rnn=nn.GRU(4, 5, batch_first=True), fc=nn.Linear(5, 3))
    port = keras_chain((7, 4), ("rnn", L.GRU(5, return_sequences=True)), ("fc", L.Dense(3)))
    port.get_layer("rnn").set_weights(cell("gru", original.rnn, order=(0, 1, 2) if wrong else None))
    port.get_layer("fc").set_weights(dense(original.fc))
    return original, port, random(2, 7, 4), {}


@reported(
    "onnx/keras-onnx/issues/98", "an LSTM with one of two biases", "weights", "rnn", "alone",
)  # fmt: skip
def bias_of_an_lstm(wrong):
    original = module(lambda self, x: self.fc(self.rnn(x)[0]), rnn=nn.LSTM(4, 5, batch_first=True), fc=nn.Linear(5, 3))
    port = keras_chain((7, 4), ("rnn", L.LSTM(5, return_sequences=True)), ("fc", L.Dense(3)))
    port.get_layer("rnn").set_weights(cell("lstm", original.rnn, bias="input" if wrong else "both"))
    port.get_layer("fc").set_weights(dense(original.fc))
    return original, port, random(2, 7, 4), {}


@reported(
    "onnx/tensorflow-onnx/issues/2211", "the activations of both directions were not converted",
    ("configuration", "forward"), {"rnn", "rnn_forward_lstm", "rnn_forward_lstm_lstm_cell"}, "ReLU", "tanh",
)  # fmt: skip
def activations_of_two_directions(wrong):
    def made(activation):
        inner = L.LSTM(5, activation=activation, return_sequences=True, name="lstm")
        return keras_chain((7, 4), ("rnn", L.Bidirectional(inner)), ("fc", L.Dense(3)))

    # Numbers beyond 6, below which ReLU6 would be the same.
    return made("relu"), made("tanh" if wrong else "relu"), random(2, 7, 4, scale=30), TRANSFER


@reported(
    "gzuidhof/nn-transfer/issues/16", "the rows behind a flatten in the order of channels first",
    ("weights", "forward"), "2", "order",
)  # fmt: skip
def rows_behind_a_flatten(wrong):
    original = chain(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 5 * 7, 3))
    port = keras_chain((7, 9, 3), ("0", L.Conv2D(4, 3)), ("1", L.Flatten()), ("2", L.Dense(3)))
    port.get_layer("0").set_weights([array(original[0].weight).transpose(2, 3, 1, 0), array(original[0].bias)])
    rows = array(original[2].weight).T
    rows = rows if wrong else rows.reshape(4, 5, 7, 3).transpose(1, 2, 0, 3).reshape(-1, 3)
    port.get_layer("2").set_weights([rows, array(original[2].bias)])
    return original, port, random(2, 7, 9, 3), {}


@reported(
    "huggingface/transformers/pull/5150", "a dropout that is never told that it trains",
    "batch_norm", "1",
    "1: the candidate drops nothing in training, where the reference does",
)  # fmt: skip
def dropout_that_never_drops(wrong):
    class Quiet(L.Dropout):
        def call(self, x, training=False):
            return super().call(x, training=False)

    keras.saving.register_keras_serializable("strangers")(Quiet)
    original = chain(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3))
    drop = (Quiet if wrong else L.Dropout)(0.3)
    layers = ("0", L.Dense(8)), ("1", drop), ("2", L.Dense(3))
    return original, keras_chain((6,), *layers), random(4, 6), TRANSFER
