"""What a comparison covered: operations, weights and parameters of each side, and the error along the depth."""

import contextlib
import math
from dataclasses import dataclass, field

from parity.adapters.base import Adapter
from parity.divergence import Place
from parity.errors import Row
from parity.graph import Node
from parity.trace import Trace, is_output
from parity.transfer import match, weights_of_both
from parity.values import distance

NOT_TOLD = ("name", "trainable", "dtype", "build_config", "registered_name", "module", "class_name")


@dataclass(frozen=True)
class Side:
    """One model, as a report names it.

    Attributes:
        name, framework, dtype: of the model as it was compared.
        layers, operations, tensors, parameters: how many it has; operations are 0 where none were recorded.
        paired: of its operations, how many made, or led to, something that the other side has too.
    """

    name: str
    framework: str
    dtype: str
    layers: int
    operations: int
    paired: int
    tensors: int
    parameters: int


@dataclass(frozen=True)
class Point:
    """One operation of the candidate, in order: its error, or None where nothing on the other side is known to face it.

    Attributes:
        name: what to call it.
        value: relative L2 distance from what the reference has there.
        allowed: of it.
        here: the place's name, where the two part here.
    """

    name: str
    value: float | None
    allowed: float
    here: str = ""


@dataclass(frozen=True)
class Scope:
    """What was compared of how much.

    Attributes:
        sides: of the reference and the candidate.
        matched: weights with a partner of their shape.
        share: of the parameters of both sides, those in matched weights, 0 to 1.
        names: (reference's own name, candidate's own name, shape) of matched weights.
        depth: the error along the depth, see `Point`.
        layers: for each side, name of a layer that a place names to how it was made.
    """

    sides: tuple[Side, Side]
    matched: int
    share: float
    names: list[tuple[str, str, tuple]] = field(default_factory=list)
    depth: list[Point] = field(default_factory=list)
    layers: tuple[dict, dict] = field(default_factory=lambda: ({}, {}))

    def __str__(self):
        if any(not side.layers for side in self.sides):
            return "Compared: outputs alone."
        parts = []
        for side in self.sides:
            seen = f"{side.paired} of {side.operations} operations, " if side.operations else ""
            parts.append(f"{side.name}: {seen}{self.matched} of {side.tensors} weights")
        told = "; ".join(parts)
        if any(side.parameters for side in self.sides):
            told += f"; {100 * self.share:.3g}% of the parameters"
        return f"Compared: {told}."


def survey(rows: list[Row], reference: Trace, candidate: Trace, causes) -> Scope:
    """What was compared of two models whose rungs are through.

    Args:
        rows: verdicts.
        reference, candidate: traces.
        causes: findings of `diagnosis`, whose places are marked.
    """
    adapters = reference.adapter, candidate.adapter
    partners = candidate.parted or candidate.partners
    weights = weights_of_both(*adapters)
    report = match(*adapters)
    wrong = {name for name, _, _ in report.wrong_shape}
    common = [name for name in weights[0] if name in weights[1] and name not in wrong]
    sides = []
    for number, (adapter, own) in enumerate(zip(adapters, weights, strict=True)):
        nodes = partners.graphs[number].nodes if partners else []
        paired = len(_covered(nodes, partners.of[number])) if partners else 0
        sizes = [math.prod(weight.array.shape) for weight in own.values()]
        sides.append(
            Side(
                adapter.name,
                adapter.framework,
                adapter.dtype,
                len(adapter.layers()),
                len(nodes),
                paired,
                len(own),
                sum(sizes),
            )
        )
    all_parameters = sum(side.parameters for side in sides)
    in_common = sum(math.prod(side[name].array.shape) for side in weights for name in common)
    places = [finding.place for finding in causes if finding.place is not None]
    return Scope(
        tuple(sides),
        len(common),
        in_common / all_parameters if all_parameters else 0.0,
        [(weights[0][n].native, weights[1][n].native, tuple(weights[0][n].array.shape)) for n in common],
        _depth(rows, partners, candidate, places),
        tuple(_made(adapter, [(p.reference, p.candidate)[n] for p in places]) for n, adapter in enumerate(adapters)),
    )


def _covered(nodes: list[Node], partners: dict) -> set[int]:
    """The operations that lead to a value that both sides have, by their ids."""
    wanted, found = set(partners), set()
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            wanted.update(node.inputs)
            found.add(id(node))
    return found


def _depth(rows: list[Row], partners, candidate: Trace, places: list[Place]) -> list[Point]:
    row = next((row for row in rows if row.check == "forward"), None)
    named = {} if row is None else {e[0]: e[1:3] for e in row.details.get("errors", ())}
    first = row.first_divergence if row is not None else None
    if partners is None:
        return [Point(name, value, allowed, name if name == first else "") for name, (value, allowed) in named.items()]
    if candidate.parted is not None:  # on other inputs, perhaps, whose errors have another name
        named |= {n.removesuffix(" (inputs scaled)"): e for n, e in named.items() if n.endswith(" (inputs scaled)")}
    graph, found = partners.graphs[1], []
    ends = {number: name for name, number in graph.outputs.items()}
    last = {node.layer: place for place, node in enumerate(graph.nodes) if node.layer}
    here = {id(place.candidate): place.name for place in places if place.candidate is not None}
    allowed, covered = partners.tolerance, _covered(graph.nodes, partners.of[1])
    for place, node in enumerate(graph.nodes):
        name = next((ends[v] for v in node.outputs if v in ends), node.layer if last.get(node.layer) == place else "")
        marked = here.get(id(node), "")
        value = next((v for v in node.outputs if v in partners.of[1]), None)
        if value is not None:
            other, order = partners.of[1][value]
            apart = distance(order(graph.values[value]), partners.graphs[0].values[other])
            found.append(Point(name or node.name, apart, allowed, marked))
        elif name in named and (is_output(name) or name not in candidate.cut):
            found.append(Point(name, *named[name], marked))
        elif marked or id(node) not in covered:  # else it is a part of what the other side does in one
            found.append(Point(name or node.name, None, allowed, marked))
    return found


def _made(adapter: Adapter, nodes: list[Node | None]) -> dict[str, str]:
    """Name of a layer to how it was made, of those at some places."""
    layers, found = adapter.layers(), {}
    for name in {node.layer for node in nodes if node is not None and node.layer}:
        if name in layers:
            with contextlib.suppress(Exception):  # a stranger's layer may have a config that can't be told
                found[name] = words(layers[name], adapter.framework)
    return found


def words(layer, framework: str) -> str:
    """How a layer was made, in its framework's words."""
    if hasattr(layer, "made"):  # of a recording
        return layer.made
    if framework != "keras":
        text = repr(layer)
        return text if text.count("\n") < 12 else text.partition("\n")[0] + " ...)"
    config = {k: v for k, v in layer.get_config().items() if k not in NOT_TOLD and v is not None}
    plain = {k: v for k, v in config.items() if isinstance(v, bool | int | float | str | tuple | list)}
    return f"{type(layer).__name__}({', '.join(f'{k}={v!r}' for k, v in plain.items())})"
