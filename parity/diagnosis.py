"""Why two models part: at each place, what either side was seen to compute, and the cure that makes them agree."""

import contextlib
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from parity.causes import FAMILIES, backwards, elementwise, inserted, moving, weights
from parity.causes.scene import Cause, Scene
from parity.divergence import Place, layer_values, locate
from parity.errors import FAIL, Row
from parity.graph import Graph
from parity.trace import pair_values
from parity.transfer import match
from parity.values import Partners, distance, orders

MOST = 120  # places that one run looks at
# Causes that name a function. Where a place has no cause, the reference's numbers may have been put too early or too
# late (an activation may belong to one side's layer alone), and the function that follows would be blamed for it.
LINEAR = ("conv", "matmul", "mm", "linear", "einsum", "bias", "add")  # in titles of what a layer without one ends with
FUNCTIONS = (elementwise.find, inserted.find)


@dataclass(frozen=True)
class Finding:
    """One thing in which two models differ, and why, if that was found.

    Attributes:
        name: canonical name of the layer, weight or operation.
        says: why they differ, in words; "" if no cure that was tried heals it.
        place: where, on both sides, if it is an operation.
        cause: the cure that heals it, if it is an operation.
        layers: all layers of which it is so, if there are several.
        setting: the one that differs, if it is a setting.
    """

    name: str
    says: str
    place: Place | None = None
    cause: Cause | None = None
    layers: tuple[str, ...] = ()
    setting: str = ""

    def __str__(self):
        return f"{self.name}: {self.says or f'{self.place}. No cure that was tried heals it.'}"


def findings(rows: list[Row], reference, candidate, notes: list[str]) -> list[Finding]:
    """Everything in which two models differ, from what the rungs found: settings, weights, calls, operations.

    Args:
        rows: verdicts, already read together, see `reconciliation`.
        reference, candidate: traces.
        notes: receives what could not be looked for.
    """
    rows = {row.check: row for row in rows if row.status == FAIL}
    found = []
    if "configuration" in rows:
        found += _settings(rows["configuration"].details["differences"])
    if "structure" in rows or any("no such layer" in f.says for f in found):
        found += [Finding(name, says) for name, says in _calls(reference, candidate).items()]
    if "structure" in rows:
        found += _shapes(reference, candidate)
    if "weights" in rows:
        names = rows["weights"].details["different"]
        told = weights.explain(reference.adapter, candidate.adapter, names)
        found += [Finding(name, f"{says}.") for name, says in told.items()]
    if "batch_norm" in rows:
        for layer, role in rows["batch_norm"].details.get("idle", ()):
            other = "reference" if role == "candidate" else "candidate"
            found.append(Finding(layer, f"the {role} drops nothing in training, where the {other} does."))
    double = all(side.adapter.dtype == "float64" for side in (reference, candidate))  # else rounding hides what is what
    if "forward" in rows and not double and not any(side.adapter.opaque for side in (reference, candidate)):
        notes.append("Causes of operations are looked for between copies in float64 only.")
    known = {layer.partition("/")[0] for finding in found for layer in finding.layers or (finding.name,)}
    if "forward" in rows and candidate.parted is not None and double:
        with _told(notes):
            places = _places(candidate.parted, reference, candidate, notes)
            # What the weights or settings of a layer explain needs no second cause.
            places = [f for f in places if f.says or not any(_within(f.name, layer) for layer in known)]
            found = _told_once(found, places)
    elif "forward" not in rows and "batch_norm" in rows and double:
        with _told(notes):
            found += [f for f in _trained(reference, candidate, notes) if f.name.partition("#")[0] not in known]
    elif "gradients" in rows and not rows.keys() & {"forward", "batch_norm"} and double:
        with _told(notes):
            back = backwards.locate(reference, candidate)
            if back is not None:
                rows["gradients"].message = "; ".join(filter(None, (rows["gradients"].message, str(back))))
                found += [Finding(back.name, f"{back}: {back.says}")] if back.says else []
    return found


