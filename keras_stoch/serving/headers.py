"""What stands in front of a photograph's pixels, read in a graph: JPEG's segments and PNG's chunks, one by one."""

from dataclasses import dataclass

import tensorflow as tf

SEGMENTS = 30_000  # or chunks, of a file at most: PNGs have one for every 8 kB. More would cost time alone
PROFILE_BYTES = 65_536  # of a profile, compressed; those of RGB have up to 25 kB
_EXIF, _ICC = b"Exif\0\0", b"ICC_PROFILE\0"
_FRAMES = [marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)]
_ALONE = [0x01, *range(0xD0, 0xDA)]  # markers without a length


@dataclass(frozen=True)
class Header:
    """Scalars of a graph.

    Attributes:
        jpeg: bool; PNG otherwise.
        height, width: int32 pixels, as stored.
        channels: int32; the colours of a file: 1, 3 or 4 (CMYK).
        depth: int32; bits a channel.
        transparent: bool.
        orientation: int32, 1 to 8, as `data.decoding.exif_orientation` gives it.
        profile: string; the ICC profile, empty if there is none.
        long: bool; whether it has more than `PROFILE_BYTES` and was not read.
        whole: bool; whether the header ends where it should.
    """

    jpeg: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    channels: tf.Tensor
    depth: tf.Tensor
    transparent: tf.Tensor
    orientation: tf.Tensor
    profile: tf.Tensor
    long: tf.Tensor
    whole: tf.Tensor


def read_header(encoded) -> Header:
    """The header of an encoded photograph (scalar string): JPEG, or PNG, as which everything else is read."""
    jpeg = tf.reduce_all(bytes_at(encoded_bytes(encoded), 0, 3)[:3] == tf.constant([0xFF, 0xD8, 0xFF]))
    found = tf.cond(jpeg, lambda: _jpeg(encoded), lambda: _png(encoded))
    size, depth, transparent, exif, profile, long, whole = found
    orientation = stored_orientation(exif)
    return Header(jpeg, size[0], size[1], size[2], depth, transparent, orientation, profile, long, whole)


def encoded_bytes(encoded):
    """A scalar string as uint8 (bytes,), with zeros behind it for what points there."""
    return tf.pad(tf.io.decode_raw(encoded, tf.uint8), [[0, 16]])


def bytes_at(data, position, count):
    """int32 (count,) from a position that may lie outside, where the last bytes stand for what is missing."""
    last = tf.shape(data)[0] - 1
    return tf.cast(tf.gather(data, tf.clip_by_value(position + tf.range(count), 0, last)), tf.int32)


