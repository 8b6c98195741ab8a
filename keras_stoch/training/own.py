"""Optimizers, losses and learning-rate schedules of one's own, from Python: what `fit` asks of them."""

import functools
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from keras_stoch.training.recipe import Recipe, make_recipe

OF_RATES = ("schedule", "warmup_epochs", "hold_epochs", "decay")
OF_OPTIMIZERS = (*OF_RATES, "learning_rate", "rho", "momentum", "beta_1", "beta_2", "epsilon", "weight_decay")
OF_LOSSES = ("label_smoothing", "pos_weight")


@dataclass(frozen=True)
class Own:
    """What replaces parts of a recipe.

    Attributes:
        optimizer: a Keras optimizer, of which every run is given a copy, or a function that makes one.
        loss: a Keras loss of logits, or a function of (targets, logits), both (batch, 1), that gives losses per image
            or their mean.
        schedule: the learning rate as a function of the step, counted from 0 over the whole run, such as a Keras
            LearningRateSchedule.
    """

    optimizer: object = None
    loss: Callable | None = None
    schedule: Callable | None = None

    def identity(self) -> dict:
        """Plain values that tell one from another; {} if nothing is replaced.

        Raises:
            ValueError: as `make_optimizer`; for a schedule that gives no rate.
        """
        found = {"loss": self.loss, "learning_rate": self.schedule}
        if self.optimizer is not None:
            found["optimizer"] = self.make_optimizer()  # its settings tell more than a function's name
        if self.schedule is not None:
            self.rate(0)
        return {name: _told(value) for name, value in found.items() if value is not None}

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

    def make_optimizer(self):
        """A new optimizer, which keeps its own learning rate.

        Raises:
            ValueError: for what is none, or would not do here what it says.
        """
        import keras

        given = self.optimizer
        made = given
        if isinstance(given, keras.optimizers.Optimizer):
            made = _copy(given)
        elif not hasattr(given, "get_config") or isinstance(given, type):
            made = given()
        if not isinstance(made, keras.optimizers.Optimizer):
            raise ValueError(f"optimizer must be a Keras optimizer, or a function that makes one. Received: {made!r}")
        inner = getattr(made, "inner_optimizer", made)
        if inner.use_ema:
            raise ValueError("use_ema of an optimizer is not looked at here; average=0.999 keeps averaged weights")
        if self.schedule is not None and not _settable(inner):
            raise ValueError("learning_rate is a schedule, and the optimizer has one too; give one of them")
        return made


def split_own(options: dict, base, loss=None) -> tuple[Recipe, Own]:
    """The recipe and what replaces parts of it.

    Args:
        options: fields of `Recipe`; `optimizer` and `learning_rate` may be objects, see `Own`.
        base: name of a recipe, or a `Recipe`.
        loss: see `Own`.

    Raises:
        ValueError: as `make_recipe`; for fields that what is given has no use for; for what is neither.
    """
    options = dict(options)
    optimizer, schedule = options.get("optimizer"), options.get("learning_rate")
    if optimizer is not None and (callable(optimizer) or hasattr(optimizer, "get_config")):
        del options["optimizer"]
    else:
        optimizer = None
    if callable(schedule):
        del options["learning_rate"]
    else:
        schedule = None
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
        _check_loss(loss)
        recipe = replace(recipe, label_smoothing=0.0, pos_weight=1.0)
    return recipe, Own(optimizer, loss, schedule)


def has_rate_of_its_own(optimizer) -> bool:
    """Whether an optimizer asks a schedule for its rate, so that nobody can set it."""
    return not _settable(getattr(optimizer, "inner_optimizer", optimizer))


def _settable(optimizer) -> bool:
    import keras

    return isinstance(optimizer._learning_rate, keras.Variable)


def _copy(optimizer):
    """An optimizer of the same settings; which variables it does not decay is no setting in Keras."""
    config = optimizer.get_config()
    if not hasattr(optimizer, "inner_optimizer") and not _settable(optimizer):
        config["learning_rate"] = optimizer._learning_rate  # a class of one's own need not be known to Keras
    made = type(optimizer).from_config(config)
    inner, given = (getattr(one, "inner_optimizer", one) for one in (made, optimizer))
    if getattr(given, "_exclude_from_weight_decay", None):
        raise ValueError(
            "The optimizer excludes single variables from weight decay, which are not those of the model that is made; "
            "exclude them by name (var_names)"
        )
    pattern = getattr(given, "_exclude_from_weight_decay_pattern", None)
    if pattern is not None:
        inner.exclude_from_weight_decay(var_names=[pattern.pattern])
    return made


def _check_loss(loss):
    if not callable(loss) or isinstance(loss, type):
        raise ValueError(f"loss must be a Keras loss, or a function of targets and logits. Received: {loss!r}")
    if hasattr(loss, "get_config"):
        config, name = loss.get_config(), type(loss).__name__
    else:
        config, name = _defaults(loss), getattr(loss, "__name__", "loss")
    if config.get("from_logits") is False:
        raise ValueError(f"The model puts out logits: {name} needs from_logits=True")
    if config.get("reduction") == "sum":
        raise ValueError("The loss must be a mean over images. Received: reduction='sum'")


def _defaults(function) -> dict:
    """The defaults of a function's parameters, where it tells them."""
    try:
        return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    except (TypeError, ValueError):
        return {}


def _told(value) -> dict:
    """An object as its class and settings, a function as its name, with what is given to it beforehand."""
    if isinstance(value, functools.partial):
        return _told(value.func) | {"arguments": str([*value.args, *sorted(value.keywords.items())])}
    if not hasattr(value, "get_config"):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return {"function": f"{getattr(value, '__module__', '')}.{name}"}
    config = {name: setting for name, setting in value.get_config().items() if name != "name"}
    return {"class": type(value).__name__, "config": json.loads(json.dumps(config, default=_plain))}


def _plain(value):
    return _told(value) if hasattr(value, "get_config") or callable(value) else str(value)
