"""How to train: the options of `fit`, with the paper's values, and recipes by name. Section 5.1.1."""

import difflib
import math
from dataclasses import dataclass, fields, replace


class TrainingDiverged(ArithmeticError):
    """The loss is no number any more."""


PRECISIONS = (None, "mixed_bfloat16", "mixed_float16")
OPTIMIZERS = ("rmsprop", "adamw")
SCHEDULES = ("exponential", "cosine")


def is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's (section 5.1.1).

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step, over all replicas and workers.
        optimizer: "rmsprop" or "adamw".
        learning_rate: of the first epochs after warm-up.
        schedule: "exponential" holds the rate and then lowers it by epochs; "cosine" lowers it to zero by steps.
        warmup_epochs: epochs through which the rate rises from zero, step by step.
        hold_epochs: epochs before the exponential schedule lowers the rate; the paper calls them "warmup".
        decay: factor on the rate for each epoch from then on.
        rho: decay of RMSprop's average of squared gradients.
        momentum: of RMSprop.
        beta_1: decay of AdamW's average of gradients.
        beta_2: decay of AdamW's average of squared gradients.
        epsilon: of RMSprop inside the square root, of AdamW outside, as in Keras.
        weight_decay: share of kernels that is taken off in each step, times the rate; norms and biases are left alone.
        label_smoothing: share of each target that is spread over both classes.
        pos_weight: factor on the loss of malignant images.
        balanced: draw images so that half of an epoch is malignant, by seed and epoch; an epoch is as long as without.
        average: decay of averaged weights, which are validated and kept; 0 for the last step's.
        patience: epochs without a better validation AUC after which training stops; never if left out.
        freeze: the place up to which both branches stay as they are in the first stage: stem, block1a, ..., top, or
            block3 for all of its blocks; a layer's name in models of your own; nothing if left out.
        freeze_epochs: epochs of that stage; in the second all is trained, by a new optimiser and schedule.
        thaw_factor: factor on the learning rate of the second stage.
        dropout: rate before the dense layer, of models made by name.
        drop_connect: rate of the last block, of models made by name.
        low_res: side of the small image in pixels; the architecture's own if left out.
        high_res: side of the large image in pixels; the architecture's own if left out.
        augment: rotate, scale and flip training images.
        augment_validation: validation images too, as the paper did.
        passes: draws of the windows that validation averages over; the paper's test-time augmentation is 3.
        window_sharing: one draw of the windows for a "batch" or for each "image".
        mixed_precision: "mixed_bfloat16" or "mixed_float16"; float32 if left out.
        sync_batch_norm: share batch statistics among replicas, so that their number does not change the result; the
            official models do not.
        jit_compile: compile steps with XLA; for one GPU.
    """

    epochs: int = 60
    batch_size: int = 100
    optimizer: str = "rmsprop"
    learning_rate: float = 1e-3
    schedule: str = "exponential"
    warmup_epochs: float = 0.0
    hold_epochs: int = 15
    decay: float = 0.9
    rho: float = 0.99
    momentum: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    pos_weight: float = 1.0
    balanced: bool = False
    average: float = 0.0
    patience: int | None = None
    freeze: str | None = None
    freeze_epochs: int = 5
    thaw_factor: float = 0.1
    dropout: float = 0.2
    drop_connect: float = 0.2
    low_res: int | None = None
    high_res: int | None = None
    augment: bool = True
    augment_validation: bool = False
    passes: int = 1
    window_sharing: str = "batch"
    mixed_precision: str | None = None
    sync_batch_norm: bool = True
    jit_compile: bool = False

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 1), ("passes", 1), ("freeze_epochs", 1), ("hold_epochs", 0)):
            value = getattr(self, name)
            self._check(name, is_int(value) and value >= least, f"an integer of at least {least}")
        for name in ("learning_rate", "epsilon", "pos_weight", "thaw_factor"):
            self._check(name, 0 < self._number(name) < math.inf, "a positive number")
        for name in ("warmup_epochs", "weight_decay"):
            self._check(name, 0 <= self._number(name) < math.inf, "a number of at least 0")
        self._check("decay", 0 < self._number("decay") <= 1, "a number in (0, 1]")
        for name in ("rho", "momentum", "beta_1", "beta_2", "label_smoothing", "average", "dropout", "drop_connect"):
            self._check(name, 0 <= self._number(name) < 1, "a number in [0, 1)")
        for name in ("balanced", "augment", "augment_validation", "sync_batch_norm", "jit_compile"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        for name, least in (("low_res", 32), ("high_res", 32), ("patience", 1)):
            value = getattr(self, name)
            good = value is None or (is_int(value) and value >= least)
            self._check(name, good, f"None or an integer of at least {least}")
        good = self.freeze is None or (isinstance(self.freeze, str) and self.freeze != "")
        self._check("freeze", good, "None or the name of a place in the model, such as 'block4a'")
        self._check("optimizer", self.optimizer in OPTIMIZERS, f"one of {OPTIMIZERS}, or a Keras optimizer")
        self._check("schedule", self.schedule in SCHEDULES, f"one of {SCHEDULES}")
        self._check("window_sharing", self.window_sharing in ("batch", "image"), "'batch' or 'image'")
        self._check("mixed_precision", self.mixed_precision in PRECISIONS, f"one of {PRECISIONS}")

    def _number(self, name) -> float:
        """The value, or NaN, which lies in no range, for what is no number."""
        value = getattr(self, name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan

    def _check(self, name, good, expected):
        if not good:
            raise ValueError(f"{name} must be {expected}. Received: {name}={getattr(self, name)!r}")

    def frozen(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, belongs to the stage that leaves the first blocks as they are."""
        return self.freeze is not None and epoch < self.freeze_epochs

    def stale(self, epochs: int, best_epoch: int) -> bool:
        """Whether validation has not become better for so long that training stops.

        Args:
            epochs: that have ended. Those before the second stage do not count.
            best_epoch: counted from 0; -1 for none.
        """
        since = best_epoch + 1 if self.freeze is None else max(best_epoch + 1, self.freeze_epochs)
        return self.patience is not None and epochs - since >= self.patience

    def rate(self, epoch: int, batch: int = 0, steps: int = 1) -> float:
        """The learning rate of a step.

        Args:
            epoch, batch: counted from 0.
            steps: batches of an epoch.
        """
        first, last, top = 0, self.epochs, self.learning_rate
        if self.frozen(epoch):
            last = min(self.freeze_epochs, self.epochs)
        elif self.freeze is not None:
            first, top = self.freeze_epochs, self.learning_rate * self.thaw_factor
        done, warm = (epoch - first) * steps + batch, round(self.warmup_epochs * steps)
        if done < warm:
            return top * (done + 1) / warm
        if self.schedule == "exponential":
            return top * self.decay ** max(0, epoch - first + 1 - self.hold_epochs)
        return top * 0.5 * (1 + math.cos(math.pi * (done - warm) / ((last - first) * steps - warm)))

    @property
    def by_step(self) -> bool:
        """Whether the rate changes within an epoch."""
        return self.schedule == "cosine" or self.warmup_epochs > 0


