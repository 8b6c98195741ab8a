"""Optimizers, losses and learning-rate schedules of one's own, from Python: what `fit` asks of them."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from torch_ref.training.recipe import Recipe, make_recipe

OF_RATES = ("schedule", "warmup_epochs", "hold_epochs", "decay")
OF_OPTIMIZERS = (*OF_RATES, "learning_rate", "rho", "momentum", "beta_1", "beta_2", "epsilon", "weight_decay")
OF_LOSSES = ("label_smoothing", "pos_weight")


@dataclass(frozen=True)
class Own:
    """What replaces parts of a recipe.

    Attributes:
        optimizer: a function of the parameters that gives a torch.optim.Optimizer, which keeps its own rate.
        loss: a function of (targets, logits), both (batch, 1), that gives losses per image or their mean.
        schedule: the learning rate as a function of the step, counted from 0 over the whole run.
    """

    optimizer: Callable | None = None
    loss: Callable | None = None
    schedule: Callable | None = None

    def identity(self) -> dict:
        """Plain values that tell one from another; {} if nothing is replaced."""
        found = {"loss": _told(self.loss), "learning_rate": _told(self.schedule)}
        if self.optimizer is not None:
            made = self.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
            found["optimizer"] = {"class": type(made).__name__, "config": {k: str(v) for k, v in made.defaults.items()}}
        if self.schedule is not None:
            self.rate(0)
        return {name: value for name, value in found.items() if value is not None}

    def make_optimizer(self, parameters) -> torch.optim.Optimizer:
        """A new optimizer."""
        made = self.optimizer(parameters)
        if not isinstance(made, torch.optim.Optimizer):
            raise ValueError(f"The function optimizer must give a torch.optim.Optimizer. Received: {made!r}")
        return made

    def rate(self, step: int) -> float:
        """What the schedule gives for a step."""
        found = self.schedule(step)
        try:
            rate = float(found)
        except (TypeError, ValueError):
            rate = math.nan
        if not 0 <= rate < math.inf:
            raise ValueError(
                "learning_rate, a function of the step, must give a number of at least 0. "
                f"Received: {found!r} for step {step}"
            )
        return rate


def split_own(options: dict, base, loss=None) -> tuple[Recipe, Own]:
    """The recipe and what replaces parts of it.

    Args:
        options: fields of `Recipe`; `optimizer` and `learning_rate` may be functions, see `Own`.
        base: name of a recipe, or a `Recipe`.
        loss: see `Own`.

    Raises:
        ValueError: as `make_recipe`; for fields that what is given has no use for; for what is no function.
    """
    options = dict(options)
    optimizer, schedule = (
        options.pop(name) if callable(options.get(name)) else None for name in ("optimizer", "learning_rate")
    )
    standard, recipe = make_recipe({}, base), make_recipe(options, base)
    for given, names, what in (
        (optimizer, OF_OPTIMIZERS, "optimizer"),
        (schedule, OF_RATES, "learning_rate"),
        (loss, OF_LOSSES, "loss"),
    ):
        useless = [name for name in names if getattr(recipe, name) != getattr(standard, name)]
        if given is not None and useless:
            raise ValueError(f"{', '.join(useless)}: {what} is your own, so that this has no effect; leave it out")
    if loss is not None:
        if not callable(loss):
            raise ValueError(f"loss must be a function of targets and logits. Received: {loss!r}")
        recipe = replace(recipe, label_smoothing=0.0, pos_weight=1.0)
    return recipe, Own(optimizer, loss, schedule)


def _told(function) -> dict | None:
    """A function as its name, with what is given to it beforehand."""
    if function is None:
        return None
    if isinstance(function, functools.partial):
        return _told(function.func) | {"arguments": str([*function.args, *sorted(function.keywords.items())])}
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return {"function": f"{getattr(function, '__module__', '')}.{name}"}
