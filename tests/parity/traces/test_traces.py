"""A model recorded in one place is compared in another: the same verdicts, places and causes as with the model."""

import json

import keras
import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.errors import relative_l2
from parity.sketch import comparable, sketch
from tests.parity.strangers.models import L, TorchDense, keras_dense, random, row
from tests.parity.traces.apart import command_without

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        nn.init.uniform_(self.norm.weight), nn.init.normal_(self.norm.bias), nn.init.normal_(self.norm.running_mean)

    def forward(self, x):
        x = nn.functional.gelu(self.norm(self.conv(x)))  # in torch
        return self.head(x.mean((2, 3)))

def make_torch():
    return Net()
"""

PORT = """
import keras

def make_keras(epsilon=1e-5, approximate=False, names=("conv", "norm", "head")):
    L = keras.layers
    inputs = keras.Input((9, 11, 3))
    x = L.BatchNormalization(epsilon=epsilon, momentum=0.9, name=names[1])(L.Conv2D(4, 3, name=names[0])(inputs))
    x = keras.ops.gelu(x, approximate=approximate)
    return keras.Model(inputs, L.Dense(2, name=names[2])(L.GlobalAveragePooling2D()(x)), name="port")

def make_wrong():
    return make_keras(epsilon=1e-3, approximate=True)
"""
PIXELS = np.random.default_rng(0).uniform(size=(2, 9, 11, 3))


def namespace(text):
    found = {}
    exec(text, found)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with the models as modules and a trace of the torch one, in which torch's line can be looked up."""
    folder = tmp_path_factory.mktemp("traces")
    (folder / "theirs.py").write_text(MODELS)
    (folder / "ours.py").write_text(PORT)
    np.savez(folder / "inputs.npz", x=PIXELS)
    return folder


@pytest.fixture(scope="module")
def recorded(made):
    """Recorded where neither Keras nor TensorFlow can be imported."""
    done = command_without(
        ("keras", "tensorflow"),
        ["record", "theirs:make_torch", "--inputs", "inputs.npz", "--out", "reference.npz"],
        made,
    )
    assert done.returncode == 0, done.stderr
    return made / "reference.npz"


