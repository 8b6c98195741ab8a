"""Training in lockstep: two packages take the same steps, each with its own engine, schedule and order of images.

Given to both are the initial weights, the images, and what would be drawn at random: windows and drop masks. All else
is each side's own: the order of an epoch, the rate of a step, the loss, the gradient, the optimiser, batch norm.
"""

import contextlib
import dataclasses
import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from parity import images
from parity.adapters.base import Adapter
from parity.adapters.keras import keras_precision
from parity.court import exhibits

# A hundredth of the paper's rate: at 1e-3 a batch of four is thrown about so wildly that rounding errors grow by eight
# orders of magnitude in 20 steps.
PAPER = {"learning_rate": 1e-5, "hold_epochs": 1}
# All that fine-tuning has, so large that each part shows: two stages of five steps, the first two of each for warm-up.
FINE_TUNE = {
    "learning_rate": 1e-5, "warmup_epochs": 0.4, "weight_decay": 1.0, "pos_weight": 2.0, "average": 0.3,
    "freeze": "block2", "freeze_epochs": 1, "thaw_factor": 0.5,
}  # fmt: skip
CHANGES = {"paper": PAPER, "fine-tune": FINE_TUNE}


class Length(NamedTuple):
    """How long a course is, and who takes its steps as a graph, to trace which costs as much as a dozen without."""

    epochs: int
    batches: int
    compiled: tuple[str, ...] = ("official", "keras_stoch")


# The two trainers are the same functions for every model. With B0 they take as many steps as rounding needs to grow, as
# graphs, which is how people train. With the others they take as many as every planted fault of a trainer needs to
# show: a second epoch, and in each a step behind the first.
LENGTHS = {"b0": Length(4, 5)}
FEW_STEPS = Length(2, 2, compiled=())
# An epoch with the first blocks frozen and one without, of which each has a graph.
FINE_TUNING = Length(2, 5, compiled=("keras_stoch",))


@dataclass(frozen=True)
class Course:
    """Images and draws of a number of epochs.

    Attributes:
        inputs: array (images, height, width, 3) of pixels, or dict of "low_res" and "high_res".
        targets: (images,) of 0 and 1.
        draws: for every step, a dict of "windows" and "drop_masks".
        seed: of the order of images.
        batch_size: images per step.
        recipe: name of the recipe, the same in both packages.
        changes: of its fields; see `PAPER`.
        model: the architecture, which tells where blocks are.
        compiled: whether `KerasTrainer` takes its steps as a graph.
    """

    inputs: np.ndarray | dict
    targets: np.ndarray
    draws: list[dict]
    seed: int = 0
    batch_size: int = 4
    recipe: str = "paper"
    changes: dict = field(default_factory=lambda: dict(PAPER))
    model: str = "b0"
    compiled: bool = True

    @property
    def steps_per_epoch(self) -> int:
        return len(self.targets) // self.batch_size

    @property
    def epochs(self) -> int:
        return len(self.draws) // self.steps_per_epoch

    @property
    def fields(self) -> dict:
        """What both packages' recipe is changed by."""
        return {"epochs": self.epochs, "batch_size": self.batch_size} | self.changes

    def take(self, indices) -> tuple:
        """(inputs, targets) of some images."""
        indices = np.asarray(indices)
        if isinstance(self.inputs, dict):
            return {name: array[indices] for name, array in self.inputs.items()}, self.targets[indices]
        return self.inputs[indices], self.targets[indices]


def make_course(
    adapter: Adapter, paths, low_res, high_res=None, *, batch_size=4, length=None, seed=0, recipe="paper", model
) -> Course:
    """A course for models like `adapter`.

    Args:
        adapter: a `keras_stoch` model, which tells the shapes of the draws.
        paths: photographs, or None for structured pictures.
        low_res, high_res: sides in pixels.
        batch_size: images per step.
        length: epochs, and batches in each; those of B0 by default.
        seed: of everything.
        recipe: name of the recipe; a balanced one is given a fifth of malignant images.
        model: the architecture.
    """
    side, length = high_res or low_res, length or LENGTHS["b0"]
    (pixels,) = images.make_batches(paths, batch_size * length.batches, (side, side), [seed])
    inputs = pixels if high_res is None else exhibits.with_detail(pixels, low_res)
    share = 2 if recipe == "paper" else 5
    targets = np.random.default_rng(seed).permutation(np.arange(len(pixels)) % share == 1).astype(np.int64)
    course = Course(inputs, targets, [], seed, batch_size, recipe, dict(CHANGES[recipe]), model)
    first, _ = course.take(np.arange(batch_size))
    steps = range(length.epochs * length.batches)
    course.draws.extend(exhibits.make_draws(adapter, first, [seed, step]) for step in steps)
    return course


