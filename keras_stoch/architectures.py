"""The models as data: stages, widths, depths, and where the detail branch joins.

A model is one row of `ARCHITECTURES`. Everything that differs between two models stands in that row; the
builder in `models.py` is the same for all.

Source: EfficientNet (Tan and Le, 2019), table 1, and sections 4.1.1-4.1.4 of "Stochastic Convolutions for
High Resolution Medical Image Classification".
"""

import difflib
import math
from dataclasses import dataclass
from typing import NamedTuple


class Stage(NamedTuple):
    """One row of table 1 of EfficientNet: `repeats` inverted bottleneck blocks of one kind."""

    kernel_size: int
    repeats: int
    filters: int
    expansion: int
    strides: int


class Block(NamedTuple):
    """One inverted bottleneck block after scaling. `drop_fraction` times the drop-connect rate is its rate."""

    name: str
    kernel_size: int
    filters: int
    expansion: int
    strides: int
    drop_fraction: float


BASELINE = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 2, 24, 6, 2),
    Stage(5, 2, 40, 6, 2),
    Stage(3, 3, 80, 6, 2),
    Stage(5, 3, 112, 6, 1),
    Stage(5, 4, 192, 6, 2),
    Stage(3, 1, 320, 6, 1),
)
STEM_FILTERS = 32
TOP_FILTERS = 1280
SQUEEZE_RATIO = 0.25  # of the block's *input* channels


@dataclass(frozen=True)
class Architecture:
    """One model.

    Attributes:
        width: factor on every stage's channels.
        depth: factor on every stage's number of blocks.
        low_res: height and width in pixels of the low-resolution input the model is made for.
        stem_factor: factor on the stem's channels (2 for the baseline of equal cost to the stochastic stem).
        join: where the detail branch, which sees the high-resolution image through a stochastic stem, is
            concatenated to the global one: after the "stem", after a block of that name, or after "avg_pool". Up to
            there the model exists twice, from there on once. None for a model without detail branch.
        high_res: height and width in pixels of the high-resolution input.
    """

    width: float
    depth: float
    low_res: int
    stem_factor: int = 1
    join: str | None = None
    high_res: int = 1024

    @property
    def stem_filters(self) -> int:
        return self.stem_factor * self.round_filters(STEM_FILTERS)

    @property
    def top_filters(self) -> int:
        return self.round_filters(TOP_FILTERS)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks in order, named `block1a`, `block2a`, `block2b`, ... as in keras.applications."""
        repeats = [math.ceil(self.depth * stage.repeats) for stage in BASELINE]
        total = sum(repeats)
        blocks = []
        for number, (stage, count) in enumerate(zip(BASELINE, repeats, strict=True), start=1):
            for index in range(count):
                blocks.append(
                    Block(
                        name=f"block{number}{chr(ord('a') + index)}",
                        kernel_size=stage.kernel_size,
                        filters=self.round_filters(stage.filters),
                        expansion=stage.expansion,
                        strides=stage.strides if index == 0 else 1,
                        drop_fraction=len(blocks) / total,
                    )
                )
        return tuple(blocks)

    def round_filters(self, filters: int, divisor: int = 8) -> int:
        """Scales a channel count by `width`, to a multiple of `divisor`, never more than 10% below."""
        scaled = filters * self.width
        rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
        if rounded < 0.9 * scaled:
            rounded += divisor
        return rounded


ARCHITECTURES = {
    "b0": Architecture(width=1.0, depth=1.0, low_res=224),
    "b0-stem64": Architecture(width=1.0, depth=1.0, low_res=224, stem_factor=2),
    "b4": Architecture(width=1.4, depth=1.8, low_res=380),
    "stem-b0": Architecture(width=1.0, depth=1.0, low_res=224, join="stem"),  # section 4.1.2
    "stem-b4": Architecture(width=1.4, depth=1.8, low_res=380, join="stem"),
    "skip-b0": Architecture(width=1.0, depth=1.0, low_res=224, join="block3b"),  # section 4.1.3: five blocks twice
    "split-b0": Architecture(width=1.0, depth=1.0, low_res=224, join="avg_pool"),  # section 4.1.4
}


def get_architecture(name: str) -> Architecture:
    """Looks a model up by name.

    Raises:
        ValueError: if there is no model of that name; the message lists those there are.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(str(name), ARCHITECTURES, 1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Unknown model. Expected one of {', '.join(ARCHITECTURES)}. Received: name={name!r}{hint}")
    return ARCHITECTURES[name]
