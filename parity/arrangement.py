"""In what axis order a torch module takes and gives its tensors: found out by running it, where it is not the usual."""

import numpy as np

from parity.adapters.base import Adapter
from parity.errors import relative_l2

USUAL = ("channels first", "channels first")
# What else modules do, likely ones first: (inputs, outputs).
OTHERS = (
    ("channels first", "as given"),
    ("as given", "as given"),
    ("channels second", "channels second"),
    ("channels second", "as given"),
    ("time first", "time first"),
    ("as given", "channels first"),
    ("time first", "as given"),
)
NEAR = 1e-2  # two outputs that are as near are the same: other orders of random numbers are of the order of one apart
WORDS = {
    "as given": "as Keras has them",
    "time first": "time first (T, B, C), as torch's recurrent layers have them without batch_first",
    "channels first": "channels first",
    "channels second": "channels second, (B, C, L)",
}


def arrange(reference: Adapter, candidate: Adapter, inputs) -> list[str]:
    """Finds the axis order of a torch side if its outputs agree in another than the usual, and says so.

    Only an order in which the outputs agree counts: a wrong one can't make a wrong port right.

    Returns:
        What to tell.
    """
    arrays = inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
    if not any(np.ndim(array) >= 3 for array in arrays):
        return []
    loose = [side for side in (reference, candidate) if hasattr(side, "orders")]
    if len(loose) == 2:  # two modules agree on it; a file may not
        loose = [side for side in loose if side.opaque]
    if len(loose) != 1:
        return []
    (side,) = loose
    other = candidate if side is reference else reference
    expected = _outputs(other, inputs)
    if expected is None or _apart(_outputs(side, inputs), expected) <= NEAR:
        return []
    usual = side.orders
    for orders in (USUAL, *OTHERS):
        if orders == usual:
            continue
        side.orders = orders
        if _apart(_outputs(side, inputs), expected) <= NEAR:
            return [f"{side.name} takes its inputs {WORDS[orders[0]]}, and gives its outputs {WORDS[orders[1]]}."]
    side.orders = usual
    return []


def _outputs(side: Adapter, inputs) -> dict | None:
    try:
        with side.preserved(trainable=False):
            return side.outputs(inputs)
    except Exception:  # an order that it can't take
        return None


def _apart(found, expected) -> float:
    if found is None or len(found) != len(expected):
        return float("inf")
    pairs = zip(found.values(), expected.values(), strict=True)
    worst = max((relative_l2(a, b) for a, b in pairs), default=float("inf"))
    return worst if worst == worst else float("inf")
