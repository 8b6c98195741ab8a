"""The same Keras model on Keras's other backends, one process each, against TensorFlow."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from parity.adapters.keras import KerasAdapter
from parity.court import exhibits
from parity.errors import judge, summarise

BACKENDS = ("jax", "torch")
# What is compared is Keras's code on another backend, and each pass is run once: to have it optimised takes far longer.
AS_WRITTEN = "--xla_backend_optimization_level=0"


def check(reference, truth, backend: str) -> dict:
    """Runs `reference`'s model (float32) under another backend and compares every layer with it.

    Args:
        reference: `Trace` of a Keras model on TensorFlow in float32.
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
        reference.adapter.model.save(folder / "model.keras")
        _save(folder / "inputs.npz", reference.batches[0], reference.draws or {})
        process = subprocess.run(
            [sys.executable, "-m", "parity.court.rungs.backends", str(folder)],
            env=os.environ | {"KERAS_BACKEND": backend, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {AS_WRITTEN}"},
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


def _save(path, inputs, draws) -> None:
    arrays = dict(inputs) if isinstance(inputs, dict) else {"low_res": inputs}
    for name, draw in draws.items():
        if isinstance(draw, dict):
            arrays |= {f"{name}/{layer}": array for layer, array in draw.items()}
        else:
            arrays[name] = draw
    np.savez(path, **arrays)


def _load(path) -> tuple:
    """(inputs, draws) as `_save` was given them."""
    inputs, draws = {}, {}
    with np.load(path) as file:
        for name in file.files:
            if name in ("low_res", "high_res"):
                inputs[name] = file[name]
            elif "/" in name:
                draw, layer = name.split("/")
                draws.setdefault(draw, {})[layer] = file[name]
            else:
                draws[name] = file[name]
    return (inputs if "high_res" in inputs else inputs["low_res"]), draws


def _last_error(stderr: str) -> str:
    """The line that names the exception, without what Keras may have appended to it."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith((" ", "\t"))]
    return (lines[-1] if lines else "without a word")[:300]


def _both(evidence) -> dict[str, np.ndarray]:
    training = {f"{name} (training)": array for name, array in evidence.training.items() if "step" not in name}
    return evidence.activations | {name: array for name, array in training.items() if "moving" not in name}


class _OnJax(KerasAdapter):
    """A model whose passes are compiled whole, as JAX's users do: it would compile every operation by itself."""

    compiled = True

    def through_graph(self, function):
        import jax
        import keras

        variables = self.model.variables

        def stateless(values, *arguments):
            with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
                return function(*arguments)

        whole = jax.jit(stateless)
        return lambda *arguments: whole([variable.value for variable in variables], *arguments)


def main(folder: str) -> None:
    """In the other process: run the model, write its activations."""
    import keras

    import keras_stoch

    # The weights come from the file. To draw others first would have JAX compile one program for every shape.
    for initializer in (keras.initializers.VarianceScaling, keras.initializers.Zeros, keras.initializers.Ones):
        initializer.__call__ = lambda self, shape, dtype=None: keras.ops.convert_to_tensor(np.zeros(shape), dtype)
    folder = Path(folder)
    kind = _OnJax if keras.backend.backend() == "jax" else KerasAdapter
    adapter = kind(keras_stoch.load_model(folder / "model.keras"))
    adapter.groups = exhibits.block_names(adapter)
    inputs, draws = _load(folder / "inputs.npz")
    found = {name: call.output for name, call in adapter.capture(inputs, draws=draws).items()}
    training = adapter.capture(inputs, training=True, draws=draws)
    found |= {f"{name} (training)": call.output for name, call in training.items()}
    np.savez(folder / "outputs.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1])
