"""Reports say what was compared and what not, and leave everything as it was."""

import copy
import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity import environment
from parity.errors import CEILING_ROUNDINGS, FLOAT32_EPS, Row, judge, relative_l2, summarise
from parity.trace import scaled
from tests.parity.strangers.models import (
    L,
    Subclassed,
    TorchDense,
    first,
    keras_dense,
    keras_image,
    random,
    row,
    torch_image,
)


def test_no_name_in_common():
    port = keras_dense()
    for layer in port.layers:
        layer.name = f"other_{layer.name}"
    report = parity.compare(TorchDense(), port, random(4, 6))
    text = str(report)
    assert "TorchDense has a, b" in text
    assert "has other_a, other_b" in text
    assert 'names="order"' in text
    assert not report.passed
    assert row(report, "structure").status == "not compared"
    assert parity.compare(TorchDense(), port, random(4, 6), names="order", transfer=True).passed


def test_layers_of_other_names_are_paired_by_their_numbers():
    original, port = TorchDense(), keras_dense()
    parity.torch_to_keras(original, port)
    for layer in port.layers:
        layer.name = f"other_{layer.name}"
    report = parity.compare(original, port, random(4, 6))
    assert report.passed, report
    assert report.pairs == [("a", "other_a"), ("b", "other_b")]
    assert "paired: a ~ other_a, b ~ other_b" in str(report)


def test_weights_that_nothing_explains_are_told_but_no_pass():
    """The outputs agree, and the port keeps its kernel doubled: what else it has in it was not compared."""

    class Doubled(L.Layer):
        def build(self, shape):
            self.twice = self.add_weight(shape=(8, 3), name="twice")
            self.bias = self.add_weight(shape=(3,), name="bias")

        def call(self, x):
            return x @ (self.twice / 2) + self.bias

    original, inputs = TorchDense(), keras.Input((6,))
    last = Doubled(name="b")
    port = keras.Model(inputs, last(L.ReLU(name="middle")(L.Dense(8, name="a")(inputs))))
    parity.torch_to_keras(original, port, strict=False)
    last.twice.assign(2 * original.b.weight.detach().numpy().T)
    report = parity.compare(original, port, random(4, 6))
    assert str(report).startswith("Outputs agree to")
    assert report.status == "not compared"
    assert report.first_failure is None
    assert "not covered" in row(report, "structure").message


def test_weights_without_effect_are_told():
    class Unused(TorchDense):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 5)

    report = parity.compare(Unused(), keras_dense(), random(4, 6), transfer=True, training=False)
    assert report.passed, report
    assert "without effect on these outputs: head/bias, head/kernel" in row(report, "structure").message


def test_rungs_that_do_not_concern_a_pair_are_not_shown():
    report = parity.compare(nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU()), random(4, 6))
    assert report.passed, report
    assert not {"structure", "weights", "gradients"} & {row.check for row in report.rows}


def test_a_row_passes_only_if_ok():
    common = {"passed": True, "measure": "", "value": 0.0, "tolerance": 1.0}
    assert Row("", "a", "b", "forward", "float64", **common).status == "ok"
    assert Row("", "a", "b", "forward", "float64", **common | {"passed": False}).status == "FAIL"
    nothing = summarise([])
    assert (nothing["passed"], nothing["status"]) == (False, "not compared")


def test_an_output_without_a_finite_number_is_not_compared():
    class Root(nn.Module):
        def forward(self, x):
            return torch.log(x)

    report = parity.compare(Root(), Root(), -1 - random(4, 6) ** 2, training=False)
    assert report.status == "not compared"
    assert "no number in it is finite" in str(report)
    assert parity.compare(Root(), Root(), random(4, 6), training=False).passed  # NaN on both sides alike


def test_infinities_and_nan_on_both_sides_are_equal():
    a = np.array([1.0, np.inf, np.nan, -np.inf])
    assert relative_l2(a, a) == 0
    assert relative_l2(a * [2, 1, 1, 1], a) == 1
    assert not relative_l2(-a, a) < 1e9
    assert np.isnan(relative_l2(np.array([np.nan, 1]), np.ones(2)))
    assert relative_l2(np.ones(2), np.array([np.nan, 1.0])) == np.inf


