"""`create_model`: every architecture of the table, from one class."""

import math

import torch
from torch import nn

from torch_ref.architectures import get_architecture
from torch_ref.checkpoints import IMAGENET_STDDEV_RGB, load_official_weights, read_official_weights
from torch_ref.layers import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    GlobalAveragePool,
    InvertedBottleneck,
    Normalization,
    Rescaling,
)


class EfficientNet(nn.Module):
    """An EfficientNet whose modules are named as in keras.applications. Made by `create_model`."""

    def __init__(self, architecture, num_classes, dropout, drop_connect, activation, imagenet_rescaling):
        super().__init__()
        self.rescaling = Rescaling(1.0 / 255.0)
        self.normalization = Normalization()
        if imagenet_rescaling:
            self.rescaling_1 = Rescaling([1.0 / math.sqrt(stddev) for stddev in IMAGENET_STDDEV_RGB])
        channels = architecture.stem_channels
        self.stem_conv = Conv2d(3, channels, 3, stride=2)
        self.stem_bn = BatchNorm2d(channels)
        self.stem_activation = nn.SiLU()
        self.block_names = []
        for spec in architecture.blocks:
            self.add_module(spec.name, InvertedBottleneck(channels, spec, drop_connect, spec.name))
            self.block_names.append(spec.name)
            channels = spec.channels
        self.top_conv = Conv2d(channels, architecture.top_channels)
        self.top_bn = BatchNorm2d(architecture.top_channels)
        self.top_activation = nn.SiLU()
        self.avg_pool = GlobalAveragePool()
        self.top_dropout = Dropout(dropout, "top_dropout")
        self.predictions = nn.Linear(architecture.top_channels, num_classes)
        limit = math.sqrt(3 * (1 / 3) / num_classes)  # VarianceScaling(1/3, fan_out, uniform)
        nn.init.uniform_(self.predictions.weight, -limit, limit)
        nn.init.zeros_(self.predictions.bias)
        self.activation = activation

    def forward(self, low_res, drop_masks=None):
        """Pixel values 0-255 (B, 3, H, W), uint8 or float -> (B, num_classes)."""
        x = low_res.to(self.stem_conv.weight.dtype)
        x = self.normalization(self.rescaling(x))
        if hasattr(self, "rescaling_1"):
            x = self.rescaling_1(x)
        x = self.stem_activation(self.stem_bn(self.stem_conv(x)))
        for name in self.block_names:
            x = self.get_submodule(name)(x, drop_masks)
        x = self.avg_pool(self.top_activation(self.top_bn(self.top_conv(x))))
        x = self.predictions(self.top_dropout(x, drop_masks))
        return x if self.activation is None else self.activation(x)


def create_model(
    name: str,
    low_res: int | tuple[int, int] | None = None,
    num_classes: int = 1,
    dropout: float = 0.2,
    drop_connect: float = 0.2,
    activation=None,
    weights=None,
    imagenet_rescaling: bool | None = None,
    dtype: torch.dtype | None = None,
) -> EfficientNet:
    """Builds a model by name, the twin of `keras_stoch.create_model`.

    Args:
        name: "b0", "b0-stem64" or "b4".
        low_res: height and width in pixels that images will have. The network itself takes any size; the
            argument is checked, so that both packages are called alike.
        num_classes: size of the output.
        dropout, drop_connect: rates in [0, 1).
        activation: a function of the output, or None (default) for logits.
        weights: official weights: a keras.applications model, or the path of an `.h5`, `.weights.h5` or `.keras`
            file saved from one, with or without its top.
        imagenet_rescaling: the extra input scaling of the official ImageNet models; None asks the weights.
        dtype: of the parameters; torch's default if None.

    Raises:
        ValueError: for an unknown name or an argument out of range; for weights that do not fit.
    """
    architecture = get_architecture(name)
    sizes = (low_res, low_res) if isinstance(low_res, int) else low_res
    if sizes is not None and (len(sizes) != 2 or not all(isinstance(n, int) and n >= 32 for n in sizes)):
        raise ValueError(f"low_res must be an int or a (height, width) of ints, at least 32. Received: {low_res!r}")
    for argument, rate in (("dropout", dropout), ("drop_connect", drop_connect)):
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ValueError(f"{argument} must be a number in [0, 1). Received: {argument}={rate!r}")
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes must be a positive int. Received: num_classes={num_classes!r}")
    if activation is not None and not callable(activation):
        raise ValueError(f"activation must be callable, e.g. torch.sigmoid. Received: activation={activation!r}")
    official = None if weights is None else read_official_weights(weights)
    if imagenet_rescaling is None:
        imagenet_rescaling = official is not None and official.imagenet_rescaling
    model = EfficientNet(architecture, num_classes, dropout, drop_connect, activation, imagenet_rescaling)
    if dtype is not None:
        model = model.to(dtype)
    if official is not None:
        load_official_weights(model, official)
    return model
