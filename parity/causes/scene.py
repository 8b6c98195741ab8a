"""A place at which two models part, as causes look at it: what goes in, what comes out, the layer's weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from parity.divergence import Place, layer_values
from parity.graph import Graph, Node, moves_only
from parity.values import Partners, distance

# Relative distance at which a function is taken for what a side computes: rounding, and float32 constants of GELU.
EXACT = 3e-7
SEQUENCES = ", sequences"  # behind a framework's name: a layer over one axis, as torch's "conv1d" is


@dataclass(frozen=True)
class Cause:
    """What a side does otherwise, and what would mend it.

    Attributes:
        says: in a sentence.
        before, after: relative L2 distance of the two sides without and with the cure.
        keras, torch: code that computes what the reference does; "" where nothing short says it.
        ends: numbers of the reference's and the candidate's value that are equal with the cure; None for those of the
            place.
        missing: number of a value of the reference that the candidate has nothing like, if the cure brings it.
        settings: what a layer says of itself that tells all of this, should both sides say it.
    """

    says: str
    before: float
    after: float
    keras: str = ""
    torch: str = ""
    ends: tuple[int, int] | None = None
    missing: int | None = None
    settings: frozenset[str] = frozenset()

    def __str__(self):
        both = (("Keras", self.keras), ("PyTorch", self.torch))
        mend = [f"In {name}: {code}." for name, code in both if code]
        before = f"were apart by {self.before:.1e}" if self.before < float("inf") else "were of another shape"
        healed = f"With it the outputs agree to {self.after:.0e} ({before})."
        return " ".join([self.says, healed, *mend])


@dataclass(frozen=True)
class Scene:
    """What is known at a place, in Keras's axis order as far as that can be told.

    Attributes:
        place: where.
        graphs: of the reference and the candidate.
        given: for each side, arrays that go into the place.
        made: for each side, arrays that its layer makes there, in order: what it is made of, too.
        numbers: for each side, the numbers of these values in its graph.
        weights: for each side, canonical variable of the layer to array.
        kind: of the layer; "" if it is a bare function.
        partners: the equal values.
        layouts: for each side, what `canonical` takes for its framework: "" where its axes are left as they are.
    """

    place: Place
    graphs: tuple[Graph, Graph]
    given: tuple[list[np.ndarray], list[np.ndarray]]
    made: tuple[list[np.ndarray], list[np.ndarray]]
    numbers: tuple[list[int], list[int]]
    weights: tuple[dict, dict]
    kind: str
    partners: Partners = field(repr=False)
    layouts: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, partners: Partners, place: Place, adapters) -> Scene:
        """Looks around a place."""
        given, made, numbers, weights, layouts = [], [], [], [], []
        sequences = _sequences(partners, (place.reference, place.candidate))
        kinds = adapters[1].kinds() | adapters[0].kinds()
        layer = next((n.layer for n in (place.candidate, place.reference) if n.layer in kinds), "")
        kind = kinds.get(layer, "")
        for side, node in enumerate((place.reference, place.candidate)):
            graph = partners.graphs[side]
            values = layer_values(graph, partners.of[side], node)
            if layer and node.layer != layer:  # something stands before the layer on this side only
                behind = _behind(graph, values)
                first = next((n for n in graph.nodes if n.layer == layer and behind & set(n.inputs)), None)
                values = values + layer_values(graph, partners.of[side], first) if first is not None else values
            sources = [*node.inputs, *_sources(graph, partners.of[side], node)]
            order = "" if _as_given(partners, side, sources) else graph.framework
            order = f"{order}{SEQUENCES}" if order and sequences else order
            layouts.append(order)
            made.append([canonical(order, graph.values[v]) for v in values])
            given.append([canonical(order, graph.values[v]) for v in dict.fromkeys(sources)])
            numbers.append(values)
            held = adapters[side].weights()
            own = {n.rpartition("/")[2]: w.array for n, w in held.items() if layer and n.startswith(f"{layer}/")}
            weights.append(own)
        sides = map(tuple, (given, made, numbers, weights))
        return cls(place, partners.graphs, *sides, kind, partners, tuple(layouts))

    @property
    def last(self) -> tuple[int, int]:
        """For each side, the place of the last array that its layer makes; of a bare function, of the first."""
        nodes = self.place.reference, self.place.candidate
        return tuple(len(made) - 1 if node.layer else 0 for node, made in zip(nodes, self.made, strict=True))

    @property
    def outputs(self) -> tuple[np.ndarray, np.ndarray]:
        """For each side, that array."""
        return tuple(made[place] for made, place in zip(self.made, self.last, strict=True))

    @property
    def ends(self) -> tuple[int, int]:
        """For each side, its number."""
        return tuple(values[place] for values, place in zip(self.numbers, self.last, strict=True))

    @property
    def before(self) -> float:
        """How far the two sides' last arrays are apart."""
        return self.apart(*self.last)

    def apart(self, first: int, second: int) -> float:
        """How far two arrays are apart that the sides make, by their places among them."""
        a, b = self.made[0][first], self.made[1][second]
        if a.shape == b.shape:
            return distance(b, a)
        return float("inf") if self.place.outputs is None else self.place.outputs

    def cured(
        self, says: str, after: float, places: tuple[int, int], keras: str = "", torch: str = "", **more
    ) -> Cause:
        """A cause that makes two arrays equal, by their places among those that the sides make."""
        ends = tuple(numbers[place] for numbers, place in zip(self.numbers, places, strict=True))
        return Cause(says, self.apart(*places), after, keras, torch, ends, **more)


