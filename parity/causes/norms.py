"""Normalisations: another epsilon, statistics of the batch, exchanged or forgotten scale and offset."""

import itertools

import numpy as np

from parity.causes.scene import Cause, Scene, fits, nearest

KINDS = ("batch_norm", "layer_norm", "group_norm", "rms_norm")
EPSILONS = (1e-3, 1e-5, 1e-6, 1e-12, 1e-8, 1.001e-5, 1e-4, 1e-2, 1e-7, 0.0)


def find(scene: Scene) -> Cause | None:
    """Both sides normalise one array, with one thing otherwise."""
    if scene.kind not in KINDS:
        return None
    found = []
    for side in (0, 1):
        x = next((array for array in scene.given[side] if array.dtype.kind == "f"), None)
        if x is None:
            return None
        ways = _ways(scene.kind, x.astype(np.float64), scene.weights[side])
        found.append(next(((how, value) for how, value in ways if fits(value, scene.made[side])), None))
    if None in found or found[0][0] == found[1][0]:
        return None
    told = [", ".join(f"{name} {value}" for name, value in how.items() if other.get(name) != value)
            for (how, _), (other, _) in (found, found[::-1])]  # fmt: skip
    epsilon = found[0][0]["epsilon"]
    same = found[0][0] | {"epsilon": 0} == found[1][0] | {"epsilon": 0}
    code = (f"epsilon={epsilon}", f"eps={epsilon}") if same else ("", "")
    after = nearest(found[0][1], scene.made[0])
    return Cause(f"the reference normalises with {told[0]}, the candidate with {told[1]}.", scene.before, after, *code)


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