def _within(name: str, layer: str) -> bool:
    """Whether a place is a layer, a call of it or a part of it: block1_conv is of block1, block10 is not."""
    return name.startswith(layer) and name[len(layer) : len(layer) + 1] in ("", "_", "/", ".", "#")


@contextlib.contextmanager
def _told(notes):
    """Context in which an error is a note: a stranger's operation may fail in any way, and where they part was told."""
    try:
        yield
    except Exception as error:
        notes.append(f"Causes were not found out ({_line(error)}).")


def _line(error: Exception) -> str:
    """The kind of an error, and the first line of what it says."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def _places(partners: Partners, reference, candidate, notes) -> list[Finding]:
    """The operations at which two models part on the way to the outputs that both have."""
    ends = [graph.outputs for graph in partners.graphs]
    pairs = [(ends[0][name], ends[1][name]) for name in ends[0] if name in ends[1]]
    return explain(partners, (reference.adapter, candidate.adapter), pairs, notes)


def _trained(reference, candidate, notes) -> list[Finding]:
    """What differs in training mode alone: averages that move otherwise, and operations."""
    found = [Finding(layer, says) for layer, says in moving.explain(reference, candidate).items()]
    with reference.acting(), candidate.acting():
        partners = pair_values(reference, candidate, reference.batches[0], training=True)
        told = {finding.name for finding in found}
        return [f for f in _places(partners, reference, candidate, notes) if f.name not in told] + found


def _settings(differences) -> list[Finding]:
    """One finding for all layers that differ in one setting in one way."""
    groups = {}
    for layer, what, ours, theirs in differences:
        groups.setdefault((what, ours, theirs), []).append(layer)
    found = []
    for (what, ours, theirs), layers in groups.items():
        more = f" and {len(layers) - 4} more" if len(layers) > 4 else ""
        also = f" So in {len(layers)} layers: {', '.join(layers[:4])}{more}." if len(layers) > 1 else ""
        says = f"{what} is {ours} in the reference and {theirs} in the candidate.{also}"
        found.append(Finding(layers[0], says, layers=tuple(layers), setting=what))
    return found


def _told_once(found: list[Finding], places: list[Finding]) -> list[Finding]:
    """All findings, where a setting that differs has the place that it alone explains, and the cause healed."""
    kept, found = [], list(found)
    for finding in places:
        told = finding.cause.settings if finding.cause is not None else frozenset()
        layers = {n.layer for n in (finding.place.reference, finding.place.candidate) if n is not None}
        same = [n for n, f in enumerate(found) if f.setting in told and layers & set(f.layers)]
        if not told or {found[n].setting for n in same} != told:
            kept.append(finding)
            continue
        for n in same:
            if found[n].place is None:
                found[n] = replace(found[n], place=finding.place, cause=finding.cause)
    return found + kept


def _calls(reference, candidate) -> dict[str, str]:
    """Layers with weights that one side calls more often than the other, or never; those of one block in one line."""
    counts = []
    for side in (reference, candidate):
        called = Counter(name.partition("#")[0] for name in side.calls)
        counts.append({layer: called.get(layer, 0) for layer in side.adapter.kinds() if layer})
    alike = {}  # both sides' counts to layers
    for layer in dict.fromkeys([*counts[0], *counts[1]]):
        times = tuple(count.get(layer) for count in counts)
        if times[0] != times[1]:
            alike.setdefault(times, []).append(layer)
    found = _shared(alike)
    told = {layer for layers in found for layer in layers}
    lines = {layers[0]: says for layers, says in found.items()}
    for times, layers in alike.items():
        for layer in layers:
            if layer not in told:
                said = [_often(count) for count in times]
                lines[layer] = f"the reference {said[0]}, the candidate {said[1]}."
    return lines


def _often(times: int | None) -> str:
    if times is None:
        return "has no such layer"
    return "never calls it" if not times else f"calls it {times} times".replace(" 1 times", " once")


def _shared(alike: dict) -> dict[tuple[str, ...], str]:
    """Layers that one side uses again where the other has more: (their names, those they stand for) to words."""
    found = {}
    for role, fewer, more in (("candidate", (1, None), (1, 2)), ("reference", (None, 1), (2, 1))):
        missing, again = list(alike.get(fewer, ())), list(alike.get(more, ()))
        if not missing or len(missing) != len(again):
            continue
        names = [_common(group) for group in (missing, again)]
        count = f" ({len(missing)} layers with weights)" if len(missing) > 1 else ""
        found[(*missing, *again)] = f"the {role} has none: it calls {names[1]} twice in its place{count}."
    return found


def _common(names: list[str]) -> str:
    """How all names begin, as the name of what holds them all."""
    first, last = min(names), max(names)
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length].rstrip("_") or names[0]


def _shapes(reference, candidate) -> list[Finding]:
    """Weights of one name and another shape."""
    report = match(reference.adapter, candidate.adapter)
    return [Finding(name, f"its shape is {ours} in the reference and {theirs} in the candidate, in Keras's order.")
            for name, ours, theirs in report.wrong_shape]  # fmt: skip


def explain(partners: Partners, adapters, outputs: list[tuple[int, int]], notes: list[str]) -> list[Finding]:
    """All places at which two models part on the way to some outputs, each with its cause if one was found.

    What parts is healed by the reference's numbers in the candidate's place, all that follows is computed anew, and so
    the next place shows itself. A cause is told only if what it says of both sides gives both sides' numbers.

    Args:
        partners: equal values of the two graphs.
        adapters: of the reference and the candidate, in whose weights causes are looked for.
        outputs: numbers of an output on each side, which differ.
        notes: receives which causes could not be tried at a place that was left without one.
    """
    found, doubtful = [], set()
    for _ in range(MOST):
        place = locate(partners, outputs)
        if place is None or any(_again(place, f) for f in found):
            break
        if place.reference is None or place.candidate is None:
            found.append(_alone(partners, place, outputs))
            break
        scene = Scene.of(partners, place, adapters)
        families = FAMILIES
        if doubtful & set(place.candidate.inputs):
            families = [family for family in FAMILIES if family not in FUNCTIONS]
        failed = []
        cause = next(filter(None, (_tried(family, scene, failed) for family in families)), None)
        if cause is None and failed:
            notes.append(f"At {place.name} not every cause could be tried: {'; '.join(failed)}.")
        found.append(Finding(place.name, "" if cause is None else str(cause), place, cause))
        ends = (cause and cause.ends) or _ends(scene)
        if cause is None and not _ends_alike(scene, ends):
            doubtful.add(ends[1])
        healed = _healed(partners, ends, cause and cause.missing)
        if healed is None:
            break
        partners = healed
    return found


def _tried(family, scene: Scene, failed: list[str]) -> Cause | None:
    """What a family says; an error, for a stranger's layer may have any shape, is told and ends no search."""
    try:
        return family(scene)
    except Exception as error:
        failed.append(f"{family.__module__.rpartition('.')[2]} ({_line(error)})")
        return None


