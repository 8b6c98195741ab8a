"""Training in lockstep: two packages take the same steps, each with its own engine, schedule and order of images.

Given to both are the initial weights, the images, and what would be drawn at random: windows and drop masks. All else
is each side's own: the order of an epoch, the rate of a step, the loss, the gradient, the optimiser, batch norm.
"""

import contextlib
import functools
from dataclasses import dataclass

import numpy as np

from parity import images
from parity.adapters.base import Adapter
from parity.adapters.keras import keras_precision
from parity.court import exhibits


@dataclass(frozen=True)
class Course:
    """Images and draws of a number of epochs.

    Attributes:
        inputs: array (images, height, width, 3) of pixels, or dict of "low_res" and "high_res".
        targets: (images,) of 0 and 1.
        draws: for every step, a dict of "windows" and "drop_masks".
        seed: of the order of images.
        batch_size: images per step.
        learning_rate, hold_epochs: as in `keras_stoch.Recipe`. A hundredth of the paper's rate: at 1e-3 a batch of four
            is thrown about so wildly that rounding errors grow by eight orders of magnitude in 20 steps.
    """

    inputs: np.ndarray | dict
    targets: np.ndarray
    draws: list[dict]
    seed: int = 0
    batch_size: int = 4
    learning_rate: float = 1e-5
    hold_epochs: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return len(self.targets) // self.batch_size

    @property
    def epochs(self) -> int:
        return len(self.draws) // self.steps_per_epoch

    def recipe(self) -> dict:
        """What both packages' `Recipe` take: the paper's values, but for the size."""
        return {"epochs": self.epochs, "batch_size": self.batch_size} | {
            name: getattr(self, name) for name in ("learning_rate", "hold_epochs")
        }

    def take(self, indices) -> tuple:
        """(inputs, targets) of some images."""
        indices = np.asarray(indices)
        if isinstance(self.inputs, dict):
            return {name: array[indices] for name, array in self.inputs.items()}, self.targets[indices]
        return self.inputs[indices], self.targets[indices]


def make_course(
    adapter: Adapter, paths, low_res, high_res=None, *, batch_size=4, epochs=4, batches=5, seed=0
) -> Course:
    """A course for models like `adapter`.

    Args:
        adapter: a `keras_stoch` model, which tells the shapes of the draws.
        paths: photographs, or None for structured pictures.
        low_res, high_res: sides in pixels.
        batch_size: images per step.
        epochs, batches: how many, and how many batches in each.
        seed: of everything.
    """
    side = high_res or low_res
    (pixels,) = images.make_batches(paths, batch_size * batches, (side, side), [seed])
    inputs = pixels if high_res is None else exhibits.with_detail(pixels, low_res)
    targets = np.random.default_rng(seed).permutation(np.arange(len(pixels)) % 2)
    course = Course(inputs, targets, [], seed, batch_size)
    first, _ = course.take(np.arange(batch_size))
    course.draws.extend(exhibits.make_draws(adapter, first, [seed, step]) for step in range(epochs * batches))
    return course


class KerasTrainer:
    """Trains with `keras_stoch.training.engine.Engine` in float64, in the order of `keras_stoch.data.pipeline`."""

    def __init__(self, adapter: Adapter, course: Course):
        import tensorflow as tf

        from keras_stoch.training.engine import Engine
        from keras_stoch.training.recipe import Recipe

        self.course = course
        self.recipe = Recipe(**course.recipe())
        with keras_precision("float64"):
            model = getattr(adapter, "trainee", adapter.model)
            self.engine = Engine(lambda: model, self.recipe, tf.distribute.get_strategy())

    def order(self, epoch: int):
        """Indices of every batch of an epoch."""
        from keras_stoch.data.pipeline import epoch_order

        order = epoch_order(len(self.course.targets), self.course.seed, epoch)
        return order[: self.course.steps_per_epoch * self.course.batch_size].reshape(-1, self.course.batch_size)

    def step(self, inputs, targets, epoch: int, draws: dict) -> float:
        """One step; the loss before it."""
        import tensorflow as tf

        def tensor(array):
            return tf.convert_to_tensor(array, tf.float64 if array.dtype.kind == "f" else None)

        batch = tf.nest.map_structure(tensor, (inputs, np.float64(targets), draws))
        with keras_precision("float64"):
            self.engine.set_rate(self.recipe.rate(epoch))
            loss, _, _ = self.engine.train_step(batch)
        return float(loss)


