"""What a file may be decoded to: by which decoder, turned upright or not."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

STORED, UPRIGHT = "takes pixels as they are stored", "turns pictures upright by EXIF"
PILLOW = "Pillow (libjpeg, accurate DCT)"


def decoders() -> dict[str, tuple]:
    """Name of a decoder to (how to have it, function from a path to pixels as they are stored); TensorFlow's, too,
    where it is imported already."""
    import sys

    found = {PILLOW: ("Image.open(path).convert('RGB')", _pillow)}
    if "tensorflow" in sys.modules:
        for words, options in (
            ("TensorFlow, fast DCT (its default)", {"dct_method": "INTEGER_FAST"}),
            ("TensorFlow, accurate DCT", {"dct_method": "INTEGER_ACCURATE"}),
            (
                "TensorFlow, accurate DCT, plain chroma",
                {"dct_method": "INTEGER_ACCURATE", "fancy_upscaling": False},
            ),
            ("TensorFlow, fast DCT, plain chroma", {"fancy_upscaling": False}),
        ):
            code = ", ".join(f"{name}={value!r}" for name, value in options.items())
            found[words] = (f"tf.io.decode_jpeg(data, channels=3, {code})", _tensorflow(options))
    return found


def _pillow(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _tensorflow(options):
    def decode(path):
        import tensorflow as tf

        data = tf.io.read_file(str(path))
        if not tf.io.is_jpeg(data):
            return _pillow(path)
        return tf.io.decode_jpeg(data, channels=3, **options).numpy()

    return decode


@lru_cache(maxsize=16)
def decoded(path: str, decoder: str) -> np.ndarray:
    """uint8 (height, width, 3) as a decoder gives it, not turned."""
    return decoders()[decoder][1](path)


@lru_cache(maxsize=256)
def orientation(path: str) -> int:
    """The EXIF orientation of a file, 1 to 8; 1 if there is none."""
    from PIL import Image

    with Image.open(path) as image:
        return int(image.getexif().get(0x0112, 1) or 1)


def upright(pixels: np.ndarray, value: int) -> np.ndarray:
    """Undoes an EXIF orientation."""
    if value >= 5:
        pixels = pixels.swapaxes(0, 1)
    if value in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if value in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def probes(paths: list[Path], folder: Path) -> Iterator[Path]:
    """Files that show what the given ones do not: one with an EXIF orientation, one that is no square.

    Args:
        paths: of photographs; the first is what they are made of.
        folder: where to write them.
    """
    from PIL import Image

    with Image.open(paths[0]) as image:
        image = image.convert("RGB")
    image.thumbnail((1200, 1200))
    if all(orientation(str(path)) == 1 for path in paths):
        exif = Image.Exif()
        exif[0x0112] = 6
        path = folder / "turned-by-exif.jpg"
        image.save(path, quality=95, subsampling=0, exif=exif)
        yield path
    if all(abs(decoded(str(p), PILLOW).shape[0] / decoded(str(p), PILLOW).shape[1] - 1) < 0.1 for p in paths[:8]):
        width, height = image.size
        path = folder / "no-square.jpg"
        image.crop((0, 0, width, height * 2 // 3)).save(path, quality=95, subsampling=0)
        yield path
