"""Pairs of attention: fused and split projections, self and cross, with masks, in blocks of transformers."""

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.strangers.corpus.pairs import array, dense, fault, module, random, right
from tests.parity.strangers.models import L

ops = keras.ops
WIDTH, HEADS = 8, 2


def heads_of(attention, heads=HEADS, order=(0, 1, 2)):
    """The weights of an nn.MultiheadAttention as those of a MultiHeadAttention, by hand."""
    weights, biases = (np.split(array(getattr(attention, f"in_proj_{what}")), 3) for what in ("weight", "bias"))
    found = []
    for place in order:
        found += [weights[place].T.reshape(WIDTH, heads, -1), biases[place].reshape(heads, -1)]
    out = attention.out_proj
    return [*found, array(out.weight).T.reshape(heads, -1, WIDTH), array(out.bias)]


def _self_attention(heads=HEADS, use_bias=True, transfer=True, order=(0, 1, 2), causal=False, causal_port=False):
    mask = torch.nn.Transformer.generate_square_subsequent_mask(7) if causal else None

    def forward(self, x):
        given = None if mask is None else mask.to(x.dtype)
        return self.fc(self.attn(x, x, x, need_weights=False, attn_mask=given)[0])

    attention = nn.MultiheadAttention(WIDTH, HEADS, bias=use_bias, batch_first=True)
    original = module(forward, attn=attention, fc=nn.Linear(WIDTH, 3))
    inputs = keras.Input((7, WIDTH))
    layer = L.MultiHeadAttention(heads, WIDTH // heads, use_bias=use_bias, name="attn")
    fc = L.Dense(3, name="fc")
    port = keras.Model(inputs, fc(layer(inputs, inputs, use_causal_mask=causal_port)))
    if not transfer:
        layer.set_weights(heads_of(original.attn, heads, order))
        fc.set_weights(dense(original.fc))
    return original, port, random(2, 7, WIDTH), {"transfer": transfer}


@right("attention, fused")
def attention_transferred():
    return _self_attention()


@right("attention, fused")
def attention_by_hand():
    return _self_attention(transfer=False)


@right("attention, fused")
def attention_without_bias():
    return _self_attention(use_bias=False)


@right("attention, fused")
def attention_causal():
    return _self_attention(causal=True, causal_port=True)


@fault("attention, fused", ("configuration", "structure"), "attn")
def attention_by_hand__number_of_heads():
    return _self_attention(heads=4, transfer=False)


@fault("attention, fused", "weights", {"attn_query", "attn_key", "attn"})
def attention_by_hand__query_for_key():
    return _self_attention(transfer=False, order=(1, 0, 2))


@fault("attention, fused", "forward", "attn")
def attention_causal__mask_forgotten():
    return _self_attention(causal=True)


def _cross(exchanged=False):
    original = module(
        lambda self, x, memory: self.attn(x, memory, memory, need_weights=False)[0],
        attn=nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), idle=nn.Identity(),
    )  # fmt: skip
    inputs = keras.Input((7, WIDTH), name="x"), keras.Input((7, WIDTH), name="memory")
    attention = L.MultiHeadAttention(HEADS, WIDTH // HEADS, name="attn")
    x, memory = inputs[::-1] if exchanged else inputs
    port = keras.Model(list(inputs), attention(x, memory))
    return original, port, (random(2, 7, WIDTH), random(2, 7, WIDTH, seed=1)), {"transfer": True}


@right("attention, cross")
def cross_attention():
    return _cross()


@fault("attention, cross", "forward", {"attn", "attn_query"})
def cross_attention__query_for_memory():
    return _cross(exchanged=True)


class Split(nn.Module):
    """Attention of four Linear, as transformers has it, in functional code."""

    def __init__(self, scale=None):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).flatten(2))


