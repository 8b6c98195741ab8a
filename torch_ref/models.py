"""`create_model`: every architecture of the table, from one class."""

import dataclasses
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
    StochasticConv2d,
)


class Branch(nn.Module):
    """The convolutional part of an EfficientNet up to the place where branches join: stem, blocks, top.

    Args:
        architecture: a row of the table.
        stem: module that makes `architecture.stem_filters` maps of the input, called `stem_conv`.
        first, last: the first and last of ("stem", block names ..., "avg_pool") that belong to this branch.
        channels: input channels of the first block, if the stem is not part of the branch.
        prefix: of the names under which masks for dropout are looked up.
    """

    def __init__(self, architecture, drop_connect, stem=None, channels=None, first="stem", last="avg_pool", prefix=""):
        super().__init__()
        places = ["stem", *(block.name for block in architecture.blocks), "avg_pool"]
        self.places = places[places.index(first) : places.index(last) + 1]
        if "stem" in self.places:
            channels = architecture.stem_filters
            self.stem_conv = stem
            self.stem_bn = BatchNorm2d(channels)
            self.stem_activation = nn.SiLU()
        for block in architecture.blocks:
            if block.name in self.places:
                module = InvertedBottleneck(channels, block, drop_connect, prefix + block.name)
                self.add_module(block.name, module)
                channels = block.filters
        if "avg_pool" in self.places:
            channels = architecture.top_filters
            self.top_conv = Conv2d(architecture.blocks[-1].filters, channels)
            self.top_bn = BatchNorm2d(channels)
            self.top_activation = nn.SiLU()
            self.avg_pool = GlobalAveragePool()
        self.channels = channels

    def forward(self, x, windows=None, drop_masks=None):
        return self.through(x, self.places, windows, drop_masks)

    def through(self, x, places, windows=None, drop_masks=None):
        """Runs x through some consecutive places of the branch."""
        for place in places:
            if place == "stem":
                x = self.stem_conv(x) if windows is None else self.stem_conv(x, windows=windows)
                x = self.stem_activation(self.stem_bn(x))
            elif place == "avg_pool":
                x = self.avg_pool(self.top_activation(self.top_bn(self.top_conv(x))))
            else:
                x = getattr(self, place)(x, drop_masks)
        return x


class Join(nn.Module):
    """Concatenates two branches along the channels, the global one first."""

    def forward(self, x, detail):
        return torch.cat((x, detail), 1)


class EfficientNet(Branch):
    """An EfficientNet whose modules are named as in keras.applications. Made by `create_model`.

    The module itself is the global branch. One with a detail branch has that as `detail`, up to the place where the
    two join, and is continued from there in its own blocks, which see the channels of both.
    """

    def __init__(self, architecture, num_classes, dropout, drop_connect, activation, imagenet_rescaling, stochastic):
        channels = architecture.stem_filters
        super().__init__(architecture, drop_connect, Conv2d(3, channels, 3, stride=2))
        self.rescaling = Rescaling(1.0 / 255.0)
        self.normalization = Normalization()
        if imagenet_rescaling:
            self.rescaling_1 = Rescaling([1.0 / math.sqrt(stddev) for stddev in IMAGENET_STDDEV_RGB])
        features = self.channels
        self.widened = []  # layers that see the channels of both branches
        self.join_at = architecture.join
        if self.join_at is not None:
            self.join = Join()
            stem = StochasticConv2d(
                3, channels, 3, stride=2, bias=False, rescale=1.0 / 255.0, normalize=True, **stochastic
            )
            self.detail = Branch(architecture, drop_connect, stem, last=self.join_at, prefix="detail_")
            if self.join_at == "avg_pool":
                features *= 2
                self.widened = ["predictions"]
            else:  # the block behind the join sees the channels of both branches
                names = [block.name for block in architecture.blocks]
                index = 0 if self.join_at == "stem" else names.index(self.join_at) + 1
                block = architecture.blocks[index]
                self.widened = [block.name]
                module = InvertedBottleneck(2 * self.detail.channels, block, drop_connect, block.name)
                self.add_module(block.name, module)
        self.top_dropout = Dropout(dropout, "top_dropout")
        self.predictions = nn.Linear(features, num_classes)
        limit = math.sqrt(3 * (1 / 3) / num_classes)  # VarianceScaling(1/3, fan_out, uniform)
        nn.init.uniform_(self.predictions.weight, -limit, limit)
        nn.init.zeros_(self.predictions.bias)
        self.activation = activation

    def forward(self, low_res, high_res=None, windows=None, drop_masks=None):
        """Pixel values 0-255 (B, 3, H, W), uint8 or float -> (B, num_classes).

        Args:
            low_res: the image at low resolution.
            high_res: the same at high resolution, for models with a detail branch.
            windows: offsets for the stochastic stem instead of a draw.
            drop_masks: masks by layer name, see `Dropout`.
        """
        x = self.normalization(self.rescaling(low_res.to(self.predictions.weight.dtype)))
        if hasattr(self, "rescaling_1"):
            x = self.rescaling_1(x)
        if self.join_at is None:
            x = self.through(x, self.places, drop_masks=drop_masks)
        else:
            if high_res is None:
                raise ValueError("This model has a detail branch: high_res is needed. Received: None")
            cut = self.places.index(self.join_at) + 1
            detail = self.detail(high_res, windows, drop_masks)
            x = self.through(x, self.places[:cut], drop_masks=drop_masks)
            x = self.through(self.join(x, detail), self.places[cut:], drop_masks=drop_masks)
        x = self.predictions(self.top_dropout(x, drop_masks))
        return x if self.activation is None else self.activation(x)


