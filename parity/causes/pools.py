"""Poolings and resizings: what fills a padding, what an average counts, how pixels are placed."""

import itertools

import numpy as np

from parity.causes.linear import geometries
from parity.causes.scene import Cause, Scene, fits, nearest, which


def find(scene: Scene) -> Cause | None:
    """Both sides pool or resize one image, with one thing otherwise."""
    found = [_seen(scene, side) for side in (0, 1)]
    if None in found or found[0][0] == found[1][0]:
        return None
    (how, value, first), (other, _, second) = found
    example = _example(scene)
    after = nearest(value, [array[example : example + 1] for array in scene.made[0]])
    return scene.cured(f"the reference computes {how}, the candidate {other}.", after, (first, second))


def _seen(scene: Scene, side: int) -> tuple[str, np.ndarray, int] | None:
    """(what a side was seen to compute, the array, which of those that it makes); None if it has no name."""
    images = [[a for a in arrays if a.dtype.kind == "f" and a.ndim in (3, 4, 5)] for arrays in scene.given]
    # From what both sides have, if there is such an image: what a side pads by itself is its own.
    shared = [a for a in images[1] if fits(a, images[0])]
    example = _example(scene)
    targets = [array[example : example + 1] for array in scene.made[side]]
    node = (scene.place.reference, scene.place.candidate)[side]
    looks = [_pooled, _resized] if "pool" in node.title.lower() else [_resized, _pooled]
    even = scene.graphs[side].framework == "torch"
    for x in (*shared[:1], *images[side][:1]):
        x = x[example : example + 1].astype(np.float64)
        ways = itertools.chain(_whole(x), *(look(x, target, even) for look in looks for target in targets))
        places = ((how, value, which(value, targets)) for how, value in ways)
        found = next((way for way in places if way[2] is not None), None)
        if found is not None:
            return found
    return None


def _example(scene: Scene) -> int:
    """The example that the two sides make most otherwise: on others two ways may give the same."""
    a, b = scene.outputs
    if a.shape != b.shape:
        return 0
    apart = np.abs(a - b).reshape(len(a), -1).sum(1)
    return int(apart.argmax()) if np.isfinite(apart).all() else 0


def _whole(x):
    """Over all rows and columns."""
    axes = tuple(range(1, x.ndim - 1))
    for name, function in (("mean", np.mean), ("maximum", np.max), ("sum", np.sum)):
        for keep in (False, True):
            yield f"the {name} over rows and columns", function(x, axis=axes, keepdims=keep)
        for axis in axes if len(axes) > 1 else ():
            yield f"the {name} over axis {axis} of Keras's order", function(x, axis=axis)


def _pooled(x, target, even):
    if target.ndim != x.ndim or target.shape[-1] != x.shape[-1] or x.ndim < 3 or target.shape == x.shape:
        return
    size, shape = x.shape[1:-1], target.shape[1:-1]
    inner = tuple(range(-len(size), 0))
    for k in (2, 3, 4, 5, 7):
        for pads, stride, dilation in geometries(size, (k,) * len(size), shape, even):
            if dilation != 1:
                continue
            where = f"{'x'.join([str(k)] * len(size))} windows, stride {stride}"
            space = [(0, 0), *pads, (0, 0)]
            padded = any(map(sum, pads))
            told = f", padding {pads}" if padded else ""
            for fill, words in ((-np.inf, "nothing"), (0.0, "zeros")) if padded else ((0.0, ""),):
                windows = _windows(np.pad(x, space, constant_values=fill), k, stride, shape)
                filled = f"{told} filled with {words}" if padded else ""
                yield f"the maximum of {where}{filled}", windows.max(inner)
            windows = _windows(np.pad(x, space), k, stride, shape)
            counted = f"{told}, which is counted" if padded else ""
            yield f"the mean of {where}{counted}", windows.mean(inner)
            if padded:
                inside = _windows(np.pad(np.ones_like(x), space), k, stride, shape)
                with np.errstate(all="ignore"):
                    yield (
                        f"the mean of {where}{told}, which is not counted",
                        windows.sum(inner) / inside.sum(inner),
                    )


def _windows(x, k, stride, shape):
    axes = tuple(range(1, 1 + len(shape)))
    view = np.lib.stride_tricks.sliding_window_view(x, (k,) * len(shape), axes)
    return view[(slice(None), *(slice(None, stride * n, stride) for n in shape))]


def _resized(x, target, _):
    import torch
    import torch.nn.functional as F

    if target.ndim != 4 or x.ndim != 4 or target.shape[-1] != x.shape[-1] or target.shape == x.shape:
        return
    image = torch.from_numpy(np.array(np.moveaxis(x, -1, 1), order="C"))
    size = target.shape[1:-1]
    ways = {
        "nearest neighbours": {"mode": "nearest"},
        "nearest neighbours by pixel centres": {"mode": "nearest-exact"},
        "bilinear interpolation": {"mode": "bilinear"},
        "bilinear interpolation with aligned corners": {"mode": "bilinear", "align_corners": True},
        "bilinear interpolation with antialiasing": {"mode": "bilinear", "antialias": True},
        "bicubic interpolation of a = -0.75": {"mode": "bicubic"},
        "bicubic interpolation with aligned corners": {"mode": "bicubic", "align_corners": True},
        "bicubic interpolation with antialiasing (a = -0.5)": {"mode": "bicubic", "antialias": True},
        "the mean of areas": {"mode": "area"},
    }
    for name, options in ways.items():
        yield name, np.moveaxis(F.interpolate(image, size, **options).numpy(), 1, -1)
