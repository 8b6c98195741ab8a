"""fit: the recipe, equal results on any devices, kills, damage, and what is refused before the first step."""

import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

import keras_stoch
from keras_stoch import runs
from keras_stoch.engine import Engine
from keras_stoch.recipe import Recipe
from keras_stoch.training import TrainingDiverged, _is_chief, _strategy
from tests.keras_stoch.small import RECIPE, build, injected, train_injected

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """60 generated lesions of 64 pixels."""
    return keras_stoch.write_lesions(tmp_path_factory.mktemp("data") / "lesions", 60, size=64)


@pytest.fixture(scope="module")
def finished(lesions, tmp_path_factory):
    """The folder of a run that was never interrupted, by the program that the kills are done to."""
    out = tmp_path_factory.mktemp("whole")
    assert program(lesions, out).wait() == 0
    return out / "run-0"


def program(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.keras_stoch.small", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def weights(path):
    model = build()
    model.load_weights(path)
    return model.get_weights()


def assert_same_run(a, b):
    assert rows(a / "batches.csv") == rows(b / "batches.csv")
    curves = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows(run / "curves.csv")] for run in (a, b)]
    assert curves[0] == curves[1]
    for name in ("best", "last"):
        for x, y in zip(weights(a / f"{name}.weights.h5"), weights(b / f"{name}.weights.h5"), strict=True):
            assert (x == y).all()


def test_the_papers_schedule():
    """Held for 15 epochs, then times 0.9 with each: worked out by hand."""
    recipe = Recipe()
    rates = [recipe.rate(epoch) for epoch in range(60)]
    assert rates[:15] == [1e-3] * 15
    assert rates[15] == pytest.approx(9e-4)
    assert rates[16] == pytest.approx(8.1e-4)
    assert rates[59] == pytest.approx(1e-3 * 0.9**45)
    assert (recipe.batch_size, recipe.rho, recipe.epsilon, recipe.momentum) == (100, 0.99, 1e-8, 0.0)


def test_the_folder_of_a_run(finished):
    curves, batches = rows(finished / "curves.csv"), rows(finished / "batches.csv")
    assert [row["epoch"] for row in curves] == [str(epoch) for epoch in range(6)]
    assert len(batches) == 6 * 6
    for row in curves:
        losses = [float(b["loss"]) for b in batches if b["epoch"] == row["epoch"]]
        assert float(row["train_loss"]) == pytest.approx(np.mean(losses), rel=1e-12)
    assert json.loads((finished / "environment.json").read_text())["keras"] == keras.__version__
    assert json.loads((finished / "config.json").read_text())["recipe"]["batch_size"] == 8
    (line,) = rows(finished.parent / "results.csv")
    assert float(line["best_val_auc"]) == max(float(row["val_auc"]) for row in curves)
    assert list((finished / "tensorboard").iterdir())


@pytest.mark.slow
def test_validation_numbers_are_those_of_the_model(lesions, tmp_path):
    """AUC by scikit-learn and loss by Keras, of what the saved model says about all images of the split."""
    (result,) = keras_stoch.fit("b0", lesions, tmp_path, epochs=1, batch_size=24, low_res=32, seed=3)
    run = tmp_path / "run-0"
    model = keras_stoch.load_run(run, "last")
    pipeline = keras_stoch.Pipeline(lesions, "validation", batch_size=12, low_res=32, high_res=None)
    ((images, targets),) = pipeline.epoch(0)
    logits = np.asarray(model(images, training=False))[:, 0]
    assert result["final_val_auc"] == pytest.approx(roc_auc_score(targets, logits))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)(targets, logits)
    assert result["final_val_loss"] == pytest.approx(float(loss), rel=1e-4)
    assert keras_stoch.evaluate(run, lesions).auc == pytest.approx(result["best_val_auc"])
    assert keras_stoch.fit("b0", lesions, tmp_path, epochs=1, batch_size=24, low_res=32, seed=3) == [result]  # done
    with pytest.raises(ValueError, match=r"holds a run with other settings \(seed: 3 there, 4 now\)"):
        keras_stoch.fit("b0", lesions, tmp_path, epochs=1, batch_size=24, low_res=32, seed=4)


