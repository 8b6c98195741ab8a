"""Pairs of recurrent layers: LSTM, GRU and RNN, in both directions, stacked, with time first."""

import keras
import numpy as np
import torch
from torch import nn

from tests.parity.strangers.corpus.pairs import array, dense, fault, ids, module, random, right
from tests.parity.strangers.models import L

GATES = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}  # Keras's among torch's
LAYERS = {"lstm": L.LSTM, "gru": L.GRU, "rnn": L.SimpleRNN}
MODULES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def cell(kind, rnn, suffix="_l0", order=None, bias="both"):
    """The weights of one direction as Keras's cell holds them, by hand."""

    def gates(name):
        parts = np.split(array(getattr(rnn, name + suffix)), len(GATES[kind]))
        return np.concatenate([parts[place] for place in order or GATES[kind]])

    kernels = [gates("weight_ih").T, gates("weight_hh").T]
    if not rnn.bias:
        return kernels
    ours, theirs = gates("bias_ih"), gates("bias_hh")
    if bias == "input":
        theirs = np.zeros_like(theirs)
    return [*kernels, np.stack([ours, theirs]) if kind == "gru" else ours + theirs]


def _one(kind, use_bias=True, transfer=False, given=None, **changed):
    """A recurrent layer between embedding-like inputs and a dense layer at every step."""
    original = module(
        lambda self, x: self.fc(self.rnn(x)[0]),
        rnn=MODULES[kind](4, 5, batch_first=True, bias=use_bias),
        fc=nn.Linear(5, 3),
    )
    inputs = keras.Input((7, 4))
    rnn = LAYERS[kind](5, return_sequences=True, use_bias=use_bias, name="rnn")
    fc = L.Dense(3, name="fc")
    port = keras.Model(inputs, fc(rnn(inputs)))
    if not transfer:
        rnn.set_weights(given(cell(kind, original.rnn)) if given else cell(kind, original.rnn, **changed))
        fc.set_weights(dense(original.fc))
    return original, port, random(2, 7, 4), {"transfer": transfer}


@right("LSTM")
def lstm():
    return _one("lstm")


@right("LSTM")
def lstm_without_bias():
    return _one("lstm", use_bias=False, transfer=True)


@right("GRU")
def gru():
    return _one("gru")


@right("GRU")
def gru_transferred():
    return _one("gru", transfer=True)


@right("RNN")
def rnn():
    return _one("rnn")


@fault("LSTM", "weights", "rnn")
def lstm__one_bias_forgotten():
    return _one("lstm", bias="input")


@fault("LSTM", "weights", "rnn")
def lstm__gates_in_another_order():
    return _one("lstm", order=(0, 1, 3, 2))


@fault("LSTM", "weights", "rnn")
def lstm__recurrent_kernel_transposed():
    def transposed(weights):
        parts = np.split(weights[1], 4, axis=1)
        return [weights[0], np.concatenate([part.T for part in parts], 1), weights[2]]

    return _one("lstm", given=transposed)


@fault("GRU", "weights", "rnn")
def gru__gates_of_torch():
    return _one("gru", order=(0, 1, 2))


@fault("GRU", "weights", "rnn")
def gru__biases_exchanged():
    return _one("gru", given=lambda weights: [*weights[:2], weights[2][::-1]])


@fault("RNN", "weights", "rnn")
def rnn__recurrent_bias_forgotten():
    return _one("rnn", bias="input")


def _last(wrong=None):
    """A sentence classifier: embedding, LSTM, last hidden state, dense layer."""
    original = module(
        lambda self, x: self.fc(self.rnn(self.embed(x))[1][0][-1]),
        embed=nn.Embedding(20, 4), rnn=nn.LSTM(4, 5, batch_first=True), fc=nn.Linear(5, 3),
    )  # fmt: skip
    inputs = x = keras.Input((7,), dtype="int32")
    options = {"recurrent_activation": "hard_sigmoid"} if wrong == "activation" else {}
    x = L.Embedding(20, 4, mask_zero=wrong == "masked", name="embed")(x)
    x = L.LSTM(5, name="rnn", return_sequences=wrong == "first", **options)(x)
    x = L.Dense(3, name="fc")(x[:, 0] if wrong == "first" else x)
    tokens = ids(3, 7)
    if wrong == "masked":
        tokens[:, 5:] = 0
    return original, keras.Model(inputs, x), tokens, {"transfer": True}


@right("LSTM")
def lstm_of_tokens():
    return _last()


@fault("LSTM", ("configuration", "forward"), {"rnn", "rnn_lstm_cell"})
def lstm_of_tokens__hard_sigmoid():
    return _last("activation")


@fault("LSTM", "forward", {"rnn", "embed"})
def lstm_of_tokens__zeros_masked():
    return _last("masked")


