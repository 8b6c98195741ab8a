"""Who is whose partner: two models wrapped so that their layers have common names, by rule, by value or by order."""

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np

from parity.adapters import adapt
from parity.adapters.base import Adapter, Weight
from parity.layout import compatible
from parity.naming import NamesClash, Rules, split_rules
from parity.topology import by_sequence, by_structure
from parity.values import varies

# Kinds whose variables go by their layers.
EXPLAINED = ("conv", "conv_transpose", "depthwise", "dense", "batch_norm", "layer_norm", "rms_norm", "group_norm",
             "embedding", "prelu", "attention", "lstm", "gru", "rnn")  # fmt: skip


def pair(reference, candidate, names: Rules = None, inputs=None, transfer=False) -> tuple[Adapter, Adapter]:
    """Wraps two models so that their layers have common names.

    Args:
        reference, candidate: Keras models or torch modules (or `Adapter`s, taken as they are).
        names: None where names agree, or where the candidate has its weights, for what has no partner by name is then
            found by its numbers; pairs of (regular expression, replacement) that turn torch's module paths into Keras's
            layer names; or "order", to pair layers by their order within each kind and shape. Of two models of one
            framework, rules apply to both, and the candidate's layers take the reference's names by order.
        inputs: one batch, for pairing layers by their place in the graph of operations, where order leaves a choice.
        transfer: whether weights are to be copied by the pairing: then layers are paired by their place if no name of
            one side is on the other, for their numbers tell nothing.

    Raises:
        NamesClash: if two layers of one side, both with weights, have one name.
    """
    reference, candidate = adapt(reference), adapt(candidate)
    if reference.opaque or candidate.opaque:  # there are no layers to pair
        return reference, candidate
    sides = [(side.framework, role) for side, role in ((reference, "reference"), (candidate, "candidate"))]
    rules, order = split_rules(names, sides)
    for side, own in zip((reference, candidate), rules, strict=True):
        side.rules = side.rules or own
    if reference.framework == candidate.framework:
        named, giver = candidate, reference
    else:
        named, giver = (reference, candidate) if reference.framework == "torch" else (candidate, reference)
        if not giver.groups:
            # Whatever is a module with parts in torch may be a run of layers with a common prefix in Keras.
            parts = named.layers().items()
            giver.groups = tuple(name for name, m in parts if name and next(m.children(), None) is not None)
    if order:
        _pair_by_order(named, giver)
    elif names is None and list(named.kinds()) == [""] and len(giver.kinds()) == 1:
        (only,) = giver.kinds()
        named.rename = lambda layer: only if layer == "" else layer  # a model that is one layer
    if reference is candidate:
        return reference, candidate
    _separate(named, giver)
    _refuse_clashes(reference, candidate)
    if not order:
        found = by_value(named.weights(), giver.weights())
        if found:
            named.pairs = found
            taken = set(found.values())
            named.rename = lambda layer, before=named.rename: found.get(before(layer), _aside(before(layer), taken))
        loose = _loose(named.weights(), giver.weights())
        if loose:
            named.variables = loose
        if (
            not found
            and transfer
            and names is None
            and inputs is not None
            and not (named.kinds().keys() & giver.kinds().keys())
        ):
            _pair_by_structure(named, giver, inputs)
    elif inputs is not None:
        _pair_by_structure(named, giver, inputs)
    return reference, candidate


def _pair_by_order(named: Adapter, giver: Adapter) -> None:
    ours, theirs = named.kinds(), giver.kinds()
    common = ours.keys() & theirs.keys() if named.rules or giver.rules else set()  # rules have the first word
    ours, theirs = ({n: kind for n, kind in kinds.items() if n not in common} for kinds in (ours, theirs))
    named.rename = by_order(ours, theirs, _shapes(named), _shapes(giver))
    named.pairs = {name: named.rename(name) for name in ours if named.rename(name) in theirs}


def _aside(name: str, taken: set[str]) -> str:
    """A name of its own for a layer whose name was given to another."""
    return f"{name} (own)" if name in taken else name


