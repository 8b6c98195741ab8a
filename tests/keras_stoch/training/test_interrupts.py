"""Ctrl-C, SIGTERM, two processes in one folder, and full disks: nothing that was done is lost."""

import json
import os
import signal
import sys
import time

import keras
import numpy as np
import pytest

import keras_stoch
from keras_stoch import files
from keras_stoch.cli import main
from keras_stoch.training import runs
from keras_stoch.training.engine import Engine
from keras_stoch.training.interrupts import Interruption, Terminated
from tests.keras_stoch.small import RECIPE, build, injected, rows, started, train_slowly, weights

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C is heard, as in a terminal; what a shell starts in the background ignores it, and `fit` respects that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Signal(keras.callbacks.Callback):
    """Sends this process a signal at a batch of training, or at the beginning of an epoch."""

    def __init__(self, number, batches, times=1):
        super().__init__()
        self.number, self.batches, self.times = number, batches, times

    def on_train_batch_end(self, batch, logs=None):
        self.batches -= 1
        if self.batches == 0:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def same_end(a, b):
    for name in ("batches.csv", "curves.csv"):
        assert [{k: v for k, v in row.items() if k != "seconds"} for row in rows(a / name)] == [
            {k: v for k, v in row.items() if k != "seconds"} for row in rows(b / name)
        ]
    for x, y in zip(weights(a / "last.weights.h5"), weights(b / "last.weights.h5"), strict=True):
        assert (x == y).all()


@pytest.fixture(scope="module")
def options(lesions):
    # What is augmented goes on in test_runs.py; every epoch compiles it anew, which takes as long as its steps.
    return {"model": build, "data": lesions, **RECIPE | {"epochs": 2, "augment": False}}


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """A run of two epochs of six batches that was never interrupted."""
    out = tmp_path_factory.mktemp("whole")
    keras_stoch.fit(out=out, **options)
    return out / "run-0"


