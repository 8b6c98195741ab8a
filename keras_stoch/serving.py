"""Trained models for serving: SavedModel with signatures for tensors and for encoded photographs, ONNX, LiteRT, .keras.

A SavedModel runs with TensorFlow alone, without this package and without Keras:

    served = tf.saved_model.load("served")
    served.signatures["serve_bytes"](images=tf.constant([open("photo.jpg", "rb").read()]))["probability"]
"""

import contextlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_stoch.data.augment import reduce
from keras_stoch.data.prepare import Settings

FORMATS = {"tf_saved_model": "", "keras": ".keras", "onnx": ".onnx", "litert": ".tflite"}
EXIF_BYTES = 4096  # of a JPEG are searched for its orientation, which stands right at the beginning


def export(model, path, format="tf_saved_model", *, which="best", overwrite=False) -> Path:
    """Exports a model for serving.

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

    ONNX and LiteRT files hold the function of serve_windows: draws are an input, named "windows". ONNX takes any batch,
    LiteRT a batch of one.

    Args:
        model: a Keras model with one logit as output, or the folder of a run by `fit`.
        path: what to write: a folder for tf_saved_model, a file otherwise (.keras, .onnx, .tflite).
        format: "tf_saved_model", "keras", "onnx" or "litert".
        which: of a run, the "best" or the "last" weights.
        overwrite: replace the export that is there. A folder that is no SavedModel is never replaced.

    Returns:
        The path.

    Raises:
        ValueError: for a model with other inputs or outputs, an unknown format, or a path that exists.
        ImportError: naming what to install, if a format needs it.

    Example:

        keras_stoch.export("runs/split/run-0", "served")
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}. Received: {format!r}")
    path = Path(path)
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
    missing = [name for name in ("tf2onnx", "onnx") if format == "onnx" and not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(f"format='onnx' needs {' and '.join(missing)}: pip install 'keras-stoch[onnx]'")
    served = Served(_loaded(model, which))
    path.parent.mkdir(parents=True, exist_ok=True)
    writers = {"tf_saved_model": _saved_model, "keras": _keras, "onnx": _onnx, "litert": _litert}
    with _replacing(path) as partial:
        writers[format](served, partial)
    return path


class Served:
    """A model as functions of tensors, without Python state: what `export` writes.

    Args:
        model: Keras model with one logit as output.
    """

    def __init__(self, model):
        from keras_stoch.evaluation import AveragedPasses, check_logit, input_sizes
        from keras_stoch.models import EfficientNet

        check_logit(model)
        self.model = model
        self.low_res, self.high_res = input_sizes(model)
        self.size = max(self.high_res or 0, 1024, self.low_res)  # as `predict_photographs` prepares them
        # Those of nested models too: their own draws would be the same after every load.
        stochastic = [layer for layer in model._flatten_layers() if hasattr(layer, "draw_windows")]
        if self.high_res and not stochastic:
            raise ValueError("A model with high_res and no StochasticConv2D can not be exported; model.export can")
        known = isinstance(model, EfficientNet) and len(stochastic) == 1 and stochastic[0] in model.layers
        if stochastic and not known:
            raise ValueError(
                "A model of your own with a StochasticConv2D can not be exported: its windows have no way in"
            )
        self.layer = stochastic[0] if stochastic else None
        self.parts = AveragedPasses(model) if stochastic else None
        low = tf.TensorSpec((None, self.low_res, self.low_res, 3), tf.uint8, "low_res")
        self.signature = (low,)
        if stochastic:
            shape = (self.layer.filters, 2)
            self.signature += (
                tf.TensorSpec((None, self.high_res, self.high_res, 3), tf.uint8, "high_res"),
                tf.TensorSpec((None, *shape) if self.per_image else shape, tf.int32, "windows"),
            )
        # Traced once, and called by all endpoints.
        self.core = _function(self.probability, *self.signature)

    @property
    def per_image(self) -> bool:
        return self.layer.window_sharing == "image"

    def endpoints(self) -> dict:
        """Name -> tf.function with a signature."""
        encoded = tf.TensorSpec((None,), tf.string, "images")
        side = self.high_res or self.low_res
        pixels = tf.TensorSpec((None, side, side, 3), tf.uint8, "images")
        if self.layer is None:
            return {
                "serve": _function(lambda low_res: {"probability": self.core(low_res)}, *self.signature),
                "serve_image": _function(lambda images: {"probability": self.core(images)}, pixels),
                "serve_bytes": _function(lambda images: {"probability": self.core(**self.decode(images))}, encoded),
            }
        n = tf.TensorSpec((), tf.int32, "n")
        seed = tf.TensorSpec((), tf.int64, "seed")
        return {
            "serve": _function(self._drawn, *self.signature[:2]),
            "serve_windows": _function(
                lambda low_res, high_res, windows: {"probability": self.core(low_res, high_res, windows)},
                *self.signature,
            ),
            "serve_image": _function(lambda images: self._drawn(self.shrink(images), images), pixels),
            "serve_bytes": _function(lambda images: self._drawn(**self.decode(images)), encoded),
            "serve_averaged": _function(self._averaged, encoded, n),
            "serve_seeded": _function(self._seeded, encoded, seed),
        }

    def probability(self, low_res, high_res=None, windows=None):
        """float32 (batch,)."""
        low_res = tf.cast(low_res, tf.float32)
        if high_res is None:
            logits = self.model(low_res, training=False)
        else:
            logits = self.model({"low_res": low_res, "high_res": high_res}, training=False, windows=windows)
        return tf.sigmoid(tf.cast(logits[:, 0], tf.float32))

    def draw(self, images):
        """Windows from a source that nothing seeds: a generator's saved state would repeat itself in every server."""
        filters, window = self.layer.filters, self.layer.window
        shape = [tf.shape(images)[0], filters] if self.per_image else [filters]
        spans = [self.high_res - side + 1 for side in window]
        # Both seeds zero: seeded by the operating system when a process first runs this.
        columns = [
            tf.raw_ops.RandomUniformInt(shape=shape, minval=0, maxval=tf.constant(span), seed=0, seed2=0)
            for span in spans
        ]
        return tf.stack(columns, axis=-1)

    def shrink(self, images):
        """The small images, as the input pipeline makes them."""
        return reduce(images, self.low_res)

    def decode(self, encoded):
        """Encoded photographs -> dict of uint8 "low_res" and "high_res" (if the model has that)."""
        side = self.high_res or self.low_res
        indices = tf.range(tf.shape(encoded)[0])
        images = tf.map_fn(
            lambda pair: prepare_bytes(*pair, self.size, side),
            (encoded, indices),
            fn_output_signature=tf.TensorSpec((side, side, 3), tf.uint8),
        )
        if self.high_res is None:
            return {"low_res": images}
        return {"low_res": self.shrink(images), "high_res": images}

    def _drawn(self, low_res, high_res):
        return {"probability": self.core(low_res, high_res, self.draw(high_res))}

    def _averaged(self, images, n):
        with tf.control_dependencies([tf.debugging.Assert(n >= 1, ["n must be at least 1. Received:", n])]):
            n = tf.identity(n)
        inputs = self.decode(images)
        common = self.parts.global_branch(tf.cast(inputs["low_res"], tf.float32), training=False)

        def once(_):
            high_res = inputs["high_res"]
            detail = self.parts.detail_branch(high_res, training=False, windows=self.draw(high_res))
            logits = self.parts.head(tf.concat([common, detail], axis=-1), training=False)
            return tf.sigmoid(tf.cast(logits[:, 0], tf.float32))

        draws = tf.map_fn(once, tf.range(n), fn_output_signature=tf.TensorSpec((None,), tf.float32))
        return {"probability": tf.reduce_mean(draws, 0), "spread": tf.math.reduce_std(draws, 0)}

    def _seeded(self, images, seed):
        inputs = self.decode(images)
        spans = [self.high_res - side + 1 for side in self.layer.window]
        columns = [
            tf.random.stateless_uniform((self.layer.filters,), tf.stack([seed, axis]), 0, span, tf.int32)
            for axis, span in enumerate(spans)
        ]
        windows = tf.stack(columns, axis=-1)
        if self.per_image:
            windows = tf.tile(windows[None], [tf.shape(images)[0], 1, 1])
        return {"probability": self.core(**inputs, windows=windows)}


