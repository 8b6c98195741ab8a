"""The stochastic convolution: every output channel's kernel over its own random window of the image.

The forms below compute the same thing: (images, kernel, windows) -> maps, without padding, bias or activation. They
differ in how they reach the pixels, which is what the cost is. All take, in the letters of `keras_stoch`,

    images   (B, H, W, C)            uint8 or float
    kernel   (K, L, C, F)            the type to compute in
    windows  (F, 2) or (B, F, 2)     int (top, left)

and strides (S, T) and output_size (P, Q), and return (B, P, Q, F). Source: sections 3.2.1 and 4.2.3 of the paper.
"""

import functools

import keras
import numpy as np
from keras import ops

from keras_stoch.windows import window_size


def naive(images, kernel, windows, strides, output_size):
    """One convolution per image and filter: the paper's StochasticConv1. Slow, and hard to get wrong."""
    C, F = images.shape[-1], kernel.shape[-1]
    M, N = _window(kernel, strides, output_size)

    def one_image(image, offsets):
        maps = []
        for f in range(F):
            patch = ops.slice(image, (offsets[f, 0], offsets[f, 1], 0), (M, N, C))
            patch = ops.cast(patch, kernel.dtype)[None]  # (1, M, N, C)
            maps.append(ops.conv(patch, kernel[..., f : f + 1], strides, "valid", "channels_last"))  # (1, P, Q, 1)
        return ops.concatenate(maps, axis=-1)[0]  # (P, Q, F)

    return _each_image(one_image, images, _per_image(images, windows))


def slices(images, kernel, windows, strides, output_size):
    """One convolution per filter over a slice of the whole batch: the paper's StochasticConv4, its fastest.

    With windows per image the slice is put together from every image's own window.
    """
    maps = []
    for f in range(kernel.shape[-1]):
        patch = _cut(images, windows[..., f, :], _window(kernel, strides, output_size))
        patch = ops.cast(patch, kernel.dtype)  # (B, M, N, C)
        maps.append(ops.conv(patch, kernel[..., f : f + 1], strides, "valid", "channels_last"))  # (B, P, Q, 1)
    return ops.concatenate(maps, axis=-1)


def blocks(images, kernel, windows, strides, output_size):
    """`slices`, but that a convolution gives up to 16 neighbouring columns of the map at once, as its channels.

    The kernel stands there several times, one stride further each time, with zeros beside it. That multiplies by many
    zeros, and is faster all the same: convolutions are slow with one output channel, where most of their time goes into
    laying out pixels, and these lay out fewer, in longer rows. For CPUs without a compiler, as under a model server.
    A pixel that is no finite number spoils its neighbours in the map too.
    """
    F, (P, Q), (S, T) = kernel.shape[-1], output_size, strides
    g = max(n for n in range(1, 17) if Q % n == 0)
    shifted = [ops.pad(kernel, ((0, 0), (n * T, (g - 1 - n) * T), (0, 0), (0, 0))) for n in range(g)]
    kernels = ops.stack(shifted, axis=3)  # (K, L + (g - 1) T, C, g, F)
    maps = []
    for f in range(F):
        patch = _cut(images, windows[..., f, :], _window(kernel, strides, output_size))
        patch = ops.cast(patch, kernel.dtype)  # (B, M, N, C)
        columns = ops.conv(patch, kernels[..., f], (S, g * T), "valid", "channels_last")  # (B, P, Q / g, g)
        maps.append(ops.reshape(columns, (-1, P, Q)))
    return ops.stack(maps, axis=-1)


def gather(images, kernel, windows, strides, output_size):
    """All windows gathered side by side as channels, then one grouped convolution: the form for GPUs, under XLA."""
    B, (H, W, C), F = ops.shape(images)[0], images.shape[1:], kernel.shape[-1]
    M, N = _window(kernel, strides, output_size)
    # Written with expand_dims: TensorFlow's graph optimiser loses the axis of an indexed None here.
    rows = ops.expand_dims(windows[..., 0], -1) + ops.arange(M)  # (F, M) or (B, F, M)
    columns = ops.expand_dims(windows[..., 1], -1) + ops.arange(N)  # (F, N) or (B, F, N)
    pixels = ops.expand_dims(rows, -1) * W + ops.expand_dims(columns, -2)  # (F, M, N) or (B, F, M, N)
    flat = ops.reshape(images, (B, H * W, C))
    if len(windows.shape) == 2:
        patches = ops.take(flat, ops.reshape(pixels, (-1,)), axis=1)
    else:
        patches = ops.take_along_axis(flat, ops.reshape(pixels, (B, -1, 1)), axis=1)
    patches = ops.transpose(ops.reshape(patches, (B, F, M, N, C)), (0, 2, 3, 1, 4))  # (B, M, N, F, C)
    patches = ops.cast(ops.reshape(patches, (B, M, N, F * C)), kernel.dtype)
    # A grouped convolution: the kernel has C channels, and every filter sees its own of the F * C.
    return ops.conv(patches, kernel, strides, "valid", "channels_last")


