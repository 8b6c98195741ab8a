"""What a file of pixels holds, whatever its kind: bits, transparency, colours and orientation, to upright 8-bit sRGB.

`serving` does the same in a graph, by the constants here and by the rules of `eight_bits` and `exif_orientation`.
"""

import io
import struct
import sys

import numpy as np
from PIL import Image, ImageCms

MAX_PIXELS = 89_000_000  # ISIC's largest photographs have 36 million; more than this is refused as a bomb
BITS = (8, 10, 12, 14, 16)  # of what cameras and scanners write into files of 16 bits
SAME = 2  # grey levels: a profile that changes no colour by more is taken for sRGB

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


class Dropped(Exception):
    """An image that is left out; the text says why."""


def decode(image: Image.Image, path) -> Image.Image:
    """Upright 8-bit RGB in sRGB of a file that Pillow has opened and not yet loaded.

    Args:
        image: from `Image.open`.
        path: of the same file.

    Raises:
        Dropped: for values of unknown range.
    """
    raw = _raw_mode(image)
    image.load()
    profile, exif = image.info.get("icc_profile"), image.info.get("exif", b"")
    colours, alpha = _colours(image, raw, path)
    pixels = _in_srgb(colours, profile)
    if alpha is not None:
        pixels = Image.composite(pixels, Image.new("RGB", pixels.size, "white"), alpha)
    # Of TIFF, Pillow reads the tags by itself.
    tag = image.tag_v2.get(0x0112, 1) if hasattr(image, "tag_v2") else exif_orientation(exif)
    return pixels.transpose(_TURNS[tag]) if tag in _TURNS else pixels


def exif_orientation(exif: bytes) -> int:
    """How a picture is stored, 1 to 8: tag 0x0112 of IFD 0 (EXIF 2.32), and 1 where none can be read.

    What XMP says of it is not asked: programs that turn a picture leave it behind, and browsers pass over it too.
    """
    exif = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")  # some PNGs repeat the name of JPEG's segment
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, values, held = struct.unpack_from(order + "HHI4s", exif, entry)
            if tag == 0x0112 and kind in (3, 4) and values == 1:
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), held)
                return value if 1 <= value <= 8 else 1
    except (struct.error, TypeError):  # it ends too early, or is no EXIF
        pass
    return 1


def eight_bits(values: np.ndarray, largest: int) -> np.ndarray:
    """Integers as 8 bits: scaled from the least of `BITS` that holds the largest value.

    Files of 16 bits do not tell how many of them are used. A photograph of more bits that is darker than a quarter
    everywhere can't be told from one of fewer bits.

    Args:
        values: integers 0 to 65535.
        largest: the largest of the image.
    """
    top = 2 ** next(bits for bits in BITS if largest < 2**bits) - 1
    return np.uint8(np.rint(np.float32(values) * np.float32(255 / top)))


