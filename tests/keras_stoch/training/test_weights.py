"""Training from official weights, in both packages: what is loaded, recorded, gone on with, and used afterwards."""

import contextlib
import io
import json

import keras
import numpy as np
import pytest
import torch

import keras_stoch
from keras_stoch.checkpoints import IMAGENET_STDDEV_RGB as STDDEV
from keras_stoch.checkpoints import read_official_weights
from keras_stoch.cli import main
from keras_stoch.training.recipe import Recipe
from keras_stoch.training.subjects import make_subject
from tests.conftest import shake
from tests.keras_stoch.conftest import EPOCH, FIT_OPTIONS
from tests.keras_stoch.reuse import engines_reused
from tests.tiny import SIZES, registered
from torch_ref.training import fit as torch_fit

pytestmark = [pytest.mark.usefixtures("tiny", "traced_once"), pytest.mark.slow]
STILL = EPOCH | SIZES | {"learning_rate": 1e-30}  # steps that move nothing but moving averages


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What keras.applications would save of a tiny ImageNet model, in two formats, and another model's file."""
    folder = tmp_path_factory.mktemp("official")
    with registered():
        official = shake(keras_stoch.create_model("tiny", low_res=32, imagenet_rescaling=True))
        statistics = {"mean": (0.485, 0.456, 0.406), "variance": STDDEV}
        for variable in official.get_layer("normalization").weights:
            if variable.name in statistics:
                variable.assign(np.reshape(statistics[variable.name], variable.shape))
        official.save_weights(folder / "bare.weights.h5")
        official.save(folder / "whole.keras")
        keras_stoch.create_model("tiny", low_res=32).save_weights(folder / "other.weights.h5")
    return folder


@pytest.fixture(scope="module")
def begun(files, lesions, tmp_path_factory):
    """The folder of two runs of "tiny-split" from official weights, and what was told of them."""
    out = tmp_path_factory.mktemp("begun")
    told = io.StringIO()
    with registered(), engines_reused(), contextlib.redirect_stderr(told):
        weights = files / "bare.weights.h5"
        keras_stoch.fit("tiny-split", lesions, out, weights=weights, runs=2, progress=True, **STILL)
    return out, " ".join(told.getvalue().split())


def config(run):
    return json.loads((run / "config.json").read_text())


def trained(run):
    """Arrays of a run's last weights by path."""
    return {v.path: np.asarray(v) for v in keras_stoch.load_run(run, "last").weights}


def test_every_branch_starts_from_them_in_every_run(begun, files):
    out, told = begun
    kept, unused = "as initialised: predictions/kernel", "not used: predictions/kernel"
    assert f"from bare.weights.h5, {kept}, {unused}" in told  # both branches meet in front of it
    official = read_official_weights(files / "bare.weights.h5").tensors
    heads = []
    for run in (out / "run-0", out / "run-1"):
        found = trained(run)
        same = 0
        for name, array in found.items():
            layer, _, variable = name.partition("/")
            if variable in ("kernel", "gamma", "beta") and layer.removeprefix("detail_") != "predictions":
                np.testing.assert_array_equal(array, official[name.removeprefix("detail_")], err_msg=name)
                same += name.startswith("detail_")
        assert same > 10
        heads.append(found["predictions/kernel"])
        record = config(run)["model"]["weights"]
        assert record["source"] == "bare.weights.h5"
        assert record["kept"] == record["unused"] == ["predictions/kernel"]
        assert record["loaded"] == len(found) - 1 - sum("seed" in name for name in found)
    assert (heads[0] != heads[1]).any()  # what is not loaded differs from run to run


def test_the_imagenet_variant_is_evaluated_predicted_and_exported(begun, lesions, tmp_path):
    """Its second rescaling is part of the model, so that whoever loads the run builds it too."""
    run = begun[0] / "run-0"
    model = keras_stoch.load_run(run)
    assert any(layer.name == "rescaling_1" for layer in model.layers)
    assert config(run)["model"]["arguments"]["imagenet_rescaling"] is True
    # Windows are drawn anew, but the loss of the validation images is nearly that of the run.
    found = keras_stoch.evaluate(run, lesions, bootstraps=10)
    expected = json.loads((run / "result.json").read_text())["final_val_loss"]
    assert found.measures.loc["log_loss", "value"] == pytest.approx(expected, rel=0.2)
    image = lesions / "images" / "SYN_0000001.jpg"
    assert keras_stoch.predict_photographs(run, [image])["probability"].notna().all()
    saved = keras_stoch.export(run, tmp_path / "model.keras", "keras")
    images = {"low_res": np.full((1, 32, 32, 3), 90.0), "high_res": np.full((1, 64, 64, 3), 90, np.uint8)}
    windows = np.zeros((8, 2), np.int32)
    again = keras_stoch.load_model(saved)(images, windows=windows)
    np.testing.assert_allclose(again, model(images, windows=windows), rtol=1e-5)


def test_without_weights_nothing_is_recorded(plain_run):
    """The paper's recipe is as it was."""
    assert set(config(plain_run)["model"]) == {"kind", "name", "arguments"}
    assert "imagenet_rescaling" not in config(plain_run)["model"]["arguments"]


