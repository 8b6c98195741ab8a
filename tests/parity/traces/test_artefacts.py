"""Files of deployed models compared by their inputs and outputs, and verified against their golden outputs."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn

import keras_stoch
import parity
from parity.__main__ import main
from parity.golden import golden_of
from tests.parity.strangers.models import L
from tests.parity.traces.apart import command_without

PIXELS = np.random.default_rng(0).uniform(size=(2, 9, 11, 3)).astype("float32")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)))


def port(activation="relu"):
    inputs = keras.Input((9, 11, 3))
    x = L.Activation(activation)(L.Conv2D(4, 3, name="conv")(inputs))
    return keras.Model(inputs, L.Conv2D(2, 1, name="head")(x), name="port")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One network as SavedModel, LiteRT and torch program, and the model that it is."""
    folder = tmp_path_factory.mktemp("files")
    net, model = Net().eval(), port()
    parity.torch_to_keras(net, model)
    model.export(folder / "saved", verbose=False)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 9, 11),)), folder / "net.pt2")
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    (folder / "model.tflite").write_bytes(converter.convert())
    return folder, net, model


@pytest.mark.parametrize("name", ["saved", "net.pt2", "model.tflite"])
def test_a_file_is_reference_or_candidate(files, name):
    folder, net, model = files
    for other in (net, model):
        assert parity.compare(other, folder / name, PIXELS).passed
    report = parity.compare(str(folder / name), net, PIXELS)
    assert report.passed, report
    assert [row.check for row in report.rows] == ["determinism", "forward"]
    assert "Compared: outputs alone" in str(report)
    wrong = port("gelu")
    parity.torch_to_keras(net, wrong)
    report = parity.compare(folder / name, wrong, PIXELS)
    assert report.first_failure.check == "forward"


def test_two_files_and_a_trace(files, tmp_path):
    folder, net, _ = files
    assert parity.compare(folder / "net.pt2", folder / "saved", PIXELS).passed
    trace = parity.record(net, PIXELS, tmp_path / "net.npz")
    assert parity.compare(trace, folder / "saved").passed
    assert main(["compare", str(trace), str(folder / "model.tflite")]) == 0


def test_what_can_not_be_opened(files, tmp_path, monkeypatch):
    folder, net, _ = files
    with pytest.raises(ValueError, match="Weights go from a model"):
        parity.compare(net, folder / "saved", PIXELS, transfer=True)
    with pytest.raises(ValueError, match="No such file"):
        parity.compare(net, tmp_path / "x.onnx", PIXELS)
    (tmp_path / "x.onnx").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"x.onnx can't be opened"):
        parity.compare(net, tmp_path / "x.onnx", PIXELS)
    (tmp_path / "x.h5").touch()
    with pytest.raises(ValueError, match=r"Known are traces .*\.pt2. Received: .*x.h5"):
        parity.compare(net, tmp_path / "x.h5", PIXELS)
    with pytest.raises(ValueError, match="takes inputs"):
        parity.compare(folder / "saved", folder / "net.pt2", {"wrong": PIXELS})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports of a model with a detail branch, with golden outputs."""
    from tests.tiny import registered, sizes

    folder = tmp_path_factory.mktemp("exports")
    with registered():
        model = keras_stoch.create_model("tiny-stem", **sizes("tiny-stem"))
    for format, name in (("tf_saved_model", "served"), ("onnx", "model.onnx"), ("litert", "model.tflite")):
        keras_stoch.export(model, folder / name, format, golden=3)
    return folder, model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["served", "model.onnx", "model.tflite"])
def test_golden_outputs_are_verified_and_a_changed_file_is_found(exported, name, tmp_path, capsys):
    folder, _ = exported
    assert main(["verify", str(folder / name)]) == 0
    assert "Equal on every rung" in capsys.readouterr().out
    # As if another export had been put in its place.
    golden = golden_of(folder / name)
    with np.load(golden) as file:
        arrays = dict(file)
    changed = next(n for n, a in arrays.items() if a.shape == (3,) and a.dtype == np.float32)
    np.savez(tmp_path / "golden.npz", **arrays | {changed: arrays[changed] + np.float32([0, 0.02, 0])})
    assert main(["verify", str(folder / name), "--golden", str(tmp_path / "golden.npz")]) == 1
    assert "Outputs differ by" in capsys.readouterr().out
    assert main(["verify", str(folder / name), "--golden", str(tmp_path / "golden.npz"), "--tolerance", "0.1"]) == 0


OTHERS = ("keras", "tf_keras", "torch", "keras_stoch", "torch_ref", "scipy", "pandas", "matplotlib")


@pytest.mark.slow
@pytest.mark.parametrize("absent", [True, False], ids=["absent", "broken"])
@pytest.mark.parametrize(
    ("name", "forbidden"),
    [("served", (*OTHERS, "onnxruntime")), ("model.onnx", (*OTHERS, "tensorflow"))],
)
def test_verify_needs_the_runtime_alone(exported, name, forbidden, absent):
    folder, _ = exported
    done = command_without(forbidden, ["verify", name], folder, absent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Equal on every rung" in done.stdout


@pytest.mark.slow
def test_golden_outputs_go_with_their_export(exported, tmp_path):
    folder, model = exported
    path = tmp_path / "model.onnx"
    shutil.copy(folder / "model.onnx", path)
    assert main(["verify", str(path)]) == 2
    shutil.copy(folder / "model.onnx.golden.npz", tmp_path)
    keras_stoch.export(model, path, "onnx", overwrite=True)  # without: those of the old one would be wrong
    assert not (tmp_path / "model.onnx.golden.npz").exists()
    for golden, message in ((-1, "golden must be"), (True, "golden must be"), (1.5, "golden must be")):
        with pytest.raises(ValueError, match=message):
            keras_stoch.export(model, tmp_path / "other", golden=golden)
    with pytest.raises(ValueError, match="is opened by Keras"):
        keras_stoch.export(model, tmp_path / "model.keras", "keras", golden=2)


def test_verify_says_what_is_missing(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nothing")]) == 2
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "model.onnx").touch()
    assert main(["verify", str(tmp_path / "model.onnx")]) == 2
    assert "model.onnx.golden.npz does not exist" in capsys.readouterr().err
