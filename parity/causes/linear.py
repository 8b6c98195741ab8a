"""Convolutions and dense layers: padding, the order of a kernel, of channels, of rows, a scale of inputs, the bias."""

import itertools
from collections.abc import Iterator

import numpy as np

from parity.causes import transposed
from parity.causes.elementwise import ACTIVATIONS
from parity.causes.scene import Cause, Scene, fits, nearest, which
from parity.values import rearrangement

KINDS = ("conv", "depthwise", "dense")
IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
# What is particular about a way to what both sides' layers say of themselves.
SETTINGS = {"stride": "strides"}
TRIES = 400  # convolutions of one example that one side may cost


def find(scene: Scene) -> Cause | None:
    """Both sides are this layer, with one thing otherwise."""
    if scene.kind == "conv_transpose" and "kernel" in scene.weights[1]:
        return transposed.find(scene)
    if scene.kind not in KINDS or any("kernel" not in weights for weights in scene.weights):
        return None
    moved = _reordered(scene)
    if moved is not None:
        return moved
    shared = _shared(scene)
    if shared is None:
        return None
    searches = [list(itertools.islice(_ways(scene, side, shared), TRIES)) for side in (0, 1)]
    targets = [[target[:1] for target in made] for made in scene.made]
    found = [_first(*sides) for sides in zip(searches, targets, strict=True)]
    if None in found:
        return None
    # Where a stride does not reach the last of a padding, or makes one number only, several are one: told is what
    # differs least.
    # torch's first way has an even padding, as its layers have; so the other's is looked for again before it.
    sides = sorted((1, 0), key=lambda side: scene.graphs[side].framework == "torch")
    for name, side in itertools.product(("padding", "stride", "dilation"), sides):
        own, other = found[side][0], found[1 - side][0]
        if own.get(name) != other.get(name):
            same = {name} | {key for key in own if own[key] == other.get(key)}
            ways = [(how, make) for how, make in searches[side] if all(how.get(n) == other.get(n) for n in same)]
            found[side] = _first(ways, targets[side]) or found[side]
    if found[0][0] == found[1][0]:
        return None
    told = [_told(how, other) for (how, *_), (other, *_) in (found, found[::-1])]
    says = f"the reference computes with {told[0]}, the candidate with {told[1]}."
    # Behind the same function on both sides the two are one value; else each is what its layer ends with.
    places = [way[2] for way in found] if found[0][3] == found[1][3] else scene.last
    different = {name for name in found[0][0] if found[0][0][name] != found[1][0][name]}
    explained = frozenset(SETTINGS[name] for name in different) if different <= set(SETTINGS) else frozenset()
    return scene.cured(says, found[0][1], tuple(places), *_code(scene, found[0][0]), settings=explained)


def _reordered(scene: Scene) -> Cause | None:
    """A dense layer behind a flatten in another order."""
    if scene.kind != "dense" or "flatten" not in scene.place.order:
        return None
    kernel = scene.weights[1]["kernel"].astype(np.float64, copy=False)
    bias = scene.weights[1].get("bias")
    for theirs in scene.given[0]:
        for ours in scene.given[1]:
            if theirs.shape != ours.shape or theirs.ndim != 2 or kernel.shape[0] != theirs.shape[1]:
                continue
            found = rearrangement(theirs[0], ours[0], 1e-6)
            if found is None:
                continue
            made = np.stack([found[1](row) for row in ours]) @ kernel + (0 if bias is None else bias)
            if fits(made, scene.made[0]):
                return Cause(
                    f"the numbers of a flatten reach it in another order: {scene.place.order}.",
                    scene.before,
                    nearest(made, scene.made[0]),
                    "keras.layers.Permute((3, 1, 2)) before the flatten, or the rows of the kernel in Keras's order",
                    "x.permute(0, 2, 3, 1) before the flatten, or the columns of the weight in Keras's order",
                )
    return None


def _first(ways, targets) -> tuple[dict, float, int, str] | None:
    """The first of some ways that makes one of the targets, with what `_made` says of it; None if none does."""
    return next(((how, *made) for how, make in ways if (made := _made(make, targets)) is not None), None)


