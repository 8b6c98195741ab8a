"""The layers that Keras does not have, and the pieces of EfficientNet built from those it has."""

import keras
import numpy as np
from keras import ops

from keras_stoch import stochastic
from keras_stoch.architectures import SQUEEZE_RATIO, Block
from keras_stoch.norms import BatchNormalization
from keras_stoch.windows import check_count, check_fits, check_windows, draw_windows, replica_seed, window_size

# The initialisers of keras.applications.EfficientNet.
CONV_INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"},
}
DENSE_INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1.0 / 3.0, "mode": "fan_out", "distribution": "uniform"},
}


@keras.saving.register_keras_serializable("keras_stoch")
class Dropout(keras.layers.Dropout):
    """Dropout whose mask can be given instead of drawn.

    Without `drop_masks` this is `keras.layers.Dropout`, but that replicas of a tf.distribute strategy draw different
    masks. With them, two frameworks can train on the same draws.

    Args:
        rate: float in [0, 1), the fraction of values to drop.
        noise_shape: shape of the mask with None for "as the input"; `(None, 1, 1, 1)` drops whole images, which
            is how EfficientNet's drop connect (stochastic depth) works.
        seed: int or `keras.random.SeedGenerator`.

    Call arguments:
        inputs: float tensor of any shape.
        training: bool, values are dropped only when true.
        drop_masks: dict of layer name to a tensor of zeros (drop) and ones (keep) that broadcasts against
            `inputs`. Where it has no entry for this layer, the mask is drawn. Usually passed to the model.

    Input shape: arbitrary.
    Output shape: same as the input.
    """

    def __init__(self, rate, noise_shape=None, seed=None, **kwargs):
        super().__init__(rate, noise_shape=noise_shape, seed=seed, **kwargs)
        self._register_call_context_args("drop_masks")

    def call(self, inputs, training=False, drop_masks=None):
        if not training or self.rate == 0:
            return inputs
        if drop_masks is not None and self.name in drop_masks:
            return inputs * ops.cast(drop_masks[self.name], inputs.dtype) / (1.0 - self.rate)
        seed = replica_seed(self.seed_generator)
        if seed is None:
            return super().call(inputs, training=training)
        import tensorflow as tf

        shape = tf.unstack(tf.shape(inputs))
        if self.noise_shape is not None:
            shape = [n if given is None else given for n, given in zip(shape, self.noise_shape, strict=True)]
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed, noise_shape=tf.stack(shape))


def check_channels_last(data_format: str | None = None):
    """ValueError where images would be (batch, channels, height, width), by an argument or by Keras's configuration."""
    given = data_format or keras.config.image_data_format()
    if given != "channels_last":
        wrong = f"data_format={given!r}" if data_format else f"keras.config.image_data_format() == {given!r}"
        raise ValueError(
            "keras_stoch takes images of (batch, height, width, channels) alone: transpose yours, and leave "
            f"data_format or keras.config.set_image_data_format at 'channels_last'. Received: {wrong}"
        )


