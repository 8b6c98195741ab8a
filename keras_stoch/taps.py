"""The stochastic convolution as one XLA loop over kernel entries ("taps"), for CPUs on the TensorFlow backend.

Letters as in `keras_stoch`: images (B, H, W, C), kernel (K, L, C, F), windows (B, F, 2), strides (S, T), output (P, Q).
What binds here is not arithmetic but how pixels are reached. Three things make it fast:

1. The image is laid out by column modulo the stride ("phase"), once for all windows: (B, H, W, C) -> (B, H, T C, W/T).
   The pixels that a tap meets in a row of outputs are neighbours then, whatever the window.
2. A tap of all windows is one gather of (P, Q) blocks whose starts are values, not constants: nothing is cut out, the
   compiler fuses all gathers into the loop that multiplies and adds, and compiles once for all draws.
3. The gradient keeps columns as lanes of the vector unit and adds them up at the end, as XLA on a CPU does not
   vectorise a sum over the innermost axis.

The functions are compiled by themselves in an ordinary graph, and become part of a function that is compiled whole.
"""

import functools

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.compiler.xla import xla_data_pb2

# Rows of the output that one step of the gradient adds up: more of them share the computation of addresses, and take
# longer to compile.
ROWS = 16


def convolve(images, kernel, windows, strides, output_size):
    """(B, H, W, C), (K, L, C, F), (B, F, 2) -> (B, P, Q, F), differentiable with respect to the kernel alone.

    A window that reaches beyond its image gives NaN.
    """
    lay_out, multiply, exchange, correlate = _functions(tuple(kernel.shape[:2]), tuple(strides), tuple(output_size))
    laid = lay_out(tf.stop_gradient(images))

    # The maps are linear in the kernel, and its gradient in what comes back, so that each is the other's derivative, of
    # any order. Both are stopped: an outer tape asks for gradients of XLA's own operations otherwise, which have none.
    @tf.custom_gradient
    def forwards(kernel):
        maps = multiply(laid, tf.stop_gradient(kernel), windows, tf.shape(images)[2])
        return tf.cast(exchange(maps), kernel.dtype), backwards

    @tf.custom_gradient
    def backwards(upstream):
        # A gradient may come back without static shapes, as that of a convolution does where the batch has none.
        upstream = tf.ensure_shape(upstream, (None, *output_size, kernel.shape[-1]))
        return correlate(laid, tf.stop_gradient(upstream), windows), forwards

    return forwards(kernel)


