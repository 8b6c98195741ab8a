"""The models that `python -m parity run` compares: official, keras_stoch and torch_ref, with equal random weights."""

import copy
import functools
import re

import numpy as np

from parity import kinds
from parity.adapters.base import Adapter
from parity.adapters.keras import KerasAdapter, keras_precision
from parity.adapters.torch import TorchAdapter

OFFICIAL = {"b0": "EfficientNetB0", "b4": "EfficientNetB4"}
PACKAGES = ("official", "keras_stoch", "torch_ref")
# Who is compared with whom. The reference comes first.
PAIRS = (("official", "keras_stoch"), ("official", "torch_ref"), ("torch_ref", "keras_stoch"))
BLOCK = re.compile(r"^((?:detail_)?block\d+[a-z]+)_")


def _told(name):
    return lambda layer: getattr(layer, name)


# Kinds that the instrument does not know: the stochastic convolution is laid out like an ordinary one.
kinds.register_kind(
    kinds.Kind(
        "conv",
        ("torch_ref.layers.StochasticConv2d",),
        ("keras_stoch.layers.StochasticConv2D",),
        settings=kinds.CONVOLUTION_SETTINGS
        | {name: (_told(name), _told(name)) for name in ("window", "output_size", "window_sharing", "normalize")},
    )
)
kinds.register_kind(
    kinds.Kind(
        "Rescaling",
        ("torch_ref.layers.Rescaling",),
        ("Rescaling",),
        settings={
            "scale": (lambda m: tuple(m.scale.float().flatten().tolist()), lambda k: kinds.as_float32(k.scale)),
        },
    )
)


def has(package: str, model: str) -> bool:
    """Whether a package has a model; the official one has no variants."""
    return package != "official" or model in OFFICIAL


def official_of(model: str) -> str | None:
    """The official model whose width and depth a variant has, if one has."""
    from keras_stoch.architectures import get_architecture as get

    size = get(model).width, get(model).depth
    return next((name for name in OFFICIAL if (get(name).width, get(name).depth) == size), None)


def pairs(model: str) -> list[tuple[str, str]]:
    """Of `PAIRS`, those whose packages have the model."""
    return [(reference, candidate) for reference, candidate in PAIRS if has(reference, model)]


class OfficialAdapter(KerasAdapter):
    """The official model, which takes no drop masks: its dropout layers are given them behind its back.

    Each becomes, in place, a layer that multiplies by the mask that was given and divides by the share that is kept,
    as dropout does. So the place, the rate and the scale of every dropout of the official model are compared too.
    """

    def __init__(self, model, name, names):
        import keras

        super().__init__(model, name, names)
        given = {}

        class GivenDropout(keras.layers.Dropout):
            def call(self, inputs, training=False):
                mask = given.get(self.name) if training and self.rate else None
                if mask is None:
                    return super().call(inputs, training=training)
                return inputs * keras.ops.cast(mask, inputs.dtype) / (1 - self.rate)

        for layer in model.layers:
            if type(layer) is keras.layers.Dropout:
                layer.__class__ = GivenDropout
        self.trainee = _TakesMasks(model, given)

    def call(self, tensors, training, draws):
        return self.trainee(tensors, training=training, **draws)


class _TakesMasks:
    """A model that takes `drop_masks` as those of `keras_stoch` do, and is itself in all else."""

    def __init__(self, model, given):
        self._model, self._given = model, given

    def __call__(self, inputs, training=False, drop_masks=None):
        self._given.clear()
        self._given.update(drop_masks or {})
        try:
            return self._model(inputs, training=training)
        finally:
            self._given.clear()

    def __getattr__(self, name):
        return getattr(self._model, name)


def build(package: str, model: str, size: int, dtype: str, **options) -> Adapter:
    """One model of one package behind an adapter.

    Args:
        package: one of `PACKAGES`.
        model: name of the architecture, one that the package has.
        size: of the low-resolution input in pixels.
        dtype: "float64" or "float32".
        **options: for `create_model` of both packages, for instance high_res.
    """
    if package == "torch_ref":
        import torch

        import torch_ref

        made = torch_ref.create_model(model, size, dtype=getattr(torch, dtype), **options)
        return TorchAdapter(made, package)
    import keras

    with keras_precision(dtype):
        if package == "keras_stoch":
            import keras_stoch

            adapter = KerasAdapter(keras_stoch.create_model(model, size, **options), package)
        else:
            made = getattr(keras.applications, OFFICIAL[model])(
                weights=None, classes=1, classifier_activation=None, input_shape=(size, size, 3)
            )
            # B4's own rate is 0.4, for which its constructor has no argument; `create_model` has 0.2 for every model.
            made.get_layer("top_dropout").rate = 0.2
            adapter = OfficialAdapter(made, package, [(r"^(normalization|rescaling)_\d+$", r"\1")])
    adapter.groups = block_names(adapter)
    return adapter


