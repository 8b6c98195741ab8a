"""How libraries resize: filters as matrices, and what part of a picture is resized to what size."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np


def _triangle(x):
    return np.maximum(0.0, 1.0 - np.abs(x))


def _box(x):
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def _cubic(a: float):
    def kernel(x):
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        return np.where(x < 1, near, np.where(x < 2, far, 0.0))

    return kernel


def _lanczos(x):
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def _hamming(x):
    return np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)


@dataclass(frozen=True)
class Filter:
    """A way to resize.

    Attributes:
        name: in words.
        kernel, support: weight by distance, and the distance at which it ends.
        antialias: whether the kernel grows with the scale, where a picture is made smaller.
        grid: "half pixel", "align corners" or "asymmetric": where a pixel of the result lies in the source.
        clamp: whether pixels beyond the edge are those at the edge; else the weights of the others grow.
        keras, torch, pillow: code that does it; "" where there is none.
    """

    name: str
    kernel: Callable
    support: float
    antialias: bool
    grid: str = "half pixel"
    clamp: bool = False
    keras: str = ""
    torch: str = ""
    pillow: str = ""


def _tf(method, antialias):
    return f'tf.image.resize(x, size, "{method}", antialias={antialias})'


def _torch(mode, antialias):
    return f'F.interpolate(x, size, mode="{mode}", antialias={antialias})'


def _pil(name):
    return f"image.resize(size, Image.Resampling.{name})"


FILTERS = (
    Filter("bilinear with antialiasing", _triangle, 1, True, keras=_tf("bilinear", True),
           torch=_torch("bilinear", True), pillow=_pil("BILINEAR")),
    Filter("bilinear without antialiasing", _triangle, 1, False, keras=_tf("bilinear", False),
           torch=_torch("bilinear", False)),
    Filter("bicubic with antialiasing", _cubic(-0.5), 2, True, keras=_tf("bicubic", True),
           torch=_torch("bicubic", True), pillow=_pil("BICUBIC")),
    Filter("bicubic without antialiasing (a = -0.75, as torch and OpenCV have it)", _cubic(-0.75), 2, False,
           clamp=True, torch=_torch("bicubic", False)),
    Filter("bicubic without antialiasing (a = -0.5, as TensorFlow has it)", _cubic(-0.5), 2, False,
           keras=_tf("bicubic", False)),
    Filter("Lanczos with antialiasing", _lanczos, 3, True, keras=_tf("lanczos3", True), pillow=_pil("LANCZOS")),
    Filter("Lanczos without antialiasing", _lanczos, 3, False, keras=_tf("lanczos3", False)),
    Filter("averages of areas (box)", _box, 0.5, True, keras=_tf("area", False), torch='F.interpolate(x, size, '
           'mode="area")', pillow=_pil("BOX")),
    Filter("Hamming with antialiasing", _hamming, 1, True, pillow=_pil("HAMMING")),
    Filter("nearest pixel", _box, 0.5, False, keras=_tf("nearest", False), torch='F.interpolate(x, size, '
           'mode="nearest-exact")', pillow=_pil("NEAREST")),
    Filter("nearest pixel, of the upper left (torch's \"nearest\")", _box, 0.5, False, "asymmetric",
           torch=_torch("nearest", False)),
    Filter("bilinear without antialiasing, corners aligned", _triangle, 1, False, "align corners",
           torch='F.interpolate(x, size, mode="bilinear", align_corners=True)',
           keras='tf.compat.v1.image.resize(x, size, align_corners=True)'),
    Filter("bilinear without antialiasing, from the upper left (TensorFlow 1's)", _triangle, 1, False, "asymmetric",
           keras="tf.compat.v1.image.resize(x, size)"),
)  # fmt: skip


@cache
def matrix(filter: Filter, length: int, size: int) -> np.ndarray:
    """The weights (size, length) with which `length` pixels become `size`."""
    scale = length / size
    places = np.arange(size)
    if filter.grid == "align corners":
        centres = places * (length - 1) / max(size - 1, 1)
    elif filter.grid == "asymmetric":
        centres = places * scale
    else:
        centres = (places + 0.5) * scale - 0.5
    if filter.kernel is _box and not filter.antialias:  # one pixel each
        chosen = np.floor(centres) if filter.grid == "asymmetric" else np.floor((places + 0.5) * scale)
        found = np.zeros((size, length), np.float32)
        found[places, np.clip(chosen.astype(int), 0, length - 1)] = 1.0
        return found
    wide = max(scale, 1.0) if filter.antialias else 1.0
    reach = int(np.ceil(filter.support * wide)) + 1
    near = np.floor(centres).astype(int)[:, None] + np.arange(-reach, reach + 1)
    weights = filter.kernel((near - centres[:, None]) / wide)
    if not filter.clamp:
        weights = np.where((near >= 0) & (near < length), weights, 0.0)
    weights = weights / weights.sum(1, keepdims=True)
    found = np.zeros((size, length))
    np.add.at(found, (places[:, None], np.clip(near, 0, length - 1)), weights)
    return found.astype(np.float32)


@dataclass(frozen=True)
class Geometry:
    """What part of a picture becomes the result.

    Attributes:
        name: in words.
        axes: from (height, width, new height, new width) to, for each axis, (first pixel taken, how many, size that
            they are resized to, first pixel of that which is kept); None where it can't be.
        cure: the steps, in words.
    """

    name: str
    axes: Callable
    cure: str


def _squash(height, width, h, w):
    return (0, height, h, 0), (0, width, w, 0)


def _square(height, width, h, w):
    side = min(height, width)
    return ((height - side) // 2, side, h, 0), ((width - side) // 2, side, w, 0)


def _crop(height, width, h, w):
    if h > height or w > width:
        return None
    return ((height - h) // 2, h, h, 0), ((width - w) // 2, w, w, 0)


def _fraction(part: float):
    def axes(height, width, h, w):
        top, left = int((height - height * part) / 2), int((width - width * part) / 2)
        return (top, height - 2 * top, h, 0), (left, width - 2 * left, w, 0)

    return axes


def _padded_square(height, width, h, w):
    side = int(h / (h + 32) * min(height, width))
    return ((height - side + 1) // 2, side, h, 0), ((width - side + 1) // 2, side, w, 0)


def _shorter(size: Callable):
    def axes(height, width, h, w):
        short = size(min(h, w))
        new = tuple(short if n == min(height, width) else int(short * n / min(height, width)) for n in (height, width))
        if new[0] < h or new[1] < w:
            return None
        top, left = round((new[0] - h) / 2), round((new[1] - w) / 2)
        return (0, height, new[0], top), (0, width, new[1], left)

    return axes


def _large(height, width, h, w):
    def axis(length, size):
        return ((length - 2048) // 2, 2048, size, 0) if min(height, width) > 3048 else (0, length, size, 0)

    return axis(height, h), axis(width, w)


GEOMETRIES = (
    Geometry("resizes the whole picture, whatever its shape", _squash, "resize to (height, width) at once"),
    Geometry("crops the central square, then resizes", _square, "crop min(height, width) from the centre, then resize"),
    Geometry("resizes the shorter side to the size, then crops the centre", _shorter(lambda n: n),
             "resize the shorter side to the size, then crop the centre"),
    Geometry("resizes the shorter side to 256/224 of the size, then crops the centre",
             _shorter(lambda n: round(n * 256 / 224)), "Resize(256), then CenterCrop(224), or as much for other sizes"),
    Geometry("resizes the shorter side to 232/224 of the size, then crops the centre",
             _shorter(lambda n: round(n * 232 / 224)), "Resize(232), then CenterCrop(224), or as much for other sizes"),
    Geometry("resizes the shorter side to 1/0.9 of the size, then crops the centre",
             _shorter(lambda n: int(n / 0.9)), "Resize(size / 0.9), then CenterCrop(size)"),
    Geometry("resizes the shorter side to 1/0.95 of the size, then crops the centre",
             _shorter(lambda n: int(n / 0.95)), "Resize(size / 0.95), then CenterCrop(size)"),
    Geometry("resizes the shorter side to 32 pixels more, then crops the centre", _shorter(lambda n: n + 32),
             "resize the shorter side to size + 32, then crop the centre"),
    Geometry("crops the centre without resizing", _crop, "crop (height, width) from the centre"),
    Geometry("crops the central 7/8, then resizes", _fraction(0.875), "tf.image.central_crop(x, 0.875), then resize"),
    Geometry("crops size / (size + 32) of the central square, then resizes", _padded_square,
             "crop size / (size + 32) of the shorter side from the centre, then resize"),
    Geometry("crops 2048x2048 from very large pictures, then resizes", _large,
             "crop 2048x2048 from the centre where both sides exceed 3048, then resize"),
)  # fmt: skip


def resized(
    pixels: np.ndarray, geometry: Geometry, filter: Filter, size: tuple[int, int], grid=None
) -> np.ndarray | None:
    """float32 (height, width, channels) of another size, not rounded; None where the geometry does not allow it.

    Args:
        grid: rows and columns of the result that are asked for; None for all.
    """
    axes = geometry.axes(*pixels.shape[:2], *size)
    if axes is None:
        return None
    made = pixels
    for axis, (first, length, new, kept) in enumerate(axes):
        wanted = kept + (np.arange(size[axis]) if grid is None else grid[axis])
        made = (
            np.take(made, np.arange(first, first + length), axis) if (first, length) != (0, made.shape[axis]) else made
        )
        if new == length:
            made = np.take(made, wanted, axis)
            continue
        weights = matrix(filter, length, new)[wanted]
        used = np.flatnonzero(weights.any(0))
        made = np.tensordot(weights[:, used], np.take(made, used, axis).astype(np.float32), (1, axis))
        made = np.moveaxis(made, 0, axis)
    return made.astype(np.float32)