def _again(place: Place, finding: Finding) -> bool:
    """Whether a place was not healed when it was found: the same operations part, or one where nothing was known."""
    before = finding.place
    if place.candidate is None or place.candidate is not before.candidate:
        return False
    return finding.cause is None or place.reference is before.reference


def _ends(scene: Scene) -> tuple[int, int]:
    """What is healed where no cause was found: the last that both sides' layers make, or the first of each.

    Where one side's layer ends with a convolution or a sum, the other's activation behind its own is left out.
    """
    linear = [_linear(graph, numbers) for graph, numbers in zip(scene.graphs, scene.numbers, strict=True)]
    ends = list(scene.ends)
    for side in (0, 1):
        if linear[1 - side][-1:] == [scene.ends[1 - side]] and linear[side]:
            ends[side] = linear[side][-1]
    first = [numbers[0] for numbers in scene.numbers]
    sizes = [[graph.values[v].size for graph, v in zip(scene.graphs, tried, strict=True)] for tried in (ends, first)]
    return tuple(first if sizes[0][0] != sizes[0][1] and sizes[1][0] == sizes[1][1] else ends)


def _linear(graph: Graph, numbers: list[int]) -> list[int]:
    """Of some values, those that a convolution, a product of matrices or a sum made."""
    made = [(number, graph.producers.get(number)) for number in numbers]
    return [n for n, node in made if node is not None and any(word in node.title.lower() for word in LINEAR)]


