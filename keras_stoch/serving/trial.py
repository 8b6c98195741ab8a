"""What was exported, opened by the runtime it is for, and asked for the answers that the model gives."""

import warnings

import numpy as np
import tensorflow as tf

from keras_stoch.models import load_model
from keras_stoch.progress import terminal_muted
from keras_stoch.serving.endpoints import Served
from keras_stoch.serving.precision import half_type

# Of a probability. float32 kernels of two runtimes differ by some 1e-5 of a logit at B0's depth; a half type keeps 8
# or 11 bits of every intermediate.
TOLERANCE = {None: 1e-3, "float16": 0.02, "bfloat16": 0.1}


def try_out(format: str, path, served, *originals) -> None:
    """Compares an export with models: probabilities, and decisions where the logit is not at the threshold.

    Args:
        format: as in `export`.
        path: of what was written.
        served: the `Served` it was written from.
        originals: other `Served` whose probabilities it should give, in their own precision.

    Raises:
        ValueError: if it can not be opened, or gives other probabilities.
    """
    inputs = _sample(served, 1 if format == "litert" else 2)
    try:
        found = _RUN[format](path, inputs)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"What was written as {format} can not be run, and is deleted: {first}") from error
    for other in (served, *originals):
        logits = other.logit(**{name: tf.constant(value) for name, value in inputs.items()})
        expected = {name: value.numpy() for name, value in other.answer(logits).items()}
        if format == "keras":  # holds the model, and no temperature or threshold
            expected = {"probability": expected["probability"]}
        if set(found) != set(expected):
            raise ValueError(
                f"What was written as {format} answers with {', '.join(sorted(found))} instead of "
                f"{', '.join(sorted(expected))}, and is deleted"
            )
        most = TOLERANCE[half_type(other.model)]
        decided = found.pop("decision", None), expected.pop("decision", None)
        for name, value in expected.items():
            if np.shape(found[name]) != value.shape or not np.allclose(
                found[name], value, rtol=0, atol=most, equal_nan=True
            ):
                what = {"probability": "probabilities"}.get(name, "calibrated probabilities")
                apart = float(np.max(np.abs(found[name] - value)))
                raise ValueError(
                    f"What was written as {format} gives other {what} than the model, and is deleted: {apart:.2g} "
                    f"apart where {most:.2g} is allowed"
                )
        if decided[1] is not None:
            # What rounding may move over the threshold is not asked for.
            room = 4 * most * np.maximum(1, np.abs(logits))
            clear = np.abs(logits - other.calibration.threshold_logit) > room
            if (decided[0] != decided[1])[clear].any():
                raise ValueError(f"What was written as {format} decides otherwise than the model, and is deleted")


def _sample(served, batch) -> dict:
    """Pixels of every value, as float32, and windows that reach all four sides."""
    rng = np.random.default_rng(0)
    given = {"low_res": rng.integers(0, 256, (batch, served.low_res, served.low_res, 3))}
    if served.layer is not None:
        given["high_res"] = rng.integers(0, 256, (batch, served.high_res, served.high_res, 3))
    given = {name: np.float32(value) for name, value in given.items()}
    if served.layer is not None:
        shape = (batch, served.layer.filters) if served.per_image else (served.layer.filters,)
        columns = [rng.integers(0, span, shape) for span in served.spans]
        windows = np.int32(np.stack(columns, -1))
        windows[..., 0, :], windows[..., -1, :] = 0, np.array(served.spans) - 1
        given["windows"] = windows
    return given


def _saved_model(path, inputs):
    signatures = tf.saved_model.load(str(path)).signatures
    given = {name: tf.constant(value if name == "windows" else np.uint8(value)) for name, value in inputs.items()}
    answer = signatures["serve_windows" if "windows" in inputs else "serve"](**given)
    return {name: value.numpy() for name, value in answer.items()}


def _keras(path, inputs):
    given = {name: tf.constant(value) for name, value in inputs.items()}
    return {"probability": tf.sigmoid(Served(load_model(path)).logit(**given)).numpy()}


def _onnx(path, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def run(format: str, path, inputs) -> dict[str, np.ndarray]:
    """What an export answers with, opened by its runtime; LiteRT, which takes one image, is asked for each.

    Args:
        format, path: as in `export`.
        inputs: arrays by name; those of which each image has its own begin with the batch.
    """
    if format != "litert":
        return _RUN[format](path, inputs)
    count = len(inputs["low_res"])
    rows = [
        {name: a if name == "windows" and a.ndim == 2 else a[n : n + 1] for name, a in inputs.items()}
        for n in range(count)
    ]
    found = [_litert(path, row) for row in rows]
    return {name: np.concatenate([np.atleast_1d(one[name]) for one in found]) for name in found[0]}


def _litert(path, inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another package that is to replace it
        with terminal_muted():  # TensorFlow Lite tells what it computes with
            interpreter = tf.lite.Interpreter(str(path))
            return interpreter.get_signature_runner()(**inputs)


_RUN = {"tf_saved_model": _saved_model, "keras": _keras, "onnx": _onnx, "litert": _litert}