class KerasTrainer:
    """Trains with `keras_stoch.training.engine.Engine` in float64, in the order of `keras_stoch.data.sampling`."""

    def __init__(self, adapter: Adapter, course: Course):
        import tensorflow as tf

        from keras_stoch.training.engine import Engine
        from keras_stoch.training.recipe import make_recipe

        self.course, self.taken = course, 0
        self.recipe = make_recipe(course.fields, course.recipe)
        with keras_precision("float64"):
            model = getattr(adapter, "trainee", adapter.model)
            strategy = tf.distribute.get_strategy()
            self.engine = Engine(lambda: model, self.recipe, strategy, steps=course.steps_per_epoch)

    def order(self, epoch: int):
        """Indices of every batch of an epoch."""
        from keras_stoch.data.sampling import balanced_draw, epoch_order

        targets, seed = self.course.targets, self.course.seed
        order = epoch_order(len(targets), seed, epoch)
        if self.recipe.balanced:
            order = balanced_draw(targets, seed, epoch)[order]
        return order[: self.course.steps_per_epoch * self.course.batch_size].reshape(-1, self.course.batch_size)

    def step(self, inputs, targets, epoch: int, draws: dict) -> float:
        """One step; the loss before it."""
        import tensorflow as tf

        def tensor(array):
            return tf.convert_to_tensor(array, tf.float64 if array.dtype.kind == "f" else None)

        batch = tf.nest.map_structure(tensor, (inputs, np.float64(targets), draws))
        place, self.taken = self.taken % self.course.steps_per_epoch, self.taken + 1
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(not self.course.compiled)
        try:
            with keras_precision("float64"):
                if place == 0:
                    self.engine.begin_epoch(epoch)
                else:
                    self.engine.begin_step(epoch, place)
                loss, _, _ = self.engine.train_step(batch)
        finally:
            tf.config.run_functions_eagerly(before)
        return float(loss)

    def averaged(self):
        """Context in which the model has its averaged weights."""
        return self.engine.averaged()

    def close(self):
        """Leaves the model, which is shared, as it was made."""
        self.engine.resume_epoch(self.course.epochs)


class TorchTrainer:
    """Trains with `torch_ref.training.stages.Trainer` in float64, in the order of `torch_ref.data`.

    Attributes:
        inner: the trainer of `torch_ref`.
    """

    def __init__(self, adapter: Adapter, course: Course):
        import torch

        from torch_ref.architectures import get_architecture
        from torch_ref.data import EpochBatches
        from torch_ref.training.own import Own
        from torch_ref.training.recipe import make_recipe
        from torch_ref.training.stages import Trainer
        from torch_ref.training.strategies import Strategy

        self.adapter, self.course, self.taken = adapter, course, 0
        self.recipe = make_recipe(course.fields, course.recipe)
        alone, architecture = Strategy(1, 0, torch.device("cpu")), get_architecture(course.model)
        self.inner = Trainer(adapter.model, self.recipe, Own(), architecture, alone, course.steps_per_epoch)
        self.inner.begin_epoch(0)
        self.batches = EpochBatches(
            len(course.targets), course.batch_size, shuffle=True, seed=course.seed, drop_remainder=True
        )

    @property
    def optimizer(self):
        return self.inner.optimizer

    def drawn(self, epoch: int):
        """Images of an epoch, before they are put in order."""
        from torch_ref.data import balanced_draw

        targets = self.course.targets
        return balanced_draw(targets, self.course.seed, epoch) if self.recipe.balanced else np.arange(len(targets))

    def order(self, epoch: int):
        self.batches.set_epoch(epoch)
        drawn = self.drawn(epoch)
        return [drawn[batch].tolist() for batch in self.batches]

    def step(self, inputs, targets, epoch: int, draws: dict) -> float:
        import torch

        tensor = self.adapter.tensor
        inputs = inputs if isinstance(inputs, dict) else {"low_res": inputs}
        given = {name: _map(tensor, draw) for name, draw in draws.items()}
        place, self.taken = self.taken % self.course.steps_per_epoch, self.taken + 1
        if place == 0:
            self.inner.begin_epoch(epoch)
        inputs = {name: tensor(array) for name, array in inputs.items()}
        loss, _ = self.inner.step(inputs, torch.from_numpy(np.float64(targets)), epoch, place, draws=given)
        return float(loss)

    def averaged(self):
        return self.inner.averaged()

    def close(self):
        pass


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
    """What a package's training left behind: losses by step, and weights by name, averaged ones too."""

    losses: np.ndarray
    weights: dict[str, np.ndarray]

    def cut(self, steps: int) -> "Track":
        """The first steps alone; of weights before the last nothing is known."""
        return Track(self.losses[:steps], self.weights if steps == len(self.losses) else {})


