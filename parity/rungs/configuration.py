"""Rung 1: what both sides say of themselves, before any tensor: type, kernel sizes, epsilons, momenta, rates."""

import math

from parity.rungs.structure import neutral

# What does not matter to a model that is only served.
TRAINING_ONLY = ("momentum", "rate", "drops")


def check(reference, candidate, truth=None) -> dict:
    """Compares the settings of every layer that both sides have, and the float type."""
    ours, theirs = reference.adapter.settings(), candidate.adapter.settings()
    differences, compared = [], 1
    if reference.adapter.dtype != candidate.adapter.dtype:
        differences.append(("model", "dtype", reference.adapter.dtype, candidate.adapter.dtype))
    # Layers that drop hold no weights, by which a pairing would know them; those of other names go by their order.
    lonely = [[n for n, facts in own.items() if n not in other and facts.get("rate", 0) > 0]
              for own, other in ((ours, theirs), (theirs, ours))]  # fmt: skip
    partners = dict(zip(*lonely, strict=False))
    theirs = theirs | {name: theirs[other] for name, other in partners.items()}
    for layer, facts in ours.items():
        if layer not in theirs:
            # A dropout with rate 0 and no dropout are the same thing; missing weights are the next rung's matter.
            if facts.get("rate", 0) > 0:
                differences.append((layer, "rate", facts["rate"], "no such layer"))
            continue
        for setting in (s for s in facts if s in theirs[layer]):  # in one order in every run
            compared += 1
            if not _equal(facts[setting], theirs[layer][setting]):
                differences.append((layer, setting, facts[setting], theirs[layer][setting]))
    for layer in theirs.keys() - ours.keys() - set(partners.values()):
        if theirs[layer].get("rate", 0) > 0:
            differences.append((layer, "rate", "no such layer", theirs[layer]["rate"]))
    told = [d for d in differences if _only_told(d, reference, candidate)]
    differences = [d for d in differences if d not in told]
    first = differences[0][0] if differences else None
    return {
        "passed": not differences,
        "measure": "different settings",
        "value": float(len(differences)),
        "tolerance": 0.0,
        "worst": first,
        "first_divergence": first,
        "message": "; ".join(f"{layer} {what}: {a} and {b}" for layer, what, a, b in differences[:5])
        or "; ".join(
            f"{layer}: its rate {a if b == 'no such layer' else b} was not compared, the other's dropout is a function"
            for layer, what, a, b in told
            if what == "rate" and "no such layer" in (a, b)
        ),
        "details": {
            "compared": compared,
            "differences": [list(map(str, row)) for row in differences],
            "told": [list(map(str, row)) for row in told],
        },
    }


def _only_told(difference, reference, candidate) -> bool:
    """Whether a difference changes nothing that is compared."""
    layer, setting, ours, _ = difference
    if setting == "rate" and "no such layer" in difference[2:]:  # a function there, whose rate nobody tells
        other = (reference, candidate)[difference[2:].index("no such layer")]
        if candidate.ranges and not candidate.strict and _drops_by_function(candidate, other is candidate):
            return True
    if setting == "dtype":  # the numerical rungs ask each type for what it can give
        return not candidate.strict
    if not candidate.serving:
        return False
    if setting == "use_bias":
        weights = (reference if ours else candidate).adapter.weights()
        return f"{layer}/bias" in weights and neutral(weights, f"{layer}/bias")
    return setting in TRAINING_ONLY


def _drops_by_function(candidate, side: bool) -> bool:
    """Whether a side calls a dropout that is no layer."""
    if candidate.partners is None:
        return False
    return any("dropout" in node.title for node in candidate.partners.graphs[side].nodes)


def _equal(a, b) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, int | float):
        # 1 - 0.01 is not 0.99 to the last bit.
        return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15)
    return a == b
