"""Files of pixels written by hand, as their specifications build them: PNG, TIFF, and the segments of JPEG."""

import struct
import zlib

import numpy as np


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(values, depth=8, kind=2, before=b"", after=b"", interlaced=False):
    """A PNG of integers (height, width) or (height, width, channels), as its specification builds it."""
    values = np.atleast_3d(values)

    def packed(rows):
        if 0 in rows.shape:
            return b""
        if depth == 16:
            lines = rows.astype(">u2").reshape(len(rows), -1).view(np.uint8)
        else:
            bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
            lines = np.packbits(bits.reshape(len(rows), -1), axis=1)
        return b"".join(b"\0" + line.tobytes() for line in lines)

    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = starts if interlaced else [(0, 0, 1, 1)]
    content = b"".join(packed(values[top::down, left::right]) for top, left, down, right in passes)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, kind, 0, 0, interlaced)
    parts = [chunk(b"IHDR", head), before, chunk(b"IDAT", zlib.compress(content)), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def with_segments(data, *segments):
    return data[:2] + b"".join(segments) + data[2:]


def tiff(orientation, order="<", kind=3, more=(), tail=b""):
    """EXIF from its byte order on."""
    entries = [(0x010F, 3, 7), *more, (0x0112, kind, orientation)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for tag, form, value in entries:
        head += struct.pack(order + "HHI", tag, form, 1)
        head += struct.pack(order + ("HH" if form == 3 else "I"), *((value, 0) if form == 3 else (value,)))
    return head + b"\0" * 4 + tail


def exif(*arguments, **options):
    return segment(0xE1, b"Exif\0\0" + tiff(*arguments, **options))


def xmp(size=300, orientation=6):
    text = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text + b" " * size)


def icc(content):
    parts = [content[n : n + 65000] for n in range(0, len(content), 65000)]
    return b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([n + 1, len(parts)]) + part) for n, part in enumerate(parts))


def iccp(content):
    return chunk(b"iCCP", b"a profile\0\0" + zlib.compress(content))


def tagged(values, order, packed=False, orientation=1, more=()):
    """A TIFF of 16 bits with one strip, as its specification builds it."""
    values = np.atleast_3d(values)
    height, width, channels = values.shape
    content = values.astype(order + "u2").tobytes()
    content = zlib.compress(content) if packed else content
    bits = struct.pack(order + "H" * channels, *[16] * channels)
    entries = [
        *(
            (256, 3, 1, width),
            (257, 3, 1, height),
            (258, 3, channels, 8 + len(content)),
            (259, 3, 1, 8 if packed else 1),
        ),
        *((262, 3, 1, 1 if channels == 1 else 2), (273, 4, 1, 8), (274, 3, 1, orientation), (277, 3, 1, channels)),
        *((278, 3, 1, height), (279, 4, 1, len(content)), (284, 3, 1, 1), *more),
    ]
    if channels == 1:
        entries[2] = (258, 3, 1, 16)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(content) + len(bits))
    directory = struct.pack(order + "H", len(entries))
    for tag, form, count, value in entries:
        short = form == 3 and count == 1
        directory += struct.pack(order + "HHI", tag, form, count)
        directory += struct.pack(order + ("HH" if short else "I"), *((value, 0) if short else (value,)))
    return head + content + bits + directory + b"\0" * 4
