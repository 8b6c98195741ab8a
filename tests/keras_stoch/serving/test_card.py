"""What goes out of the door with a model: temperature and threshold in every answer, and a card beside it."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import yaml
from scipy.special import expit, logit

import keras_stoch
from keras_stoch.cli import main
from keras_stoch.data.pipeline import Pipeline
from keras_stoch.evaluation.calibration import Calibration, load_calibration
from keras_stoch.serving import onnx, savedmodel
from keras_stoch.serving.endpoints import Served
from keras_stoch.serving.trial import try_out
from tests.keras_stoch.reuse import engines_reused
from tests.keras_stoch.serving.pictures import encode, ordinary, picture
from tests.tiny import registered

# What MONAI's bundle specification asks for, but the versions of MONAI and PyTorch; and of every tensor.
BUNDLE = {"version", "numpy_version", "task", "description", "authors", "copyright", "network_data_format"}
OPTIONAL = {"changelog", "intended_use", "data_source", "data_type", "references", "eval_metrics", "name"}
TENSOR = {
    *("type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"),
    "channel_def",
}


@pytest.fixture(scope="module")
def hospital(lesions, tmp_path_factory):
    """Other lesions than those of the runs, whose manifest knows more of the patients."""
    folder = tmp_path_factory.mktemp("hospital") / "hospital"
    keras_stoch.write_lesions(folder, 60, size=64, strength=2.0, seed=5)
    table = pd.read_csv(folder / "manifest.csv")
    table = table.assign(sex=["female", "male", "male"] * 20, age=[25, 45, 60, 80] * 15)
    table.to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def calibrated(plain_run, lesions, hospital, tmp_path_factory):
    """A run with temperature and threshold, and what evaluate found elsewhere; not to be written into."""
    run = shutil.copytree(plain_run, tmp_path_factory.mktemp("calibrated") / "runs" / "run-0")
    with registered(), engines_reused():
        keras_stoch.evaluate(run, lesions, calibrate="validation", sensitivity=0.8, bootstraps=60)
        return run, keras_stoch.evaluate(run, hospital, None, bootstraps=60)


@pytest.fixture(scope="module")
def exported(calibrated, tmp_path_factory):
    """Its .keras file by the command line, with fields of the card that were stated."""
    folder = tmp_path_factory.mktemp("exported")
    stated = {"authors": "A. Author", "license": "cc-by-4.0", "limits": ["Adults alone."], "name": "lesions-tiny"}
    (folder / "stated.json").write_text(json.dumps(stated))
    command = ["export", str(calibrated[0]), str(folder / "model.keras"), "--format", "keras", "--quiet"]
    with registered():
        assert main([*command, "--card", str(folder / "stated.json")]) == 0
    return folder / "model.keras"


def pixels(folder):
    """The small images of a folder, as the model takes them."""
    batches = Pipeline(folder, None, batch_size=30, low_res=32, high_res=None).epoch(0)
    return np.concatenate([inputs["low_res"] if isinstance(inputs, dict) else inputs for inputs, _ in batches])


@pytest.mark.slow
def test_a_server_answers_as_evaluate_does(tiny, calibrated, hospital, tmp_path):
    run, found = calibrated
    path, inputs = keras_stoch.export(run, tmp_path / "served"), np.uint8(pixels(hospital))
    served = tf.saved_model.load(str(path)).signatures
    answer = {name: value.numpy() for name, value in served["serve"](low_res=tf.constant(inputs)).items()}
    assert answer["probability"].dtype == answer["calibrated"].dtype == np.float32
    assert answer["decision"].dtype == np.int32
    for name in ("probability", "calibrated"):
        np.testing.assert_allclose(answer[name], found.images[name], rtol=0, atol=1e-5)
    assert np.abs(answer["calibrated"] - answer["probability"]).max() > 1e-3
    np.testing.assert_array_equal(answer["decision"], found.images["decision"])
    assert 0 < answer["decision"].sum() < 60
    for name, given in (("serve_bytes", [encode(picture(50, 40))]), ("serve_image", inputs[:1])):
        assert set(served[name](images=tf.constant(given))) == {"probability", "calibrated", "decision"}
    outputs = json.loads((path / "card.json").read_text())["network_data_format"]["outputs"]
    assert set(outputs) == {"probability", "calibrated", "decision"}
    assert (path / "card.md").read_text().startswith("---\nlicense: ")


@pytest.fixture
def chosen():
    """A temperature and a threshold."""
    facts = dict.fromkeys(field.name for field in dataclasses.fields(Calibration))
    return Calibration(**facts | {"temperature": 2.5, "threshold_logit": -0.3})


@pytest.mark.slow
def test_draws_are_averaged_before_they_are_calibrated(model, given, chosen):
    served = Served(model, calibration=chosen)
    served.decode = lambda images: {name: tf.constant(given[name]) for name in ("low_res", "high_res")}
    answers = served.endpoints()
    images = tf.constant([""] * 3)
    tensors = {name: tf.constant(value) for name, value in given.items()}
    for answer, more in (
        (answers["serve_averaged"](images, tf.constant(5)), {"spread"}),
        (answers["serve_seeded"](images, tf.constant(1, tf.int64)), set()),
        (answers["serve_bytes"](images), set()),
        (answers["serve_image"](tensors["high_res"]), set()),
        (answers["serve"](tensors["low_res"], tensors["high_res"]), set()),
        (answers["serve_windows"](*tensors.values()), set()),
    ):
        assert set(answer) == {"probability", "calibrated", "decision"} | more
        mean = logit(np.float64(answer["probability"]))
        np.testing.assert_allclose(answer["calibrated"], expit(mean / 2.5), rtol=0, atol=1e-5)
        clear = np.abs(mean + 0.3) > 1e-4
        np.testing.assert_array_equal(answer["decision"].numpy()[clear], (mean >= -0.3)[clear])
    without = Served(model, calibration=dataclasses.replace(chosen, threshold_logit=None))
    assert set(without.answer(tf.zeros(2))) == {"probability", "calibrated"}


def test_what_is_decided_otherwise_is_no_export(chosen, tmp_path):
    """An export is asked for its decisions too."""
    model = ordinary()
    served = Served(model, calibration=dataclasses.replace(chosen, threshold_logit=-1e6))
    wrong = Served(model, calibration=dataclasses.replace(chosen, threshold_logit=1e6))
    for format, ending in (("tf_saved_model", ""), ("onnx", ".onnx")):
        path = tmp_path / f"model{ending}"
        if format == "onnx":
            pytest.importorskip("tf2onnx", reason="needs tf2onnx and onnxruntime")
            onnx.write(wrong, path)
        else:
            savedmodel.write_archive(model, {"serve": wrong.endpoints()["serve"]}, path)
        with pytest.raises(ValueError, match=f"as {format} decides otherwise than the model"):
            try_out(format, path, served)
        with pytest.raises(ValueError, match="answers with calibrated, decision, probability instead of probability"):
            try_out(format, path, Served(model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.parametrize("format", ["onnx", pytest.param("litert", marks=pytest.mark.slow)])
def test_other_runtimes_calibrate_and_decide(tiny, calibrated, hospital, tmp_path, format):
    run, found = calibrated
    inputs = np.float32(pixels(hospital))
    if format == "onnx":
        runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, onnx and tf2onnx")
        path = keras_stoch.export(run, tmp_path / "model.onnx", format="onnx")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        values = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"low_res": inputs}), strict=True))
    else:
        path = keras_stoch.export(run, tmp_path / "model.tflite", format="litert")
        runner = tf.lite.Interpreter(str(path)).get_signature_runner()
        answers = [runner(low_res=inputs[n : n + 1]) for n in range(len(inputs))]
        values = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    for name in ("probability", "calibrated"):
        np.testing.assert_allclose(values[name], found.images[name], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(values["decision"], found.images["decision"])
    assert json.loads((tmp_path / f"{path.name}.card.json").read_text())["exported"]["format"] == format


def test_the_card_tells_what_is_known(calibrated, exported, lesions):
    run, elsewhere = calibrated
    card = json.loads(exported.with_name("model.keras.card.json").read_text())
    assert set(card) >= BUNDLE | OPTIONAL
    for tensors in card["network_data_format"].values():
        for tensor in tensors.values():
            assert set(tensor) == TENSOR
    assert (card["authors"], card["name"], card["copyright"]) == ("A. Author", "lesions-tiny", "not stated")
    assert "Adults alone." in card["limits"]
    assert "It has learnt from generated lesions, and knows nothing of photographs." in card["limits"]

    manifest = pd.read_csv(lesions / "manifest.csv")
    for split, part in manifest.groupby("split"):
        counts = {"images": len(part), "malignant": part["target"].sum(), "groups": part["group"].nunique()}
        assert card["data"]["splits"][split] == counts
    assert card["recipe"]["epochs"] == 3
    assert card["training"]["seed"] == 3
    assert card["training"]["environment"]["keras"] == card["exported"]["with"]["keras"]

    known, _ = load_calibration(run)
    assert card["calibration"]["temperature"] == known.temperature
    assert card["calibration"]["threshold_logit"] == known.threshold_logit
    internal, external = card["performance"]
    assert (internal["data"], internal["split"], internal["external"], internal["images"]) == (
        *("lesions", "validation", False),
        12,
    )
    assert (external["data"], external["split"], external["external"], external["images"]) == (
        *("hospital", "all", True),
        60,
    )
    for name, row in elsewhere.measures.iterrows():
        assert external["measures"][name]["value"] == pytest.approx(row["value"])
        assert external["measures"][name]["low"] == pytest.approx(row["low"])
    assert external["change"]["auc"]["external"] == pytest.approx(elsewhere.auc)
    groups = {(row["attribute"], row["value"]): row for row in external["subgroups"]}
    assert groups["sex", "male"]["images"] == 40
    assert groups["sex", "male"]["auc"] is not None
    assert groups["age", "under 30"]["note"].startswith("too few")
    assert card["eval_metrics"]["auc"] == internal["measures"]["auc"]["value"]
    # Nothing of the machine's folders.
    assert str(lesions.parent) not in json.dumps(card["data"] | {"performance": card["performance"]})


def test_the_page_has_the_metadata_of_a_model_hub(calibrated, exported):
    _, elsewhere = calibrated
    text = exported.with_name("model.keras.card.md").read_text()
    _, front, body = text.split("---\n", 2)
    meta = yaml.safe_load(front)
    assert (meta["license"], meta["library_name"]) == ("cc-by-4.0", "keras")
    assert meta["pipeline_tag"] == "image-classification"
    (index,) = meta["model-index"]
    results = {result["dataset"]["name"]: result for result in index["results"]}
    for result in results.values():
        assert result["task"]["type"]
        assert result["dataset"]["type"]
    measured = {metric["type"]: metric["value"] for metric in results["hospital"]["metrics"]}
    assert measured["roc_auc"] == pytest.approx(elsewhere.auc)
    for title in ("Intended use", "Limits", "Data it was trained on", "Training", "Temperature and threshold"):
        assert f"## {title}\n" in body
    low, high = elsewhere.interval
    assert f"| ROC AUC | {elsewhere.auc:.4f} ({low:.4f} to {high:.4f}) |" in body
    assert "| sex male | 40 |" in body
    assert "too few: " in body
    lengths = {}
    for line in body.splitlines():
        if line.startswith("|"):
            lengths.setdefault(line.count("|"), []).append(line)
    assert set(lengths) >= {4, 5}
    outputs = json.loads(exported.with_name("model.keras.card.json").read_text())["network_data_format"]["outputs"]
    assert set(outputs) == {"logit"}  # a .keras file holds neither temperature nor threshold


def test_other_weights_take_no_temperature_along(tiny, calibrated, tmp_path):
    run = shutil.copytree(calibrated[0], tmp_path / "run-0")
    model = keras_stoch.load_run(run)
    model.set_weights([w * 1.01 for w in model.get_weights()])
    model.save_weights(run / "last.weights.h5")
    with pytest.warns(UserWarning, match="were chosen for other weights, and are left out"):
        path = keras_stoch.export(run, tmp_path / "last.keras", format="keras", which="last")
    card = json.loads(path.with_name("last.keras.card.json").read_text())
    assert (card["calibration"], card["performance"]) == (None, [])
    assert "2 evaluations of other weights of the run are left out." in card["limits"]
    shutil.copy(run / "last.weights.h5", run / "best.weights.h5")
    with pytest.raises(ValueError, match=r"was made for other weights than those there now; `keras-stoch evaluate"):
        keras_stoch.export(run, tmp_path / "best.keras", format="keras")


def test_what_was_measured_before_the_temperature_is_marked(tiny, traced_once, calibrated, lesions, tmp_path):
    run = shutil.copytree(calibrated[0], tmp_path / "runs" / "run-0")
    shutil.rmtree(run / "evaluations")
    (run / "calibration.json").rename(tmp_path / "calibration.json")
    keras_stoch.evaluate(run, lesions, "train", bootstraps=20)
    (tmp_path / "calibration.json").rename(run / "calibration.json")
    keras_stoch.evaluate(run, lesions, bootstraps=20)
    keras_stoch.export(run, tmp_path / "a.keras", format="keras")
    card = json.loads((tmp_path / "a.keras.card.json").read_text())
    notes = {one["split"]: " ".join(one["notes"]) for one in card["performance"]}
    assert "another temperature or threshold" in notes["train"]
    assert "another temperature or threshold" not in notes["validation"]


def test_a_model_without_a_run_says_what_is_not_known(tmp_path):
    path = keras_stoch.export(ordinary(), tmp_path / "model.keras", format="keras")
    card = json.loads(path.with_name("model.keras.card.json").read_text())
    assert (card["data"], card["training"], card["calibration"], card["performance"]) == (None, None, None, [])
    assert (card["license"], card["data_source"]) == ("unknown", "not known")
    assert any("how good it is, is not known" in limit for limit in card["limits"])
    path.unlink()
    with pytest.raises(ValueError, match=r"card\.json exists already; choose another path"):
        keras_stoch.export(ordinary(), path, format="keras")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"licence": "mit"}, "card can state name, version, .* Received: licence"),
        ({"limits": "none"}, "card: limits must be a list of texts. Received: 'none'"),
        ({"limits": [1]}, "card: limits must be a list of texts"),
        ({"authors": ["A"]}, r"card: authors must be a text. Received: \['A'\]"),
        ([1], "card must hold an object"),
        ("nowhere.json", "card must be a file of JSON, and nowhere.json can not be read"),
    ],
)
def test_wrong_fields_are_refused(tmp_path, card, message):
    with pytest.raises(ValueError, match=message):
        keras_stoch.export(ordinary(), tmp_path / "model.keras", format="keras", card=card)
    assert not list(tmp_path.iterdir())


def test_counts_are_of_the_manifest_it_was_trained_on(tiny, plain_run, lesions, tmp_path):
    run = shutil.copytree(plain_run, tmp_path / "runs" / "run-0")
    config = json.loads((run / "config.json").read_text())
    config["data"]["folder"] = str(shutil.copytree(lesions, tmp_path / "copy"))
    (run / "config.json").write_text(json.dumps(config))
    table = pd.read_csv(tmp_path / "copy" / "manifest.csv")
    table[1:].to_csv(tmp_path / "copy" / "manifest.csv", index=False)
    path = keras_stoch.export(run, tmp_path / "a.keras", format="keras")
    data = json.loads(path.with_name("a.keras.card.json").read_text())["data"]
    assert "splits" not in data
    assert "no counts by split" in data["note"]
    assert data["images"] == 60
