"""Before all rungs: whether each model gives the same answer twice. Who does not can be compared with nobody."""

import numpy as np

from parity.adapters.base import Adapter
from parity.errors import relative_l2

# Relative difference of two runs that is still rounding: a GPU adds in any order, which costs some hundred roundings.
ROUNDINGS = 200


def tolerance(adapter: Adapter) -> float:
    """How far two runs of a model may be apart: 2e-5 in float32, 4e-14 in float64, 3e-2 in half precision."""
    return min(ROUNDINGS * adapter.eps, 0.03)


def check(reference: Adapter, candidate: Adapter, inputs, kept: dict) -> dict:
    """Runs both models twice at inference and names the side, and the layer, that answers differently each time.

    Args:
        kept: receives the outputs of each side, by "reference" and "candidate".

    Raises:
        ValueError: if neither model runs on these inputs.
    """
    worst, limit, problems, failures, place = 0.0, tolerance(candidate), [], [], None
    for role, side in (("reference", reference), ("candidate", candidate)):
        try:
            apart, layer, kept[role] = look(side, inputs, training=False)
        except Exception as error:  # a stranger's model may fail in any way
            text = str(error).strip()
            failures.append((role, f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:300]))
            continue
        if not apart <= tolerance(side):
            problems.append(f"the {role} ({side.name}) {explain(apart, layer)}")
            place = place or layer
        if not apart <= worst:
            worst, limit = apart, tolerance(side)
    if len(failures) == 2:
        raise ValueError(f"Neither model runs on these inputs; the reference says {failures[0][1]}")
    if failures:
        role, what = failures[0]
        problems.append(f"only the {role} fails on these inputs: {what}")
    return {
        "passed": not problems,
        "measure": "relative L2 of two runs",
        "value": worst,
        "tolerance": limit,
        "worst": place,
        "first_divergence": place,
        "message": "; ".join(problems),
    }


def look(adapter: Adapter, inputs, training: bool) -> tuple[float, str | None, dict]:
    """(largest relative difference of two runs' outputs, the first layer to differ on equal inputs, one's outputs)."""
    with adapter.preserved(trainable=False):
        first = adapter.outputs(inputs, training)
    with adapter.preserved(trainable=False):
        second = adapter.outputs(inputs, training)
    apart = max((relative_l2(second[name], first[name]) for name in first), default=0.0)
    if apart <= tolerance(adapter):
        return apart, None, first
    runs = []
    for _ in range(2):
        with adapter.preserved(trainable=False):
            runs.append(adapter.capture(inputs, training))
    limit = tolerance(adapter)
    for name, call in runs[0].items():
        other = runs[1].get(name)
        if other is None or relative_l2(other.output, call.output) <= limit:
            continue
        same = all(
            np.shape(a) == np.shape(b) and relative_l2(b, a) <= limit
            for a, b in zip(call.inputs, other.inputs, strict=True)
        )
        return apart, name if same and call.inputs else f"before {name}", first
    return apart, None, first


def explain(apart: float, layer: str | None) -> str:
    """What `look` found, in words."""
    where = "" if layer is None else f", first {layer}" if layer.startswith("before ") else f", first at {layer}"
    return (
        f"gives another answer every time (two runs are {apart:.1e} apart{where}); is a dropout or noise left on at "
        "inference?"
    )


def random_layers(adapter: Adapter, inputs) -> frozenset[str]:
    """Names of layers without weights that in training mode answer one and the same input differently."""
    with adapter.preserved(trainable=False):
        calls = adapter.capture(inputs, training=True)
    layers, found = adapter.layers(), []
    for name, call in calls.items():
        layer = layers.get(name)
        if call.replay is None or layer is None or adapter.holds(layer) or _parts(layer):
            continue
        first, second = call.replay(call.inputs), call.replay(call.inputs)
        if not relative_l2(second, first) <= tolerance(adapter):
            found.append(name)
    return frozenset(found)


def _parts(layer) -> bool:
    return bool(getattr(layer, "_layers", ())) or next(getattr(layer, "children", lambda: iter(()))(), None) is not None
