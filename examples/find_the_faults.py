"""A stranger's port with three planted faults, and how `parity.compare` finds them one after the other.

It tells of a fourth difference that nobody planted and no port can help: torch's batch norm keeps the unbiased variance
of a batch, Keras's the biased one. Outputs are equal, the moving averages drift apart by one part in the batch's number
of pixels. With `strict=True` that fails too.

A small residual network exists in PyTorch and in Keras. Its author swears that they are the same.
Run it with `python examples/find_the_faults.py`; it takes half a minute.
"""

import keras
import numpy as np
import torch
from torch import nn

import parity


class TorchNet(nn.Module):
    """The original: stem, one residual block, classifier. (B, 3, H, W) -> (B, 10)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.GELU())
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.block(x)
        return self.head(x.mean((2, 3)))


def keras_net(epsilon=1e-3, symmetric_padding=False, gelu="gelu"):
    """The port. The defaults are its three faults; each argument mends one."""
    momentum = 0.9  # torch's 0.1
    inputs = x = keras.Input((64, 64, 3))
    if symmetric_padding:
        x = keras.layers.ZeroPadding2D(1, name="stem_pad")(x)
    x = keras.layers.Conv2D(16, 3, 2, "valid" if symmetric_padding else "same", name="stem")(x)
    x = keras.layers.BatchNormalization(epsilon=epsilon, momentum=momentum, name="norm")(x)
    x = y = keras.layers.ReLU(name="relu")(x)
    y = keras.layers.Conv2D(16, 3, padding="same", name="block_0")(y)
    y = keras.layers.BatchNormalization(epsilon=epsilon, momentum=momentum, name="block_1")(y)
    y = keras.layers.Activation(gelu, name="block_2")(y)
    x = keras.layers.Add(name="add")([x, y])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="head")(x))


def approximate_gelu(x):
    return keras.ops.gelu(x, approximate=True)


def exact_gelu(x):
    return keras.ops.gelu(x, approximate=False)


def main():
    torch.manual_seed(0)
    original = TorchNet()
    images = np.random.default_rng(0).uniform(size=(4, 64, 64, 3))
    attempts = [
        ("as delivered", {"gelu": approximate_gelu}),
        ("epsilon mended", {"gelu": approximate_gelu, "epsilon": 1e-5}),
        ("padding mended", {"gelu": approximate_gelu, "epsilon": 1e-5, "symmetric_padding": True}),
        ("activation mended", {"gelu": exact_gelu, "epsilon": 1e-5, "symmetric_padding": True}),
    ]
    found = []
    for title, arguments in attempts:
        report = parity.compare(original, keras_net(**arguments), images, transfer=True)
        print(f"== {title}\n{report}\n")
        failure = report.first_failure
        found.append(None if failure is None else (failure.check, failure.first_divergence))
    report = parity.compare(original, keras_net(**attempts[-1][1]), images, transfer=True, strict=True)
    print(f"== strictly\n{report}")
    found.append((report.first_failure.check, report.first_failure.first_divergence))
    return found


if __name__ == "__main__":
    main()