class TorchTrainer:
    """Trains with `torch_ref.training.train_step` in float64, in the order of `torch_ref.data`."""

    def __init__(self, adapter: Adapter, course: Course):
        from torch_ref.data import EpochBatches
        from torch_ref.training import Recipe, make_optimizer

        self.adapter, self.course = adapter, course
        self.recipe = Recipe(**course.recipe())
        self.optimizer = make_optimizer(adapter.model, self.recipe)
        self.batches = EpochBatches(
            len(course.targets), course.batch_size, shuffle=True, seed=course.seed, drop_remainder=True
        )

    def order(self, epoch: int):
        self.batches.set_epoch(epoch)
        return list(self.batches)

    def rate(self, epoch: int) -> float:
        return self.recipe.rate(epoch)

    def step(self, inputs, targets, epoch: int, draws: dict) -> float:
        import torch

        from torch_ref.training import train_step

        tensor = self.adapter.tensor
        inputs = inputs if isinstance(inputs, dict) else {"low_res": inputs}
        given = {name: _map(tensor, draw) for name, draw in draws.items()}
        loss, _ = train_step(
            self.adapter.model,
            self.optimizer,
            {name: tensor(array) for name, array in inputs.items()},
            torch.from_numpy(np.float64(targets)),
            self.rate(epoch),
            given,
        )
        return float(loss)


def _map(function, value):
    return {name: function(part) for name, part in value.items()} if isinstance(value, dict) else function(value)


def train(trainer, course: Course, through=lambda losses: False) -> np.ndarray:
    """Losses of every step of a course, float64 (steps,).

    Args:
        trainer: `KerasTrainer` or `TorchTrainer`.
        course: what to train on.
        through: of the losses so far; true where there is no need to go on.
    """
    losses = []
    for epoch in range(course.epochs):
        for indices in trainer.order(epoch):
            losses.append(trainer.step(*course.take(indices), epoch, dict(course.draws[len(losses)])))
            if through(losses):
                return np.array(losses)
    return np.array(losses)


@dataclass
class Track:
    """What a package's training left behind: losses by step and weights by name."""

    losses: np.ndarray
    weights: dict[str, np.ndarray]

    def cut(self, steps: int) -> "Track":
        """The first steps alone; of their weights nothing is known."""
        return Track(self.losses[:steps], {})


@contextlib.contextmanager
def _graphs_as_written():
    """Context without TensorFlow's rewriting of graphs (Grappler), which takes about as long as 20 steps."""
    import tensorflow as tf

    before = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})


def follow(
    adapter: Adapter, arrays: dict, course: Course, spoil=lambda trainer: None, through=lambda losses: False
) -> Track:
    """Trains a model through a course from given weights.

    Args:
        adapter: float64; its weights are left as trained.
        arrays: initial weights by canonical name.
        course: what to train on.
        spoil: breaks the trainer, for planted faults.
        through: see `train`.
    """
    adapter.assign(arrays)
    trainer = (KerasTrainer if adapter.framework == "keras" else TorchTrainer)(adapter, course)
    spoil(trainer)
    with _graphs_as_written():
        losses = train(trainer, course, through)
    return Track(losses, {name: np.array(weight.array) for name, weight in adapter.weights().items()})


@functools.lru_cache(maxsize=4)
def start(model: str, low_res: int, options: tuple, epochs: int, seed: int, folder: str | None):
    """(course, initial weights by name) for one model, equal for every package.

    Args:
        model: architecture.
        low_res: side in pixels.
        options: items of what else `create_model` takes.
        epochs: of the course.
        seed: of everything.
        folder: of photographs, or None.
    """
    ours = exhibits.shared("keras_stoch", model, low_res, "float64", **dict(options))
    paths = images.find_images(folder) if folder else None
    course = make_course(ours, paths, low_res, dict(options).get("high_res"), seed=seed, epochs=epochs)
    first, _ = course.take(range(course.batch_size))
    return course, exhibits.randomise(ours, first, seed, course.draws[0])


@functools.lru_cache(maxsize=4)
def track(package: str, model: str, low_res: int, options: tuple, epochs: int, seed: int, folder: str | None) -> Track:
    """The track of a package's own model and trainer, trained once a process; see `start`."""
    course, arrays = start(model, low_res, options, epochs, seed, folder)
    make = exhibits.build if package == "torch_ref" else exhibits.shared
    return follow(make(package, model, low_res, "float64", **dict(options)), arrays, course)
