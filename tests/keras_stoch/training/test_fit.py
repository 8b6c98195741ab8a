"""fit: the recipe, its numbers, callbacks, losses that are no number, and what is refused before the first step."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

import keras_stoch
from keras_stoch.evaluation import predictions
from keras_stoch.training.engine import Engine
from keras_stoch.training.recipe import Recipe, TrainingDiverged
from keras_stoch.training.strategies import get_strategy
from tests.keras_stoch.conftest import EPOCH
from tests.keras_stoch.small import RECIPE, build, injected, rows, weights


def test_the_papers_schedule():
    """Held for 15 epochs, then times 0.9 with each: worked out by hand."""
    recipe = Recipe()
    rates = [recipe.rate(epoch) for epoch in range(60)]
    assert rates[:15] == [1e-3] * 15
    assert rates[15] == pytest.approx(9e-4)
    assert rates[16] == pytest.approx(8.1e-4)
    assert rates[59] == pytest.approx(1e-3 * 0.9**45)
    assert (recipe.batch_size, recipe.rho, recipe.epsilon, recipe.momentum) == (100, 0.99, 1e-8, 0.0)


def test_validation_numbers_are_those_of_the_model(tiny, plain_run, lesions):
    """AUC by scikit-learn and loss by Keras, of what the saved model says about all images of the split."""
    again = {"data": lesions, "out": plain_run.parent, "low_res": 32, **EPOCH}
    (result,) = keras_stoch.fit("tiny", seed=3, **again)  # done, so that it is read
    assert result["epochs"] == 3
    assert result == {k: v for k, v in json.loads((plain_run / "result.json").read_text()).items() if k != "asked"}
    model = keras_stoch.load_run(plain_run, "last")
    pipeline = keras_stoch.Pipeline(lesions, "validation", batch_size=12, low_res=32, high_res=None)
    ((images, targets),) = pipeline.epoch(0)
    logits = np.asarray(model(images, training=False))[:, 0]
    assert result["final_val_auc"] == pytest.approx(roc_auc_score(targets, logits))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)(targets, logits)
    assert result["final_val_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert keras_stoch.evaluate(plain_run, lesions).auc == pytest.approx(result["best_val_auc"])
    with pytest.raises(ValueError, match=r"holds a run with other settings \(seed: 3 there, 4 now\)"):
        keras_stoch.fit("tiny", seed=4, **again)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(tiny, lesions, tmp_path, precision):
    (result,) = keras_stoch.fit("tiny", lesions, tmp_path, low_res=32, mixed_precision=precision, **EPOCH)
    assert np.isfinite(result["final_val_loss"])


def test_passes_average_probabilities(monkeypatch, rng):
    logits = rng.normal(0, 3, (3, 8, 1)).astype("float32")
    monkeypatch.setattr(
        predictions, "AveragedPasses", lambda model: lambda inputs, passes: tf.constant(logits[:passes])
    )
    engine = Engine(build, Recipe(**RECIPE, passes=3), get_strategy("one")[0])
    batch = next(iter(injected(1)[1]))
    found, targets, weights = engine.validation_step(batch)
    np.testing.assert_allclose(found, logit(expit(logits).mean(0)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(targets[:, 0], batch[1])
    assert (weights.numpy() == 1).all()


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    """The weights of the last epoch stay."""
    bad = {"epoch": 0}

    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            bad["epoch"] = epoch
            if epoch == 1:
                self.model.get_layer("stem_conv").kernel.assign(np.full((3, 3, 3, 6), np.nan, np.float32))

    data, validation = injected()
    with pytest.raises(TrainingDiverged, match=r"The loss became nan in epoch 1, batch 0. .* keeps the weights"):
        keras_stoch.fit(build, data, tmp_path, validation_data=validation, callbacks=[Spoil()], **RECIPE)
    assert all(np.isfinite(w).all() for w in weights(tmp_path / "run-0" / "last.weights.h5"))
    assert len(rows(tmp_path / "run-0" / "curves.csv")) == 1


def test_weights_that_the_last_step_spoiled_stop_the_run_too(tmp_path):
    """One step an epoch: the loss of that step is still a number, and only validation shows what it did."""
    data, validation = injected(1)
    options = RECIPE | {"learning_rate": 1e30, "validation_data": validation}
    with pytest.raises(TrainingDiverged, match="The validation loss became .* in epoch 0. No epoch had ended"):
        keras_stoch.fit(build, data, tmp_path, **options)
    assert not list(tmp_path.glob("run-0/*.weights.h5"))


@pytest.mark.slow
def test_callbacks_of_keras(tmp_path):
    """Also those that look for the model's optimiser; the rate they set is the one that is used and told."""
    data, validation = injected()
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch == 1 else rate)
    callbacks = [
        *(halve, keras.callbacks.TensorBoard(tmp_path / "board"), keras.callbacks.CSVLogger(tmp_path / "log.csv")),
        keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", monitor="val_loss"),
    ]
    options = RECIPE | {"validation_data": validation, "epochs": 4, "hold_epochs": 2}
    keras_stoch.fit(build, data, tmp_path / "out", callbacks=callbacks, **options)
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "out" / "run-0" / "curves.csv")]
    np.testing.assert_allclose(rates, [1e-3, 0.5e-3, 0.45e-3, 0.405e-3], rtol=1e-6)
    assert len(rows(tmp_path / "log.csv")) == 4
    assert (tmp_path / "model.keras").exists()

    plateau = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.1, patience=1, min_delta=1e9)
    keras_stoch.fit(build, data, tmp_path / "flat", callbacks=[plateau], **options | {"hold_epochs": 9})
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "flat" / "run-0" / "curves.csv")]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 1e-4, 1e-5], rtol=1e-5)


