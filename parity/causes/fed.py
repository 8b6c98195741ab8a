"""A layer that is fed another tensor than the reference's: inputs exchanged, a branch that starts elsewhere."""

import numpy as np

from parity.causes.joins import names_of
from parity.causes.scene import Cause, Scene, canonical, fits, nearest


def find(scene: Scene) -> Cause | None:
    """The candidate's layer, fed what it has of the reference's tensor, gives the reference's numbers."""
    nodes = scene.place.reference, scene.place.candidate
    if not nodes[1].layer or nodes[0].layer != nodes[1].layer:
        return None
    if scene.place.order and "no name" not in scene.place.order:
        return _rearranged(scene)
    values = []
    for side, node in enumerate(nodes):
        found = [v for v in dict.fromkeys(node.inputs) if scene.graphs[side].values[v].dtype.kind == "f"]
        if len(found) != 1 or found[0] not in scene.partners.of[side]:
            return None
        values.append(found[0])
    theirs, ours = values
    own = scene.partners.of[0][theirs][0]  # the candidate's own copy of what the reference is fed
    graph = scene.graphs[1]
    if own == ours or scene.partners.of[1][ours][0] == theirs or graph.values[own].shape != graph.values[ours].shape:
        return None
    made = _run(graph, {ours: graph.values[own]}, scene.ends[1])
    made = None if made is None else canonical(scene.layouts[1], made)
    if not fits(made, scene.made[0]):
        return None
    names = [_name(scene.graphs[side], value) for side, value in enumerate(values)]
    if names[0] == names[1]:
        return None
    after = nearest(made, scene.made[0])
    return Cause(f"the reference feeds it {names[0]}, the candidate {names[1]}.", scene.before, after)


def _rearranged(scene: Scene) -> Cause | None:
    """The same numbers reach the layer in another order, and in the reference's it gives the reference's numbers."""
    nodes = scene.place.reference, scene.place.candidate
    theirs, ours = (next((v for v in node.inputs if scene.graphs[side].values[v].dtype.kind == "f"), None)
                    for side, node in enumerate(nodes))  # fmt: skip
    if theirs is None or ours is None:
        return None
    graph = scene.graphs[1]
    array = canonical(scene.layouts[0], scene.graphs[0].values[theirs])
    array = np.moveaxis(array, -1, 1) if scene.layouts[1] == "torch" and array.ndim in (4, 5) else array
    if array.shape != graph.values[ours].shape:
        return None
    made = _run(graph, {ours: array}, scene.ends[1])
    if made is None or not fits(canonical(scene.layouts[1], made), scene.made[0]):
        return None
    after = nearest(canonical(scene.layouts[1], made), scene.made[0])
    says = f"what reaches it has the reference's numbers in another order: {scene.place.order}."
    return Cause(says, scene.before, after)


def _run(graph, given: dict, end: int) -> np.ndarray | None:
    start = {source: graph.values[source] for source in graph.sources} | given
    try:
        made = graph.rerun(start, end)
    except Exception:  # an operation that refuses it
        return None
    return None if made is None else np.asarray(made)


def _name(graph, value: int) -> str:
    """What to call a value: an input by its number, others by what made them."""
    if value in graph.sources:
        return f"input {list(graph.sources).index(value) + 1}"
    return f"what comes from {names_of(graph, [value])}"
