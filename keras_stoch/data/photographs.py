"""Photographs as they come: finding them in a folder, and opening whatever they are as upright 8-bit RGB."""

import contextlib
import warnings
from pathlib import Path

from PIL import Image

from keras_stoch.data.decoding import MAX_PIXELS, Dropped, decode

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
UNREADABLE = "unreadable"


def find_sources(folder, exclude=None) -> dict[str, Path]:
    """The photographs below a folder by image id.

    Of several files for one id, one that is not a "_downsampled" copy goes first, then the largest one.

    Args:
        folder: searched at any depth.
        exclude: a folder whose files are passed over.

    Raises:
        ValueError: if there is no such folder, or no image below it.
    """
    folder = check_folder(folder)
    found, exclude = {}, None if exclude is None else Path(exclude).resolve()
    for path in sorted(folder.rglob("*")):
        # Hidden files are not photographs: macOS leaves "._ISIC_0000000.jpg" beside each real one.
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        if exclude is not None and exclude in path.resolve().parents:
            continue
        name = path.stem.removesuffix("_downsampled")
        rank = (path.stem == name, path.stat().st_size)
        if name not in found or rank > found[name][0]:
            found[name] = (rank, path)
    if not found:
        raise ValueError(f"No images ({', '.join(SUFFIXES)}) below {folder}")
    return {name: path for name, (_, path) in sorted(found.items())}


def check_folder(folder) -> Path:
    """The path of a folder of photographs; ValueError if there is none."""
    if not Path(folder).is_dir():
        raise ValueError(f"No such folder of images: {folder}")
    return Path(folder)


def open_image(path, draft=None) -> Image.Image:
    """Opens a photograph upright as 8-bit RGB in sRGB, whatever it was.

    EXIF orientation is applied; palettes, grey and CMYK are converted, colours by the file's profile; transparency is
    laid over white; 16 bits a channel become 8, see `decoding.eight_bits`.

    Args:
        path: of the file.
        draft: (width, height); JPEGs may be decoded at a reduced scale that is at least this large.

    Raises:
        Dropped: if it is no image, truncated, larger than `MAX_PIXELS`, or has values of unknown range.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Dropped(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS} are refused")
            if draft:
                image.draft(None, draft)
            return decode(image, path)
    except Dropped:
        raise
    except Image.DecompressionBombError:
        raise Dropped(f"more than {MAX_PIXELS} pixels are refused") from None
    except Exception as error:  # Pillow's decoders raise what they like: OSError, SyntaxError, struct.error, ...
        raise Dropped(f"{UNREADABLE}: {error}") from None


@contextlib.contextmanager
def no_warnings():
    """Silences Pillow, which warns of metadata that nobody reads here; bombs are refused by size in `open_image`.

    To be entered by the thread that starts others, and not by each of them: the filters belong to all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
