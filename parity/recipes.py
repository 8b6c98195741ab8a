"""What a preprocessing pipeline does to a file, told by trying what people do on it: see `preprocessing`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.geometries import GEOMETRIES, Geometry, searched
from parity.pictures import PILLOW, STORED, UPRIGHT, decoded, decoders, orientation, upright
from parity.resampling import FILTERS, Filter, resized

ROWS = 28  # and columns of a picture that are looked at
LOOKED_AT = 3  # files by which pipelines are told; all are compared
SIEVED = 8  # recipes that are left of many by one picture
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow, OpenCV and TensorFlow have it
KNOWN = 0.7  # grey levels (root mean square) at which a recipe is taken for what a pipeline does: rounding, twice


@dataclass(frozen=True)
class Recipe:
    """What a pipeline was seen to do to a file.

    Attributes:
        decoder: name, see `pictures.decoders`.
        turned: `STORED` or `UPRIGHT`.
        geometry, filter: see `geometries` and `resampling`.
        grey: whether it makes one channel of three, by ITU-R BT.601.
        order: of channels in the file's (0, 1, 2); (2, 1, 0) is BGR.
        scale, offset: by channel of the pipeline: its number is scale * (grey level) + offset.
        residual: root mean square of what it does not explain, in grey levels.
    """

    decoder: str
    turned: str
    geometry: Geometry
    filter: Filter
    grey: bool = False
    order: tuple[int, ...] = (0, 1, 2)
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    residual: float = float("inf")

    def pixels(self, path, size) -> np.ndarray | None:
        """Grey levels (rows, columns, 3) on the `grid` of a picture, before channels are ordered and scaled."""
        source = decoded(str(path), self.decoder)
        if self.turned == UPRIGHT:
            source = upright(source, orientation(str(path)))
        made = resized(source, self.geometry, self.filter, size, grid(size))
        return made if made is None or not self.grey else np.repeat((made @ LUMA)[..., None], 3, -1)


def grid(size) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns by which pipelines are told, from edge to edge."""
    return tuple(np.unique(np.linspace(0, n - 1, ROWS).round().astype(int)) for n in size)


def sampled(array: np.ndarray) -> np.ndarray:
    rows, columns = grid(array.shape[:2])
    return array[np.ix_(rows, columns)]


def recipe_of(paths, arrays) -> Recipe | None:
    """The steps that give a pipeline's numbers best: where to crop first, then the filter, the decoder."""
    if any(array.shape[-1] not in (1, 3) for array in arrays):
        return None
    grey = all(_is_grey(array) for array in arrays)
    if not grey and any(array.shape[-1] != 3 for array in arrays):
        return None
    chosen = sorted({*range(len(paths))[: LOOKED_AT - 2], *range(len(paths))[-2:]})  # the last may be probes
    pairs = [(paths[n], np.broadcast_to(arrays[n], (*arrays[n].shape[:2], 3))) for n in chosen]
    turns = (STORED, UPRIGHT) if any(orientation(str(path)) != 1 for path, _ in pairs) else (STORED,)
    first = [
        Recipe(PILLOW, turn, geometry, FILTERS[0], grey) for turn, geometry in itertools.product(turns, GEOMETRIES)
    ]
    # The picture that is least of a square tells most of them apart.
    longest = max(pairs, key=lambda pair: abs(np.log(np.divide(*decoded(str(pair[0]), PILLOW).shape[:2]))))
    found = _best(_nearest(first, longest), pairs)
    if found is None:
        return None
    for _ in range(2):
        found = _refined(found, pairs)
        if found.residual <= KNOWN:
            return found
        found = _best([replace(found, geometry=geometry) for geometry in GEOMETRIES], pairs)
    size = min(min(array.shape[:2]) for _, array in pairs)
    other = _best(_nearest([replace(found, geometry=geometry) for geometry in searched(size)], longest), pairs)
    if other is not None:
        other = _refined(other, pairs)
    return other if other is not None and other.residual < min(found.residual, KNOWN) else found


def _nearest(recipes: Sequence[Recipe], pair) -> list[Recipe]:
    """The few recipes that explain one picture best."""
    fitted = filter(None, (_fitted(recipe, [pair]) for recipe in recipes))
    return sorted(fitted, key=lambda recipe: round(recipe.residual, 3))[:SIEVED]


def _is_grey(array: np.ndarray) -> bool:
    """Whether all channels are one, up to a scale and an offset."""
    first, *others = np.moveaxis(sampled(array).reshape(-1, array.shape[-1]), -1, 0)
    centred = first - first.mean()
    for other in others:
        norm = float(centred @ centred)
        slope = float(centred @ (other - other.mean())) / norm if norm else 0.0
        rest = other - other.mean() - slope * centred
        if slope == 0 or float(rest @ rest) > 1e-9 * slope**2 * norm:
            return False
    return True


def _refined(found: Recipe, pairs) -> Recipe:
    """With the filter, then the decoder that explain the numbers best."""
    found = _best([replace(found, filter=filter) for filter in FILTERS], pairs)
    if len(decoders()) > 1:
        found = _best([replace(found, decoder=name) for name in decoders()], pairs)
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
