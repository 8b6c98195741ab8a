"""Transposed convolutions: what is cropped at each side, the stride."""

import itertools
from collections.abc import Iterator

import numpy as np

from parity.causes.scene import Cause, Scene, canonical, fits, nearest
from parity.graph import moves_only
from parity.values import distance

STRIDES = (1, 2, 3, 4, 8, 16)


def find(scene: Scene) -> Cause | None:
    """Both sides are this layer, with one thing otherwise."""
    given = [[a for a in arrays if a.dtype.kind == "f" and a.ndim == 4] for arrays in scene.given]
    shared = [a for a in given[1] if fits(a, given[0])]
    if not shared or any(weights["kernel"].ndim != 4 for weights in scene.weights):
        return None
    found = [_seen(scene, side, shared[0][:1].astype(np.float64)) for side in (0, 1)]
    if None in found or found[0][0] == found[1][0]:
        return None
    (how, theirs, after), (other, ours, _) = found
    told = [", ".join(f"{name} {value}" for name, value in a.items() if b[name] != value)
            for a, b in ((how, other), (other, how))]  # fmt: skip
    says = f"the reference computes with {told[0]}, the candidate with {told[1]}."
    a, b = (_array(scene, side, value) for side, value in enumerate((theirs, ours)))
    before = distance(b, a) if a.shape == b.shape else float("inf")
    (top, bottom), (left, right) = how["a crop of"]
    if min(top, bottom, left, right) < 0:
        return Cause(says, before, after, ends=(theirs, ours))
    keras = f"keras.layers.Cropping2D((({top}, {bottom}), ({left}, {right}))) behind a layer without padding"
    torch = f"x[:, :, {top}:height - {bottom}, {left}:width - {right}] behind a layer without padding"
    return Cause(says, before, after, keras, torch, (theirs, ours))


def _array(scene: Scene, side: int, value: int) -> np.ndarray:
    return canonical(scene.layouts[side], scene.graphs[side].values[value])


def _seen(scene: Scene, side: int, x: np.ndarray) -> tuple[dict, int, float] | None:
    """(how a side was seen to compute it, the value that comes of it, how far that is from its numbers)."""
    weights = {name: array.astype(np.float64) for name, array in scene.weights[side].items()}
    for value in _ends(scene, side):
        target = _array(scene, side, value)[:1]
        for how, made in _ways(x, weights["kernel"], weights.get("bias", 0.0), target.shape):
            if fits(made, [target]):
                return how, value, nearest(made, [target])
    return None


def _ends(scene: Scene, side: int) -> list[int]:
    """What the layer makes, and what is cropped or padded of that behind it; the last first."""
    graph, found = scene.graphs[side], [scene.ends[side]]
    while len(found) < 4:
        consumers = [node for node in graph.nodes if found[-1] in node.inputs]
        if len(consumers) != 1 or not moves_only(graph, consumers[0]) or len(consumers[0].outputs) != 1:
            break
        if graph.values[consumers[0].outputs[0]].ndim != 4:
            break
        found.append(consumers[0].outputs[0])
    return found[::-1]


def _ways(x, kernel, bias, shape) -> Iterator:
    """(what is particular about it, the array), the plainest first."""
    for stride in STRIDES:
        whole = _convolved(x, kernel, stride)
        if shape[-1] != whole.shape[-1]:
            return
        sizes = list(zip(whole.shape[1:3], shape[1:3], kernel.shape[:2], strict=True))
        starts = [[a for a in range(k) if -stride < length - a - size < k + stride] for length, size, k in sizes]
        for top, left in itertools.product(*starts):
            crop = tuple((a, length - a - size) for a, (length, size, _) in zip((top, left), sizes, strict=True))
            beyond = [(0, 0), *((0, max(0, -after)) for _, after in crop), (0, 0)]
            made = np.pad(whole, beyond)[:, top : top + shape[1], left : left + shape[2]] + bias
            yield {"a crop of": crop, "stride": stride}, made


def _convolved(x, kernel, stride):
    """Of (batch, rows, columns, inputs) with a kernel (rows, columns, outputs, inputs), nothing cropped."""
    import torch

    image = torch.from_numpy(np.array(np.moveaxis(x, -1, 1), order="C"))
    weight = torch.from_numpy(np.array(np.moveaxis(kernel, (3, 2), (0, 1)), order="C"))
    return np.moveaxis(torch.conv_transpose2d(image, weight, None, stride).numpy(), 1, -1)
