"""What the models cost: parameters and multiply-adds, counted from the models themselves."""

import math

import keras

from keras_stoch.architectures import ARCHITECTURES
from keras_stoch.layers import StochasticConv2D
from keras_stoch.models import create_model

# The paper's rounded numbers of parameters, table of section 5.1.6.
PAPER = {"b0": "4MM", "b4": "17.5MM", "stem-b0": "4.2MM", "skip-b0": "6MM", "split-b0": "8MM"}


def multiply_adds(model) -> int:
    """Multiply-adds of all convolutions and dense layers for one image; other layers do not multiply by weights."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            total += math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:2])
        elif isinstance(layer, keras.layers.Conv2D | StochasticConv2D):
            total += math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:3])
        elif isinstance(layer, keras.layers.Dense):
            total += math.prod(layer.kernel.shape)
    return total


def table() -> list[dict]:
    """One row per model: inputs, parameters, multiply-adds of one image, the paper's number of parameters."""
    rows = []
    for name, architecture in ARCHITECTURES.items():
        model = create_model(name)
        trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
        inputs = str(architecture.low_res)
        if architecture.join is not None:
            inputs += f" + {architecture.high_res}"
        rows.append(
            {
                "model": name,
                "inputs": inputs,
                "trainable": trainable,
                "total": model.count_params(),
                "multiply_adds": multiply_adds(model),
                "paper": PAPER.get(name, "-"),
            }
        )
        keras.backend.clear_session()
    return rows


def render(rows: list[dict]) -> str:
    """The table as Markdown."""
    lines = [
        "| model | inputs | trainable | with statistics | multiply-adds | paper |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| `{row['model']}` | {row['inputs']} | {row['trainable']:,} | {row['total']:,} "
            f"| {row['multiply_adds'] / 1e6:,.0f}M | {row['paper']} |"
        )
    return "\n".join(lines)