def _raw_mode(image) -> str:
    """How the file's pixels are packed, in Pillow's words ("RGB;16B"); it forgets when it loads them."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments if isinstance(arguments, str) else arguments[0] if arguments else "")


def _colours(image, raw, path) -> tuple[Image.Image, Image.Image | None]:
    """The colours ("L", "RGB", "CMYK" or "LAB", 8 bits each) and the opacity ("L", None if all is opaque)."""
    if image.mode == "F":
        raise Dropped("floating-point pixels of unknown range")
    if image.mode.startswith("I"):  # "I;16", "I;16B" and 32-bit containers of 16-bit values
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Dropped(f"grey values {values.min()} to {values.max()} fit neither 8 nor 16 bits")
        clear = image.info.get("transparency")
        return _narrowed(values[..., None], None if clear is None else values != clear)
    if ";16" in raw and image.mode in ("RGB", "RGBA", "CMYK"):
        values = _sixteen_bits(image, raw, path)
        clear = image.info.get("transparency")
        if raw.startswith("LA"):
            return _narrowed(values[..., :1], values[..., 1])
        if image.mode == "RGBA":
            return _narrowed(values[..., :3], values[..., 3])
        return _narrowed(values, None if clear is None else (values != np.array(clear)).any(-1))
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Pillow takes all for Adobe's, whose programs store the inverse.
        image = Image.fromarray(255 - np.asarray(image), "CMYK")
    if image.mode in ("L", "RGB", "CMYK", "LAB") and "transparency" not in image.info:
        return image, None
    if image.mode == "L" and raw in ("L;2", "L;4"):  # the transparent value is stored as narrow as the pixels
        image.info["transparency"] *= 85 if raw == "L;2" else 17
    if image.mode in ("LA", "La", "1", "L"):
        grey = image.convert("LA") if image.has_transparency_data else image.convert("L")
        return grey.getchannel(0), grey.getchannel(1) if grey.mode == "LA" else None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    return image.convert("RGB"), None


def _sixteen_bits(image, raw, path) -> np.ndarray:
    """(height, width, bands) of 16-bit files whose upper bytes alone Pillow keeps: read again for the lower ones."""
    if hasattr(image, "tag_v2") and (image.tag_v2.get(284) == 2 or raw.startswith("RGBa")):
        raise Dropped("TIFF of 16 bits with separate planes or premultiplied colours; save it as PNG")
    if raw == "LA;16B":
        return np.asarray(_unpacked(path, "RGBA")).view(">u2")
    lower = np.asarray(_unpacked(path, raw[:-1] + _SWAPPED[raw[-1]]))
    return np.uint16(np.asarray(image)) << 8 | lower


def _unpacked(path, raw) -> Image.Image:
    """The file's pixels as if they were packed in another way of the same width."""
    with Image.open(path) as image:
        tiles = []
        for tile in image.tile:
            given = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
            # A plain tuple before Pillow 11.
            tiles.append(tile._replace(args=given) if hasattr(tile, "_replace") else (*tile[:3], given))
        image.tile = tiles
        image.load()
        return image


def _narrowed(values, alpha):
    """8-bit images of 16-bit colours (height, width, 1, 3 or 4) and opacity (16 bits, or True where opaque)."""
    largest = int(values.max())
    colours = eight_bits(values, largest)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[values.shape[-1]]
    if alpha is not None:
        wide = alpha.dtype != bool
        alpha = eight_bits(alpha, max(largest, int(alpha.max()))) if wide else np.uint8(255 * alpha)
        alpha = Image.fromarray(alpha, "L")
    return Image.fromarray(colours[..., 0] if mode == "L" else colours, mode), alpha


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB by the file's colour profile; a broken one, and one for other channels, is passed over, as browsers do."""
    space = (profile or b"")[16:20]
    if space == b"RGB " and image.mode == "L":
        image = image.convert("RGB")
    if image.mode == "LAB":
        return _transform(ImageCms.createProfile("LAB"), image.mode).apply(image)
    if {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}[image.mode] == space:
        try:
            transform = _transform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), image.mode)
        except (ImageCms.PyCMSError, OSError):
            return image.convert("RGB")
        if image.mode == "CMYK" or _changes(transform, image.mode):
            return transform.apply(image)
    return image.convert("RGB")


def _transform(profile, mode):
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent)


def _changes(transform, mode) -> bool:
    """Whether a profile is not sRGB's: those of most photographs are, and stay exactly as they are."""
    probe = probe_colours() if mode == "RGB" else np.arange(256, dtype=np.uint8)
    probe = Image.fromarray(probe[None], mode)
    before, after = (np.int32(np.asarray(picture)) for picture in (probe.convert("RGB"), transform.apply(probe)))
    return bool(np.abs(after - before).max() > SAME)


def probe_colours() -> np.ndarray:
    """uint8 (729, 3): colours all over the cube."""
    steps = np.uint8(np.linspace(0, 255, 9))
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