@dataclass(frozen=True)
class Record:
    """A recipe by name.

    Attributes:
        recipe: `Recipe`.
        source: where its values come from.
    """

    recipe: Recipe
    source: str


RECIPES = {
    "paper": Record(
        Recipe(),
        "Section 5.1.1 of the paper: from random weights, RMSprop, the rate held for 15 epochs and then lowered by a "
        "tenth with each.",
    ),
    "fine-tune": Record(
        Recipe(
            epochs=15,
            batch_size=64,
            optimizer="adamw",
            learning_rate=3e-4,
            schedule="cosine",
            warmup_epochs=1.0,
            weight_decay=0.01,
            label_smoothing=0.1,
            balanced=True,
            average=0.999,
        ),
        "From official weights. Epochs, batches, rate, an epoch of warm-up and the cosine: the code of Ha, Liu and Liu "
        "(2020), who won SIIM-ISIC 2020 with EfficientNets. AdamW and its decay: Loshchilov and Hutter (2019), "
        "PyTorch's default. No decay on norms and biases: He et al. (2019), Bag of Tricks. Label smoothing: Szegedy et "
        "al. (2016). Averaged weights: Polyak and Juditsky (1992), as EfficientNet's own training has them. Balanced "
        "by class: of 2020's images 2% are malignant. Not tried at the paper's size.",
    ),
}


def make_recipe(options: dict, base="paper") -> Recipe:
    """A `Recipe`.

    Args:
        options: fields that differ from the base.
        base: name of a recipe, or a `Recipe`.

    Raises:
        ValueError: for an unknown name or field, with the known ones and the nearest; for a value out of range.
    """
    if isinstance(base, str):
        if base not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}. Received: {base!r}{_hint([base], RECIPES)}")
        base = RECIPES[base].recipe
    if not isinstance(base, Recipe):
        raise ValueError(f"recipe must be a name or a Recipe. Received: {base!r}")
    known = [field.name for field in fields(Recipe)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"Unknown options: {', '.join(unknown)}. A recipe has: {', '.join(known)}{_hint(unknown, known)}"
        )
    return replace(base, **options)


def _hint(unknown, known) -> str:
    near = [name for option in unknown for name in difflib.get_close_matches(option, list(known), 1)]
    return f". Did you mean {', '.join(near)}?" if near else ""
