"""Rung 4, isolated: every layer and block is fed the reference's input, so that one fault shows in one place."""

import numpy as np

from parity import divergence
from parity.errors import NOT_COMPARED, Error, relative_l2, summarise
from parity.graph import Unanswered
from parity.shelf import Shelf
from parity.trace import judge_sides, scaled

SCALED = " (inputs scaled)"


def check(reference, candidate, truth=None) -> dict:
    """Feeds every layer that both sides have what the reference's was fed.

    With `Trace(ranges=True)` each is fed the same numbers at mean 0 and standard deviation 10 too, so that what only
    shows at the ends of a range shows. Where a layer refuses those on both sides there is nothing to compare; where on
    one side only, they differ.
    """
    sides = (reference, candidate, truth)
    given, wide = ((Shelf(), Shelf(), Shelf()) for _ in range(2))
    skipped, refusals = [], []
    for name, call in reference.calls.items():
        other = candidate.calls.get(name)
        true = None if truth is None else truth.calls.get(name)
        if other is None or other.replay is None or not call.inputs or (truth is not None and true is None):
            continue
        shapes = [[x.shape for x in c.inputs] for c in (call, other)]
        if shapes[0] != shapes[1]:
            skipped.append(name)  # an input of another shape: the accumulated comparison tells
            continue
        try:
            replayed = other.replay(call.inputs)
        except Exception:  # a run of layers that can't be run by itself from here; what lies between values tells
            if not candidate.ranges:
                raise
            skipped.append(name)
            continue
        given[0][name], given[1][name] = call.output, replayed
        if true is not None:
            # The truth of what the reference computed, whoever owns it.
            try:
                given[2][name] = true.replay(call.inputs)
            except Unanswered:  # a recording, of what it was fed itself
                skipped.append(name)
                continue
        if candidate.ranges and any(x.dtype.kind == "f" for x in call.inputs):
            _widen(name, (call, other, true), wide, refusals)
    errors = judge_sides(*sides, given)
    more = judge_sides(*sides, wide) + refusals
    if candidate.ranges:
        errors, more = ([e for e in found if e.name not in candidate.cut] for found in (errors, more))
        if candidate.partners is not None:  # fed in another order, as its weights are; see what lies between values
            moved = {name.rpartition("/")[0] for name in candidate.rearranged}
            errors, more = ([e for e in found if e.name not in moved] for found in (errors, more))
    compared = {error.name for error in errors}
    if candidate.partners is not None and candidate.tolerance is not None:
        more += _between(candidate, compared)
    for error in more:
        errors.append(Error(error.name + SCALED, error.value, error.tolerance, error.max_abs, error.undecided))
    if not errors and not skipped:
        return {
            "passed": False,
            "status": NOT_COMPARED,
            "measure": "relative L2",
            "value": None,
            "tolerance": None,
            "message": "no layer of one side has a partner of the same name on the other",
        }
    result = {"measure": "relative L2"} | summarise(errors)
    first = result.get("first_divergence")
    if first and first.endswith(SCALED):
        result["first_divergence"] = first.removesuffix(SCALED)
        result["message"] = f"{result['first_divergence']}: apart only on inputs of mean 0 and standard deviation 10"
    result.setdefault("details", {})["skipped"] = skipped
    return result


def _scaled(array):
    return scaled(array, inside=True)


def _between(candidate, done: set[str]) -> list[Error]:
    """What lies between equal values of both sides, whatever it is called there, on scaled inputs."""
    worst = {}
    for name, expected, found in divergence.isolated(candidate.partners, _scaled):
        if name in done or (expected is not None and expected.shape != found.shape):
            continue  # the values themselves had one shape: something was not run as it was
        if expected is None:
            error = Error(name, float("inf"), candidate.tolerance, float("inf"))
        else:
            far = float(np.max(np.abs(found - expected), initial=0.0)) if found.dtype.kind != "b" else 0.0
            error = Error(name, relative_l2(found, expected), candidate.tolerance, far)
        if name not in worst or not error.value <= worst[name].value:
            worst[name] = error
    return list(worst.values())


def _widen(name, calls, wide, refusals) -> None:
    """Replays one layer's calls on scaled inputs, into `wide`; one side's failure alone into `refusals`."""
    inputs = [_scaled(x) for x in calls[0].inputs]
    found, failed = [], []
    for place, call in enumerate(calls):
        try:
            found.append(None if call is None else call.replay(inputs))
        except Unanswered:
            return
        except Exception:
            found.append(None)
            failed.append(place)
    if not failed:
        for arrays, output in zip(wide, found, strict=True):
            if output is not None:
                arrays[name] = output
    elif (0 in failed) != (1 in failed):
        refusals.append(Error(name, float("inf"), 1.0, float("inf")))