def stored_orientation(exif):
    """`data.decoding.exif_orientation` as operations of a graph: scalar string -> int32 scalar."""
    data = encoded_bytes(exif)
    # Some PNGs repeat JPEG's name here.
    skip = tf.where(tf.reduce_all(bytes_at(data, 0, 6) == tf.constant(list(_EXIF))), 6, 0)
    data, length = data[skip:], tf.strings.length(exif) - skip
    start = bytes_at(data, 0, 8)
    little = tf.reduce_all(start[:4] == tf.constant(list(b"II*\0")))
    big = tf.reduce_all(start[:4] == tf.constant(list(b"MM\0*")))

    def number(parts):
        """Of bytes along the last axis. Four of them may overflow, to what is negative and fits nowhere."""
        parts = tf.where(little, tf.reverse(parts, [-1]), parts)
        total = parts[..., 0]
        for n in range(1, parts.shape[-1]):
            total = 256 * total + parts[..., n]
        return total

    directory = number(start[4:8])
    known = (little | big) & (length >= 8) & (directory >= 0) & (directory <= length - 2)
    directory = tf.where(known, directory, 0)
    count = number(bytes_at(data, directory, 2))
    count = tf.where(known, tf.minimum(count, (length - directory - 2) // 12), 0)
    entries = tf.gather(data, directory + 2 + 12 * tf.range(count)[:, None] + tf.range(12))
    entries = tf.cast(entries, tf.int32)  # (count, 12)
    kind = number(entries[:, 2:4])
    value = tf.where(kind == 3, number(entries[:, 8:10]), number(entries[:, 8:12]))
    matches = (number(entries[:, :2]) == 0x0112) & ((kind == 3) | (kind == 4)) & (number(entries[:, 4:8]) == 1)
    first = tf.concat([tf.boolean_mask(value, matches), [1]], 0)[0]
    return tf.where((first >= 1) & (first <= 8), first, 1)


def _jpeg(encoded):
    data = encoded_bytes(encoded)
    length = tf.strings.length(encoded)
    none, no = tf.constant(b""), tf.constant(False)

    def body(at, size, depth, exif, profile, done):
        head = bytes_at(data, at, 16)
        marker, segment = head[1], 256 * head[2] + head[3]
        marked = (head[0] == 0xFF) & (marker != 0xFF) & (marker != 0)
        measured = marked & ~_among(marker, _ALONE)
        step = tf.where(
            measured, 2 + tf.maximum(segment, 2), tf.where(marked | (head[0] == 0xFF) & (marker == 0), 2, 1)
        )
        frame = measured & _among(marker, _FRAMES) & (size[0] == 0)

        def joined(before, wanted, name, skip):
            """What is behind a segment's name, added to what segments of that name held before."""
            named = measured & (marker == wanted) & (segment >= 2 + skip)
            named &= tf.reduce_all(head[4 : 4 + len(name)] == tf.constant(list(name)))
            part = lambda: tf.strings.substr(encoded, at + 4 + skip, segment - 2 - skip)  # noqa: E731
            return tf.cond(named, lambda: tf.strings.join([before, part()]), lambda: before)

        exif = joined(exif, 0xE1, _EXIF, len(_EXIF))
        # Two bytes behind the name number the parts. What stands behind the frame's header is not asked, as in Pillow.
        profile = tf.cond(size[0] == 0, lambda: joined(profile, 0xE2, _ICC, len(_ICC) + 2), lambda: profile)
        read = tf.stack([256 * head[5] + head[6], 256 * head[7] + head[8], head[9]])
        size, depth = tf.where(frame, read, size), tf.where(frame, head[4], depth)
        done = measured & (marker == 0xDA)
        return at + step, size, depth, exif, profile, done

    def going_on(at, size, depth, exif, profile, done):
        return ~done & (at < length)

    state = (tf.constant(2), tf.zeros(3, tf.int32), tf.constant(0), none, none, no)
    _, size, depth, exif, profile, done = tf.while_loop(going_on, body, state, maximum_iterations=SEGMENTS)
    return size, depth, no, exif, profile, no, done & (size[0] > 0)


def _png(encoded):
    data = encoded_bytes(encoded)
    length = tf.strings.length(encoded)
    first = bytes_at(data, 8, 21)
    is_header = tf.reduce_all(first[4:8] == tf.constant(list(b"IHDR")))
    kind = first[17]
    channels = tf.where(_among(kind, [0, 4]), 1, 3)
    size = tf.concat([[_long(first[12:16])], [_long(first[8:12])], [channels]], 0)

    def body(at, transparent, pixels, exif, profile, done):
        head = bytes_at(data, at, 8)
        size = _long(head[:4])
        inside = (size >= 0) & (size <= length - 12 - at)

        def named(name):
            return inside & tf.reduce_all(head[4:] == tf.constant(list(name)))

        def content():
            return tf.strings.substr(encoded, at + 8, size)

        exif = tf.cond(named(b"eXIf"), content, lambda: exif)
        profile = tf.cond(named(b"iCCP") & ~pixels, content, lambda: profile)
        transparent |= named(b"tRNS") & ~pixels
        pixels |= named(b"IDAT")
        done = named(b"IEND") | ~inside
        return at + 12 + tf.maximum(size, 0), transparent, pixels, exif, profile, done

    def going_on(at, transparent, pixels, exif, profile, done):
        return ~done

    none, no = tf.constant(b""), tf.constant(False)
    state = (tf.constant(8), kind >= 4, no, none, none, no)
    found = tf.while_loop(going_on, body, state, maximum_iterations=SEGMENTS)
    _, transparent, _, exif, profile, done = found
    # A name of 1 to 79 bytes, a zero, the method, and a zlib stream.
    name = tf.cast(tf.argmax(tf.cast(encoded_bytes(profile)[:80] == 0, tf.int32)), tf.int32)
    rest = tf.strings.length(profile) - name - 2
    profile = tf.cond(
        (rest > 0) & (rest <= PROFILE_BYTES),
        lambda: tf.io.decode_compressed(tf.strings.substr(profile, name + 2, rest), "ZLIB"),
        lambda: none,
    )
    return size, first[16], transparent, exif, profile, rest > PROFILE_BYTES, done & is_header


def _long(parts):
    """Four bytes, the highest first; what has more than 31 bits is negative."""
    return ((parts[0] * 256 + parts[1]) * 256 + parts[2]) * 256 + parts[3]


def _among(value, numbers):
    return tf.reduce_any(value == tf.constant(numbers))
