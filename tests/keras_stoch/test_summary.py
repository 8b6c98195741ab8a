"""What the models cost: the counts against published ones, and the table in the docs."""

from pathlib import Path

import pytest

import keras_stoch
from keras_stoch import summary
from tests.tiny import SIZES


@pytest.fixture(scope="module")
def table():
    """The rows of `keras-stoch models`; all seven models are built for it, which takes half a minute."""
    return summary.table()


def test_multiply_adds_by_hand(tiny):
    model = keras_stoch.create_model("tiny-stem", **SIZES)
    stems = 2 * 16 * 16 * (3 * 3 * 3) * 8
    first = 8 * 8 * (5 * 5 * 16 + 16 * 16) + 2 * 16 * 4  # stride 2, 16 channels in, no expansion
    second = 8 * 8 * (16 * 96 + 3 * 3 * 96 + 96 * 16) + 2 * 96 * 4
    assert summary.multiply_adds(model) == stems + first + second + 8 * 8 * 16 * 64 + 64


@pytest.mark.slow
def test_counts(table):
    rows = {row["model"]: row for row in table}
    assert rows["b0"]["trainable"] == 4_008_829
    # The stem-b0 differs from b0-stem64 in no trained weight: same shapes, other pixels.
    assert rows["stem-b0"]["trainable"] == rows["b0-stem64"]["trainable"]
    assert rows["stem-b0"]["multiply_adds"] == rows["b0-stem64"]["multiply_adds"]
    # Two backbones and a dense layer of twice the width, but one bias.
    assert rows["split-b0"]["trainable"] == 2 * rows["b0"]["trainable"] - 1
    assert rows["split-b0"]["multiply_adds"] == 2 * rows["b0"]["multiply_adds"]
    assert 380e6 < rows["b0"]["multiply_adds"] < 400e6  # EfficientNet's paper: 0.39 billion
    assert 4.1e9 < rows["b4"]["multiply_adds"] < 4.5e9  # 4.2 billion
    assert "| `split-b0` | 224 + 1024 | 8,017,657 |" in summary.render(list(rows.values()))


@pytest.mark.slow
def test_numbers_of_models_in_the_docs_are_counted(table):
    assert summary.render(table) in (Path(__file__).parents[2] / "docs" / "models.md").read_text()
