"""Files of many kinds that hold one picture: what cameras, scanners and programs write, and what breaks."""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.keras_stoch.serving import profiles
from tests.keras_stoch.serving.pictures import picture
from tests.keras_stoch.serving.writers import chunk, exif, icc, iccp, png, segment, tagged, tiff, with_segments, xmp

HEIGHT, WIDTH = 60, 84
PICTURE = np.uint8(40 + picture(HEIGHT, WIDTH, 3) * 0.6)  # colours that every profile holds; no value below 40
GREY = np.asarray(Image.fromarray(PICTURE).convert("L"))
MASK = np.uint8(np.indices((HEIGHT, WIDTH))[1] >= 30)  # opaque from column 30 on
SRGB = profiles.rgb("srgb", profiles.SRGB_CURVE)
P3 = profiles.rgb("p3", profiles.SRGB_CURVE)
ADOBE = profiles.rgb("adobe", profiles.power(563 / 256))
PROPHOTO = profiles.rgb("prophoto", profiles.table(1.8))


@dataclass(frozen=True)
class Kind:
    """A file, and what is to become of it.

    Attributes:
        data: its bytes.
        pixels: uint8 (height, width, 3) upright, or None where nothing can read it.
        serving: what the server says if it refuses, else None.
        close: grey levels that pixels may differ on average.
        suffix: of its name.
    """

    data: bytes
    pixels: np.ndarray | None
    serving: str | None = None
    close: float = 1.0
    suffix: str = ".jpg"


def three(grey):
    return np.repeat(grey[..., None], 3, -1)


def on_white(pixels, alpha):
    return np.uint8(np.rint(pixels * alpha[..., None] + 255.0 * (1 - alpha[..., None])))


def jpeg(pixels=PICTURE, mode=None, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "JPEG", **{"quality": 97, "subsampling": 0} | options)
    return buffer.getvalue()


def other(format, **options):
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, format, **options)
    return buffer.getvalue()


# How pixels are stored so that undoing an orientation gives the picture.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


def stored(orientation, pixels=PICTURE):
    return np.ascontiguousarray(STORED[orientation](pixels))


