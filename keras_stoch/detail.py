"""`add_detail`: any backbone twice, the second behind a stochastic stem, joined before the dense layer."""

import copy

import keras
import numpy as np

from keras_stoch import layers
from keras_stoch.models import HIGH_RES, StochasticModel, check_rate, check_size

RESERVED = ("low_res", HIGH_RES, "join", "top_dropout", "predictions")
RESCALE = 1 / 255  # of the stochastic stem; what else the pixels go through is in its mean and variance
BETWEEN = "stands between the pixels and the first convolution, and"
ALLOWED = (
    "a stochastic stem can take the place of a Conv2D that reads the image itself, whose pixels are padded, scaled, "
    "shifted, and their channels reordered at most"
)
HEAD = (keras.layers.Activation, keras.layers.Softmax, keras.layers.Dropout)  # what may follow or lead a last Dense


def add_detail(
    backbone: keras.Model,
    high_res: int | tuple[int, int] = 1024,
    low_res: int | tuple[int, int] | None = None,
    num_classes: int = 1,
    dropout: float = 0.2,
    activation: str | None = None,
    window_sharing: str = "batch",
    implementation: str = "auto",
    seed: int | None = None,
) -> StochasticModel:
    """Gives a backbone a detail branch: what `split-b0` is to `b0`.

    Both branches are copies of the backbone with its weights. In the second, a `StochasticConv2D` with the kernel of
    the first convolution takes its place, and reads the high-resolution image as it is: what the backbone does to
    pixels before (scale, shift, another order of channels) is folded into the kernel, and its padding is left out. The
    pooled features of both are joined before a new dense layer.

    Args:
        backbone: a functional or sequential Keras model of images (B, H, W, 3), pixel values 0 to 255, whose first
            layer with weights is a `Conv2D`: of `keras.applications`, keras-hub, or your own. It gives feature maps,
            which are averaged, or a vector (B, features). A top, which is a last Dense layer and the dropout before
            it, is left out. It is copied, and not changed.
        high_res: height and width of the high-resolution input in pixels, an int for squares.
        low_res: of the input of the first branch; the backbone's own if left out, and needed where that is open.
        num_classes: size of the output.
        dropout: float in [0, 1), rate before the dense layer.
        activation: of the output. None (default) gives logits.
        window_sharing, implementation: see `StochasticConv2D`.
        seed: int, for reproducible windows.

    Returns:
        A `StochasticModel` from a dict of "low_res" and "high_res", pixel values 0-255 (B, H, W, 3), to
        (B, num_classes). `fit` (which takes a function that makes it), `evaluate`, `AveragedPasses`, `evidence` and
        `export` treat it as a model by name. Layers keep their names, those of the second branch after "detail_".

    Raises:
        ValueError: naming the layer and why, where a stochastic stem can not take the place of the first convolution;
            for a model with several inputs or outputs, other channels, or a layer that can not be copied; for images
            smaller than a window.

    Example:

    ```python
    >>> backbone = keras.applications.ConvNeXtTiny(include_top=False, weights=None, input_shape=(224, 224, 3))
    >>> model = keras_stoch.add_detail(backbone, high_res=1024)
    >>> model({"low_res": small, "high_res": large}).shape  # uint8 (8, 224, 224, 3) and (8, 1024, 1024, 3)
    (8, 1)
    ```
    """
    layers.check_channels_last()
    check_rate("dropout", dropout)
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise ValueError(f"num_classes must be a positive int. Received: num_classes={num_classes!r}")
    size, large = _size(backbone, low_res), check_size("high_res", high_res)
    low = keras.Input((*size, 3), name="low_res")
    high = keras.Input((*large, 3), name=HIGH_RES)
    graph = _Graph(low)
    features = _without_top(graph, graph.walk(backbone, low))
    first = _first(graph)
    stem = _stochastic(first, graph, window_sharing, implementation, seed)
    branches = [features, graph.replay(features, first, stem, high)]
    graph.copy_weights()
    _fold(stem, first, graph.before, low)
    if len(features.shape) == 4:
        names = [graph.free(name) for name in ("avg_pool", "detail_avg_pool")]
        pooled = zip(names, branches, strict=True)
        branches = [keras.layers.GlobalAveragePooling2D(dtype="float32", name=name)(x) for name, x in pooled]
    x = keras.layers.Concatenate(name="join")(branches)
    if dropout > 0:
        x = layers.Dropout(dropout, name="top_dropout")(x)
    # In float32 at least, as in `create_model`.
    half = keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
    x = keras.layers.Dense(
        num_classes,
        activation=activation,
        kernel_initializer=layers.DENSE_INITIALIZER,
        dtype="float32" if half else None,
        name="predictions",
    )(x)
    return StochasticModel({"low_res": low, HIGH_RES: high}, x, name=f"split_{backbone.name}")


