"""Faults that a careless instrument passes over in silence: small pairs of models, put to `parity.compare`."""

import numpy as np

from parity.court.mutations.registry import Later, pair_mutation

keras, L, strangers = Later("keras"), Later("keras.layers"), Later("parity.court.mutations.strangers")
torch, nn, F = Later("torch"), Later("torch.nn"), Later("torch.nn.functional")


def _pixels():
    return np.random.default_rng(0).uniform(size=(2, 8, 8, 3))


def _numbers(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pair_mutation("Normalization adapted to other data, which no copy by config shows", "forward", "norm")
def _():
    norm = L.Normalization(name="norm")
    norm.adapt(2 * _numbers(64, 6) + 3)
    inputs = keras.Input((6,))
    return nn.Sequential(nn.Linear(6, 3)), keras.Model(inputs, L.Dense(3, name="0")(norm(inputs))), _numbers(4, 6), {}


@pair_mutation("a factor set after construction", "forward", "middle")
def _():
    port = strangers.dense(strangers.Gain(name="middle"))
    port.get_layer("middle").gain = 2.0
    return strangers.Dense(nn.Identity()), port, _numbers(4, 6), {}


@pair_mutation("a limit set after construction, beyond the range of the inputs", "forward", "1")
def _():
    port = strangers.chain(L.Conv2D(4, 3), strangers.Clip())
    port.get_layer("1").limit = 4.0
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(0.0, 5.0)), port, _pixels(), {}


@pair_mutation("tanh for ReLU behind a dropout that is always on", "determinism", "before b")
def _():
    original = strangers.Dense(lambda x: F.dropout(torch.relu(x), 0.5))
    return original, strangers.Uncopied(keras.ops.tanh), _numbers(4, 6), {}


@pair_mutation("tanh for ReLU behind a tensor that is all rounding", "forward", "relu")
def _():
    def middle(x):
        return (x * 3 - x - x) - x

    class Rest(nn.Module):
        def forward(self, x):
            return middle(x)

    class Net(strangers.Dense):
        def __init__(self):
            super().__init__(torch.relu)
            self.rest = Rest()

        def forward(self, x):
            x = self.a(x)
            return self.b(torch.relu(x + self.rest(x)))

    port = strangers.Uncopied(lambda x: keras.ops.tanh(x + middle(x)))
    return Net(), port, _numbers(4, 6), {"training": False}


def _beyond(name, original, port):
    """A fault that inputs between 0 and 1 do not show."""

    @pair_mutation(name, "forward", "1")
    def _():
        return nn.Sequential(nn.AvgPool2d(2), original()), strangers.chain(L.AveragePooling2D(2), port()), _pixels(), {}


_beyond("ReLU for ReLU6", lambda: nn.ReLU6(), lambda: L.ReLU())
_beyond("ReLU for a leaky one, on numbers that are positive", lambda: nn.LeakyReLU(0.1), lambda: L.ReLU())
_beyond("slopes of leaky ReLUs", lambda: nn.LeakyReLU(0.01), lambda: L.LeakyReLU(negative_slope=0.3))
_beyond("a hard sigmoid without its ends", lambda: nn.Hardsigmoid(), lambda: L.Lambda(lambda x: x / 6 + 0.5))
_beyond("numbers clipped too soon", lambda: nn.Hardtanh(0.0, 8.0), lambda: L.Lambda(lambda x: keras.ops.clip(x, 0, 6)))


@pair_mutation("float32 alone, off by 8e-6", "forward", "middle")
def _():
    port = strangers.dense(L.Lambda(lambda x: keras.ops.relu(x) * (1 + 8e-6), name="middle"))
    return strangers.Dense(nn.ReLU()), port, _numbers(64, 6), {"float64": False, "training": False}


@pair_mutation("the second of two outputs", "forward", "squash")
def _():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 2)

        def forward(self, x):
            return {"a": self.a(x), "b": torch.relu(self.b(x))}

    inputs = keras.Input((6,))
    wrong = L.Activation("tanh", name="squash")(L.Dense(2, name="b")(inputs))
    return Heads(), keras.Model(inputs, {"a": L.Dense(3, name="a")(inputs), "b": wrong}), 4 * _numbers(32, 6), {}


def _refused(name, words, inputs):
    """Inputs that would hide that there is tanh for ReLU."""

    @pair_mutation(name, "refused", words)
    def _():
        return strangers.Dense(nn.ReLU()), strangers.dense("tanh"), inputs, {}


_refused("tanh for ReLU on zeros", "does not vary", np.zeros((4, 6)))
_refused("tanh for ReLU on ones", "does not vary", np.ones((4, 6)))
_refused("tanh for ReLU on NaN", "must be finite", np.full((4, 6), np.nan))


@pair_mutation("inputs exchanged, given one picture twice", "refused", "their exchange could not be seen")
def _():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x, y):
            return self.a(x) - self.b(y)

    inputs = [keras.Input((3,), name="x"), keras.Input((3,), name="y")]
    port = keras.Model(inputs, L.Dense(4, name="a")(inputs[1]) - L.Dense(4, name="b")(inputs[0]))
    x = _numbers(2, 3)
    return Two(), port, (x, x.copy()), {}


@pair_mutation("two layers that rules give one name", "refused", "would both be called 'fc'")
def _():
    original = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    port = keras.Sequential([keras.Input((6,)), L.Dense(6, name="fc")])
    return original, port, _numbers(4, 6), {"names": [(r"^\d$", "fc")]}


@pair_mutation("two tables for one that is tied", "weights", "head")
def _():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    inputs = keras.Input((5,), dtype="int32")
    head = L.Dense(11, use_bias=False, name="head")
    apart = keras.Model(inputs, head(L.Embedding(11, 4, name="embed")(inputs)))
    return apart, Net(), np.random.default_rng(0).integers(0, 11, (3, 5)), {"training": False}