@contextlib.contextmanager
def graphs_as_written():
    """Context without TensorFlow's rewriting of graphs (Grappler), which takes about as long as 20 steps."""
    import tensorflow as tf

    before = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})


def follow(
    adapter: Adapter,
    arrays: dict,
    course: Course,
    spoil=lambda trainer: None,
    through=lambda losses: False,
    file: Path | None = None,
    complete: bool = True,
) -> Track:
    """Trains a model through a course from given weights.

    Args:
        adapter: float64; its weights are left as trained.
        arrays: initial weights by canonical name.
        course: what to train on.
        spoil: breaks the trainer, for planted faults.
        through: see `train`.
        file: of official weights, that the package's own reader takes them from instead.
        complete: whether the file has all weights; what it has not is then what is given.
    """
    replaced = file is not None and complete
    adapter.assign({name: np.zeros_like(array) for name, array in arrays.items()} if replaced else arrays)
    if file is not None:
        _load(adapter, file)
    trainer = (KerasTrainer if adapter.framework == "keras" else TorchTrainer)(adapter, course)
    spoil(trainer)
    with graphs_as_written():
        losses = train(trainer, course, through)
    weights = {name: np.array(weight.array) for name, weight in adapter.weights().items()}
    if trainer.recipe.average:
        with trainer.averaged():
            weights |= {f"{name}, averaged": np.array(weight.array) for name, weight in adapter.weights().items()}
    trainer.close()
    return Track(losses, weights)


def _load(adapter: Adapter, file: Path):
    """Official weights by the package's own reader."""
    if adapter.framework == "torch":
        from torch_ref.checkpoints import load_official_weights, read_official_weights
    else:
        from keras_stoch.checkpoints import load_official_weights, read_official_weights
    with keras_precision("float64"):
        load_official_weights(adapter.model, read_official_weights(file))


def _write_official(model: str, low_res: int, arrays: dict, seed: int, folder: str | None, file: Path) -> bool:
    """What `keras.applications` saves of a model with these weights, or of the official one that it is a variant of.

    Returns:
        Whether all of the model's weights are in it.
    """
    package, name = "official", model if exhibits.has("official", model) else exhibits.official_of(model)
    if name is None:  # what it would save if it had the model
        package, name = "keras_stoch", model
    elif name != model:
        _, arrays = start(name, low_res, (), FEW_STEPS, seed + 1, folder)
    adapter = exhibits.shared(package, name, low_res, "float64")
    adapter.assign(arrays)
    adapter.model.save_weights(file)
    return name == model


@functools.lru_cache(maxsize=4)
def start(
    model: str, low_res: int, options: tuple, length: Length, seed: int, folder: str | None, recipe: str = "paper"
):
    """(course, initial weights by name) for one model, equal for every package.

    Args:
        model: architecture.
        low_res: side in pixels.
        options: items of what else `create_model` takes.
        length: of the course.
        seed: of everything.
        folder: of photographs, or None.
        recipe: name of the recipe.
    """
    ours = exhibits.shared("keras_stoch", model, low_res, "float64", **dict(options))
    paths = images.find_images(folder) if folder else None
    sizes = (low_res, dict(options).get("high_res"))
    course = make_course(ours, paths, *sizes, seed=seed, length=length, recipe=recipe, model=model)
    first, _ = course.take(range(course.batch_size))
    theirs = exhibits.build("torch_ref", model, low_res, "float64", **dict(options))
    return course, exhibits.randomise(theirs, first, seed, course.draws[0])


@functools.lru_cache(maxsize=8)
def track(
    package: str,
    model: str,
    low_res: int,
    options: tuple,
    length: Length,
    seed: int,
    folder: str | None,
    recipe: str = "paper",
) -> Track:
    """The track of a package's own model and trainer, trained once a process; see `start`.

    Fine-tuning starts from a file of official weights, which every package reads for itself.
    """
    course, arrays = start(model, low_res, options, length, seed, folder, recipe)
    course = dataclasses.replace(course, compiled=package in length.compiled)
    make = exhibits.build if package == "torch_ref" else exhibits.shared
    adapter = make(package, model, low_res, "float64", **dict(options))
    if recipe == "paper" or package == "official":
        return follow(adapter, arrays, course)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "official.weights.h5"
        complete = _write_official(model, low_res, arrays, seed, folder, file)
        return follow(adapter, arrays, course, file=file, complete=complete)
