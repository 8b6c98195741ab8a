"""Why two models part: the cause that is named for each fault, for several at once, and never a wrong one."""

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import ops
from torch import nn

import parity
from parity.__main__ import main
from parity.causes.elementwise import ACTIVATIONS
from parity.naming import canonical_layer, ruled
from tests.parity.strangers.models import (
    L,
    TorchDense,
    causes,
    image,
    keras_dense,
    keras_image,
    random,
    row,
    torch_image,
)

PIXELS = np.random.default_rng(0).uniform(size=(2, 8, 8, 3))


def flipped(original, port):
    parity.torch_to_keras(original, port)
    layer = port.get_layer("0")
    layer.kernel.assign(ops.flip(ops.flip(layer.kernel, 0), 1))
    return original, port


def exchanged():
    original, port = torch_image(nn.BatchNorm2d(4)), keras_image(L.BatchNormalization(epsilon=1e-5, momentum=0.9))
    nn.init.uniform_(original[1].weight), nn.init.normal_(original[1].bias)
    parity.torch_to_keras(original, port)
    norm = port.get_layer("1")
    gamma, beta = norm.gamma.numpy(), norm.beta.numpy()
    norm.gamma.assign(beta), norm.beta.assign(gamma)
    return original, port


def lstm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(5, 4, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0]

    original, inputs = Net(), keras.Input((6, 5))
    port = keras.Model(inputs, L.LSTM(4, return_sequences=True, name="rnn")(inputs))
    parity.torch_to_keras(original, port)
    port.get_layer("rnn").cell.bias.assign(original.rnn.bias_ih_l0.detach().numpy())
    return original, port


def joined(order):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.head(torch.cat([self.a(x), self.b(x)], 1))

    inputs = keras.Input((8, 8, 3))
    parts = [L.Conv2D(4, 3, name=name)(inputs) for name in order]
    return Net(), keras.Model(inputs, L.Conv2D(2, 1, name="head")(L.Concatenate()(parts)))


def residual():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.a(x)
            return self.c(x + torch.tanh(self.b(x)))

    inputs = keras.Input((6,))
    x = L.Dense(8, name="a")(inputs)
    y = L.Activation("tanh")(L.Dense(8, name="b")(x))
    return Net(), keras.Model(inputs, L.Dense(3, name="c")(L.Add(name="add")([y, y])))


def flattened():
    original = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    port = image(L.Conv2D(4, 3, name="0"), L.Flatten(name="1"), L.Dense(5, name="2"), size=(8, 8, 3))
    return original, port


