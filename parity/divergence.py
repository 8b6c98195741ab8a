"""Where two models part: the first operation whose inputs have equal partners and whose output has none."""

from dataclasses import dataclass

import numpy as np

from parity.graph import Graph, Node, Unanswered, moves_only
from parity.values import Partners, distance, orders, rearrangement, varies

# Layers that are one operation in torch and several in Keras.
_WHOLE = ("multi_head_attention_forward", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell",
          "rnn_tanh_cell", "rnn_relu_cell")  # fmt: skip

FOLLOWED = 8  # operations of which a function may be made


@dataclass(frozen=True)
class Place:
    """An operation of each side at which two models part.

    Attributes:
        name: the canonical name of the layer, or that of the function.
        reference, candidate: the operation on each side; None where a side does nothing there.
        inputs: how far its inputs are apart, relative L2.
        outputs: how far its outputs are apart; None if they have no common shape.
    """

    name: str
    reference: Node | None
    candidate: Node | None
    inputs: float
    outputs: float | None
    frameworks: tuple[str, str] = ("reference", "candidate")
    order: str = ""  # how the numbers that reach it lie otherwise than the reference's

    def __str__(self):
        sides = zip(self.frameworks, (self.reference, self.candidate), strict=True)
        told = "   ".join(f"{side}: {'nothing' if node is None else node}" for side, node in sides)
        apart = "of another shape" if self.outputs is None else f"{self.outputs:.1e} apart"
        order = f"; the same numbers reach it in another order: {self.order}" if self.order else ""
        return f"they part at  {told}; its inputs agree to {self.inputs:.0e}, its outputs are {apart}{order}"


def locate(partners: Partners, outputs: list[tuple[int, int]]) -> Place | None:
    """The place where two models part on the way to some outputs; None if they do not.

    An operation that only moves numbers, such as a padding, is not blamed for having no partner, since the next may
    take the numbers in another way; what follows it is.

    Args:
        outputs: numbers of an output on each side, which differ.
    """
    regions = [_region(graph, partners.of[side], [pair[side] for pair in outputs])
               for side, graph in enumerate(partners.graphs)]  # fmt: skip
    fronts = [_front(graph, partners.of[side], region)
              for side, (graph, region) in enumerate(zip(partners.graphs, regions, strict=True))]  # fmt: skip
    if not fronts[1] and not fronts[0]:
        return None
    names = {node.layer for node in fronts[0]} - {""}
    candidate = next((node for node in fronts[1] if node.layer in names), fronts[1][0] if fronts[1] else None)
    reference = _facing(partners, candidate, fronts[0])
    inputs = max((_input_distance(partners, 1, v) for v in (candidate.inputs if candidate else ())), default=0.0)
    apart = None
    if candidate is not None and reference is not None:
        ends = [_end(region, node) for region, node in zip(regions, (reference, candidate), strict=True)]
        apart = _apart(partners.graphs[0].values[ends[0]], partners.graphs[1].values[ends[1]])
    name = _name(reference, candidate, regions, partners.graphs)
    frameworks = tuple(graph.framework for graph in partners.graphs)
    if frameworks[0] == frameworks[1]:
        frameworks = ("reference", "candidate")
    return Place(name, reference, candidate, inputs, apart, frameworks, _order(partners, reference, candidate))


def _order(partners: Partners, reference: Node | None, candidate: Node | None) -> str:
    """In what other order the same numbers reach an operation on both sides, seen at the first example."""
    if reference is None or candidate is None:
        return ""
    for ours in candidate.inputs:
        array = partners.graphs[1].values[ours]
        for theirs in reference.inputs:
            other = partners.graphs[0].values[theirs]
            if partners.of[1].get(ours, (None,))[0] == theirs or array.ndim < 2 or array.dtype.kind != "f":
                continue
            turned = _turned_channels(
                *(_channels_last(g, a) for g, a in zip(partners.graphs, (other, array), strict=True))
            )
            if turned:
                return turned
            if other.shape != array.shape or distance(array, other) <= 1e-6:
                continue
            found = rearrangement(other[0], array[0], 1e-6)
            if found is not None:
                told = found[0]
                return f"{told}; torch flattens channels first, Keras channels last" if "flatten" in told else told
    return ""


