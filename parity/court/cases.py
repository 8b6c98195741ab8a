"""What the court hears: models, sizes, rungs, and the options of a run."""

from dataclasses import dataclass
from typing import NamedTuple

from parity import images
from parity.court import study
from parity.court.rungs import RUNGS

DTYPES = ("float64", "float32")


class Case(NamedTuple):
    """Sizes in pixels at which a model is compared, and how its windows are shared."""

    low_res: int
    high_res: int | None = None
    window_sharing: str = "batch"
    dtypes: tuple[str, ...] = DTYPES

    def __str__(self):
        return str(self.low_res) if self.high_res is None else f"{self.low_res}/{self.high_res} {self.window_sharing}"

    @property
    def options(self) -> dict:
        """For `create_model` of both packages, beside the low resolution."""
        return {} if self.high_res is None else {"high_res": self.high_res, "window_sharing": self.window_sharing}


# Bugs show in float64, and that is asked of every case. What float32 does in practice, the cases with all layers tell.
EXACT = ("float64",)
# What a size is for is whether rows and columns are even or odd where a convolution strides, which decides its padding.
# 96 and 64 are even at all five strides, as 224 is; 67 is odd at all but the second, 75 at the first, third and fifth.
MODELS = {
    "b0": (Case(96), Case(67, dtypes=EXACT)),
    "b0-stem64": (Case(64, dtypes=EXACT),),
    "b4": (Case(64, dtypes=EXACT),),
    "stem-b0": (Case(96, 1024), Case(75, 1024, "image", EXACT)),
    "stem-b4": (Case(75, 1024, "image", EXACT),),
    "skip-b0": (Case(96, 1024, "batch", EXACT),),
    "split-b0": (Case(96, 1024), Case(75, 1024, "image", EXACT)),
}
# What is also run on Keras's other backends: a model that has every kind of layer.
BACKEND_CASES = (("stem-b0", MODELS["stem-b0"][0]),)
CHECKS = (*RUNGS, "optimizer", "lockstep", "statistics", "backends")
# Rungs that need no look at a model chosen by name; asked for when all models are, or by name.
GENERAL = ("optimizer", "statistics")
LOCKSTEP_CASES = {False: Case(64, 160, "image", EXACT), True: Case(224, 1024, "image", EXACT)}  # small and full


@dataclass(frozen=True)
class Options:
    """What to compare.

    Attributes:
        models, checks: names from `MODELS` and `CHECKS`; all by default. With models but no checks, the rungs of these
            models: not those of the optimiser alone and of many training runs.
        images: folder of photographs; None for structured pictures made here.
        seed: of weights and images.
        batch: images per batch.
        steps: batches for the moving averages.
        full: train at the paper's size, for a GPU.
        look: whether B0 trains in lockstep as briefly as the other models do, and is not fine-tuned, which takes as
            long as all else of it.
    """

    models: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    images: str | None = None
    seed: int = 0
    batch: int = 2
    steps: int = 3
    full: bool = False
    look: bool = False

    def __post_init__(self):
        for what, known in (("models", MODELS), ("checks", CHECKS)):
            names = getattr(self, what)
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ValueError(f"Unknown {what}: {', '.join(unknown)}. Known are: {', '.join(known)}")
        if self.batch < 2 or self.steps < 1:
            raise ValueError(
                f"batch must be at least 2 (batch norm) and steps at least 1. Received: {self.batch}, {self.steps}"
            )
        if not self.checks:
            chosen = [check for check in CHECKS if not self.models or check not in GENERAL]
            object.__setattr__(self, "checks", tuple(chosen))
        if not self.models:
            object.__setattr__(self, "models", tuple(MODELS))

    @property
    def left_out(self) -> str:
        """What a look does not have, in a sentence; nothing if it is none."""
        if not self.look:
            return ""
        longer = "B0 trains in lockstep for 4 steps of 20 and is not fine-tuned (--checks lockstep has both); "
        general = "the optimizer alone, the statistics, and planted faults are left to the whole `make parity`."
        return f"A look at the rungs of {', '.join(self.models)}: {longer if 'b0' in self.models else ''}{general}"

    @property
    def plan(self) -> study.Plan:
        """Of the runs for the statistics."""
        return study.FULL if self.full else study.Plan()

    def paths(self):
        """Of the photographs, or None."""
        return images.find_images(self.images) if self.images else None
