"""The folder of a training run: what is in it, and how it survives a kill at any moment.

    config.json          model, recipe, data and seed; a run is only resumed with the same
    environment.json     versions, devices, machine, command line and time of the last start, and of those before it
    curves.csv           one row per epoch: losses, ROC AUC, learning rate, seconds
    batches.csv          one row per batch: its loss
    checkpoints/         the two newest states, complete: weights, optimiser, seeds, position
    best.weights.h5, last.weights.h5
    model.json           what layers a model of one's own has; one by name has its arguments in config.json
    result.json          when the run has ended
    ../results.csv       one row per run of the experiment
    ../.run-0.lock       held by the process that trains

A checkpoint is the truth: on resuming, the tables are cut back to it and grow again.
"""

import contextlib
import csv
import datetime
import hashlib
import io
import json
import os
import platform
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np

from keras_stoch.files import command_line, full_disk_told, locked, versions, write_atomically
from keras_stoch.storage import Remote, as_path
from keras_stoch.training.holds import binds, check_same, differences, held, read_json

CURVES = ("epoch", "train_loss", "val_loss", "train_auc", "val_auc", "learning_rate", "seconds")
BATCHES = ("epoch", "batch", "loss")
KEEP = 2  # checkpoints; the older one is for the day that the newer one is damaged