def test_whose_truth_it_is():
    truth = {"x": random(1000)}
    good, bad = ({"x": truth["x"] * (1 + error)} for error in (1e-7, 2e-4))
    assert judge(good, bad, truth)[0].value == pytest.approx(2e-4)
    assert not judge(good, bad, truth)[0].passed
    assert judge(bad, good, truth, owner="reference")[0].passed
    # The candidate's copy: the reference is judged, by what the candidate's rounding allows.
    assert judge(good, bad, truth, owner="candidate")[0].value == pytest.approx(1e-7)
    assert not judge(bad, good, truth, owner="candidate")[0].passed


def test_tolerances_have_a_ceiling():
    truth = {"x": random(1000)}
    rough, wrong = ({"x": truth["x"] * (1 + error)} for error in (5e-4, 2e-3))
    (error,) = judge(rough, wrong, truth)
    assert error.tolerance == pytest.approx(CEILING_ROUNDINGS * FLOAT32_EPS)
    assert not error.passed
    (error,) = judge(wrong, rough, truth)
    assert "own rounding" in error.undecided
    assert summarise([error])["status"] == "not compared"


def test_a_small_tensor_is_judged_by_itself_where_it_is_more_than_rounding():
    truth = {"big": random(100), "small": random(100) * 1e-3, "out": random(100)}
    reference = {name: array.astype(np.float32) for name, array in truth.items()}
    candidate = reference | {"small": reference["small"] * np.float32(1.001)}
    assert [error.passed for error in judge(reference, candidate, truth)] == [True, False, True]


def test_scaled_inputs_reach_both_tails():
    wide = scaled(np.random.default_rng(0).uniform(size=(4, 100)))
    assert wide.min() < -10
    assert wide.max() > 10
    assert scaled(np.ones((3, 50))).std() > 5
    ids = np.arange(6)
    assert scaled(ids) is ids


