"""Where the batches of a training run come from: a prepared folder, checked beforehand."""

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader

from torch_ref.architectures import get_architecture
from torch_ref.data import fold_of, make_loader, split_of
from torch_ref.files import sha256
from torch_ref.training.recipe import Recipe
from torch_ref.training.strategies import Strategy


@dataclass
class Source:
    """Where batches come from.

    Attributes:
        identity: plain values that tell one prepared folder from another, by what is in it.
        train, validation: loaders; `begin_epoch` tells them the epoch.
        told: what is trained on, in words.
    """

    identity: dict
    train: DataLoader
    validation: DataLoader
    told: str = ""

    def begin_epoch(self, epoch: int):
        """Draws the images, the order and the transforms of this epoch."""
        self.train.dataset.set_epoch(epoch)
        self.train.batch_sampler.set_epoch(epoch)
        self.validation.dataset.set_epoch(epoch)


def make_source(
    name: str, data, recipe: Recipe, seed: int, num_workers: int, strategy: Strategy, run: int = 0
) -> Source:
    """Checks all that can be known of the data beforehand, and makes a `Source` of them.

    Args:
        name: of the model, which has sizes of its own.
        data: folder written by `keras-stoch prepare` or `lesions`.
        recipe: `Recipe`.
        seed: of order and augmentation.
        num_workers: processes that read images.
        strategy: whose process sees its part of every batch.
        run: number of the run, which decides on its fold where the folder has folds.

    Raises:
        ValueError: for data that nothing can be trained with, naming what is wrong.
    """
    architecture = get_architecture(name)
    common = {
        "low_res": recipe.low_res or architecture.low_res,
        "high_res": None if architecture.join is None else recipe.high_res or architecture.high_res,
        "seed": seed,
        "num_workers": num_workers,
        "fold": fold_of(data, run),
    }
    train = make_loader(
        data, "train", recipe.batch_size, augment=recipe.augment, shuffle=True, balanced=recipe.balanced,
        drop_remainder=True, rank=strategy.rank, world=strategy.world, **common,
    )  # fmt: skip
    validation = make_loader(data, "validation", recipe.batch_size, augment=recipe.augment_validation, **common)
    for side, loader in (("train", train), ("validation", validation)):
        found = set(loader.dataset.targets.tolist())
        if found != {0.0, 1.0}:
            raise ValueError(f"Split {side!r} must have images of both targets, 0 and 1. Received: {sorted(found)}")
    if len(train.batch_sampler) == 0:
        raise ValueError(f"{len(train.dataset)} training images fill no batch of {recipe.batch_size}")
    identity = _identity(Path(data), common["fold"])
    counts = [
        f"{len(targets)} ({int(targets.sum())} malignant)"
        for targets in (train.dataset.targets, validation.dataset.targets)
    ]
    if common["fold"] is not None:
        identity["fold"] = common["fold"]
    told = f"{identity['kind']} images of {identity['folder']}: {counts[0]} for training, {counts[1]} for validation"
    return Source(identity, train, validation, told)


def _identity(folder: Path, fold: int | None) -> dict:
    """The folder, how it was prepared, and digests of its manifest and of its pixels: the SHA-256 of every file as the
    manifest has it, or else as it is, and its size now."""
    with open(folder / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        record = json.loads((folder / "prepare.json").read_text())
    except (OSError, ValueError):
        record = {}
    kind = "generated" if "synthetic" in record else "prepared"

    def pixels(row):
        path = folder / row["file"]
        return f"{row.get('hash')} {row.get('sha256') or sha256(path)} {path.stat().st_size}"

    return {
        "kind": kind,
        "folder": str(folder.resolve()),
        "images": len(rows),
        "preparation": record.get("synthetic", record.get("settings")),
        "manifest": _digest(f"{row['file']},{row['target']},{split_of(row, fold)}" for row in rows),
        "pixels": _digest(map(pixels, rows)),
    }


def _digest(lines) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
