"""Photographs in a graph: encoded bytes -> upright, cropped, resized pixels, as `data.prepare` makes them."""

import tensorflow as tf

from keras_stoch.data.augment import reduce
from keras_stoch.data.prepare import Settings

EXIF_BYTES = 4096  # of a JPEG are searched for its orientation, which stands right at the beginning


def prepare_bytes(encoded, index, size: int, side: int):
    """One encoded photograph through the steps of `prepare`, as operations of a graph.

    Args:
        encoded: scalar string: JPEG or PNG.
        index: scalar; its number in the request, for messages.
        size: side of the prepared square.
        side: side of the result, at most `size`.

    Returns:
        uint8 (side, side, 3).
    """
    settings = Settings()
    start = tf.io.decode_raw(tf.strings.substr(tf.strings.join([encoded, "\0" * 4]), 0, 4), tf.uint8)
    # Not what else TensorFlow decodes: it takes the palette of a BMP for grey, and the fourth byte for transparency.
    known = [b"\xff\xd8\xff", b"\x89PNG"]
    matches = [tf.reduce_all(start[: len(magic)] == tf.constant(list(magic), tf.uint8)) for magic in known]
    message = ["images", index, "is no photograph: it begins like no JPEG or PNG; bytes received:"]
    checked = tf.debugging.Assert(tf.reduce_any(matches), [*message, tf.strings.length(encoded)])
    with tf.control_dependencies([checked]):
        encoded = tf.identity(encoded)
    pixels = tf.cond(
        matches[0],
        # The accurate transform is the one that Pillow uses.
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(encoded, channels=0),
    )
    pixels = _upright(pixels, exif_orientation(encoded))
    shape = tf.shape(pixels)
    height, width = shape[0], shape[1]
    crop = tf.minimum(height, width) > settings.crop_over
    new_height, new_width = (tf.where(crop, settings.crop_to, n) for n in (height, width))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    pixels = tf.slice(pixels, [top, left, 0], [new_height, new_width, -1])
    image = tf.cond(tf.shape(pixels)[-1] == 3, lambda: tf.cast(pixels, tf.float32), lambda: _on_white(pixels))
    image = tf.ensure_shape(image, (None, None, 3))
    image = tf.image.resize(image, (size, size), method="lanczos3", antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
    return reduce(image, side) if side != size else image


def _on_white(pixels):
    """Three channels of one, two or four: grey is repeated, transparency laid over white. uint8 -> float32."""
    channels = tf.shape(pixels)[-1]
    alpha = tf.cond(
        channels % 2 == 0,
        lambda: tf.cast(pixels[..., -1:], tf.float32) / 255.0,
        lambda: tf.ones_like(pixels[..., :1], tf.float32),
    )
    colours = tf.where(channels <= 2, [0, 0, 0], [0, 1, 2])
    return tf.cast(tf.gather(pixels, colours, axis=-1), tf.float32) * alpha + 255.0 * (1.0 - alpha)


def exif_orientation(encoded):
    """The orientation tag of a JPEG, 1 to 8; 1 if it has none. Scalar string -> int32 scalar.

    Cameras store turned pictures as they were taken and note how to turn them (EXIF 2.32, tag 0x0112 of IFD 0).
    """
    # Padded, so that a broken file that points behind its end finds zeros.
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, EXIF_BYTES), tf.uint8), tf.int32)
    data = tf.pad(data, [[0, 512]])
    last = tf.shape(data)[0] - 1
    marker = list(b"Exif\0\0")
    count = tf.shape(data)[0] - len(marker)
    found = tf.reduce_all([data[n : n + count] == byte for n, byte in enumerate(marker)], axis=0)
    base = tf.cast(tf.argmax(tf.cast(found, tf.int32)), tf.int32) + len(marker)
    little = data[base] == ord("I")

    def short(position):
        first, second = (tf.gather(data, tf.clip_by_value(position + n, 0, last)) for n in (0, 1))
        return tf.where(little, first + 256 * second, second + 256 * first)

    # The offset has four bytes, of which two are enough for where a directory can stand here.
    directory = base + short(base + tf.where(little, 4, 6))
    entries = directory + 2 + 12 * tf.range(40)
    matches = (short(entries) == 0x0112) & (tf.range(40) < short(directory))
    value = tf.reduce_max(tf.where(matches, short(entries + 8), 0))
    valid = tf.reduce_any(found) & (data[0] == 0xFF) & (value >= 1) & (value <= 8)
    return tf.where(valid, value, 1)


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