@fault("LSTM", "forward", {"rnn", "getitem", "GetItem", "fc"})
def lstm_of_tokens__first_step():
    return _last("first")


def _bidirectional(kind="lstm", merge="concat", levels=1, exchanged=False, transfer=False):
    original = module(
        lambda self, x: self.fc(self.rnn(x)[0]),
        rnn=MODULES[kind](4, 5, num_layers=levels, batch_first=True, bidirectional=True),
        fc=nn.Linear(10 if merge == "concat" else 5, 3),
    )
    inputs = x = keras.Input((7, 4))
    layers = []
    for level in range(levels):
        name = "rnn" if levels == 1 else f"rnn_l{level}"
        layers.append(L.Bidirectional(LAYERS[kind](5, return_sequences=True), merge_mode=merge, name=name))
        x = layers[-1](x)
    fc = L.Dense(3, name="fc")
    port = keras.Model(inputs, fc(x))
    if not transfer:
        for level, layer in enumerate(layers):
            weights = [cell(kind, original.rnn, f"_l{level}{end}") for end in ("", "_reverse")]
            weights = weights[::-1] if exchanged else weights
            layer.set_weights(weights[0] + weights[1])
        fc.set_weights(dense(original.fc))
    return original, port, random(2, 7, 4), {"transfer": transfer}


@right("bidirectional")
def bidirectional_lstm():
    return _bidirectional()


@right("bidirectional")
def bidirectional_gru():
    return _bidirectional("gru", transfer=True)


@fault("bidirectional", "weights", {"rnn", "rnn_forward", "rnn_backward"})
def bidirectional_lstm__directions_exchanged():
    return _bidirectional(exchanged=True)


@right("stacked recurrent layers")
def stacked_bidirectional():
    return _bidirectional(levels=2)


def _stacked(exchanged=False, relu=False):
    original = module(
        lambda self, x: self.rnn(x)[0], rnn=nn.LSTM(5, 5, num_layers=2, batch_first=True), other=nn.Identity()
    )
    inputs = keras.Input((7, 5))
    first, second = (L.LSTM(5, return_sequences=True, name=f"rnn_l{level}") for level in range(2))
    x = first(inputs)
    port = keras.Model(inputs, second(keras.ops.relu(x) if relu else x))
    for level, layer in enumerate((second, first) if exchanged else (first, second)):
        layer.set_weights(cell("lstm", original.rnn, f"_l{level}"))
    return original, port, random(2, 7, 5), {}


@right("stacked recurrent layers")
def stacked_lstm():
    return _stacked()


@fault("stacked recurrent layers", "weights", {"rnn_l0", "rnn_l1"})
def stacked_lstm__levels_exchanged():
    return _stacked(exchanged=True)


@fault("stacked recurrent layers", "forward", {"rnn", "relu", "rnn_l1"})
def stacked_lstm__relu_between():
    return _stacked(relu=True)


def _time_first(flipped=False):
    """torch's recurrent layers take (T, B, C) where nobody says batch_first."""
    original = module(lambda self, x: self.fc(self.rnn(x)[0]), rnn=nn.GRU(4, 5), fc=nn.Linear(5, 3))
    inputs = keras.Input((7, 4))
    rnn, fc = L.GRU(5, return_sequences=True, go_backwards=flipped, name="rnn"), L.Dense(3, name="fc")
    port = keras.Model(inputs, fc(rnn(inputs)))
    rnn.set_weights(cell("gru", original.rnn))
    fc.set_weights(dense(original.fc))
    return original, port, random(2, 7, 4), {}


@right("time first")
def time_first_gru():
    return _time_first()


@fault("time first", ("configuration", "forward"), {"rnn", "rnn_gru_cell"})
def time_first_gru__backwards():
    return _time_first(flipped=True)


class Cells(nn.Module):
    """A loop over a cell, step by step."""

    def __init__(self):
        super().__init__()
        self.cell, self.fc = nn.LSTMCell(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = c = x.new_zeros(len(x), 5)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.fc(torch.relu(h))


def _cells(**changed):
    original = Cells()
    inputs = keras.Input((7, 4))
    rnn, fc = L.LSTM(5, name="cell", **changed), L.Dense(3, name="fc")
    port = keras.Model(inputs, fc(keras.ops.relu(rnn(inputs))))
    weights = cell("lstm", original.cell, suffix="")
    rnn.set_weights(weights)
    fc.set_weights(dense(original.fc))
    return original, port, random(2, 7, 4), {}


@right("LSTM")
def lstm_cell_in_a_loop():
    return _cells()


@fault("LSTM", ("configuration", "forward"), "cell")
def lstm_cell_in_a_loop__another_activation():
    return _cells(activation="softsign")