@functools.cache  # compiled once per set of shapes, not once per call
def _functions(kernel_size, strides, output_size):
    (K, L), (S, T), (P, Q) = kernel_size, strides, output_size
    rows, columns = (P - 1) * S + 1, (Q - 1) * T + 1  # from the first pixel that a tap meets to the last

    def compiled(function):
        return tf.function(function, jit_compile=True, autograph=False)

    @compiled
    def lay_out(images):
        """(B, H, W, C) -> (B, H, T C, ceil(W / T)), of the same type."""
        B, H, W, C = _shape(images)
        images = tf.pad(images, ((0, 0), (0, 0), (0, -W % T), (0, 0)))
        # The reshape beforehand lets XLA see a plain exchange of two axes, which it does in blocks.
        return tf.transpose(tf.reshape(images, (B, H, -(-W // T), T * C)), (0, 1, 3, 2))

    def start(windows, i, j, c, channels):
        """Where tap (i, j, c) of every window begins in what `lay_out` returns: row, phase and channel, column."""
        top, left = windows[..., 0] + i, windows[..., 1] + j
        return top, left % T * channels + c, left // T

    @compiled
    def multiply(laid, kernel, windows, width):
        """(B, H, T C, W / T), (K, L, C, F), (B, F, 2) -> (B, P, F, Q), in float32 or float64."""
        (B, H), (C, F) = _shape(laid)[:2], kernel.shape[2:]
        # Half precision is summed in float32: it costs nothing in registers, and CPUs have no other way.
        kernel = tf.cast(kernel, _sum_type(kernel.dtype))
        image = tf.broadcast_to(tf.range(B)[:, None], (B, F))
        # The result has its batch axes at 0 and 2: (B, P, F, Q), which is close to (B, P, Q, F).
        numbers = xla_data_pb2.GatherDimensionNumbers(
            offset_dims=(1, 3), collapsed_slice_dims=(0, 2), start_index_map=(0, 1, 2, 3), index_vector_dim=2
        )

        def taps():
            sums = []
            for i in range(K):
                for j in range(L):
                    for c in range(C):
                        starts = tf.stack([image, *start(windows, i, j, c, C)], -1)  # (B, F, 4)
                        view = xla.gather(laid, starts, numbers, (1, rows, 1, Q))[:, ::S]  # (B, P, F, Q)
                        sums.append(kernel[i, j, c][:, None] * tf.cast(view, kernel.dtype))
            return _tree(sums)

        inside = tf.reduce_min(windows) >= 0
        for axis, last in ((0, H - rows - K + 1), (1, width - columns - L + 1)):
            inside &= tf.reduce_max(windows[..., axis]) <= last
        # Indices that are out of range would be moved into it in silence. That the maps are the result of a branch also
        # keeps what follows, an exchange of axes first, from being fused into the loop over taps, which is then no
        # longer vectorised.
        return tf.cond(inside, taps, lambda: tf.fill((B, P, F, Q), tf.constant(float("nan"), kernel.dtype)))

    @compiled
    def exchange(maps):
        """(B, P, F, Q) -> (B, P, Q, F)"""
        return tf.transpose(maps, (0, 1, 3, 2))

    @compiled
    def correlate(laid, upstream, windows):
        """The gradient of the kernel, (K, L, C, F), for (B, H, T C, W / T), (B, P, Q, F), (B, F, 2)."""
        B, H, phases, _ = _shape(laid)
        C, F = phases // T, upstream.shape[-1]
        sum_type = _sum_type(upstream.dtype)
        exchanged = tf.transpose(tf.cast(upstream, sum_type), (0, 1, 3, 2))  # (B, P, F, Q)
        taps = [(i, j, c) for i in range(K) for j in range(L) for c in range(C)]
        starts = [tf.stack(axis, 1) for axis in zip(*(start(windows, *tap, C) for tap in taps), strict=True)]
        starts = tf.stack([tf.zeros_like(starts[0]), *starts], -1)  # (B, taps, F, 4)
        height = max(n for n in range(1, ROWS + 1) if P % n == 0)
        numbers = xla_data_pb2.GatherDimensionNumbers(
            offset_dims=(2,), collapsed_slice_dims=(0, 1, 2), start_index_map=(0, 1, 2, 3), index_vector_dim=2
        )

        def block(n, total):
            """Adds the products of `height` rows of one image: (taps, F, Q)."""
            image, row = n // (P // height), n % (P // height) * height
            begin = starts[image] + tf.stack([image, row * S, 0, 0])
            part = xla.dynamic_slice(exchanged, tf.stack([image, row, 0, 0]), tf.constant((1, height, F, Q)))[0]
            products = []
            for r in range(height):
                # The offset of a row moves the operand, so that all rows share one set of starts.
                shifted = laid[:, r * S : H - (height - 1 - r) * S]
                pixels = xla.gather(shifted, begin, numbers, (1, 1, 1, Q))  # (taps, F, Q)
                products.append(tf.cast(pixels, sum_type) * part[r])
            return n + 1, tf.ensure_shape(total + _tree(products), total.shape)  # unknown where that of the batch is

        total = tf.zeros((len(taps), F, Q), sum_type)
        _, total = tf.while_loop(lambda n, _: n < B * (P // height), block, (0, total))
        gradient = tf.reshape(tf.reduce_sum(total, -1), (K, L, C, F))
        return tf.cast(gradient, upstream.dtype)

    return lay_out, multiply, exchange, correlate


def _shape(tensor) -> list:
    """The sizes of a tensor's axes: int where they are known, else tensors, which XLA takes for constants."""
    sizes = tf.shape(tensor)
    return [sizes[axis] if size is None else size for axis, size in enumerate(tensor.shape)]


def _sum_type(dtype):
    return tf.float64 if dtype == tf.float64 else tf.float32


def _tree(terms):
    """The sum of terms in pairs: shorter chains of dependent additions, and less rounding."""
    while len(terms) > 1:
        terms = [sum(terms[n : n + 2][1:], terms[n]) for n in range(0, len(terms), 2)]
    return terms[0]