def _ends_alike(scene: Scene, ends: tuple[int, int]) -> bool:
    """Whether the place is one layer, and healed behind no activation of one side alone, for all that can be seen."""
    if not scene.place.reference.layer or scene.place.reference.layer != scene.place.candidate.layer:
        return False
    return all(_linear(graph, [end]) for graph, end in zip(scene.graphs, ends, strict=True))


def _alone(partners: Partners, place: Place, outputs) -> Finding:
    """An operation of one side where the other does nothing: shown by an output that is what goes into it."""
    side = 1 if place.reference is None else 0
    node = place.candidate if side else place.reference
    roles = ("reference", "candidate")
    ends = {partners.of[1 - side].get(pair[1 - side], (None,))[0] for pair in outputs}
    graph = partners.graphs[side]
    if not ends & set(node.inputs):
        return Finding(place.name, "", place)
    made = [graph.values[v] for v in layer_values(graph, partners.of[side], node)]
    known = next(filter(None, (elementwise.named(graph.values[v], made) for v in node.inputs)), None)
    what = known[0] if known else f"{node.title}"
    says = f"the {roles[side]} applies {what} to what the {roles[1 - side]} returns as it is."
    return Finding(place.name, says, place)


def _healed(partners: Partners, ends: tuple[int, int], missing: int | None = None) -> Partners | None:
    """The graphs with the reference's numbers for a value of the candidate; None if they have no common shape.

    Args:
        ends: number of the reference's and of the candidate's value.
        missing: number of a value of the reference that the candidate is given too, though nothing there takes it.
    """
    theirs, ours = ends
    expected, was = partners.graphs[0].values[theirs], partners.graphs[1].values[ours]
    if expected.size != was.size:
        return None
    turned = _turned(expected, was, partners.graphs)
    graph = partners.graphs[1]
    known = {ours: turned}
    values = list(graph.values)
    values[ours] = turned
    try:
        for node in graph.nodes:
            if any(value in known for value in node.inputs) and ours not in node.outputs:
                made = node.run([known.get(value, graph.values[value]) for value in node.inputs])
                for number, array in zip(node.outputs, made, strict=True):
                    if number not in known:
                        known[number] = values[number] = array
    except Exception:  # a stranger's operation may fail in any way
        return None
    sources = graph.sources
    if missing is not None:
        sources = (*sources, len(values))
        values.append(partners.graphs[0].values[missing])
    changed = replace(graph, values=values, sources=sources, prints=dict(graph.prints))
    return Partners(partners.graphs[0], changed, partners.tolerance, partners)


def _turned(expected: np.ndarray, was: np.ndarray, graphs: tuple[Graph, Graph]) -> np.ndarray:
    """The reference's array in the candidate's axis order: the one that is nearest, or the frameworks' own."""
    frameworks = [graph.framework for graph in graphs]
    if frameworks[0] != frameworks[1] and expected.ndim == was.ndim >= 4:
        source, target = (1, -1) if frameworks[0] == "torch" else (-1, 1)
        moved = np.moveaxis(expected, source, target)
        if moved.shape == was.shape and moved.shape != expected.shape:
            return moved.astype(was.dtype)
    tried = [order(expected) for order in orders(expected.shape, was.shape)]
    return min(tried, key=lambda array: distance(array, was)).astype(was.dtype)