@functools.lru_cache(maxsize=8)
def shared(package: str, model: str, size: int, dtype: str, **options) -> Adapter:
    """As `build`, once a process: a Keras model takes seconds. Whoever uses it assigns weights first."""
    return build(package, model, size, dtype, **options)


def copied(adapter: TorchAdapter) -> TorchAdapter:
    """The same module once more, with weights of its own, in a fraction of the time that one takes to be built."""
    return TorchAdapter(copy.deepcopy(adapter.model), adapter.name)


def randomise(adapter: Adapter, inputs, seed: int, draws=None, given=None) -> dict[str, np.ndarray]:
    """Weights as a trained model might have them: no zeros, no ones, statistics near those of real activations.

    Initial weights hide faults: a bias of zero cannot be lost, a scale of one cannot be forgotten.

    Args:
        adapter: the model, whose weights are set; the one of `torch_ref` takes a tenth of a Keras model's time.
        inputs: a batch, for statistics near those of real activations.
        seed: of what is drawn.
        draws: of the model, for this batch.
        given: arrays by name to be taken instead of drawn ones.

    Returns:
        Arrays by canonical name, representable in float32, also assigned to `adapter`.
    """
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, weight in adapter.weights().items():
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
    arrays |= given or {}
    adapter.assign(arrays)
    batch = batch_statistics(
        adapter, inputs, {name: draw for name, draw in (draws or {}).items() if name != "drop_masks"}
    )
    for name, array in batch.items():
        if name.endswith("/moving_variance"):
            # A channel that hardly varies, about a large mean or among these few images alone, would blow up what the
            # layers before it round off, block by block: in 32 of them to activations of 5e5.
            mean = batch[name.replace("_variance", "_mean")]
            arrays[name] = (array + 0.25 * mean**2 + 0.25 * array.mean()) * rng.uniform(0.8, 1.25, array.shape)
        elif name.endswith("/moving_mean"):
            std = np.sqrt(batch[name.replace("_mean", "_variance")])
            arrays[name] = array + 0.2 * std * rng.normal(size=array.shape)
    arrays = {name: np.float32(array).astype(np.float64) for name, array in arrays.items()}
    adapter.assign(arrays)
    return arrays


def batch_statistics(adapter: Adapter, inputs, draws) -> dict[str, np.ndarray]:
    """Mean and variance of this batch at every batch norm, by the names of its moving averages, which are set to zero.

    They are what the averages have moved by, divided by 1 - momentum.
    """
    moving = [name for name in adapter.weights(trainable=False) if "/moving_" in name]
    settings = adapter.settings()
    adapter.assign({name: np.zeros_like(w.array) for name, w in adapter.weights(False).items() if name in moving})
    with adapter.without_dropout():
        adapter.outputs(inputs, training=True, draws=draws)
    moved = adapter.weights(trainable=False)
    return {name: moved[name].array / (1 - settings[name.rpartition("/")[0]]["momentum"]) for name in moving}


def make_draws(adapter: KerasAdapter, inputs, seed: int) -> dict:
    """Windows and drop masks for a model of `keras_stoch` on a batch, as its call takes them."""
    rng = np.random.default_rng(seed)
    first = inputs["low_res"] if isinstance(inputs, dict) else inputs
    batch, masks, draws = len(first), {}, {}
    for name, layer in adapter.layers().items():
        if getattr(layer, "rate", 0):
            shape = (batch, 1, 1, 1) if layer.noise_shape else (batch, layer.output.shape[-1])
            masks[name] = (rng.uniform(size=shape) >= layer.rate).astype(np.float64)
        if hasattr(layer, "draw_windows"):
            spans = np.array(inputs["high_res"].shape[1:3]) - layer.window + 1
            shape = (layer.filters, 2) if layer.window_sharing == "batch" else (batch, layer.filters, 2)
            draws["windows"] = rng.integers(0, spans, shape).astype(np.int32)
    return draws | {"drop_masks": masks}


def block_names(adapter: Adapter) -> tuple[str, ...]:
    """The blocks of an EfficientNet, by the prefix of its layers' names, in order."""
    found = (BLOCK.match(name) for name in adapter.layers())
    return tuple(dict.fromkeys(match.group(1) for match in found if match))


def with_detail(high_res: np.ndarray, low_res: int) -> dict[str, np.ndarray]:
    """Inputs of a model with a detail branch: the images as uint8, and box-averaged to `low_res` pixels a side."""
    from PIL import Image

    whole = np.uint8(np.clip(np.rint(high_res), 0, 255))
    small = [Image.fromarray(image).resize((low_res, low_res), Image.Resampling.BOX) for image in whole]
    return {"low_res": np.stack([np.asarray(image, np.float32) for image in small]), "high_res": whole}
