"""Arrays by name, of which large ones lie in a temporary file until they are looked at."""

import math
import mmap
import tempfile
import warnings
import weakref
from collections.abc import Iterable, MutableMapping

import numpy as np

IN_MEMORY = 4 * 2**20  # bytes that a shelf keeps at hand
ALIGNED = 64  # bytes: where arrays begin in the file
AT_ONCE = 2**20  # numbers of an array that is not contiguous that are copied to be written


class Shelf(MutableMapping):
    """A dict of arrays; what comes after the first `IN_MEMORY` bytes is read from a file, anew each time.

    The file is in the folder of `tempfile`, which TMPDIR sets, and has no name there: however the process ends,
    nothing is left. Where that folder is full, arrays stay in memory, with a warning.

    Args:
        arrays: (name, array) to begin with; one after the other, so that never all need be in memory.
    """

    def __init__(self, arrays: Iterable[tuple[object, np.ndarray]] = ()):
        self._held, self._size = {}, 0
        self._file, self._end = None, 0
        self._map, self._mapped = None, 0
        for name, array in arrays:
            self[name] = array

    def __setitem__(self, name, array):
        array = np.asarray(array)
        self.pop(name, None)
        fits = not array.nbytes or array.dtype.hasobject or self._size + array.nbytes <= IN_MEMORY
        if fits or not self._written(array):
            self._held[name] = np.array(array)
            self._size += array.nbytes
        else:
            self._held[name] = (self._end, array.dtype, array.shape)
            self._end += -(-array.nbytes // ALIGNED) * ALIGNED

    def __getitem__(self, name):
        found = self._held[name]
        if isinstance(found, np.ndarray):
            return found
        place, dtype, shape = found
        array = np.empty(shape, dtype)
        self._file.seek(place)
        left = memoryview(array.reshape(-1).view(np.uint8))
        while left:  # one call reads 2 GB at most
            count = self._file.readinto(left)
            if not count:
                raise OSError(f"The temporary file of {self._end} bytes ends within {name!r}, as none should.")
            left = left[count:]
        return array

    def __delitem__(self, name):
        found = self._held.pop(name)
        self._size -= found.nbytes if isinstance(found, np.ndarray) else 0

    def __contains__(self, name):
        return name in self._held  # without a look at the array

    def __iter__(self):
        return iter(self._held)

    def __len__(self):
        return len(self._held)

    @property
    def in_memory(self) -> int:
        """Bytes of arrays that are held in memory."""
        return self._size

    def views(self) -> dict:
        """All arrays to be kept, read-only where they lie in the file: memory that the system takes back at need."""
        if self._mapped < self._end:
            self._map, self._mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), self._end
        return {name: self._view(*found) if isinstance(found, tuple) else found for name, found in self._held.items()}

    def _view(self, place, dtype, shape):
        return np.frombuffer(self._map, dtype, math.prod(shape), place).reshape(shape)

    def rest(self) -> None:
        """Gives back the memory that `views` took when they were looked at, until they are looked at again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _written(self, array: np.ndarray) -> bool:
        """Writes an array behind what is in the file; False where there is no room."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, it lives as long as the shelf
                weakref.finalize(self, self._file.close)
            self._file.seek(self._end)
            for part in _parts(array):
                left = memoryview(part.view(np.uint8))
                while left:
                    left = left[self._file.write(left) :]
        except OSError as error:
            warnings.warn(
                f"{array.nbytes / 2**20:.0f} MB could not be written to the temporary folder {tempfile.gettempdir()} "
                f"({error.strerror}), and stay in memory; set TMPDIR to a folder with room.",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        return True


def _parts(array: np.ndarray):
    """The numbers of an array in C order, as flat arrays of which none is a copy of the whole."""
    if array.flags.c_contiguous:
        yield array.reshape(-1)
    else:
        options = {"flags": ["external_loop", "buffered"], "order": "C", "buffersize": AT_ONCE}
        yield from (np.ascontiguousarray(part) for part in np.nditer(array, **options))
