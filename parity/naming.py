"""One name for a layer, whichever framework holds it: torch's module paths and Keras's layer paths made alike."""

import re
from collections.abc import Sequence


class NamesClash(ValueError):
    """Two layers of one model, both with weights, would go by one name."""


Rules = Sequence[tuple[str, str]] | str | None


def ruled(path: str, rules: Rules = None) -> str:
    """A path after all rules, in order."""
    if rules is not None and not isinstance(rules, str):
        for pattern, replacement in rules:
            path = re.sub(pattern, replacement, path)
    return path


def canonical_layer(path: str, rules: Rules = None) -> str:
    """The canonical name of a torch module path or a Keras layer path.

    Args:
        path: for instance "block2a.se_reduce" or "encoder/block2a/se_reduce".
        rules: pairs of (regular expression, replacement), all applied in order before "." and "/" become "_".
    """
    return ruled(path, rules).replace(".", "_").replace("/", "_")
