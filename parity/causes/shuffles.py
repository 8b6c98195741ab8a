"""Channels that one side shuffles in groups, as ShuffleNet does, and the other not, or in other groups."""

import itertools
from dataclasses import replace

import numpy as np

from parity.causes.scene import EXACT, Cause, Scene, canonical, fits, which
from parity.graph import Graph
from parity.values import distance, varies

STEPS = 12  # back from an operation


def find(scene: Scene) -> Cause | None:
    """Both sides hand their operation the channels of one array, and at least one of them shuffles them first."""
    nodes = scene.place.reference, scene.place.candidate
    ways = [[_way(graph, v) for v in node.inputs] for graph, node in zip(scene.graphs, nodes, strict=True)]
    for way, path in itertools.product(*ways):
        for there, here in itertools.product(reversed(range(len(way))), reversed(range(len(path)))):
            if path[here] not in scene.partners.of[1] or not _equal(scene, way[there], path[here]):
                continue
            told = [_shuffled(g, p) for g, p in zip(scene.graphs, (way[there:], path[here:]), strict=True)]
            if None not in told and told[0][0] != told[1][0]:
                cause = _cause(scene, told, way[there:], path[here:])
                if cause is not None:
                    return cause
    return None


def _way(graph: Graph, value: int) -> list[int]:
    """A value and what it was made of, the first first, by operations of one input, such as only move numbers."""
    path = [value]
    while len(path) < STEPS:
        made = graph.producers.get(path[-1])
        if made is None or len(made.inputs) != 1:
            break
        path.append(made.inputs[0])
    return path[::-1]


def _equal(scene: Scene, theirs: int, ours: int) -> bool:
    a, b = (canonical(g.framework, g.values[v]) for g, v in zip(scene.graphs, (theirs, ours), strict=True))
    return a.ndim >= 2 and varies(b) and fits(a, [b])


def _shuffled(graph: Graph, path: list[int]) -> tuple[int, int] | None:
    """(groups, number of the value) in which the channels of a path's first array come out last; 1 if as they are."""
    arrays = {v: canonical(graph.framework, graph.values[v]) for v in path}
    first = arrays[path[0]]
    for value in reversed(path):
        if arrays[value].shape == first.shape:
            for groups in _divisors(first.shape[-1]):
                if distance(shuffle(first, groups), arrays[value]) <= EXACT:
                    return groups, value
            return None
    return None


def _divisors(channels: int) -> list[int]:
    return [1, *(g for g in range(2, channels) if channels % g == 0)]


def shuffle(array: np.ndarray, groups: int) -> np.ndarray:
    """Channels (the last axis) of each group one after the other: the first of all groups, the second of all, ..."""
    parts = array.reshape(*array.shape[:-1], groups, -1)
    return np.swapaxes(parts, -1, -2).reshape(array.shape)


def _cause(scene: Scene, told, way: list[int], path: list[int]) -> Cause | None:
    """The cause, if the candidate's operation gives the reference's numbers on the reference's order of channels."""
    (theirs, first), (ours, second) = told
    graph, ends = scene.graphs[1], scene.numbers[1]
    array = canonical(scene.graphs[0].framework, scene.graphs[0].values[first])
    fed = np.moveaxis(array, -1, 1) if graph.framework == "torch" and array.ndim in (4, 5) else array
    start = {v: graph.values[v] for v in (*scene.partners.of[1], *graph.sources) if v not in (*path[1:], *ends)}
    start[second] = fed.astype(graph.values[second].dtype)
    try:
        made = [graph.rerun(start, end) for end in ends]
    except Exception:  # an operation that refuses it
        return None
    arrays = [None if array is None else canonical(graph.framework, array) for array in made]
    agreed = [(which(array, scene.made[0]), place) for place, array in enumerate(arrays)]
    agreed = [places for places in agreed if places[0] is not None]
    if not agreed:
        return None
    places = agreed[-1]
    after = distance(arrays[places[1]], scene.made[0][places[0]])
    roles = ("reference", "candidate") if ours == 1 else ("candidate", "reference")
    says = f"the {roles[0]} shuffles the channels in {max(ours, theirs)} groups before it, the {roles[1]} does not."
    if min(ours, theirs) > 1:
        says = f"before it the reference shuffles the channels in {theirs} groups, the candidate in {ours}."
    code = _code(array, theirs) if theirs > 1 else ("", "")
    # Where the reference takes its own order too, all that follows in the candidate can't be healed at once.
    once = second not in scene.partners.of[1] or sum(way[0] in node.inputs for node in scene.graphs[0].nodes) == 1
    cause = scene.cured(says, after, places, *code)
    return replace(cause, ends=(first, second)) if once else cause


def _code(array: np.ndarray, groups: int) -> tuple[str, str]:
    """How each framework shuffles images."""
    if array.ndim != 4:
        return "", ""
    rows, columns, channels = array.shape[1:]
    parts = f"keras.ops.reshape(x, (-1, {rows}, {columns}, {groups}, {channels // groups}))"
    keras = f"keras.ops.reshape(keras.ops.swapaxes({parts}, 3, 4), (-1, {rows}, {columns}, {channels}))"
    return keras, f"F.channel_shuffle(x, {groups})"