def _as_given(partners: Partners, side: int, values) -> bool:
    """Whether four axes lie in both frameworks alike, as those of attention do, and are no image's."""
    if partners.graphs[0].framework == partners.graphs[1].framework:
        return False
    for value in values:
        array = partners.graphs[side].values[value]
        if array.ndim in (4, 5) and value in partners.of[side]:
            other = partners.graphs[1 - side].values[partners.of[side][value][0]]
            if other.shape == array.shape and distance(array, other) <= EXACT:
                return True
    return False


def _sequences(partners: Partners, nodes) -> bool:
    """Whether a place is about sequences, whose channels torch has before their steps."""
    if any(node.title.endswith("1d") for node in nodes):
        return True
    for side, node in enumerate(nodes):
        graph, others = partners.graphs[side], partners.of[side]
        sources = [*node.inputs, *_sources(graph, others, node)] if graph.framework == "torch" else ()
        for value in sources:
            array = graph.values[value]
            other = partners.graphs[1 - side].values[others[value][0]] if value in others else None
            if array.ndim != 3 or other is None or other.size != array.size:
                continue
            other, moved = other.reshape(-1), np.moveaxis(array, 1, -1).reshape(-1)
            if distance(moved, other) <= EXACT < distance(array.reshape(-1), other):
                return partners.graphs[1 - side].framework != "torch"
    return False


def _sources(graph: Graph, partners: dict, node: Node) -> list[int]:
    """The equal values that reach an operation by way of others, which part or are its layer's own and move numbers."""
    found, pending = [], [v for v in node.inputs if v not in partners or _moved_inside(graph, node, v)]
    while pending:
        made = graph.producers.get(pending.pop())
        for value in made.inputs if made is not None else ():
            (found if value in partners else pending).append(value)
    return found


def _moved_inside(graph: Graph, node: Node, value: int) -> bool:
    """Whether a layer itself moved the numbers that its operation takes, as Keras's softmax of another axis does."""
    made = graph.producers.get(value)
    return made is not None and bool(node.layer) and made.layer == node.layer and moves_only(graph, made)


def _behind(graph: Graph, values) -> set[int]:
    """All that follows from some values."""
    found = set(values)
    for node in graph.nodes:
        if found & set(node.inputs):
            found.update(node.outputs)
    return found


def canonical(framework: str, array: np.ndarray) -> np.ndarray:
    """An array in Keras's axis order: images of torch with the channels last.

    With `SEQUENCES` behind the framework, sequences of torch too, and those of Keras without the axis of one that
    TensorFlow computes them with.
    """
    if framework == f"keras{SEQUENCES}" and array.ndim == 4 and array.shape[1] == 1:
        return array[:, 0]
    axes = (3,) if framework == f"torch{SEQUENCES}" else (4, 5) if framework == "torch" else ()
    return np.moveaxis(array, 1, -1) if array.ndim in axes else array


def fits(array: np.ndarray | None, targets: list[np.ndarray]) -> bool:
    """Whether an array is one of some others, up to rounding."""
    if array is None or not np.isfinite(array).all():
        return False
    return any(t.shape == array.shape and t.dtype.kind == "f" and distance(array, t) <= EXACT for t in targets)


def which(array: np.ndarray | None, targets: list[np.ndarray]) -> int | None:
    """The place of the last of some arrays that an array is, up to rounding; None if it is none."""
    return next((n for n in reversed(range(len(targets))) if fits(array, [targets[n]])), None)


def nearest(array: np.ndarray, targets: list[np.ndarray]) -> float:
    """The least distance of an array from some others of its shape."""
    return min((distance(array, t) for t in targets if t.shape == array.shape), default=float("inf"))
