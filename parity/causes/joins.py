"""Where branches meet: other tensors are added, multiplied or joined, or in another order."""

from parity.causes.scene import Cause, Scene
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
        names = [_word(node) for node in sides]
        return Cause(f"the reference {names[0]} where the candidate {names[1]}.", scene.before, 0.0)
    joined = [_joined_before(graph, node) for graph, node in zip(scene.graphs, sides, strict=True)]
    if None not in joined:
        return _other_tensors(scene, joined, "joins")
    return None


def _word(node: Node) -> str:
    title = node.title.lower()
    return "adds" if title in SUMS else "multiplies" if title in PRODUCTS else "subtracts"


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
    names = [_names(scene.graphs[0], values) for values in (theirs, ours)]
    if names[0] == names[1]:
        return None
    twice = ", twice" if len(ours) == 1 else ""
    told = "in another order" if sorted(theirs_in_candidate) == sorted(ours_in_candidate) else "other tensors"
    return Cause(f"the candidate {word} {told}: the reference's come from {names[0]}, the candidate's from "
                 f"{names[1]}{twice}.", scene.before, 0.0)  # fmt: skip


def _names(graph: Graph, values) -> str:
    made = [graph.producers.get(value) for value in values]
    return " and ".join("the inputs" if node is None else node.name for node in made)
