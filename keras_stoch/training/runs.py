"""The folder of a training run: what is in it, and how it survives a kill at any moment.

    config.json          model, recipe, data and seed; a run is only resumed with the same
    environment.json     versions, devices, machine
    curves.csv           one row per epoch: losses, ROC AUC, learning rate, seconds
    batches.csv          one row per batch: its loss
    checkpoints/         the two newest states, complete: weights, optimiser, seeds, position
    best.weights.h5, last.weights.h5
    result.json          when the run has ended
    ../results.csv       one row per run of the experiment

A checkpoint is the truth: on resuming, the tables are cut back to it and grow again.
"""

import csv
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

from keras_stoch.files import versions, write_atomically

CURVES = ("epoch", "train_loss", "val_loss", "train_auc", "val_auc", "learning_rate", "seconds")
BATCHES = ("epoch", "batch", "loss")
KEEP = 2  # checkpoints; the older one is for the day that the newer one is damaged
# What may differ between the command that began a run and the one that goes on with it.
FREE = ("epochs",)


class RunFolder:
    """The files of one run.

    Args:
        path: of the folder; made if there is none.
        config: dict of plain values that decide the run.

    Raises:
        ValueError: if the folder holds a run with another config, naming what differs.
        OSError: if it can not be written.
    """

    def __init__(self, path, config: dict):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            for partial in [*self.path.glob(".*.partial*"), *self.checkpoints.glob(".*.partial")]:
                partial.unlink()
            known = self.path / "config.json"
            config = json.loads(json.dumps(config))
            if known.exists():
                self._same(json.loads(known.read_text()), config)
            if self.ended(config["recipe"]["epochs"]) is None:
                # More epochs are asked for than a run that has ended was: it goes on.
                (self.path / "result.json").unlink(missing_ok=True)
            write_atomically(known, json.dumps(config, indent=1) + "\n")
            write_atomically(self.path / "environment.json", json.dumps(environment(), indent=1) + "\n")
        except OSError as error:
            raise OSError(f"The run's folder can not be written: {error}") from error

    def _same(self, before: dict, now: dict):
        flat_before, flat_now = _flatten(before), _flatten(now)
        different = [
            f"{name}: {flat_before.get(name)!r} there, {flat_now.get(name)!r} now"
            for name in sorted({*flat_before, *flat_now})
            if flat_before.get(name) != flat_now.get(name) and name.split(".")[-1] not in FREE
        ]
        if different:
            raise ValueError(
                f"{self.path} holds a run with other settings ({'; '.join(different)}). "
                "Choose another folder, or delete this one"
            )

    def ended(self, epochs: int) -> dict | None:
        """What the run ended with, or None while it has not.

        Args:
            epochs: that are asked for now. A callback may have ended the run before its last epoch; what counts is how
                many had been asked for then.
        """
        path = self.path / "result.json"
        if not path.exists():
            return None
        result = json.loads(path.read_text())
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
        name = f"{position['epoch']:06d}-{position['batch']:08d}.npz"
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

    def cut(self, epoch: int, batch: int):
        """Forgets rows of the tables from this position on."""
        self._rewrite("curves.csv", CURVES, lambda row: int(row["epoch"]) < epoch)
        self._rewrite("batches.csv", BATCHES, lambda row: (int(row["epoch"]), int(row["batch"])) < (epoch, batch))

    def _rewrite(self, name, columns, keep):
        path, rows = self.path / name, []
        if path.exists():
            with open(path, newline="") as file:
                rows = [row for row in csv.DictReader(file) if _whole(row, columns) and keep(row)]
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, table.getvalue())

    def add_batch(self, epoch: int, batch: int, loss: float):
        with open(self.path / "batches.csv", "a") as file:
            file.write(f"{epoch},{batch},{loss!r}\n")

    def add_epoch(self, row: dict):
        with open(self.path / "curves.csv", "a") as file:
            file.write(",".join(repr(row[name]) for name in CURVES) + "\n")

    def curves(self) -> list[dict]:
        """The rows of curves.csv, numbers as numbers."""
        with open(self.path / "curves.csv", newline="") as file:
            return [{k: float(v) if k != "epoch" else int(v) for k, v in row.items()} for row in csv.DictReader(file)]

    def save_weights(self, model, name: str):
        """Writes {name}.weights.h5 whole or not at all."""
        partial = self.path / f".{name}.partial.weights.h5"
        model.save_weights(partial)
        os.replace(partial, self.path / f"{name}.weights.h5")

    def finish(self, result: dict, asked: int):
        """Writes the run's row in the experiment's table, and result.json.

        Args:
            result: plain values.
            asked: epochs that were asked for.
        """
        import pandas as pd

        path = self.path.parent / "results.csv"
        rows = pd.DataFrame([{"run": self.path.name} | result])
        if path.exists():
            before = pd.read_csv(path)
            rows = pd.concat([before[before["run"] != self.path.name], rows]).sort_values("seed", kind="stable")
        write_atomically(path, rows.to_csv(index=False, lineterminator="\n"))
        # Last, for it says that all is done.
        write_atomically(self.path / "result.json", json.dumps(result | {"asked": asked}, indent=1) + "\n")


class Spectator(RunFolder):
    """The run's folder for a worker that is not the chief: it reads what the chief wrote, and writes nothing.

    Args:
        path: of the folder.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.rows = []

    def curves(self):
        return self.rows or super().curves()  # the chief's, if this process came back after the last epoch

    def add_epoch(self, row):
        self.rows.append(row)

    def cut(self, *_):
        pass

    save = add_batch = save_weights = finish = cut


def load_run(folder, which="best"):
    """The trained model of a run that `fit` made by name.

    Args:
        folder: of the run, such as runs/split/run-0.
        which: "best" (by validation AUC) or "last".

    Raises:
        ValueError: if there is no run, or it trained a model that was not made by name.
    """
    from keras_stoch.models import create_model

    folder = Path(folder)
    if which not in ("best", "last"):
        raise ValueError(f"which must be 'best' or 'last'. Received: {which!r}")
    if not (folder / "config.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f"; it holds {', '.join(inside)}" if inside else ""
        raise ValueError(f"{folder} is no run: there is no config.json{hint}")
    config = json.loads((folder / "config.json").read_text())
    if not (folder / f"{which}.weights.h5").exists():
        raise ValueError(f"{folder} has no {which}.weights.h5 yet: not one epoch has ended")
    if config["model"]["kind"] != "name":
        raise ValueError(f"{folder} trained a model that was not made by name; build it and load {which}.weights.h5")
    model = create_model(config["model"]["name"], **config["model"]["arguments"])
    model.load_weights(folder / f"{which}.weights.h5")
    return model


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


def _flatten(value, prefix="") -> dict:
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {k: v for name, inner in value.items() for k, v in _flatten(inner, f"{prefix}{name}.").items()}


def _whole(row: dict, columns) -> bool:
    """Whether a row was written to its end: a kill can leave half of the last."""
    try:
        return all(row[name] not in (None, "") and float(row[name]) is not None for name in columns)
    except ValueError:
        return False
