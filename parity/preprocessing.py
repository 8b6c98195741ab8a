"""`parity.compare_inputs`: are two models fed the same pictures? What each pipeline does, and what would mend it."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from parity.images import find_images
from parity.pictures import UPRIGHT, decoders, probes
from parity.recipes import KNOWN, Recipe, recipe_of, sampled

SAME = 0.5  # grey levels at which two pipelines give the same: rounding to whole levels, once
# Mean and deviation by channel, for pixels from 0 to 1, of whose they are.
KNOWN_NUMBERS = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
CAFFE = np.array([123.68, 116.779, 103.939])


@dataclass(frozen=True)
class Difference:
    """One thing that two pipelines do differently.

    Attributes:
        what: "size", "channels", "range", "normalisation", "channel order", "crop", "letterbox", "rotation by EXIF",
            "resize filter", "JPEG decoder", "grey".
        says: in a sentence, with the cure.
        moves: how far it alone moves the reference's pictures, in grey levels (root mean square); None if not known.
    """

    what: str
    says: str
    moves: float | None = None

    def __str__(self):
        alone = "" if self.moves is None else f" By itself it makes {self.moves:.2g} grey levels."
        return f"{self.what}: {self.says}{alone}"


@dataclass
class InputReport:
    """What `compare_inputs` found.

    Attributes:
        files: how many were compared.
        apart: root mean square distance in grey levels (0-255) of the reference's scale; infinite if shapes differ.
        largest: the largest distance of any number, in grey levels.
        differences: what the two do differently, each with its cure.
        notes: what else there is to know: what could not be told, layouts, types.
        healed: distance with all differences cured, in grey levels; None where that was not tried.
        recipes: what each was seen to do, a `Recipe`, or None where no known steps give its numbers,
            and where both give the same, bit for bit.
        tolerance: grey levels that are allowed.
    """

    files: int
    apart: float
    largest: float
    tolerance: float
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    healed: float | None = None
    recipes: tuple = (None, None)

    @property
    def passed(self) -> bool:
        """Whether both give the same pictures, up to rounding."""
        return self.apart <= self.tolerance

    def __str__(self):
        lines = [
            f"{'ok' if self.passed else 'FAIL'}  inputs are {self.apart:.2g} grey levels apart (root mean square, "
            f"{self.tolerance:g} allowed), {self.largest:.3g} at most, over {self.files} files."
        ]
        lines += [str(difference) for difference in self.differences]
        if self.healed is not None:
            lines.append(f"Without them they are {self.healed:.2g} grey levels apart.")
        if not self.passed and not self.differences:
            lines.append("No cure that was tried heals it.")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def compare_inputs(
    reference: Callable, candidate: Callable, files, *, tolerance: float = SAME, probe: bool = True
) -> InputReport:
    """Compares what two preprocessing pipelines make of the same files.

    Half of the ports that "give other predictions" are right and fed differently. Each pipeline is told by trying on
    the files what people do: decoders, EXIF, crops, resize filters, orders of channels, scales. A difference is told
    only if both pipelines are known to rounding, and if undoing it makes them agree.

    Args:
        reference, candidate: functions from a path (str) to an array or tensor: one picture, channels last or first,
            with or without a batch axis of one, of any range and type.
        files: paths of pictures, or a folder of them.
        tolerance: grey levels, root mean square, that are allowed.
        probe: whether to add files that show what the given ones do not: one that is turned by EXIF, one that is no
            square. They are written to a temporary folder.

    Returns:
        An `InputReport`; print it.

    Raises:
        ValueError: if there are no files, or a pipeline returns something that is no picture.
    """
    paths = _paths(files)
    with tempfile.TemporaryDirectory() as folder:
        given = [*paths, *(probes(paths, Path(folder)) if probe else ())]
        sides = ([], [])
        notes = []
        for role, function, arrays in zip(("reference", "candidate"), (reference, candidate), sides, strict=True):
            layouts = set()
            for path in given:
                array, layout = _picture(function(str(path)), role)
                arrays.append(array)
                layouts.add(layout)
            notes += [f"The {role} gives {layout}." for layout in sorted(layouts)]
        return _compared(given, len(paths), sides, tolerance, notes)


def _paths(files) -> list[Path]:
    if isinstance(files, str | Path):
        files = find_images(files) if Path(files).is_dir() else [files]
    paths = [Path(path) for path in files]
    if not paths:
        raise ValueError("Pictures to compare are missing. Received: no files")
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"No such file: {missing[0]}")
    return paths


def _picture(value, role: str) -> tuple[np.ndarray, str]:
    """(float64 (height, width, channels), how it was given)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    shape, kind = array.shape, array.dtype.name
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.dtype.kind not in "fiub":
        raise ValueError(f"The {role} must give one picture, (height, width, channels). Received: {kind} {shape}")
    words = "channels last"
    if array.shape[0] in (1, 3, 4) and array.shape[-1] not in (1, 3, 4):
        array, words = np.moveaxis(array, 0, -1), "channels first"
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"The {role} must give finite numbers. Received: NaN or infinity")
    return array, f"{kind}, {words}"