class RunFolder:
    """The files of one run, held by this process until `close`.

    Args:
        path: of the folder; made if there is none.
        config: dict of plain values that decide the run.

    Attributes:
        writes: whether this process writes them.
        contents: the digest of a function's Dataset that the run began with, if any.

    Raises:
        ValueError: if another process trains there, or the folder holds a run with another config, naming what differs.
        OSError: if it can not be written.
    """

    writes = True

    def __init__(self, path, config: dict):
        self.path = as_path(path)
        self.config = json.loads(json.dumps(config))
        self._waiting = {}
        self.checkpoints = self.path / "checkpoints"
        with self._writable():
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                stack.enter_context(held(self.path))
                for partial in [*self.path.glob(".*.partial*"), *self.checkpoints.glob(".*.partial")]:
                    partial.unlink()
                before = read_json(self.path / "config.json")
                if binds(self.path):
                    check_same(self.path, before, self.config)
                self.contents = (before or {}).get("data", {}).get("contents")
                self._held = stack.pop_all()

    def close(self):
        """Lets another process have the folder."""
        self._flush()
        self._held.close()

    def begin(self, epoch: int, batch: int):
        """Says that training begins, or goes on, at this position; tables are cut back to it."""
        with self._writable():
            # More epochs are asked for than a run that has ended was: it goes on.
            (self.path / "result.json").unlink(missing_ok=True)
            path, before = self.path / "environment.json", read_json(self.path / "config.json")
            earlier = read_json(path) if before and not differences(before, self.config) else None
            history = [*(earlier.pop("history", None) or []), earlier] if earlier else []
            start = {
                "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "command": command_line(),
                "working_directory": os.getcwd(),
                "data": self.config.get("data", {}).get("folder"),
                "epoch": epoch,
                "batch": batch,
            }
            write_atomically(self.path / "config.json", json.dumps(self.config, indent=1) + "\n")
            record = start | environment() | {"history": history}
            write_atomically(path, json.dumps(record, indent=1) + "\n")
            self._cut(epoch, batch)

    @contextlib.contextmanager
    def _writable(self):
        """Says of an error of the disk whose it is."""
        try:
            with full_disk_told():
                yield
        except OSError as error:
            why = error.strerror or str(error)
            raise OSError(f"The run's folder can not be written: {why} ({error.filename or self.path})") from error

    def ended(self, epochs: int) -> dict | None:
        """What the run ended with, or None while it has not.

        Args:
            epochs: that are asked for now. A callback may have ended the run before its last epoch; what counts is how
                many had been asked for then.
        """
        result = read_json(self.path / "result.json")
        if result is None:
            return None
        return result if max(result.pop("asked"), result["epochs"]) >= epochs else None

    def save(self, arrays: dict[str, np.ndarray], position: dict):
        """Writes a checkpoint.

        Args:
            arrays: the state.
            position: plain values; "epoch" and "batch" say what comes next.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, position=np.frombuffer(json.dumps(position).encode(), np.uint8))
        data = buffer.getvalue()
        self._flush()
        name = f"{position['epoch']:06d}-{position['batch']:08d}.npz"
        with self._writable():
            # The digest stands in front: a file that was cut short, or whose bytes have turned, is recognised.
            write_atomically(self.checkpoints / name, hashlib.sha256(data).digest() + data)
            for old in sorted(self.checkpoints.glob("*.npz"))[:-KEEP]:
                old.unlink()

    def load(self) -> tuple[dict[str, np.ndarray], dict] | None:
        """The newest checkpoint that is whole; None if there is none. Damaged ones are reported and passed over."""
        for path in sorted(self.checkpoints.glob("*.npz"), reverse=True):
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                warnings.warn(f"{path} is damaged; going on from the one before", stacklevel=3)
                path.unlink(missing_ok=True)  # another worker may have been first
                continue
            try:
                with np.load(io.BytesIO(content[32:])) as archive:
                    arrays = {name: archive[name] for name in archive.files}
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise ValueError(f"{path} was written by another version: {error}") from error
            return arrays, json.loads(arrays.pop("position").tobytes())
        return None

    def _cut(self, epoch: int, batch: int):
        """Forgets rows of the tables from this position on."""
        self._rewrite("curves.csv", CURVES, lambda row: row["epoch"] < epoch)
        self._rewrite("batches.csv", BATCHES, lambda row: (row["epoch"], row["batch"]) < (epoch, batch))

    def _rewrite(self, name, columns, keep):
        path, kept = self.path / name, []
        if path.exists():
            # A kill can leave half of the last line, without its end.
            lines = path.read_text(errors="replace").split("\n")[1:-1]
            kept = [line for line in lines if (row := _numbers(line, columns)) is not None and keep(row)]
        write_atomically(path, "".join(line + "\n" for line in [",".join(columns), *kept]))

    def add_batch(self, epoch: int, batch: int, loss: float):
        self._append("batches.csv", f"{epoch},{batch},{loss!r}\n")

    def add_epoch(self, row: dict):
        self._append("curves.csv", ",".join(repr(row[name]) for name in CURVES) + "\n")
        self._flush()

    def _append(self, name: str, line: str):
        """Adds a line to a table. An object has to be written anew for it, which waits for the next checkpoint."""
        if isinstance(self.path, Remote):
            self._waiting[name] = self._waiting.get(name, "") + line
        else:
            with self._writable(), open(self.path / name, "a") as file:
                file.write(line)

    def _flush(self):
        with self._writable():
            for name, lines in self._waiting.items():
                write_atomically(self.path / name, (self.path / name).read_bytes() + lines.encode())
        self._waiting = {}

    def curves(self) -> list[dict]:
        """The rows of curves.csv, numbers as numbers."""
        rows = csv.DictReader((self.path / "curves.csv").read_text().splitlines())
        return [{k: float(v) if k != "epoch" else int(v) for k, v in row.items()} for row in rows]

    def save_weights(self, model, name: str):
        """Writes {name}.weights.h5 whole or not at all, without the optimiser, which checkpoints hold."""
        optimizer, model.optimizer = model.optimizer, None
        file = _InMemory()  # HDF5 that can not write to a disk ends the process later
        try:
            model.save_weights(file)
        finally:
            model.optimizer = optimizer
        with self._writable():
            write_atomically(self.path / f"{name}.weights.h5", file.getvalue())

    def save_architecture(self, model):
        """Writes model.json, of which `load_run` builds a model of one's own again, where Keras can tell its layers."""
        if self.config.get("model", {}).get("kind") != "own":
            return
        try:
            told = model.to_json()
        except (NotImplementedError, TypeError, ValueError):
            return
        with self._writable():
            write_atomically(self.path / "model.json", told + "\n")

    def finish(self, result: dict, asked: int):
        """Writes the run's row in the experiment's table, and result.json.

        Args:
            result: plain values.
            asked: epochs that were asked for.
        """
        import pandas as pd

        path = self.path.parent / "results.csv"
        rows = pd.DataFrame([{"run": self.path.name} | result])
        with self._writable(), locked(path.with_name(".results.lock"), f"{path} is held by another process", wait=60):
            if path.exists():
                before = pd.read_csv(io.BytesIO(path.read_bytes()))
                rows = pd.concat([before[before["run"] != self.path.name], rows]).sort_values("seed", kind="stable")
            write_atomically(path, rows.to_csv(index=False, lineterminator="\n"))
            # Last, for it says that all is done.
            write_atomically(self.path / "result.json", json.dumps(result | {"asked": asked}, indent=1) + "\n")


class _InMemory(io.BytesIO):
    """A file of weights in memory, with the name that Keras asks of one."""

    def __str__(self):
        return "memory.weights.h5"


class Spectator(RunFolder):
    """The run's folder for a worker that is not the chief: it reads what the chief wrote, and writes nothing.

    Args:
        path: of the folder.
    """

    writes = False

    def __init__(self, path):
        self.path = as_path(path)
        self.checkpoints = self.path / "checkpoints"
        self.rows = []
        self.contents = None

    def curves(self):
        return self.rows or super().curves()  # the chief's, if this process came back after the last epoch

    def add_epoch(self, row):
        self.rows.append(row)

    def begin(self, *_):
        pass

    save = add_batch = save_weights = save_architecture = finish = close = begin


