"""What a planted fault is, and the list of all, which can be read without the frameworks that it is about."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


class Later:
    """A module that is imported as soon as something of it is asked for: who shares out the work needs names alone.

    Args:
        name: of the module.
    """

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str):
        return getattr(importlib.import_module(self._name), name)


@dataclass(frozen=True)
class Mutation:
    """A fault.

    Attributes:
        name: of the fault.
        rung: the lowest rung that must fail.
        layer: what that rung must name as the place.
        apply: breaks a model in place.
        model: the architecture to break.
        optimizer: a broken optimiser instead of a broken model.
        settings: key of `optimizer.SETTINGS`, for a broken optimiser.
        trainer: breaks a `lockstep.TorchTrainer` in place, instead of a model.
        recipe: that the trainer follows.
        pair: makes two models of a stranger's, inputs and arguments for `parity.compare`, which is to find the fault,
            or on the rung "refused" to refuse to compare, in a sentence with the words of `layer`.
    """

    name: str
    rung: str
    layer: str
    apply: Callable[[nn.Module], None] | None = None
    model: str = "b0"
    optimizer: Callable | None = None
    settings: str = "RMSprop"
    trainer: Callable | None = None
    recipe: str = "paper"
    pair: Callable[[], tuple] | None = None


MUTATIONS: list[Mutation] = []


def mutation(name: str, rung: str, layer: str, model: str = "b0"):
    """Registers a function that breaks a model."""

    def register(function):
        MUTATIONS.append(Mutation(name, rung, layer, function, model))
        return function

    return register


def training_mutation(name: str, layer: str, recipe: str = "paper"):
    """Registers a function that breaks a trainer: nothing that looks at a model alone can see it."""

    def register(function):
        MUTATIONS.append(Mutation(name, "lockstep", layer, trainer=function, recipe=recipe))
        return function

    return register


def pair_mutation(name: str, rung: str, layer: str):
    """Registers a function that makes a pair of models with a fault that a careless instrument passes over."""

    def register(function):
        MUTATIONS.append(Mutation(name, rung, layer, pair=function))
        return function

    return register