@pytest.mark.slow
def test_compared_where_torch_is_not_installed(recorded):
    arguments = ["compare", "reference.npz", "ours:make_keras", "--transfer"]
    done = command_without(("torch",), arguments, recorded.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Equal on every rung" in done.stdout
    assert "isolated" in done.stdout
    assert "gradients" in done.stdout
    assert f"Net was recorded with torch {torch.__version__.partition('+')[0]}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("names", [None, ("a", "b", "c")])
def test_faults_are_placed_and_explained_as_with_the_model(recorded, names, tmp_path):
    port = namespace(PORT)["make_keras"](1e-3, True, names or ("conv", "norm", "head"))
    options = {"transfer": True} if names is None else {"transfer": True, "names": "order"}
    report = parity.compare(recorded, port, **options)
    live = parity.compare(namespace(MODELS)["make_torch"](), port, PIXELS, **options)
    assert [(r.check, r.status, r.first_divergence) for r in report.rows] == [
        (r.check, r.status, r.first_divergence) for r in live.rows
    ]
    assert [(f.name, f.says) for f in report.causes] == [(f.name, f.says) for f in live.causes]
    assert any("epsilon is 1e-05 in the reference and 0.001" in f.says for f in report.causes), report.causes
    page = report.write(tmp_path).read_text()
    assert "nn.functional.gelu(self.norm(self.conv(x)))" in page  # the line of a program that is not here
    assert "theirs.py" in page


def test_rules_for_names_can_be_given_when_comparing(recorded):
    port = namespace(PORT)["make_keras"](names=("first", "norm", "last"))
    report = parity.compare(recorded, port, names=[("^conv$", "first"), ("^head$", "last")], transfer=True)
    assert report.passed, report


def test_numpy_alone_reads_it(recorded):
    file = np.load(recorded, allow_pickle=False)
    document = json.loads(bytes(file["trace.json"]))
    assert document["format"] == "parity trace"
    kernel = next(w for w in document["weights"] if w["name"] == "conv/kernel")
    assert file[kernel["array"]["array"]].shape == (3, 3, 3, 4)
    assert np.array_equal(file[document["inputs"][0]["arrays"][0]["array"]], PIXELS)
    assert document["versions"]["torch"] != "not installed"
    assert {layer["path"] for layer in document["layers"]} >= {"conv", "norm", "head"}
    lines = [node[2] for node in document["runs"]["float64"]["graph"]["nodes"]]
    assert any("# in torch" in line for line in lines)


def test_a_keras_model_recorded_and_a_torch_port(tmp_path):
    reference = keras_dense("gelu")
    path = parity.record(reference, [random(4, 6), random(5, 6, seed=1)], tmp_path / "deep" / "keras.npz")
    right, wrong = TorchDense(nn.functional.gelu), TorchDense(nn.functional.silu)
    for port in (right, wrong):
        parity.keras_to_torch(reference, port)
    assert parity.compare(path, right).passed
    report = parity.compare(str(path), wrong)
    assert report.first_failure.check == "forward"
    assert "exact GELU" in str(report)
    assert "SiLU" in str(report)


def test_a_recorded_port_and_two_traces(tmp_path):
    original, port = TorchDense(nn.functional.gelu), keras_dense("silu")
    parity.torch_to_keras(original, port)
    batch = random(4, 6)
    ours, theirs = parity.record(port, batch, tmp_path / "port.npz"), parity.record(original, batch, tmp_path / "a.npz")
    for reference, candidate in ((original, ours), (theirs, ours)):
        report = parity.compare(reference, candidate)
        assert report.first_failure.check == "forward", report
        assert "SiLU" in str(report)
        assert not any(r.check == "isolated" for r in report.rows)
    assert parity.compare(theirs, original).passed
    with pytest.raises(ValueError, match="Weights go from a model, or its trace, into a model"):
        parity.compare(original, ours, transfer=True)


def test_statistics_find_what_values_find(tmp_path, recorded):
    make = namespace(PORT)["make_keras"]
    path = parity.record(namespace(MODELS)["make_torch"](), PIXELS, tmp_path / "s.npz", statistics=True)
    assert path.stat().st_size < 0.6 * recorded.stat().st_size  # of a net as small as this most of it is text
    right = parity.compare(path, make(), transfer=True)
    assert right.passed, right
    assert "errors are estimates" in str(right)
    wrong = parity.compare(path, make(approximate=True), transfer=True)
    assert row(wrong, "forward").status == "FAIL"
    whole = parity.compare(recorded, make(approximate=True), transfer=True)
    assert 0.5 < row(wrong, "forward").value / row(whole, "forward").value < 2


def test_distances_of_sketches_are_those_of_the_arrays(rng):
    for shape in ((3,), (2, 40, 50, 8), (1, 5000)):
        a = rng.normal(size=shape) + 3
        for noise in (1e-12, 1e-3, 1.0):
            for other in (a + noise * rng.normal(size=shape), a * (1 + noise), a + noise):
                (one,), (two,) = (group.values() for group in comparable({"x": sketch(a)}, {"x": other}))
                assert relative_l2(two, one) == pytest.approx(relative_l2(other, a), rel=0.5)
    one, two = comparable({"x": sketch(np.ones((2, 3)))}, {"x": np.ones((3, 2))})
    assert relative_l2(two["x"], one["x"]) == float("inf")


def test_what_no_trace_can_be(tmp_path, recorded):
    noisy = TorchDense(lambda x: nn.functional.dropout(x, 0.5))
    with pytest.raises(ValueError, match="gives another answer every time"):
        parity.record(noisy, random(4, 6), tmp_path / "noisy.npz")
    with pytest.raises(ValueError, match="does not vary"):
        parity.record(TorchDense(), np.ones((4, 6)), tmp_path / "ones.npz")
    with pytest.raises(TypeError, match="Expected a Keras model"):
        parity.record(object(), random(4, 6), tmp_path / "object.npz")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="recorded on other inputs"):
        parity.compare(recorded, namespace(PORT)["make_keras"](), PIXELS + 1)
    with pytest.raises(ValueError, match="No such file"):
        parity.compare(tmp_path / "nothing.npz", TorchDense())
    np.savez(tmp_path / "plain.npz", x=PIXELS)
    with pytest.raises(ValueError, match="Known are traces"):
        parity.compare(tmp_path / "plain.npz", TorchDense())


def test_a_trace_of_another_version_of_parity_is_refused(tmp_path, recorded):
    with np.load(recorded) as file:
        arrays = dict(file)
    document = json.loads(bytes(arrays["trace.json"])) | {"version": 99}
    np.savez(tmp_path / "new.npz", **arrays | {"trace.json": np.frombuffer(json.dumps(document).encode(), np.uint8)})
    with pytest.raises(ValueError, match="version 99; this parity reads version 1"):
        parity.compare(tmp_path / "new.npz", TorchDense())


def test_versions_are_told_where_they_differ(tmp_path, recorded):
    with np.load(recorded) as file:
        arrays = dict(file)
    document = json.loads(bytes(arrays["trace.json"]))
    document["versions"] |= {"torch": "1.13.1", "numpy": "1.26.4"}
    arrays["trace.json"] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    np.savez(tmp_path / "old.npz", **arrays)
    report = parity.compare(tmp_path / "old.npz", namespace(PORT)["make_keras"](), transfer=True)
    assert report.passed
    told = next(note for note in report.notes if "was recorded with" in note)
    assert "torch 1.13.1" in told
    assert f"numpy 1.26.4 (here: {np.__version__})" in told


def test_several_inputs_outputs_and_shared_layers(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Linear(6, 6)

        def forward(self, x, y):
            return {"sum": self.a(self.a(x)) + y, "first": torch.tanh(self.a(y))}

    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    a = L.Dense(6, name="a")
    port = keras.Model([x, y], {"sum": a(a(x)) + y, "first": keras.ops.tanh(a(y))})
    given = {"x": random(3, 6), "y": random(3, 6, seed=1)}
    original = Net()
    path = parity.record(original, given, tmp_path / "net.npz")
    report = parity.compare(path, port, transfer=True)
    assert report.passed, report
    assert str(report).startswith("2 outputs agree")
    port.get_layer("a").bias.assign(random(6, seed=3))
    assert not parity.compare(path, port).passed
