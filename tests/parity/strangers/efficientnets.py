"""Ports of a small EfficientNet with several faults at once, as real ports have them: `PORTS`."""

import keras
import torch
import torch.nn.functional as F
from torch import nn

L = keras.layers
# kernel size, filters, expansion, stride, repeats
STAGES = ((3, 10, 1, 1, 1), (3, 12, 4, 2, 2), (5, 16, 4, 1, 3))
SIZE = 36  # pixels


def reference() -> keras.Model:
    """As keras.applications writes it, with random statistics."""

    def norm(x, name):
        return L.BatchNormalization(name=name)(x)

    inputs = keras.Input((SIZE, SIZE, 3))
    x = L.ZeroPadding2D(((0, 1), (0, 1)), name="stem_conv_pad")(L.Rescaling(1 / 255)(inputs))
    x = L.Conv2D(8, 3, 2, use_bias=False, name="stem_conv")(x)
    x = L.Activation("silu", name="stem_activation")(norm(x, "stem_bn"))
    channels = 8
    for stage, (kernel, filters, expansion, stride, repeats) in enumerate(STAGES, start=1):
        for place in range(repeats):
            name, before = f"block{stage}{'abc'[place]}_", x
            step = stride if place == 0 else 1
            if expansion > 1:
                x = L.Conv2D(channels * expansion, 1, use_bias=False, name=f"{name}expand_conv")(x)
                x = L.Activation("silu", name=f"{name}expand_activation")(norm(x, f"{name}expand_bn"))
            if step == 2:
                x = L.ZeroPadding2D(((0, 1), (0, 1)) if kernel == 3 else ((1, 2), (1, 2)), name=f"{name}dwconv_pad")(x)
            padding = "valid" if step == 2 else "same"
            x = L.DepthwiseConv2D(kernel, step, padding, use_bias=False, name=f"{name}dwconv")(x)
            x = L.Activation("silu", name=f"{name}activation")(norm(x, f"{name}bn"))
            gate = L.GlobalAveragePooling2D(keepdims=True, name=f"{name}se_squeeze")(x)
            gate = L.Conv2D(max(1, channels // 4), 1, activation="silu", name=f"{name}se_reduce")(gate)
            gate = L.Conv2D(channels * expansion, 1, activation="sigmoid", name=f"{name}se_expand")(gate)
            x = norm(L.Conv2D(filters, 1, use_bias=False, name=f"{name}project_conv")(x * gate), f"{name}project_bn")
            if place:
                x = L.Add(name=f"{name}add")([x, before])
            channels = filters
    x = norm(L.Conv2D(32, 1, use_bias=False, name="top_conv")(x), "top_bn")
    x = L.GlobalAveragePooling2D(name="avg_pool")(L.Activation("silu", name="top_activation")(x))
    return keras.Model(inputs, L.Dense(3, name="predictions")(L.Dropout(0.2, name="top_dropout")(x)))


class Block(nn.Module):
    def __init__(self, inputs, kernel, filters, expansion, stride, faults):
        super().__init__()
        wide = inputs * expansion
        made = {"eps": 1e-5 if "epsilon" in faults else 1e-3, "momentum": 0.1 if "momentum" in faults else 0.01}
        self.faults, self.kernel, self.stride, self.skips = faults, kernel, stride, stride == 1 and inputs == filters
        if expansion > 1:
            self.widen, self.n0 = nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide, **made)
        else:
            self.widen = None
        self.spatial, self.n1 = (
            nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False),
            nn.BatchNorm2d(wide, **made),
        )
        bias = "no gate bias" not in faults
        narrow = max(1, inputs // 4)
        self.down, self.up = nn.Conv2d(wide, narrow, 1, bias=bias), nn.Conv2d(narrow, wide, 1, bias=bias)
        self.narrow, self.n2 = nn.Conv2d(wide, filters, 1, bias=False), nn.BatchNorm2d(filters, **made)

    def forward(self, x):
        before = x
        act = F.gelu if "GELU" in self.faults else F.silu
        if self.widen is not None:
            x = act(self.n0(self.widen(x)))
        half = self.kernel // 2
        even = self.stride == 1 or "symmetric blocks" in self.faults
        x = act(self.n1(self.spatial(F.pad(x, (half,) * 4 if even else (half - 1, half) * 2))))
        gate = x.amax((2, 3), keepdim=True) if "maximum" in self.faults else x.mean((2, 3), keepdim=True)
        gate = self.up(F.relu(self.down(gate)) if "gate's ReLU" in self.faults else F.silu(self.down(gate)))
        x = x * (F.hardsigmoid(gate) if "hard gate" in self.faults else torch.sigmoid(gate))
        x = self.n2(self.narrow(x))
        if "activation behind" in self.faults:
            x = F.silu(x)
        return x + before if self.skips and "no residual" not in self.faults else x


class Port(nn.Module):
    """A port to PyTorch with names of its own, and faults."""

    def __init__(self, *faults):
        super().__init__()
        self.faults = faults
        made = {"eps": 1e-5 if "epsilon" in faults else 1e-3, "momentum": 0.1 if "momentum" in faults else 0.01}
        blocks, inputs = [], 8
        for kernel, filters, expansion, stride, repeats in STAGES:
            blocks.append(Block(inputs, kernel, filters, expansion, stride, faults))
            inputs = filters
            for _ in range(repeats - 1):
                again = "shared" in faults and blocks[-1].skips
                blocks.append(blocks[-1] if again else Block(inputs, kernel, filters, expansion, 1, faults))
        if "blocks first" in faults:
            self.body = nn.ModuleList(blocks)
        self.first, self.first_norm = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8, **made)
        if "blocks first" not in faults:
            self.body = nn.ModuleList(blocks)
        self.last, self.last_norm = nn.Conv2d(inputs, 32, 1, bias=False), nn.BatchNorm2d(32, **made)
        self.drop, self.out = nn.Dropout(0.5 if "rate" in faults else 0.2), nn.Linear(32, 3)

    def forward(self, x):
        x = x if "no rescaling" in self.faults else x / 255
        x = F.pad(x, (1, 1, 1, 1) if "symmetric stem" in self.faults else (0, 1, 0, 1))
        x = self.first_norm(self.first(x))
        x = F.gelu(x) if "GELU" in self.faults else F.silu(x)
        for block in self.body:
            x = block(x)
        x = self.last_norm(self.last(x))
        x = x if "no top activation" in self.faults else F.gelu(x) if "GELU" in self.faults else F.silu(x)
        return self.out(self.drop(x.mean((2, 3))))


