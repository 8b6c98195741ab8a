"""Numbers that belong to channels or places: scales and offsets, constants by place, slopes of a PReLU."""

import numpy as np

from parity.causes.scene import EXACT, Cause, Scene, canonical, fits, nearest
from parity.graph import Graph
from parity.values import distance, rearrangement

FLOAT32 = 1e-6  # relative distance that constants in float32 make
# Layers whose numbers by channel are weights, of which more can be told.
WEIGHED = ("batch_norm", "layer_norm", "group_norm", "rms_norm", "conv", "depthwise", "conv_transpose", "dense")
STEPS = 8  # functions of one array, one behind the other


def find(scene: Scene) -> Cause | None:
    """Both sides scale, shift or bend one array by numbers of its channels, with other numbers."""
    if scene.kind == "prelu":
        return _slopes(scene)
    shared = [a for a in scene.given[1] if a.dtype.kind == "f" and fits(a, scene.given[0])]
    if not shared or shared[0].ndim < 2 or len(shared[0]) < 2:
        return None
    return _constants(scene, shared[0]) or (None if scene.kind in WEIGHED else _affine(scene, shared[0]))


def _slopes(scene: Scene) -> Cause | None:
    """A PReLU whose slopes lie along another axis."""
    found = []
    for side in (0, 1):
        x = next((a for a in scene.given[side] if a.dtype.kind == "f"), None)
        alpha = scene.weights[side].get("alpha")
        if x is None or alpha is None:
            return None
        seen = None
        for axis in range(x.ndim - 1, 0, -1):
            if x.shape[axis] == alpha.size:
                slopes = alpha.reshape([-1 if n == axis else 1 for n in range(x.ndim)])
                made = np.where(x > 0, x, slopes * x)
                if seen is None and fits(made, scene.made[side]):
                    seen = axis, made
        if seen is None:
            return None
        found.append(seen)
    (axis, made), (other, _) = found
    if axis == other:
        return None
    says = f"the reference's slopes lie along axis {axis} of Keras's order, the candidate's along axis {other}."
    shared = [n for n in range(1, made.ndim) if n != axis]
    return Cause(says, scene.before, nearest(made, scene.made[0]), f"keras.layers.PReLU(shared_axes={shared})")


def _constants(scene: Scene, x: np.ndarray) -> Cause | None:
    """Both sides multiply by constants, which are the same numbers in another order."""
    found = []
    for side in (0, 1):
        y = scene.outputs[side]
        if y.shape != x.shape or not x.all():
            return None
        factors = y / x
        if not np.isfinite(factors).all() or distance(factors[:1] * x, y) > EXACT:
            return None
        found.append(factors[0])
    told = rearrangement(*found, 1e-6)
    if told is None or np.allclose(*found):
        return None
    healed = scene.outputs[1] / found[1] * found[0]
    says = f"both multiply by the same numbers, the candidate in another order: {told[0]}."
    return Cause(says, scene.before, distance(healed, scene.outputs[0]))


def _affine(scene: Scene, x: np.ndarray) -> Cause | None:
    """Both sides scale and shift every channel, by other numbers, in as many functions as they like."""
    found = []
    for side, node in enumerate((scene.place.reference, scene.place.candidate)):
        graph = scene.graphs[side]
        start = next((v for v in node.inputs if graph.values[v].size == x.size), None)
        if start is None:
            return None
        seen = None
        for value in _chain(graph, node.outputs[0], x.size):
            fit = _fit(x, canonical(scene.layouts[side], graph.values[value]))
            seen = (value, *fit) if fit is not None else seen
        if seen is None:
            return None
        found.append(seen)
    (theirs, scale, offset), (ours, other, shift) = found
    if np.allclose(scale, other, rtol=1e-5) and np.allclose(offset, shift, rtol=1e-5, atol=1e-6):
        return None
    a, b = (canonical(scene.layouts[n], scene.graphs[n].values[v]) for n, v in enumerate((theirs, ours)))
    healed = (b - shift) / other * scale + offset
    after = distance(healed, a)
    if after > 10 * FLOAT32:
        return None
    says = f"the reference computes {_told(scale, offset)}, the candidate {_told(other, shift)}{_kin(scale, other)}."
    return Cause(says, distance(b, a), after, ends=(theirs, ours))


def _chain(graph: Graph, value: int, size: int):
    """A value and what becomes of it in functions of it alone that keep its size."""
    for _ in range(STEPS):
        yield value
        consumers = [node for node in graph.nodes if value in node.inputs]
        if len(consumers) != 1 or len(consumers[0].inputs) != 1 or graph.values[consumers[0].outputs[0]].size != size:
            return
        value = consumers[0].outputs[0]


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, offset) by channel that make `y` of `x`; None if none do, or if they change nothing."""
    if x.shape != y.shape or y.dtype.kind != "f" or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    a, b = (array.reshape(-1, x.shape[-1]).astype(np.float64) for array in (x, y))
    if len(a) < 4 or (np.ptp(a, axis=0) == 0).any():
        return None
    middle = a.mean(0)
    scale = ((a - middle) * (b - b.mean(0))).sum(0) / ((a - middle) ** 2).sum(0)
    offset = b.mean(0) - scale * middle
    if (scale == 0).any() or distance(a * scale + offset, b) > FLOAT32:
        return None
    return scale, offset


def _told(scale: np.ndarray, offset: np.ndarray) -> str:
    zero, one = np.allclose(offset, 0, atol=1e-6), np.allclose(scale, 1, rtol=1e-6)
    if zero and one:
        return "nothing"
    if one:
        return f"x - {_numbers(-offset)}"
    if zero:
        return f"x * {_numbers(scale)}"
    return f"(x - {_numbers(-offset / scale)}) / {_numbers(1 / scale)}"


def _kin(scale: np.ndarray, other: np.ndarray) -> str:
    """What one scale is of the other, if it has a name."""
    for words, function in (("root", np.sqrt), ("square", np.square)):
        if (scale > 0).all() and not np.allclose(scale, 1) and np.allclose(function(1 / scale), 1 / other, rtol=1e-5):
            return f", which divides by the {words} of the reference's deviation"
    return ""


def _numbers(values: np.ndarray) -> str:
    if np.ptp(values) <= 1e-6 * np.abs(values).max():
        return f"{values[0]:.6g}"
    more = ", ..." if len(values) > 4 else ""
    return "[" + ", ".join(f"{value:.4g}" for value in values[:4]) + more + "]"