def load_run(folder, which="best"):
    """The trained model of a run: one by name, or one of your own whose layers Keras can tell.

    Args:
        folder: of the run, such as runs/split/run-0.
        which: "best" (by validation AUC) or "last".

    Raises:
        ValueError: if there is no run, or it trained a model that can not be built again without the function that
            made it.
    """
    config, folder = check_run(folder, which), as_path(folder)
    from keras_stoch.models import create_model, model_from_json

    if config["kind"] == "name":
        model = create_model(config["name"], **config["arguments"])
    else:
        try:
            model = model_from_json((folder / "model.json").read_text())
        except Exception as error:  # of layers that are not imported, or that Keras does not trust
            why = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{folder} trained a model of your own that model.json does not suffice to build again: {why}; build "
                f"it and load {which}.weights.h5"
            ) from error
    with open_weights(folder / f"{which}.weights.h5") as file:
        model.load_weights(file)
    return model


@contextlib.contextmanager
def open_weights(path):
    """What `load_weights` takes: the path of a file, or in memory what an object holds."""
    yield _InMemory(path.read_bytes()) if isinstance(path, Remote) else path


def check_run(folder, which="best", passes: int = 1) -> dict:
    """What can be known of a run without Keras.

    Args:
        folder, which: see `load_run`.
        passes: draws that will be averaged over.

    Returns:
        "kind" ("name" or "own"), "name", "draws" (whether it has a detail branch) and, by name, "arguments" for
        `create_model`.

    Raises:
        ValueError: as `load_run`, and for several passes of a model that draws no windows.
    """
    folder = as_path(folder)
    if which not in ("best", "last"):
        raise ValueError(f"which must be 'best' or 'last'. Received: {which!r}")
    if not (folder / "config.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f"; it holds {', '.join(inside)}" if inside else ""
        raise ValueError(f"{folder} is no run: there is no config.json{hint}")
    config = (read_json(folder / "config.json") or {}).get("model")
    if config is None:
        raise ValueError(f"{folder / 'config.json'} can not be read")
    if not (folder / f"{which}.weights.h5").exists():
        raise ValueError(f"{folder} has no {which}.weights.h5 yet: not one epoch has ended")
    if config["kind"] == "name":
        draws = "high_res" in config["arguments"]
    else:
        told = read_json(folder / "model.json")
        if told is None:
            raise ValueError(
                f"{folder} trained a model that was not made by name, and whose layers are not told in model.json; "
                f"build it and load {which}.weights.h5"
            )
        config |= {"name": told.get("config", {}).get("name", "a model of your own")}
        draws = '"high_res"' in json.dumps(told.get("config", {}).get("input_layers"))
    if isinstance(passes, bool) or not isinstance(passes, int) or passes < 1:
        raise ValueError(f"passes must be an integer of at least 1. Received: passes={passes!r}")
    if passes > 1 and not draws:
        raise ValueError(f"{config['name']!r} draws no windows to average over. Received: passes={passes}")
    return config | {"draws": draws}


def check_runs(folder, passes: int = 1):
    """`check_run` of a run, or of every run in a folder of runs."""
    for run in runs_of(folder):
        check_run(run, passes=passes)


def runs_of(model) -> list:
    """A folder of runs as those runs, in order, a list likewise; everything else as the one it is."""
    if isinstance(model, list | tuple):
        return [run for one in model for run in runs_of(one)]
    if not isinstance(model, str | Path) or (as_path(model) / "config.json").is_file():
        return [model]
    inside = [path.parent for path in as_path(model).glob("run-*/config.json")]
    return sorted(inside, key=lambda path: (len(path.name), path.name)) or [model]


def data_of(run) -> dict:
    """What config.json says of the data of a run; {} for what is no run."""
    config = read_json(as_path(run) / "config.json") if isinstance(run, str | Path) else None
    return (config or {}).get("data") or {}


def loaded(model, which="best"):
    """The model of a run, where the run's folder is given instead of a model; see `load_run`."""
    return load_run(model, which) if isinstance(model, str | Path) else model


def environment() -> dict:
    """Versions, devices and machine."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count()}
    found |= versions("keras", "tensorflow", "torch", "numpy", "scikit-learn", "keras-stoch")
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        found["devices"] = [device.name for device in tf.config.list_logical_devices()]
    return found


def _numbers(line: str, columns) -> dict[str, float] | None:
    """The numbers of a line by column; None for a line that is not whole."""
    cells = line.split(",")
    if len(cells) != len(columns):
        return None
    try:
        return {name: float(cell) for name, cell in zip(columns, cells, strict=True)}
    except ValueError:
        return None