def _compared(paths, count, sides, tolerance, notes) -> InputReport:
    shapes = [{array.shape for array in arrays} for arrays in sides]
    same = shapes[0] == shapes[1] and all(map(np.array_equal, *sides))
    recipes = (None, None) if same else tuple(recipe_of(paths, arrays) for arrays in sides)
    apart, largest = _distance(sides, recipes)
    report = InputReport(count, apart, largest, tolerance, notes=notes, recipes=recipes)
    if same:
        return report
    for role, recipe in zip(("reference", "candidate"), recipes, strict=True):
        if recipe is None:
            notes.append(f"No steps that are known give the numbers of the {role}.")
        elif recipe.residual > KNOWN:
            notes.append(
                f"No steps that are known give the numbers of the {role}; the nearest are {recipe.residual:.2g} grey "
                f"levels off: it {recipe.geometry.name}, {recipe.filter.name}."
            )
    if any(shapes[0] ^ shapes[1]):
        report.differences += _sizes(sides)
    if all(recipe is not None and recipe.residual <= KNOWN for recipe in recipes):
        stages, report.healed = _stages(paths, sides, recipes)
        report.differences += stages
    elif shapes[0] == shapes[1] and apart > tolerance:
        report.differences, report.healed = _plain(sides)
    return report


def _distance(sides, recipes) -> tuple[float, float]:
    """(root mean square, largest) distance in grey levels by the reference's scale."""
    if any(a.shape != b.shape for a, b in zip(*sides, strict=True)):
        return float("inf"), float("inf")
    scale = _level(sides[0], recipes[0])
    parts = [(a - b) / scale for a, b in zip(*sides, strict=True)]
    square = sum(float((part**2).sum()) for part in parts) / sum(part.size for part in parts)
    return square**0.5, max(float(np.abs(part).max()) for part in parts)


def _level(arrays, recipe) -> float:
    """What one grey level is in a pipeline's numbers."""
    if recipe is not None and recipe.scale:
        return float(np.mean(np.abs(recipe.scale)))
    low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
    return max(high - low, 1e-12) / 255