def _separate(named: Adapter, giver: Adapter) -> None:
    """Two convolutions that rules give one name, that of a separable convolution, are its two parts."""
    parts = {"depthwise": "depthwise", "conv": "pointwise"}
    theirs = giver.kinds()
    both = defaultdict(dict)
    for name, first, second in named.clashes():
        for path, layer in named.walk():
            if path in (first, second):
                both[name][path] = parts.get(named.kind_of(layer))
    pairs = {
        path: f"{name}_{part}"
        for name, found in both.items()
        if sorted(filter(None, found.values())) == ["depthwise", "pointwise"] and f"{name}_pointwise" in theirs
        for path, part in found.items()
    }
    if pairs:
        named.apart = pairs


def by_value(layers: dict[str, Weight], partners: dict[str, Weight]) -> dict[str, str]:
    """Pairs layers that have no partner by name with those that hold the same numbers, in whatever order.

    Random numbers are as good as a fingerprint. What is constant throughout (a new bias, a new scale) tells nothing; it
    goes with the rest of its layer. Equal layers are taken in their order.

    Args:
        layers, partners: weights by canonical name, in the order of the models.

    Returns:
        Name of a layer to that of its partner, for those that have none by name.
    """

    def matched(name, weights, others):
        return name in others and compatible(weights[name].array.shape, others[name].array.shape)

    def lonely(weights, others):
        whole = defaultdict(list)
        for name in weights:
            whole[name.rpartition("/")[0]].append(matched(name, weights, others))
        return {layer for layer, found in whole.items() if layer and not any(found)}

    ours, theirs = lonely(layers, partners), lonely(partners, layers)
    holders = defaultdict(list)
    for name, weight in partners.items():
        layer = name.rpartition("/")[0]
        if layer in theirs and varies(weight.array):
            holders[_print(weight.array)].append(layer)
    votes = defaultdict(Counter)
    for name, weight in layers.items():
        layer = name.rpartition("/")[0]
        if layer in ours and varies(weight.array):
            for other in holders.get(_print(weight.array), ()):
                votes[layer][other] += weight.array.size
    pairs, taken = {}, set()
    for layer, found in votes.items():
        for other, _ in found.most_common():
            if other not in taken:
                pairs[layer] = other
                taken.add(other)
                break
    return pairs


def _pair_by_structure(named: Adapter, giver: Adapter, inputs) -> None:
    """Pairs layers by their place in the graph, where order leaves a choice: which branch comes first is chance."""
    plain = named.rename
    if named.rules or giver.rules:
        return
    named.rename = lambda layer: layer
    pairs = None
    with contextlib.suppress(Exception):  # a stranger's operation may refuse to be recorded; the order remains
        sides = named, giver
        graphs = tuple(side.graph(inputs) for side in sides)
        kinds, shapes = [side.kinds() for side in sides], [_shapes(side) for side in sides]
        slim = [{name: tuple(n for n in found.get(name, ()) if n != 1) for name in own}
                for own, found in zip(kinds, shapes, strict=True)]  # fmt: skip
        slim = [_unfolded(kinds[side], slim[side], slim[1 - side]) for side in (0, 1)]
        layers = tuple({name: (kind, slim[side][name]) for name, kind in kinds[side].items()} for side in (0, 1))
        pairs = by_structure(graphs, layers)
        if pairs is None:  # one of the two has a layer more or fewer
            sequence = by_sequence(graphs, layers)
            usual = {name: plain(name) for name in layers[0] if layers[1].get(plain(name)) == layers[0][name]}
            pairs = sequence if len(sequence) >= len(usual) else None
    if pairs:
        named.pairs = pairs
        taken = set(pairs.values())
        named.rename = lambda name: pairs.get(name, _aside(name, taken))
    else:
        named.rename = plain
    alone = _alone(named, giver)
    if alone:
        named.variables = alone


def _unfolded(kinds: dict, shapes: dict, others: dict) -> dict:
    """Shapes of kernels; of dense layers whose heads are apart, as the other side holds them folded, if it does."""
    known, found = set(others.values()), dict(shapes)
    for name, shape in shapes.items():
        if kinds[name] == "dense" and len(shape) == 3 and shape not in known:
            first, heads, last = shape
            folded = [way for way in ((first, heads * last), (first * heads, last)) if way in known]
            found[name] = folded[0] if folded else shape
    return found