def _channels_last(graph: Graph, array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1) if graph.framework == "torch" and array.ndim == 4 else array


def _turned_channels(other: np.ndarray, array: np.ndarray) -> str:
    """Which channels of an image have their rows and columns exchanged or reversed, in words; "" if none have."""
    if other.ndim != 4 or other.shape != array.shape:
        return ""
    if not np.isclose(np.abs(other).sum(), np.abs(array).sum(), rtol=1e-5):  # other numbers, not the same elsewhere
        return ""
    count = other.shape[-1]
    same = [distance(array[..., n], other[..., n]) <= 1e-6 for n in range(count)]
    wrong = [n for n in range(count) if not same[n]]
    if not wrong:
        return ""
    ways = {
        "rows and columns are exchanged": lambda x: x.swapaxes(1, 2),
        "rows are reversed": lambda x: x[:, ::-1],
        "columns are reversed": lambda x: x[:, :, ::-1],
    }
    for words, turn in ways.items():
        parts = turn(array[..., wrong])
        if parts.shape == (*other.shape[:-1], len(wrong)) and distance(parts, other[..., wrong]) <= 1e-6:
            where = "" if len(wrong) == count else f" in channels {wrong[0]} to {wrong[-1]} of {count}"
            return words + where
    return ""


def _name(reference: Node | None, candidate: Node | None, regions, graphs) -> str:
    """What to call a place: by the candidate's layer, or the side that does more than the other, or the whole layer."""
    if reference is None or candidate is None:
        return (candidate or reference).name
    layers = [{node.layer for node in region} - {""} for region in regions]
    if not candidate.layer:
        if reference.layer in layers[1]:
            return candidate.name  # the candidate does something before the reference's layer
        return reference.name  # torch's functions have better names than TensorFlow's operations
    if reference.layer and reference.layer != candidate.layer:
        if reference.title in _WHOLE and candidate.layer.startswith(f"{reference.layer}_"):
            return reference.layer  # one operation there, several parts here
        if candidate.layer in layers[0] and reference.layer not in layers[1]:
            return reference.layer  # the reference does something before the candidate's layer
        if candidate.layer not in layers[0] and graphs[0].framework == "keras" != graphs[1].framework:
            return reference.layer  # a block of torch, inside of which it is a function
    return candidate.layer


def _region(graph: Graph, partners: dict, outputs) -> list[Node]:
    """The operations without partner that lead to some outputs, in order."""
    pending, seen, found = list(outputs), set(), []
    while pending:
        value = pending.pop()
        if value in seen or value in partners:
            continue
        seen.add(value)
        node = graph.producers.get(value)
        if node is not None:
            found.append(node)
            pending += node.inputs
    return graph.in_order(found)


def _front(graph: Graph, partners: dict, region: list[Node]) -> list[Node]:
    """Of a region, what is fed by partners only, straight or by way of operations that only move numbers."""
    moved, front, moving = set(), [], []
    for node in region:
        if all(value in partners or value in moved for value in node.inputs):
            if moves_only(graph, node) or not any(graph.values[v].dtype.kind == "f" for v in node.outputs):
                moved.update(node.outputs)
                moving.append(node)
            else:
                front.append(node)
    return front or moving


def _facing(partners: Partners, node: Node | None, front: list[Node]) -> Node | None:
    """Of the reference's front, what does the work of the candidate's node: by name, by its inputs, or the first."""
    if node is None or not front:
        return front[0] if front else None
    same = next((other for other in front if other.layer and other.layer == node.layer), None)
    if same is not None:
        return same
    fed = {partners.of[1][value][0] for value in node.inputs if value in partners.of[1]}
    return next((other for other in front if fed & set(other.inputs)), front[0])


def _end(region: list[Node], node: Node) -> int:
    """The last value that the layer of a node makes in a region."""
    inside = [other for other in region if other.layer == node.layer] if node.layer else [node]
    return inside[-1].outputs[0]


def _common_start(graphs, ours: dict, value: int, other: int) -> list[int]:
    """Values of the candidate whose partners are just what the reference makes a value of; [] if there are none."""
    for _ in range(2):
        region = _region(graphs[1], ours, [value])
        given = [v for v in dict.fromkeys(v for node in region for v in node.inputs) if v in ours]
        start = {ours[v][0] for v in given}
        if not given or other in start or graphs[1].within(given, value) is None:
            return []
        nodes = graphs[0].within(start, other)
        if not nodes:
            return []
        used = start & {v for node in nodes for v in node.inputs}
        if used == start:
            return given
        ours = {v: ours[v] for v in given if ours[v][0] in used}  # once more, from what the reference uses alone
    return []


