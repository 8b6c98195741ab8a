"""Does what should drop in training drop there? Dropout itself is switched off wherever numbers are compared."""

import numpy as np

ROLES = ("reference", "candidate")


def idle(reference, candidate) -> list[tuple[str, str]]:
    """Layers with a rate that hand on what they are given in training mode, where the other model's do not.

    Layers of one name are compared with each other; of the rest, those of one side with those of the other.

    What drops also scales what it keeps: one that acts never gives back its inputs, however little it drops.

    Args:
        reference, candidate: traces.

    Returns:
        (canonical name of the layer, "reference" or "candidate") of each; [] where nothing can be told.
    """
    sides = (reference, candidate)
    if any(side.dropout or side.adapter.recorded or side.adapter.opaque for side in sides):
        return []
    rated = [{name for name, facts in side.adapter.settings().items() if facts.get("rate", 0) > 0} for side in sides]
    if not all(rated):
        return []
    first, second = (_seen(side, names) for side, names in zip(sides, rated, strict=True))
    common = [name for name in first if name in second]
    found = [(name, ROLES[second[name]]) for name in common if first[name] != second[name]]
    alone = [{n: same for n, same in seen.items() if n not in common} for seen in (first, second)]
    asleep = [[name for name, same in seen.items() if same] for seen in alone]
    if all(alone) and not all(asleep):
        found += [(name, role) for names, role in zip(asleep, ROLES, strict=True) for name in names]
    return found


def _seen(side, names: set[str]) -> dict[str, bool]:
    """Of some layers whether they change nothing in training mode, of those of which it can be told."""
    with side.adapter.preserved(trainable=False):
        calls = side.adapter.capture(side.batches[0], training=True)
    layers, seen = side.adapter.layers(), {}
    for name, call in calls.items():
        layer = name.partition("#")[0]
        if layer not in names or not call.inputs or call.output.shape != call.inputs[0].shape:
            continue
        same = np.array_equal(call.output, call.inputs[0])
        # One of somebody's own may not scale, and have kept all by chance.
        if call.inputs[0].any() and not (same and not _scales(layers.get(layer))):
            seen[layer] = seen.get(layer, True) and same
    return seen


def _scales(layer) -> bool:
    """Whether a layer is, or derives from, a framework's own dropout."""
    return any(
        "Dropout" in cls.__name__ and cls.__module__.partition(".")[0] in ("keras", "torch")
        for cls in type(layer).__mro__
    )
