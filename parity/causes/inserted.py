"""What one side does between two operations and the other does not, or does behind them."""

import contextlib
from collections.abc import Iterator

import numpy as np

from parity.causes.elementwise import described
from parity.causes.joins import SUMS, names_of
from parity.causes.scene import Cause, Scene, canonical
from parity.divergence import layer_values
from parity.graph import Graph, Node
from parity.values import alike, distance, varies

ROLES = ("reference", "candidate")
NEAR = 3e-7
TRIES = 24  # operations that are fed what the other side would feed them


def find(scene: Scene) -> Cause | None:
    """The other side's next operation gives this side's numbers once it is fed what this side feeds it."""
    return _exchanged(scene) or _inserted(scene)


def _inserted(scene: Scene) -> Cause | None:
    for side, value, twin, order in _starts(scene):
        graph, opposite = scene.graphs[side], scene.graphs[1 - side]
        node = (scene.place.reference, scene.place.candidate)[side]
        ends = [v for v in layer_values(graph, scene.partners.of[side], node) if _like(graph, v, value)]
        for consumer in _unpaired_consumers(scene, 1 - side, twin):
            for end in reversed(ends):
                fed = {twin: order(graph.values[end])}
                for target, made in _fed(opposite, scene.partners.of[1 - side], consumer, fed):
                    found = _behind(graph, end, made)
                    if found is None:
                        continue
                    what = _what(scene, side, node, value, end)
                    says = f"the {ROLES[side]} applies {what} before {consumer.name}, the {ROLES[1 - side]} does not."
                    both = (target, found) if side else (found, target)
                    before, after = distance(made, opposite.values[target]), _apart(made, graph.values[found])
                    return Cause(says, before, after, ends=both)
    return None


def _fed(graph: Graph, partners: dict, node: Node, new: dict) -> Iterator[tuple[int, np.ndarray]]:
    """(number of a value, what it becomes) of an operation that is fed another array, and of its whole layer."""
    yield node.outputs[0], _run(graph, node, new)
    last = layer_values(graph, partners, node)[-1]
    if last != node.outputs[0]:
        with contextlib.suppress(Exception):  # an operation that refuses it
            made = graph.rerun(new, last)
            if made is not None:
                yield last, made


def _exchanged(scene: Scene) -> Cause | None:
    """Both sides do the same two things to one array, in another order."""
    nodes = scene.place.reference, scene.place.candidate
    chains = []
    for side, node in enumerate(nodes):
        graph = scene.graphs[side]
        value = next((v for v in node.inputs if v in scene.partners.of[side]), None)
        if value is None or not node.layer:
            return None
        chains.append((graph, value, layer_values(graph, scene.partners.of[side], node)[-1]))
    if nodes[0].layer == nodes[1].layer or scene.partners.of[1][chains[1][1]][0] != chains[0][1]:
        return None
    found = []
    for side in (0, 1):
        graph, value, end = chains[side]
        other, _, other_end = chains[1 - side]
        array = _moved(other.values[other_end], other.framework, graph.framework)
        try:  # this side's first operation, done to what the other side has done
            made = graph.rerun({value: array}, end)
        except Exception:  # an operation that refuses it
            return None
        place = _behind(other, other_end, made)
        if place is None:
            return None
        found.append(place)
    first, second = (node.layer for node in nodes)
    says = f"the reference does {first} before {second}, the candidate {second} before {first}."
    return Cause(says, scene.before, 0.0, ends=(found[1], found[0]))


def _starts(scene: Scene) -> Iterator:
    """(side, value, its partner, order) of what goes into the operations at the place."""
    for side in (1, 0):
        node = (scene.place.reference, scene.place.candidate)[side]
        for value in node.inputs:
            if value in scene.partners.of[side]:
                first, order = scene.partners.of[side][value]
                shape = scene.graphs[1 - side].values[first].shape
                back = scene.partners.of[1 - side].items()
                same = [t for t, (v, _) in back if v == value and scene.graphs[1 - side].values[t].shape == shape]
                for twin in dict.fromkeys([first, *same]):
                    yield side, value, twin, order


def _like(graph: Graph, value: int, other: int) -> bool:
    a, b = graph.values[value], graph.values[other]
    return a.shape == b.shape and a.dtype.kind == b.dtype.kind == "f"


def _unpaired_consumers(scene: Scene, side: int, value: int) -> list[Node]:
    """Operations that are fed a value and whose output the other side has not."""
    graph, partners = scene.graphs[side], scene.partners.of[side]
    found = [n for n in graph.nodes if value in n.inputs and not any(v in partners for v in n.outputs)]
    return found[:TRIES]


def _run(graph: Graph, node: Node, new: dict) -> np.ndarray | None:
    try:
        return node.run([new.get(v, graph.values[v]) for v in node.inputs])[0]
    except Exception:  # an operation that refuses it
        return None


def _behind(graph: Graph, value: int, array: np.ndarray | None) -> int | None:
    """A value that is made of another and equal to an array."""
    if array is None or not varies(array):
        return None
    reached = {value}
    for node in graph.nodes:
        if reached & set(node.inputs):
            for made in node.outputs:
                reached.add(made)
                if graph.values[made].size == array.size and alike(array, graph.values[made], NEAR) is not None:
                    return made
    return None


def _apart(array: np.ndarray, other: np.ndarray) -> float:
    order = alike(array, other, NEAR)
    return distance(order(array), other)


def _moved(array: np.ndarray, source: str, target: str) -> np.ndarray:
    if source == target or array.ndim < 4:
        return array
    return np.moveaxis(array, 1, -1) if source == "torch" else np.moveaxis(array, -1, 1)


def _what(scene: Scene, side: int, node: Node, value: int, end: int) -> str:
    graph = scene.graphs[side]
    if node.title.lower() in SUMS and len(node.inputs) > 1:
        return f"an addition of {names_of(graph, node.inputs)}"
    x, y = (canonical(scene.layouts[side], graph.values[v]) for v in (value, end))
    known = described(x, y)
    return known or (f"{node.layer} ({node.title})" if node.layer else node.title)