@pytest.mark.parametrize(
    ("number", "raised", "batch"),
    [(signal.SIGINT, KeyboardInterrupt, 2), (signal.SIGTERM, Terminated, 6), (signal.SIGTERM, Terminated, 9)],
)
def test_a_signal_leaves_a_checkpoint_of_the_very_step(options, whole, tmp_path, number, raised, batch):
    """In mid-epoch, after the last step of an epoch, and in the second one."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(raised):
        keras_stoch.fit(out=tmp_path, callbacks=[Signal(number, batch)], **options)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    newest = sorted((tmp_path / "run-0" / "checkpoints").glob("*.npz"))[-1].stem
    assert newest == f"{(batch - 1) // 6:06d}-{(batch - 1) % 6 + 1:08d}"
    keras_stoch.fit(out=tmp_path, **options)
    same_end(whole, tmp_path / "run-0")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["on_train_batch_begin", "on_train_batch_end", "on_epoch_end"])
def test_so_does_a_callback_that_ends_the_program(options, whole, tmp_path, moment):
    count = [0]

    def end(*_, **__):
        count[0] += 1
        if count[0] == (2 if moment == "on_epoch_end" else 9):
            raise KeyboardInterrupt if moment != "on_train_batch_end" else SystemExit(3)

    callback = keras.callbacks.Callback()
    setattr(callback, moment, end)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        keras_stoch.fit(out=tmp_path, callbacks=[callback], **options)
    newest = sorted((tmp_path / "run-0" / "checkpoints").glob("*.npz"))[-1].stem
    expected = {"on_train_batch_begin": (1, 2), "on_train_batch_end": (1, 3), "on_epoch_end": (2, 0)}[moment]
    assert newest == "{:06d}-{:08d}".format(*expected)
    keras_stoch.fit(out=tmp_path, **options)
    same_end(whole, tmp_path / "run-0")


@pytest.mark.slow
def test_in_validation_the_state_is_that_before_it(options, whole, tmp_path, monkeypatch):
    """Validation draws windows; those that it drew before it was interrupted are drawn again."""
    count = [0]

    class Interrupted(Engine):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            step = self.validation_step

            def validation_step(batch):
                count[0] += 1
                found = step(batch)
                if count[0] == 3:  # the second epoch's first of two
                    os.kill(os.getpid(), signal.SIGTERM)
                return found

            self.validation_step = validation_step

    monkeypatch.setattr(sys.modules["keras_stoch.training.fit"], "Engine", Interrupted)
    with pytest.raises(Terminated):
        keras_stoch.fit(out=tmp_path, **options)
    assert (tmp_path / "run-0" / "checkpoints" / "000001-00000006.npz").exists()
    keras_stoch.fit(out=tmp_path, **options)
    same_end(whole, tmp_path / "run-0")


def test_a_second_signal_does_not_wait():
    with Interruption() as interruption:
        interruption.unsaved = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.wanted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_without_unsaved_steps_a_signal_ends_at_once():
    for number, raised in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)):
        with Interruption(), pytest.raises(raised):
            signal.raise_signal(number)


def test_a_program_s_own_handler_stays():
    called = []
    before = signal.signal(signal.SIGTERM, lambda *_: called.append(1))
    try:
        with Interruption() as interruption:
            interruption.unsaved = True
            signal.raise_signal(signal.SIGTERM)
            assert not interruption.wanted
        assert called == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_command_line_says_that_it_goes_on(tiny, lesions, tmp_path, capsys, monkeypatch):
    def terminated(*_, **__):
        raise Terminated

    monkeypatch.setattr(keras_stoch, "fit", terminated)
    assert main(["fit", "tiny", "--data", str(lesions), "--out", str(tmp_path)]) == 143
    assert capsys.readouterr().err == "terminated; the same command goes on where this one stopped\n"


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_killed_one_lets_go(lesions, tmp_path):
    out = tmp_path / "runs"
    process = started(train_slowly, lesions, out)
    try:
        while not (tmp_path / f"runs-began-{process.pid}").exists():
            assert process.is_alive()
            time.sleep(0.01)
        before = (out / "run-0" / "config.json").read_text()
        with pytest.raises(ValueError, match="run-0 is being trained by another process"):
            keras_stoch.fit(build, lesions, out, **RECIPE)
        assert (out / "run-0" / "config.json").read_text() == before
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    with files.locked(out / ".run-0.lock", "still held"):
        pass


def test_lesions_and_prepare_are_locked_too(tmp_path):
    def lock():
        return files.locked(tmp_path / ".lock", "taken")

    with lock(), pytest.raises(ValueError, match="taken"), lock():
        raise AssertionError
    out = tmp_path / "lesions"
    out.mkdir()
    with (
        files.locked(out / ".lock", "taken"),
        pytest.raises(ValueError, match="is being written by another process"),
    ):
        keras_stoch.write_lesions(out, 10, size=64)
    keras_stoch.write_lesions(out, 10, size=64)


@pytest.mark.slow
def test_a_run_that_kept_nothing_binds_nobody(lesions, tmp_path):
    """It diverged in its first step; another recipe may have the folder."""
    with pytest.raises(keras_stoch.TrainingDiverged):
        keras_stoch.fit(build, lesions, tmp_path, **RECIPE | {"learning_rate": 1e30})
    (result,) = keras_stoch.fit(build, lesions, tmp_path, **RECIPE | {"epochs": 1})
    assert result["epochs"] == 1
    assert len(rows(tmp_path / "run-0" / "batches.csv")) == 6
    assert json.loads((tmp_path / "run-0" / "environment.json").read_text())["history"] == []
    with pytest.raises(ValueError, match="other settings"):
        keras_stoch.fit(build, lesions, tmp_path, **RECIPE | {"learning_rate": 1e30})


@pytest.mark.parametrize("seconds", [-1, float("nan"), "5", True, None])
def test_checkpoint_seconds_are_checked(seconds, lesions, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_seconds must be a number of at least 0"):
        keras_stoch.fit("b0", lesions, tmp_path / "out", checkpoint_seconds=seconds)
    assert not (tmp_path / "out").exists()


def test_files_hold_what_they_need_and_no_more(tmp_path):
    """Weights without the optimiser, with callbacks that look for it; a checkpoint is weights, optimiser and seeds."""
    data, validation = injected()
    options = RECIPE | {"validation_data": validation, "epochs": 1}
    found = []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: found.append(look.model.optimizer))
    keras_stoch.fit(build, lambda epoch: data, tmp_path, callbacks=[look], **options)
    assert isinstance(found[0], keras.optimizers.RMSprop)
    import h5py

    model, names = build(), []
    with h5py.File(tmp_path / "run-0" / "last.weights.h5") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        stored = sum(file[name].size for name in names)
    assert not any("optimizer" in name for name in names)
    assert stored == sum(np.size(w) for w in model.weights)
    (checkpoint,) = (tmp_path / "run-0" / "checkpoints").glob("*.npz")
    numbers = sum(v.numpy().nbytes for v in model.variables) + sum(v.numpy().nbytes for v in model.trainable_variables)
    with np.load(__import__("io").BytesIO(checkpoint.read_bytes()[32:])) as archive:
        held = sum(archive[name].nbytes for name in archive.files if name != "position")
    assert held <= numbers + 64  # the rate and the number of steps


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half(tiny, lesions, tmp_path, capsys, monkeypatch):
    """The disk is full when the weights of the second epoch are written."""
    out = tmp_path / "runs"
    options = ["--data", str(lesions), "--out", str(out), "--low-res", "32", "--batch-size", "16"]
    assert main(["fit", "tiny", *options, "--epochs", "1"]) == 0
    kept = (out / "run-0" / "last.weights.h5").read_bytes()
    real = os.fsync

    def full(descriptor):
        if "weights" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        return real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    capsys.readouterr()
    assert main(["fit", "tiny", *options, "--epochs", "2", "--quiet"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: The run's folder can not be written: No space left on device")
    assert told.count("\n") == 1
    assert (out / "run-0" / "last.weights.h5").read_bytes() == kept
    assert not list(out.rglob("*partial*"))
    monkeypatch.undo()


def test_tensorflow_s_own_error_of_a_full_disk():
    import tensorflow as tf

    with pytest.raises(OSError, match="No space left on device"), files.full_disk_told():
        raise tf.errors.ResourceExhaustedError(None, None, "/full/events; No space left on device")
    with pytest.raises(tf.errors.ResourceExhaustedError), files.full_disk_told():
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


def test_weights_that_can_not_be_made_leave_the_optimizer(tmp_path, monkeypatch):
    folder = runs.RunFolder(tmp_path, {"recipe": {"epochs": 1}})
    model = build()
    model.optimizer = optimizer = keras.optimizers.RMSprop()
    monkeypatch.setattr(type(model), "save_weights", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folder.save_weights(model, "best")
    assert model.optimizer is optimizer
