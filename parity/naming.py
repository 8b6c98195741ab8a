"""One name and one axis order for a tensor, whichever framework holds it.

Canonical names are `layer/variable` in Keras's words: the torch parameter `block2a.se_reduce.weight` and the Keras
variable `block2a_se_reduce/kernel` are both `block2a_se_reduce/kernel`. Canonical layout is Keras's: channels last,
kernels as (height, width, in, out).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

Rules = Sequence[tuple[str, str]] | str | None

# What torch calls a normalisation layer's tensors, in Keras's words.
NORM_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
NORMS = ("batch_norm", "layer_norm", "group_norm")


def canonical_layer(path: str, rules: Rules = None) -> str:
    """The canonical name of a torch module path or a Keras layer path.

    Args:
        path: for instance "block2a.se_reduce" or "encoder/block2a/se_reduce".
        rules: pairs of (regular expression, replacement), all applied in order before "." and "/" become "_".
    """
    if rules is not None and not isinstance(rules, str):
        for pattern, replacement in rules:
            path = re.sub(pattern, replacement, path)
    return path.replace(".", "_").replace("/", "_")


def canonical_variable(kind: str, variable: str) -> str:
    """The canonical name of a torch parameter or buffer, by the kind of its module."""
    if kind in NORMS:
        return NORM_VARIABLES.get(variable, variable)
    if kind == "embedding":
        return {"weight": "embeddings"}.get(variable, variable)
    return {"weight": "kernel"}.get(variable, variable)


def torch_kind(module) -> str:
    """The kind of a torch module: conv, depthwise, conv_transpose, dense, batch_norm, ... or its class name."""
    from torch import nn

    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return "conv_transpose"
    if type(module).__name__ == "StochasticConv2d":  # of torch_ref: laid out like an ordinary convolution
        return "conv"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "depthwise" if module.groups == module.in_channels > 1 else "conv"
    for kind, classes in (
        ("dense", (nn.Linear,)),
        ("batch_norm", (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)),
        ("layer_norm", (nn.LayerNorm,)),
        ("group_norm", (nn.GroupNorm,)),
        ("embedding", (nn.Embedding,)),
    ):
        if isinstance(module, classes):
            return kind
    return type(module).__name__


def keras_kind(layer) -> str:
    """The kind of a Keras layer, in the same words as `torch_kind`."""
    import keras.layers as kl

    if isinstance(layer, kl.DepthwiseConv1D | kl.DepthwiseConv2D):
        return "depthwise"
    if type(layer).__name__ == "StochasticConv2D":
        return "conv"
    if isinstance(layer, kl.Conv1DTranspose | kl.Conv2DTranspose | kl.Conv3DTranspose):
        return "conv_transpose"
    if isinstance(layer, kl.Conv1D | kl.Conv2D | kl.Conv3D):
        grouped = layer.built and layer.groups > 1 and layer.kernel.shape[-2] == 1
        return "depthwise" if grouped else "conv"
    for kind, classes in (
        ("dense", (kl.Dense,)),
        ("batch_norm", (kl.BatchNormalization,)),
        ("layer_norm", (kl.LayerNormalization,)),
        ("group_norm", (kl.GroupNormalization,)),
        ("embedding", (kl.Embedding,)),
    ):
        if isinstance(layer, classes):
            return kind
    return type(layer).__name__


def torch_to_canonical(kind: str, variable: str, array: np.ndarray, channels: int = 0) -> np.ndarray:
    """A torch tensor in Keras's axis order.

    Args:
        kind: of the module, see `torch_kind`.
        variable: canonical name of the variable, "kernel" for a weight.
        array: in torch's order, for instance (out, in, height, width).
        channels: input channels of a depthwise kernel.
    """
    if variable != "kernel":
        return array
    if kind == "conv":  # (out, in, *k) -> (*k, in, out)
        return np.moveaxis(array, (0, 1), (-1, -2))
    if kind == "conv_transpose":  # (in, out, *k) -> (*k, out, in)
        return np.moveaxis(array, (0, 1), (-1, -2))
    if kind == "depthwise":  # (channels * multiplier, 1, *k) -> (*k, channels, multiplier)
        return np.moveaxis(array[:, 0].reshape(channels, -1, *array.shape[2:]), (0, 1), (-2, -1))
    if kind == "dense":
        return array.T
    return array


def canonical_to_torch(kind: str, variable: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `torch_to_canonical`."""
    if variable != "kernel":
        return array
    if kind in ("conv", "conv_transpose"):
        return np.moveaxis(array, (-1, -2), (0, 1))
    if kind == "depthwise":
        moved = np.moveaxis(array, (-2, -1), (0, 1))  # (channels, multiplier, *k)
        return moved.reshape(-1, 1, *moved.shape[2:])
    if kind == "dense":
        return array.T
    return array


def channels_last(kind: str, array: np.ndarray) -> np.ndarray:
    """A torch activation in Keras's order: (B, C, H, W) -> (B, H, W, C); sequences stay as they are."""
    if array.ndim in (4, 5) or (array.ndim == 3 and kind in ("conv", "depthwise", "batch_norm")):
        return np.moveaxis(array, 1, -1)
    return array


def channels_first(kind: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `channels_last`."""
    if array.ndim in (4, 5) or (array.ndim == 3 and kind in ("conv", "depthwise", "batch_norm")):
        return np.moveaxis(array, -1, 1)
    return array


def by_order(torch_layers: dict[str, str], keras_layers: dict[str, str]) -> Callable[[str], str]:
    """Pairs layers that hold weights by their order within each kind.

    Args:
        torch_layers, keras_layers: canonical name to kind, in the order of the models.

    Returns:
        A function from a torch layer's canonical name to that of its Keras partner (or itself, if it has none).
    """
    queues = defaultdict(list)
    for name, kind in keras_layers.items():
        queues[kind].append(name)
    pairs = {}
    for name, kind in torch_layers.items():
        if queues[kind]:
            pairs[name] = queues[kind].pop(0)
    return lambda name: pairs.get(name, name)