def create_model(
    name: str,
    low_res: int | tuple[int, int] | None = None,
    high_res: int | tuple[int, int] | None = None,
    num_classes: int = 1,
    dropout: float = 0.2,
    drop_connect: float = 0.2,
    activation=None,
    weights=None,
    imagenet_rescaling: bool | None = None,
    window_sharing: str = "batch",
    implementation: str = "auto",
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> EfficientNet:
    """Builds a model by name, the twin of `keras_stoch.create_model`.

    Args:
        name: "b0", "b0-stem64", "b4", "stem-b0", "stem-b4", "skip-b0" or "split-b0".
        low_res: height and width in pixels that images will have; the architecture's own by default. Models without
            detail branch take any size; with one, it sets the size of the maps of the stochastic stem.
        high_res: the same for the high-resolution image, 1024 by default. It is checked, not used.
        num_classes: size of the output.
        dropout, drop_connect: rates in [0, 1).
        activation: a function of the output, or None (default) for logits.
        weights: official weights: a keras.applications model, or the path of an `.h5`, `.weights.h5` or `.keras`
            file saved from one, with or without its top.
        window_sharing, implementation, generator: see `StochasticConv2d`.
        imagenet_rescaling: the extra input scaling of the official ImageNet models; None asks the weights,
            and warns where they do not tell.
        dtype: of the parameters; torch's default if None.

    Raises:
        ValueError: for an unknown name or an argument out of range; for weights that do not fit.
    """
    architecture = get_architecture(name)
    if high_res is not None and architecture.join is None:
        raise ValueError(f"{name!r} has no high-resolution input. Received: high_res={high_res!r}")
    size = check_size("low_res", architecture.low_res if low_res is None else low_res)
    check_size("high_res", architecture.high_res if high_res is None else high_res)
    check_rate("dropout", dropout)
    check_rate("drop_connect", drop_connect)
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes must be a positive int. Received: num_classes={num_classes!r}")
    if activation is not None and not callable(activation):
        raise ValueError(f"activation must be callable, e.g. torch.sigmoid. Received: activation={activation!r}")
    official = None if weights is None else read_official_weights(weights)
    if imagenet_rescaling is None:
        imagenet_rescaling = official is not None and official.imagenet_rescaling
    elif official is not None and not official.certain:
        official = dataclasses.replace(official, imagenet_rescaling=imagenet_rescaling, certain=True)
    stochastic = {
        "output_size": tuple(-(-n // 2) for n in size),
        "window_sharing": window_sharing,
        "implementation": implementation,
        "generator": generator,
    }
    model = EfficientNet(architecture, num_classes, dropout, drop_connect, activation, imagenet_rescaling, stochastic)
    if dtype is not None:
        model = model.to(dtype)
    if official is not None:
        load_official_weights(model, official)
    return model


def check_size(argument: str, value) -> tuple[int, int]:
    """An int or a pair of ints of at least 32 pixels as `(height, width)`; ValueError otherwise."""
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(n, int) and n >= 32 for n in pair):
        raise ValueError(
            f"{argument} must be an int or a (height, width) of ints, at least 32. Received: {argument}={value!r}"
        )
    return tuple(pair)


def check_rate(argument: str, value: float) -> None:
    """ValueError unless `value` is a number in [0, 1)."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{argument} must be a number in [0, 1). Received: {argument}={value!r}")