def jpegs():
    plain, turned = jpeg(), jpeg(stored(6))
    yield "jpeg", Kind(plain, PICTURE)
    yield "jpeg, progressive", Kind(jpeg(progressive=True), PICTURE)
    yield "jpeg, 4:2:0", Kind(jpeg(subsampling=2), PICTURE, close=2.5)
    yield "jpeg, 4:2:2", Kind(jpeg(subsampling=1), PICTURE, close=1.5)
    yield "jpeg, restarts", Kind(jpeg(restart_marker_blocks=2), PICTURE)
    yield "jpeg, rgb inside", Kind(jpeg(keep_rgb=True), PICTURE)
    yield "jpeg, grey", Kind(jpeg(GREY), three(GREY))
    yield "jpeg called png", Kind(plain, PICTURE, suffix=".png")
    yield "jpeg, second picture behind", Kind(plain + jpeg(GREY), PICTURE)
    yield "jpeg, fill bytes", Kind(with_segments(plain, b"\xff\xff\xff" + segment(0xFE, b"x")), PICTURE)
    cmyk = np.asarray(Image.fromarray(PICTURE).convert("CMYK"))
    cmyk = np.dstack([cmyk[..., :3] // 2, np.full((HEIGHT, WIDTH), 60, np.uint8)])
    colours = np.asarray(Image.fromarray(cmyk, "CMYK").convert("RGB"))
    inverse = jpeg(cmyk, "CMYK")
    assert inverse[2:4] == b"\xff\xee"
    yield "jpeg, cmyk of adobe", Kind(inverse, colours)
    without = jpeg(255 - cmyk, "CMYK")
    yield "jpeg, cmyk of others", Kind(without[:2] + without[18:], colours)
    for orientation in STORED:
        data = with_segments(jpeg(stored(orientation)), exif(orientation))
        yield f"jpeg, orientation {orientation}", Kind(data, PICTURE)
    behind = {
        "xmp of 50 kB": xmp(50_000, 1),
        "profile of 60 kB": icc(SRGB + b"\0" * 60_000),
        "decoy in a comment": segment(0xFE, b"Exif\0\0" + tiff(3)),
        "decoy in another segment": segment(0xED, b"Photoshop" + b"Exif\0\0" + tiff(8)),
        "empty segment": segment(0xE1, b""),
        "200 comments": segment(0xFE, b"c") * 200,
        "jfif": segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
    }
    for name, before in behind.items():
        yield f"jpeg, exif behind {name}", Kind(with_segments(turned, before, exif(6)), PICTURE)
    variants = {
        "big-endian": exif(6, ">"),
        "long": exif(6, kind=4),
        "long and big-endian": exif(6, ">", 4),
        "behind 60 tags": exif(6, more=[(0x0100, 3, 1)] * 60),
        "two segments": exif(6) + exif(3),
    }
    for name, part in variants.items():
        yield f"jpeg, exif {name}", Kind(with_segments(turned, part), PICTURE)
    nothing = {
        "0": exif(0),
        "9": exif(9),
        "6 of bytes": exif(6, kind=1),
        "of no order": segment(0xE1, b"Exif\0\0XX*\0\x08\0\0\0"),
        "cut off": segment(0xE1, b"Exif\0\0" + tiff(6)[:20]),
        "pointing outside": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        "of xmp alone": xmp(),
        "of a comment alone": segment(0xFE, b"Exif\0\0" + tiff(6)),
    }
    for name, part in nothing.items():
        yield f"jpeg, orientation {name}", Kind(with_segments(plain, part), PICTURE)


def profiled():
    def values(primaries, curve):
        return np.uint8(np.rint(profiles.encoded(PICTURE, primaries, curve)))

    yield "jpeg, srgb profile", Kind(with_segments(jpeg(), icc(SRGB)), PICTURE)
    for name, content, pixels in (
        ("p3", P3, values("p3", "srgb")),
        ("adobe rgb", ADOBE, values("adobe", 563 / 256)),
        ("prophoto", PROPHOTO, values("prophoto", 1.8)),
    ):
        yield f"jpeg, {name}", Kind(with_segments(jpeg(pixels), icc(content)), PICTURE, close=2.5)
        yield f"png, {name}", Kind(png(pixels, before=iccp(content)), PICTURE, close=1.5)
    p3 = values("p3", "srgb")
    yield "jpeg, p3, turned", Kind(with_segments(jpeg(stored(6, p3)), icc(P3), exif(6)), PICTURE, close=2.5)
    clear = on_white(PICTURE, MASK)
    yield "png, p3, transparent", Kind(png(np.dstack([p3, 255 * MASK]), 8, 6, iccp(P3)), clear, close=1.5)
    deep = np.rint(profiles.encoded(PICTURE, "p3", "srgb", 65535))
    yield "png, p3, 16 bits", Kind(png(deep, 16, 2, iccp(P3)), PICTURE)
    for number, curve in enumerate(
        (
            profiles.formula(0, 2.2),
            profiles.formula(1, 2.2, 1.0, 0.0),
            profiles.formula(2, 2.2, 1.0, 0.0, 0.0),
            profiles.formula(4, 2.2, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0),
        )
    ):
        kind = Kind(png(values("p3", 2.2), before=iccp(profiles.rgb("p3", curve))), PICTURE, close=1.5)
        yield f"png, formula {(0, 1, 2, 4)[number]}", kind
    # Grey of gamma 1: light itself.
    light = np.uint8(np.rint(255 * profiles.srgb_light(GREY / 255)))
    linear = profiles.grey(profiles.power(1.0))
    yield "png, linear grey", Kind(png(light, 8, 0, iccp(linear)), three(GREY), close=1.5)
    yield (
        "png, linear grey, 16 bits",
        Kind(png(np.rint(65535 * profiles.srgb_light(GREY / 255)), 16, 0, iccp(linear)), three(GREY), close=1.5),
    )
    yield "jpeg, grey of a colour profile", Kind(with_segments(jpeg(GREY), icc(SRGB)), three(GREY))
    yield "jpeg, colours of a grey profile", Kind(with_segments(jpeg(), icc(linear)), PICTURE)
    yield "jpeg, broken profile", Kind(with_segments(jpeg(), icc(P3[:150])), PICTURE)
    yield "jpeg, no profile", Kind(with_segments(jpeg(), icc(b"nothing" * 40)), PICTURE)
    yield "png, broken profile", Kind(png(PICTURE, before=iccp(P3[:140])), PICTURE)
    tables = profiles.of_tables(b"RGB ")
    yield "jpeg, tables", Kind(with_segments(jpeg(), icc(tables)), ..., "has a colour profile made of tables")
    yield "png, tables", Kind(png(PICTURE, before=iccp(tables)), ..., "has a colour profile made of tables")
    noise = np.random.default_rng(0).bytes(70_000)
    yield "png, long profile", Kind(png(PICTURE, before=iccp(noise)), ..., "has a colour profile made of tables")
    cmyk = jpeg(np.dstack([PICTURE, GREY]), "CMYK")
    cmyk = with_segments(cmyk, icc(profiles.of_tables(b"CMYK")))
    yield "jpeg, cmyk with a profile", Kind(cmyk, ..., "is CMYK with a colour profile")


def pngs():
    for depth in (1, 2, 4, 8, 16):
        top = 2**depth - 1
        values = np.rint(GREY / 255 * top)
        grey = np.uint8(np.rint(values / top * 255))
        yield f"png, grey {depth}", Kind(png(values, depth, 0), three(grey))
        value = int(values[HEIGHT // 2, WIDTH // 2])
        data = png(values, depth, 0, chunk(b"tRNS", struct.pack(">H", value)))
        yield f"png, grey {depth}, one value clear", Kind(data, on_white(three(grey), values != value))
    for depth in (1, 2, 4, 8):
        small = Image.fromarray(PICTURE).quantize(2**depth)
        colours = np.uint8(small.getpalette()[: 3 * 2**depth])
        palette = chunk(b"PLTE", colours.tobytes())
        expected = np.asarray(small.convert("RGB"))
        yield f"png, palette {depth}", Kind(png(np.asarray(small), depth, 3, palette), expected)
        opacity = np.uint8(np.linspace(255, 0, 2**depth))
        data = png(np.asarray(small), depth, 3, palette + chunk(b"tRNS", opacity.tobytes()))
        yield f"png, palette {depth}, clear", Kind(data, on_white(expected, opacity[np.asarray(small)] / 255))
    for depth in (8, 16):
        scale = 257 if depth == 16 else 1
        wide = np.int64(PICTURE) * scale
        clear = wide[20, 30]
        data = png(wide, depth, 2, chunk(b"tRNS", struct.pack(">3H", *clear)))
        yield f"png, rgb {depth}, one colour clear", Kind(data, on_white(PICTURE, (wide != clear).any(-1)))
        alpha = np.int64(MASK) * 128 + 100
        expected = on_white(PICTURE, alpha / 255)
        yield f"png, rgba {depth}", Kind(png(np.dstack([wide, alpha * scale]), depth, 6), expected)
        expected = on_white(three(GREY), alpha / 255)
        yield f"png, la {depth}", Kind(png(np.dstack([np.int64(GREY), alpha]) * scale, depth, 4), expected)
        yield f"png, rgb {depth}, interlaced", Kind(png(wide, depth, 2, interlaced=True), PICTURE)
    yield "png, grey 16, interlaced", Kind(png(np.int64(GREY) * 257, 16, 0, interlaced=True), three(GREY))
    yield "png, rgb 8", Kind(png(PICTURE), PICTURE)
    for bits in (8, 10, 12, 14):
        top = 2**bits - 1
        grey, colours = (np.rint(pixels / 255 * top) for pixels in (GREY, PICTURE))
        # Down to the last bit used, so that fewer would not do.
        grey[0, 0], colours[0, 0] = top, top
        truth, white = PICTURE.copy(), GREY.copy()
        truth[0, 0], white[0, 0] = 255, 255
        yield f"png, {bits} in 16, grey", Kind(png(grey, 16, 0), three(white))
        yield f"png, {bits} in 16, rgb", Kind(png(colours, 16, 2), truth)
        for name, alpha_top in (("as narrow", top), ("wide", 65535)):
            alpha = np.rint((MASK * 128 + 100) / 255 * alpha_top)
            alpha[0, 0] = alpha_top
            opacity = alpha / alpha_top
            data = png(np.dstack([colours, alpha]), 16, 6)
            yield f"png, {bits} in 16, rgba {name}", Kind(data, on_white(truth, opacity))
            data = png(np.dstack([grey, alpha]), 16, 4)
            yield f"png, {bits} in 16, la {name}", Kind(data, on_white(three(white), opacity))
    for orientation in STORED:
        before = chunk(b"eXIf", tiff(orientation, ">" if orientation % 2 else "<"))
        yield f"png, orientation {orientation}", Kind(png(stored(orientation), before=before), PICTURE)
    turned = stored(6)
    yield "png, exif at the end", Kind(png(turned, after=chunk(b"eXIf", tiff(6))), PICTURE)
    yield "png, exif with jpeg's name", Kind(png(turned, before=chunk(b"eXIf", b"Exif\0\0" + tiff(6))), PICTURE)
    text = chunk(b"tEXt", b"Comment\0eXIf" + tiff(6) + b"Exif\0\0" + tiff(6))
    yield "png, decoy in a text", Kind(png(PICTURE, before=text), PICTURE)
    text = chunk(b"tEXt", b"Comment\0" + b"x" * 60_000)
    yield "png, exif behind 60 kB", Kind(png(turned, before=text + chunk(b"eXIf", tiff(6))), PICTURE)
    yield (
        "png, la, turned",
        Kind(png(stored(6, np.dstack([GREY, 255 * MASK])), 8, 4, chunk(b"eXIf", tiff(6))), on_white(three(GREY), MASK)),
    )
    yield "png, gamma", Kind(png(PICTURE, before=chunk(b"gAMA", struct.pack(">I", 45455))), PICTURE)
    yield "png, black", Kind(png(np.zeros((HEIGHT, WIDTH)), 16, 0), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    white = np.full((HEIGHT, WIDTH), 65535)
    yield "png, white", Kind(png(white, 16, 0), np.full((HEIGHT, WIDTH, 3), 255, np.uint8))


def tiffs():
    """What `prepare` reads and a server refuses."""
    told = "is no photograph"
    top = {8: 255, 12: 4095, 16: 65535}
    for order in "<>":
        for packed in (False, True):
            name = f"tiff, {'big' if order == '>' else 'little'}-endian{', packed' if packed else ''}"
            for bits, most in top.items():
                colours = np.rint(PICTURE / 255 * most)
                colours[0, 0] = most
                truth = PICTURE.copy()
                truth[0, 0] = 255
                yield f"{name}, {bits} bits in 16", Kind(tagged(colours, order, packed), truth, told, suffix=".tif")
            alpha = np.dstack([np.int64(PICTURE) * 257, np.int64(MASK) * 65535])
            data = tagged(alpha, order, packed, more=[(338, 3, 1, 2)])
            yield f"{name}, clear", Kind(data, on_white(PICTURE, MASK), told, suffix=".tif")
        grey = tagged(np.int64(GREY) * 257, order)
        yield f"{name}, grey", Kind(grey, three(GREY), told, suffix=".tiff")
        turned = tagged(np.int64(stored(6)) * 257, order, orientation=6)
        yield f"{name}, turned", Kind(turned, PICTURE, told, suffix=".tif")


def refused():
    """What nobody reads, and what serving leaves to others."""
    yield "text", Kind(b"no picture", None, "is no photograph")
    yield "nothing", Kind(b"", None, "is no photograph")
    plain = jpeg()
    yield "jpeg, half", Kind(plain[: len(plain) // 2], None, "jpeg")
    yield "jpeg, header alone", Kind(plain[:30], None, "is damaged: its header does not end")
    whole = png(PICTURE)
    yield "png, half", Kind(whole[: len(whole) // 2], None, "Invalid PNG data", suffix=".png")
    twelve = plain.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c")
    yield "jpeg, 12 bits", Kind(twelve, None, "is a JPEG of other than 8 bits")
    bomb = png(np.zeros((1, 1)), 1, 0).replace(struct.pack(">II", 1, 1), struct.pack(">II", 20_000, 20_000))
    head = bomb[12:29]
    bomb = bomb[:29] + struct.pack(">I", zlib.crc32(head)) + bomb[33:]
    yield "png, bomb", Kind(bomb, None, "has more pixels than are allowed", suffix=".png")
    at = plain.index(b"\xff\xc0")
    bomb = plain[: at + 5] + struct.pack(">HH", 65000, 65000) + plain[at + 9 :]
    yield "jpeg, bomb", Kind(bomb, None, "has more pixels than are allowed")
    # GIFs are read only where their name hides it.
    for format, suffix in (("BMP", ".bmp"), ("GIF", ".png"), ("TIFF", ".tif"), ("WEBP", ".webp")):
        options = {"lossless": True} if format == "WEBP" else {}
        expected = PICTURE if format != "GIF" else ...
        yield format.lower(), Kind(other(format, **options), expected, "is no photograph", suffix=suffix)


def kinds():
    """Name -> Kind."""
    return {name: kind for group in (jpegs, profiled, pngs, tiffs, refused) for name, kind in group()}