def _alone(named: Adapter, giver: Adapter) -> dict[str, str]:
    """Pairs variables without partner that no kind explains: a class token, positions, the scale of a layer.

    Those of one name and shape in their order, if there are as many on both sides; else what is alone of its shape.
    """
    found = {}
    for told in (True, False):
        groups = []
        for side, taken in ((named, found.keys()), (giver, found.values())):
            groups.append(_unexplained(side, giver if side is named else named, taken, told))
        for key, names in groups[0].items():
            others = groups[1].get(key, ())
            if len(names) == len(others) and (told or len(names) == 1):
                found |= dict(zip(names, others, strict=True))
    return found


def _unexplained(side: Adapter, other: Adapter, taken, told: bool) -> dict[tuple, list[str]]:
    """Variables of one side alone by their shape, and by their own name if that is `told`."""
    kinds, theirs, found = side.kinds(), other.weights(), defaultdict(list)
    for name, weight in side.weights().items():
        layer, _, short = name.rpartition("/")
        shape = tuple(n for n in weight.array.shape if n != 1)
        if name in theirs or name in taken or not shape or (kinds.get(layer) in EXPLAINED and short != "embeddings"):
            continue
        found[shape, short if told else ""].append(name)
    return found


def _loose(layers: dict[str, Weight], partners: dict[str, Weight]) -> dict[str, str]:
    """Pairs variables without partner that hold the same numbers: a parameter of the root may be a layer's there."""
    ours, theirs = ({n: w for n, w in a.items() if n not in b} for a, b in ((layers, partners), (partners, layers)))
    prints = defaultdict(list)
    for name, weight in theirs.items():
        if varies(weight.array):
            prints[_print(weight.array)].append(name)
    found = {}
    for name, weight in ours.items():
        if not varies(weight.array):
            continue
        match = next((n for n in prints.get(_print(weight.array), ()) if n not in found.values()), None)
        if match is not None and compatible(weight.array.shape, theirs[match].array.shape):
            found[name] = match
    return found


def _print(array) -> str:
    """What all arrays of the same numbers have in common, in float32."""
    numbers = np.sort(np.asarray(array, np.float32), axis=None) + np.float32(0)  # no negative zeros
    return hashlib.sha1(numbers.tobytes()).hexdigest()


def _shapes(side: Adapter) -> dict[str, tuple]:
    """Canonical layer name to the shape of its largest variable."""
    found = {}
    for name, weight in side.weights().items():
        layer = name.rpartition("/")[0]
        if weight.array.size > np.prod(found.get(layer, (0,)), dtype=int):
            found[layer] = weight.array.shape
    return found


def _refuse_clashes(*sides: Adapter) -> None:
    for side in sides:
        for name, first, second in side.clashes():
            raise NamesClash(
                f"Two layers of {side.name} with weights, {first!r} and {second!r}, would both be called {name!r}; "
                "give rules (names=...) that tell them apart."
            )


def by_order(layers: dict[str, str], partners: dict[str, str], shapes=None, others=None) -> Callable[[str], str]:
    """Pairs layers that hold weights by their order within each kind and, where that is known, shape.

    Args:
        layers, partners: canonical name to kind, in the order of the models.
        shapes, others: canonical name to the shape of the kernel, for each side.

    Returns:
        A function from a layer's canonical name to that of its partner (or itself, if it has none).
    """
    shapes, others = shapes or {}, others or {}
    queues = defaultdict(list)
    for name, kind in partners.items():
        queues[kind].append(name)
    pairs = {}

    def fits(name, other):
        return name not in shapes or other not in others or compatible(shapes[name], others[other])

    for name, kind in layers.items():
        found = next((other for other in queues[kind] if fits(name, other)), None)
        if found is not None:
            pairs[name] = found
            queues[kind].remove(found)
    for name, kind in layers.items():  # what fits nowhere, by kind alone
        if name not in pairs and queues[kind]:
            pairs[name] = queues[kind].pop(0)
    taken = set(pairs.values())
    return lambda name: pairs.get(name, _aside(name, taken))
