"""What part of a picture a pipeline resizes to what size, crops, and fills around: the ways that people have."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

IMAGENET_COLOUR = (123.675, 116.28, 103.53)


@dataclass(frozen=True)
class Geometry:
    """What part of a picture becomes the result.

    Attributes:
        name: in words.
        axes: from (height, width, new height, new width) to, for each axis, (first pixel taken, how many, size that
            they are resized to, first pixel of that which is kept; negative where as many are filled before it); None
            where it can't be.
        cure: the steps, in words.
        fill: grey level, or one by channel, of what the picture does not reach; None where it reaches all.
    """

    name: str
    axes: Callable = field(compare=False)
    cure: str = field(compare=False)
    fill: float | tuple[float, ...] | None = None


def _squash(height, width, h, w):
    return (0, height, h, 0), (0, width, w, 0)


def _square(height, width, h, w):
    side = min(height, width)
    return ((height - side) // 2, side, h, 0), ((width - side) // 2, side, w, 0)


def _crop(height, width, h, w):
    if h > height or w > width:
        return None
    return ((height - h) // 2, h, h, 0), ((width - w) // 2, w, w, 0)


def _fraction(part: float):
    def axes(height, width, h, w):
        top, left = int((height - height * part) / 2), int((width - width * part) / 2)
        return (top, height - 2 * top, h, 0), (left, width - 2 * left, w, 0)

    return axes


def _padded_square(height, width, h, w):
    side = int(h / (h + 32) * min(height, width))
    return ((height - side + 1) // 2, side, h, 0), ((width - side + 1) // 2, side, w, 0)


def _shorter(size: Callable, offset: Callable = round, longer: Callable = int):
    def axes(height, width, h, w):
        short = size(min(h, w))
        new = tuple(
            short if n == min(height, width) else longer(short * n / min(height, width)) for n in (height, width)
        )
        if new[0] < h or new[1] < w:
            return None
        top, left = offset((new[0] - h) / 2), offset((new[1] - w) / 2)
        return (0, height, new[0], top), (0, width, new[1], left)

    return axes


def _squash_and_crop(size: Callable):
    def axes(height, width, h, w):
        new = size(h), size(w)
        return (0, height, new[0], round((new[0] - h) / 2)), (0, width, new[1], round((new[1] - w) / 2))

    return axes


def _large(height, width, h, w):
    def axis(length, size):
        return ((length - 2048) // 2, 2048, size, 0) if min(height, width) > 3048 else (0, length, size, 0)

    return axis(height, h), axis(width, w)


def _fitted(whole: Callable, before: Callable):
    """The whole picture inside of the size, with so much filled before it."""

    def axes(height, width, h, w):
        scale = min(h / height, w / width)
        found = []
        for length, limit in ((height, h), (width, w)):
            new = max(1, min(limit, whole(length * scale)))
            found.append((0, length, new, -before(limit - new, limit - length * scale)))
        return tuple(found)

    return axes


def _letterboxes() -> Iterator[Geometry]:
    """The ways to fit the whole picture into a square and to fill the rest."""
    colours = (
        (0.0, "black", "0"), (114.0, "grey 114", "114"), (127.5, "middle grey", "127.5"), (255.0, "white", "255"),
        (IMAGENET_COLOUR, "ImageNet's mean colour", "(123.675, 116.28, 103.53)"),
    )  # fmt: skip
    half, down = "half of what is left", ", sizes rounded down"
    # Where, what is filled before, how sizes are rounded, and how many pixels that is: of what is left, and of what
    # would be left without rounding.
    ways = [
        (place, filled, ends, whole, before)
        for whole, ends in ((round, ""), (int, down))
        for place, filled, before in (
            ("in the centre", half, lambda left, exact: left // 2),
            ("at the upper left", "nothing", lambda left, exact: 0),
            ("in the centre, half pixels rounded", f"{half}, rounded,", lambda left, exact: round(left / 2)),
        )
    ]
    ways.append(
        ("in the centre as tf.image.resize_with_pad has it", half, down, int, lambda left, exact: int(exact / 2))
    )
    for place, filled, ends, whole, before in ways:
        for fill, colour, code in colours:
            cure = (
                f"resize by min(h / height, w / width){ends}, pad {filled} at the top and left and the rest at the "
                f"bottom and right with {code}"
            )
            if fill == 0.0 and "centre" in place:
                cure += "; ImageOps.pad(image, size) in Pillow, tf.image.resize_with_pad(x, h, w) in TensorFlow"
            name = f"fits the whole picture into the size, {place}, and fills the rest with {colour}{ends}"
            yield Geometry(name, _fitted(whole, before), cure, fill)


GEOMETRIES = (
    Geometry("resizes the whole picture, whatever its shape", _squash, "resize to (height, width) at once"),
    Geometry("crops the central square, then resizes", _square, "crop min(height, width) from the centre, then resize"),
    Geometry("resizes the shorter side to the size, then crops the centre", _shorter(lambda n: n),
             "resize the shorter side to the size, then crop the centre"),
    Geometry("resizes the shorter side to 256/224 of the size, then crops the centre",
             _shorter(lambda n: round(n * 256 / 224)), "Resize(256), then CenterCrop(224), or as much for other sizes"),
    Geometry("resizes the shorter side to 232/224 of the size, then crops the centre",
             _shorter(lambda n: round(n * 232 / 224)), "Resize(232), then CenterCrop(224), or as much for other sizes"),
    Geometry("resizes the shorter side to 1/0.9 of the size, then crops the centre",
             _shorter(lambda n: int(n / 0.9)), "Resize(size / 0.9), then CenterCrop(size)"),
    Geometry("resizes the shorter side to 1/0.95 of the size, then crops the centre",
             _shorter(lambda n: int(n / 0.95)), "Resize(size / 0.95), then CenterCrop(size)"),
    Geometry("resizes the shorter side to 32 pixels more, then crops the centre", _shorter(lambda n: n + 32),
             "resize the shorter side to size + 32, then crop the centre"),
    Geometry("resizes the whole picture to 256/224 of the size, then crops the centre",
             _squash_and_crop(lambda n: round(n * 256 / 224)), "Resize((256, 256)), then CenterCrop(224)"),
    Geometry("crops the centre without resizing", _crop, "crop (height, width) from the centre"),
    Geometry("crops the central 7/8, then resizes", _fraction(0.875), "tf.image.central_crop(x, 0.875), then resize"),
    Geometry("crops size / (size + 32) of the central square, then resizes", _padded_square,
             "crop size / (size + 32) of the shorter side from the centre, then resize"),
    Geometry("crops 2048x2048 from very large pictures, then resizes", _large,
             "crop 2048x2048 from the centre where both sides exceed 3048, then resize"),
    *_letterboxes(),
)  # fmt: skip


def searched(size: int) -> Iterator[Geometry]:
    """Ways with a number of their own, for pipelines that do none of the usual.

    Args:
        size: of the result, the smaller of rows and columns.
    """
    for short in range(size, size * 7 // 5 + 1):
        cure = f"resize the shorter side to {short}, then crop the centre"
        name = f"resizes the shorter side to {short} pixels, then crops the centre"
        yield Geometry(name, _shorter(lambda n, short=short: short), cure)
        name, cure = (f"{text}, offsets rounded down" for text in (name, cure))
        yield Geometry(name, _shorter(lambda n, short=short: short, int, round), cure)
        if short > size:
            name = f"resizes the whole picture to {short}x{short}, then crops the centre"
            yield Geometry(
                name, _squash_and_crop(lambda n, short=short: short), f"resize to {short}x{short}, then crop"
            )
    for percent in range(50, 100):
        part = percent / 100
        yield Geometry(f"crops the central {percent}%, then resizes", _fraction(part),
                       f"tf.image.central_crop(x, {part}), then resize")  # fmt: skip