@keras.saving.register_keras_serializable("keras_stoch")
class StochasticConv2D(keras.layers.Layer):
    """Convolves every output channel's kernel over its own random window of a high-resolution image.

    The window of a kernel is just large enough, M = (P - 1) S + K rows and N = (Q - 1) T + L columns, to give a map of
    P x Q without padding; where it lies is drawn anew on every call, in training and at inference alike. The
    cost is that of a convolution over an image of the window's size, however large the image is.

    Because nothing is padded, input normalisation folds exactly into kernel and bias: with `rescale` and `normalize`
    the layer reads uint8 pixels as they are, a quarter of the memory traffic of float32.

    Args:
        filters: F, number of output channels.
        kernel_size: int or (K, L).
        output_size: int or (P, Q), size of the output maps.
        strides: int or (S, T).
        window_sharing: "batch" (all images of a batch share one draw, as in the paper's experiments) or "image"
            (every image has its own, as the paper intended).
        implementation: "auto", or one of "naive", "slices", "blocks", "gather", "indexed", "taps", see
            `keras_stoch.stochastic`. All give the same result.
        activation: name of an activation or a function; None for none.
        use_bias: whether to add a bias.
        kernel_initializer, bias_initializer: initialisers.
        rescale: float, factor on the pixels, 1/255 for pixels from 0 to 255.
        normalize: whether to subtract a mean and divide by a standard deviation per channel after rescaling. They
            are non-trainable weights `mean` and `variance`, 0 and 1 until set.
        image_gradient: whether gradients flow back to the image. Off by default: the images are data.
        seed: int, for reproducible draws.

    Call arguments:
        images: uint8 or float tensor.
        windows: int32 tensor of (top, left) offsets to use instead of a draw, (F, 2) or (B, F, 2). May be passed to a
            whole `EfficientNet`.

    Input shape: (B, H, W, C), H and W at least the window's M and N.
    Output shape: (B, P, Q, F), where (P, Q) is `output_size`.

    Raises:
        ValueError: for arguments out of range, when an image is smaller than the window, and when `windows` reach
            beyond it. Inside of a graph that can't be told: "taps" then returns NaN, "gather" and "indexed" read other
            pixels, and the others fail or move the window.

    On a GPU "auto" is "indexed" where XLA or torch.compile is at work, and "gather" elsewhere, which is some ten times
    as slow: train with `jit_compile=True` there.

    What profits from XLA on a CPU is compiled by the layer itself. Under `jit_compile=True` the layer becomes part of
    what is compiled, once for all draws; "naive", "slices" and "blocks" would be compiled anew for every draw there,
    as TensorFlow's XLA takes the offsets of slices for constants.

    Example:

    ```python
    >>> layer = StochasticConv2D(32, 3, output_size=112, strides=2, rescale=1 / 255)
    >>> layer(photographs).shape  # photographs: (8, 1024, 1024, 3), uint8
    (8, 112, 112, 32)
    ```

    Reference: sections 3.2.1 and 4.2.3 of the paper.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        output_size,
        strides=1,
        window_sharing="batch",
        implementation="auto",
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        rescale=1.0,
        normalize=False,
        image_gradient=False,
        seed=None,
        **kwargs,
    ):
        check_channels_last(kwargs.pop("data_format", None))
        super().__init__(**kwargs)
        if not isinstance(filters, int) or filters < 1:
            raise ValueError(f"filters must be a positive int. Received: filters={filters!r}")
        self.filters = filters
        self.kernel_size = _pair("kernel_size", kernel_size)
        self.output_size = _pair("output_size", output_size)
        self.strides = _pair("strides", strides)
        if window_sharing not in ("batch", "image"):
            raise ValueError(f'window_sharing must be "batch" or "image". Received: window_sharing={window_sharing!r}')
        self.window_sharing = window_sharing
        known = ("auto", *stochastic.IMPLEMENTATIONS)
        if implementation not in known:
            raise ValueError(
                f"implementation must be one of {', '.join(known)}. Received: implementation={implementation!r}"
            )
        if implementation == "taps" and image_gradient:
            raise ValueError('implementation="taps" has no gradient for the image. Received: image_gradient=True')
        if implementation == "taps" and keras.config.backend() != "tensorflow":
            raise ValueError(
                f'implementation="taps" needs the TensorFlow backend. The backend is {keras.config.backend()!r}'
            )
        self.implementation = implementation
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.rescale = float(rescale)
        self.normalize = normalize
        self.image_gradient = image_gradient
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self._register_call_context_args("windows")

    @property
    def window(self) -> tuple[int, int]:
        """(M, N) in pixels of the window each kernel is convolved over."""
        return window_size(self.output_size, self.kernel_size, self.strides)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"The number of channels must be known. Received: input_shape={input_shape}")
        check_fits(input_shape[1:3], self.window)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        self.kernel = self.add_weight(
            name="kernel", shape=(*self.kernel_size, channels, self.filters), initializer=self.kernel_initializer
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer=self.bias_initializer)
        if self.normalize:
            for name, value in (("mean", "zeros"), ("variance", "ones")):
                weight = self.add_weight(name=name, shape=(channels,), initializer=value, trainable=False)
                setattr(self, name, weight)
        self.built = True

    def draw_windows(self, image_size, batch=None):
        """Draws windows for images of this size, as a call without `windows=` does.

        Args:
            image_size: (H, W) in pixels.
            batch: B; needed with window_sharing="image".

        Returns:
            int32 tensor (F, 2), or (B, F, 2).
        """
        batch = batch if self.window_sharing == "image" else None
        return draw_windows(image_size, self.window, self.filters, batch, self.seed_generator)

    def call(self, images, windows=None):
        check_fits(images.shape[1:3], self.window)
        if windows is None:
            windows = self.draw_windows(images.shape[1:3], ops.shape(images)[0])
        else:
            windows = ops.cast(windows, "int32")
            check_count(windows.shape, self.filters, images.shape[0])
            check_windows(windows, images.shape[1:3], self.window)
        if not self.image_gradient:
            images = ops.stop_gradient(images)
        kernel, bias = self.folded()
        name = self.implementation
        if name == "auto":
            name = stochastic.choose(images, self.image_gradient)
        outputs = stochastic.IMPLEMENTATIONS[name](images, kernel, windows, self.strides, self.output_size)
        if bias is not None:
            outputs = outputs + ops.cast(bias, outputs.dtype)
        return outputs if self.activation is None else self.activation(outputs)

    def folded(self):
        """Kernel and bias for raw pixels: sum k ((a x - m) / s) + b = sum (k a / s) x + (b - sum k m / s).

        Computed in the type of the weights, float32 under mixed precision, and rounded to the type of the
        computation afterwards.
        """
        # Rounded to float32 in any precision, as keras.layers.Rescaling does it.
        rescale = float(np.float32(self.rescale))
        dtype = self.variable_dtype
        kernel = ops.convert_to_tensor(self.kernel, dtype)
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias, dtype)
        scale = ops.cast(rescale, dtype) if rescale == 1 else ops.convert_to_tensor(rescale, dtype)
        if self.normalize:
            std = ops.maximum(ops.sqrt(ops.convert_to_tensor(self.variance, dtype)), keras.config.epsilon())
            shift = -ops.convert_to_tensor(self.mean, dtype) / std
            fixed = ops.sum(kernel * shift[:, None], axis=(0, 1, 2))  # (K, L, C, F) -> (F,)
            bias = fixed if bias is None else bias + fixed
            scale = (scale / std)[:, None]  # (C, 1)
        return ops.cast(kernel * scale, self.compute_dtype), bias

    def compute_output_shape(self, input_shape):
        check_fits(input_shape[1:3], self.window)
        return (input_shape[0], *self.output_size, self.filters)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "output_size": self.output_size,
            "strides": self.strides,
            "window_sharing": self.window_sharing,
            "implementation": self.implementation,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "rescale": self.rescale,
            "normalize": self.normalize,
            "image_gradient": self.image_gradient,
            "seed": self.seed,
        }


def _pair(name: str, value) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise ValueError(f"{name} must be a positive int or a pair of them. Received: {name}={value!r}")
    return tuple(pair)


def correct_pad(size: tuple[int | None, int | None], kernel_size: int) -> tuple:
    """Zero padding before a stride-2 convolution without padding, as keras.applications has it.

    Even and unknown sizes are padded less at the top and left, so that the output is exactly half the size.

    Args:
        size: height and width of the input in pixels, None where unknown.
        kernel_size: int, odd.

    Returns:
        `((top, bottom), (left, right))` in pixels.
    """
    half = kernel_size // 2
    return tuple((half - (1 if n is None else 1 - n % 2), half) for n in size)


def conv(filters, kernel_size=1, name=None, **kwargs):
    """A convolution with EfficientNet's initialiser, without bias unless asked for."""
    kwargs = {"padding": "same", "use_bias": False, "kernel_initializer": CONV_INITIALIZER} | kwargs
    return keras.layers.Conv2D(filters, kernel_size, name=name, **kwargs)


