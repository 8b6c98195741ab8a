"""Where branches meet: other tensors are added, multiplied or joined, or in another order."""

import numpy as np

from parity.causes.scene import Cause, Scene, canonical, fits, nearest
from parity.graph import Graph, Node

SUMS = {"add", "addv2", "iadd", "radd", "addn"}
PRODUCTS = {"mul", "imul", "rmul", "multiply"}
DIFFERENCES = {"sub", "isub", "rsub", "subtract"}
JOINED = {"cat", "concat", "concatv2", "concatenate", "stack", "pack", "hstack"}


def find(scene: Scene) -> Cause | None:
    """Both sides do the same with other tensors, or another thing with the same ones."""
    sides = scene.place.reference, scene.place.candidate
    for group, word in ((SUMS, "adds"), (PRODUCTS, "multiplies"), (DIFFERENCES, "subtracts")):
        if all(node.title.lower() in group for node in sides):
            return _other_tensors(scene, sides, word)
    if all(node.title.lower() in SUMS | PRODUCTS | DIFFERENCES for node in sides):
        words = [_word(node) for node in sides]
        values = [scene.graphs[1].values[value] for value in sides[1].inputs]
        made = _calculated(words[0], values)
        if fits(made, scene.made[0][:1]):
            says = f"the reference {words[0]} where the candidate {words[1]}."
            return scene.cured(says, nearest(made, scene.made[0][:1]), (0, 0))
    joined = [_joined_before(graph, node) for graph, node in zip(scene.graphs, sides, strict=True)]
    if None not in joined:
        return _other_tensors(scene, joined, "joins")
    return None


def _word(node: Node) -> str:
    title = node.title.lower()
    return "adds" if title in SUMS else "multiplies" if title in PRODUCTS else "subtracts"


def _calculated(word: str, values: list[np.ndarray]) -> np.ndarray | None:
    """What comes of doing that with arrays; None where their shapes or their number do not go with it."""
    if len(values) != 2:
        return None
    try:
        return {"adds": np.add, "multiplies": np.multiply, "subtracts": np.subtract}[word](*values)
    except ValueError:
        return None


def _joined_before(graph: Graph, node: Node) -> Node | None:
    """The concatenation that feeds an operation."""
    for value in node.inputs:
        made = graph.producers.get(value)
        while made is not None and made.title.lower() not in JOINED and len(made.inputs) == 1:
            made = graph.producers.get(made.inputs[0])
        if made is not None and made.title.lower() in JOINED:
            return made
    return None


def _other_tensors(scene: Scene, nodes, word: str) -> Cause | None:
    """The candidate's tensors have partners, and they are not the reference's, or not in its order."""
    ours = [scene.partners.of[1].get(value, (None,))[0] for value in nodes[1].inputs]
    if None in ours:
        return None
    theirs, of = list(nodes[0].inputs), scene.partners.of[0]
    # Of several equal values one is the partner: what counts is that both have the same one.
    theirs_in_candidate = [of.get(value, (None,))[0] for value in theirs]
    ours_in_candidate = [of.get(value, (None,))[0] for value in ours]
    if None in theirs_in_candidate or theirs_in_candidate == ours_in_candidate:
        return None
    if word in ("adds", "multiplies") and sorted(theirs_in_candidate) == sorted(ours_in_candidate):
        return None
    names = [names_of(scene.graphs[0], values) for values in (theirs, ours)]
    if names[0] == names[1]:
        return None
    if names_of(scene.graphs[1], nodes[1].inputs) == names[0]:
        return _of_other_size(scene, nodes)  # of the same layers, which give other numbers by now
    after = _cured(scene, nodes[1], theirs, word)
    if after is None:
        return None
    twice = ", twice" if len(ours) == 1 else ""
    told = "in another order" if sorted(theirs_in_candidate) == sorted(ours_in_candidate) else "other tensors"
    says = f"the candidate {word} {told}: the reference's come from {names[0]}, the candidate's from {names[1]}{twice}."
    return scene.cured(says, after, scene.last if word == "joins" else (0, 0))


def _of_other_size(scene: Scene, nodes) -> Cause | None:
    """What reaches both sides from one layer is a multiple of the reference's."""
    made = [{}, {}]
    for side, node in enumerate(nodes):
        graph = scene.graphs[side]
        for value in node.inputs:
            if value in graph.producers:
                made[side][graph.producers[value].name] = canonical(graph.framework, graph.values[value])
    for name, expected in made[0].items():
        found = made[1].get(name)
        if found is None or found.shape != expected.shape or not expected.any():
            continue
        ratio = float((expected * found).sum() / (expected * expected).sum())
        if abs(ratio - 1) > 1e-9 and fits(expected * ratio, [found]):
            return Cause(f"what {name} gives is {ratio:.6g} times the reference's.", scene.before, 0.0)
    return None


def _cured(scene: Scene, node: Node, theirs: list[int], word: str) -> float | None:
    """How far the candidate is from the reference with its own copies of the reference's tensors; None if not near."""
    graph, partners = scene.graphs[1], scene.partners.of[0]
    values = [graph.values[partners[value][0]] for value in theirs]
    if word == "joins":
        if len(values) != len(node.inputs):
            return None
        start = {n: graph.values[n] for n in graph.sources} | dict(zip(node.inputs, values, strict=True))
        made, targets = graph.rerun(start, scene.ends[1]), [scene.outputs[0]]
    else:
        made, targets = _calculated(word, values), scene.made[0][:1]
    if made is None:
        return None
    made = canonical(graph.framework, made)
    return nearest(made, targets) if fits(made, targets) else None


def names_of(graph: Graph, values) -> str:
    """Which layers, or functions, made some values."""
    made = [graph.producers.get(value) for value in values]
    return " and ".join("the inputs" if node is None else node.name for node in made)
