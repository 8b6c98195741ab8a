"""The folder of a training run: what is in it. The files, all but checkpoints, are those of `keras_stoch`.

config.json          model, recipe, data and seed; a run that has ended is only read with the same
environment.json     versions, machine, command line and time of the last start, and of those before it
curves.csv           one row per epoch: losses, ROC AUC, learning rate, seconds
batches.csv          one row per batch: its loss
best.pt, last.pt     weights
result.json          when the run has ended
../results.csv       one row per run of the experiment
../.run-0.lock       held by the process that trains
"""

import contextlib
import datetime
import io
import json
import platform
import shlex
import sys
from pathlib import Path

import torch

from torch_ref.files import locked, replacing, write_atomically, write_table

CURVES = ("epoch", "train_loss", "val_loss", "train_auc", "val_auc", "learning_rate", "seconds")
BATCHES = ("epoch", "batch", "loss")
FREE = ("folder", "source")  # where data and official weights are may change
MEANINGS = {
    "data.pixels": ", the images have other pixels than those that the run began with",
    "data.manifest": ", the manifest names other files, targets or splits",
}


class RunFolder:
    """The files of one run, held by this process until `close`.

    Args:
        path: of the folder; made if there is none.
        config: dict of plain values that decide the run.

    Raises:
        ValueError: if another process trains there, or the folder holds a run with another config, naming what differs.
        OSError: if it can not be written.
    """

    def __init__(self, path: Path, config: dict):
        self.path, self.config = path, json.loads(json.dumps(config))
        self.curves, self.batches = [], []
        with contextlib.ExitStack() as stack:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OSError(f"The run's folder can not be written: {error.strerror} ({error.filename})") from error
            lock = path.resolve().with_name(f".{path.name}.lock")
            stack.enter_context(locked(lock, f"{path} is being trained by another process"))
            self.before = _read(path / "config.json")
            # A run that kept nothing binds nobody.
            if self.before is not None and (any(path.glob("*.pt")) or (path / "result.json").exists()):
                self._check_same()
            self._held = stack.pop_all()

    def close(self):
        """Lets another process have the folder."""
        self._held.close()

    def _check_same(self):
        before, now = _flatten(self.before), _flatten(self.config)
        different = [
            f"{key}: {before.get(key)!r} there, {now.get(key)!r} now{MEANINGS.get(key, '')}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key) and key.split(".")[-1] not in FREE
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
        """Tells what is run where, and where it was begun before."""
        for partial in self.path.glob(".*.partial-*"):
            partial.unlink()
        write_atomically(self.path / "config.json", json.dumps(self.config, indent=1) + "\n")
        earlier = _read(self.path / "environment.json") if self.before else None
        history = [*(earlier.pop("history", None) or []), earlier] if earlier else []
        start = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
            "working_directory": str(Path.cwd()),
        }
        record = start | environment() | {"history": history}
        write_atomically(self.path / "environment.json", json.dumps(record, indent=1) + "\n")

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
        content = io.BytesIO()  # torch says of a full disk that it is a failure of its own
        torch.save(model.state_dict(), content)
        with replacing(self.path / f"{name}.pt") as partial:
            partial.write_bytes(content.getbuffer())

    def finish(self, result: dict):
        """Writes result.json, and the rows of all runs in the experiment's table."""
        write_atomically(self.path / "result.json", json.dumps(result, indent=1) + "\n")
        folder, names = self.path.parent, ("run", *result)
        with locked(folder / ".results.lock", f"{folder / 'results.csv'} is held by another process", wait=60):
            found = folder.glob("run-*/result.json")
            lines = [json.loads(path.read_text()) | {"run": path.parent.name} for path in found]
            lines.sort(key=lambda line: line["seed"])
            write_table(folder / "results.csv", names, [[line[key] for key in names] for line in lines])


class Spectator(RunFolder):
    """The run's folder for a process that is not the chief: it reads, and writes nothing."""

    def __init__(self, path: Path, config: dict):
        self.path, self.config = path, config

    def begin(self, *_):
        pass

    add_batch = add_epoch = save_weights = finish = close = begin


def environment() -> dict:
    """Versions and machine."""
    return {"python": platform.python_version(), "torch": torch.__version__, "platform": platform.platform()}


def _read(path: Path) -> dict | None:
    """What a file of JSON says; None if there is none, or it is no such file."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _flatten(value, prefix="") -> dict:
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {k: v for name, inner in value.items() for k, v in _flatten(inner, f"{prefix}{name}.").items()}
