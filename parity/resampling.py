"""How libraries resize: filters as matrices, and a picture of another size."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from parity.geometries import Geometry


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


def matrix(filter: Filter, length: int, size: int, places: np.ndarray | None = None) -> np.ndarray:
    """The weights (places, length) with which `length` pixels become `size`; of all places, or of some."""
    scale = length / size
    places = np.arange(size) if places is None else places
    rows = np.arange(len(places))
    if filter.grid == "align corners":
        centres = places * (length - 1) / max(size - 1, 1)
    elif filter.grid == "asymmetric":
        centres = places * scale
    else:
        centres = (places + 0.5) * scale - 0.5
    if filter.kernel is _box and not filter.antialias:  # one pixel each
        chosen = np.floor(centres) if filter.grid == "asymmetric" else np.floor((places + 0.5) * scale)
        found = np.zeros((len(places), length), np.float32)
        found[rows, np.clip(chosen.astype(int), 0, length - 1)] = 1.0
        return found
    wide = max(scale, 1.0) if filter.antialias else 1.0
    reach = int(np.ceil(filter.support * wide)) + 1
    near = np.floor(centres).astype(int)[:, None] + np.arange(-reach, reach + 1)
    weights = filter.kernel((near - centres[:, None]) / wide)
    if not filter.clamp:
        weights = np.where((near >= 0) & (near < length), weights, 0.0)
    weights = weights / weights.sum(1, keepdims=True)
    found = np.zeros((len(places), length))
    np.add.at(found, (rows[:, None], np.clip(near, 0, length - 1)), weights)
    return found.astype(np.float32)


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
    used, weights, outside = [], [], []
    for axis, (first, length, new, kept) in enumerate(axes):
        wanted = kept + (np.arange(size[axis]) if grid is None else grid[axis])
        outside.append((wanted < 0) | (wanted >= new))
        wanted = np.clip(wanted, 0, new - 1)
        by = None if new == length else matrix(filter, length, new, wanted)
        places = wanted if by is None else np.flatnonzero(by.any(0))
        used.append(first + places)
        weights.append(None if by is None else by[:, places])
    made = pixels.take(used[0], 0).take(used[1], 1).astype(np.float32)  # the pixels that count, before any sum
    for axis, by in enumerate(weights):
        if by is not None:
            made = np.moveaxis(np.tensordot(by, made, (1, axis)), 0, axis)
    made = np.ascontiguousarray(made, np.float32)
    if geometry.fill is not None:
        made[outside[0][:, None] | outside[1]] = geometry.fill
    elif any(map(np.any, outside)):
        return None
    return made
