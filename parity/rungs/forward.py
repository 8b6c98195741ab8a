"""Rung 4: every intermediate tensor at inference, then the output; errors accumulate along the way."""

from parity.errors import NOT_COMPARED, summarise
from parity.trace import is_output, judge_sides, map_inputs, scaled

SCALED = " (inputs scaled)"


def check(reference, candidate, truth=None) -> dict:
    """Compares all that was recorded; and the outputs once more with inputs of a wide range, if that is asked for."""
    sides = (reference, candidate, truth)
    arrays = [None if side is None else side.activations for side in sides]
    errors = judge_sides(*sides, arrays)
    found = [e for e in errors if is_output(e.name)]
    wide, message = _wide(sides) if candidate.ranges else ([], "")
    result = {"measure": "relative L2"} | summarise(errors + wide)
    outputs = {e.name: [e.value, e.tolerance] for e in found if not e.undecided}
    if errors:
        result.setdefault("details", {}).update(output=errors[-1].value, outputs=outputs)
    undecided = [f"{e.name}: {e.undecided}" for e in found if e.undecided]
    undecided += [f"the candidate has no {name}" for name in candidate.missing]
    if result["passed"] and (undecided or not found):
        why = "; ".join(undecided) or "no output has a partner"
        result |= {"passed": False, "status": NOT_COMPARED, "message": why}
    first = result.get("first_divergence")
    if first and first.endswith(SCALED):
        result["first_divergence"] = first.removesuffix(SCALED)
        result["message"] = f"apart only on inputs of mean 0 and standard deviation 10: {first} {message}".rstrip()
    elif message and not first:
        result |= {"passed": False, "status": "FAIL", "message": message}
    return result


def _wide(sides):
    """(errors of the outputs on scaled inputs, and of all tensors up to the first that parts; what else to tell)."""
    inputs = map_inputs(scaled, sides[0].batches[0])
    found, refused = [], []
    for side in sides:
        if side is None:
            found.append(None)
            continue
        try:
            found.append(side.adapter.outputs(inputs, draws=side.draws))
            found[-1] = {side.aliases.get(name, name): array for name, array in found[-1].items()}
        except Exception as error:  # some operation refuses such numbers
            refused.append((side, error))
            found.append({})
    names = {id(sides[0]): "reference", id(sides[1]): "candidate"}
    told = [(names[id(side)], error) for side, error in refused if id(side) in names]
    if len(told) == 1:
        side, error = told[0]
        return [], f"on inputs of mean 0 and standard deviation 10 only the {side} fails: {_line(error)}"
    if refused:
        return [], ""
    errors = judge_sides(*sides, found)
    if any(not e.passed and not e.undecided for e in errors):  # where?
        captured = [side and side.adapter.capture(inputs, draws=side.draws) for side in sides]
        arrays = [
            calls and {s.aliases.get(name, name): call.output for name, call in calls.items()}
            for s, calls in zip(sides, captured, strict=True)
        ]
        errors = judge_sides(*sides, arrays)
    return [type(e)(e.name + SCALED, e.value, e.tolerance, e.max_abs, e.undecided) for e in errors], ""


def _line(error) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
