"""One random transform per image, for both resolutions alike. Section 4.1.6 of the paper.

The transform (rotation, scale, flips about the image's centre) is one bilinear resampling of the high-resolution image.
The low-resolution image is made from the *result*, antialiased, so both show the same thing: "failure to do so results
in the model not achieving good performance". The random numbers are drawn here with NumPy and go in as explicit
parameters, so that another framework, a test, or a run that was resumed sees the same pictures.
"""

import functools

import numpy as np

ANGLE = (-180.0, 180.0)  # degrees
SCALE = (0.6, 1.0)
COLUMNS = ("angle", "scale", "flip_horizontal", "flip_vertical")


def draw_transforms(count: int, *seed: int) -> np.ndarray:
    """Random parameters for `count` images.

    Args:
        count: images.
        *seed: integers that decide the draw, such as seed and epoch.

    Returns:
        float64 array (count, 4), columns `COLUMNS`: the angle in degrees, uniform in [-180, 180), the scale, uniform in
        [0.6, 1), and two flips of 0 or 1.
    """
    uniform = np.random.default_rng(seed).random((count, 4))
    low, high = np.array([[ANGLE[0], SCALE[0]], [ANGLE[1], SCALE[1]]])
    return np.concatenate([low + (high - low) * uniform[:, :2], np.floor(2 * uniform[:, 2:])], axis=1)


IDENTITY = np.array([0.0, 1.0, 0.0, 0.0])


def affine_matrix(transforms, size: int) -> np.ndarray:
    """The pixel of the input that each pixel of the output shows.

    The picture is flipped, scaled and turned counter-clockwise by `angle`, all about its centre; what lies outside of
    it is black.

    Args:
        transforms: (..., 4), as from `draw_transforms`.
        size: side of the image in pixels.

    Returns:
        float32 array (..., 6): (a, b, c, d, e, f) with x_in = a x + b y + c and y_in = d x + e y + f, in coordinates
        where the centre of the first pixel is 0.
    """
    angle, scale, flip_x, flip_y = np.moveaxis(np.asarray(transforms, np.float64), -1, 0)
    cosine, sine = np.cos(np.deg2rad(angle)) / scale, np.sin(np.deg2rad(angle)) / scale
    sign_x, sign_y = 1 - 2 * flip_x, 1 - 2 * flip_y
    a, b = sign_x * cosine, -sign_x * sine
    d, e = sign_y * sine, sign_y * cosine
    centre = (size - 1) / 2
    matrix = [a, b, centre * (1 - a - b), d, e, centre * (1 - d - e)]
    return np.stack(matrix, axis=-1).astype(np.float32)


@functools.cache
def _compiled_warp():
    import tensorflow as tf

    # Compiled by XLA even on a CPU: the gathers fuse with the arithmetic, which is three times as fast as TensorFlow's
    # own ImageProjectiveTransformV3 (benchmarks/input_pipeline.py).
    return tf.function(_warp, jit_compile=True)


def _warp(image, matrix):
    import tensorflow as tf

    height, width, channels = image.shape
    x = tf.range(width, dtype=tf.float32)[None, :]
    y = tf.range(height, dtype=tf.float32)[:, None]
    x_in = matrix[0] * x + matrix[1] * y + matrix[2]  # (height, width)
    y_in = matrix[3] * x + matrix[4] * y + matrix[5]
    left, top = tf.floor(x_in), tf.floor(y_in)
    right_share, lower_share = (x_in - left)[..., None], (y_in - top)[..., None]
    # A ring of black, two pixels wide, takes the place of everything outside: both neighbours must find black there.
    column = tf.cast(tf.clip_by_value(left, -2.0, float(width)), tf.int32) + 2
    row = tf.cast(tf.clip_by_value(top, -2.0, float(height)), tf.int32) + 2
    stride = width + 4
    flat = tf.reshape(tf.pad(image, ((2, 2), (2, 2), (0, 0))), (-1, channels))
    index = row * stride + column

    def pixel(offset):
        return tf.cast(tf.gather(flat, index + offset), tf.float32)

    upper = pixel(0) + (pixel(1) - pixel(0)) * right_share
    lower = pixel(stride) + (pixel(stride + 1) - pixel(stride)) * right_share
    return tf.cast(tf.round(upper + (lower - upper) * lower_share), tf.uint8)


def transform(image, matrix):
    """Applies one transform to one image, in TensorFlow.

    Args:
        image: uint8 tensor (height, width, 3) of known shape.
        matrix: (6,), from `affine_matrix`.

    Returns:
        uint8 tensor of the same shape. Bilinear; pixels outside of the image count as 0.
    """
    return _compiled_warp()(image, matrix)


def reduce(image, size: int):
    """The low-resolution image: antialiased with a triangular filter as wide as the reduction asks for.

    Args:
        image: uint8 tensor (height, width, 3).
        size: side in pixels.

    Returns:
        uint8 tensor (size, size, 3).
    """
    import tensorflow as tf

    small = tf.image.resize(image, (size, size), method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(small), 0.0, 255.0), tf.uint8)