TRANSFER = {"transfer": True}
# Name to (function that makes the pair, inputs, what must be said, arguments of compare).
FAULTS = {
    "tanh GELU": (lambda: (torch_image(nn.GELU()), keras_image(L.Activation(lambda x: ops.gelu(x, approximate=True)))),
                  PIXELS, ("1:", "exact GELU", "GELU by tanh"), TRANSFER),
    "SiLU for GELU": (lambda: (TorchDense(F.gelu), keras_dense("silu")), random(4, 6), ("exact GELU", "SiLU"),
                      TRANSFER),
    "slope": (lambda: (torch_image(nn.LeakyReLU(0.01)), keras_image(L.LeakyReLU(negative_slope=0.3))), PIXELS,
              ("slope 0.01", "slope 0.3"), TRANSFER),
    "ReLU for ReLU6": (lambda: (torch_image(nn.ReLU6()), keras_image(L.ReLU())), PIXELS, ("ReLU6", "ReLU"), TRANSFER),
    "extra activation": (lambda: (nn.Sequential(nn.Conv2d(3, 4, 3)), keras_image(L.Activation("tanh"))), PIXELS,
                         ("the candidate applies tanh", "returns as it is"), TRANSFER),
    "softmax over the batch": (lambda: (TorchDense(lambda x: F.softmax(x, 0)), keras_dense("softmax")), random(4, 6),
                               ("over the batch", "over the last axis"), TRANSFER),
    "same padding": (lambda: (nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1)), image(L.Conv2D(4, 3, 2, "same", name="0"),
                     size=(8, 8, 3))), PIXELS, ("padding ((1, 1), (1, 1))", "padding ((0, 1), (0, 1))"), TRANSFER),
    "reflection": (lambda: (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
                   image(L.Conv2D(4, 3, padding="same", name="0"), size=(8, 8, 3))), PIXELS,
                   ("padding by reflection", "padding by zeros"), TRANSFER),
    "missing 255": (lambda: (type("Scaled", (TorchScaled,), {})(), image(L.Conv2D(4, 3, name="conv"), size=(8, 8, 3))),
                    PIXELS * 255, ("inputs divided by 255", "inputs as they are"), TRANSFER),
    "BGR": (lambda: (nn.Sequential(nn.Conv2d(3, 4, 3)), image(L.Lambda(lambda x: x[..., ::-1]),
            L.Conv2D(4, 3, name="0"), size=(8, 8, 3))), PIXELS, ("channels",), TRANSFER),
    "flipped kernel": (lambda: flipped(nn.Sequential(nn.Conv2d(3, 4, 3)), image(L.Conv2D(4, 3, name="0"),
                       size=(8, 8, 3))), PIXELS, ("0/kernel", "reversed"), {}),
    "epsilon": (lambda: (torch_image(nn.BatchNorm2d(4)), keras_image(L.BatchNormalization(momentum=0.9))), PIXELS,
                ("epsilon", "1e-05", "0.001"), TRANSFER),
    "gamma and beta": (exchanged, PIXELS, ("1/gamma: it holds what belongs to 1/beta",), {}),
    "layer norm's epsilon": (lambda: (nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8)), dense(L.LayerNormalization())),
                             random(4, 6), ("epsilon", "0.001"), TRANSFER),
    "pool's padding": (lambda: (torch_image(nn.MaxPool2d(3, 2, 1)), image(L.Conv2D(4, 3, name="0"), L.ZeroPadding2D(1),
                       L.MaxPooling2D(3, 2, name="1"), size=(8, 8, 3))), PIXELS - 0.5,
                       ("filled with nothing", "maximum of 3x3 windows"), TRANSFER),
    "align_corners": (lambda: (torch_image(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
                      keras_image(L.UpSampling2D(2, interpolation="bilinear"))), PIXELS,
                      ("with aligned corners", "bilinear interpolation"), TRANSFER),
    "max for mean": (lambda: (torch_image(nn.AdaptiveAvgPool2d(1), nn.Flatten()), keras_image(L.GlobalMaxPooling2D())),
                     PIXELS, ("the mean over rows and columns", "the maximum over rows and columns"), TRANSFER),
    "concat order": (lambda: joined("ba"), PIXELS, ("another order", "from a and b", "from b and a"), TRANSFER),
    "residual": (residual, random(4, 6), ("adds other tensors", "twice"), TRANSFER),
    "flatten": (flattened, PIXELS, ("2:", "flatten", "(4, 36) against (36, 4)"), TRANSFER),
    "half of an LSTM's bias": (lstm, random(3, 6, 5), ("rnn/bias: it holds bias_ih_l0 alone",), {}),
    "scale": (lambda: (TorchDense(lambda x: x * 8**-0.5), keras_dense("linear")), random(4, 6),
              ("b: the reference applies a factor of 0.353553 before b",), TRANSFER),
}  # fmt: skip


class TorchScaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x / 255)


def dense(layer):
    inputs = keras.Input((6,))
    layer.name = "1"
    return keras.Model(inputs, layer(L.Dense(8, name="0")(inputs)))


@pytest.mark.parametrize("name", FAULTS)
def test_the_cause_is_named(name):
    make, inputs, words, options = FAULTS[name]
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    report = parity.compare(*make(), inputs, **options)
    assert not report.passed
    for word in words:
        assert word in causes(report), report


