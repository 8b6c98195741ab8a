"""Rung 2: the same number of parameters, every tensor on both sides matched exactly once, in the same shape."""

import math

import numpy as np

from parity.errors import NOT_COMPARED
from parity.transfer import match, weights_of_both

# Values at which a variable does nothing: a bias of zeros, a norm without scale and offset, untouched statistics.
NEUTRAL = {"bias": 0.0, "beta": 0.0, "moving_mean": 0.0, "gamma": 1.0, "moving_variance": 1.0}
LEARNT = (*NEUTRAL, "kernel", "embeddings")  # what a variable that is no mere constant is called
SHOWN = 5  # names of each side, where none matches


def neutral(weights: dict, name: str) -> bool:
    """Whether a variable is there but changes nothing at inference."""
    value = NEUTRAL.get(name.rsplit("/", 1)[-1])
    return value is not None and bool(np.all(weights[name].array == value))


def check(reference, candidate, truth=None) -> dict:
    """Matches the weights by name and shape.

    Told and not failed, unless the candidate's trace is `strict`: constants of one side (what Normalization adapted to,
    a table of positions), for the other may hold them outside its weights, and the outputs tell whether they are right;
    and where only inference matters, a variable that does nothing (`NEUTRAL`).
    """
    sides = reference.adapter, candidate.adapter
    ours, theirs = both = weights_of_both(*sides)
    report = match(*sides, both)
    lonely, idle = [], []
    for weights, others in ((ours, theirs), (theirs, ours)):
        for name in weights.keys() - others.keys():
            constant = not weights[name].trainable and name.rsplit("/", 1)[-1] not in LEARNT
            told = not candidate.strict and (constant or (candidate.serving and neutral(weights, name)))
            (idle if told else lonely).append(name)
    counts = [sum(math.prod(w.array.shape) for n, w in side.items() if n not in idle) for side in (ours, theirs)]
    place = {name: number for number, name in enumerate([*ours, *theirs])}
    problems = [name for name, _, _ in report.wrong_shape] + sorted(lonely, key=place.get)
    result = {
        "passed": not problems and bool(report.matched),
        "measure": "tensors without partner",
        "value": float(len(problems)),
        "tolerance": 0.0,
        "worst": problems[0] if problems else None,
        "first_divergence": layer_of(problems[0]) if problems else None,
        "message": str(report) if problems else _told(idle),
        "details": {"matched": len(report.matched), "parameters": counts, "idle": idle},
    }
    if ours and theirs and not report.matched and not report.wrong_shape:
        names = [", ".join(list(dict.fromkeys(map(layer_of, w)))[:SHOWN]) for w in (ours, theirs)]
        first = [next(iter(dict.fromkeys(map(layer_of, w)))) for w in (ours, theirs)]
        result |= {
            "status": NOT_COMPARED,
            "first_divergence": None,
            "value": None,
            "message": f"no name of one side is on the other. {reference.adapter.name} has {names[0]}; "
            f'{candidate.adapter.name} has {names[1]}. Give names="order", if the layers stand in one order, or '
            f'rules such as names=[("^{first[0]}$", "{first[1]}")]',
        }
    return result


def _told(idle: list[str]) -> str:
    if not idle:
        return ""
    more = f" and {len(idle) - SHOWN} more" if len(idle) > SHOWN else ""
    return f"on one side only, judged by the outputs: {', '.join(sorted(idle)[:SHOWN])}{more}"


def layer_of(name: str) -> str:
    """The layer of a tensor by its canonical name."""
    return name.rsplit("/", 1)[0]
