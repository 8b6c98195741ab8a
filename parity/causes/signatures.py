"""Signs that need no knowledge of a layer: a ratio, an offset, channels in another order, a shift."""

import numpy as np

from parity.causes.scene import EXACT, Cause, Scene
from parity.values import distance

FACTORS = {255.0: "255", 1 / 255: "1/255", 2.0: "2", 0.5: "1/2", -1.0: "-1"}


def find(scene: Scene) -> Cause | None:
    """What turns the candidate's array into the reference's."""
    expected, found = scene.outputs
    if expected.shape != found.shape or expected.dtype.kind != "f" or expected.size < 8:
        return None
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        bad = int((~np.isfinite(found)).sum()), int((~np.isfinite(expected)).sum())
        return None if bad[0] == bad[1] else Cause(
            f"{bad[0]} numbers of the candidate are not finite, {bad[1]} of the reference.", float("inf"), 0.0
        )  # fmt: skip
    for look in (_ratio, _offset, _channels, _shift):
        told = look(expected, found)
        if told is not None:
            words, healed, *inside = told
            part = inside[0] if inside else ...
            return Cause(words, scene.before, distance(healed[part], expected[part]))
    return None


def _ratio(expected, found):
    norm = float((found * found).sum())
    ratio = float((expected * found).sum()) / norm if norm else 0.0
    if abs(ratio) < 1e-12 or abs(ratio - 1) < 1e-9 or distance(found * ratio, expected) > EXACT:
        return None
    return f"the candidate's numbers are {_number(1 / ratio)} times the reference's throughout.", found * ratio


def _number(factor: float) -> str:
    """A factor as people write it: 255, 1/sqrt(64), or its digits."""
    known = next((text for value, text in FACTORS.items() if abs(factor - value) < 1e-6 * abs(value)), None)
    if known is not None:
        return known
    for square, text in ((factor**2, "sqrt({})"), (factor**-2, "1/sqrt({})")):
        if factor > 0 and 2 <= round(square) <= 4096 and abs(square - round(square)) < 1e-6 * square:
            return text.format(round(square))
    return f"{factor:.6g}"


def _offset(expected, found):
    offset = float((expected - found).mean())
    if abs(offset) > 1e-9 and distance(found + offset, expected) <= EXACT:
        return f"the candidate's numbers are the reference's {-offset:+.6g} throughout.", found + offset
    axes = tuple(range(found.ndim - 1))
    if found.ndim > 1 and found[..., 0].size > 2:
        by_channel = (expected - found).mean(axes)
        if distance(found + by_channel, expected) <= EXACT:
            return "an offset by channel is missing or added, as of a bias.", found + by_channel
    return None


def _channels(expected, found):
    if found.ndim < 2 or found.shape[-1] < 2:
        return None
    a, b = (x.reshape(-1, x.shape[-1]) for x in (expected, found))
    if len(a) < 3:
        return None
    order = [int(np.argmin(np.linalg.norm(b - a[:, [c]], axis=0))) for c in range(a.shape[1])]
    if sorted(order) != list(range(len(order))) or order == sorted(order):
        return None
    healed = found[..., order]
    if distance(healed, expected) > EXACT:
        return None
    how = "reversed" if order == list(range(len(order)))[::-1] else f"in another order ({order[:8]} ...)"
    return f"the candidate's channels are {how}.", healed


def _shift(expected, found):
    if found.ndim != 4:
        return None
    rows, columns = found.shape[1:3]
    for down, right in ((0, 1), (1, 0), (1, 1), (0, -1), (-1, 0), (-1, -1)):
        if rows < 4 or columns < 4:
            return None
        inner = (slice(None), slice(1, -1), slice(1, -1))
        moved = np.roll(found, (down, right), (1, 2))
        if distance(moved[inner], expected[inner]) <= EXACT:
            return (f"the candidate's image, but for its border, lies {abs(down)} rows and {abs(right)} columns off "
                    f"({'up' if down > 0 else 'down'}, {'left' if right > 0 else 'right'}).", moved, inner)  # fmt: skip
    return None
