"""Pairs about what goes in and comes out: images of bytes, ids and masks, several inputs and outputs, half types."""

from dataclasses import dataclass

import keras
import numpy as np
import torch
from torch import nn

from tests.parity.strangers.corpus.pairs import conv, dense, fault, ids, layered, module, pixels, random, right
from tests.parity.strangers.models import L

ops = keras.ops
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _photograph(port, dtype="uint8"):
    """Pixels 0 to 255 are normalised inside the original; the port does it by `port`, a function of its input."""

    def forward(self, x):
        x = (x / 255 - self.mean) / self.std
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

    original = module(forward, conv=nn.Conv2d(3, 4, 3, 2), fc=nn.Linear(4, 5))
    original.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
    original.register_buffer("std", torch.tensor(STD)[:, None, None])
    inputs = keras.Input((9, 11, 3))
    x = L.Conv2D(4, 3, 2, activation="relu", name="conv")(port(inputs))
    port = keras.Model(inputs, L.Dense(5, name="fc")(L.GlobalAveragePooling2D(name="pool")(x)))
    port.get_layer("conv").set_weights(conv(original.conv))
    port.get_layer("fc").set_weights(dense(original.fc))
    return original, port, pixels(2, 9, 11, 3, dtype=dtype), {"ignore": ["^mean$", "^std$"]}


def _normalised(mean=MEAN, std=STD, scale=255.0):
    return lambda x: L.Normalization(mean=mean, variance=np.square(std), name="norm")(x / scale)


@right("uint8 images")
def photograph():
    return _photograph(_normalised())


@right("uint8 images")
def photograph_by_rescaling():
    """Both constants folded into one layer."""
    scale = 1 / (255 * np.array(STD))
    layer = L.Rescaling(scale.tolist(), (-np.array(MEAN) / STD).tolist(), name="norm")
    return _photograph(layer)


@fault("uint8 images", "forward", {"norm", "divide", "div", "TrueDiv", "RealDiv", "sub"})
def photograph__255_forgotten():
    return _photograph(_normalised(scale=1.0))


@fault("uint8 images", "forward", {"div", "divide", "getitem", "GetItem"})
def photograph__bgr():
    return _photograph(lambda x: _normalised()(x[..., ::-1]))


@fault("uint8 images", "forward", {"norm", "sub"})
def photograph__means_in_bgr():
    return _photograph(_normalised(MEAN[::-1]))


@fault("uint8 images", "forward", {"norm", "div"})
def photograph__variance_for_deviation():
    return _photograph(_normalised(std=np.sqrt(STD)), dtype="float32")


def _two_inputs(weight=2.0, exchanged=False, named=False):
    """x and y of one shape, joined by a function that tells them apart."""
    original = module(lambda self, x, y: self.fc(torch.tanh(self.a(x)) - 2 * self.b(y)), a=nn.Linear(4, 5),
                      b=nn.Linear(4, 5), fc=nn.Linear(5, 3))  # fmt: skip
    inputs = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    x, y = inputs[::-1] if exchanged else inputs
    x = ops.tanh(L.Dense(5, name="a")(x)) - weight * L.Dense(5, name="b")(y)
    port = keras.Model(list(inputs), L.Dense(3, name="fc")(x))
    return original, port, (random(5, 4), random(5, 4, seed=1)), {"transfer": True}


@right("several inputs")
def two_inputs():
    return _two_inputs()


@fault("several inputs", "forward", {"a", "b"})
def two_inputs__exchanged():
    return _two_inputs(exchanged=True)


@fault("several inputs", "forward", {"Mul", "mul", "multiply"})
def two_inputs__factor():
    return _two_inputs(weight=1.0)


