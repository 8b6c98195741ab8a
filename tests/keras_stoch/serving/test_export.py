"""What `export` refuses, and what it does to files that are there."""

import importlib.util
import os

import keras
import pytest

import keras_stoch
from keras_stoch.serving import savedmodel, trial
from tests.keras_stoch.serving.pictures import ordinary


def test_models_that_can_not_be_served_as_they_are(tiny, tmp_path):
    probabilities = keras_stoch.create_model("tiny", low_res=32, activation="sigmoid")
    with pytest.raises(ValueError, match="must put out logits, but 'predictions' ends with a sigmoid"):
        keras_stoch.export(probabilities, tmp_path / "x")
    inputs = keras.Input((64, 64, 3))
    stem = keras_stoch.StochasticConv2D(4, 3, output_size=15, strides=2)
    inner = keras.Sequential([keras.Input((64, 64, 3)), stem, keras.layers.GlobalAveragePooling2D()])
    nested = keras.Model(inputs, keras.layers.Dense(1)(inner(inputs)))
    with pytest.raises(ValueError, match="its windows have no way in"):
        keras_stoch.export(nested, tmp_path / "x")
    wide = keras_stoch.create_model("tiny", low_res=(32, 48))
    with pytest.raises(ValueError, match=r"low_res must take square images.*\(None, 32, 48, 3\)"):
        keras_stoch.export(wide, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def unwritten(monkeypatch):
    """A SavedModel is an empty one, which nothing is asked of: what is tested is what becomes of folders."""

    def write(served, path):
        path.mkdir()
        (path / "saved_model.pb").touch()

    monkeypatch.setattr(savedmodel, "write", write)
    monkeypatch.setattr(trial, "try_out", lambda *_: None)


def test_what_is_there_is_replaced_or_left(unwritten, tmp_path):
    first = ordinary()
    path = keras_stoch.export(first, tmp_path / "served")
    (path / "old").touch()
    keras_stoch.export(first, path, overwrite=True)
    assert not (path / "old").exists()
    assert [found.name for found in tmp_path.iterdir()] == ["served"]
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ValueError, match="is a link"):
        keras_stoch.export(first, tmp_path / "link", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, and a SavedModel is a folder"):
        keras_stoch.export(first, tmp_path / "file", overwrite=True)


def test_a_saved_model_that_can_not_take_its_place_leaves_the_old_one(unwritten, tmp_path, monkeypatch):
    model = ordinary()
    path = keras_stoch.export(model, tmp_path / "served")
    (path / "old").touch()
    real = os.replace

    def full(source, target):
        if "partial" in str(source):
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        keras_stoch.export(model, path, overwrite=True)
    assert (path / "old").exists()
    assert [found.name for found in tmp_path.iterdir()] == ["served"]


def test_missing_packages_are_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs tf2onnx and onnx: pip install 'keras-stoch\[onnx\]'"):
        keras_stoch.export(model, tmp_path / "model.onnx", format="onnx")


def test_bad_arguments_write_nothing(model, tmp_path):
    with pytest.raises(ValueError, match="format must be one of tf_saved_model, keras, onnx, litert"):
        keras_stoch.export(model, tmp_path / "x", format="pb")
    with pytest.raises(ValueError, match=r"must end with \.keras"):
        keras_stoch.export(model, tmp_path / "x.h5", format="keras")
    with pytest.raises(ValueError, match="is no run"):
        keras_stoch.export(tmp_path, tmp_path / "x")
    two = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"one logit.*\(None, 2\)"):
        keras_stoch.export(two, tmp_path / "x")
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        keras_stoch.export(model, tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())
    (tmp_path / "there" / "thesis.tex").write_text("ten years")
    for path, format in (("there", "tf_saved_model"), ("there.keras", "keras")):
        (tmp_path / "there.keras").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="is a folder, but no SavedModel that could be replaced"):
            keras_stoch.export(model, tmp_path / path, format=format, overwrite=True)
    assert (tmp_path / "there" / "thesis.tex").read_text() == "ten years"


def test_an_export_that_fails_leaves_the_old_one(model, tmp_path, monkeypatch):
    (tmp_path / "model.keras").write_text("old")
    monkeypatch.setattr(type(model), "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keras_stoch.export(model, tmp_path / "model.keras", format="keras", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert (tmp_path / "model.keras").read_text() == "old"
