"""EfficientNet's layers in PyTorch, with the conventions of Keras where the two frameworks differ.

Modules bear the layer names of keras.applications: the path `block2a.se_reduce` is Keras's `block2a_se_reduce`.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from torch_ref import stochastic
from torch_ref.architectures import SQUEEZE_RATIO, Block
from torch_ref.norms import BatchNorm2d
from torch_ref.windows import check_count, check_fits, check_windows, draw_windows, window_size


class Dropout(nn.Module):
    """Inverted dropout whose mask can be given instead of drawn.

    Args:
        rate: float in [0, 1), the fraction to drop.
        name: the key under which `drop_masks` holds this layer's mask of zeros (drop) and ones (keep).
        per_image: drop whole images of the batch (drop connect, stochastic depth) instead of single values.
    """

    def __init__(self, rate: float, name: str, per_image: bool = False):
        super().__init__()
        self.rate, self.name, self.per_image = rate, name, per_image

    def forward(self, x, drop_masks=None):
        if not self.training or self.rate == 0:
            return x
        if drop_masks is not None and self.name in drop_masks:
            keep = drop_masks[self.name].to(x)
        else:
            shape = (x.shape[0],) + (1,) * (x.ndim - 1) if self.per_image else x.shape
            keep = torch.rand(shape, device=x.device).ge(self.rate).to(x)
        return x * keep / (1.0 - self.rate)

    def extra_repr(self):
        return f"{self.rate}, per_image={self.per_image}"


class StochasticConv2d(nn.Module):
    """Convolves every output channel's kernel over its own random window of a high-resolution image.

    The twin of `keras_stoch.StochasticConv2D`: the window of a kernel has M = (P - 1) S + K rows and
    N = (Q - 1) T + L columns, and is drawn anew on every call, in training and evaluation alike. Rescaling and
    normalisation are folded into kernel and bias, so that uint8 images are read as they are.

    Args:
        in_channels, filters: C and F, channels of the image and of the output.
        kernel_size, output_size, stride: int, or (K, L), (P, Q), (S, T).
        window_sharing: "batch" or "image".
        implementation: "auto", or a name from `torch_ref.stochastic.IMPLEMENTATIONS`. On a CUDA GPU "auto" is "triton",
            kernels of its own, where no gradient flows back to the image; second derivatives need "gather".
        bias: whether to add a bias.
        rescale: factor on the pixels.
        normalize: whether to have buffers `mean` and `variance` to normalise by.
        image_gradient: whether gradients flow back to the image.
        generator: `torch.Generator` to draw windows from.

    Call arguments:
        images: uint8 or float tensor.
        windows: integer tensor of (top, left) offsets to use instead of a draw, (F, 2) or (B, F, 2). Those that reach
            beyond the image are a ValueError.

    Shape: (B, C, H, W) -> (B, F, P, Q).
    """

    def __init__(
        self,
        in_channels,
        filters,
        kernel_size,
        output_size,
        stride=1,
        window_sharing="batch",
        implementation="auto",
        bias=True,
        rescale=1.0,
        normalize=False,
        image_gradient=False,
        generator=None,
    ):
        super().__init__()
        self.in_channels, self.filters = in_channels, filters
        pairs = [(n, n) if isinstance(n, int) else tuple(n) for n in (kernel_size, output_size, stride)]
        self.kernel_size, self.output_size, self.stride = pairs
        self.window = window_size(self.output_size, self.kernel_size, self.stride)
        if window_sharing not in ("batch", "image"):
            raise ValueError(f'window_sharing must be "batch" or "image". Received: {window_sharing!r}')
        known = ("auto", *stochastic.IMPLEMENTATIONS)
        if implementation not in known:
            raise ValueError(f"implementation must be one of {', '.join(known)}. Received: {implementation!r}")
        if implementation == "triton" and image_gradient:
            raise ValueError('implementation="triton" has no gradient for the image. Received: image_gradient=True')
        self.window_sharing, self.implementation = window_sharing, implementation
        self.image_gradient, self.generator = image_gradient, generator
        self.rescale = float(np.float32(rescale))  # rounded as in Keras, whatever the type of the weights
        self.weight = nn.Parameter(torch.empty(filters, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(filters)) if bias else None
        self.normalize = normalize
        if normalize:
            self.register_buffer("mean", torch.zeros(in_channels))
            self.register_buffer("variance", torch.ones(in_channels))
        init_conv_(self.weight, self.kernel_size[0] * self.kernel_size[1] * filters)

    def draw_windows(self, image_size, batch=None, device=None):
        """Draws windows for images of this size, as a call without `windows=` does.

        Args:
            image_size: (H, W) in pixels.
            batch: B; needed with window_sharing="image".

        Returns:
            int64 tensor (F, 2), or (B, F, 2).
        """
        batch = batch if self.window_sharing == "image" else None
        device = None if self.generator is not None else device
        return draw_windows(image_size, self.window, self.filters, batch, self.generator, device)

    def forward(self, images, windows=None):
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"Images must be (B, {self.in_channels}, H, W), with {self.in_channels} channels. "
                f"Received: {tuple(images.shape)}"
            )
        check_fits(images.shape[2:], self.window)
        if windows is None:
            windows = self.draw_windows(images.shape[2:], images.shape[0], images.device)
        else:
            check_count(windows.shape, self.filters, images.shape[0])
            check_windows(windows, images.shape[2:], self.window)
        windows = windows.to(images.device, torch.int64)
        if not self.image_gradient:
            images = images.detach()
        weight, bias = self.folded()
        name = self.implementation
        if name == "auto":
            name = stochastic.choose(images, weight, self.image_gradient)
        if torch.is_autocast_enabled(images.device.type):
            weight = weight.to(torch.get_autocast_dtype(images.device.type))
        outputs = stochastic.IMPLEMENTATIONS[name](images, weight, windows, self.stride, self.output_size)
        return outputs if bias is None else outputs + bias.to(outputs.dtype).view(1, -1, 1, 1)

    def folded(self):
        """Weight and bias for raw pixels: sum w (a x - m) / s + b = sum (w a / s) x + (b - sum w m / s)."""
        weight, bias = self.weight * self.rescale, self.bias
        if self.normalize:
            std = self.variance.sqrt().clamp_min(1e-7)
            fixed = -(self.weight * (self.mean / std).view(1, -1, 1, 1)).sum((1, 2, 3))  # (F, C, K, L) -> (F,)
            bias = fixed if bias is None else bias + fixed
            weight = weight / std.view(1, -1, 1, 1)  # (1, C, 1, 1)
        return weight, bias

    def extra_repr(self):
        return (
            f"{self.in_channels}, {self.filters}, kernel_size={self.kernel_size}, output_size={self.output_size}, "
            f"stride={self.stride}, window_sharing={self.window_sharing}, implementation={self.implementation}"
        )


def init_conv_(weight, fan_out: float) -> None:
    """VarianceScaling(2, fan_out, truncated_normal), in place."""
    # 0.8796... is the standard deviation of a normal truncated at two sigma.
    std = math.sqrt(2.0 / fan_out) / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


class Conv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, official initialisation and an optional activation.

    With stride 1 the padding is symmetric. With stride 2 an even input is padded by one pixel less at its top
    and left than at its bottom and right, so that the output is exactly half the size.
    (B, C, H, W) -> (B, F, ceil(H / S), ceil(W / S)).
    """

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, groups=1, bias=False, activation=None):
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias)
        self.activation = activation

    def reset_parameters(self):
        # Fan out as Keras counts it: k*k*out_channels, and k*k alone for a depthwise kernel.
        fan_out = self.kernel_size[0] * self.kernel_size[1] * self.out_channels / self.groups
        init_conv_(self.weight, fan_out)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x):
        bottom_right = self.kernel_size[0] // 2
        top, left = (bottom_right - (1 - n % 2 if self.stride[0] == 2 else 0) for n in x.shape[-2:])
        if top == left == bottom_right:
            x = F.conv2d(x, self.weight, self.bias, self.stride, bottom_right, groups=self.groups)
        else:
            x = F.pad(x, (left, bottom_right, top, bottom_right))
            x = F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        return x if self.activation is None else self.activation(x)


