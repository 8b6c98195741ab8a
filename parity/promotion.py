"""Copies of models in float64, which count only after they did what the model itself does."""

import contextlib
from dataclasses import dataclass

import numpy as np

from parity.adapters.base import Adapter, in_parts
from parity.errors import AT_ONCE, FLOAT32_EPS, ceiling, relative_l2
from parity.trace import map_inputs, scaled

# The model's own output and that of its copy differ by the model's rounding: about as far as the copy moves when inputs
# and weights are rounded once, times the number of layers that round again, which add up as a random walk does: 30 is
# that of a thousand layers.
ROUNDINGS = 30
AT_LEAST = 1e-5  # a hundred roundings of float32, where the copy moves less by chance


@dataclass(frozen=True)
class Copy:
    """What came of the attempt to copy a model in float64: the copy or, where there is none that counts, why not."""

    adapter: Adapter | None
    reason: str = ""


def copy_in_float64(adapter: Adapter, inputs, own: dict, own_training: dict | None = None) -> Copy:
    """A copy of a model in float64 that was seen to give the model's own outputs, up to the model's rounding.

    What was set on a layer after it was made is in no config, constants may stay float32, and a kernel may not exist:
    then the copy is another model, or none. So it is run on the inputs, on the same of a wide range (a limit that was
    set later may lie beyond the first), and in training mode.

    Args:
        adapter: the model; only run.
        inputs: one batch.
        own: the model's outputs on it.
        own_training: the same in training mode, without dropout; None where that is not compared.
    """
    if adapter.recorded:
        return Copy(*adapter.copied())
    if adapter.opaque:
        return Copy(None, "it is a file, which has no copy in float64")
    try:
        copied = adapter.promoted(inputs)
    except Exception as error:  # a subclassed model without get_config, say
        if adapter.dtype == "float64":
            return Copy(adapter)
        return Copy(None, f"it can't be rebuilt in float64 ({_line(error)})")
    wide = map_inputs(scaled, inputs)
    with contextlib.suppress(Exception):  # some operation refuses such numbers: nothing to be seen
        own_wide = None
        own_wide = _outputs(adapter, wide, False)
    looks = [
        ("output", inputs, False, own),
        ("output on inputs of a wide range", wide, False, own_wide),
        ("output in training mode", inputs, True, own_training),
    ]
    for what, array, training, expected in looks:
        if expected is None:
            continue
        try:
            apart = _apart(expected, _outputs(copied, array, training))
            bound = max(AT_LEAST, adapter.eps)
            if not apart <= bound:  # what rounding can do here takes longer to find out
                moved = _apart(*(_outputs(copied, array, training, size) for size in (adapter.eps / 2, 0.0)))
                bound = max(ROUNDINGS * moved, bound)
                if array is inputs:  # far from what a model is made for, rounding may do anything
                    bound = min(bound, 10 * ceiling(adapter.eps))
        except Exception as error:
            return Copy(None, f"some operation in it has no float64 ({_line(error)})")
        if not apart <= bound:
            return Copy(
                None,
                f"its copy in float64 gives another {what}, apart by {apart:.1e} where rounding explains {bound:.1e}: "
                "something set after construction is not in its config",
            )
    return Copy(copied)


def grain(copied: Adapter, inputs) -> float:
    """How much rounding there is inside a copy: about 1e-15, or more where something is computed in float32.

    It is the distance of a point from the mean of two beside it, 3e-8 away, which is rounding alone if all is smooth.
    Where something inside is rounded to float32 (6e-8), half of the values jump.
    """
    if copied.recorded:
        return copied.measured.get("grain", 0.0)
    middle, above, below = (_outputs(copied, inputs, False, size) for size in (0.0, 3e-8, -3e-8))
    rough = FLOAT32_EPS / 2 if any(array.dtype == np.float32 for array in middle.values()) else 0.0
    means = {name: (above[name] + below[name]) / 2 for name in middle if middle[name].dtype.kind == "f"}
    return max(rough, _apart(means, middle))


def rounding(copied: Adapter, inputs) -> float:
    """How far the outputs of a copy move when inputs and weights are rounded once to float32."""
    if copied.recorded:
        return copied.measured.get("rounding", 0.0)
    return _apart(*(_outputs(copied, inputs, False, size) for size in (FLOAT32_EPS / 2, 0.0)))


def _outputs(adapter: Adapter, inputs, training: bool, moved: float = 0.0) -> dict[str, np.ndarray]:
    """Outputs, with inputs and weights that are off by this relative size, each up or down by chance."""
    rng = np.random.default_rng(0)

    def move(array):
        array = np.asarray(array)
        if array.dtype.kind != "f":
            return array
        found = array.astype(np.float64, order="C")
        flat = found.reshape(-1)
        for start in range(0, flat.size, AT_ONCE):
            part = flat[start : start + AT_ONCE]
            part *= 1 + moved * rng.choice((-1.0, 1.0), part.shape)
        return found

    with adapter.preserved(trainable=bool(moved)), adapter.without_dropout():
        if moved:
            inputs = map_inputs(move, inputs)
            arrays = {name: weight.array for name, weight in adapter.weights().items()}
            for names in in_parts(arrays):
                adapter.assign({name: move(arrays[name]) for name in names})
            del arrays
        return adapter.outputs(inputs, training)


def _apart(outputs, expected) -> float:
    """The largest relative distance of any output; those of integers are left out."""
    return max((relative_l2(outputs[n], expected[n]) for n in outputs if expected[n].dtype.kind == "f"), default=0.0)


def _line(error) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:160]
