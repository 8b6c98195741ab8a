"""Independent training runs of each package on one task: do they learn alike? The last rung of the ladder.

Nothing is shared but the images: each run of each package draws its own weights, order, dropout and drop-connect. So
no two curves are equal, and only statistics of many can be. The task is a lesion's colour, blurred from image to image
so that nobody can tell the classes apart for sure: an ideal observer's AUC is 0.9, in a few dozen steps a small
EfficientNet comes near it, and neither loss nor AUC ends at a wall where all packages meet, right or wrong.
"""

from dataclasses import dataclass

import numpy as np

from parity import images
from parity.court import exhibits
from parity.statistics import compare_numbers

# What is compared, and the difference that counts as none. Losses are compared by their logarithm, as that of the first
# steps hangs on the draw of the last layer and differs from run to run by a factor. Beside each stands the standard
# deviation of a run, official and torch_ref (`benchmarks/study.py`): with these, one correct port in 20 at most is left
# undecided.
MARGINS = {
    "early_loss": float(np.log(1.25)),  # of the mean over the first `EARLY` steps; 0.25 and 0.26
    "batch_loss": float(np.log(1.5)),  # of the geometric mean over the steps after those; 0.14 and 0.15
    "best_auc": 0.015,  # on the validation images; 0.0053 and 0.0051
    "final_auc": 0.015,  # median of the last two thirds of the looks; 0.004 and 0.0081
}
LOOK = 40  # validation images at once; with 200 that fit no cache, a CPU takes up to twice as long for each
EARLY = 6  # steps; most of the early loss is gone after these
SEPARATION = 1.8124  # of the classes, in standard deviations of the colour: an ideal AUC of Phi(d / sqrt 2) = 0.9
BLUER = np.array([-1.0, -0.3, 1.0])  # red, green, blue
CONTRAST = 0.3  # of what else is in the images, which would only be one more noise that differs from run to run
PACKAGES = ("official", "keras_stoch", "torch_ref")
CONTROL = "torch_ref with torch's initialisers"
MISLABELLED = "torch_ref with wrong targets"  # of a third of the images, as a table joined by a wrong key has them
SWAPPED = "torch_ref validated in BGR"  # as OpenCV reads images, where training read them as RGB
SEEDS = {"official": 0, "keras_stoch": 1000, "torch_ref": 2000, CONTROL: 3000, MISLABELLED: 4000, SWAPPED: 5000}
ALPHA = 0.05


@dataclass(frozen=True)
class Plan:
    """How much is trained.

    Attributes:
        model: architecture.
        size: side of the images in pixels.
        runs: trained to the end, per package.
        early_runs: further runs of `EARLY` steps, for what happens at the start.
        epochs, hold_epochs, decay: as in `keras_stoch.Recipe`, all else being the paper's.
        batch_size: images per step.
        looks: after how many steps the validation images are looked at.
        images, validation: number of images, of an epoch and to validate on.
        sets: of images for training, one an epoch in turn. No colour explains all targets, and images that come again
            would be learnt by heart.
        shift: of the colour between the means of the classes, in grey levels.
        momentum: of the moving averages of batch norm in every package; None leaves them their own.
        seed: of images, and added to those of the runs.
    """

    model: str = "b0"
    size: int = 36
    runs: int = 8
    early_runs: int = 36
    epochs: int = 4
    hold_epochs: int = 2
    decay: float = 0.3
    batch_size: int = 16
    looks: tuple[int, ...] = (16, 28, 36, 40, 44, 48)
    images: int = 192
    sets: int = 4
    validation: int = 240
    shift: float = 80.0
    momentum: float | None = 0.9
    seed: int = 0

    def recipe(self) -> dict:
        """What both packages' `Recipe` take."""
        names = ("epochs", "batch_size", "hold_epochs", "decay")
        return {name: getattr(self, name) for name in names}


# For a GPU: the paper's batch, and its schedule shortened to a third.
FULL = Plan(
    size=224,
    runs=10,
    early_runs=20,
    epochs=20,
    hold_epochs=5,
    decay=0.9,
    batch_size=100,
    looks=(0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 400, 500, 600, 700, 800),
    images=4000,
    sets=2,  # 5 GB
    validation=1000,
    momentum=None,
)


def make_task(plan: Plan):
    """((images, targets) for training, set by set, and the same for validation): float32 pixels 0-255 and 0 or 1."""
    counts = plan.images * plan.sets, plan.validation
    return tuple(_pictures(count, plan, [plan.seed, part]) for part, count in enumerate(counts))


