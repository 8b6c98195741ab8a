"""What is kept of a tensor where memory is short: 256 signed sums of its numbers, whose distances are the tensor's own.

Every number is added to one of the sums, or subtracted, as a hash of its place says (a count sketch): then the distance
of two sketches, relative to their size, is that of the two tensors, give or take a tenth.
"""

from collections import ChainMap
from dataclasses import dataclass

import numpy as np

SUMS = 256


@dataclass(frozen=True, eq=False)
class Sketch:
    """The sketch of a tensor: its shape, its type, and the sums, of the size of its own numbers."""

    shape: tuple[int, ...]
    dtype: np.dtype
    sums: np.ndarray

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def sketch(array: np.ndarray) -> Sketch:
    """The sketch of an array; equal arrays have equal ones, on every machine."""
    array = np.asarray(array)
    x = array.astype(np.float64, copy=False).ravel()
    places = _mixed(np.arange(x.size, dtype=np.uint32))
    signs = np.where(places >> np.uint32(31), -1.0, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.bincount((places & np.uint32(SUMS - 1)).astype(np.intp), signs * x, SUMS)
    return Sketch(array.shape, array.dtype, sums * (SUMS / max(x.size, SUMS)) ** 0.5)


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of MurmurHash3: every bit depends on every other."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def comparable(*groups):
    """Arrays by name as they can be compared: where one of a name is a sketch, all are.

    Args:
        groups: dicts of arrays and sketches by name; None stays None.

    Returns:
        As many dicts of arrays. Tensors of different shape become arrays of different shape.
    """
    mixed = [
        group for group in groups if isinstance(group, dict | ChainMap)
    ]  # where arrays lie in a file are no others
    names = {name for group in mixed for name, array in group.items() if isinstance(array, Sketch)}
    if not names:
        return groups
    found = []
    for group in groups:
        if group is None:
            found.append(None)
            continue
        made = {}
        for name in names & group.keys():
            array = group[name]
            own = array if isinstance(array, Sketch) else sketch(array)
            same = all(other[name].shape == own.shape for other in groups if other and name in other)
            made[name] = own.sums if same else np.zeros(own.shape)
        found.append(ChainMap(made, group))
    return tuple(found)
