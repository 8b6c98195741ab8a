"""The same Keras model on Keras's other backends, one process each, against TensorFlow."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from parity.compare import judge, summarise

BACKENDS = ("jax", "torch")


def check(reference, truth, backend: str) -> dict:
    """Runs `reference`'s model (float32) under another backend and compares every layer with it.

    Args:
        reference: `Evidence` of a Keras model on TensorFlow in float32.
        truth: the same in float64.
        backend: "jax" or "torch".
    """
    if importlib.util.find_spec(backend) is None:
        return {
            "passed": False,
            "measure": "relative L2",
            "value": None,
            "tolerance": None,
            "message": f"{backend} is not installed; install it with: pip install 'keras-stoch[{backend}]'",
        }
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        reference.subject.model.save(folder / "model.keras")
        _save(folder / "inputs.npz", reference.batches[0], (reference.draws or {}).get("windows"))
        process = subprocess.run(
            [sys.executable, "-m", "parity.checks.backends", str(folder)],
            env=os.environ | {"KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
        )
        if process.returncode != 0:
            return {
                "passed": False,
                "measure": "relative L2",
                "value": None,
                "tolerance": None,
                "message": f"the process failed: {_last_error(process.stderr)}",
            }
        with np.load(folder / "outputs.npz") as file:
            candidate = dict(file)
    errors = judge(_both(reference), candidate, _both(truth))
    return {"measure": "relative L2"} | summarise(errors)


def _save(path, inputs, windows) -> None:
    arrays = dict(inputs) if isinstance(inputs, dict) else {"low_res": inputs}
    np.savez(path, **arrays, **({} if windows is None else {"windows": windows}))


def _last_error(stderr: str) -> str:
    """The line that names the exception, without what Keras may have appended to it."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith((" ", "\t"))]
    return (lines[-1] if lines else "without a word")[:300]


def _both(evidence) -> dict[str, np.ndarray]:
    training = {f"{name} (training)": array for name, array in evidence.training.items() if "step" not in name}
    return evidence.activations | {name: array for name, array in training.items() if "moving" not in name}


def main(folder: str) -> None:
    """In the other process: run the model, write its activations."""
    import keras_stoch
    from parity.capture import block_names
    from parity.capture_keras import KerasSubject

    folder = Path(folder)
    subject = KerasSubject(keras_stoch.load_model(folder / "model.keras"))
    subject.groups = block_names(subject)
    with np.load(folder / "inputs.npz") as file:
        inputs = dict(file)
    windows = inputs.pop("windows", None)
    draws = None if windows is None else {"windows": windows}
    inputs = inputs if "high_res" in inputs else inputs["low_res"]
    found = {name: call.output for name, call in subject.capture(inputs, draws=draws).items()}
    with subject.without_dropout():
        training = subject.capture(inputs, training=True, draws=draws)
    found |= {f"{name} (training)": call.output for name, call in training.items()}
    np.savez(folder / "outputs.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1])
