"""How to train: the options of `fit`, with the paper's values. Section 5.1.1."""

import difflib
import math
from dataclasses import dataclass, fields


class TrainingDiverged(ArithmeticError):
    """The loss is no number any more."""


PRECISIONS = (None, "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's (section 5.1.1).

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step, over all replicas and workers.
        learning_rate: of RMSprop in the first epochs.
        hold_epochs: epochs before the rate falls; the paper calls them "warmup".
        decay: factor on the rate for each epoch from then on.
        rho: decay of RMSprop's average of squared gradients.
        momentum: of RMSprop.
        epsilon: of RMSprop, inside the square root, as in Keras.
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
    learning_rate: float = 1e-3
    hold_epochs: int = 15
    decay: float = 0.9
    rho: float = 0.99
    momentum: float = 0.0
    epsilon: float = 1e-8
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
        for name in ("epochs", "batch_size", "passes"):
            self._check(name, is_int(getattr(self, name)) and getattr(self, name) >= 1, "an integer of at least 1")
        self._check("hold_epochs", is_int(self.hold_epochs) and self.hold_epochs >= 0, "an integer of at least 0")
        for name in ("learning_rate", "epsilon"):
            value = getattr(self, name)
            self._check(name, _is_number(value) and 0 < value < math.inf, "a positive number")
        self._check("decay", _is_number(self.decay) and 0 < self.decay <= 1, "a number in (0, 1]")
        for name in ("rho", "momentum", "dropout", "drop_connect"):
            value = getattr(self, name)
            self._check(name, _is_number(value) and 0 <= value < 1, "a number in [0, 1)")
        for name in ("augment", "augment_validation", "sync_batch_norm", "jit_compile"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        for name in ("low_res", "high_res"):
            value = getattr(self, name)
            self._check(name, value is None or (is_int(value) and value >= 32), "None or an integer of at least 32")
        self._check("window_sharing", self.window_sharing in ("batch", "image"), "'batch' or 'image'")
        self._check("mixed_precision", self.mixed_precision in PRECISIONS, f"one of {PRECISIONS}")

    def _check(self, name, good, expected):
        if not good:
            raise ValueError(f"{name} must be {expected}. Received: {name}={getattr(self, name)!r}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0: held through the first `hold_epochs`, decayed from then on."""
        return self.learning_rate * self.decay ** max(0, epoch + 1 - self.hold_epochs)


def make_recipe(options: dict) -> Recipe:
    """A `Recipe`; ValueError that lists the known options for an unknown one."""
    known = [field.name for field in fields(Recipe)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        near = [name for option in unknown for name in difflib.get_close_matches(option, known, 1)]
        hint = f". Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"Unknown options: {', '.join(unknown)}. A recipe has: {', '.join(known)}{hint}")
    return Recipe(**options)


def is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
