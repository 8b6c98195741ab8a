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


def taps(images, kernel, windows, strides, output_size):
    """Every kernel entry ("tap") multiplies a shifted view of the windows; XLA fuses all taps into one loop.

    For CPUs on the TensorFlow backend, where it is the fastest form:

    1. the windows are cut out of the images as they are, uint8 if they are uint8, by plain copies;
    2. they are laid out by column modulo the stride, so that the columns a tap meets are neighbours in memory;
    3. one loop over all images and filters converts and sums the taps, in vectors.

    A dynamic offset inside the loop would keep the compiler from vectorising it, which is why the windows are cut out
    first. Windows per image cost what windows per batch do. No gradient reaches the image.
    """
    import tensorflow as tf

    shared = len(windows.shape) == 2
    C, F = images.shape[-1], kernel.shape[-1]
    M, N = _window(kernel, strides, output_size)
    if shared:
        cut = [tf.slice(images, (0, *tf.unstack(windows[f]), 0), (-1, M, N, C)) for f in range(F)]
        patches = tf.stack(cut)  # (F, B, M, N, C)
    else:

        def one_image(pair):
            image, offsets = pair
            return tf.stack([tf.slice(image, (*tf.unstack(offsets[f]), 0), (M, N, C)) for f in range(F)])

        patches = tf.map_fn(one_image, (images, windows), fn_output_signature=images.dtype)  # (B, F, M, N, C)
    axis = 0 if shared else 1

    @tf.custom_gradient
    def with_gradient(kernel):
        maps = _multiply_taps(patches, kernel, strides, output_size, axis)
        maps = tf.transpose(maps, (1, 2, 3, 0) if shared else (0, 2, 3, 1))  # (B, P, Q, F)

        def gradient(upstream):
            # One convolution per filter in the other direction: the sums over whole maps gain nothing from XLA.
            parts = [
                tf.raw_ops.Conv2DBackpropFilter(
                    input=tf.cast(patches[f] if shared else patches[:, f], upstream.dtype),
                    filter_sizes=(*kernel.shape[:3], 1),
                    out_backprop=upstream[..., f : f + 1],
                    strides=(1, *strides, 1),
                    padding="VALID",
                )
                for f in range(F)
            ]
            return tf.concat(parts, -1)

        return maps, gradient

    return with_gradient(kernel)


def _multiply_taps(patches, kernel, strides, output_size, axis):
    """Steps 2 and 3 of `taps`: two leading axes, of which `axis` counts filters, (.., M, N, C) -> (.., P, Q)."""
    lay_out, multiply = _taps_functions(tuple(kernel.shape), tuple(patches.shape[2:4]), strides, output_size, axis)
    return multiply(lay_out(patches), kernel)


@functools.cache  # compiled once per set of shapes, not once per call
def _taps_functions(kernel_shape, window, strides, output_size, axis):
    import tensorflow as tf

    (S, T), (P, Q), (M, N) = strides, output_size, window
    K, L, C, F = kernel_shape
    columns = -(-N // T)

    @tf.function(jit_compile=True)
    def lay_out(patches):
        """(.., M, N, C) -> (.., C, M, T, ceil(N / T))"""
        lead = tf.shape(patches)[:2]
        padded = tf.pad(patches, ((0, 0), (0, 0), (0, 0), (0, columns * T - N), (0, 0)))
        split = tf.reshape(padded, (lead[0], lead[1], M, columns, T, C))
        return tf.transpose(split, (0, 1, 5, 2, 4, 3))

    @tf.function(jit_compile=True)
    def multiply(patches, kernel):
        lead = (F, 1) if axis == 0 else (1, F)
        # Half precision is summed in float32: it costs nothing in registers, and CPUs have no other way.
        out_type, kernel = kernel.dtype, tf.cast(kernel, "float64" if kernel.dtype == "float64" else "float32")
        total = 0.0
        for i in range(K):
            for j in range(L):
                for c in range(C):
                    # Rows i, i + S, ...; columns j, j + T, ... of every window: (.., P, Q).
                    view = patches[:, :, c, i : i + (P - 1) * S + 1 : S, j % T, j // T : j // T + Q]
                    total = total + tf.reshape(kernel[i, j, c], (*lead, 1, 1)) * tf.cast(view, kernel.dtype)
        return tf.cast(total, out_type)

    return lay_out, multiply


IMPLEMENTATIONS = {"naive": naive, "slices": slices, "gather": gather, "taps": taps}


def choose(image_gradient: bool) -> str:
    """The fastest form for this backend and device, by benchmarks/stochastic_conv.py."""
    if _has_gpu():
        return "gather"
    if keras.config.backend() == "tensorflow" and not image_gradient:
        return "taps"
    return "slices"


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
