"""The models that `python -m parity run` compares: official, keras_stoch and torch_ref, with equal random weights."""

import contextlib

import numpy as np

from parity.capture import Subject, block_names, pair
from parity.capture_keras import KerasSubject
from parity.capture_torch import TorchSubject

OFFICIAL = {"b0": "EfficientNetB0", "b4": "EfficientNetB4"}
PACKAGES = ("official", "keras_stoch", "torch_ref")
# Who is compared with whom. The reference comes first.
PAIRS = (("official", "keras_stoch"), ("official", "torch_ref"), ("torch_ref", "keras_stoch"))


@contextlib.contextmanager
def keras_precision(dtype: str):
    """Keras builds models of this float type inside the context."""
    import keras

    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def build(package: str, model: str, size: int, dtype: str, **options) -> Subject | None:
    """One model of one package as a `Subject`; None if the package has no such model (official has no variants).

    Args:
        package: one of `PACKAGES`.
        model: name of the architecture.
        size: of the low-resolution input in pixels.
        dtype: "float64" or "float32".
        **options: for `create_model` of both packages, for instance high_res.
    """
    if package == "torch_ref":
        import torch

        import torch_ref

        return TorchSubject(
            torch_ref.create_model(model, size, dtype=getattr(torch, dtype), **options),
            package,
        )
    import keras

    with keras_precision(dtype):
        if package == "keras_stoch":
            import keras_stoch

            made = keras_stoch.create_model(model, size, **options)
        elif model in OFFICIAL:
            made = getattr(keras.applications, OFFICIAL[model])(
                weights=None, classes=1, classifier_activation=None, input_shape=(size, size, 3)
            )
            # B4's own rate is 0.4, for which its constructor has no argument; `create_model` has 0.2 for every model.
            made.get_layer("top_dropout").rate = 0.2
        else:
            return None
    names = [(r"^(normalization|rescaling)_\d+$", r"\1")] if package == "official" else None
    subject = KerasSubject(made, package, names)
    subject.groups = block_names(subject)
    return subject


def randomise(subject: KerasSubject, inputs, seed: int, draws=None) -> dict[str, np.ndarray]:
    """Weights as a trained model might have them: no zeros, no ones, statistics near those of real activations.

    Initial weights hide faults: a bias of zero cannot be lost, a scale of one cannot be forgotten.

    Returns:
        Arrays by canonical name, representable in float32, also assigned to `subject`.
    """
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, weight in subject.weights().items():
        variable, shape = name.rsplit("/", 1)[1], weight.array.shape
        if variable == "gamma":
            # Residual branches weaker than the stream they add to, as after training.
            arrays[name] = rng.uniform(0.6, 1.4, shape) * (0.5 if "project_bn" in name else 1.0)
        elif variable == "beta" or (variable == "bias" and weight.trainable):
            arrays[name] = rng.normal(0, 0.2, shape)
        elif variable == "kernel":
            fan_in = np.prod(shape[:2] if name.endswith("dwconv/kernel") else shape[:-1])
            arrays[name] = rng.normal(0, np.sqrt(1.0 / fan_in), shape)
        elif variable == "mean":
            arrays[name] = rng.uniform(0.3, 0.6, shape)
        elif variable == "variance":
            arrays[name] = rng.uniform(0.04, 0.09, shape)
    subject.assign(arrays)
    norms = [layer for layer in subject.layers().values() if type(layer).__name__ == "BatchNormalization"]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:  # without momentum the moving averages become those of this batch
        layer.momentum = 0.0
    with subject.without_dropout():
        subject(inputs, training=True, draws=draws)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    weights = subject.weights()
    for name, weight in weights.items():
        shape = weight.array.shape
        if name.endswith("/moving_variance"):
            # A channel that hardly varies about a large mean would blow up what the layers before it round off.
            mean = weights[name.replace("_variance", "_mean")].array
            arrays[name] = (weight.array + 0.25 * mean**2) * rng.uniform(0.8, 1.25, shape)
        elif name.endswith("/moving_mean"):
            std = np.sqrt(weights[name.replace("_mean", "_variance")].array)
            arrays[name] = weight.array + 0.2 * std * rng.normal(size=shape)
    arrays = {name: np.float32(array).astype(np.float64) for name, array in arrays.items()}
    subject.assign(arrays)
    return arrays


def make_draws(subject: KerasSubject, inputs, seed: int) -> dict:
    """Windows and drop masks for a model of `keras_stoch` on a batch, as its call takes them."""
    rng = np.random.default_rng(seed)
    first = inputs["low_res"] if isinstance(inputs, dict) else inputs
    batch, masks, draws = len(first), {}, {}
    for name, layer in subject.layers().items():
        if getattr(layer, "rate", 0):
            shape = (batch, 1, 1, 1) if layer.noise_shape else (batch, layer.output.shape[-1])
            masks[name] = (rng.uniform(size=shape) >= layer.rate).astype(np.float64)
        if hasattr(layer, "draw_windows"):
            spans = np.array(inputs["high_res"].shape[1:3]) - layer.window + 1
            shape = (layer.filters, 2) if layer.window_sharing == "batch" else (batch, layer.filters, 2)
            draws["windows"] = rng.integers(0, spans, shape).astype(np.int32)
    return draws | {"drop_masks": masks}


__all__ = ["OFFICIAL", "PACKAGES", "PAIRS", "build", "keras_precision", "make_draws", "pair", "randomise"]