def epoch_batches(trainer, plan: Plan, seed: int, epoch: int) -> np.ndarray:
    """Indices (steps, batch) of the images of one epoch, in the trainer's order."""
    return trainer.order(seed, epoch, plan.images) + epoch % plan.sets * plan.images


def _pictures(count, plan, seed):
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(count) % 2)
    pixels = images.structured_images(count, (plan.size, plan.size), seed)
    own = pixels.mean((1, 2), keepdims=True)  # would be a noise of its own, of an unknown spread
    amount = (targets - 0.5) * plan.shift + rng.normal(size=count) * plan.shift / SEPARATION
    coloured = CONTRAST * (pixels - own) + own.mean(0) + amount[:, None, None, None] * BLUER
    return np.float32(np.clip(np.rint(coloured), 0, 255)), targets


@dataclass(frozen=True)
class Sample:
    """What the runs of one package came to.

    Attributes:
        name: of the package.
        curves: validation AUC, (runs, looks).
        losses: of every step, (runs, steps).
        early: of the first `EARLY` steps, (runs + early_runs, EARLY).
    """

    name: str
    curves: np.ndarray
    losses: np.ndarray
    early: np.ndarray
    seconds: float = 0.0

    def summaries(self) -> dict[str, np.ndarray]:
        """One number per run for every statistic of `MARGINS`."""
        last = max(1, self.curves.shape[1] * 2 // 3)
        return {
            "early_loss": np.log(self.early.mean(1)),
            "batch_loss": np.log(self.losses[:, EARLY:]).mean(1),  # one spike does not make the mean
            "best_auc": self.curves.max(1),
            "final_auc": np.median(self.curves[:, -last:], 1),  # a single step now and then throws a run back
        }


def compare_samples(reference: Sample, candidate: Sample, seed: int = 0) -> list:
    """A `statistics.Difference` per statistic of `MARGINS`: equivalent, different or undecided."""
    first, second = reference.summaries(), candidate.summaries()
    return [
        compare_numbers(name, first[name], second[name], margin, alpha=ALPHA, seed=seed)
        for name, margin in MARGINS.items()
    ]


def train_package(package: str, plan: Plan) -> Sample:
    """All runs of one package, or of a fault (`CONTROL`, `MISLABELLED`, `SWAPPED`)."""
    import time

    start = time.perf_counter()
    task = make_task(plan)
    if package == MISLABELLED:
        (pixels, targets), held = task
        wrong = np.random.default_rng(plan.seed).random(len(targets)) < 1 / 3
        task = (pixels, np.where(wrong, 1 - targets, targets)), held
    if package == SWAPPED:
        seen, (pixels, targets) = task
        task = seen, (np.ascontiguousarray(pixels[..., ::-1]), targets)
    trainer = make_trainer(package, plan)
    curves, losses, early = [], [], []
    for run in range(plan.runs + plan.early_runs):
        whole = run < plan.runs
        steps, aucs = _train_run(trainer, task, plan, SEEDS[package] + plan.seed + run, None if whole else EARLY)
        early.append(steps[:EARLY])
        if whole:
            curves.append(aucs)
            losses.append(steps)
    return Sample(package, *map(np.array, (curves, losses, early)), time.perf_counter() - start)


def make_trainer(package: str, plan: Plan):
    """What trains runs of a package, one after the other: `begin(seed)`, `order`, `step` and `scores`."""
    return (_TorchRuns if package.startswith("torch_ref") else _KerasRuns)(package, plan)


def _train_run(trainer, task, plan, seed, limit):
    """(losses of all steps, validation AUC at every look) of one run, stopped after `limit` steps."""
    from sklearn.metrics import roc_auc_score

    (pixels, targets), (held, held_targets) = task
    trainer.begin(seed)
    losses, aucs = [], []

    def look():
        if limit is None and len(losses) in plan.looks:
            aucs.append(float(roc_auc_score(held_targets, trainer.scores(held))))

    look()
    for epoch in range(plan.epochs):
        for indices in epoch_batches(trainer, plan, seed, epoch):
            losses.append(trainer.step(pixels[indices], np.float32(targets[indices]), epoch)[0])
            if len(losses) == limit:
                return losses, aucs
            look()
    return losses, aucs


class _KerasRuns:
    """Runs of a Keras model through one compiled `keras_stoch.training.engine.Engine`."""

    def __init__(self, package, plan):
        import tensorflow as tf

        from keras_stoch.training.engine import Engine
        from keras_stoch.training.recipe import Recipe

        self.package, self.plan, self.recipe = package, plan, Recipe(**plan.recipe())
        self.engine = Engine(lambda: self._build(0), self.recipe, tf.distribute.get_strategy())
        self.fresh = self.engine.state()

    def _build(self, seed):
        import keras

        keras.utils.set_random_seed(seed)
        model = exhibits.build(self.package, self.plan.model, self.plan.size, "float32").model
        for layer in model.layers if self.plan.momentum is not None else ():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = self.plan.momentum
        return model

    def begin(self, seed):
        """New weights in the compiled model, by its own layers' initialisers, for building a model takes seconds; new
        states of dropout's generators; all of the optimiser's state back to its beginning."""
        self.engine.restore(self.fresh)
        rng = np.random.default_rng(seed)
        for layer in self.engine.model.layers:
            for variable in layer.variables:
                if variable.name == "seed_generator_state":
                    value = np.array([rng.integers(2**31), 0])
                else:
                    value = _initial(layer, variable, int(rng.integers(2**31)))
                if value is not None:
                    variable.assign(value)

    def order(self, seed, epoch, count):
        from keras_stoch.data.sampling import epoch_order

        return epoch_order(count, seed, epoch).reshape(-1, self.plan.batch_size)

    def step(self, pixels, targets, epoch):
        import tensorflow as tf

        self.engine.set_rate(self.recipe.rate(epoch))
        loss, logits, _ = self.engine.train_step((tf.constant(pixels), tf.constant(targets)))
        return float(loss), logits.numpy().reshape(-1)

    def scores(self, pixels):
        import tensorflow as tf

        def of(part):
            return self.engine.validation_step((tf.constant(part), tf.zeros(len(part))))[0].numpy()[:, 0]

        return _in_parts(of, pixels)


def _in_parts(scores, pixels):
    """Scores of all images, `LOOK` of them at a time, for those of the full plan do not fit into one batch."""
    return np.concatenate([scores(part) for part in np.array_split(pixels, -(-len(pixels) // LOOK))])


def _initial(layer, variable, seed):
    """A draw of a variable by its layer's initialiser; None for the constants of the input's normalisation."""
    import keras

    name = variable.name
    if isinstance(layer, keras.layers.Normalization):
        return None
    if isinstance(layer, keras.layers.DepthwiseConv2D) and name == "kernel":
        name = "depthwise"
    initializer = getattr(layer, f"{name}_initializer")
    config = initializer.get_config()
    if "seed" in config:  # as it is, it would draw the same each time
        initializer = type(initializer).from_config(config | {"seed": seed})
    return initializer(tuple(variable.shape), dtype=variable.dtype)


class _TorchRuns:
    """Runs of a torch model through `torch_ref.training.train_step`."""

    def __init__(self, package, plan):
        import torch

        from torch_ref.training import Recipe

        self.plain, self.plan, self.recipe = package == CONTROL, plan, Recipe(**plan.recipe())
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def begin(self, seed):
        import torch

        from torch_ref.models import create_model
        from torch_ref.training import make_optimizer

        torch.manual_seed(seed)
        self.model = create_model(self.plan.model, self.plan.size)
        if self.plain:
            for module in self.model.modules():
                for kind in (torch.nn.Conv2d, torch.nn.Linear):
                    if isinstance(module, kind):
                        kind.reset_parameters(module)
        for module in self.model.modules() if self.plan.momentum is not None else ():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1 - self.plan.momentum
        self.model.to(self.device)
        self.optimizer = make_optimizer(self.model, self.recipe)

    def order(self, seed, epoch, count):
        from torch_ref.data import EpochBatches

        batches = EpochBatches(count, self.plan.batch_size, shuffle=True, seed=seed, drop_remainder=True)
        batches.set_epoch(epoch)
        return np.array(list(batches))

    def step(self, pixels, targets, epoch):
        import torch

        from torch_ref.training import train_step

        inputs = {"low_res": torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)}
        targets = torch.from_numpy(targets).to(self.device)
        loss, logits = train_step(self.model, self.optimizer, inputs, targets, self.recipe.rate(epoch))
        return float(loss), logits.cpu().numpy().reshape(-1)

    def scores(self, pixels):
        import torch

        def of(part):
            images = torch.from_numpy(part).to(self.device).permute(0, 3, 1, 2)
            return self.model(low_res=images).cpu().numpy()[:, 0]

        self.model.eval()
        with torch.no_grad():
            return _in_parts(of, pixels)
