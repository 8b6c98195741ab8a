"""The layers that Keras does not have, and the pieces of EfficientNet built from those it has."""

import keras
from keras import ops

from keras_stoch.architectures import SQUEEZE_RATIO, Block

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

    Without `drop_masks` this is `keras.layers.Dropout`. With them, two frameworks can train on the same draws.

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
        if not training or self.rate == 0 or drop_masks is None or self.name not in drop_masks:
            return super().call(inputs, training=training)
        keep = ops.cast(drop_masks[self.name], inputs.dtype)
        return inputs * keep / (1.0 - self.rate)


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
    """Convolution 3x3 with stride 2, batch norm, swish: (B, H, W, C) -> (B, H/2, W/2, filters)."""
    x = keras.layers.ZeroPadding2D(correct_pad(x.shape[1:3], 3), dtype=dtype, name=f"{prefix}stem_conv_pad")(x)
    x = conv(filters, 3, strides=2, padding="valid", dtype=dtype, name=f"{prefix}stem_conv")(x)
    x = keras.layers.BatchNormalization(dtype=dtype, name=f"{prefix}stem_bn")(x)
    return keras.layers.Activation("swish", dtype=dtype, name=f"{prefix}stem_activation")(x)


def inverted_bottleneck(x, block: Block, drop_connect=0.2, prefix="", dtype=None):
    """MBConv: expand, depthwise, squeeze-and-excite, project, and the residual where shapes allow.

    The output convolution has no activation. (B, H, W, C) -> (B, H/strides, W/strides, block.filters).
    """
    name = f"{prefix}{block.name}_"
    inputs = x
    filters_in = x.shape[-1]
    filters = filters_in * block.expansion

    if block.expansion != 1:
        x = conv(filters, dtype=dtype, name=f"{name}expand_conv")(x)
        x = keras.layers.BatchNormalization(dtype=dtype, name=f"{name}expand_bn")(x)
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
    x = keras.layers.BatchNormalization(dtype=dtype, name=f"{name}bn")(x)
    x = keras.layers.Activation("swish", dtype=dtype, name=f"{name}activation")(x)

    squeezed = max(1, int(filters_in * SQUEEZE_RATIO))
    se = keras.layers.GlobalAveragePooling2D(dtype=dtype, name=f"{name}se_squeeze")(x)  # (B, filters)
    se = keras.layers.Reshape((1, 1, filters), dtype=dtype, name=f"{name}se_reshape")(se)
    se = conv(squeezed, activation="swish", use_bias=True, dtype=dtype, name=f"{name}se_reduce")(se)
    se = conv(filters, activation="sigmoid", use_bias=True, dtype=dtype, name=f"{name}se_expand")(se)
    x = keras.layers.Multiply(dtype=dtype, name=f"{name}se_excite")([x, se])

    x = conv(block.filters, dtype=dtype, name=f"{name}project_conv")(x)
    x = keras.layers.BatchNormalization(dtype=dtype, name=f"{name}project_bn")(x)
    if block.strides == 1 and filters_in == block.filters:
        rate = drop_connect * block.drop_fraction
        if rate > 0:
            x = Dropout(rate, noise_shape=(None, 1, 1, 1), dtype=dtype, name=f"{name}drop")(x)
        x = keras.layers.Add(dtype=dtype, name=f"{name}add")([x, inputs])
    return x


def top(x, filters, prefix="", dtype=None):
    """Convolution 1x1, batch norm, swish, average pool: (B, H, W, C) -> (B, filters)."""
    x = conv(filters, dtype=dtype, name=f"{prefix}top_conv")(x)
    x = keras.layers.BatchNormalization(dtype=dtype, name=f"{prefix}top_bn")(x)
    x = keras.layers.Activation("swish", dtype=dtype, name=f"{prefix}top_activation")(x)
    return keras.layers.GlobalAveragePooling2D(dtype=dtype, name=f"{prefix}avg_pool")(x)
