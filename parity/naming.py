"""One name for a layer, whichever framework holds it: torch's module paths and Keras's layer paths made alike."""

import ast
import operator
import re
from collections.abc import Mapping, Sequence
from functools import cache


class NamesClash(ValueError):
    """Two layers of one model, both with weights, would go by one name."""


Rules = Sequence[tuple[str, str]] | Mapping[str, Sequence[tuple[str, str]]] | str | None
ORDER = "order"
_COUNTER = re.compile(r"\{([a-z]\w*)\}")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


def split_rules(names: Rules, sides: Sequence[tuple[str, ...]]) -> tuple[list[Sequence | None], bool]:
    """(rules of each side or None, whether what they leave is paired by order).

    Args:
        names: see `comparison.compare`.
        sides: what each side is called: its framework, "reference" or "candidate".

    Raises:
        ValueError: if `names` is not understood.
    """
    order = names == ORDER
    if names is None or order:
        return [None] * len(sides), order
    if isinstance(names, Mapping):
        known = {title for titles in sides for title in titles}
        if not names or not set(names) <= known:
            raise ValueError(f"names by side has the keys {', '.join(sorted(known))}. Received: {', '.join(names)}")
        found = [next((list(names[title]) for title in titles if title in names), None) for titles in sides]
    elif isinstance(names, str):
        raise _misunderstood(names)
    else:
        only_torch = {titles[0] for titles in sides} == {"torch", "keras"}
        found = [None if only_torch and titles[0] == "keras" else list(names) for titles in sides]
    for place, rules in enumerate(found):
        if rules and ORDER in rules:
            order = True
            found[place] = [rule for rule in rules if rule != ORDER]
        for rule in found[place] or ():
            if isinstance(rule, str) or len(rule) != 2 or not all(isinstance(part, str) for part in rule):
                raise _misunderstood(names)
    return found, order


def _misunderstood(names) -> ValueError:
    return ValueError(
        'names must be None, "order", a list of (pattern, replacement), which may end with "order", or a dict of such '
        f"lists by side. Received: {names!r}"
    )


def ruled(path: str, rules: Sequence[tuple[str, str]] | None = None) -> str:
    """A path after all rules, in order.

    A pattern is a regular expression, or has counters in braces: ("layer{s}.{i}", "conv{s+1}_block{i+1}").
    """
    for pattern, replacement in rules or ():
        path = counted(pattern, replacement, path) if _COUNTER.search(pattern) else re.sub(pattern, replacement, path)
    return path


def counted(pattern: str, replacement: str, path: str) -> str:
    """A path after a rule with counters: each stands for a whole number, the replacement may calculate with them."""

    def replaced(match):
        numbers = {name: int(value) for name, value in match.groupdict().items()}
        return re.sub(r"\{([^{}]+)\}", lambda m: str(_calculated(m[1], numbers)), replacement)

    return _counting(pattern).sub(replaced, path)


@cache
def _counting(pattern: str) -> re.Pattern:
    parts = _COUNTER.split(pattern)
    found, seen = "", set()
    for place, part in enumerate(parts):
        if place % 2 == 0:
            found += re.escape(part)
        else:
            found += f"(?P={part})" if part in seen else rf"(?P<{part}>\d+)"
            seen.add(part)
    return re.compile(rf"(?<!\d){found}(?!\d)" if parts[-1] == "" else found)


def _calculated(text: str, numbers: dict[str, int]) -> int:
    def value(node):
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id in numbers:
            return numbers[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError(f"A rule may add, subtract, multiply and divide (//) its counters. Received: {{{text}}}")

    return value(ast.parse(text, mode="eval").body)


def canonical_layer(path: str, rules: Sequence[tuple[str, str]] | None = None) -> str:
    """The canonical name of a torch module path or a Keras layer path.

    Args:
        path: for instance "block2a.se_reduce" or "encoder/block2a/se_reduce".
        rules: see `ruled`; all are applied in order before "." and "/" become "_".
    """
    return ruled(path, rules).replace(".", "_").replace("/", "_")
