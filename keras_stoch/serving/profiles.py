"""Colour profiles in a graph: ICC profiles of matrix and curves, to sRGB. Specification ICC.1:2022, clauses 7 to 10."""

import numpy as np
import tensorflow as tf

from keras_stoch.data.decoding import SAME, probe_colours
from keras_stoch.serving.headers import bytes_at, encoded_bytes

# sRGB's primaries, adapted to D50: what each adds to XYZ (IEC 61966-2-1, as its profiles have them).
_TO_XYZ = np.float32(
    [[0.4360657, 0.3851515, 0.1430784], [0.2224932, 0.7168870, 0.0606169], [0.0139160, 0.0970764, 0.7140961]]
)
_TAGS = 100  # of a profile are looked at; they have about 20


def refusal(header):
    """Why a photograph can't be read here as `prepare` reads it: a scalar string, empty if they can."""
    data = encoded_bytes(header.profile)
    rgb, cmyk, table = _is(data, 16, b"RGB "), _is(data, 16, b"CMYK"), _tag(data, _word(b"A2B0"))[0]
    convert = "; convert the photograph to sRGB first"
    found = tf.where(cmyk & (header.channels == 4), "is CMYK with a colour profile" + convert, "")
    found = tf.where(rgb & table | header.long, "has a colour profile made of tables" + convert, found)
    return tf.where(header.jpeg & (header.depth != 8), "is a JPEG of other than 8 bits", found)


def in_srgb(pixels, header):
    """Colours by the photograph's profile; a broken one, and one for other channels, is passed over, as in `prepare`.

    Args:
        pixels: uint8 (height, width, 3), or 4 with transparency.
        header: from `read_header`.
    """

    def converted():
        data = encoded_bytes(header.profile)
        rgb, grey = _is(data, 16, b"RGB "), _is(data, 16, b"GRAY") & (header.channels == 1)
        names = tf.where(grey, _word(b"kTRC"), tf.constant([_word(name) for name in (b"rTRC", b"gTRC", b"bTRC")]))
        are_there, curves = tf.map_fn(lambda name: _curve(data, name), names, fn_output_signature=(tf.bool, tf.float32))
        names = tf.constant([_word(name) for name in (b"rXYZ", b"gXYZ", b"bXYZ")])
        known, columns = tf.map_fn(lambda name: _xyz(data, name), names, fn_output_signature=(tf.bool, tf.float32))
        good = _is(data, 36, b"acsp") & _is(data, 20, b"XYZ ") & tf.reduce_all(are_there)
        good &= grey | rgb & tf.reduce_all(known)
        curve = tf.reshape(curves, [-1])  # (3 * 256,)
        matrix = tf.linalg.matmul(np.linalg.inv(_TO_XYZ), columns, transpose_b=True)
        matrix = tf.where(grey, tf.eye(3), matrix)

        def apply(colours):
            """uint8 (n, 3) -> uint8 (n, 3)."""
            linear = tf.gather(curve, tf.cast(colours, tf.int32) + tf.constant([0, 256, 512]))
            linear = tf.clip_by_value(tf.linalg.matmul(linear, matrix, transpose_b=True), 0.0, 1.0)
            encoded = tf.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
            return tf.cast(tf.round(255.0 * encoded), tf.uint8)

        probe = tf.constant(probe_colours())
        probe = tf.where(grey, probe[:, :1], probe)
        change = tf.abs(tf.cast(apply(probe), tf.int32) - tf.cast(probe, tf.int32))

        def row(values):
            return tf.concat([apply(values[:, :3]), values[:, 3:]], axis=-1)

        # Row by row: floats of all the pixels would take gigabytes.
        return tf.cond(good & (tf.reduce_max(change) > SAME), lambda: tf.map_fn(row, pixels), lambda: pixels)

    return tf.cond(tf.strings.length(header.profile) >= 132, converted, lambda: pixels)


def _word(name: bytes) -> int:
    return int.from_bytes(name, "big")


def _is(data, at, word):
    return tf.reduce_all(bytes_at(data, at, 4) == tf.constant(list(word)))


def _longs(data, at, count):
    """Signed big-endian numbers of four bytes: int32 (count,)."""
    parts = tf.reshape(bytes_at(data, at, 4 * count), (count, 4))
    return ((parts[:, 0] * 256 + parts[:, 1]) * 256 + parts[:, 2]) * 256 + parts[:, 3]


def _tag(data, name):
    """Whether a profile has a tag that lies inside, where it begins, and its bytes."""
    table = tf.reshape(_longs(data, 132, 3 * _TAGS), (_TAGS, 3))
    matches = (table[:, 0] == name) & (tf.range(_TAGS) < _longs(data, 128, 1)[0])
    _, at, size = tf.unstack(table[tf.argmax(tf.cast(matches, tf.int32))])
    inside = (at >= 128) & (size >= 8) & (size <= tf.shape(data)[0] - 16 - at)
    return tf.reduce_any(matches) & inside, tf.where(inside, at, 0), tf.where(inside, size, 0)


def _xyz(data, name):
    """Whether there is such a colour, and its XYZ: float32 (3,)."""
    found, at, size = _tag(data, name)
    return found & _is(data, at, b"XYZ ") & (size >= 20), tf.cast(_longs(data, at + 8, 3), tf.float32) / 65536.0


def _curve(data, name):
    """Whether there is such a curve, and the light that 0 to 255 mean: float32 (256,)."""
    found, at, size = _tag(data, name)
    x = tf.range(256, dtype=tf.float32) / 255.0
    table, formula = found & _is(data, at, b"curv") & (size >= 12), found & _is(data, at, b"para") & (size >= 16)
    count = _longs(data, at + 8, 1)[0]
    table &= (count >= 0) & (count <= (size - 12) // 2)

    def of_table():
        points = tf.reshape(bytes_at(data, at + 12, 2 * tf.maximum(count, 1)), (-1, 2))
        points = tf.cast(256 * points[:, 0] + points[:, 1], tf.float32)
        place = x * tf.cast(count - 1, tf.float32)
        below = tf.clip_by_value(tf.cast(place, tf.int32), 0, tf.maximum(count - 2, 0))
        share = place - tf.cast(below, tf.float32)
        ends = [tf.gather(points, tf.minimum(below + n, tf.maximum(count - 1, 0))) for n in (0, 1)]
        between = (ends[0] * (1 - share) + ends[1] * share) / 65535.0
        return tf.where(count == 0, x, tf.where(count == 1, x ** (points[0] / 256.0), between))

    def of_formula():
        kind = tf.reduce_sum(bytes_at(data, at + 8, 2) * [256, 1])
        given = tf.cast(_longs(data, at + 12, 7), tf.float32) / 65536.0
        lengths = tf.constant([1, 3, 4, 5, 7])
        given = tf.where(tf.range(7) < tf.gather(lengths, tf.clip_by_value(kind, 0, 4)), given, 0.0)
        g, a, b, c, d, e, f = tf.unstack(given)
        a = tf.where(kind == 0, 1.0, a)
        power = tf.maximum(a * x + b, 0.0) ** g
        # Types 1 and 2 part where the base becomes zero, 3 and 4 at d. Type 2's constant is called c, 4's are e and f.
        above = tf.where(kind <= 2, a * x + b >= 0.0, x >= d)
        high = power + tf.where(kind == 2, c, e)
        low = tf.where(kind <= 2, tf.where(kind == 2, c, 0.0), c * x + f)
        return tf.clip_by_value(tf.where(above, high, low), 0.0, 1.0)

    return table | formula, tf.cond(table, of_table, of_formula)