def prepare_bytes(encoded, index, size: int, side: int):
    """One encoded photograph through the steps of `prepare`, as operations of a graph.

    Args:
        encoded: scalar string: JPEG or PNG.
        index: scalar; its number in the request, for messages.
        size: side of the prepared square.
        side: side of the result, at most `size`.

    Returns:
        uint8 (side, side, 3).
    """
    settings = Settings()
    start = tf.io.decode_raw(tf.strings.substr(tf.strings.join([encoded, "\0" * 4]), 0, 4), tf.uint8)
    # Not what else TensorFlow decodes: it takes the palette of a BMP for grey, and the fourth byte for transparency.
    known = [b"\xff\xd8\xff", b"\x89PNG"]
    matches = [tf.reduce_all(start[: len(magic)] == tf.constant(list(magic), tf.uint8)) for magic in known]
    message = ["images", index, "is no photograph: it begins like no JPEG or PNG; bytes received:"]
    checked = tf.debugging.Assert(tf.reduce_any(matches), [*message, tf.strings.length(encoded)])
    with tf.control_dependencies([checked]):
        encoded = tf.identity(encoded)
    pixels = tf.cond(
        matches[0],
        # The accurate transform is the one that Pillow uses.
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(encoded, channels=0),
    )
    pixels = _upright(pixels, exif_orientation(encoded))
    shape = tf.shape(pixels)
    height, width = shape[0], shape[1]
    crop = tf.minimum(height, width) > settings.crop_over
    new_height, new_width = (tf.where(crop, settings.crop_to, n) for n in (height, width))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    pixels = tf.slice(pixels, [top, left, 0], [new_height, new_width, -1])
    image = tf.cond(tf.shape(pixels)[-1] == 3, lambda: tf.cast(pixels, tf.float32), lambda: _on_white(pixels))
    image = tf.ensure_shape(image, (None, None, 3))
    image = tf.image.resize(image, (size, size), method="lanczos3", antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
    return reduce(image, side) if side != size else image


def _on_white(pixels):
    """Three channels of one, two or four: grey is repeated, transparency laid over white. uint8 -> float32."""
    channels = tf.shape(pixels)[-1]
    alpha = tf.cond(
        channels % 2 == 0,
        lambda: tf.cast(pixels[..., -1:], tf.float32) / 255.0,
        lambda: tf.ones_like(pixels[..., :1], tf.float32),
    )
    colours = tf.where(channels <= 2, [0, 0, 0], [0, 1, 2])
    return tf.cast(tf.gather(pixels, colours, axis=-1), tf.float32) * alpha + 255.0 * (1.0 - alpha)


def exif_orientation(encoded):
    """The orientation tag of a JPEG, 1 to 8; 1 if it has none. Scalar string -> int32 scalar.

    Cameras store turned pictures as they were taken and note how to turn them (EXIF 2.32, tag 0x0112 of IFD 0).
    """
    # Padded, so that a broken file that points behind its end finds zeros.
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, EXIF_BYTES), tf.uint8), tf.int32)
    data = tf.pad(data, [[0, 512]])
    last = tf.shape(data)[0] - 1
    marker = list(b"Exif\0\0")
    count = tf.shape(data)[0] - len(marker)
    found = tf.reduce_all([data[n : n + count] == byte for n, byte in enumerate(marker)], axis=0)
    base = tf.cast(tf.argmax(tf.cast(found, tf.int32)), tf.int32) + len(marker)
    little = data[base] == ord("I")

    def short(position):
        first, second = (tf.gather(data, tf.clip_by_value(position + n, 0, last)) for n in (0, 1))
        return tf.where(little, first + 256 * second, second + 256 * first)

    # The offset has four bytes, of which two are enough for where a directory can stand here.
    directory = base + short(base + tf.where(little, 4, 6))
    entries = directory + 2 + 12 * tf.range(40)
    matches = (short(entries) == 0x0112) & (tf.range(40) < short(directory))
    value = tf.reduce_max(tf.where(matches, short(entries + 8), 0))
    valid = tf.reduce_any(found) & (data[0] == 0xFF) & (value >= 1) & (value <= 8)
    return tf.where(valid, value, 1)


