"""Rung 4: every intermediate tensor at inference, then the output; errors accumulate along the way."""

from parity.divergence import Place, locate
from parity.errors import NOT_COMPARED, Error, summarise
from parity.graph import Unanswered
from parity.trace import Trace, is_output, judge_sides, map_inputs, pair_values, scaled

SCALED = " (inputs scaled)"
HEALS = "the outputs agree all the same"
ELSEWHERE = "the other side has these numbers under another name"


def check(reference, candidate, truth=None) -> dict:
    """Compares all that was recorded; and the outputs once more with inputs of a wide range, if that is asked for.

    Of a candidate with `ranges`, tensors of one name that differ are *cut differently* and no fault, if the outputs
    agree on all inputs, or if the other side has the numbers elsewhere (an activation inside a convolution, say).
    """
    sides = (reference, candidate, truth)
    arrays = [None if side is None else side.activations for side in sides]
    errors = judge_sides(*sides, arrays)
    found = [e for e in errors if is_output(e.name)]
    wide, message = _wide(sides) if candidate.ranges else ([], "")
    if candidate.ranges:
        healed = bool(found) and not message and all(e.passed for e in (*found, *wide) if not e.undecided)
        candidate.cut = _cut(errors, reference, candidate, healed)
    kept = [e for e in errors if e.name not in candidate.cut]
    result = {"measure": "relative L2"} | summarise(kept + wide)
    outputs = {e.name: [e.value, e.tolerance] for e in found if not e.undecided}
    if errors:
        result.setdefault("details", {}).update(output=errors[-1].value, outputs=outputs, cut=candidate.cut)
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
    if first:
        place = _place(sides, [e for e in found if not e.passed], first.endswith(SCALED))
        if place is not None:
            result["first_divergence"] = place.name
            which = [e.name for e in found if not e.passed] if len(found) > 1 else []
            words = f"{', '.join(which)}: {place}" if which else str(place)
            result["message"] = "; ".join(filter(None, (result.get("message"), words)))
    elif candidate.cut and result["passed"]:
        result["message"] = told(candidate.cut)
    return result


def told(cut: dict[str, str]) -> str:
    """What is cut differently, in a sentence."""
    names = list(cut)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"cut differently, no fault: {', '.join(names[:5])}{more} ({cut[names[0]]})"


def _cut(errors: list[Error], reference: Trace, candidate: Trace, healed: bool) -> dict[str, str]:
    partners, cut = candidate.partners, {}
    for error in errors:
        if error.passed or error.undecided or is_output(error.name):
            continue
        if healed:
            cut[error.name] = HEALS
        elif partners is not None and (
            partners.has(0, candidate.activations[error.name], error.value)
            or partners.has(1, reference.activations[error.name], error.value)
        ):
            cut[error.name] = ELSEWHERE
    return cut


def _place(sides, outputs: list[Error], wide: bool) -> Place | None:
    """Where the outputs part, by values; None where no graph was to be had."""
    reference, candidate, _ = sides
    partners = candidate.partners
    if partners is None:
        return None
    try:
        if wide:
            partners = pair_values(reference, candidate, map_inputs(scaled, reference.batches[0]))
            names = list(partners.graphs[0].outputs)
        else:
            names = [error.name for error in outputs]
        candidate.parted = partners
        ends = [graph.outputs for graph in partners.graphs]
        return locate(partners, [(ends[0][n], ends[1][n]) for n in names if n in ends[0] and n in ends[1]])
    except Exception:  # a stranger's operation may fail in any way; the names still tell
        return None


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
        except Unanswered:
            return [], ""
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