def one_class(lesions, tmp_path):
    import pandas as pd

    return pd.read_csv(lesions / "manifest.csv").assign(target=0, file=lambda m: str(lesions) + "/" + m["file"])


def with_nan(lesions, tmp_path):
    return tf.data.Dataset.from_tensor_slices((np.full((8, 32, 32, 3), np.nan), np.ones(8))).batch(4)


def wrong_in_the_second_batch(lesions, tmp_path):
    return tf.data.Dataset.from_tensor_slices((np.ones((8, 32, 32, 3)), [0.0, 1, 0, 1, 0, 1, 0, 7])).batch(4)


def malignant_only(lesions, tmp_path):
    return tf.data.Dataset.from_tensor_slices((np.ones((8, 32, 32, 3)), np.ones(8))).batch(4)


def endless(lesions, tmp_path):
    return injected()[1].repeat()


def targets_of_two(lesions, tmp_path):
    return tf.data.Dataset.from_tensor_slices((np.ones((8, 32, 32, 3)), np.full(8, 2.0))).batch(4)


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        ("b0", None, {"epoch": 3}, "Unknown options: epoch. A recipe has: epochs, batch_size"),
        ("b0", None, {"epochs": 0}, "epochs must be an integer of at least 1. Received: epochs=0"),
        (
            "b0",
            None,
            {"learning_rate": "fast"},
            "learning_rate must be a positive number. Received: learning_rate='fast'",
        ),
        ("b0", None, {"augment": 1}, "augment must be True or False"),
        ("b7", None, {}, "Expected one of b0"),
        ("b0", None, {"runs": 0}, "runs must be an integer of at least 1"),
        ("b0", None, {"strategy": "many"}, "strategy must be one of one, mirrored, multiworker"),
        ("b0", None, {"high_res": 64}, "'b0' has no high-resolution input"),
        ("b0", None, {"low_res": 128}, "have 64 pixels a side, which is less than"),
        ("split-b0", None, {"low_res": 224, "high_res": 64}, "high_res must be an integer of at least 224"),
        ("b0", None, {"batch_size": 100}, "48 images of split 'train' fill no batch of 100"),
        ("b0", "nowhere", {}, "nowhere is no prepared folder"),
        ("b0", one_class, {}, "The training side of the split has 48 images with targets \\[0\\]; both classes"),
        ("b0", with_nan, {}, "data is a Dataset, so validation_data must be one"),
        (lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]), None, {}, "one logit per image"),
        (
            lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, activation="sigmoid")]),
            *(None, {}, "must put out logits, but .* ends with a sigmoid"),
        ),
    ],
)
def test_what_is_refused_before_anything_is_written(lesions, tmp_path, model, data, options, message):
    data = data(lesions, tmp_path) if callable(data) else data or lesions
    with pytest.raises(ValueError, match=message):
        keras_stoch.fit(model, data, tmp_path / "out", **{"batch_size": 8, "low_res": 32} | options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_nan, "Inputs must be numbers. Received: NaN or infinite in batch 0 of data"),
        (targets_of_two, "Targets must be 0 or 1. .*2.0"),
        (wrong_in_the_second_batch, "Targets must be 0 or 1. Received: .*7.0.* in batch 1 of data"),
        (malignant_only, "data has targets \\[1\\] only; both classes are needed"),
        (endless, "data never ends"),
        (lambda *_: lambda epoch: 3, "data is a Dataset, so validation_data must be one"),
    ],
)
def test_bad_datasets(lesions, tmp_path, data, message):
    data = data(lesions, tmp_path)
    with pytest.raises(ValueError, match=message):
        keras_stoch.fit("b0", data, tmp_path / "out", validation_data=data, low_res=32)
