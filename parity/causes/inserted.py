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
    return _bias(scene) or _exchanged(scene) or _inserted(scene)


def _bias(scene: Scene) -> Cause | None:
    """One side's layer ends with a bias, of which the other's has none."""
    for side, node in enumerate((scene.place.reference, scene.place.candidate)):
        bias = scene.weights[side].get("bias")
        if bias is None or "bias" in scene.weights[1 - side] or "kernel" not in scene.weights[1 - side]:
            continue
        graph, opposite = scene.graphs[side], scene.graphs[1 - side]
        for value in node.inputs:
            twin = scene.partners.of[side].get(value, (None,))[0]
            made = opposite.producers.get(twin)
            if made is None or made.layer != node.layer or graph.producers[value].layer != node.layer:
                continue
            x, y = (canonical(graph.framework, graph.values[v]) for v in (value, node.outputs[0]))
            if x.shape != y.shape or x.shape[-1:] != bias.shape or not distance(x + bias, y) <= NEAR:
                continue
            says = f"{node.layer} has a bias in the {ROLES[side]} and none in the {ROLES[1 - side]}."
            ends = (twin, node.outputs[0]) if side else (node.outputs[0], twin)
            return Cause(says, distance(x, y), distance(x + bias, y), ends=ends, settings=frozenset(["use_bias"]))
    return None


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
                    what, before = _what(scene, side, node, value, end), _next(scene, side, end, consumer)
                    says = f"the {ROLES[side]} applies {what} before {before}, the {ROLES[1 - side]} does not."
                    apart = distance(made, opposite.values[target]), _apart(made, graph.values[found])
                    if side:
                        return Cause(says, *apart, ends=(twin, end))
                    if _taken_elsewhere(scene, value, end):
                        return Cause(says, *apart, ends=(found, target), missing=end)
                    return Cause(says, *apart, ends=(end, twin))
    return None


def _taken_elsewhere(scene: Scene, value: int, end: int) -> bool:
    """Whether the reference also takes a value for something else than what it makes another of."""
    graph = scene.graphs[0]
    inside = {v for node in graph.within([value, *scene.partners.of[0]], end) or () for v in node.outputs}
    others = (node for node in graph.nodes if value in node.inputs and not inside & set(node.outputs))
    return value in graph.outputs.values() or next(others, None) is not None


def _next(scene: Scene, side: int, end: int, consumer: Node) -> str:
    """What to call the operation before which one side does something: by a layer that both have, or else Keras's."""
    names = [{node.layer for node in graph.nodes} - {""} for graph in scene.graphs]
    if consumer.layer in names[side]:
        return consumer.name
    own = scene.graphs[side].producers[end].layer if end in scene.graphs[side].producers else ""
    same = next((n for n in scene.graphs[side].nodes if end in n.inputs and n.layer not in ("", own)), None)
    if same is not None and (same.layer in names[1 - side] or scene.graphs[side].framework == "keras"):
        return same.layer
    return consumer.name


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
