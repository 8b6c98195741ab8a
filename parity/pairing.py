"""Who is whose partner: two models wrapped so that their layers have common names, by rule or by order."""

from collections import defaultdict
from collections.abc import Callable

from parity.adapters import adapt
from parity.adapters.base import Adapter
from parity.naming import NamesClash, Rules


def pair(reference, candidate, names: Rules = None) -> tuple[Adapter, Adapter]:
    """Wraps two models so that their layers have common names.

    Args:
        reference, candidate: Keras models or torch modules (or `Adapter`s, taken as they are).
        names: None where names agree; pairs of (regular expression, replacement) that turn torch's module paths
            into Keras's layer names; or "order", to pair layers by their order within each kind. Of two models of
            one framework, rules apply to both, and the candidate's layers take the reference's names by order.

    Raises:
        NamesClash: if two layers of one side, both with weights, have one name.
    """
    if isinstance(names, str) and names != "order":
        raise ValueError(f'names must be None, "order" or a list of (pattern, replacement). Received: {names!r}')
    reference, candidate = adapt(reference, names=names), adapt(candidate, names=names)
    if reference.framework == candidate.framework:
        named, giver = candidate, reference
        if reference.framework == "keras" and reference is not candidate:
            reference.rules, candidate.rules = reference.rules or names, candidate.rules or names
    else:
        named, giver = (reference, candidate) if reference.framework == "torch" else (candidate, reference)
        if not giver.groups:
            # Whatever is a module with parts in torch may be a run of layers with a common prefix in Keras.
            parts = named.layers().items()
            giver.groups = tuple(name for name, m in parts if name and next(m.children(), None) is not None)
    if names == "order":
        named.rename = by_order(named.kinds(), giver.kinds())
    elif names is None and list(named.kinds()) == [""] and len(giver.kinds()) == 1:
        (only,) = giver.kinds()
        named.rename = lambda layer: only if layer == "" else layer  # a model that is one layer
    _refuse_clashes(reference, candidate)
    return reference, candidate


def _refuse_clashes(*sides: Adapter) -> None:
    for side in sides:
        for name, first, second in side.clashes():
            raise NamesClash(
                f"Two layers of {side.name} with weights, {first!r} and {second!r}, would both be called {name!r}; "
                "give rules (names=...) that tell them apart."
            )


def by_order(layers: dict[str, str], partners: dict[str, str]) -> Callable[[str], str]:
    """Pairs layers that hold weights by their order within each kind.

    Args:
        layers, partners: canonical name to kind, in the order of the models.

    Returns:
        A function from a layer's canonical name to that of its partner (or itself, if it has none).
    """
    queues = defaultdict(list)
    for name, kind in partners.items():
        queues[kind].append(name)
    pairs = {}
    for name, kind in layers.items():
        if queues[kind]:
            pairs[name] = queues[kind].pop(0)
    return lambda name: pairs.get(name, name)
