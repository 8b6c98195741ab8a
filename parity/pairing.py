"""Who is whose partner: two models wrapped so that their layers have common names, by rule or by order."""

from collections import defaultdict
from collections.abc import Callable

from parity.adapters import adapt
from parity.adapters.base import Adapter
from parity.naming import Rules


def pair(reference, candidate, names: Rules = None) -> tuple[Adapter, Adapter]:
    """Wraps two models so that their layers have common names.

    Args:
        reference, candidate: Keras models or torch modules (or `Adapter`s, taken as they are).
        names: None where names agree; pairs of (regular expression, replacement) that turn torch's module paths
            into Keras's layer names; or "order", to pair layers by their order within each kind.
    """
    if isinstance(names, str) and names != "order":
        raise ValueError(f'names must be None, "order" or a list of (pattern, replacement). Received: {names!r}')
    reference, candidate = adapt(reference, names=names), adapt(candidate, names=names)
    torch_side = next((s for s in (reference, candidate) if s.framework == "torch"), None)
    keras_side = next((s for s in (reference, candidate) if s.framework == "keras"), None)
    if names == "order" and torch_side is not None and keras_side is not None:
        torch_side.rename = by_order(torch_side.kinds(), keras_side.kinds())
    if torch_side is not None and keras_side is not None and not keras_side.groups:
        # Whatever is a module with parts in torch may be a run of layers with a common prefix in Keras.
        keras_side.groups = tuple(
            name for name, module in torch_side.layers().items() if next(module.children(), None) is not None
        )
    return reference, candidate


def by_order(torch_layers: dict[str, str], keras_layers: dict[str, str]) -> Callable[[str], str]:
    """Pairs layers that hold weights by their order within each kind.

    Args:
        torch_layers, keras_layers: canonical name to kind, in the order of the models.

    Returns:
        A function from a torch layer's canonical name to that of its Keras partner (or itself, if it has none).
    """
    queues = defaultdict(list)
    for name, kind in keras_layers.items():
        queues[kind].append(name)
    pairs = {}
    for name, kind in torch_layers.items():
        if queues[kind]:
            pairs[name] = queues[kind].pop(0)
    return lambda name: pairs.get(name, name)
