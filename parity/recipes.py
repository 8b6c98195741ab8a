"""What a preprocessing pipeline does to a file, told by trying what people do on it: see `preprocessing`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.pictures import PILLOW, STORED, UPRIGHT, decoded, decoders, orientation, upright
from parity.resampling import FILTERS, GEOMETRIES, Filter, Geometry, resized

ROWS = 28  # and columns of a picture that are looked at
LOOKED_AT = 3  # files by which pipelines are told; all are compared
KNOWN = 0.7  # grey levels (root mean square) at which a recipe is taken for what a pipeline does: rounding, twice


@dataclass(frozen=True)
class Recipe:
    """What a pipeline was seen to do to a file.

    Attributes:
        decoder: name, see `pictures.decoders`.
        turned: `STORED` or `UPRIGHT`.
        geometry, filter: see `resampling`.
        order: of channels in the file's (0, 1, 2); (2, 1, 0) is BGR.
        scale, offset: by channel of the pipeline: its number is scale * (grey level) + offset.
        residual: root mean square of what it does not explain, in grey levels.
    """

    decoder: str
    turned: str
    geometry: Geometry
    filter: Filter
    order: tuple[int, ...] = (0, 1, 2)
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    residual: float = float("inf")

    def pixels(self, path, size) -> np.ndarray | None:
        """Grey levels (rows, columns, 3) on the `grid` of a picture, before channels are ordered and scaled."""
        source = decoded(str(path), self.decoder)
        if self.turned == UPRIGHT:
            source = upright(source, orientation(str(path)))
        return resized(source, self.geometry, self.filter, size, grid(size))


def grid(size) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns by which pipelines are told, from edge to edge."""
    return tuple(np.unique(np.linspace(0, n - 1, ROWS).round().astype(int)) for n in size)


def sampled(array: np.ndarray) -> np.ndarray:
    rows, columns = grid(array.shape[:2])
    return array[np.ix_(rows, columns)]


def recipe_of(paths, arrays) -> Recipe | None:
    """The steps that give a pipeline's numbers best: where to crop first, then the filter, the decoder."""
    if any(array.shape[-1] != 3 for array in arrays):
        return None
    chosen = sorted({*range(len(paths))[: LOOKED_AT - 2], *range(len(paths))[-2:]})  # the last may be probes
    pairs = [(paths[n], arrays[n]) for n in chosen]
    turns = (STORED, UPRIGHT) if any(orientation(str(path)) != 1 for path, _ in pairs) else (STORED,)
    first = [Recipe(PILLOW, turn, geometry, FILTERS[0]) for turn, geometry in itertools.product(turns, GEOMETRIES)]
    found = _best(first, pairs)
    if found is None:
        return None
    for _ in range(2):
        found = _best([replace(found, filter=filter) for filter in FILTERS], pairs)
        if len(decoders()) > 1:
            found = _best([replace(found, decoder=name) for name in decoders()], pairs)
        if found.residual <= KNOWN:
            break
        found = _best([replace(found, geometry=geometry) for geometry in GEOMETRIES], pairs)
    return found


def _best(recipes: Sequence[Recipe], pairs) -> Recipe | None:
    fitted = [fit for recipe in recipes if (fit := _fitted(recipe, pairs)) is not None]
    # The first of equals: what is usual stands first.
    return min(fitted, key=lambda recipe: round(recipe.residual, 3)) if fitted else None


def _fitted(recipe: Recipe, pairs) -> Recipe | None:
    """A recipe with the order of channels and the scale that explain the numbers best."""
    made = [recipe.pixels(path, array.shape[:2]) for path, array in pairs]
    if any(one is None for one in made):
        return None
    x = np.concatenate([one.reshape(-1, 3) for one in made]).astype(np.float64)
    y = np.concatenate([sampled(array).reshape(-1, 3) for _, array in pairs])
    fits = {}
    for place, source in itertools.product(range(3), range(3)):
        xs, ys = x[:, source], y[:, place]
        spread = xs.std()
        scale = float(((xs - xs.mean()) * (ys - ys.mean())).mean() / spread**2) if spread > 0 else 0.0
        offset = float(ys.mean() - scale * xs.mean())
        if scale <= 0:
            fits[place, source] = (float("inf"), 1.0, 0.0)
            continue
        # Clipping to 0 or 255 is what most resizers end with.
        low, high = ys.min(), ys.max()
        error = np.clip(scale * xs + offset, low, high) - ys
        fits[place, source] = (float(np.sqrt((error**2).mean())) / scale, scale, offset)
    order = min(
        ((0, 1, 2), (2, 1, 0), *itertools.permutations(range(3))),
        key=lambda order: round(sum(fits[p, s][0] for p, s in enumerate(order)), 4),
    )
    chosen = [fits[place, source] for place, source in enumerate(order)]
    residual = float(np.sqrt(np.mean([error**2 for error, _, _ in chosen])))
    return replace(
        recipe,
        order=order,
        scale=tuple(scale for _, scale, _ in chosen),
        offset=tuple(offset for *_, offset in chosen),
        residual=residual,
    )