@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_never_killed(lesions, finished, tmp_path):
    """kill -9 at random moments, in mid-epoch and in mid-checkpoint; one checkpoint is damaged on the way."""
    rng, kills, damaged = random.Random(0), 0, False
    run = tmp_path / "killed" / "run-0"

    def checkpoints():
        return sorted((run / "checkpoints").glob("*.npz"))

    while kills < 12:
        process = program(lesions, tmp_path / "killed")
        while process.poll() is None and not (tmp_path / f"killed-began-{process.pid}").exists():
            time.sleep(0.002)
        # A step takes some 20 milliseconds, so this is anywhere in the next steps and what is written between them.
        time.sleep(rng.uniform(0, 0.05))
        # On a busy machine not one step may have been taken in that time; there must be two checkpoints to damage one.
        while kills >= 8 and not damaged and process.poll() is None and len(checkpoints()) < 2:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        newest = checkpoints()
        if len(newest) == 2 and not damaged:
            content = bytearray(newest[-1].read_bytes())
            content[len(content) // 2] ^= 1
            newest[-1].write_bytes(content)
            damaged = True
    assert program(lesions, tmp_path / "killed").wait() == 0
    assert kills >= 10
    assert damaged
    assert_same_run(finished, run)


def test_resuming_in_this_process(lesions, tmp_path):
    """Stopped by an exception after any batch, with damage to the newest checkpoint: the same ends."""

    class Stop(keras.callbacks.Callback):
        def __init__(self, at):
            super().__init__()
            self.at = at

        def on_train_batch_end(self, batch, logs=None):
            self.at -= 1
            if self.at == 0:
                raise InterruptedError

    options = RECIPE | {"checkpoint_seconds": 0.0}
    keras_stoch.fit(build, lesions, tmp_path / "whole", **options)
    for at in (2, 7):
        with pytest.raises(InterruptedError):
            keras_stoch.fit(build, lesions, tmp_path / "cut", callbacks=[Stop(at)], **options)
    newest = sorted((tmp_path / "cut" / "run-0" / "checkpoints").glob("*.npz"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged; going on from the one before"):
        keras_stoch.fit(build, lesions, tmp_path / "cut", **options)
    assert_same_run(tmp_path / "whole" / "run-0", tmp_path / "cut" / "run-0")


def test_two_replicas_agree_with_one_device(tmp_path):
    """At one global batch, with given windows and masks and shared batch statistics: every loss to 1e-5."""
    one = train_injected(tmp_path / "one", "one")
    two = train_injected(tmp_path / "two", "mirrored")
    assert len(one) == 12
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    data, validation = injected()
    keras_stoch.fit(
        *(build, data, tmp_path / "apart"),
        **RECIPE | {"epochs": 2, "validation_data": validation, "strategy": "mirrored", "sync_batch_norm": False},
    )
    apart = [float(row["loss"]) for row in rows(tmp_path / "apart" / "run-0" / "batches.csv")]
    assert np.abs(np.subtract(apart, one)).max() > 1e-4  # the check can fail


@pytest.mark.slow
def test_two_workers_agree_with_one_device(lesions, tmp_path):
    ports = []
    sockets = [socket.socket() for _ in range(2)]
    for s in sockets:
        s.bind(("localhost", 0))
        ports.append(s.getsockname()[1])
    for s in sockets:
        s.close()
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    workers = [
        program(
            *("worker", lesions, tmp_path / "two"),
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": n}}),
        )
        for n in range(2)
    ]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    assert len(rows(tmp_path / "two" / "drawn" / "results.csv")) == 1  # one of the two writes
    two = [float(row["loss"]) for row in rows(tmp_path / "two" / "given" / "run-0" / "batches.csv")]
    np.testing.assert_allclose(two, train_injected(tmp_path / "one", "one"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("given", ["nothing", "windows", "drop_masks"])
def test_replicas_draw_differently(given, mirrored):
    """Windows and drop masks, each by itself while the other is given."""
    engine = Engine(build, Recipe(**RECIPE), mirrored)
    data, _ = injected(1)
    inputs, _, draws = next(iter(data))
    half = {name: value[:4] for name, value in inputs.items()}
    draws = tf.nest.map_structure(lambda value: value[:4], {k: v for k, v in draws.items() if k == given})

    def difference(**draws):
        both = tf.function(lambda: mirrored.run(lambda: engine.model(half, training=True, **draws)))()
        first, second = (value.numpy() for value in mirrored.experimental_local_results(both))
        return np.abs(first - second).max()

    assert difference(**draws) > 1e-3
    everything = tf.nest.map_structure(lambda value: value[:4], next(iter(data))[2])
    assert difference(**everything) == 0


def test_drop_masks_of_replicas_drop_whole_images_at_the_rate(mirrored):
    from keras_stoch.layers import Dropout

    with mirrored.scope():
        layer = Dropout(0.3, noise_shape=(None, 1, 1))
        layer.build((None, 2, 2))
    ones = tf.ones((4000, 2, 2))
    both = tf.function(lambda: mirrored.run(lambda: layer(ones, training=True)))()
    for value in mirrored.experimental_local_results(both):
        kept = value.numpy()
        assert (kept == kept[:, :1, :1]).all()
        np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.7], rtol=1e-6)
        assert abs((kept[:, 0, 0] > 0).mean() - 0.7) < 4 * np.sqrt(0.3 * 0.7 / 4000)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(lesions, tmp_path, precision):
    (result,) = keras_stoch.fit("b0", lesions, tmp_path, epochs=1, batch_size=16, low_res=32, mixed_precision=precision)
    assert np.isfinite(result["final_val_loss"])


def test_the_table_of_runs_is_in_their_order(tmp_path):
    for run in (10, 2, 9, 2):
        runs.RunFolder(tmp_path / f"run-{run}", {"recipe": {"epochs": 1}}).finish({"seed": run, "epochs": 1}, 1)
    assert [row["run"] for row in rows(tmp_path / "results.csv")] == ["run-2", "run-9", "run-10"]


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


def test_a_run_that_a_callback_ended_has_ended(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    data, validation = injected()
    options = RECIPE | {"validation_data": validation}
    (result,) = keras_stoch.fit(build, lambda epoch: data, tmp_path, callbacks=[Stop()], **options)
    assert result["epochs"] == 1
    assert keras_stoch.fit(build, lambda epoch: data, tmp_path, **options) == [result]
    more = options | {"epochs": RECIPE["epochs"] + 1}  # asked for more, it goes on
    assert keras_stoch.fit(build, lambda epoch: data, tmp_path, **more)[0]["epochs"] == RECIPE["epochs"] + 1


def test_killed_between_the_last_two_files_it_still_has_its_row(tmp_path, monkeypatch):
    data, validation = injected()
    options = RECIPE | {"validation_data": validation}
    real = runs.write_atomically

    def killed(path, content):
        if path.name == "result.json":
            raise KeyboardInterrupt
        return real(path, content)

    monkeypatch.setattr(runs, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        keras_stoch.fit(build, data, tmp_path, **options)
    monkeypatch.setattr(runs, "write_atomically", real)
    with pytest.warns(UserWarning, match="a function of the epoch that gives a Dataset is exact"):
        keras_stoch.fit(build, data, tmp_path, **options)
    assert [row["run"] for row in rows(tmp_path / "results.csv")] == ["run-0"]


def test_an_extension_that_was_killed_at_once_goes_on(tmp_path, monkeypatch):
    data, validation = injected()
    options = RECIPE | {"validation_data": validation, "epochs": 1}
    keras_stoch.fit(build, lambda epoch: data, tmp_path, **options)

    def killed():
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "environment", killed)
    with pytest.raises(KeyboardInterrupt):
        keras_stoch.fit(build, lambda epoch: data, tmp_path, **options | {"epochs": 2})
    monkeypatch.undo()
    (result,) = keras_stoch.fit(build, lambda epoch: data, tmp_path, **options | {"epochs": 2})
    assert result["epochs"] == 2


def test_a_dataset_of_the_epoch_is_resumed_exactly(tmp_path):
    """Shuffled by the number of the epoch, and cut off in the second."""

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.count = getattr(self, "count", 0) + 1
            if self.count == 9:
                raise InterruptedError

    whole, validation = injected()
    options = RECIPE | {"epochs": 3, "validation_data": validation, "checkpoint_seconds": 0.0}

    def data(epoch):
        return whole.unbatch().shuffle(48, seed=epoch).batch(8)

    keras_stoch.fit(build, data, tmp_path / "whole", **options)
    with pytest.raises(InterruptedError):
        keras_stoch.fit(build, data, tmp_path / "cut", callbacks=[Stop()], **options)
    keras_stoch.fit(build, data, tmp_path / "cut", **options)
    assert_same_run(tmp_path / "whole" / "run-0", tmp_path / "cut" / "run-0")


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


def test_batch_norm_of_a_nested_model_is_synchronised(mirrored):
    def nested():
        inner = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization()], name="inner")
        inputs = keras.Input((8,))
        return keras.Model(inputs, keras.layers.Dense(1)(inner(inputs)))

    engine = Engine(nested, Recipe(**RECIPE), mirrored)
    assert engine.model.get_layer("inner").layers[0].synchronized


def test_a_second_strategy_is_warned_of(mirrored, lesions, tmp_path):
    """TensorFlow mixes up the operations of two."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _strategy(mirrored)[0] is _strategy("mirrored")[0] is mirrored
        _strategy(tf.distribute.OneDeviceStrategy("CPU:0"))
    second = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with (
        pytest.warns(UserWarning, match="second strategy of several replicas .* use one for the whole process"),
        pytest.raises(ValueError, match="batch_size must be a multiple of the 2 replicas"),
    ):
        keras_stoch.fit("b0", lesions, tmp_path, strategy=second, batch_size=15)


def test_who_writes():
    class Strategy:
        def __init__(self, cluster, task_type, task_id):
            self.cluster_resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec(cluster), task_type=task_type, task_id=task_id
            )

    two, led = {"worker": ["a:1", "b:1"]}, {"chief": ["a:1"], "worker": ["b:1"]}
    assert [_is_chief(Strategy(two, "worker", n)) for n in (0, 1)] == [True, False]
    assert [_is_chief(Strategy(led, *task)) for task in (("chief", 0), ("worker", 0))] == [True, False]
    assert _is_chief(tf.distribute.get_strategy())


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


def test_a_folder_that_can_not_be_written(lesions, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="The run's folder can not be written"):
        keras_stoch.fit("b0", lesions, tmp_path / "file" / "runs", batch_size=8, low_res=32)


def test_load_run_says_what_is_wrong(finished, tmp_path):
    with pytest.raises(ValueError, match=r"is no run: there is no config.json; it holds run-0"):
        keras_stoch.load_run(finished.parent)
    with pytest.raises(ValueError, match="trained a model that was not made by name"):
        keras_stoch.load_run(finished)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="which must be 'best' or 'last'"):
            keras_stoch.load_run(finished, "first")
