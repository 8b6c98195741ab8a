"""How fast an exported model answers: by batch, one draw and three averaged, against the Keras model itself.

    python benchmarks/serving.py [--model split-b0] [--batches 1 8] [--repeat 5]

"tensors" are decoded pixels, "photographs" encoded JPEGs of 2048x1536 pixels that the served model decodes, crops and
resizes itself. Ratios are to the Keras model called on the same tensors, in the same run.
"""

import argparse
import io
import os
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from PIL import Image

import keras_stoch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="split-b0")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    model = keras_stoch.create_model(options.model, seed=0)
    averaged = keras_stoch.AveragedPasses(model)
    with tempfile.TemporaryDirectory() as folder:
        served = tf.saved_model.load(str(keras_stoch.export(model, f"{folder}/served"))).signatures
    rng = np.random.default_rng(0)
    low, high = (model.input[name].shape[1] for name in ("low_res", "high_res"))
    compiled = tf.function(lambda inputs: model(inputs, training=False))
    three = tf.function(lambda inputs: averaged(inputs, 3))
    print(f"\n{options.model}, {low}/{high}\n")
    print("| batch | what | ms | images/s | ratio |")
    print("|---:|---|---:|---:|---:|")
    for batch in options.batches:
        inputs = {
            name: tf.constant(rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8))
            for name, side in (("low_res", low), ("high_res", high))
        }
        encoded = tf.constant([photograph(rng) for _ in range(batch)])
        ways = {
            "Keras model, tensors": lambda inputs=inputs: compiled(inputs),
            "serve, tensors": lambda inputs=inputs: served["serve"](**inputs),
            "serve_image, tensors": lambda inputs=inputs: served["serve_image"](images=inputs["high_res"]),
            "serve_bytes, photographs": lambda encoded=encoded: served["serve_bytes"](images=encoded),
            "Keras model, tensors, 3 draws": lambda inputs=inputs: three(inputs),
            "serve_averaged, photographs, 3 draws": lambda encoded=encoded: served["serve_averaged"](
                images=encoded, n=tf.constant(3)
            ),
        }
        times = measure(ways, options.repeat)
        for name, seconds in times.items():
            ratio = seconds / times["Keras model, tensors"]
            print(f"| {batch} | {name} | {1e3 * seconds:.0f} | {batch / seconds:.1f} | {ratio:.2f} |", flush=True)


def measure(ways, repeat) -> dict[str, float]:
    """Median seconds; the ways take turns, so that a slow minute of the machine hits all of them."""
    taken = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            result = way()
            np.asarray(tf.nest.flatten(result)[0])
            taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in taken.items()}


def photograph(rng) -> bytes:
    """A JPEG of smooth noise, 2048x1536 pixels."""
    coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((2048, 1536), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
