"""How fast an exported model answers: by batch, one draw and three averaged, against the Keras model itself.

    python benchmarks/serving.py [--model split-b0] [--batches 1 8] [--repeat 5]

"tensors" are decoded pixels, "photographs" encoded JPEGs of 2048x1536 pixels that are decoded and resized too: by
Pillow before the Keras model, inside the served one. Ratios are to the Keras model called on the same tensors, in the
same run.
"""

import argparse
import io
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from PIL import Image

import keras_stoch
from keras_stoch.architectures import get_architecture
from keras_stoch.data.augment import reduce
from keras_stoch.data.prepare import Settings, prepare_image


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="split-b0")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", default="build/benchmarks/serving.json")
    options = parser.parse_args()
    if get_architecture(options.model).join is None:
        parser.error(f"{options.model} has no draws to average over; choose a stem-, skip- or split- model")
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
    results = []

    def prepared(encoded):
        """What the served model does itself: photographs to tensors, by Pillow."""
        images = [prepare_image(Image.open(io.BytesIO(e)), Settings())[0] for e in encoded.numpy()]
        pixels = tf.constant(np.stack([np.asarray(i.resize((high, high))) for i in images]))
        return {"low_res": reduce(pixels, low), "high_res": pixels}

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
            "Pillow and Keras model, photographs": lambda encoded=encoded: compiled(prepared(encoded)),
            "Keras model, tensors, 3 draws": lambda inputs=inputs: three(inputs),
            "serve_averaged, photographs, 3 draws": lambda encoded=encoded: served["serve_averaged"](
                images=encoded, n=tf.constant(3)
            ),
        }
        times = measure(ways, options.repeat)
        for name, seconds in times.items():
            ratio = seconds / times["Keras model, tensors"]
            results.append({"batch": batch, "what": name, "seconds": seconds, "ratio": ratio})
            print(f"| {batch} | {name} | {1e3 * seconds:.0f} | {batch / seconds:.1f} | {ratio:.2f} |", flush=True)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps({"model": options.model, "rows": results}, indent=1))


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
