"""The folder of a run: what is in it, and that kills, damage and other endings leave it as if they had not been."""

import json
import random
import shutil
import time
import warnings

import keras
import numpy as np
import pytest

import keras_stoch
from keras_stoch.training import runs
from tests.keras_stoch.small import RECIPE, build, injected, rows, started, train_slowly, weights

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def finished(lesions, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    out = tmp_path_factory.mktemp("whole")
    keras_stoch.fit(build, lesions, out, **RECIPE)
    return out / "run-0"


def assert_same_run(a, b):
    assert rows(a / "batches.csv") == rows(b / "batches.csv")
    curves = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows(run / "curves.csv")] for run in (a, b)]
    assert curves[0] == curves[1]
    for name in ("best", "last"):
        for x, y in zip(weights(a / f"{name}.weights.h5"), weights(b / f"{name}.weights.h5"), strict=True):
            assert (x == y).all()


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


def test_the_table_of_runs_is_in_their_order(tmp_path):
    for run in (10, 2, 9, 2):
        runs.RunFolder(tmp_path / f"run-{run}", {"recipe": {"epochs": 1}}).finish({"seed": run, "epochs": 1}, 1)
    assert [row["run"] for row in rows(tmp_path / "results.csv")] == ["run-2", "run-9", "run-10"]


@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_never_killed(lesions, tmp_path):
    """kill -9 at random moments, in mid-epoch and in mid-checkpoint; one checkpoint is damaged on the way."""
    rng, kills, damaged = random.Random(0), 0, False
    run = tmp_path / "killed" / "run-0"

    def checkpoints():
        return sorted((run / "checkpoints").glob("*.npz"))

    def complete(out):
        process = started(train_slowly, lesions, out)
        process.join()
        assert process.exitcode == 0

    while kills < 12:
        process = started(train_slowly, lesions, tmp_path / "killed")
        while process.is_alive() and not (tmp_path / f"killed-began-{process.pid}").exists():
            time.sleep(0.002)
        # A step takes some 20 milliseconds, so this is anywhere in the next steps and what is written between them.
        time.sleep(rng.uniform(0, 0.05))
        # On a busy machine not one step may have been taken in that time; there must be two checkpoints to damage one.
        while kills >= 8 and not damaged and process.is_alive() and len(checkpoints()) < 2:
            time.sleep(0.002)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
        newest = checkpoints()
        if len(newest) == 2 and not damaged:
            content = bytearray(newest[-1].read_bytes())
            content[len(content) // 2] ^= 1
            newest[-1].write_bytes(content)
            damaged = True
    complete(tmp_path / "killed")
    assert kills >= 10
    assert damaged
    complete(tmp_path / "whole")
    assert_same_run(tmp_path / "whole" / "run-0", run)


def test_resuming_in_this_process(finished, lesions, tmp_path):
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
    for at in (2, 7):
        with pytest.raises(InterruptedError):
            keras_stoch.fit(build, lesions, tmp_path / "cut", callbacks=[Stop(at)], **options)
    newest = sorted((tmp_path / "cut" / "run-0" / "checkpoints").glob("*.npz"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged; going on from the one before"):
        keras_stoch.fit(build, lesions, tmp_path / "cut", **options)
    assert_same_run(finished, tmp_path / "cut" / "run-0")


@pytest.mark.slow
def test_a_run_that_a_callback_ended_has_ended(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    data, validation = injected()
    options = RECIPE | {"validation_data": validation, "epochs": 2}
    (result,) = keras_stoch.fit(build, lambda epoch: data, tmp_path, callbacks=[Stop()], **options)
    assert result["epochs"] == 1
    assert keras_stoch.fit(build, lambda epoch: data, tmp_path, **options) == [result]
    more = options | {"epochs": 3}  # asked for more, it goes on
    assert keras_stoch.fit(build, lambda epoch: data, tmp_path, **more)[0]["epochs"] == 3


@pytest.mark.slow
def test_killed_between_the_last_two_files_it_still_has_its_row(tmp_path, monkeypatch):
    data, validation = injected()
    options = RECIPE | {"validation_data": validation, "epochs": 1}
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_folder_that_can_not_be_written(lesions, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="The run's folder can not be written"):
        keras_stoch.fit("b0", lesions, tmp_path / "file" / "runs", batch_size=8, low_res=32)


def test_load_run_says_what_is_wrong(finished, tmp_path):
    with pytest.raises(ValueError, match=r"is no run: there is no config.json; it holds run-0"):
        keras_stoch.load_run(finished.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="which must be 'best' or 'last'"):
            keras_stoch.load_run(finished, "first")


@pytest.mark.slow
def test_a_model_of_ones_own_is_built_again_from_its_run(finished, lesions, tmp_path):
    """By what Keras tells of its layers; what it does not tell, or trust, is said."""
    model = keras_stoch.load_run(finished, "last")
    for found, known in zip(model.get_weights(), weights(finished / "last.weights.h5"), strict=True):
        np.testing.assert_array_equal(found, known)
    assert keras_stoch.evaluate(finished, lesions, passes=2, bootstraps=10).images["spread"].max() > 0

    run = shutil.copytree(finished, tmp_path / "run-0")
    (run / "model.json").unlink()
    with pytest.raises(ValueError, match="not made by name, and whose layers are not told in model.json; build it"):
        keras_stoch.load_run(run)
    told = (finished / "model.json").read_text()
    (run / "model.json").write_text(told.replace("StochasticConv2D", "Forgotten"))
    with pytest.raises(ValueError, match=r"model.json does not suffice to build again: .*; build it and load best"):
        keras_stoch.load_run(run)


def test_what_keras_can_not_tell_leaves_no_model_json(lesions, tmp_path):
    class Own(keras.Model):
        def __init__(self, function):
            inputs = keras.Input((32, 32, 3))
            super().__init__(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(inputs)))

        def get_config(self):
            raise NotImplementedError

    keras_stoch.fit(lambda: Own(len), lesions, tmp_path, **RECIPE | {"epochs": 1})
    assert not (tmp_path / "run-0" / "model.json").exists()