def _size(backbone, low_res) -> tuple[int, int]:
    """(height, width) of the first branch."""
    functional = hasattr(backbone, "inputs") and (
        isinstance(backbone, keras.Sequential) or hasattr(backbone, "_run_through_graph")
    )
    if not isinstance(backbone, keras.Model) or not functional or not backbone.inputs:
        raise ValueError(
            "backbone must be a functional or sequential Keras model that is built, whose layers can be seen. "
            f"Received: {backbone!r}"
        )
    for what, tensors in (("input", backbone.inputs), ("output", backbone.outputs)):
        if len(tensors) != 1:
            raise ValueError(f"backbone must have one {what}. Received: {len(tensors)} of {backbone.name!r}")
    shape = tuple(backbone.inputs[0].shape)
    if len(shape) != 4 or shape[-1] not in (3, None):
        raise ValueError(f"backbone must take images (batch, height, width, 3). Received: {shape}")
    if low_res is not None:
        return check_size("low_res", low_res)
    if None in shape[1:3]:
        raise ValueError(f"{backbone.name!r} takes images of any size: low_res must say which. Received: low_res=None")
    return check_size("low_res", tuple(shape[1:3]))


class _Graph:
    """A model and those inside it as one list of calls, on copies of their layers.

    Args:
        start: tensor that the image is.

    Attributes:
        calls: (layer of the model, its copy, arguments, keyword arguments, outputs) in order.
        sources: the call that a tensor comes from, by the tensor's id.
        before, takers: the calls that make other pixels of the image, and those that take these for something else.
    """

    def __init__(self, start):
        self.calls, self.sources, self.copies, self.used = [], {}, {}, set()
        self.before, self.takers, self.pixels = [], [], {id(start)}

    def free(self, name: str) -> str:
        """A name that no layer has yet."""
        name = f"backbone_{name}" if name in RESERVED else name
        free, number = name, 1
        while free in self.used:
            free, number = f"{name}_{number}", number + 1
        self.used.add(free)
        return free

    def copy(self, operation, prefix=""):
        """The copy of a layer or operation; one that is called again is the same."""
        key = id(operation), prefix
        if key not in self.copies:
            name = self.free(prefix + operation.name)
            if isinstance(operation, keras.layers.Layer):
                try:
                    made = type(operation).from_config(operation.get_config() | {"name": name})
                except Exception as error:
                    raise ValueError(f"{_told(operation)} can not be copied from its configuration: {error}") from error
            else:  # without state
                made = copy.copy(operation)
                made.name, made._inbound_nodes, made._outbound_nodes = name, [], []
            self.copies[key] = operation, made
        return self.copies[key][1]

    def walk(self, model, tensor):
        """Calls copies of all that a model calls, and returns its output."""
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                tensor = self._call(layer, (tensor,), {})
            return tensor

        def call(operation, *args, **kwargs):
            return self._call(operation, args, kwargs)

        (output,) = keras.tree.flatten(model._run_through_graph(tensor, operation_fn=lambda same: same, call_fn=call))
        return output

    def _call(self, operation, args, kwargs):
        if isinstance(operation, keras.Sequential) or hasattr(operation, "_run_through_graph"):
            if len(keras.tree.flatten(args)) != 1 or len(operation.outputs) != 1:
                raise ValueError(f"{_told(operation)} is a model of several inputs or outputs inside of the backbone")
            return self.walk(operation, keras.tree.flatten(args)[0])
        tensors = [t for t in keras.tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        of_pixels = [id(t) in self.pixels for t in tensors]
        takes = any(of_pixels) and (isinstance(operation, keras.layers.Conv2D) or not all(of_pixels))
        if any(of_pixels) and not takes and (why := _unfit(operation)):
            raise ValueError(f"{_told(operation)} {BETWEEN} {why}: {ALLOWED}")
        made = self.copy(operation)
        outputs = made(*args, **kwargs)
        self.calls.append(call := (operation, made, args, kwargs, outputs))
        self.sources |= {id(tensor): call for tensor in keras.tree.flatten(outputs)}
        if takes:
            self.takers.append(call)
        elif any(of_pixels):
            self.before.append(call)
            self.pixels |= {id(tensor) for tensor in keras.tree.flatten(outputs)}
        return outputs

    def giving(self, tensor):
        """The call that a tensor comes from; None for the image."""
        return self.sources.get(id(tensor))

    def replay(self, features, first, stem, high):
        """The features of a second copy of everything behind the first convolution, which `stem` takes the place of."""
        needed, left = set(), [features]
        while left:
            call = self.giving(left.pop())
            if call is None or id(call) in needed:
                continue
            needed.add(id(call))
            left += [t for t in keras.tree.flatten((call[2], call[3])) if isinstance(t, keras.KerasTensor)]
        known = {id(first[4]): stem(high)}
        skipped = {id(first), *map(id, self.before)}
        for call in self.calls:
            if id(call) in skipped or id(call) not in needed:
                continue
            operation, _, args, kwargs, outputs = call
            args, kwargs = keras.tree.map_structure(lambda t: known.get(id(t), t), (args, kwargs))
            made = self.copy(operation, "detail_")(*args, **kwargs)
            for old, new in zip(keras.tree.flatten(outputs), keras.tree.flatten(made), strict=True):
                known[id(old)] = new
        return known[id(features)]

    def copy_weights(self):
        """Gives all copies the weights of what they are copies of."""
        for operation, made in self.copies.values():
            if getattr(operation, "weights", None) and made.built:
                made.set_weights(operation.get_weights())
            if hasattr(made, "finalize_state"):  # Normalization keeps constants made of its weights
                made.finalize_state()


def _told(operation) -> str:
    return f"layer {operation.name!r} ({type(operation).__name__})"


def _without_top(graph, output):
    """The features that a last Dense layer is fed with, or the output where there is none.

    Raises:
        ValueError: for features that are neither maps nor a vector.
    """
    tensor, call = output, graph.giving(output)
    while call is not None and isinstance(call[0], HEAD):
        tensor = keras.tree.flatten(call[2])[0]
        call = graph.giving(tensor)
    if call is not None and type(call[0]) is keras.layers.Dense and len(call[4].shape) == 2:
        output = keras.tree.flatten(call[2])[0]
        while (call := graph.giving(output)) is not None and isinstance(call[0], keras.layers.Dropout):
            output = keras.tree.flatten(call[2])[0]
    if len(output.shape) not in (2, 4) or None in output.shape[1:]:
        raise ValueError(
            "backbone must put out feature maps (batch, height, width, channels) or a vector (batch, features). "
            f"Received: {tuple(output.shape)}"
        )
    return output


def _first(graph):
    """The call of the convolution that the image goes into.

    Raises:
        ValueError: naming what else it goes into, or why a stochastic stem can not take its place.
    """
    if len(graph.takers) != 1:
        names = " and ".join(_told(call[0]) for call in graph.takers) or "none"
        raise ValueError(f"The image must go into one convolution: {ALLOWED}. Received: {names}")
    _check_convolution(graph.takers[0][0])
    return graph.takers[0]


def _check_convolution(operation):
    if operation.groups != 1 or tuple(operation.dilation_rate) != (1, 1) or operation.data_format != "channels_last":
        raise ValueError(
            f"{_told(operation)}, the first convolution, must have one group, no dilation and channels last for a "
            f"stochastic stem to take its place. Received: groups={operation.groups}, dilation_rate="
            f"{tuple(operation.dilation_rate)}, data_format={operation.data_format!r}"
        )
    if type(operation) is not keras.layers.Conv2D:
        raise ValueError(f"{_told(operation)}, the first convolution, must be a keras.layers.Conv2D, and no subclass")
    held = [name for name in ("kernel_regularizer", "bias_regularizer", "kernel_constraint", "bias_constraint",
                              "activity_regularizer") if getattr(operation, name, None) is not None]  # fmt: skip
    if held or getattr(operation, "lora_enabled", False):
        raise ValueError(f"{_told(operation)}, the first convolution, has {', '.join(held) or 'LoRA'}, which a "
                         "stochastic convolution has not")  # fmt: skip


def _unfit(operation) -> str | None:
    """Why a layer may not stand before the first convolution, None if it may, as far as can be seen without numbers."""
    norm = isinstance(operation, keras.layers.BatchNormalization)
    if getattr(operation, "trainable_variables", None) or (norm and operation.trainable):
        return "learns"
    if getattr(operation, "_seed_generators", None):
        return "draws at random, for the two branches apart"
    return None


def _stochastic(first, graph, window_sharing, implementation, seed):
    """The layer that takes the place of the first convolution, not built."""
    operation, _, _, _, outputs = first
    return layers.StochasticConv2D(
        operation.filters,
        tuple(operation.kernel_size),
        output_size=tuple(outputs.shape[1:3]),
        strides=tuple(operation.strides),
        window_sharing=window_sharing,
        implementation=implementation,
        activation=operation.activation,
        use_bias=operation.use_bias,
        kernel_initializer=operation.kernel_initializer,
        bias_initializer=operation.bias_initializer,
        rescale=RESCALE,
        normalize=True,
        seed=seed,
        trainable=operation.trainable,
        dtype=operation.dtype_policy,
        name=graph.free(f"detail_{operation.name}"),
    )


def _fold(stem, first, chain, low):
    """Gives the stochastic stem the weights of the first convolution, for pixels as they are.

    Raises:
        ValueError: naming the layer that does something else than scaling and shifting channels.
    """
    operation = first[0]
    source, scale, shift = _pixelwise(chain, first, low)
    kernel, *bias = operation.get_weights()
    order = np.argsort(source)  # which channel of the convolution reads each channel of the image
    stem.kernel.assign(kernel[:, :, order])
    if bias:
        stem.bias.assign(bias[0])
    # scale x + shift = (rescale x - mean) / std
    std = RESCALE / scale[order]
    stem.mean.assign(-shift[order] * std)
    stem.variance.assign(std**2)


def _pixelwise(chain, first, low):
    """What is done to pixels before the first convolution: channel n of it is scale[n] x[source[n]] + shift[n].

    Found with numbers, whatever the layers are called: from four plain images, and proved on one that is not.
    """
    size = tuple(low.shape[1:3])
    plain = [np.broadcast_to(colour, (*size, 3)) for colour in (np.zeros(3), *(255 * np.eye(3)))]
    given = np.stack([*plain, np.random.default_rng(0).uniform(0, 255, (*size, 3))])
    values = {id(low): np.float32(given)}
    matrix, shift = np.eye(3), np.zeros(3)
    for operation, made, args, kwargs, outputs in chain:
        flat = [values.get(id(t), t) for t in keras.tree.flatten((args, kwargs))]
        args, kwargs = keras.tree.pack_sequence_as((args, kwargs), flat)
        if isinstance(operation, keras.layers.ZeroPadding2D):
            found = [flat[0]]
        else:
            found = [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(made(*args, **kwargs))]
        for tensor, value in zip(keras.tree.flatten(outputs), found, strict=True):
            values[id(tensor)] = value
            if tuple(value.shape[:3]) != (len(given), *size) or value.ndim > 4:
                raise ValueError(f"{_told(operation)} {BETWEEN} makes {tuple(tensor.shape)} of the image: {ALLOWED}")
            pixels = np.float64(value.reshape((*value.shape[:3], -1)))
            shift = pixels[0, 0, 0]
            matrix = (pixels[1:4, 0, 0] - shift) / 255  # (channel of the image, channel that comes out)
            room = 1e-4 * max(1.0, np.abs(pixels).max())
            if not np.allclose(pixels, given @ matrix + shift, rtol=0, atol=room):
                raise ValueError(f"{_told(operation)} {BETWEEN} does something else with them: {ALLOWED}")
            if matrix.min() < -1e-6 * np.abs(matrix).max():
                raise ValueError(f"{_told(operation)} {BETWEEN} turns dark and light around: {ALLOWED}")
    pixels = np.float64(values[id(keras.tree.flatten(first[2])[0])])
    shift = pixels[0, 0, 0]
    matrix = (pixels[1:4, 0, 0] - shift) / 255
    used = matrix > 1e-6 * matrix.max()
    if matrix.shape != (3, 3) or (used.sum(0) != 1).any() or (used.sum(1) != 1).any():
        last = _told(chain[-1][0])
        raise ValueError(f"{last} {BETWEEN} makes others of the three channels: {ALLOWED}")
    return np.argmax(used, 0), matrix.sum(0), shift
