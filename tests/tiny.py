"""Architectures for tests of what a model is put through: built, trained, exported and loaded in a tenth of B0's time.

Four rows that the table of both packages has while `registered()` is entered, or in a test that asks for the fixture
`tiny`. Every kind of layer of the seven is in them: the padded stem, a block of stride 2 without expansion, one that
expands and has drop connect before its residual, squeeze-and-excite in both, and the top. In the rows with a detail
branch the stochastic stem is beside it, joined where those of the paper are: at once, after a block, before the dense
layer.

What is about the seven models themselves or their numbers is tested on them. What is about official weights in general
is tested on `official`: the first row as keras.applications builds it.
"""

import contextlib

import keras_stoch.architectures
import torch_ref.architectures

JOINS = {"tiny": None, "tiny-stem": "stem", "tiny-skip": "block1a", "tiny-split": "avg_pool"}
NAMES = tuple(JOINS)
SIZES = {"low_res": 32, "high_res": 64}  # a window of 33 pixels in 64
# name, kernel size, filters, expansion, strides, drop fraction
BLOCKS = (
    ("block1a", 5, 16, 1, 2, 0.0),
    ("block2a", 3, 16, 6, 1, 0.5),
)


class KerasRow(keras_stoch.architectures.Architecture):
    """A row of keras_stoch's table with blocks of its own."""

    blocks = tuple(keras_stoch.architectures.Block(*block) for block in BLOCKS)


class TorchRow(torch_ref.architectures.Architecture):
    """A row of torch_ref's table with blocks of its own."""

    blocks = tuple(torch_ref.architectures.Block(*block) for block in BLOCKS)


@contextlib.contextmanager
def registered():
    """The tables of both packages with the tiny rows in them; 8 filters in the stem and 64 in the top."""
    tables = ((keras_stoch.architectures.ARCHITECTURES, KerasRow), (torch_ref.architectures.ARCHITECTURES, TorchRow))
    before = [dict(table) for table, _ in tables]
    for table, row in tables:
        for name, join in JOINS.items():
            table[name] = row(width=0.05, depth=1, join=join, **SIZES)
    try:
        yield
    finally:
        for (table, _), rows in zip(tables, before, strict=True):
            table.clear()
            table.update(rows)


@contextlib.contextmanager
def shallow():
    """The rows of the paper's own names with the blocks of the tiny ones, at their own sizes.

    For what runs by these names and is about none of their numbers.
    """
    tables = ((keras_stoch.architectures.ARCHITECTURES, KerasRow), (torch_ref.architectures.ARCHITECTURES, TorchRow))
    before = [dict(table) for table, _ in tables]
    for table, row in tables:
        for name, real in list(table.items()):
            join = "block1a" if (real.join or "").startswith("block") else real.join
            sides = {"low_res": real.low_res, "high_res": real.high_res}
            table[name] = row(width=0.05, depth=1, stem_factor=real.stem_factor, join=join, **sides)
    try:
        yield
    finally:
        for (table, _), rows in zip(tables, before, strict=True):
            table.update(rows)


def sizes(name: str) -> dict:
    """The sizes in pixels that a tiny model takes, as keyword arguments."""
    return SIZES if JOINS[name] else {"low_res": SIZES["low_res"]}


def official(**options):
    """ "tiny" by the function of keras.applications that makes EfficientNets; options are that function's.

    Its layers have the official names, and its files are saved and loaded as those of B0.
    """
    from keras.src.applications.efficientnet import EfficientNet

    filters = [8, *(block[2] for block in BLOCKS)]
    blocks = [
        {
            "kernel_size": kernel_size,
            "repeats": 1,
            # Rounded to eighths of a width of 0.05 there.
            "filters_in": 20 * before,
            "filters_out": 20 * after,
            "expand_ratio": expansion,
            "id_skip": True,
            "strides": strides,
            "se_ratio": 0.25,
        }
        for (_, kernel_size, after, expansion, strides, _), before in zip(BLOCKS, filters, strict=False)
    ]
    given = {"weights": None, "input_shape": (64, 64, 3), "name": "efficientnet_tiny", "weights_name": "b0"} | options
    return EfficientNet(0.05, 1.0, SIZES["low_res"], blocks_args=blocks, **given)