def test_several_faults_in_one_run():
    """Six at once: padding, epsilon, two activations, a pooling, a weight that was forgotten."""
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    original = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 3),
    )  # fmt: skip
    original[1].running_mean.normal_(0, 0.3)
    original[1].running_var.uniform_(0.5, 2)
    inputs = keras.Input((24, 24, 3))
    x = L.Conv2D(4, 3, 2, "same", name="0")(inputs)
    x = L.BatchNormalization(epsilon=1e-2, momentum=0.9, name="1")(x)
    x = L.Activation(lambda x: ops.gelu(x, approximate=True), name="2")(x)
    x = L.ReLU(name="4")(L.Conv2D(6, 3, name="3")(x))
    x = L.GlobalAveragePooling2D()(L.AveragePooling2D(2, 2, name="5")(x))
    x = L.Dense(3, name="10")(L.Activation("tanh", name="9")(L.Dense(8, name="8")(x)))
    port = keras.Model(inputs, x)
    parity.torch_to_keras(original, port)
    port.get_layer("8").bias.assign(np.zeros(8))
    report = parity.compare(original, port, np.random.default_rng(1).uniform(-1, 1, (2, 24, 24, 3)), training=False)
    told = causes(report)
    for words in (
        "0: the reference computes with padding ((1, 1), (1, 1))",
        "1: epsilon is 1e-05 in the reference and 0.01",
        "2: the reference computes exact GELU, the candidate GELU by tanh",
        "5: the reference computes the maximum of 2x2 windows",
        "8/bias: it is 0 everywhere",
        "9: the reference computes SiLU, the candidate tanh",
    ):
        assert words in told, told


def test_activations_are_those_of_both_frameworks():
    """The table's functions against Keras's and torch's own, in float64."""
    x = np.linspace(-4, 7, 50)
    tensor = torch.from_numpy(x)
    for name, (function, _, code) in ACTIVATIONS.items():
        if code.startswith(("F.", "torch.", "x.")):
            found = eval(code, {"F": F, "torch": torch, "x": tensor}).numpy()
            np.testing.assert_allclose(function(x), found, rtol=1e-12, atol=1e-14, err_msg=name)


def test_rules_that_count():
    rules = [("layer{s}.{i}", "conv{s+1}_block{i+1}"), (r"\.bn(\d)$", r"_\1_bn")]
    assert ruled("layer1.0.bn2", rules) == "conv2_block1_2_bn"
    assert canonical_layer("layer10.3.conv", rules) == "conv11_block4_conv"
    assert ruled("block{n}", [("block{n}", "never")]) == "block{n}"
    twice = [("block{n}.{n}", "twin{n}")]
    assert [ruled(path, twice) for path in ("block1.1", "block1.12", "block1.2")] == ["twin1", "block1.12", "block1.2"]
    with pytest.raises(ValueError, match="may add, subtract"):
        ruled("layer1", [("layer{s}", "conv{s ** 2}")])
    with pytest.raises(ValueError, match="names must be None"):
        parity.compare(TorchDense(), keras_dense(), random(4, 6), names="by name")
    with pytest.raises(ValueError, match="has the keys"):
        parity.compare(TorchDense(), keras_dense(), random(4, 6), names={"jax": []})


def test_convert_and_ignore_are_checked():
    pair = TorchDense(), keras_dense(), random(4, 6)
    with pytest.raises(ValueError, match="matches no layer or weight. Received: 'nowhere'"):
        parity.compare(*pair, ignore=["nowhere"])
    with pytest.raises(ValueError, match="does not have. Received: 'c/kernel'"):
        parity.compare(*pair, convert={"c/kernel": np.array})
    with pytest.raises(ValueError, match="gives shape"):
        parity.compare(*pair, convert={"a/kernel": lambda kernel: kernel[:2]})