@pytest.mark.parametrize("refuses", [True, False])
def test_operations_that_refuse_wide_inputs(refuses):
    class Root(nn.Module):
        def forward(self, x):
            if refuses and (x < 0).any():
                raise ValueError("negative")
            return x.clamp(min=0).sqrt()

    @keras.saving.register_keras_serializable("strangers")
    class Port(L.Layer):
        def call(self, x):
            return keras.ops.sqrt(keras.ops.relu(x))

    pixels = np.random.default_rng(0).uniform(size=(4, 6))
    assert parity.compare(nn.Sequential(Root()), nn.Sequential(Root()), pixels, training=False).passed
    inputs = keras.Input((6,))
    report = parity.compare(nn.Sequential(Root()), keras.Model(inputs, Port(name="0")(inputs)), pixels, training=False)
    assert report.passed is not refuses, report
    assert not refuses or "only the reference fails" in str(report)


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_models_are_left_as_they_were(float64, training):
    original = torch_image(nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 4, 1)).train(training)
    original[1].eval()
    original[3].bias.requires_grad_(False)
    original[0].weight.grad = torch.ones_like(original[0].weight)
    before = copy.deepcopy(original)
    port = keras_image(L.BatchNormalization(epsilon=1e-5, momentum=0.9), L.Dropout(0.5, seed=1), L.Conv2D(4, 1))
    parity.torch_to_keras(original, port)
    variables = [np.array(v.value) for v in port.variables]
    seed = torch.random.get_rng_state()
    parity.compare(original, port, random(2, 8, 8, 3), float64=float64)
    assert torch.equal(seed, torch.random.get_rng_state())
    for (name, a), (_, b) in zip(original.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
        assert a.dtype == b.dtype
    for a, b in zip(original.modules(), before.modules(), strict=True):
        assert a.training == b.training
        assert not a._forward_hooks
        assert not a._forward_pre_hooks
    for a, b in zip(original.parameters(), before.parameters(), strict=True):
        assert a.requires_grad == b.requires_grad
    assert torch.equal(original[0].weight.grad, torch.ones_like(original[0].weight))
    assert all(np.array_equal(a, v.value) for a, v in zip(variables, port.variables, strict=True))
    assert not any("call" in vars(layer) for layer in port.layers)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dict", "tuple", "dataclass", "nested"])
def test_several_outputs(kind):
    from dataclasses import dataclass

    @dataclass
    class Out:
        b: torch.Tensor
        c: torch.Tensor
        loss: None = None

    class Net(TorchDense):
        def __init__(self):
            super().__init__()
            self.c = nn.Linear(8, 2)

        def forward(self, x):
            x = torch.relu(self.a(x))
            b, c = self.b(x), self.c(x)
            return {"dict": {"b": b, "c": c}, "tuple": (b, c), "dataclass": Out(b, c), "nested": (b, (c,))}[kind]

    inputs = keras.Input((6,))
    x = L.ReLU(name="act")(L.Dense(8, name="a")(inputs))
    b, c = L.Dense(3, name="b")(x), L.Dense(2, name="c")(x)
    port = keras.Model(inputs, {"b": b, "c": c} if kind == "dict" else [b, c])
    batches = [random(4, 6), random(4, 6, seed=1)]
    report = parity.compare(Net(), port, batches, transfer=True)
    assert report.passed, report
    assert len(row(report, "forward").details["outputs"]) == 2
    wrong = keras.Model(inputs, [b, L.Activation("tanh", name="squash")(c)])
    report = parity.compare(Net(), wrong, batches, transfer=True)
    assert first(report)[0] == "forward"
    assert first(report)[1] == "squash"
    assert row(report, "forward").message.split(":")[0] in ("output c", "output 1", "output 1.0")
    assert str(report).startswith("Outputs differ")
    one = keras.Model(inputs, b)
    report = parity.compare(Net(), one, batches, transfer=True)
    assert row(report, "forward").status == "not compared"
    assert "the candidate has no output" in str(report)
    assert "not compared" in str(parity.compare(one, port, batches, names="order"))


class TestTransfer:
    def test_names_that_clash(self):
        original = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        port = keras.Sequential([keras.Input((6,)), L.Dense(6, name="fc")])
        for strict in (True, False):
            with pytest.raises(parity.TransferError, match="'0' and '2'"):
                parity.torch_to_keras(original, port, names=[(r"^\d$", "fc")], strict=strict)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.ModuleDict({"fc": nn.Linear(6, 6)})
                self.head_fc = nn.Linear(6, 6)

        port = keras.Sequential([keras.Input((6,)), L.Dense(6, name="head_fc")])
        with pytest.raises(parity.TransferError, match="'head.fc' and 'head_fc'"):
            parity.torch_to_keras(Net(), port)

    def test_a_layer_without_weights_may_share_a_name(self):
        original = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        port = keras.Sequential([keras.Input((6,)), L.Dense(6, name="fc")])
        assert parity.torch_to_keras(original, port, names=[(r"^\d$", "fc")]).complete

    def test_tensors_that_share_memory(self):
        source, target = (nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)) for _ in range(2))
        storage = torch.zeros(6, 6)
        target[0].weight = nn.Parameter(storage)
        target[1].weight = nn.Parameter(storage)  # another parameter, the same numbers
        from parity.pairing import pair
        from parity.transfer import transfer

        report = transfer(*pair(source, target), strict=False)
        assert not report.complete
        assert report.overwritten == ("0.weight",)
        assert "overwritten" in str(report)
        before = target[0].bias.detach().clone()
        with pytest.raises(parity.TransferError, match="overwrite"):
            transfer(*pair(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), target))
        assert torch.equal(before, target[0].bias)


def test_keras_on_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="set KERAS_BACKEND=tensorflow. Received: KERAS_BACKEND=torch"):
        parity.torch_to_keras(TorchDense(), keras.layers.Dense(3))


class TestTriton:
    """TensorFlow before triton ends the process; a stand-in records who came first."""

    def test_triton_comes_first(self, tmp_path):
        for name in ("triton", "tensorflow"):
            (tmp_path / f"{name}.py").write_text(f"print({name!r})\n")
        code = (
            f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
            "import parity\nfrom parity.environment import import_tensorflow_quietly\nimport_tensorflow_quietly()\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-500:]
        assert done.stdout.split() == ["triton", "tensorflow"]

    def test_without_triton_or_too_late_nothing_is_imported(self, monkeypatch):
        imported = []
        monkeypatch.setattr(importlib, "import_module", imported.append)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
        monkeypatch.delitem(sys.modules, "triton", raising=False)
        environment.import_triton_first()
        assert imported == []
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
        environment.import_triton_first()
        assert imported == ["triton"]
        monkeypatch.setitem(sys.modules, "tensorflow", object())
        environment.import_triton_first()
        assert imported == ["triton"]


def test_a_reference_without_a_copy_judged_by_the_candidates():
    report = parity.compare(Subclassed(keras.ops.tanh), keras_dense(), random(4, 6), transfer=True)
    assert first(report) == ("forward", "middle")
