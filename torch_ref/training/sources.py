"""Where the batches of a training run come from: a prepared folder, checked beforehand."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader

from torch_ref.architectures import get_architecture
from torch_ref.data import make_loader
from torch_ref.training.recipe import Recipe
from torch_ref.training.strategies import Strategy


@dataclass
class Source:
    """Where batches come from.

    Attributes:
        identity: a digest that tells one manifest from another.
        train, validation: loaders; `begin_epoch` tells them the epoch.
    """

    identity: str
    train: DataLoader
    validation: DataLoader

    def begin_epoch(self, epoch: int):
        """Draws the order and the transforms of this epoch."""
        self.train.dataset.set_epoch(epoch)
        self.train.batch_sampler.set_epoch(epoch)
        self.validation.dataset.set_epoch(epoch)


def make_source(name: str, data, recipe: Recipe, seed: int, num_workers: int, strategy: Strategy) -> Source:
    """Checks all that can be known of the data beforehand, and makes a `Source` of them.

    Args:
        name: of the model, which has sizes of its own.
        data: folder written by `keras-stoch prepare` or `lesions`.
        recipe: `Recipe`.
        seed: of order and augmentation.
        num_workers: processes that read images.
        strategy: whose process sees its part of every batch.

    Raises:
        ValueError: for data that nothing can be trained with, naming what is wrong.
    """
    architecture = get_architecture(name)
    common = {
        "low_res": recipe.low_res or architecture.low_res,
        "high_res": None if architecture.join is None else recipe.high_res or architecture.high_res,
        "seed": seed,
        "num_workers": num_workers,
    }
    train = make_loader(
        data, "train", recipe.batch_size, augment=recipe.augment, shuffle=True, drop_remainder=True,
        rank=strategy.rank, world=strategy.world, **common,
    )  # fmt: skip
    validation = make_loader(data, "validation", recipe.batch_size, augment=recipe.augment_validation, **common)
    for side, loader in (("train", train), ("validation", validation)):
        found = set(loader.dataset.targets.tolist())
        if found != {0.0, 1.0}:
            raise ValueError(f"Split {side!r} must have images of both targets, 0 and 1. Received: {sorted(found)}")
    if len(train.batch_sampler) == 0:
        raise ValueError(f"{len(train.dataset)} training images fill no batch of {recipe.batch_size}")
    digest = hashlib.sha256((Path(data) / "manifest.csv").read_bytes()).hexdigest()[:16]
    return Source(digest, train, validation)
