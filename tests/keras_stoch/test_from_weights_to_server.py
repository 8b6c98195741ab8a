"""The whole way of a study: official weights, a run, a temperature, an external folder, an export with its card."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy.special import logit

import keras_stoch
from keras_stoch.cli import main
from keras_stoch.evaluation.calibration import load_calibration
from tests.conftest import shake

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The file of a `keras.applications` EfficientNet without top, with random weights in place of the published."""
    model = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    path = tmp_path_factory.mktemp("official") / "efficientnetb0_notop.weights.h5"
    shake(model).save_weights(path)
    return path


def test_from_official_weights_to_a_server(official, tmp_path, capsys):
    here, there = tmp_path / "here", tmp_path / "hospital"
    keras_stoch.write_lesions(here, 100, size=64, strength=3.0)
    keras_stoch.write_lesions(there, 60, size=64, strength=1.5, seed=9)  # a weaker network: another hospital
    run, out, served = tmp_path / "runs" / "run-0", tmp_path / "found", tmp_path / "served"
    fit = f"fit stem-b0 --data {here} --out {run.parent} --epochs 1 --batch-size 16 --low-res 32 --high-res 64"
    commands = (
        f"{fit} --weights {official}",
        f"evaluate {run} {here} --passes 2 --calibrate validation --sensitivity 0.8",
        f"evaluate {run} {there} --split all --passes 2 --out {out}",
        f"export {run} {served}",
    )
    for command in commands:
        assert main([*command.split(), "--quiet"]) == 0, command
    told = capsys.readouterr().out
    assert "(0 of 60 images are in both and paired)" in told

    weights = json.loads((run / "config.json").read_text())["model"]["weights"]
    card = json.loads((served / "card.json").read_text())
    assert card["model"]["weights"] == weights
    assert weights["source"] == official.name
    assert weights["loaded"] > 200
    internal, external = card["performance"]
    assert (internal["data"], internal["external"], external["data"], external["external"]) == (
        *("here", False),
        *("hospital", True),
    )
    page = json.loads((out / "evaluation.json").read_text())
    assert external["measures"]["auc"] == page["measures"]["auc"]
    assert external["change"]["auc"] == page["change"]["auc"]
    assert card["data"]["splits"]["train"]["images"] + card["data"]["splits"]["validation"]["images"] == 100

    known, _ = load_calibration(run)
    signatures = tf.saved_model.load(str(served)).signatures
    manifest = pd.read_csv(there / "manifest.csv")
    files = [(there / name).read_bytes() for name in manifest["file"][:4]]
    answer = signatures["serve_averaged"](images=tf.constant(files), n=tf.constant(40))
    mean = logit(np.float64(answer["probability"]))
    np.testing.assert_allclose(answer["calibrated"], 1 / (1 + np.exp(-mean / known.temperature)), rtol=0, atol=1e-4)
    clear = np.abs(mean - known.threshold_logit) > 1e-3
    assert (answer["decision"].numpy()[clear] == (mean >= known.threshold_logit)[clear]).all()
    # What evaluate found with two draws lies within the spread of what the server finds.
    images = pd.read_csv(out / "predictions.csv")[:4]
    apart = np.abs(images["probability"].to_numpy() - answer["probability"].numpy())
    assert (apart < 5 * np.maximum(answer["spread"].numpy(), 1e-3) + 0.02).all()