def layer_values(graph: Graph, partners: dict, node: Node) -> list[int]:
    """What the layer of an operation makes of what goes into it, in order; without partners, up to the last.

    What it makes with the help of layers inside of it, as a block does, is not among them: that is of another place.
    Of a function outside of every layer it is what follows of the same size, for SiLU may be two operations.
    """
    if not node.layer:
        return _followed(graph, partners, node)
    reached, found = set(node.outputs), list(node.outputs[:1])
    own = set(node.outputs)  # what the layer alone makes of equal values
    place = next(number for number, other in enumerate(graph.nodes) if other is node)
    for number, other in enumerate(graph.nodes):
        if other.layer != node.layer or other is node:
            continue
        if all(value in own or value in partners for value in other.inputs):
            own.update(other.outputs)
            if number > place and reached & set(other.inputs):
                reached.update(other.outputs)
                found.append(other.outputs[0])
                if other.outputs[0] in partners:
                    break
    return found


def _followed(graph: Graph, partners: dict, node: Node) -> list[int]:
    """What a function and those behind it make of equal values, each outside of every layer, at most `FOLLOWED`."""
    reached, found, own = set(node.outputs), list(node.outputs[:1]), set(node.outputs)
    size = graph.values[found[0]].size if found else 0
    place = next(number for number, other in enumerate(graph.nodes) if other is node)
    for number, other in enumerate(graph.nodes):
        if other.layer or other is node or not all(value in own or value in partners for value in other.inputs):
            continue
        own.update(other.outputs)
        same = number > place and reached & set(other.inputs) and graph.values[other.outputs[0]].size == size
        if same and len(found) < FOLLOWED and found[-1] not in partners:
            reached.update(other.outputs)
            found.append(other.outputs[0])
    return found


def _input_distance(partners: Partners, side: int, value: int) -> float:
    if value not in partners.of[side]:
        return 0.0
    other, order = partners.of[side][value]
    return distance(order(partners.graphs[side].values[value]), partners.graphs[1 - side].values[other])


def _apart(array: np.ndarray, other: np.ndarray) -> float | None:
    if array.size != other.size:
        return None
    return min(distance(order(other), array) for order in orders(other.shape, array.shape))


def isolated(partners: Partners, widen):
    """Runs what lies between values that both sides have, on other numbers, on both sides.

    Args:
        widen: from an array to the one to feed instead.

    Yields:
        (name, reference's array, candidate's array in the reference's order), or (name, None, None) where one side
        alone refuses such numbers.
    """
    graphs = partners.graphs
    # Equal numbers throughout, zeros mostly, are equal by chance.
    ours = {n: found for n, found in partners.of[1].items() if varies(graphs[1].values[n])}
    for node in graphs[1].nodes:
        for value in node.outputs:
            if value not in ours or value in graphs[1].sources or graphs[1].producers.get(value) is not node:
                continue
            other, order = ours[value]
            given = _common_start(graphs, {n: p for n, p in ours.items() if n != value}, value, other)
            if not given:
                continue
            arrays = [graph.values[n] for v in given for graph, n in ((graphs[1], v), (graphs[0], ours[v][0]))]
            if any(array.dtype.kind != "f" or not np.isfinite(array).all() for array in arrays):
                continue
            maker = graphs[0].producers.get(other)
            name = node.layer or (maker.name if maker is not None else node.name)
            fed = {v: widen(graphs[1].values[v]) for v in given}
            passed = {ours[v][0]: ours[v][1](array) for v, array in fed.items()}
            found = []
            for graph, arrays, target in ((graphs[0], passed, other), (graphs[1], fed, value)):
                try:
                    found.append(graph.rerun(arrays, target))
                except Unanswered:  # a recording: what was not looked at there can't be now
                    return
                except Exception:  # some operation refuses such numbers
                    found.append(None)
            if found[0] is not None and found[1] is not None:
                yield name, found[0], order(found[1])
            elif (found[0] is None) != (found[1] is None):
                yield name, None, None