def _named_inputs(pad=0):
    """Token ids and a mask by name; the mean is over what the mask shows."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc = nn.Embedding(20, 6), nn.Linear(6, 3)

        def forward(self, tokens, mask):
            mask = mask[..., None].to(self.embed.weight.dtype)
            return {"logits": self.fc((self.embed(tokens) * mask).sum(1) / mask.sum(1)), "length": mask.sum(1)}

    inputs = {name: keras.Input((7,), dtype="int32", name=name) for name in ("tokens", "mask")}
    mask = ops.cast(ops.expand_dims(inputs["mask"], -1), "float32")
    x = L.Embedding(20, 6, name="embed")(inputs["tokens"]) * mask
    length = ops.sum(mask, 1)
    x = L.Dense(3, name="fc")(ops.sum(x, 1) / (length + pad))
    mask = np.ones((3, 7), np.int64)
    mask[0, 3:] = mask[1, 5:] = 0
    port = keras.Model(inputs, {"logits": x, "length": length})
    return Net(), port, {"tokens": ids(3, 7), "mask": mask}, {"transfer": True}


@right("token ids with a mask")
def mean_of_tokens():
    return _named_inputs()


@fault("token ids with a mask", "forward", {"Add", "AddV2", "add", "TrueDivide", "divide", "RealDiv", "div", "truediv"})
def mean_of_tokens__length_and_one():
    return _named_inputs(pad=1)


def _mask_ignored():
    original, port, inputs, options = _named_inputs()
    tokens, mask = port.inputs
    tokens, mask = (tokens, mask) if tokens.name == "tokens" else (mask, tokens)
    embed, fc = L.Embedding(20, 6, name="embed"), L.Dense(3, name="fc")
    shown = ops.cast(ops.expand_dims(mask, -1), "float32")
    outputs = {"logits": fc(ops.mean(embed(tokens), 1)), "length": ops.sum(shown, 1)}
    return original, keras.Model({"tokens": tokens, "mask": mask}, outputs), inputs, options


@fault("mask", "forward", {"mul", "Mul", "multiply", "mean", "Mean", "sum", "Sum"})
def mean_of_tokens__mask_ignored():
    return _mask_ignored()


def _heads(kind, wrong=None):
    """Two heads; `kind` says how the torch module gives them."""

    @dataclass
    class Found:
        logits: torch.Tensor
        boxes: torch.Tensor
        loss: None = None

    def forward(self, x):
        x = torch.relu(self.body(x))
        logits, boxes = self.logits(x), torch.sigmoid(self.boxes(x))
        return {"tuple": (logits, boxes), "dict": {"logits": logits, "boxes": boxes},
                "dataclass": Found(logits, boxes), "nested": (logits, {"boxes": boxes})}[kind]  # fmt: skip

    original = module(forward, body=nn.Linear(6, 8), logits=nn.Linear(8, 5), boxes=nn.Linear(8, 4))
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="relu", name="body")(inputs)
    logits, boxes = L.Dense(5, name="logits")(x), L.Dense(4, name="boxes")(x)
    boxes = L.Activation("tanh" if wrong == "activation" else "sigmoid", name="squash")(boxes)
    if wrong == "softmax":
        logits = L.Softmax(name="softmax")(logits)
    if kind == "dict":
        port = keras.Model(inputs, {"logits": logits, "boxes": boxes})
    else:
        port = keras.Model(inputs, [logits, boxes])
    return original, port, random(5, 6), {"transfer": True}


@right("several outputs")
def heads_in_a_tuple():
    return _heads("tuple")


@right("several outputs")
def heads_in_a_dict():
    return _heads("dict")


@right("several outputs")
def heads_in_a_dataclass():
    return _heads("dataclass")


@right("several outputs")
def heads_nested():
    return _heads("nested")


@fault("several outputs", "forward", {"squash", "sigmoid"})
def heads_in_a_dict__second():
    return _heads("dict", "activation")


@fault("several outputs", "forward", {"squash", "sigmoid"})
def heads_in_a_tuple__second():
    return _heads("tuple", "activation")


@fault("several outputs", "forward", {"softmax", "logits"})
def heads_in_a_dataclass__probabilities_for_logits():
    return _heads("dataclass", "softmax")


layered(
    "images out", "images_out", (7, 9, 3),
    lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)],
    lambda: [L.Conv2D(4, 3, padding="same"), L.ReLU(), L.Conv2D(2, 1)],
    {"last_activation": (lambda: [L.Conv2D(4, 3, padding="same"), L.ReLU(), L.Conv2D(2, 1, activation="sigmoid")],
                         "forward", "2")},
)  # fmt: skip
layered(
    "images out", "pixels_shuffled_out", (5, 6, 3),
    lambda: [nn.Conv2d(3, 8, 1), nn.PixelShuffle(2)],
    lambda: [L.Conv2D(8, 1), L.Lambda(lambda x: _shuffled(x, channels_outside=True))],
    {"depth_to_space": (lambda: [L.Conv2D(8, 1), L.Lambda(lambda x: _shuffled(x, False))], "forward", "1")},
)  # fmt: skip


def _shuffled(x, channels_outside):
    """Pixel shuffle by two; torch's channels are (C, r, r), those of depth_to_space (r, r, C)."""
    shape = (-1, 5, 6, 2, 2, 2)
    x = ops.reshape(x, shape)
    order = (0, 1, 4, 2, 5, 3) if channels_outside else (0, 1, 3, 2, 4, 5)
    return ops.reshape(ops.transpose(x, order), (-1, 10, 12, 2))


def _half(dtype, wrong=False):
    """The original was kept in a half type; its weights are exact in float32."""
    original = module(lambda self, x: self.b(torch.relu(self.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3)).to(dtype)
    inputs = keras.Input((6,))
    layers = L.Dense(8, activation="elu" if wrong else "relu", name="a"), L.Dense(3, name="b")
    port = keras.Model(inputs, layers[1](layers[0](inputs)))
    for layer in layers:
        part = getattr(original, layer.name)
        layer.set_weights([part.weight.detach().float().numpy().T, part.bias.detach().float().numpy()])
    return original, port, random(5, 6).astype("float32"), {}


@right("half types")
def bfloat16_original():
    return _half(torch.bfloat16)


@right("half types")
def float16_original():
    return _half(torch.float16)


@fault("half types", "forward", "a")
def bfloat16_original__elu():
    return _half(torch.bfloat16, wrong=True)


@right("half types")
def float64_original():
    original = module(lambda self, x: self.b(torch.relu(self.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3)).double()
    inputs = keras.Input((6,))
    port = keras.Model(inputs, L.Dense(3, name="b")(L.Dense(8, activation="relu", name="a")(inputs)))
    return original, port, random(5, 6), {"transfer": True}


@right("half types")
def mixed_precision_port():
    original = module(lambda self, x: self.b(torch.relu(self.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    inputs = keras.Input((6,))
    layers = L.Dense(8, activation="relu", dtype="mixed_float16", name="a"), L.Dense(3, dtype="float32", name="b")
    return original, keras.Model(inputs, layers[1](layers[0](inputs))), random(5, 6), {"transfer": True}