def stem(x, filters, prefix="", dtype=None):
    """Convolution 3x3 with stride 2, batch norm, swish: (B, H, W, C) -> (B, H/2, W/2, F)."""
    x = keras.layers.ZeroPadding2D(correct_pad(x.shape[1:3], 3), dtype=dtype, name=f"{prefix}stem_conv_pad")(x)
    x = conv(filters, 3, strides=2, padding="valid", dtype=dtype, name=f"{prefix}stem_conv")(x)
    x = BatchNormalization(dtype=dtype, name=f"{prefix}stem_bn")(x)
    return keras.layers.Activation("swish", dtype=dtype, name=f"{prefix}stem_activation")(x)


def stochastic_stem(images, filters, output_size, prefix="detail_", dtype=None, **kwargs):
    """The stem on random windows: raw pixels (B, H, W, 3) -> (B, P, Q, F)."""
    x = StochasticConv2D(
        filters,
        3,
        output_size,
        strides=2,
        use_bias=False,
        kernel_initializer=CONV_INITIALIZER,
        rescale=1.0 / 255.0,
        normalize=True,
        dtype=dtype,
        name=f"{prefix}stem_conv",
        **kwargs,
    )(images)
    x = BatchNormalization(dtype=dtype, name=f"{prefix}stem_bn")(x)
    return keras.layers.Activation("swish", dtype=dtype, name=f"{prefix}stem_activation")(x)