def _split(scale=(WIDTH // HEADS) ** -0.5, axis=-1, folded=True, gate=lambda x: x, by_layer=False):
    """The port is written out, or is a MultiHeadAttention whose parts are found by rules."""
    original = Split()
    inputs = keras.Input((7, WIDTH))
    if by_layer:
        attention = L.MultiHeadAttention(HEADS, WIDTH // HEADS, name="attn")
        port = keras.Model(inputs, attention(inputs, inputs))
        weights = []
        for part in (original.query, original.key, original.value):
            kernel, bias = dense(part)
            weights += [kernel.reshape(WIDTH, HEADS, -1), bias.reshape(HEADS, -1)]
        kernel, bias = dense(original.out)
        attention.set_weights([*weights, kernel.reshape(HEADS, -1, WIDTH), bias])
        rules = [("^out$", "attn/attention_output"), ("^(query|key|value)$", r"attn/\1")]
        return original, port, random(2, 7, WIDTH), {"names": rules}
    parts = [L.Dense(WIDTH, name=name)(inputs) for name in ("query", "key", "value")]
    shape = (-1, 7, HEADS, WIDTH // HEADS) if folded else (-1, 7, WIDTH // HEADS, HEADS)
    q, k, v = (ops.transpose(ops.reshape(part, shape), (0, 2, 1, 3) if folded else (0, 3, 1, 2)) for part in parts)
    scores = ops.softmax(gate(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * scale), axis=axis)
    x = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, 7, WIDTH))
    port = keras.Model(inputs, L.Dense(WIDTH, name="out")(x))
    return original, port, random(2, 7, WIDTH), {"transfer": True}


FUSED = "scaled_dot_product_attention"


@right("attention, split")
def attention_written_out():
    return _split()


@right("attention, split")
def attention_of_four_linear_as_a_layer():
    return _split(by_layer=True)


@fault("attention, split", "forward", {FUSED, "mul", "Mul", "multiply"})
def attention_written_out__scale_forgotten():
    return _split(scale=1.0)


@fault("attention, split", "forward", {FUSED, "softmax", "Softmax"})
def attention_written_out__softmax_over_queries():
    return _split(axis=-2)


@fault("attention, split", "forward", {FUSED, "unflatten", "reshape", "Reshape", "transpose", "Transpose"})
def attention_written_out__heads_last():
    return _split(folded=False)


class Scores(nn.Module):
    """Attention with its scores written out, one tensor of query, key and value, a mask of padding."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, mask):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(mask[:, None, None] == 0, -1e9).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))


def _masked(fill=-1e9, rows=False, order=(0, 1, 2)):
    inputs = keras.Input((7, WIDTH), name="x"), keras.Input((7,), dtype="int32", name="mask")
    x, mask = inputs
    x = ops.reshape(L.Dense(3 * WIDTH, use_bias=False, name="qkv")(x), (-1, 7, 3, HEADS, WIDTH // HEADS))
    parts = [ops.transpose(x[:, :, place], (0, 2, 1, 3)) for place in range(3)]
    q, k, v = (parts[place] for place in order)
    scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / (WIDTH // HEADS) ** 0.5
    hidden = ops.cast(ops.equal(mask, 0), scores.dtype)
    scores = scores + fill * (hidden[:, None, :, None] if rows else hidden[:, None, None, :])
    x = ops.matmul(ops.softmax(scores), v)
    x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, 7, WIDTH))
    port = keras.Model(list(inputs), L.Dense(WIDTH, name="out")(x))
    mask = np.ones((2, 7), np.int64)
    mask[0, 4:] = 0
    mask[1, 6:] = 0
    return Scores(), port, (random(2, 7, WIDTH), mask), {"transfer": True}


MASKED = {"masked_fill", "mul", "Mul", "multiply", "add", "Add", "AddV2"}


@right("attention, split")
def attention_with_mask():
    return _masked()


@fault("mask", "forward", MASKED)
def attention_with_mask__too_weak():
    return _masked(fill=-1.0)


@fault("mask", "forward", MASKED)
def attention_with_mask__of_queries():
    return _masked(rows=True)


@fault("attention, split", "forward", {"matmul", "MatMul", "BatchMatMulV2", "permute", "transpose", "GetItem"})
def attention_with_mask__value_for_query():
    return _masked(order=(2, 1, 0))


class Block(nn.Module):
    """A block of a transformer, the norm before."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 20), nn.GELU(), nn.Linear(20, WIDTH))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


def _block(after=False, shortcut=False, activation="gelu", epsilon=1e-6):

    def keras_block(x, name):
        y = x if after else L.LayerNormalization(epsilon=epsilon, name=f"{name}_norm1")(x)
        y = L.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"{name}_attn")(y, y)
        y = L.Add(name=f"{name}_add1")([x, y])
        if after:
            y = L.LayerNormalization(epsilon=epsilon, name=f"{name}_norm1")(y)
        z = L.LayerNormalization(epsilon=epsilon, name=f"{name}_norm2")(y)
        z = L.Dense(20, activation=activation, name=f"{name}_mlp_0")(z)
        z = L.Dense(WIDTH, name=f"{name}_mlp_2")(z)
        return L.Add(name=f"{name}_add2")([x if shortcut else y, z])

    inputs = keras.Input((7, WIDTH))
    port = keras.Model(inputs, keras_block(keras_block(inputs, "0"), "1"))
    return nn.Sequential(Block(), Block()), port, random(2, 7, WIDTH), {"transfer": True}


@right("transformer block")
def transformer_block():
    return _block()


@fault("transformer block", "forward", {"0_attn", "0_attn_query", "0_norm1"})
def transformer_block__norm_after():
    return _block(after=True)


@fault("transformer block", "forward", {"0_add2", "add", "add_1"})
def transformer_block__second_residual_from_the_start():
    return _block(shortcut=True)


@fault("transformer block", "forward", {"0_mlp_0", "0_mlp_1"})
def transformer_block__relu_for_gelu():
    return _block(activation="relu")


@fault("transformer block", "configuration", {"0_norm1", "0_norm2"})
def transformer_block__epsilon():
    return _block(epsilon=1e-3)


def _encoder(epsilon=1e-5):
    """torch's own encoder layer, which is post-norm."""
    original = nn.TransformerEncoderLayer(WIDTH, HEADS, 20, dropout=0.0, batch_first=True)
    inputs = keras.Input((7, WIDTH))
    x = L.Add()([inputs, L.MultiHeadAttention(HEADS, WIDTH // HEADS, name="self_attn")(inputs, inputs)])
    x = L.LayerNormalization(epsilon=1e-5, name="norm1")(x)
    y = L.Dense(WIDTH, name="linear2")(L.Dense(20, activation="relu", name="linear1")(x))
    x = L.LayerNormalization(epsilon=epsilon, name="norm2")(L.Add()([x, y]))
    return original, keras.Model(inputs, x), random(2, 7, WIDTH), {"transfer": True}


@right("transformer block")
def encoder_layer():
    return _encoder()


@fault("transformer block", "configuration", "norm2")
def encoder_layer__epsilon():
    return _encoder(epsilon=1e-3)