# Fault to words that a cause of it has to have.
WORDS = {
    "shared": "in its place",
    "activation behind": "the candidate applies SiLU before",
    "no gate bias": "use_bias is True in the reference and False",
    "no top activation": "the reference applies SiLU before avg_pool",
    "symmetric stem": "stem_conv: the reference computes with padding ((0, 1), (0, 1)), the candidate",
    "epsilon": "epsilon is 0.001 in the reference and 1e-05",
    "momentum": "momentum is 0.99 in the reference and 0.9",
    "GELU": "the reference computes SiLU, the candidate exact GELU",
    "symmetric blocks": "block2a_dwconv: the reference computes with padding ((0, 1), (0, 1)), the candidate",
    "maximum": "the mean over rows and columns, the candidate the maximum",
    "gate's ReLU": "SiLU, the candidate ReLU",
    "hard gate": "the reference computes sigmoid, the candidate hard sigmoid",
    "no residual": "the reference applies an addition of block2b_project_bn and",
    "rate": "rate is 0.2 in the reference and 0.5",
    "no rescaling": "divided by 255",
}
PORTS = (
    (
        "blocks first", "shared", "activation behind", "no gate bias", "no top activation", "symmetric stem", "epsilon",
        "momentum",
    ),
    ("epsilon", "momentum", "symmetric stem"),
    ("GELU", "symmetric blocks", "rate"),
    ("blocks first", "maximum", "hard gate", "epsilon"),
    ("no residual", "no top activation", "momentum", "symmetric stem"),
    ("no gate bias", "hard gate", "symmetric blocks", "symmetric stem"),
    ("blocks first", "shared", "gate's ReLU", "epsilon", "rate"),
    ("no rescaling", "activation behind", "momentum"),
    ("maximum", "GELU", "no gate bias", "epsilon", "momentum", "rate"),
    ("blocks first", "no residual", "hard gate", "symmetric stem", "symmetric blocks", "epsilon", "momentum"),
)  # fmt: skip