def test_an_operation_is_recorded_and_runs_again():
    from parity.adapters import adapt
    from parity.graph import moves_only

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 8)

        def forward(self, x):
            y = F.relu(self.a(x), inplace=True)
            y[:, 0] = 1.0
            parts = [F.pad(y, (1, 1)).T.T + x.mean(1, keepdim=True)]
            joined = torch.cat(parts, 1)
            parts.append(joined)  # a list that grows after it was used, as in a DenseNet
            return joined

    x = random(4, 6)
    for model in (Net().double(), keras_dense("gelu")):
        graph = adapt(model).graph(x)
        assert graph.nodes
        for node in graph.nodes:
            again = node.run([graph.values[number] for number in node.inputs])
            for number, array in zip(node.outputs, again, strict=True):
                np.testing.assert_allclose(array, graph.values[number], rtol=1e-6, err_msg=str(node))
        if graph.framework == "torch":
            names = {node.title: node for node in graph.nodes}
            assert moves_only(graph, names["pad"])
            assert not moves_only(graph, names["relu"])
            assert "test_diagnosis.py" in names["pad"].source
            out = graph.outputs["output"]
            np.testing.assert_allclose(
                graph.rerun({graph.sources[0]: x[::-1]}, out), model(torch.from_numpy(x[::-1].copy())).detach().numpy()
            )


def test_the_command_explains(monkeypatch, capsys):
    import sys
    import types

    module = types.ModuleType("pair_to_explain")
    module.original, module.port = lambda: TorchDense(F.gelu), lambda: keras_dense("silu")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    command = ["compare", "pair_to_explain:original", "pair_to_explain:port", "--input", "4,6", "--transfer"]
    assert main([*command, "--explain", "--names", "^a$=a", "order"]) == 1
    out = capsys.readouterr().out
    assert "why: middle: the reference computes exact GELU, the candidate SiLU." in out
    assert "models.py" in out
    assert main([*command, "--ignore", "nowhere"]) == 2
    assert main([*command, "--names", "order", "^a$=a"]) == 2


def test_outputs_in_another_axis_order():
    class Time(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(5, 4)

        def forward(self, x):
            return self.rnn(x)[0]

    inputs = keras.Input((6, 5))
    port = keras.Model(inputs, L.GRU(4, return_sequences=True, name="rnn")(inputs))
    report = parity.compare(Time(), port, random(3, 6, 5), transfer=True)
    assert report.passed, report
    assert any("time first" in note for note in report.notes)
    assert row(report, "gradients").status == "ok"


def test_rows_that_no_input_names_can_not_be_exchanged():
    """The right numbers in another order, and outputs that agree because nobody looked there."""
    keras.utils.set_random_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.fc = nn.Embedding(10, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.e(x))

    original, inputs = Net(), keras.Input((3,), dtype="int32")
    port = keras.Model(inputs, L.Dense(3, name="fc")(L.Embedding(10, 4, name="e")(inputs)))
    parity.torch_to_keras(original, port)
    table = port.get_layer("e").embeddings.numpy()
    table[[8, 9]] = table[[9, 8]]
    port.get_layer("e").embeddings.assign(table)
    report = parity.compare(original, port, np.random.default_rng(0).integers(0, 8, (4, 3)))
    assert str(report).startswith("Outputs agree")
    assert (report.first_failure.check, report.first_failure.first_divergence) == ("weights", "e")


def test_shuffled_channels_are_one_value_in_both_orders():
    """Two axes stand apart that no single move brings together: the way back is the order undone."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x):
            y = self.a(x)
            n, c, h, w = y.shape
            return self.b(y.view(n, 2, 3, h, w).transpose(1, 2).reshape(n, c, h, w))

    inputs = keras.Input((5, 7, 3))
    x = ops.reshape(L.Conv2D(6, 1, name="a")(inputs), (-1, 5, 7, 2, 3))
    x = ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, 5, 7, 6))
    port = keras.Model(inputs, L.Conv2D(4, 1, name="b")(x))
    report = parity.compare(Net(), port, random(2, 5, 7, 3), transfer=True)
    assert report.passed, report
