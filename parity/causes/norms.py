"""Normalisations: another epsilon, statistics of the batch, exchanged or forgotten scale and offset."""

import itertools

import numpy as np

from parity.causes.scene import Cause, Scene, which
from parity.values import distance

KINDS = ("batch_norm", "layer_norm", "group_norm", "rms_norm")
ROUNDED = 1e-13  # relative distance at which no other way can be nearer
EPSILONS = (1e-3, 1e-5, 1e-6, 1e-12, 1e-8, 1.001e-5, 1e-4, 1e-2, 1e-7, 0.0)


def find(scene: Scene) -> Cause | None:
    """Both sides normalise one array, with one thing otherwise."""
    if scene.kind not in KINDS:
        return None
    found = [_seen(scene, side) for side in (0, 1)]
    if None in found or found[0][0] == found[1][0]:
        return None
    told = [", ".join(f"{name} {value}" for name, value in how.items() if other.get(name) != value)
            for (how, *_), (other, *_) in (found, found[::-1])]  # fmt: skip
    epsilon = found[0][0]["epsilon"]
    same = found[0][0] | {"epsilon": 0} == found[1][0] | {"epsilon": 0}
    code = (f"epsilon={epsilon}", f"eps={epsilon}") if same else ("", "")
    says = f"the reference normalises with {told[0]}, the candidate with {told[1]}."
    explained = frozenset(["epsilon"]) if same else frozenset()
    return scene.cured(says, found[0][1], (found[0][2], found[1][2]), *code, settings=explained)


def _seen(scene: Scene, side: int) -> tuple[dict, float, int] | None:
    """(how a side was seen to normalise, how far from its numbers, from which): of the ways that fit, the nearest."""
    x = next((array for array in scene.given[side] if array.dtype.kind == "f"), None)
    weights = scene.weights[side]
    if x is None:
        return None
    size = next((w.size for w in weights.values()), x.shape[-1])
    best = None
    for axis in range(x.ndim - 1, 0, -1):
        if x.shape[axis] != size:
            continue
        targets = [np.moveaxis(a, axis, -1) if a.ndim == x.ndim else a for a in scene.made[side]]
        for how, value in _ways(scene.kind, np.moveaxis(x, axis, -1).astype(np.float64), weights):
            place = which(value, targets)
            apart = None if place is None else distance(value, targets[place])
            if apart is None or (best is not None and best[1] <= apart):
                continue
            # Where the channels lie is told of batch norms alone; others may lie either way inside of a framework.
            where = {"axis": axis if axis < x.ndim - 1 else "last"} if scene.kind == "batch_norm" else {}
            best = how | where, apart, place
            if apart <= ROUNDED:
                return best
    return best


def _ways(kind, x, weights):
    """(what is particular about it, the array) of the ways to normalise."""
    affine = [("scale and offset", "used"), ("scale and offset", "exchanged"), ("scale and offset", "left out")]
    channels = x.shape[-1]
    scale = weights.get("gamma", weights.get("scale", np.ones(channels))).reshape(-1)
    offset = weights.get("beta", np.zeros(channels)).reshape(-1)
    for (_, use), (statistics, mean, variance), epsilon in itertools.product(
        affine, _statistics(kind, x, weights), EPSILONS
    ):
        if use == "exchanged" and ("gamma" not in weights or "beta" not in weights):
            continue
        a, b = {"used": (scale, offset), "exchanged": (offset, scale), "left out": (1.0, 0.0)}[use]
        with np.errstate(all="ignore"):
            value = (x - mean) / np.sqrt(variance + epsilon) * a + b
        yield {"epsilon": epsilon, "statistics": statistics, "scale and offset": use}, value


def _statistics(kind, x, weights):
    if kind == "batch_norm":
        axes = tuple(range(x.ndim - 1))
        if "moving_mean" in weights:
            yield "kept", weights["moving_mean"], weights["moving_variance"]
            yield "kept, mean and variance exchanged", weights["moving_variance"], weights["moving_mean"]
        yield "of the batch", x.mean(axes), x.var(axes)
        return
    last, inner = (-1,), tuple(range(1, x.ndim))
    if kind == "rms_norm":
        yield "root mean square over the last axis", 0.0, np.square(x).mean(-1, keepdims=True)
    yield "over the last axis", x.mean(last, keepdims=True), x.var(last, keepdims=True)
    yield ("over the last axis, unbiased", x.mean(last, keepdims=True), x.var(last, keepdims=True, ddof=1))
    if x.ndim > 2:
        yield "over all axes but the batch", x.mean(inner, keepdims=True), x.var(inner, keepdims=True)
        space = tuple(range(1, x.ndim - 1))
        yield "over rows and columns", x.mean(space, keepdims=True), x.var(space, keepdims=True)
        for groups in range(2, x.shape[-1]):
            if x.shape[-1] % groups == 0:
                parts = x.reshape(*x.shape[:-1], groups, -1)
                axes = (*space, parts.ndim - 1)
                mean, variance = (
                    np.broadcast_to(f(axis=axes, keepdims=True), parts.shape).reshape(x.shape)
                    for f in (parts.mean, parts.var)
                )
                yield f"over {groups} groups of channels", mean, variance
