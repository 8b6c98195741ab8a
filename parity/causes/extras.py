"""An operation that one side does before a layer, and the other does not."""

import numpy as np

from parity.causes.elementwise import named
from parity.causes.scene import EXACT, Cause, Scene, canonical
from parity.values import distance

ROLES = ("reference", "candidate")


def find(scene: Scene) -> Cause | None:
    """The other side's layer gives this side's numbers once it is fed what this side feeds it."""
    nodes = scene.place.reference, scene.place.candidate
    for side in (0, 1):
        node, other = nodes[side], nodes[1 - side]
        if not other.layer or other.layer == node.layer or len(other.inputs) != 1:
            continue
        value = next((v for v in node.inputs if scene.partners.of[side].get(v, (None,))[0] == other.inputs[0]), None)
        graph, opposite = scene.graphs[side], scene.graphs[1 - side]
        layer = next((n for n in graph.nodes if n.layer == other.layer), None)
        if value is None or layer is None or len(layer.inputs) != 1:
            continue
        fed = graph.values[layer.inputs[0]]
        if fed.shape != graph.values[value].shape:
            continue
        order = scene.partners.of[side][value][1]
        try:
            made = opposite.rerun({other.inputs[0]: order(fed)}, scene.ends[1 - side])
        except Exception:  # an operation that refuses it
            continue
        expected = scene.made[side][-1]
        if made is None:
            continue
        found = canonical(opposite.framework, made)
        if found.shape != expected.shape or distance(found, expected) > EXACT:
            continue
        what = _what(graph.values[value], fed, node.title)
        says = f"the {ROLES[side]} applies {what} before {other.layer}, the {ROLES[1 - side]} does not."
        return Cause(says, scene.before, distance(found, expected))
    return None


def _what(x: np.ndarray, y: np.ndarray, title: str) -> str:
    known = named(x, [y])
    if known is not None:
        return known[0]
    norm = float((x * x).sum())
    ratio = float((x * y).sum()) / norm if norm else 0.0
    return f"a factor of {ratio:.6g}" if ratio and distance(x * ratio, y) <= EXACT else title
