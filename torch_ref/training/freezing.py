"""The first stage of fine-tuning: which modules stay as they are, their batch norm in inference mode."""

import difflib
import re

import torch

from torch_ref.architectures import Architecture
from torch_ref.norms import BatchNorm2d

PLACE = re.compile(r"^(?:detail\.)?(stem|block\d+[a-z]+|top)[_.]")


def places_until(architecture: Architecture, until: str) -> set[str]:
    """The places up to one, or up to the last block of a stage.

    Raises:
        ValueError: if there is no place of that name.
    """
    places = ["stem", *(block.name for block in architecture.blocks), "top"]
    ends = [place for place in places if place == until or re.fullmatch(rf"{re.escape(until)}[a-z]+", place)]
    if not ends or (until != ends[-1] and not re.fullmatch(r"block\d+", until)):
        near = difflib.get_close_matches(until, places, 1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"freeze must be one of {', '.join(places)}. Received: freeze={until!r}{hint}")
    return set(places[: places.index(ends[-1]) + 1])


def set_frozen(model: torch.nn.Module, places: set[str], frozen: bool):
    """Freezes or thaws both branches of a model from `create_model` up to some places.

    Args:
        places: see `places_until`.
        frozen: which of the two.
    """
    for name, module in model.named_modules():
        match = PLACE.match(f"{name}.")
        if match and match[1] in places:
            if isinstance(module, BatchNorm2d):
                module.frozen = frozen
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(not frozen)