def indexed(images, kernel, windows, strides, output_size):
    """Every kernel entry ("tap") multiplies the pixels that it meets, read by their index: windows are never gathered.

    For compilers that fuse the reads into one loop (XLA under TensorFlow and JAX, on a GPU). Without one, every tap
    copies as many pixels as the output has.
    """
    B, (H, W, C), (P, Q), sum_type = ops.shape(images)[0], images.shape[1:], output_size, _sum_type(kernel)
    taps = ops.cast(kernel, sum_type)
    flat = ops.reshape(images, (B, H * W * C))
    windows = _per_image(images, windows)
    # The pixel under the kernel's first entry, channel 0: (B, F, P, Q). Columns come last, so that neighbouring threads
    # read neighbouring pixels; with the filters there, each would read from a window of its own.
    rows = ops.expand_dims(windows[..., 0], -1) + ops.arange(P) * strides[0]  # (B, F, P)
    columns = ops.expand_dims(windows[..., 1], -1) + ops.arange(Q) * strides[1]  # (B, F, Q)
    first = (ops.expand_dims(rows, -1) * W + ops.expand_dims(columns, -2)) * C
    total = 0
    for i, j, c in np.ndindex(*kernel.shape[:3]):
        seen = _read(flat, first + (i * W + j) * C + c)
        total = total + ops.reshape(taps[i, j, c], (-1, 1, 1)) * ops.cast(seen, sum_type)
    return ops.cast(ops.transpose(total, (0, 2, 3, 1)), kernel.dtype)


def _read(flat, at):
    """What stands at the indices (B, F, P, Q) of every row of (B, N)."""
    if keras.config.backend() == "jax":
        import jax.numpy as jnp

        # Without a mode of its own, what lies beyond an array is filled in, which takes ten times as long.
        batch = jnp.arange(flat.shape[0])[:, None, None, None]
        return flat.at[batch, at].get(mode="clip")
    B, (F, P, Q) = ops.shape(flat)[0], at.shape[1:]
    return ops.reshape(ops.take_along_axis(flat, ops.reshape(at, (B, -1)), axis=1), (B, F, P, Q))


def taps(images, kernel, windows, strides, output_size):
    """One loop over kernel entries on images laid out by column modulo the stride, see `keras_stoch.taps`.

    For CPUs on the TensorFlow backend, where it is the fastest form, with and without `jit_compile`. Windows per image
    cost what windows per batch do. No gradient reaches the image.
    """
    from keras_stoch.taps import convolve

    return convolve(images, kernel, _per_image(images, windows), strides, output_size)


IMPLEMENTATIONS = {
    "naive": naive,
    "slices": slices,
    "blocks": blocks,
    "gather": gather,
    "indexed": indexed,
    "taps": taps,
}


def choose(images, image_gradient: bool) -> str:
    """The fastest form for this backend and device, by benchmarks/stochastic_conv.py.

    On a GPU that was measured under JAX alone, without a gradient for the image: TensorFlow's XLA is the same compiler,
    but was not at hand there, and for torch `torch_ref` was measured.
    """
    backend = keras.config.backend()
    if _has_gpu():
        # Not compiled, `indexed` copies what `gather` does, and more often.
        return "indexed" if _compiled_whole(images) else "gather"
    if backend != "tensorflow":
        return "blocks" if backend == "jax" else "slices"
    if not image_gradient:
        return "taps"
    # XLA under TensorFlow takes the offsets of `slices` for constants, and would compile anew for every draw.
    return "indexed" if _compiled_whole(images) else "slices"


def _compiled_whole(images) -> bool:
    """Whether the backend is tracing a function for a compiler, at whatever depth."""
    if keras.config.backend() == "jax":
        import jax

        return isinstance(images, jax.core.Tracer)
    if keras.config.backend() == "torch":
        import torch

        return torch.compiler.is_compiling()
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


@functools.cache
def _has_gpu() -> bool:
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if backend == "torch":
        import torch

        return torch.cuda.is_available()
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    return False


def _window(kernel, strides, output_size) -> tuple[int, int]:
    """(M, N) for a kernel (K, L, C, F)."""
    return window_size(output_size, kernel.shape[:2], strides)


def _sum_type(kernel) -> str:
    """Half precision is summed in float32, as convolutions do it inside."""
    return "float64" if keras.backend.standardize_dtype(kernel.dtype) == "float64" else "float32"


def _cut(images, offsets, window):
    """The windows of one filter, (B, M, N, C): one (top, left) for all images, or one for each."""
    B, C = ops.shape(images)[0], images.shape[-1]
    if len(offsets.shape) == 1:
        return ops.slice(images, (0, offsets[0], offsets[1], 0), (B, *window, C))
    return _each_image(lambda image, at: ops.slice(image, (at[0], at[1], 0), (*window, C)), images, offsets)


def _per_image(images, windows):
    """Windows with a batch axis: (F, 2) -> (B, F, 2); such that have one already stay."""
    if len(windows.shape) == 3:
        return windows
    return ops.broadcast_to(windows, (ops.shape(images)[0], *windows.shape))


def _each_image(function, images, windows):
    """Stacks function(image, its windows) over the batch, unrolled where its size is known."""
    if images.shape[0] is not None:
        return ops.stack([function(images[b], windows[b]) for b in range(images.shape[0])])
    return ops.map(lambda pair: function(*pair), (images, windows))