@pytest.mark.slow
def test_interrupted_and_gone_on_with(files, lesions, tmp_path):
    """Stopped in mid-epoch, and gone on with from the same weights under another name and format."""

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise InterruptedError

    options = EPOCH | SIZES | {"checkpoint_seconds": 0.0}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    keras_stoch.fit("tiny-stem", lesions, whole, weights=files / "bare.weights.h5", **options)
    with pytest.raises(InterruptedError):
        keras_stoch.fit("tiny-stem", lesions, cut, weights=files / "bare.weights.h5", callbacks=[Stop()], **options)
    with pytest.raises(ValueError, match="the run began from other weights"):
        keras_stoch.fit("tiny-stem", lesions, cut, weights=files / "other.weights.h5", **options)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        keras_stoch.fit("tiny-stem", lesions, cut, **options)
    keras_stoch.fit("tiny-stem", lesions, cut, weights=files / "whole.keras", **options)
    assert (whole / "run-0" / "batches.csv").read_text() == (cut / "run-0" / "batches.csv").read_text()
    for name, array in trained(whole / "run-0").items():
        np.testing.assert_array_equal(array, trained(cut / "run-0")[name], err_msg=name)


@pytest.mark.slow
def test_replicas_start_from_them_too(files, lesions, tmp_path, mirrored):
    keras_stoch.fit("tiny-split", lesions, tmp_path, weights=files / "bare.weights.h5", strategy=mirrored, **STILL)
    official = read_official_weights(files / "bare.weights.h5").tensors["stem_conv/kernel"]
    np.testing.assert_array_equal(trained(tmp_path / "run-0")["detail_stem_conv/kernel"], official)


def test_weights_that_can_not_be(files, lesions, tmp_path, capsys):
    own = keras_stoch.create_model("tiny", low_res=32)
    for model, weights, error, message in (
        (own, files / "bare.weights.h5", ValueError, "weights are for a model that is made by name"),
        ("tiny", files / "none.weights.h5", FileNotFoundError, "weights: no such file"),
        ("tiny", lesions / "manifest.csv", ValueError, r"weights must be a file of Keras \(.h5, .keras\)"),
        ("b0", files / "bare.weights.h5", ValueError, "do not fit the model; nothing was loaded"),
        ("tiny", 3, ValueError, "weights must be a Keras model or a path. Received: 3"),
    ):
        with pytest.raises(error, match=message):
            keras_stoch.fit(model, lesions, tmp_path / "runs", weights=weights, low_res=32, **EPOCH)
    assert not (tmp_path / "runs").exists()
    arguments = ["fit", "tiny-stem", "--data", str(lesions), "--out", str(tmp_path / "runs"), *FIT_OPTIONS]
    assert main([*arguments, "--weights", "none.h5"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main([*arguments, "--weights", str(files / "bare.weights.h5")]) == 0
    assert config(tmp_path / "runs" / "run-0")["model"]["weights"]["source"] == "bare.weights.h5"
    # The live model of the same weights is the same start.
    official = keras.models.load_model(files / "whole.keras")
    keras_stoch.fit("tiny-stem", lesions, tmp_path / "runs", weights=official, **EPOCH | SIZES)


def test_the_twin_starts_from_the_same(begun, files, lesions, tmp_path):
    file = files / "bare.weights.h5"
    torch_fit("tiny-split", lesions, tmp_path / "torch", weights=file, device="cpu", runs=2, **STILL)
    ours, theirs = (config(out / "run-0") for out in (begun[0], tmp_path / "torch"))
    assert theirs["weights"]["digest"] == ours["model"]["weights"]["digest"]
    assert theirs["weights"]["kept"] == ["predictions.weight"]
    assert theirs["weights"]["imagenet_rescaling"] is True
    official = read_official_weights(file).tensors["stem_conv/kernel"].transpose(3, 2, 0, 1)
    for run in ("run-0", "run-1"):
        state = torch.load(tmp_path / "torch" / run / "last.pt")
        for name in ("stem_conv.weight", "detail.stem_conv.weight"):
            np.testing.assert_array_equal(state[name], official)
    again = {"device": "cpu", **STILL}
    torch_fit("tiny-split", lesions, tmp_path / "torch", weights=files / "whole.keras", **again)
    for weights in (None, files / "other.weights.h5"):
        with pytest.raises(ValueError, match="holds a run with other settings"):
            torch_fit("tiny-split", lesions, tmp_path / "torch", weights=weights, **again)


@pytest.mark.slow
def test_b0_of_keras_applications(tmp_path, official_b0):
    """The real one, with its top of one class, into both backbones of the split model that `fit` would train."""
    official_b0.save_weights(tmp_path / "b0.weights.h5")
    subject = make_subject("split-b0", Recipe(**SIZES), 1, tmp_path / "b0.weights.h5")
    found = {variable.path: np.asarray(variable) for variable in subject.build(0).weights}
    kernel = np.asarray(official_b0.get_layer("block6c_expand_conv").kernel)
    for prefix in ("", "detail_"):
        np.testing.assert_array_equal(found[f"{prefix}block6c_expand_conv/kernel"], kernel)
    assert subject.identity["weights"]["kept"] == ["predictions/kernel"]