class Rescaling(nn.Module):
    """x * scale, the scale rounded to float32 as in Keras, whatever the type of x."""

    def __init__(self, scale):
        super().__init__()
        scale = torch.from_numpy(np.atleast_1d(np.float32(scale)))
        self.register_buffer("scale", scale.view(-1, 1, 1), persistent=False)

    def forward(self, x):
        return x * self.scale.to(x.dtype)


class Normalization(nn.Module):
    """(x - mean) / standard deviation per channel; the identity until statistics are loaded."""

    def __init__(self, channels: int = 3):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.int32))

    def forward(self, x):
        std = self.variance.sqrt().clamp_min(1e-7)
        return (x - self.mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


class Add(nn.Module):
    def forward(self, x, y):
        return x + y


class Multiply(nn.Module):
    def forward(self, x, y):
        return x * y


class GlobalAveragePool(nn.Module):
    """(B, C, H, W) -> (B, C)"""

    def forward(self, x):
        return x.mean((2, 3))


class InvertedBottleneck(nn.Module):
    """MBConv: expand, depthwise, squeeze-and-excite, project, and the residual where shapes allow.

    The output convolution has no activation. (B, C, H, W) -> (B, F, H/S, W/S).
    """

    def __init__(self, in_channels: int, block: Block, drop_connect: float, name: str):
        super().__init__()
        channels = in_channels * block.expansion
        squeezed = max(1, int(in_channels * SQUEEZE_RATIO))
        if block.expansion != 1:
            self.expand_conv = Conv2d(in_channels, channels)
            self.expand_bn = BatchNorm2d(channels)
            self.expand_activation = nn.SiLU()
        self.dwconv = Conv2d(channels, channels, block.kernel_size, block.strides, groups=channels)
        self.bn = BatchNorm2d(channels)
        self.activation = nn.SiLU()
        self.se_squeeze = GlobalAveragePool()
        self.se_reshape = nn.Unflatten(1, (channels, 1, 1))
        self.se_reduce = Conv2d(channels, squeezed, bias=True, activation=F.silu)
        self.se_expand = Conv2d(squeezed, channels, bias=True, activation=torch.sigmoid)
        self.se_excite = Multiply()
        self.project_conv = Conv2d(channels, block.filters)
        self.project_bn = BatchNorm2d(block.filters)
        self.residual = block.strides == 1 and in_channels == block.filters
        if self.residual:
            self.drop = Dropout(drop_connect * block.drop_fraction, f"{name}_drop", per_image=True)
            self.add = Add()

    def forward(self, inputs, drop_masks=None):
        x = inputs
        if hasattr(self, "expand_conv"):
            x = self.expand_activation(self.expand_bn(self.expand_conv(x)))
        x = self.activation(self.bn(self.dwconv(x)))
        se = self.se_reshape(self.se_squeeze(x))  # (B, C, 1, 1)
        x = self.se_excite(x, self.se_expand(self.se_reduce(se)))
        x = self.project_bn(self.project_conv(x))
        if self.residual:
            x = self.add(self.drop(x, drop_masks), inputs)
        return x
