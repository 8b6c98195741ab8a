"""Report files, each written whole or not at all."""

import math
from pathlib import Path

import numpy as np


def write_whole(path: Path, text: str) -> None:
    """Writes a text file under another name first, so that none is ever half there."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def finite(value):
    """JSON has no NaN and no infinity: they become strings."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