def _made(make, targets) -> tuple[float, int, str] | None:
    """(how far what a way makes is from one of the targets, which, behind which activation); None if it is none."""
    try:
        array = make()
    except Exception:  # a padding that does not go with this kernel
        return None
    if array is None:
        return None
    if not any(target.shape == array.shape for target in targets):
        return None
    for name, (function, _, _) in ACTIVATIONS.items():
        with np.errstate(all="ignore"):
            value = function(array)
        place = which(value, targets)
        if place is not None:
            return float(np.linalg.norm(value - targets[place]) / np.linalg.norm(targets[place])), place, name
    return None


def _shared(scene: Scene) -> np.ndarray | None:
    """The array that both sides start from, in Keras's order: what goes into the layer, or what its padding goes by."""
    given = [[a for a in arrays if a.dtype.kind == "f" and a.ndim >= 2] for arrays in scene.given]
    # One that both have, if there is one: what either side pads by an operation of its own is not.
    both = [ours for ours in given[1] if fits(ours, given[0])]
    arrays = both or given[1] or given[0]
    return arrays[0][:1].astype(np.float64) if arrays else None


def _told(how: dict, other: dict) -> str:
    parts = [f"{name} {value}" for name, value in how.items() if other.get(name) != value]
    return ", ".join(parts)


def _ways(scene: Scene, side: int, x: np.ndarray) -> Iterator:
    """(what is particular about it, function that computes it) of the ways to run the layer, the plainest first."""
    weights = {name: array.astype(np.float64, copy=False) for name, array in scene.weights[side].items()}
    kernel, bias = weights["kernel"], weights.get("bias")
    targets = scene.made[side]
    if scene.kind == "dense" or x.ndim == 2:
        yield from _dense(x, kernel, bias)
        return
    # From the last that is made there: a padding of its own comes before the layer, and has as many channels if it is
    # depthwise.
    width = kernel.shape[-1] * (kernel.shape[-2] if scene.kind == "depthwise" else 1)
    shapes = [target.shape[1:-1] for target in targets[::-1] if target.ndim == x.ndim and target.shape[-1] == width]
    for shape in dict.fromkeys(shapes):
        even = scene.graphs[side].framework == "torch"
        for padding, stride, dilation in geometries(x.shape[1:-1], kernel.shape[:-2], shape, even):
            for (mode, pad), (inputs, prepare), (order, turn) in itertools.product(
                _modes(padding, x.ndim - 2), _inputs(x), _kernels(kernel)
            ):
                how = {"padding": padding, "stride": stride, "dilation": dilation, "padding by": mode,
                       "inputs": inputs, "the kernel": order}  # fmt: skip
                odd = (mode != "zeros") + (inputs != "as they are") + (order != "as it is")
                if odd > 1:
                    continue
                yield (
                    how,
                    lambda p=pad, i=prepare, t=turn, s=stride, d=dilation: _convolved(
                        p(i(x)), t(kernel), bias, s, d, scene.kind
                    ),
                )


def _dense(x, kernel, bias):
    kernel = kernel.reshape(x.shape[-1], -1) if kernel.size % x.shape[-1] == 0 else kernel
    zero = np.zeros(kernel.shape[-1]) if bias is None else bias.reshape(-1)
    kernels = {"as it is": kernel}
    if kernel.shape[0] == kernel.shape[1]:
        kernels["transposed"] = kernel.T
    for (order, k), (times, b), (inputs, prepare) in itertools.product(
        kernels.items(), (("once", 1), ("not at all", 0), ("twice", 2)), _inputs(x, images=False)
    ):
        how = {"the kernel": order, "the bias added": times, "inputs": inputs}
        if (order != "as it is") + (b != 1) + (inputs != "as they are") < 2:
            yield how, lambda k=k, b=b, i=prepare: i(x) @ k + b * zero


def _inputs(x, images=True):
    """(words, function) of what people do to inputs, or forget."""
    yield "as they are", lambda v: v
    yield "divided by 255", lambda v: v / 255
    yield "times 255", lambda v: v * 255
    yield "from -1 to 1 for 0 to 255", lambda v: v / 127.5 - 1
    yield "from -1 to 1 for 0 to 1", lambda v: v * 2 - 1
    if x.shape[-1] == 3 and images:
        mean, std = IMAGENET
        yield "with channels reversed (BGR)", lambda v: v[..., ::-1]
        yield "less ImageNet's mean, by its deviation", lambda v: (v - mean) / std
        yield "less ImageNet's mean, by its deviation, for 0 to 255", lambda v: (v / 255 - mean) / std


