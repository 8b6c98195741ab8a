"""Which values of two models are the same: equal numbers, in whatever axis order each framework holds them."""

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from parity.errors import AT_ONCE
from parity.graph import Graph

ENORMOUS = 1e6


def orders(shape: tuple[int, ...], wanted: tuple[int, ...]):
    """Lawful ways to turn an array of one shape into another, as functions, likely ones first.

    Reshaping (axes of size one, heads folded or apart) and moving one axis to another place (channels first or last,
    heads, time) are lawful. That two neighbouring axes of one size change places, rows for columns, is not.
    """
    yield lambda x: x.reshape(wanted)
    slim = tuple(n for n in shape if n != 1)
    for source, target in itertools.permutations(range(len(slim)), 2):
        if abs(source - target) == 1 and (source > target or slim[source] == slim[target]):
            continue  # the same as the exchange the other way round; or rows for columns
        if slim[source] == slim[target] == 1:
            continue
        yield lambda x, source=source, target=target: np.moveaxis(x.reshape(slim), source, target).reshape(wanted)
    fat = tuple(n for n in wanted if n != 1)
    if len(fat) > len(slim):  # heads apart there and folded here
        for source, target in itertools.permutations(range(len(fat)), 2):
            if abs(source - target) == 1 and (source > target or fat[source] == fat[target]):
                continue
            moved = tuple(np.moveaxis(np.empty(fat, np.uint8), source, target).shape)
            yield lambda x, s=source, t=target, m=moved: np.moveaxis(x.reshape(m), t, s).reshape(wanted)


def alike(array: np.ndarray, other: np.ndarray, tolerance: float):
    """The lawful order in which `array` is `other` up to a tolerance (relative L2), as a function; None if none is."""
    if array.size != other.size:
        return None
    target = other.astype(np.float64, copy=False)
    scale = float(np.linalg.norm(np.nan_to_num(target.ravel())))
    few = np.linspace(0, target.size - 1, min(target.size, 64)).astype(int)
    some = target.ravel()[few]
    for order in orders(array.shape, other.shape):
        moved = order(array)
        near = np.abs(moved.ravel()[few] - some)  # a look before all is compared
        if not np.nanmax(near, initial=0.0) <= max(100 * tolerance * np.nanmax(np.abs(some), initial=0.0),
                                                   tolerance * scale):  # fmt: skip
            continue
        if distance(moved, target) <= tolerance:
            return order
    return None


def distance(array: np.ndarray, other: np.ndarray) -> float:
    """Relative L2 of two arrays of one shape; equal infinities and NaNs are equal."""
    a, b = array.astype(np.float64, copy=False).ravel(), other.astype(np.float64, copy=False).ravel()
    with np.errstate(invalid="ignore", over="ignore"):
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            a, b = a[~same], b[~same]
        a, b = _without_enormous(a, b)
        apart, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    return 0.0 if apart == 0 else apart / norm if norm else float("inf")


