"""Where two models part: the first operation whose inputs have equal partners and whose output has none."""

from dataclasses import dataclass

import numpy as np

from parity.graph import Graph, Node, moves_only
from parity.values import Partners, distance, orders, rearrangement, varies


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
    name = candidate.name if candidate is not None and candidate.layer else (reference or candidate).name
    frameworks = tuple(graph.framework for graph in partners.graphs)
    if frameworks[0] == frameworks[1]:
        frameworks = ("reference", "candidate")
    return Place(name, reference, candidate, inputs, apart, frameworks, _order(partners, reference, candidate))


def _order(partners: Partners, reference: Node | None, candidate: Node | None) -> str:
    """In what other order the same numbers reach an operation on both sides, seen at the first example."""
    if reference is None or candidate is None:
        return ""
    for ours in candidate.inputs:
        if ours in partners.of[1]:
            continue
        array = partners.graphs[1].values[ours]
        for theirs in reference.inputs:
            other = partners.graphs[0].values[theirs]
            if array.ndim < 2 or other.shape != array.shape or array.dtype.kind != "f":
                continue
            found = rearrangement(other[0], array[0], 1e-6)
            if found is not None:
                told = found[0]
                return f"{told}; torch flattens channels first, Keras channels last" if "flatten" in told else told
    return ""


def _region(graph: Graph, partners: dict, outputs) -> list[Node]:
    """The operations without partner that lead to some outputs, in order."""
    pending, seen, found = list(outputs), set(), []
    while pending:
        value = pending.pop()
        if value in seen or value in partners:
            continue
        seen.add(value)
        node = graph.producers.get(value)
        if node is not None and all(node is not other for other in found):
            found.append(node)
            pending += node.inputs
    order = {id(node): place for place, node in enumerate(graph.nodes)}
    return sorted(found, key=lambda node: order[id(node)])


def _front(graph: Graph, partners: dict, region: list[Node]) -> list[Node]:
    """Of a region, what is fed by partners only, straight or by way of operations that only move numbers."""
    moved, front, moving = set(), [], []
    for node in region:
        if all(value in partners or value in moved for value in node.inputs):
            if moves_only(graph, node):
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
            region = _region(graphs[1], {n: p for n, p in ours.items() if n != value}, [value])
            given = [v for part in region for v in part.inputs if v in ours and v != value]
            if not given or any(graphs[1].values[v].dtype.kind != "f" for v in given):
                continue
            other, order = ours[value]
            start = {ours[v][0] for v in given}
            if other in start or not graphs[0].within(start, other):
                continue
            fed = {v: widen(graphs[1].values[v]) for v in given}
            passed = {ours[v][0]: ours[v][1](array) for v, array in fed.items()}
            found = []
            for graph, arrays, target in ((graphs[0], passed, other), (graphs[1], fed, value)):
                try:
                    found.append(graph.rerun(arrays, target))
                except Exception:  # some operation refuses such numbers
                    found.append(None)
            if found[0] is not None and found[1] is not None:
                yield node.name, found[0], order(found[1])
            elif (found[0] is None) != (found[1] is None):
                yield node.name, None, None
