"""Photographs in a graph: encoded bytes -> upright, cropped, resized pixels, as `data.prepare` makes them."""

import tensorflow as tf

from keras_stoch.data.augment import reduce
from keras_stoch.data.decoding import BITS, MAX_PIXELS
from keras_stoch.data.prepare import Settings
from keras_stoch.serving.headers import bytes_at, encoded_bytes, read_header
from keras_stoch.serving.profiles import in_srgb, refusal


def prepare_bytes(encoded, index, size: int, side: int, max_pixels: int = MAX_PIXELS):
    """One encoded photograph through the steps of `prepare`, as operations of a graph.

    What can't be done here is refused before the pixels are decoded: InvalidArgumentError.

    Args:
        encoded: scalar string: JPEG or PNG.
        index: scalar; its number in the request, for messages.
        size: side of the prepared square.
        side: side of the result, at most `size`.
        max_pixels: photographs of more are refused.

    Returns:
        uint8 (side, side, 3).
    """

    def refused_unless(allowed, *words):
        nonlocal encoded
        with tf.control_dependencies([tf.debugging.Assert(allowed, ["images", index, *words])]):
            encoded = tf.identity(encoded)

    # Not what else TensorFlow decodes: it takes the palette of a BMP for grey, and the fourth byte for transparency.
    start = bytes_at(encoded_bytes(encoded), 0, 4)
    known = tf.reduce_all(start[:3] == [0xFF, 0xD8, 0xFF]) | tf.reduce_all(start == tf.constant(list(b"\x89PNG")))
    refused_unless(
        known, "is no photograph: it begins like no JPEG or PNG; bytes received:", tf.strings.length(encoded)
    )
    header = read_header(encoded)
    refused_unless(header.whole, "is damaged: its header does not end; bytes received:", tf.strings.length(encoded))
    # The product of two large sides needs more than 32 bits.
    pixels = tf.cast(header.height, tf.int64) * tf.cast(header.width, tf.int64)
    refused_unless(
        (header.width > 0) & (pixels <= max_pixels),
        *("has more pixels than are allowed; height, width and limit:", header.height, header.width, max_pixels),
    )
    why = refusal(header)
    refused_unless(why == b"", why)
    wide = ~header.jpeg & (header.depth == 16)
    image = tf.cond(
        header.jpeg,
        # The accurate transform is the one that Pillow uses.
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.cond(wide, lambda: _sixteen_bits(encoded, header), lambda: _png(encoded, header, tf.uint8)),
    )
    image = in_srgb(_cropped(image, header), header)
    image = tf.cond(header.transparent, lambda: _on_white(image), lambda: image)
    image = tf.ensure_shape(image, (None, None, 3))
    image = tf.image.resize(image, (size, size), method="lanczos3", antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
    return reduce(image, side) if side != size else image


def exif_orientation(encoded):
    """The orientation of a JPEG or PNG, 1 to 8; 1 if it has none. Scalar string -> int32 scalar."""
    return read_header(encoded).orientation


def _png(encoded, header, dtype):
    """(height, width, 3), or 4 with transparency, which TensorFlow drops unless asked for four."""
    return tf.cond(
        header.transparent,
        lambda: tf.io.decode_png(encoded, channels=4, dtype=dtype),
        lambda: tf.io.decode_png(encoded, channels=3, dtype=dtype),
    )


def _sixteen_bits(encoded, header):
    """The same of a PNG of 16 bits, as uint8 by the rule of `data.decoding.eight_bits`."""
    values = _png(encoded, header, tf.uint16)
    largest = tf.reduce_max(tf.cast(tf.reduce_max(values, axis=1), tf.int32), axis=0)  # of each channel
    tops = tf.constant([2**bits - 1 for bits in BITS])

    def scale(value):
        return 255.0 / tf.cast(tf.reduce_min(tf.where(value <= tops, tops, tops[-1])), tf.float32)

    # One transparent value, in the place of an alpha channel, is 0 or 65535.
    scales = tf.concat([tf.fill([3], scale(tf.reduce_max(largest[:3]))), [scale(tf.reduce_max(largest))]], 0)
    scales = scales[: tf.shape(largest)[0]]
    # Row by row: floats of all the pixels would take gigabytes.
    return tf.map_fn(
        lambda row: tf.cast(tf.round(tf.cast(row, tf.float32) * scales), tf.uint8), values, fn_output_signature=tf.uint8
    )


def _cropped(pixels, header):
    """Upright, and the centre alone if it is very large."""
    settings = Settings()
    pixels = _upright(pixels, header.orientation)
    shape = tf.shape(pixels)
    height, width = shape[0], shape[1]
    crop = tf.minimum(height, width) > settings.crop_over
    new_height, new_width = (tf.where(crop, settings.crop_to, n) for n in (height, width))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return tf.slice(pixels, [top, left, 0], [new_height, new_width, -1])


def _on_white(pixels):
    """uint8 (height, width, 4) -> (height, width, 3)."""
    colours, alpha = tf.cast(pixels[..., :3], tf.float32), tf.cast(pixels[..., 3:], tf.float32) / 255.0
    return tf.cast(tf.round(colours * alpha + 255.0 * (1.0 - alpha)), tf.uint8)


def _upright(image, orientation):
    """Undoes an EXIF orientation: (height, width, channels), int32 scalar."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    for axis, turned in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        image = tf.cond(
            tf.reduce_any(tf.equal(orientation, turned)),
            lambda image=image, axis=axis: tf.reverse(image, [axis]),
            lambda image=image: image,
        )
    return image
