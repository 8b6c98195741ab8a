"""Copies of models in float64, which count only after they did what the model itself does."""

from dataclasses import dataclass

import numpy as np

from parity.adapters.base import Adapter
from parity.errors import FLOAT32_EPS, ceiling, relative_l2
from parity.trace import map_inputs

# The model's own output and that of its copy differ by the model's rounding: about as far as the copy moves when inputs
# and weights are rounded once, times the number of layers that round again, which add up as a random walk does: 30 is
# that of a thousand layers.
ROUNDINGS = 30
AT_LEAST = 1e-5  # a hundred roundings of float32, where the copy moves less by chance


@dataclass(frozen=True)
class Copy:
    """What came of the attempt to copy a model in float64.

    Attributes:
        adapter: the copy; None if there is none that counts.
        reason: why not.
        grain: relative rounding inside the copy, where some of it is still computed in float32; about 1e-15 else.
    """

    adapter: Adapter | None
    reason: str = ""
    grain: float = 0.0


def copy_in_float64(adapter: Adapter, inputs, training: bool) -> Copy:
    """A copy of a model in float64 that was seen to give the model's own outputs, up to the model's rounding.

    What was set on a layer after it was made is in no config, constants may stay float32, and a kernel may not exist:
    then the copy is another model, or none.

    Args:
        adapter: the model; only run.
        inputs: one batch.
        training: whether it must agree in training mode too.
    """
    try:
        copied = adapter.promoted(inputs)
    except Exception as error:  # a subclassed model without get_config, say
        if adapter.dtype == "float64":
            return Copy(adapter)
        return Copy(None, f"it can't be rebuilt in float64 ({_line(error)})")
    for mode in (False, True) if training else (False,):
        try:
            own = _outputs(adapter, inputs, mode)
        except Exception as error:
            if mode:  # the training rungs will tell
                break
            return Copy(None, f"it does not run on these inputs ({_line(error)})")
        try:
            found = _outputs(copied, inputs, mode)
            moved = _outputs(copied, inputs, mode, adapter.eps / 2)
        except Exception as error:
            return Copy(None, f"some operation in it has no float64 ({_line(error)})")
        bound = max(ROUNDINGS * _apart(moved, found), AT_LEAST, adapter.eps)
        bound = min(bound, 10 * ceiling(adapter.eps))
        apart = _apart(own, found)
        if not apart <= bound:
            return Copy(
                None,
                f"its copy in float64 gives another {'training-mode ' if mode else ''}output, apart by {apart:.1e} "
                f"where rounding explains {bound:.1e}: something set after construction is not in its config",
            )
        if not mode:
            grain = _grain(copied, inputs, found)
    return Copy(copied, grain=grain)


def _grain(copied: Adapter, inputs, found) -> float:
    """The distance of a point from the mean of two beside it, 1e-8 or 3e-8 away: rounding alone, if all is smooth.

    In float64 about 1e-15; where something inside is rounded to float32 (6e-8), a sixth or half of the values jump.
    """
    grain = FLOAT32_EPS / 2 if any(array.dtype == np.float32 for array in found.values()) else 0.0
    for size in (1e-8, 3e-8):
        above, below = (_outputs(copied, inputs, False, sign * size) for sign in (1, -1))
        middle = {name: (above[name] + below[name]) / 2 for name in found if found[name].dtype.kind == "f"}
        grain = max(grain, _apart(middle, found))
    return grain


def _outputs(adapter: Adapter, inputs, training: bool, moved: float = 0.0) -> dict[str, np.ndarray]:
    """Outputs, with inputs and weights that are off by this relative size, each up or down by chance."""
    rng = np.random.default_rng(0)

    def move(array):
        array = np.asarray(array)
        if array.dtype.kind != "f":
            return array
        return array.astype(np.float64) * (1 + moved * rng.choice((-1.0, 1.0), array.shape))

    with adapter.preserved(), adapter.without_dropout():
        if moved:
            inputs = map_inputs(move, inputs)
            adapter.assign({name: move(weight.array) for name, weight in adapter.weights().items()})
        return adapter.outputs(inputs, training)


def _apart(outputs, expected) -> float:
    """The largest relative distance of any output; those of integers are left out."""
    return max((relative_l2(outputs[n], expected[n]) for n in outputs if expected[n].dtype.kind == "f"), default=0.0)


def _line(error) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:160]
