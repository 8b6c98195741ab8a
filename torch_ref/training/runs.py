"""The folder of a training run: what is in it. The files, all but checkpoints, are those of `keras_stoch`.

config.json          model, recipe, data and seed; a run that has ended is only read with the same
environment.json     versions, machine
curves.csv           one row per epoch: losses, ROC AUC, learning rate, seconds
batches.csv          one row per batch: its loss
best.pt, last.pt     weights
result.json          when the run has ended
../results.csv       one row per run of the experiment
"""

import json
import platform
from pathlib import Path

import torch

from torch_ref.files import replacing, write_atomically, write_table

CURVES = ("epoch", "train_loss", "val_loss", "train_auc", "val_auc", "learning_rate", "seconds")
BATCHES = ("epoch", "batch", "loss")


class RunFolder:
    """The files of one run.

    Args:
        path: of the folder; made by `begin`.
        config: dict of plain values that decide the run.

    Raises:
        ValueError: if the folder holds a run with another config, naming what differs.
    """

    def __init__(self, path: Path, config: dict):
        self.path, self.config = path, config
        self.curves, self.batches = [], []
        if (path / "config.json").exists():
            self._same(json.loads((path / "config.json").read_text()), config)

    def _same(self, before: dict, now: dict):
        different = [
            f"{key}: {before.get(key)!r} there, {value!r} now" for key, value in now.items() if before.get(key) != value
        ]
        if different:
            told = "; ".join(different)
            raise ValueError(
                f"{self.path} holds a run with other settings ({told}). Choose another folder, or delete it"
            )

    def ended(self) -> dict | None:
        """What the run ended with, or None while it has not."""
        path = self.path / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def begin(self):
        """Makes the folder, and tells what is run where."""
        self.path.mkdir(parents=True, exist_ok=True)
        for partial in self.path.glob(".*.partial-*"):
            partial.unlink()
        write_atomically(self.path / "config.json", json.dumps(self.config, indent=1) + "\n")
        write_atomically(self.path / "environment.json", json.dumps(environment(), indent=1) + "\n")

    def add_batch(self, epoch: int, batch: int, loss: float):
        """A row of batches.csv, which is written with the next epoch's row."""
        self.batches.append((epoch, batch, loss))

    def add_epoch(self, row: dict):
        """A row of curves.csv."""
        self.curves.append([row[name] for name in CURVES])
        write_table(self.path / "curves.csv", CURVES, self.curves)
        write_table(self.path / "batches.csv", BATCHES, self.batches)

    def save_weights(self, model: torch.nn.Module, name: str):
        """Writes {name}.pt whole or not at all."""
        with replacing(self.path / f"{name}.pt") as partial:
            torch.save(model.state_dict(), partial)

    def finish(self, result: dict):
        """Writes result.json, and the rows of all runs in the experiment's table."""
        write_atomically(self.path / "result.json", json.dumps(result, indent=1) + "\n")
        found = self.path.parent.glob("run-*/result.json")
        lines = [json.loads(path.read_text()) | {"run": path.parent.name} for path in found]
        lines.sort(key=lambda line: line["seed"])
        names = ("run", *result)
        write_table(self.path.parent / "results.csv", names, [[line[key] for key in names] for line in lines])


class Spectator(RunFolder):
    """The run's folder for a process that is not the chief: it reads, and writes nothing."""

    def begin(self, *_):
        pass

    add_batch = add_epoch = save_weights = finish = begin


def environment() -> dict:
    """Versions and machine."""
    return {"python": platform.python_version(), "torch": torch.__version__, "platform": platform.platform()}
