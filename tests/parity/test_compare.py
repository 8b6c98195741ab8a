"""`parity.compare` and what it is made of: error measures, traces, models of strangers."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.errors import Error, judge, relative_l2, summarise
from parity.pairing import pair
from parity.rungs import gradients
from parity.trace import Trace


def test_relative_l2_by_hand():
    assert relative_l2(np.array([3.0, 4.0]), np.array([3.0, 0.0])) == pytest.approx(4 / 3)
    assert relative_l2(np.zeros(3), np.zeros(3)) == 0
    assert relative_l2(np.ones(4), np.zeros(4)) == np.inf
    assert relative_l2(np.ones(4), np.zeros(4), floor=4.0) == pytest.approx(0.5)
    for floor, expected in ((2.0, 4 / 3), (8.0, 0.5)):  # the larger of norm and floor, not their sum
        assert relative_l2(np.array([3.0, 4.0]), np.array([3.0, 0.0]), floor=floor) == pytest.approx(expected)
    assert relative_l2(np.ones(2), np.ones(3)) == np.inf
    assert np.isnan(relative_l2(np.array([np.nan]), np.ones(1)))


def test_nan_fails_and_is_the_worst():
    errors = judge({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2) + 1e-3, "b": np.array([1, np.nan])})
    verdict = summarise(errors)
    assert not verdict["passed"]
    assert verdict["worst"] == "b"
    assert verdict["first_divergence"] == "a"


def test_nothing_in_common_is_no_pass():
    verdict = summarise(judge({"a": np.ones(2)}, {"b": np.ones(2)}))
    assert not verdict["passed"]
    assert "nothing could be compared" in verdict["message"]


def test_float32_is_judged_by_the_references_own_error(rng):
    truth = {"x": rng.normal(size=1000)}
    noise = rng.normal(size=1000)
    reference = {"x": truth["x"] + 1e-5 * noise}
    near, far = ({"x": truth["x"] + size * noise[::-1]} for size in (7e-5, 9e-5))
    assert judge(reference, near, truth)[0].passed
    assert not judge(reference, far, truth)[0].passed


def test_float32_outputs_of_few_values_are_given_the_luck_they_need():
    """Two equally good computations: no alarm in ten thousand pairs, where a factor of 8 raises more than a hundred."""
    rng = np.random.default_rng(0)
    truth = {"x": np.ones(2)}
    alarms = strict = 0
    for _ in range(10_000):
        a, b = ({"x": truth["x"] + 1e-4 * rng.normal(size=2)} for _ in range(2))
        alarms += not judge(a, b, truth)[0].passed
        strict += relative_l2(b["x"], truth["x"]) > 8 * relative_l2(a["x"], truth["x"])
    assert alarms == 0
    assert strict > 100


def test_error_bounds_are_inclusive_and_nan_safe():
    assert Error("x", 1.0, 1.0, 0.0).passed
    assert not Error("x", float("nan"), 1.0, 0.0).passed


class InPlace(nn.Module):
    """Writes over its own intermediate tensors, as ResNets with ReLU(inplace=True) do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.conv(x))


def keras_twin():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    return keras.Model(inputs, keras.layers.ReLU(name="relu")(x))


def test_in_place_operations_do_not_spoil_the_record(rng):
    report = parity.compare(InPlace(), keras_twin(), rng.normal(size=(2, 8, 8, 3)), transfer=True)
    assert report.passed, report
    forward = next(row for row in report.rows if row.check == "forward")
    assert [name for name, *_ in forward.details["errors"]] == ["conv", "relu", "output", "output (inputs scaled)"]


def test_models_are_left_as_they_were(rng):
    original, port = InPlace(), keras_twin()
    before = [p.detach().clone() for p in original.parameters()], port.get_weights()
    parity.compare(original, port, rng.normal(size=(2, 8, 8, 3)))
    assert all(torch.equal(a, b) for a, b in zip(before[0], original.parameters(), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(before[1], port.get_weights(), strict=True))
    assert original.conv.weight.dtype == torch.float32
    assert "call" not in vars(port.get_layer("conv"))


class Subclassed(keras.Model):
    """Can't be rebuilt in float64: no get_config, no functional graph."""

    def __init__(self, width):
        super().__init__()
        self.conv = keras.layers.Conv2D(width, 3, name="conv")
        self.relu = keras.layers.ReLU(name="relu")

    def call(self, x):
        return self.relu(self.conv(x))


def test_subclassed_keras_models_are_judged_in_float32(rng):
    port = Subclassed(4)
    x = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    port(x)
    original = InPlace()
    report = parity.compare(original, port, x, transfer=True)
    assert report.passed, report
    assert report.rows[0].dtype == "float32"
    original.relu = nn.LeakyReLU(0.001)
    assert not parity.compare(original, port, x, transfer=True).passed


def test_several_inputs(rng):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, x, y):
            return self.a(x) * self.b(y)

    inputs = keras.Input((3,)), keras.Input((5,))
    a, b = (keras.layers.Dense(4, name=name)(x) for name, x in zip("ab", inputs, strict=True))
    port = keras.Model(list(inputs), a * b)
    x = rng.normal(size=(6, 3)), rng.normal(size=(6, 5))
    assert parity.compare(Two(), port, x, transfer=True).passed


def test_gradients_agree_with_finite_differences(rng):
    """The rung's own numbers, from both frameworks, against a third way to get them."""
    original, port = InPlace().double(), keras_twin()
    with_names = pair(original, port)
    parity.torch_to_keras(original, port)
    x = rng.normal(size=(2, 8, 8, 3))
    traces = [Trace(side, [x], seed=3) for side in (with_names[0], with_names[1].promoted())]
    cotangent = np.random.default_rng(3).normal(size=(2, 6, 6, 4))
    weights = {name: weight.array.copy() for name, weight in with_names[0].weights().items()}
    for name, index in [("conv/kernel", (1, 2, 0, 3)), ("conv/bias", (2,))]:
        values = []
        for step in (1e-6, -1e-6):
            moved = weights[name].copy()
            moved[index] += step
            with_names[0].assign({name: moved})
            values.append((with_names[0].predict(x) * cotangent).sum())
        with_names[0].assign(weights)
        numeric = (values[0] - values[1]) / 2e-6
        for side in traces:
            assert side.gradients[name][index] == pytest.approx(numeric, rel=1e-6)
    assert gradients.check(*traces)["passed"]


@pytest.mark.slow
def test_the_worked_example_finds_every_fault():
    import importlib.util
    from pathlib import Path

    path = Path(__file__).parents[2] / "examples" / "find_the_faults.py"
    spec = importlib.util.spec_from_file_location("find_the_faults", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main() == [
        ("configuration", "norm"),
        ("forward", "stem"),
        ("forward", "block_2"),
        None,
        ("batch_norm", "norm"),
    ]
