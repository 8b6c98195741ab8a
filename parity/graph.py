"""What a model did with one batch, operation by operation: a graph of values that can be looked up and run again."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from parity.shelf import Shelf


class Unanswered(Exception):
    """A question that was not asked while a model was recorded, or that a file can't be asked at all."""


@dataclass
class Node:
    """One operation: a function, or a layer that can't be looked into.

    Attributes:
        layer: canonical name of the layer that it is, or of the innermost one in which it happened; "" for none.
        title: the name of its function or class.
        source: file, line and text of the line that called it, where that is known.
        inputs, outputs: numbers of values, see `Graph.values`. Constants and weights are not among the inputs.
        run: from arrays for all inputs, in the framework's own layout, to arrays of the outputs.
        moves: of a recorded operation, what `moves_only` said while it could be run.
    """

    layer: str
    title: str
    source: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    run: Callable[[list[np.ndarray]], list[np.ndarray]] = field(repr=False)
    moves: bool | None = None

    def __str__(self):
        name = f"{self.layer} ({self.title})" if self.layer else self.title
        return f"{name}  {self.source}".rstrip()

    @property
    def name(self) -> str:
        """What to call it in a word: its layer's name, or else that of its function."""
        return self.layer or self.title


@dataclass
class Graph:
    """All operations of one pass, in the order in which they were done.

    Attributes:
        framework: "torch" or "keras".
        nodes: the operations that depend on the model's inputs.
        values: arrays in the framework's own layout; an operation's inputs and outputs are numbers of them.
        sources: numbers of the model's inputs.
        outputs: name of an output to its number.
    """

    framework: str
    nodes: list[Node] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    sources: tuple[int, ...] = ()
    outputs: dict[str, int] = field(default_factory=dict)
    # Number of a value to (that array, its fingerprint): one graph is compared with many.
    prints: dict[int, tuple] = field(default_factory=dict, repr=False, compare=False)
    shelf: Shelf | None = field(default=None, repr=False, compare=False)  # where the values lie, if they are recorded

    def keep(self, shelf: Shelf) -> None:
        """Has the arrays on a shelf, by number, for values."""
        self.values, self.shelf = list(shelf.views().values()), shelf

    def rest(self) -> None:
        """Gives back the memory of values that were looked at, see `Shelf.rest`."""
        if self.shelf is not None:
            self.shelf.rest()

    @cached_property
    def producers(self) -> dict[int, Node]:
        """Number of a value to the operation that made it; the first, for some hand on what they are given."""
        found = {}
        for node in self.nodes:
            for value in node.outputs:
                if value not in node.inputs:
                    found.setdefault(value, node)
        return found

    def within(self, start: Iterable[int], target: int) -> list[Node] | None:
        """The operations between some values and another, in order; None if the target needs more than those values."""
        start = set(start)
        found, pending, seen = [], [target], set()
        while pending:
            value = pending.pop()
            if value in start or value in seen:
                continue
            seen.add(value)
            node = self.producers.get(value)
            if node is None:
                return None
            found.append(node)
            pending += node.inputs
        return self.in_order(found)

    def in_order(self, nodes: Iterable[Node]) -> list[Node]:
        """Operations, each once, in the order in which they were done."""
        wanted = {id(node) for node in nodes}
        return [node for node in self.nodes if id(node) in wanted]

    def rerun(self, start: dict[int, np.ndarray], target: int) -> np.ndarray | None:
        """The target computed anew from other arrays for some values; None if it needs more than those."""
        nodes = self.within(start, target)
        if nodes is None:
            return None
        known = dict(start)
        for node in nodes:
            known |= dict(zip(node.outputs, node.run([known[value] for value in node.inputs]), strict=True))
        return known[target]


def moves_only(graph: Graph, node: Node) -> bool:
    """Whether an operation only moves numbers (padding, reshaping, cutting), wherever they lie.

    It brings in one new number at most, and of negated inputs it makes negated outputs, but for that number; also of
    numbers of both signs, for of few that are negative a ReLU makes zeros.
    """
    if node.moves is not None:
        return node.moves
    given, made = ([graph.values[v] for v in numbers] for numbers in (node.inputs, node.outputs))
    if not given or any(array.dtype.kind != "f" for array in (*given, *made)):
        return False
    if sum(a.size for a in made) > sum(a.size for a in given) and not _padded(given, made):
        return False  # numbers are repeated, as by a resizing
    if not _moved(given, made, node):
        return False
    signed = [_of_both_signs(array, place) for place, array in enumerate(given)]
    return _moved(signed, None, node)


def _moved(given, made, node: Node) -> bool:
    """Whether an operation moved these numbers; `made` is None where it is still to be run on them."""
    try:
        made = node.run(given) if made is None else made
        again = node.run([-array for array in given])
    except Exception:  # an operation that refuses some numbers looks at them
        return False
    new = np.setdiff1d(np.concatenate([a.ravel() for a in made]), np.concatenate([a.ravel() for a in given]))
    if new.size > 1 or any(a.shape != b.shape for a, b in zip(made, again, strict=True)):
        return False
    return np.unique(np.concatenate([a[a != -b] for a, b in zip(made, again, strict=True)])).size <= 1


def _of_both_signs(array: np.ndarray, seed: int) -> np.ndarray:
    """Different numbers of the shape and type of an array, each beside one of the other sign."""
    numbers = np.arange(1, array.size + 1) * np.resize((1, -1), array.size) * (seed + 1.0) / (array.size + 1)
    return np.random.default_rng(seed).permutation(numbers).reshape(array.shape).astype(array.dtype)


def _padded(given, made) -> bool:
    """Whether there are more numbers because of one that fills: zeros around an image."""
    numbers, counts = np.unique(np.concatenate([a.ravel() for a in made]), return_counts=True)
    before = np.concatenate([a.ravel() for a in given])
    grown = [n for n, count in zip(numbers, counts, strict=True) if count > 1 and count > np.count_nonzero(before == n)]
    return len(grown) <= 1