def inverted_bottleneck(x, block: Block, drop_connect=0.2, prefix="", dtype=None):
    """MBConv: expand, depthwise, squeeze-and-excite, project, and the residual where shapes allow.

    The output convolution has no activation. (B, H, W, C) -> (B, H/S, W/S, F).
    """
    name = f"{prefix}{block.name}_"
    inputs = x
    filters_in = x.shape[-1]
    filters = filters_in * block.expansion

    if block.expansion != 1:
        x = conv(filters, dtype=dtype, name=f"{name}expand_conv")(x)
        x = BatchNormalization(dtype=dtype, name=f"{name}expand_bn")(x)
        x = keras.layers.Activation("swish", dtype=dtype, name=f"{name}expand_activation")(x)

    padding = "same"
    if block.strides == 2:
        pad = correct_pad(x.shape[1:3], block.kernel_size)
        x = keras.layers.ZeroPadding2D(pad, dtype=dtype, name=f"{name}dwconv_pad")(x)
        padding = "valid"
    x = keras.layers.DepthwiseConv2D(
        block.kernel_size,
        strides=block.strides,
        padding=padding,
        use_bias=False,
        depthwise_initializer=CONV_INITIALIZER,
        dtype=dtype,
        name=f"{name}dwconv",
    )(x)
    x = BatchNormalization(dtype=dtype, name=f"{name}bn")(x)
    x = keras.layers.Activation("swish", dtype=dtype, name=f"{name}activation")(x)

    squeezed = max(1, int(filters_in * SQUEEZE_RATIO))
    se = keras.layers.GlobalAveragePooling2D(dtype=dtype, name=f"{name}se_squeeze")(x)  # (B, C)
    se = keras.layers.Reshape((1, 1, filters), dtype=dtype, name=f"{name}se_reshape")(se)  # (B, 1, 1, C)
    se = conv(squeezed, activation="swish", use_bias=True, dtype=dtype, name=f"{name}se_reduce")(se)
    se = conv(filters, activation="sigmoid", use_bias=True, dtype=dtype, name=f"{name}se_expand")(se)
    x = keras.layers.Multiply(dtype=dtype, name=f"{name}se_excite")([x, se])

    x = conv(block.filters, dtype=dtype, name=f"{name}project_conv")(x)
    x = BatchNormalization(dtype=dtype, name=f"{name}project_bn")(x)
    if block.strides == 1 and filters_in == block.filters:
        rate = drop_connect * block.drop_fraction
        if rate > 0:
            x = Dropout(rate, noise_shape=(None, 1, 1, 1), dtype=dtype, name=f"{name}drop")(x)
        x = keras.layers.Add(dtype=dtype, name=f"{name}add")([x, inputs])
    return x


def top(x, filters, prefix="", dtype=None):
    """Convolution 1x1, batch norm, swish, average pool: (B, H, W, C) -> (B, F)."""
    x = conv(filters, dtype=dtype, name=f"{prefix}top_conv")(x)
    x = BatchNormalization(dtype=dtype, name=f"{prefix}top_bn")(x)
    x = keras.layers.Activation("swish", dtype=dtype, name=f"{prefix}top_activation")(x)
    return keras.layers.GlobalAveragePooling2D(dtype=dtype, name=f"{prefix}avg_pool")(x)
