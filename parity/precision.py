"""In which type two models are compared: their copies in float64, or as they are, with rounding measured or guessed."""

import contextlib

from parity.adapters.base import Adapter
from parity.errors import CONSTANT_TOLERANCE, FLOAT32_ALONE, FLOOR_ROUNDINGS
from parity.promotion import ROUNDINGS, Copy, copy_in_float64, grain, rounding
from parity.report.terminal import number
from parity.rungs import determinism
from parity.trace import Trace, judge_sides, match_outputs, pair_values

COARSE = 1e-11  # rounding inside a copy that is no longer float64's own


def traces(both, batches, own, float64, tolerance, options, notes) -> tuple:
    """The traces to compare, and the truth or None."""
    roles = ("reference", "candidate")
    steady = [(None, None) if options["serving"] else steady_training(side, batches[0]) for side in both]
    copies = [
        copy_in_float64(side, batches[0], own[role], trained)
        for role, side, (_, trained) in zip(roles, both, steady, strict=True)
    ]
    for role, side, copied in zip(roles, both, copies, strict=True):
        if copied.adapter is None and not side.opaque:
            notes.append(f"{role} {side.name}: {copied.reason}.")
        elif float64 and not side.opaque and side.dtype not in ("float32", "float64"):
            notes.append(f"{role} {side.name} computes in {side.dtype}; half precision itself is not looked at.")
    truth = None
    if float64 and all(copied.adapter for copied in copies):
        allowed = CONSTANT_TOLERANCE if tolerance is None else tolerance
        found = [Trace(copied.adapter, batches, tolerance=allowed, **options) for copied in copies]
    else:
        found, truth = _in_own_types(both, copies, batches, tolerance, options, notes)
    for trace, (why, _) in zip(found, steady, strict=True):
        trace.unsteady = why
    if runs(*found):
        lonely = match_outputs(*found)
        if lonely:
            notes.append(f"Only {both[1].name} has {', '.join(lonely)}; that was not compared.")
        if truth is not None and truth.owner == "candidate":
            truth.aliases = found[1].aliases
        elif truth is None and found[1].adapter.dtype == "float64":
            _allow_computed(*found, notes)
            _allow_grain(*found, notes)
        if truth is not None:
            sides = (*found, truth)
            allowed = [e.tolerance for e in judge_sides(*sides, [side.activations for side in sides])]
            found[1].alike = min([FLOAT32_ALONE, max(allowed, default=FLOAT32_ALONE)])
        _pair_values(*found, notes)
    return (*found, truth)


def _pair_values(reference: Trace, candidate: Trace, notes) -> None:
    if reference.adapter.opaque or candidate.adapter.opaque:
        return
    if any(side.adapter.recorded and side.adapter.document["statistics"] for side in (reference, candidate)):
        return
    try:
        candidate.partners = pair_values(reference, candidate, reference.batches[0])
    except Exception as error:  # a stranger's model, or a framework of another version, may not be recorded
        text = str(error).strip()
        notes.append(
            "Operations were not recorded, only layers are compared "
            f"({type(error).__name__}: {text.splitlines()[0] if text else ''})."[:300]
        )


def _allow_computed(reference: Trace, candidate: Trace, notes) -> None:
    """Raises the tolerance to what rounding once to float32 can do, where one side has numbers that the other rounded.

    That is so of weights that are computed of others (weight norm), and of constants that only one side keeps in
    variables (Normalization's mean and variance), while the other has them in its code.
    """
    sides = [trace.adapter.weights() for trace in (reference, candidate)]
    computed = [n for own in sides for n, w in own.items() if not w.exact and n.endswith(("/kernel", "/embeddings"))]
    constants = [
        n for own, other in (sides, sides[::-1]) for n in own if n not in other and n.endswith(("/mean", "/variance"))
    ]
    if not computed and not constants:
        return
    times, most = (ROUNDINGS, FLOAT32_ALONE) if computed else (4, 1e-6)
    allowed = min(times * rounding(candidate.adapter, candidate.batches[0]), most)
    if allowed > candidate.tolerance:
        name = (computed or constants)[0]
        notes.append(
            f"The other side holds {name}, or what is made of it, rounded to float32; allowed are {number(allowed)}."
        )
        candidate.tolerance = allowed


def _allow_grain(reference: Trace, candidate: Trace, notes) -> None:
    """Raises the tolerance to what float32 inside the copies explains, where they are that near to each other."""
    errors = judge_sides(reference, candidate, None, (reference.activations, candidate.activations, None))
    if not COARSE < max((error.value for error in errors), default=0.0) < FLOAT32_ALONE:
        return
    rough = max(grain(trace.adapter, trace.batches[0]) for trace in (reference, candidate))
    if rough > COARSE:
        allowed = min(ROUNDINGS * rough, FLOAT32_ALONE / 10)
        if allowed > candidate.tolerance:
            notes.append(f"Something is computed in float32 even in the copies; allowed are {number(allowed)}.")
            candidate.tolerance = allowed


def _in_own_types(both, copies: list[Copy], batches, tolerance, options, notes) -> tuple:
    """(traces, truth) where rounding is part of what is compared."""
    eps = max(side.eps for side in both)
    owner = next((n for n, copied in zip(("reference", "candidate"), copies, strict=True) if copied.adapter), None)
    types = " and ".join(dict.fromkeys(side.dtype for side in both))
    if owner is None and tolerance is not None:
        notes.append(f"Compared in {types}; {number(tolerance)} is allowed, as was asked for.")
        return [Trace(side, batches, tolerance=tolerance, **options) for side in both], None
    if owner is None:
        allowed = max(FLOAT32_ALONE, FLOOR_ROUNDINGS * eps)
        notes.append(f"Compared in {types} without a float64 copy to go by; {number(allowed)} is allowed, a guess.")
        return [Trace(side, batches, tolerance=allowed, **options) for side in both], None
    notes.append(f"Compared in {types}; what rounding may do is measured on the {owner}, by its float64 copy.")
    truth = Trace(next(copied.adapter for copied in copies if copied.adapter), batches, owner=owner)
    return [Trace(side, batches, **options) for side in both], truth


def steady_training(side: Adapter, inputs) -> tuple[str | None, dict | None]:
    """(why a model can't be compared in training mode, its outputs in it if it can).

    A model that draws at random though its dropout is off can't.
    """
    if side.recorded:
        try:
            return side.unsteady, side.outputs(inputs, training=True)
        except Exception:
            return side.unsteady, None
    try:
        for attempt in range(2):
            with side.without_dropout():
                apart, layer, outputs = determinism.look(side, inputs, training=True)
                if apart <= determinism.tolerance(side):
                    return None, outputs
                if not attempt:
                    found = determinism.random_layers(side, inputs)
            side.random_layers = side.random_layers | found
    except Exception:  # what training mode does not do, its rungs tell
        return None, None
    where = "" if layer is None else f", first {layer if layer.startswith('before') else 'at ' + layer}"
    return f"{side.name} draws at random in training mode (two runs are {apart:.1e} apart{where})", None


def runs(*sides: Trace) -> bool:
    """Whether each model runs on its first batch, and something was recorded."""
    with contextlib.suppress(Exception):
        return all(trace.calls for trace in sides)
    return False