def _upright(image, orientation):
    """Undoes an EXIF orientation: (height, width, channels), int32 scalar."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    for axis, turned in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        image = tf.cond(
            tf.reduce_any(tf.equal(orientation, turned)),
            lambda image=image, axis=axis: tf.reverse(image, [axis]),
            lambda image=image: image,
        )
    return image


def _is_export(folder: Path) -> bool:
    """Whether a folder is a SavedModel, or empty: what may be replaced without asking what else is in it."""
    return (folder / "saved_model.pb").is_file() or not any(folder.iterdir())


def _function(function, *signature):
    return tf.function(function, input_signature=signature, autograph=False)


def _loaded(model, which):
    if isinstance(model, str | Path):
        from keras_stoch.training import load_run

        return load_run(model, which)
    return model


@contextlib.contextmanager
def _replacing(path: Path):
    """A path beside `path` to write to, which takes its place once all is written."""
    partial = path.with_name(f".{os.getpid()}.partial-{path.name}")  # keeps the suffix, by which writers go
    old = path.with_name(f".{os.getpid()}.old-{path.name}")
    try:
        yield partial
        if path.is_dir():  # a folder can not be replaced in one step; the old one is deleted when the new one is there
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for left in (partial, old):
            if left.is_dir():
                shutil.rmtree(left)
            left.unlink(missing_ok=True)


def _saved_model(served, path):
    # Not in the form that is fastest here: a server may be another kind of machine, and TensorFlow Serving compiles
    # with XLA on CPUs only if told to.
    with _plain(served):
        _write_archive(served.model, served.endpoints(), path)


def _write_archive(model, endpoints, path):
    from keras.export import ExportArchive

    archive = ExportArchive()
    archive.track(model)
    for name, function in endpoints.items():
        archive.add_endpoint(name, function)
    archive.write_out(str(path), verbose=False)


def _keras(served, path):
    served.model.save(path)


def _function_of_windows(served, batch):
    """The function of "serve_windows" with float32 images, and its signature: what other runtimes know to take."""
    signature = tuple(
        tf.TensorSpec((batch, *spec.shape[1:]), tf.float32, spec.name) if spec.name != "windows" else spec
        for spec in served.signature
    )
    if served.layer is not None and served.per_image:
        signature = (*signature[:2], tf.TensorSpec((batch, *signature[2].shape[1:]), tf.int32, "windows"))
    return _function(lambda *given: {"probability": served.probability(*given)}, *signature), signature


@contextlib.contextmanager
def _plain(served):
    """A model in operations that every runtime has: the stochastic layer not compiled by XLA, and normalisation by
    constants, of which tf2onnx would make inputs if they were tensors."""
    import keras

    changed = []

    def change(item, name, value):
        changed.append((item, name, getattr(item, name)))
        setattr(item, name, value)

    if served.layer is not None:
        change(served.layer, "implementation", "slices")
    for layer in served.model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization) and layer.mean is not None:
            for name in ("mean", "variance"):
                change(layer, name, np.asarray(getattr(layer, name)))
    try:
        yield
    finally:
        for item, name, value in changed:
            setattr(item, name, value)


def _onnx(served, path):
    import tf2onnx

    function, signature = _function_of_windows(served, None)
    with _plain(served):
        tf2onnx.convert.from_function(function, input_signature=signature, opset=18, output_path=str(path))


def _litert(served, path):
    function, _ = _function_of_windows(served, 1)
    # By way of a SavedModel, for only that names inputs and outputs.
    with tempfile.TemporaryDirectory() as folder:
        with _plain(served):
            _write_archive(served.model, {"serve": function}, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
        path.write_bytes(converter.convert())
