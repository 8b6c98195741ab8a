"""The models as data: stages, widths, depths, and where the detail branch joins.

The counterpart of `keras_stoch/architectures.py`, written independently from the same sources: table 1 of
EfficientNet (Tan and Le, 2019) and sections 4.1.1-4.1.4 of the paper.
"""

import difflib
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

# stage: kernel size, repeats, filters, expansion, strides
BASELINE = [
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
]
STEM_FILTERS = 32
TOP_FILTERS = 1280
SQUEEZE_RATIO = Fraction(1, 4)  # of the block's *input* channels


@dataclass(frozen=True)
class Block:
    """One inverted bottleneck block after scaling. `drop_fraction` times the drop-connect rate is its rate."""

    name: str
    kernel_size: int
    filters: int
    expansion: int
    strides: int
    drop_fraction: float


@dataclass(frozen=True)
class Architecture:
    """One model: `width` and `depth` factors, default input size in pixels, factor on the stem's filters.

    `join` tells after what the detail branch is concatenated to the global one: "stem", a block, or "avg_pool".
    """

    width: Fraction
    depth: Fraction
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
    def blocks(self) -> list[Block]:
        """Every block in order, under its official name (`block1a`, `block2a`, `block2b`, ...)."""
        rows = [
            (f"block{stage}{'abcdefghijklmnop'[i]}", k, self.round_filters(f), e, s if i == 0 else 1)
            for stage, (k, n, f, e, s) in enumerate(BASELINE, start=1)
            for i in range(ceil(n * self.depth))
        ]
        return [Block(*row, drop_fraction=i / len(rows)) for i, row in enumerate(rows)]

    def round_filters(self, filters: int) -> int:
        """Filters times width to the nearest multiple of 8 (halves up), at least 8 and 90% of the exact value."""
        exact = filters * self.width
        scaled = max(8, 8 * int((exact + 4) / 8))
        return scaled + 8 if scaled < Fraction(9, 10) * exact else scaled


ARCHITECTURES = {
    "b0": Architecture(Fraction(1), Fraction(1), 224),
    "b0-stem64": Architecture(Fraction(1), Fraction(1), 224, stem_factor=2),
    "b4": Architecture(Fraction(14, 10), Fraction(18, 10), 380),
    "stem-b0": Architecture(Fraction(1), Fraction(1), 224, join="stem"),
    "stem-b4": Architecture(Fraction(14, 10), Fraction(18, 10), 380, join="stem"),
    "skip-b0": Architecture(Fraction(1), Fraction(1), 224, join="block3b"),
    "split-b0": Architecture(Fraction(1), Fraction(1), 224, join="avg_pool"),
}


def get_architecture(name: str) -> Architecture:
    """The row called `name`; ValueError naming the known ones otherwise."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(ARCHITECTURES)
        near = difflib.get_close_matches(str(name), ARCHITECTURES, 1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Unknown model. Expected one of {known}. Received: name={name!r}{hint}") from None
