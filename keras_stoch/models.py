"""`create_model`: every architecture of the table, from one builder."""

import dataclasses
import math

import keras

from keras_stoch import layers
from keras_stoch.architectures import get_architecture
from keras_stoch.checkpoints import IMAGENET_STDDEV_RGB, load_official_weights, read_official_weights

HIGH_RES = "high_res"


@keras.saving.register_keras_serializable("keras_stoch")
class StochasticModel(keras.Model):
    """A functional model whose random draws can be injected.

    It is called, trained, saved and loaded like any functional Keras model.

    Call arguments:
        inputs: pixel values from 0 to 255, (B, H, W, 3); a dict of "low_res" and "high_res" for
            models with a detail branch.
        training: bool.
        windows: optional int32 offsets for the stochastic stem, see `StochasticConv2D`.
        drop_masks: optional dict of layer name to mask, see `keras_stoch.layers.Dropout`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._register_call_context_args("windows", "drop_masks")

    def _convert_inputs_to_tensors(self, flat_inputs):
        # Keras would make float32 of the high-resolution image, four times the bytes, before the layer that reads
        # uint8 as it is has seen it.
        converted = []
        for x, declared in zip(flat_inputs, self._inputs, strict=True):
            whole = "int" in keras.backend.standardize_dtype(x.dtype) if hasattr(x, "dtype") else False
            raw = declared.name == HIGH_RES and whole
            converted.append(keras.ops.convert_to_tensor(x, None if raw else declared.dtype))
        return converted


@keras.saving.register_keras_serializable("keras_stoch")
class EfficientNet(StochasticModel):
    """A `StochasticModel` made by `create_model`."""


def create_model(
    name: str,
    low_res: int | tuple[int, int] | None = None,
    high_res: int | tuple[int, int] | None = None,
    num_classes: int = 1,
    dropout: float = 0.2,
    drop_connect: float = 0.2,
    activation: str | None = None,
    weights=None,
    imagenet_rescaling: bool | None = None,
    window_sharing: str = "batch",
    implementation: str = "auto",
    seed: int | None = None,
    dtype=None,
) -> EfficientNet:
    """Builds a model by name.

    Layer names, initialisers, padding, epsilon and momentum are those of `keras.applications.EfficientNet`, so
    that its checkpoints load by name.

    Args:
        name: "b0", "b0-stem64", "b4", "stem-b0", "stem-b4", "skip-b0" or "split-b0".
        low_res: height and width of the input in pixels, an int for squares. Defaults to the size the
            architecture is made for: 224, and 380 for B4.
        high_res: height and width of the high-resolution input of the last four, 1024 by default.
        num_classes: size of the output.
        dropout: float in [0, 1), rate before the last dense layer.
        drop_connect: float in [0, 1), the drop-connect rate that the last block would reach.
        activation: of the output. None (default) gives logits.
        weights: official weights to start from: a `keras.applications` model, or the path of an `.h5`,
            `.weights.h5` or `.keras` file saved from one, with or without its top.
        imagenet_rescaling: whether inputs are scaled once more by 1/sqrt(standard deviation) after the
            normalisation, as `keras.applications` does for weights="imagenet". None (default) asks the weights, and
            warns where they do not tell.
        window_sharing: "batch" or "image", see `StochasticConv2D`.
        implementation: of the stochastic convolution, see `StochasticConv2D`.
        seed: int, for reproducible windows.
        dtype: dtype policy of every layer, for instance "mixed_bfloat16". Defaults to Keras's global policy.

    Returns:
        An `EfficientNet` from pixel values 0-255 (B, H, W, 3), uint8 or float, to (B, num_classes). Models with a
        detail branch take a dict of "low_res" and "high_res".

    Raises:
        ValueError: for an unknown name or an argument out of range; where Keras is set to channels first; for weights
            that lack a tensor or hold one of another shape.

    Example:

    ```python
    >>> model = keras_stoch.create_model("b0", low_res=224)
    >>> model(images).shape  # images: (8, 224, 224, 3), values 0-255
    (8, 1)
    ```

    Reference: sections 4.1.1-4.1.4 of the paper; Tan and Le, EfficientNet, 2019.
    """
    architecture = get_architecture(name)
    layers.check_channels_last()
    size = check_size("low_res", architecture.low_res if low_res is None else low_res)
    if high_res is not None and architecture.join is None:
        raise ValueError(f"{name!r} has no high-resolution input. Received: high_res={high_res!r}")
    large = check_size("high_res", architecture.high_res if high_res is None else high_res)
    check_rate("dropout", dropout)
    check_rate("drop_connect", drop_connect)
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes must be a positive int. Received: num_classes={num_classes!r}")
    official = None if weights is None else read_official_weights(weights)
    if imagenet_rescaling is None:
        imagenet_rescaling = official is not None and official.imagenet_rescaling
    elif official is not None and not official.certain:
        official = dataclasses.replace(official, imagenet_rescaling=imagenet_rescaling, certain=True)

    inputs = keras.Input((*size, 3), name="low_res")
    x = keras.layers.Rescaling(1.0 / 255.0, dtype=dtype, name="rescaling")(inputs)
    x = keras.layers.Normalization(dtype=dtype, name="normalization")(x)
    if imagenet_rescaling:
        scale = [1.0 / math.sqrt(stddev) for stddev in IMAGENET_STDDEV_RGB]
        x = keras.layers.Rescaling(scale, dtype=dtype, name="rescaling_1")(x)
    branches = {"": layers.stem(x, architecture.stem_filters, dtype=dtype)}
    if architecture.join is not None:
        images = keras.Input((*large, 3), name=HIGH_RES)
        inputs = {"low_res": inputs, HIGH_RES: images}
        branches["detail_"] = layers.stochastic_stem(
            images,
            architecture.stem_filters,
            tuple(branches[""].shape[1:3]),
            window_sharing=window_sharing,
            implementation=implementation,
            seed=seed,
            dtype=dtype,
        )

    def join(place):
        """Concatenates the branches, global first, if this is where they meet."""
        if architecture.join == place:
            both = keras.layers.Concatenate(dtype=dtype, name="join")(list(branches.values()))
            branches.clear()
            branches[""] = both

    join("stem")
    for block in architecture.blocks:
        for prefix, x in branches.items():
            branches[prefix] = layers.inverted_bottleneck(x, block, drop_connect, prefix, dtype=dtype)
        join(block.name)
    for prefix, x in branches.items():
        branches[prefix] = layers.top(x, architecture.top_filters, prefix, dtype=dtype)
    join("avg_pool")
    (x,) = branches.values()
    if dropout > 0:
        x = layers.Dropout(dropout, dtype=dtype, name="top_dropout")(x)
    # In float32 at least: a loss on half-precision logits is not to be trusted.
    compute = keras.dtype_policies.get(dtype).compute_dtype
    x = keras.layers.Dense(
        num_classes,
        activation=activation,
        kernel_initializer=layers.DENSE_INITIALIZER,
        dtype="float32" if compute in ("float16", "bfloat16") else dtype,
        name="predictions",
    )(x)

    model = EfficientNet(inputs, x, name=name.replace("-", "_"))
    if official is not None:
        load_official_weights(model, official)
    return model


def load_model(path, **kwargs) -> keras.Model:
    """`keras.models.load_model` with this package's layers known to it, in whatever order things were imported.

    Args:
        path: of a `.keras` file.
        **kwargs: passed on.
    """
    return keras.models.load_model(path, **kwargs)


def model_from_json(text: str) -> keras.Model:
    """`keras.models.model_from_json` with this package's layers known to it.

    Args:
        text: of `model.to_json()`.
    """
    return keras.models.model_from_json(text)


def check_size(argument: str, value) -> tuple[int, int]:
    """An int or a pair of ints of at least 32 pixels as `(height, width)`; ValueError otherwise."""
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(n, int) and n >= 32 for n in pair):
        raise ValueError(
            f"{argument} must be an int or a (height, width) of ints, at least 32 pixels each. "
            f"Received: {argument}={value!r}"
        )
    return tuple(pair)


def check_rate(argument: str, value: float) -> None:
    """ValueError unless `value` is a number in [0, 1)."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{argument} must be a number in [0, 1). Received: {argument}={value!r}")
