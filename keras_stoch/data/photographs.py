"""Photographs as they come: finding them in a folder, and opening whatever they are as upright 8-bit RGB."""

import contextlib
import filecmp
import os
import warnings
from collections import Counter, deque
from pathlib import Path

from PIL import Image

from keras_stoch.data.decoding import MAX_PIXELS, Dropped, decode
from keras_stoch.storage import as_path, is_remote

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
UNREADABLE = "unreadable"
_DOWNSAMPLED = "_downsampled"


def find_photographs(folder, exclude=None) -> tuple[list[Path], dict[str, int]]:
    """The photographs below a folder, at any depth, and how many other files are there.

    Folders that links lead to are searched too: after all others, each once, and none that holds `folder` or is led to
    by a relative link out of it (`../x`).

    Args:
        folder: to search.
        exclude: a folder whose files are passed over.

    Returns:
        Sorted paths, and what was passed over: reason -> number of files (or links).

    Raises:
        ValueError: if there is no such folder, or no image below it.
    """
    folder = check_folder(folder)
    exclude = None if exclude is None else Path(exclude).resolve()
    found, passed_over, seen = [], Counter(), set()
    waiting = deque([folder])
    while waiting:
        for place, folders, files in os.walk(waiting.popleft(), topdown=True):
            here = Path(place)
            real = here.resolve()
            if real in seen or (exclude is not None and real.is_relative_to(exclude)):
                folders.clear()
                continue
            seen.add(real)
            for name in sorted(folders):
                link = here / name
                if link.is_symlink():
                    if _leads_out(link, folder):
                        passed_over["links that lead out of the folder"] += 1
                    else:
                        waiting.append(link)
            folders[:] = sorted(folder for folder in folders if not (here / folder).is_symlink())
            for name in files:
                path = here / name
                # Hidden files are not photographs: macOS leaves "._ISIC_0000000.jpg" beside each real one.
                if name.startswith("."):
                    passed_over["hidden"] += 1
                elif path.suffix.lower() not in SUFFIXES:
                    passed_over[path.suffix.lower() or "no ending"] += 1
                elif not path.is_file():
                    passed_over["links to nothing"] += 1
                else:
                    found.append(path)
    if not found:
        raise ValueError(f"No images ({', '.join(SUFFIXES)}) below {folder}")
    return sorted(found), dict(sorted(passed_over.items()))


def _leads_out(link: Path, folder: Path) -> bool:
    """Whether a link to a folder leads to one that holds `folder`, or out of it by way of `..`."""
    try:
        if folder.resolve().is_relative_to(link.resolve()):
            return True
        target = os.readlink(link)
    except (OSError, RuntimeError):  # a link that leads to itself
        return True
    inside = os.path.normpath(link.parent / target)
    return ".." in Path(target).parts and not Path(inside).is_relative_to(os.path.normpath(folder))


def describe_passed_over(passed_over: dict[str, int]) -> str:
    """What `find_photographs` passed over, in one line."""
    return "passed over: " + ", ".join(f"{number} {reason}" for reason, number in passed_over.items())


def sources_of(paths, folder, images=None, listed=None) -> dict[str, Path]:
    """The photographs by image id: of `images`, and of all other names.

    An id is the file's name, or its path below the folder with `/`, both without ending. Of several files for one id,
    one that is not a "_downsampled" copy goes first, and copies of one content are one.

    Args:
        paths: from `find_photographs`.
        folder: where they were found.
        images: ids that must be told apart; None for all.
        listed: id -> what label files call it ("x.png"), which decides between endings.

    Raises:
        ValueError: where several different photographs have one id.
    """
    by_id, found, wrong = {}, {}, []
    for path in paths:
        below = path.relative_to(folder)
        for name in {path.stem, below.with_suffix("").as_posix()}:
            by_id.setdefault(name.removesuffix(_DOWNSAMPLED), []).append(path)
    # Names with a folder are ids only where labels use them.
    for image in [name for name in by_id if "/" not in name] if images is None else images:
        if image in by_id:
            path, others = _choose(by_id[image], folder, (listed or {}).get(image, ()))
            found[image] = path
            wrong += [(image, path, other) for other in others[:1]]
    if wrong:
        image, one, other = wrong[0]
        more = f", and {len(wrong) - 1} other ids too" if len(wrong) > 1 else ""
        raise ValueError(
            f"{image} has different photographs, {one} and {other}{more}. Let the labels name the path below {folder}, "
            f"such as {one.relative_to(folder).as_posix()}, or take one away"
        )
    by_path = {}
    for image, path in found.items():
        if by_path.setdefault(path, image) != image:
            raise ValueError(f"The labels name one photograph twice, {by_path[path]} and {image}: {path}")
    taken = {path for name in found for path in by_id[name]}
    for name, same in by_id.items():
        if name not in found and "/" not in name and (left := [path for path in same if path not in taken]):
            found[name] = _choose(left, folder, ())[0]
    return dict(sorted(found.items()))


def find_sources(folder, exclude=None) -> dict[str, Path]:
    """The photographs below a folder by image id, see `find_photographs` and `sources_of`."""
    return sources_of(find_photographs(folder, exclude)[0], Path(folder))


def _choose(paths, folder, listed) -> tuple[Path, list[Path]]:
    """The photograph that is meant, and those with other content that could be."""
    names = {name.casefold() for name in listed}
    called = [path for path in paths if {path.name.casefold(), path.relative_to(folder).as_posix().casefold()} & names]
    paths = called or paths
    whole = [path for path in paths if not path.stem.endswith(_DOWNSAMPLED)] or paths
    first = whole[0]
    return first, [path for path in whole[1:] if not filecmp.cmp(first, path, shallow=False)]


def check_folder(folder) -> Path:
    """The path of a folder of photographs; ValueError if there is none."""
    if is_remote(folder):
        raise ValueError(f"Photographs are read from this machine; copy or mount {as_path(folder)} first")
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
