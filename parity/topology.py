"""Pairs layers by where they stand: who feeds them, and whom they feed, in two graphs of operations."""

from collections import defaultdict

from parity.graph import Graph


def neighbours(graph: Graph, layers) -> dict[str, tuple[set, set]]:
    """Of each layer that holds weights, the layers before it and behind it that do, with none of them in between."""
    carried = {value: frozenset({"the inputs"}) for value in graph.sources}
    found = {name: (set(), set()) for name in layers}
    for node in graph.nodes:
        given = frozenset().union(*(carried.get(value, frozenset()) for value in node.inputs))
        if node.layer in found:
            before = found[node.layer][0]
            before |= given - {node.layer}
            given = frozenset({node.layer})
        for value in node.outputs:
            if value not in node.inputs:
                carried[value] = given
    for name, (before, _) in found.items():
        for other in before:
            if other in found:
                found[other][1].add(name)
    for value in graph.outputs.values():
        for name in carried.get(value, ()):
            if name in found:
                found[name][1].add("the outputs")
    return found


def by_structure(graphs: tuple[Graph, Graph], layers: tuple[dict, dict]) -> dict[str, str] | None:
    """Pairs layers of one kind and shape that stand in one place; None if the two graphs are not of one structure.

    Every layer has a colour, at first its kind and shape, then again and again what it has with its neighbours' colours
    (Weisfeiler and Lehman's refinement), until no colour splits. Layers of one colour are taken in their order.

    Args:
        layers: for each graph, canonical name to anything hashable that partners have in common.
    """
    around = [neighbours(graph, names) for graph, names in zip(graphs, layers, strict=True)]
    colours = [dict(names) for names in layers]
    ends = {"the inputs": -1, "the outputs": -2}
    count = 0
    while True:
        table = {}
        for side in (0, 1):
            new = {}
            for name, (before, behind) in around[side].items():
                seen = [sorted(repr(colours[side].get(n, ends.get(n))) for n in group) for group in (before, behind)]
                key = repr((colours[side][name], seen))
                new[name] = table.setdefault(key, len(table))
            colours[side] = new
        if len(table) == count:
            break
        count = len(table)
    groups = [defaultdict(list), defaultdict(list)]
    for side in (0, 1):
        for name, colour in colours[side].items():
            groups[side][colour].append(name)
    if {c: len(names) for c, names in groups[0].items()} != {c: len(names) for c, names in groups[1].items()}:
        return None
    return {a: b for colour, names in groups[0].items()
            for a, b in zip(names, _facing(names, groups[1][colour]), strict=True)}  # fmt: skip


def _facing(names: list[str], others: list[str]) -> list[str]:
    """Layers that stand in one place as those of other names do: by the initials of what tells them apart, or in order.

    Query, key and value stand in one place, and are made in any order.
    """
    initials = [_initials(names), _initials(others)]
    if len(set(initials[0])) < len(names) or sorted(initials[0]) != sorted(initials[1]):
        return others
    return [others[initials[1].index(letter)] for letter in initials[0]]


def _initials(names: list[str]) -> list[str]:
    """The first letter of each name behind what all have in common."""
    first, last = min(names), max(names)
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return [name[length : length + 1].lower() for name in names]


def by_sequence(graphs: tuple[Graph, Graph], layers: tuple[dict, dict]) -> dict[str, str]:
    """Pairs layers of one kind and shape by the order in which they are done: the longest common sequence.

    It holds where the two graphs are not of one structure, for one has a fault: blocks that share a module, a layer
    that is never called. A layer that is called again goes by its first call.

    Args:
        layers: for each graph, canonical name to anything hashable that partners have in common.
    """
    ours, theirs = (_done(graph, names) for graph, names in zip(graphs, layers, strict=True))
    keys = [[known[name] for name in order] for known, order in zip(layers, (ours, theirs), strict=True)]
    longest = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i in reversed(range(len(ours))):
        for j in reversed(range(len(theirs))):
            same = keys[0][i] == keys[1][j]
            longest[i][j] = longest[i + 1][j + 1] + 1 if same else max(longest[i + 1][j], longest[i][j + 1])
    pairs, taken, i, j = {}, set(), 0, 0
    while i < len(ours) and j < len(theirs):
        if keys[0][i] == keys[1][j]:
            if ours[i] not in pairs and theirs[j] not in taken:
                pairs[ours[i]] = theirs[j]
                taken.add(theirs[j])
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def _done(graph: Graph, names) -> list[str]:
    """The layers in the order in which they are done, each as often as it is called."""
    found, last = [], ""
    for node in graph.nodes:
        if node.layer in names and node.layer != last:
            found.append(node.layer)
        last = node.layer
    return found
