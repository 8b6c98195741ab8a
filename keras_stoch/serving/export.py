"""`export`: a trained model as SavedModel, ONNX, LiteRT or .keras, checked beforehand and put in place whole."""

import importlib.util
import json
import warnings
from pathlib import Path

from keras_stoch.data.decoding import MAX_PIXELS
from keras_stoch.files import check_no_file, of_this_machine, replacing, write_atomically
from keras_stoch.storage import as_path
from keras_stoch.training.runs import loaded

FORMATS = {"tf_saved_model": "", "keras": ".keras", "onnx": ".onnx", "litert": ".tflite"}


def export(
    model,
    path,
    format="tf_saved_model",
    *,
    which="best",
    overwrite=False,
    max_draws=256,
    max_pixels=MAX_PIXELS,
    card=None,
    golden=0,
) -> Path:
    """Exports a model for serving, with a card.

    SavedModel signatures. Pixels are uint8 in 0-255, probabilities float32 (batch,), and the batch may have any size:

        serve           low_res (batch, low, low, 3), high_res (batch, high, high, 3) -> probability
        serve_windows   the same and windows instead of draws, int32 (filters, 2), or (batch, filters, 2) for a model
                        with window_sharing="image" -> probability
        serve_image     images (batch, high, high, 3); the small ones are derived inside -> probability
        serve_bytes     images, strings (batch,): JPEG or PNG of any size, through the steps of `prepare`: upright,
                        crop, resize -> probability
        serve_averaged  images as strings, n -> probability and spread (standard deviation) over n draws of the windows
        serve_seeded    images as strings, seed (int64) -> probability; equal for equal seeds, whatever the batch

    Every call but those with windows or a seed draws new windows, and a restarted server does not repeat them. Models
    without detail branch have serve (low_res alone), serve_image and serve_bytes.

    Where the run stores a temperature (`evaluate(calibrate=...)`), every signature also answers `calibrated`, the
    probability after it, float32 (batch,), and where it stores a threshold `decision`, int32 (batch,), 1 from the
    threshold on. `probability` is the network's own as before; serve_averaged calibrates and decides on its mean.

    ONNX and LiteRT files hold the function of serve_windows: draws are an input, named "windows". ONNX takes any batch,
    LiteRT a batch of one. Both are of float32, whatever the model computes in. A `.keras` file holds the model alone.

    The card tells what the model is, what it learnt from, how good `evaluate` found it (all that was evaluated of the
    run's weights so far), temperature and threshold, and its limits. A SavedModel's folder holds card.json and card.md,
    beside a file NAME.onnx stand NAME.onnx.card.json and NAME.onnx.card.md.

    What was written is opened, and its probabilities are compared with the model's, before it is put in place.

    Args:
        model: a Keras model with one logit as output, or the folder of a run by `fit`.
        path: what to write: a folder for tf_saved_model, a file otherwise (.keras, .onnx, .tflite).
        format: "tf_saved_model", "keras", "onnx" or "litert".
        which: of a run, the "best" or the "last" weights.
        overwrite: replace the export that is there. A folder that is no SavedModel is never replaced.
        max_draws: of a SavedModel; the largest n that serve_averaged takes.
        max_pixels: of a SavedModel; encoded photographs of more are refused before they are decoded.
        card: fields of the card that nobody but you can state, as a dict or the path of a JSON file: name, version,
            description, authors, copyright, license, intended_use, data_source, changelog, and limits and references,
            which are added to those that are known.
        golden: how many inputs, pictures of generated lesions, and what the export gives for them to put beside it, for
            `python -m parity verify PATH` where it is deployed: in assets.extra/golden.npz of a SavedModel's folder, in
            model.onnx.golden.npz beside model.onnx, and so on.

    Returns:
        The path.

    Raises:
        ValueError: for a model with other inputs or outputs, an unknown format, a limit that is no positive integer, a
            path that exists, an unknown field of the card, a temperature that was fitted for other weights than the
            best, or if what was written does not do what the model does.
        ImportError: naming what to install, if a format needs it.

    Example:

    ```python
    keras_stoch.export("runs/split/run-0", "served")
    ```
    """
    path = check_target(path, format, overwrite, max_draws=max_draws, max_pixels=max_pixels, golden=golden)
    from keras_stoch.serving import golden as examples
    from keras_stoch.serving import litert, onnx, savedmodel
    from keras_stoch.serving.card import check_stated, make_card, stored_calibration
    from keras_stoch.serving.card_page import markdown
    from keras_stoch.serving.endpoints import Served
    from keras_stoch.serving.precision import half_type, in_single_precision
    from keras_stoch.serving.trial import run, try_out

    stated, folder, calibration = check_stated(card), None, None
    if isinstance(model, str | Path):
        folder, model = as_path(model), loaded(model, which)
        calibration, left_out = stored_calibration(folder, which)
        if left_out:
            warnings.warn(left_out, stacklevel=2)
    served, originals = Served(model, max_draws, max_pixels, calibration), []
    if format in ("onnx", "litert") and half_type(served.model):
        originals.append(served)
        served = Served(in_single_precision(served.model), calibration=calibration)
    found = make_card(served, format, folder, which, stated)
    texts = json.dumps(found, indent=1, allow_nan=False) + "\n", markdown(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    writers = {"tf_saved_model": savedmodel.write, "keras": _keras, "onnx": onnx.write, "litert": litert.write}
    with replacing(path) as partial:
        writers[format](served, partial)
        try_out(format, partial, served, *originals)
        if format == "tf_saved_model":
            for place, text in zip(card_paths(partial, format), texts, strict=True):
                place.write_text(text)
            if golden:
                examples.write(
                    lambda given: run(format, partial, given), served, examples.place(partial), format, golden
                )
    if format != "tf_saved_model":
        for place, text in zip(card_paths(path, format), texts, strict=True):
            write_atomically(place, text)
        beside = examples.place(path)
        beside.unlink(missing_ok=True)  # of an export that was replaced
        if golden:
            with replacing(beside) as partial:
                examples.write(lambda given: run(format, path, given), served, partial, format, golden)
    return path


def card_paths(path, format) -> tuple[Path, Path]:
    """Where the card of an export stands: JSON and Markdown."""
    path = Path(path)
    if format == "tf_saved_model":
        return path / "card.json", path / "card.md"
    return path.with_name(f"{path.name}.card.json"), path.with_name(f"{path.name}.card.md")


def check_target(path, format, overwrite=False, *, max_draws=256, max_pixels=MAX_PIXELS, golden=0) -> Path:
    """The path of an export; what is wrong with it, with the format or the limits, without TensorFlow.

    Args:
        path, format, overwrite, max_draws, max_pixels, golden: as `export` takes them.

    Raises:
        ValueError, ImportError: as `export`.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}. Received: {format!r}")
    path = of_this_machine(path, "An export is")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; choose another path, or overwrite=True")
    if path.is_symlink():
        raise ValueError(f"{path} is a link; name what it points to, or another path")
    if path.is_file() and format == "tf_saved_model":
        raise ValueError(f"{path} is a file, and a SavedModel is a folder; choose another path")
    if path.is_dir() and not (format == "tf_saved_model" and _is_export(path)):
        raise ValueError(f"{path} is a folder, but no SavedModel that could be replaced; choose another path")
    if FORMATS[format] != path.suffix and FORMATS[format]:
        raise ValueError(f"The file of format {format!r} must end with {FORMATS[format]}. Received: {path}")
    for place in card_paths(path, format) if FORMATS[format] else ():
        if place.exists() and not overwrite:
            raise ValueError(f"{place} exists already; choose another path, or overwrite=True")
    missing = [name for name in ("tf2onnx", "onnx") if format == "onnx" and not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(f"format='onnx' needs {' and '.join(missing)}: pip install 'keras-stoch[onnx]'")
    if format == "onnx" and not importlib.util.find_spec("onnxruntime"):
        raise ImportError("format='onnx' needs onnxruntime, to try what was written: pip install 'keras-stoch[onnx]'")
    for name, limit in (("max_draws", max_draws), ("max_pixels", max_pixels)):
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit < 2**31:
            raise ValueError(f"{name} must be an integer of at least 1. Received: {limit!r}")
    if isinstance(golden, bool) or not isinstance(golden, int) or not 0 <= golden <= 256:
        raise ValueError(f"golden must be an integer from 0 to 256. Received: {golden!r}")
    if golden and format == "keras":
        raise ValueError("A .keras file is opened by Keras, not deployed: golden outputs are for the other formats")
    check_no_file(path.parent)
    return path


def _is_export(folder: Path) -> bool:
    """Whether a folder is a SavedModel, or empty: what may be replaced without asking what else is in it."""
    return (folder / "saved_model.pb").is_file() or not any(folder.iterdir())


def _keras(served, path):
    served.model.save(path)