def _sizes(sides) -> list[Difference]:
    a, b = ({array.shape for array in arrays} for arrays in sides)
    words = [", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes)[:3]) for shapes in (a, b)]
    what = "size" if {s[:2] for s in a} != {s[:2] for s in b} else "channels"
    return [Difference(what, f"the reference gives {words[0]}, the candidate {words[1]}.")]


def _stages(paths, sides, recipes) -> tuple[list[Difference], float | None]:
    """What two known recipes do differently, and how far they are apart without that."""
    ours, theirs = recipes[1], recipes[0]
    level = float(np.mean(np.abs(theirs.scale)))
    sizes = [array.shape[:2] for array in sides[0]]

    def apart(recipe) -> float | None:
        total = count = 0.0
        for path, size, array in zip(paths, sizes, sides[0], strict=True):
            made = recipe.pixels(path, size)
            if made is None:
                return None
            values = np.clip(made[..., list(recipe.order)], 0, 255) * recipe.scale + recipe.offset
            total += float((((values - sampled(array)) / level) ** 2).sum())
            count += values.size
        return (total / count) ** 0.5

    found, right = [], apart(theirs)
    for what, fields, says in (
        ("rotation by EXIF", ("turned",), _turning),
        ("", ("geometry",), _cropping),
        ("resize filter", ("filter",), _filtering),
        ("JPEG decoder", ("decoder",), _decoding),
        ("grey", ("grey",), _greying),
        ("channel order", ("order",), _ordering),
        ("", ("scale", "offset"), _scaling),
    ):
        if all(getattr(ours, name) == getattr(theirs, name) for name in fields) or (
            "scale" in fields and _alike(ours, theirs)
        ):
            continue
        # It matters if the reference with this stage alone spoilt is no longer the reference.
        wrong = apart(replace(theirs, **{name: getattr(ours, name) for name in fields}))
        if wrong is None or wrong > right + 0.05:
            title, sentence = says(theirs, replace(ours, order=recipes[1].order))  # numbers go with its own order
            found.append(Difference(what or title, sentence, wrong))
        ours = replace(ours, **{name: getattr(theirs, name) for name in fields})
    healed = apart(ours)
    # What does not heal is not told.
    return (found, healed) if found and healed is not None and healed <= KNOWN else ([], None)


def _alike(a: Recipe, b: Recipe) -> bool:
    """Whether two scales are the same up to a grey level: what truncating instead of rounding does."""
    for level in (0, 255):
        first, second = (np.array(r.scale) * level + r.offset for r in (a, b))
        if (np.abs(first - second) > 0.75 * np.abs(a.scale)).any():
            return False
    return True


def _turning(theirs, ours):
    return "", (
        f"the reference {theirs.turned}, the candidate {ours.turned}. "
        + ("Turn them: ImageOps.exif_transpose(image) in Pillow; tf.io.decode_jpeg never does."
           if theirs.turned == UPRIGHT else "Leave out ImageOps.exif_transpose, or take it into the reference too.")
    )  # fmt: skip


def _cropping(theirs, ours):
    boxed = theirs.geometry.fill is not None or ours.geometry.fill is not None
    return "letterbox" if boxed else "crop", (
        f"the reference {theirs.geometry.name}, the candidate {ours.geometry.name}. As the reference: "
        f"{theirs.geometry.cure}."
    )


def _filtering(theirs, ours):
    ways = [("Pillow", theirs.filter.pillow), ("TensorFlow", theirs.filter.keras), ("PyTorch", theirs.filter.torch)]
    code = "; ".join(f"{name}: {code}" for name, code in ways if code)
    return (
        "",
        f"the reference resizes {theirs.filter.name}, the candidate {ours.filter.name}. As the reference: {code}.",
    )


def _decoding(theirs, ours):
    return "", (
        f"the reference decodes with {theirs.decoder}, the candidate with {ours.decoder}. As the reference: "
        f"{decoders()[theirs.decoder][0]}."
    )


def _greying(theirs, ours):
    words = ["one grey channel of three" if recipe.grey else "colours" for recipe in (theirs, ours)]
    cure = 'image.convert("L") in Pillow, tf.image.rgb_to_grayscale(x)' if theirs.grey else "keep the three channels"
    return "", f"the reference gives {words[0]}, the candidate {words[1]}. As the reference: {cure}."


def _ordering(theirs, ours):
    words = ["".join("RGB"[n] for n in recipe.order) for recipe in (theirs, ours)]
    when = "" if _uniform(theirs) and _uniform(ours) else ", before mean and deviation"
    return "", f"the reference gives {words[0]}, the candidate {words[1]}. As the reference: x[..., ::-1]{when}."


def _scaling(theirs, ours):
    """Range, where it is one for all channels on both sides, else normalisation."""
    words = [_range(recipe) for recipe in (theirs, ours)]
    factor = np.array(theirs.scale) / np.array(ours.scale)
    shift = np.array(theirs.offset) - factor * np.array(ours.offset)
    shift = np.where(np.abs(shift) <= 0.02 * np.mean(theirs.scale), 0.0, shift)
    numbers = _numbers(factor), _numbers(shift)
    cure = f"keras.layers.Rescaling({numbers[0]}, {numbers[1]}), in PyTorch x * {numbers[0]} + {numbers[1]}"
    title = "range" if all(_uniform(recipe) for recipe in (theirs, ours)) else "normalisation"
    return title, f"the reference gives {words[0]}, the candidate {words[1]}. As the reference: {cure}."


def _uniform(recipe: Recipe) -> bool:
    scale, offset = np.array(recipe.scale), np.array(recipe.offset) / np.mean(recipe.scale)
    return bool(np.ptp(scale) <= 0.005 * scale.mean() and np.ptp(offset) <= 1.0)


def _range(recipe: Recipe) -> str:
    scale, offset = np.array(recipe.scale), np.array(recipe.offset)
    if _uniform(recipe):
        low, high = float(offset.mean()), float((255 * scale + offset).mean())
        ends = [_round(end, abs(high - low)) for end in (low, high)]
        return f"{ends[0]} to {ends[1]}"
    mean, std = -offset / (255 * scale), 1 / (255 * scale)
    order = list(recipe.order)
    for whose, numbers in KNOWN_NUMBERS.items():
        for used, words in ((order, ""), ([0, 1, 2], ", in the order of RGB")):
            known = np.array(numbers)[:, used]
            if np.allclose(mean, known[0], atol=2.5e-3) and np.allclose(std, known[1], rtol=1e-2):
                return f"(x / 255 - mean) / std with {whose} numbers{words if order != used else ''}"
    if np.allclose(scale, 1, atol=5e-3):
        whose = "Caffe's mean colour, " if np.allclose(-offset, CAFFE[order], atol=0.7) else ""
        return f"x - {whose}{_numbers(-offset)}"
    return f"(x / 255 - {_numbers(mean)}) / {_numbers(std)}"


def _round(end: float, width: float) -> str:
    """An end of a range, to a grey level."""
    for nice in (0, 1, -1, 255, 127.5, -127.5, 128, -128, 127, 0.5, -0.5):
        if abs(end - nice) <= 0.008 * width:
            return f"{nice:g}"
    return f"{end:.3g}"


def _numbers(values) -> str:
    """One number if they are the same, else a list, to four digits."""
    values = np.asarray(values, float)
    if np.ptp(values) <= 5e-3 * max(np.abs(values).max(), 1e-12):
        inverse = 1 / values.mean() if values.mean() else 0.0
        whole = inverse > 1.5 and abs(inverse - np.round(inverse * 2) / 2) < 2e-3 * inverse
        return f"1 / {np.round(inverse * 2) / 2:g}" if whole else f"{values.mean():.4g}"
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"


def _plain(sides) -> tuple[list[Difference], float | None]:
    """Of pipelines whose steps are not known: an exchange of channels, a turn, a scale that makes them agree."""
    a, b = sides
    if any(array.shape[-1] != 3 for array in a):
        return [], None
    x, y = (np.concatenate([array.reshape(-1, 3) for array in arrays]) for arrays in (b, a))
    level = _level(a, None)
    best = None
    for order in ((0, 1, 2), (2, 1, 0)):
        given = x[:, list(order)]
        scale = ((given - given.mean(0)) * (y - y.mean(0))).mean(0) / np.maximum(given.var(0), 1e-12)
        offset = y.mean(0) - scale * given.mean(0)
        error = float(np.sqrt(((given * scale + offset - y) ** 2).mean())) / level
        if best is None or error < best[0]:
            best = error, order, scale, offset
    error, order, scale, offset = best
    if error > KNOWN:
        return [], None
    found = []
    if order != (0, 1, 2):
        found.append(Difference("channel order", "the candidate's channels are the reference's in reverse. As the "
                                "reference: x[..., ::-1]."))  # fmt: skip
    if not (np.allclose(scale, 1, atol=5e-3) and np.abs(offset).max() <= 0.75 * level):
        title = "range" if np.ptp(scale) <= 5e-3 * scale.mean() and np.ptp(offset) <= level else "normalisation"
        code = f"x * {_numbers(scale)} + {_numbers(offset)}"
        found.append(Difference(title, f"the reference gives {code} of the candidate's numbers."))
    return found, error