def _without_enormous(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays without what both have enormous: beside the -1e9 of hidden scores nothing else would count."""
    sizes = np.abs(b)
    if not sizes.size or sizes.max() < ENORMOUS:
        return a, b
    typical = float(np.median(sizes[sizes < ENORMOUS])) if (sizes < ENORMOUS).any() else float("inf")
    enormous = (sizes >= ENORMOUS) & (sizes >= ENORMOUS * typical) & (np.abs(a - b) <= 1e-6 * sizes)
    return a[~enormous], b[~enormous]


class Partners:
    """The values of two graphs that are equal.

    Attributes:
        of: by side (0 and 1), number of a value to (number on the other side, order to bring this one into that one's
            shape).

    Args:
        before: those of the same first graph and of a second of which some values were others: what is still there has
            the partners that it had.
    """

    def __init__(self, first: Graph, second: Graph, tolerance: float, before: "Partners | None" = None):
        self.graphs = (first, second)
        self.tolerance = tolerance
        old = before.graphs[1].values if before is not None else ()
        known = {number for number, (a, b) in enumerate(zip(second.values, old, strict=False)) if a is b}
        # (number, number on the other side) of what looks equal to the order in which it is, None if it is not.
        self._looked = {} if before is None else {pair: o for pair, o in before._looked.items() if pair[1] in known}
        self.of: tuple[dict, dict] = ({}, {})
        by_size = defaultdict(list)
        prints = _prints(second)
        for number, value in enumerate(second.values):
            by_size[value.size].append(number)
        for number, (value, mine) in enumerate(zip(first.values, _prints(first), strict=True)):
            for other in by_size[value.size]:
                if not near(mine, prints[other], tolerance):
                    continue
                if (number, other) not in self._looked:
                    self._looked[number, other] = alike(value, second.values[other], tolerance)
                order = self._looked[number, other]
                if order is not None:
                    self.of[0].setdefault(number, (other, order))
                    if other not in self.of[1]:
                        self.of[1][other] = (number, _inverse(order, value.shape))

    def has(self, side: int, array: np.ndarray, apart: float = float("inf")) -> bool:
        """Whether a side has a value that is equal to an array, and not by chance, as zeros are.

        Args:
            apart: how far the value is from the array that is known of; equal ones are far nearer.
        """
        tolerance = min(self.tolerance, apart / 4)
        if not hasattr(self, "_prints"):
            self._prints = [
                [(v.size, p) for v, p in zip(graph.values, _prints(graph), strict=True)] for graph in self.graphs
            ]
        mine = fingerprint(array)
        return varies(array) and any(
            size == array.size
            and near(mine, other, tolerance)
            and alike(array, self.graphs[side].values[number], tolerance) is not None
            for number, (size, other) in enumerate(self._prints[side])
        )


def _inverse(order, shape: tuple[int, ...]):
    """The function that undoes an order of arrays of some shape."""

    def back(array):
        places = order(np.arange(array.size).reshape(shape)).ravel()
        found = np.empty(array.size, array.dtype)
        found[places] = array.ravel()
        return found.reshape(shape)

    return back


def rearrangement(array: np.ndarray, other: np.ndarray, tolerance: float = 0.0) -> tuple[str, Callable] | None:
    """In what other order one array holds the numbers of another, in float32 or near to it.

    Args:
        array, other: both in Keras's layout.
        tolerance: relative to the largest number.

    Returns:
        (the order in words, function from an array that lies as `other` does to the same, flat, in `array`'s order).
        None where they do not hold the same numbers, or so many equal ones, in an order without a name, that it can't
        be told.
    """
    if array.size != other.size or array.size < 2:
        return None
    near = float(np.float32(np.maximum(np.abs(array.max()), np.abs(array.min())))) * tolerance
    few = np.linspace(0, array.size - 1, min(array.size, 256)).astype(int)
    some = np.float32(other[np.unravel_index(few, other.shape)])
    for words, view in _named_orders(array):
        if (np.abs(np.float32(view[np.unravel_index(few, view.shape)]) - some) <= near).all() and _near_throughout(
            view, other, near
        ):
            return words, functools.partial(_put_back, words, array.shape)
    ours, theirs = (np.sort(np.float32(a), axis=None) for a in (array, other))
    if not _near_throughout(ours, theirs, near) or 1 + np.count_nonzero(ours[1:] != ours[:-1]) < 0.9 * ours.size:
        return None
    del ours, theirs
    short = np.int32 if array.size < 2**31 else np.int64
    places, order = (np.argsort(np.float32(a), axis=None, kind="stable").astype(short) for a in (other, array))
    indices = np.empty_like(places)
    indices[order] = places
    return "in an order that has no name", functools.partial(_taken, indices)


def _near_throughout(view, other: np.ndarray, near: float) -> bool:
    """Whether no number of two arrays, in C order and float32, is further from the other's than this."""
    view = view[...]
    options = {"flags": ["external_loop", "buffered"], "order": "C", "casting": "unsafe", "buffersize": AT_ONCE}
    parts = np.nditer([view, other.reshape(view.shape)], op_dtypes=[np.float32] * 2, **options)
    return all(bool((np.abs(a - b) <= near).all()) for a, b in parts)


def _put_back(words: str, shape: tuple[int, ...], array: np.ndarray) -> np.ndarray:
    """An array, flat, that in the order of this name is the given one."""
    found = np.empty(shape, array.dtype)
    view = next(view for name, view in _named_orders(found) if name == words)
    view[...] = array.reshape(view.shape)
    return found.ravel()


def _taken(indices: np.ndarray, array: np.ndarray) -> np.ndarray:
    flat, found = array.ravel(), np.empty(array.size, array.dtype)
    for start in range(0, flat.size, AT_ONCE):  # NumPy makes wider copies of indices
        found[start : start + AT_ONCE] = flat[indices[start : start + AT_ONCE]]
    return found


class _Gates:
    """An array with the parts of its last axis in another order, to be read and written like a view."""

    def __init__(self, array: np.ndarray, order: tuple[int, ...]):
        self.array, self.shape = array, array.shape
        parts = np.split(np.arange(self.shape[-1]), len(order))
        self.places = np.concatenate([parts[place] for place in order])

    def __getitem__(self, index):
        return self.array[..., self.places] if index is ... else self.array[(*index[:-1], self.places[index[-1]])]

    def __setitem__(self, index, array):
        self.array[..., self.places] = array


def _named_orders(array: np.ndarray) -> Iterator[tuple[str, np.ndarray | _Gates]]:
    """(words, view) of the orders in which ports hold an array by mistake, or for a reason."""
    slim = array.reshape(tuple(n for n in array.shape if n != 1))
    shape = slim.shape
    for first, second in itertools.combinations(range(slim.ndim), 2):
        words = f"axes {first} and {second} of {shape} are exchanged"
        if slim.ndim == 4 and (first, second) == (0, 1):
            words = "rows and columns of the kernel are exchanged"
        elif slim.ndim == 2:
            words = "it is transposed"
        yield words, np.swapaxes(slim, first, second)
    for axis in range(slim.ndim):
        yield f"axis {axis} of {shape} is reversed", np.flip(slim, axis)
    if slim.ndim >= 3:
        yield "rows and columns of the kernel are reversed", slim[::-1, ::-1]
    if slim.ndim == 4:
        turned = slim.reshape(shape[3], shape[2], shape[0], shape[1])
        yield "it was reshaped where its axes were to be exchanged", np.moveaxis(turned, (0, 1), (-1, -2))
        yield "its axes stand as torch has them", np.moveaxis(slim, (-1, -2), (0, 1))
    for parts in (3, 4):
        if shape and shape[-1] % parts == 0 and shape[-1] > parts:
            for order in itertools.permutations(range(parts)):
                if order != tuple(range(parts)):
                    words = f"the {parts} parts of its last axis, as of gates, stand in the order {order}"
                    yield words, _Gates(slim, order)
    for channels in range(2, shape[0] if shape else 0):
        if shape[0] % channels == 0:
            folds = (channels, shape[0] // channels)
            yield (
                f"its rows are in another order of a flatten, {folds} against {folds[::-1]}",
                np.swapaxes(slim.reshape(*folds, -1), 0, 1),
            )


def varies(array: np.ndarray) -> bool:
    """Whether there are different numbers in an array."""
    return array.size > 1 and bool((array != array.flat[0]).any())


def fingerprint(value: np.ndarray) -> tuple[float, float, float]:
    """Sums that no order of the numbers changes: of absolute values, of squares, of the numbers."""
    x = np.nan_to_num(value.astype(np.float64, copy=False), posinf=0.0, neginf=0.0).ravel()
    return float(np.abs(x).sum()), float(x @ x), float(x.sum())


def _prints(graph: Graph) -> list[tuple]:
    """The fingerprints of a graph's values, each computed once."""
    for number, value in enumerate(graph.values):
        if number not in graph.prints or graph.prints[number][0] is not value:
            graph.prints[number] = value, fingerprint(value)
    return [graph.prints[number][1] for number in range(len(graph.values))]


def near(a, b, tolerance: float) -> bool:
    """Whether two fingerprints may be of equal values."""
    slack = 4 * tolerance + 1e-12
    return (
        abs(a[0] - b[0]) <= slack * max(a[0], b[0]) * 30
        and abs(a[1] - b[1]) <= slack * max(a[1], b[1]) * 30
        and abs(a[2] - b[2]) <= slack * max(a[0], b[0]) * 30
    )
