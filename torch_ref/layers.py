"""EfficientNet's layers in PyTorch, with the conventions of Keras where the two frameworks differ.

Modules bear the layer names of keras.applications: the path `block2a.se_reduce` is Keras's `block2a_se_reduce`.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from torch_ref.architectures import BlockSpec


class Conv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, official initialisation and an optional activation.

    With stride 1 the padding is symmetric. With stride 2 an even input is padded by one pixel less at its top
    and left than at its bottom and right, so that the output is exactly half the size.
    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, groups=1, bias=False, activation=None):
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias)
        self.activation = activation

    def reset_parameters(self):
        # Fan out as Keras counts it: k*k*out_channels, and k*k alone for a depthwise kernel.
        fan_out = self.kernel_size[0] * self.kernel_size[1] * self.out_channels / self.groups
        # 0.8796... is the standard deviation of a normal truncated at two sigma.
        std = math.sqrt(2.0 / fan_out) / 0.87962566103423978
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)
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


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm as in Keras: epsilon 1e-3, momentum 0.01 (Keras: 0.99), *biased* running variance.

    `nn.BatchNorm2d` normalises by the biased variance of the batch but stores the unbiased one.
    """

    def __init__(self, channels):
        super().__init__(channels, eps=1e-3, momentum=0.01)

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        # Into copies, since autograd keeps the tensors it was given.
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        out = F.batch_norm(x, mean, variance, self.weight, self.bias, True, self.momentum, self.eps)
        n = x.numel() // x.shape[1]
        with torch.no_grad():
            kept = self.running_var * (1 - self.momentum)
            self.running_mean.copy_(mean)
            self.running_var.copy_(kept + (variance - kept) * ((n - 1) / n))  # undo Bessel's correction
        return out


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

    The output convolution has no activation. (B, C, H, W) -> (B, spec.channels, H/stride, W/stride).
    """

    def __init__(self, in_channels: int, spec: BlockSpec, drop_connect: float, name: str):
        super().__init__()
        channels = in_channels * spec.expansion
        squeezed = max(1, in_channels // 4)
        if spec.expansion != 1:
            self.expand_conv = Conv2d(in_channels, channels)
            self.expand_bn = BatchNorm2d(channels)
            self.expand_activation = nn.SiLU()
        self.dwconv = Conv2d(channels, channels, spec.kernel_size, spec.stride, groups=channels)
        self.bn = BatchNorm2d(channels)
        self.activation = nn.SiLU()
        self.se_squeeze = GlobalAveragePool()
        self.se_reshape = nn.Unflatten(1, (channels, 1, 1))
        self.se_reduce = Conv2d(channels, squeezed, bias=True, activation=F.silu)
        self.se_expand = Conv2d(squeezed, channels, bias=True, activation=torch.sigmoid)
        self.se_excite = Multiply()
        self.project_conv = Conv2d(channels, spec.channels)
        self.project_bn = BatchNorm2d(spec.channels)
        self.residual = spec.stride == 1 and in_channels == spec.channels
        if self.residual:
            self.drop = Dropout(drop_connect * spec.drop_fraction, f"{name}_drop", per_image=True)
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
