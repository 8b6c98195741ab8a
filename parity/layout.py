"""The axis order of single tensors. The canonical one is Keras's: channels last, kernels (height, width, in, out)."""

import numpy as np

# Kinds whose tensors of three axes are (B, C, L) in torch.
_SEQUENCES = ("conv", "depthwise", "conv_transpose", "batch_norm")


def torch_to_canonical(kind: str, variable: str, array: np.ndarray, channels: int = 0) -> np.ndarray:
    """A torch tensor in Keras's axis order.

    Args:
        kind: of the module, see `kinds.torch_kind`.
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


def compatible(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether one shape is the other with axes of size one more or fewer, and neighbouring axes folded into one.

    So hold a dense layer and a convolution of one pixel, or an attention whose heads are apart, the same kernel.
    """
    a, b = ([n for n in axes if n != 1] for axes in (shape, other))
    if len(a) > len(b):
        a, b = b, a
    for size in a:
        part = 1
        while part < size and b:
            part *= b.pop(0)
        if part != size:
            return False
    return not b


def channels_last(kind: str, array: np.ndarray) -> np.ndarray:
    """A torch activation in Keras's order: (B, C, H, W) -> (B, H, W, C); sequences stay as they are."""
    if array.ndim in (4, 5) or (array.ndim == 3 and kind in _SEQUENCES):
        return np.moveaxis(array, 1, -1)
    return array


def channels_first(kind: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `channels_last`."""
    if array.ndim in (4, 5) or (array.ndim == 3 and kind in _SEQUENCES):
        return np.moveaxis(array, -1, 1)
    return array


def ordered(array: np.ndarray, order: str, back: bool = False) -> np.ndarray:
    """A tensor of an unusual axis order in canonical layout, or back; see `arrangement`."""
    if order == "channels first":
        return channels_first("", array) if back else channels_last("", array)
    if order == "time first" and array.ndim > 1:
        return np.swapaxes(array, 0, 1)
    if order == "channels second" and array.ndim > 2:
        return np.moveaxis(array, -1, 1) if back else np.moveaxis(array, 1, -1)
    return array