def _kernels(kernel):
    yield "as it is", lambda k: k
    spatial = kernel.ndim - 2
    if spatial == 2 and kernel.shape[0] == kernel.shape[1] > 1:
        yield "with rows and columns exchanged", lambda k: np.swapaxes(k, 0, 1)
    if any(n > 1 for n in kernel.shape[:spatial]):
        yield "flipped", lambda k: np.flip(k, tuple(range(spatial)))
    if kernel.shape[-1] == kernel.shape[-2] > 1:
        yield "with inputs and outputs exchanged", lambda k: np.swapaxes(k, -1, -2)


def geometries(size, kernel, shape, even=False) -> Iterator:
    """(padding (before, after) of every axis, stride, dilation) that make an output of this shape, small ones first.

    Args:
        even: whether a padding that is the same on both sides comes first, as torch's layers have it.
    """
    found = []
    for stride, dilation in itertools.product((1, 2, 3, 4, 8, 14, 16, 32), (1, 2, 3, 4)):
        spans = [dilation * (k - 1) + 1 for k in kernel]
        options = []
        for n, span, out in zip(size, spans, shape, strict=True):
            pairs = [
                (a, b)
                for a in range(span)
                for b in range(span)
                if (abs(a - b) <= 1 + span // 4 or (b == 0 and len(size) == 1))
                and n + a + b >= span
                and (n + a + b - span) // stride + 1 == out
            ]
            options.append(sorted(pairs, key=lambda pair: (even and pair[0] != pair[1], sum(pair)))[:6])
        found += [(pads, stride, dilation) for pads in itertools.product(*options)
                  if len(size) == 1 or all(pad == pads[0] for pad in pads) or len(set(size)) > 1]  # fmt: skip
    yield from sorted(found, key=lambda way: (way[2], even and any(a != b for a, b in way[0]), sum(map(sum, way[0]))))


def _modes(padding, spatial):
    """(words, function) of the ways to fill a padding."""
    widths = [(0, 0), *padding, (0, 0)]
    yield "zeros", lambda v: np.pad(v, widths)
    if any(map(sum, padding)) and spatial <= 2:
        for mode, words in (("reflect", "reflection"), ("edge", "the edge"), ("wrap", "the other side")):
            yield words, lambda v, mode=mode: np.pad(v, widths, mode)


def _convolved(x, kernel, bias, stride, dilation, kind):
    import torch

    spatial = x.ndim - 2
    run = (torch.conv1d, torch.conv2d, torch.conv3d)[spatial - 1]
    moved = torch.from_numpy(np.array(np.moveaxis(x, -1, 1), order="C"))
    if kind == "depthwise":  # (*k, channels, multiplier) -> (channels * multiplier, 1, *k)
        groups = kernel.shape[-2]
        weight = np.moveaxis(kernel, (-2, -1), (0, 1)).reshape(-1, 1, *kernel.shape[:spatial])
    else:
        groups = x.shape[-1] // kernel.shape[-2]
        weight = np.moveaxis(kernel, (-1, -2), (0, 1))
    weight = torch.from_numpy(np.array(weight, order="C"))
    offset = None if bias is None else torch.from_numpy(np.array(bias.reshape(-1)))
    return np.moveaxis(run(moved, weight, offset, stride, 0, dilation, groups).numpy(), 1, -1)


def _code(scene: Scene, how: dict) -> tuple[str, str]:
    """How each framework does what the reference does, where a line says it."""
    padding = how.get("padding")
    if padding is None or not any(map(sum, padding)):
        return "", ""
    fill = {"zeros": "", "reflection": ', "reflect"', "the edge": ', "replicate"'}.get(how["padding by"])
    if fill is None or len(padding) > 2:
        return "", ""
    flat = tuple(n for pair in padding[::-1] for n in pair)
    kind, amount = ("ZeroPadding2D", padding) if len(padding) == 2 else ("ZeroPadding1D", padding[0])
    return (
        f"keras.layers.{kind}({amount}) before a convolution without padding" if not fill else "",
        f"F.pad(x, {flat}{f', mode={fill[2:]}' if fill else ''}) before a convolution without padding",
    )
