"""One graph for all runs that train the same: what is around steps is tested without tracing them anew for every run.

`keras_stoch.fit` builds a model and traces its steps for every run, which takes seconds where a run of a few small
batches takes tenths. Tests of folders, signals, data and folds have no other question to the graph than whether its
numbers are the same; they ask for the fixture `traced_once`. A run still builds its model, whose weights and states of
random generators the engine is given, with an optimiser as it was when it was new. Likewise what `evaluate` and
`predict` compile: a twin of the model, made from its JSON, is given weights and states before every batch, and gives
the states back.
"""

import contextlib
import dataclasses
import functools
import importlib
import json

import keras
import numpy as np

from keras_stoch.evaluation import predictions
from keras_stoch.models import model_from_json
from keras_stoch.training.engine import Engine
from keras_stoch.training.recipe import Recipe

# What of a recipe is no part of the graph of a step: when there are how many steps, at which rate, on which images; and
# what stands in the model itself.
OUTSIDE = (
    *("epochs", "batch_size", "learning_rate", "schedule", "warmup_epochs", "hold_epochs", "decay", "patience"),
    *("balanced", "augment", "augment_validation"),
    *("dropout", "drop_connect", "low_res", "high_res", "window_sharing"),
)
_USUAL = {name: getattr(Recipe(), name) for name in OUTSIDE}
_MADE, _COMPILED = {}, {}


@contextlib.contextmanager
def engines_reused():
    """Context in which graphs are taken that were traced for such a model, and such a recipe, before."""
    module = importlib.import_module("keras_stoch.training.fit")
    before = module.Engine, predictions._compiled
    if before[0] is _engine:
        yield
        return
    module.Engine, predictions._compiled = _engine, functools.partial(_compiled, before[1])
    try:
        yield
    finally:
        module.Engine, predictions._compiled = before


def _compiled(real, model, passes):
    key = (_structure(model), passes)
    if key not in _COMPILED:
        try:
            twin = model_from_json(model.to_json())
        except Exception:  # of layers that Keras can not tell
            return real(model, passes)
        twin.set_weights(model.get_weights())
        for layer in twin._flatten_layers():
            if hasattr(layer, "finalize_state"):
                layer.finalize_state()
        _COMPILED[key] = twin, real(twin, passes)
    twin, run = _COMPILED[key]
    states = [pair for pair in zip(model.variables, twin.variables, strict=True) if "seed" in pair[0].path]

    def ask(inputs):
        for variable, new in zip(twin.variables, model.variables, strict=True):
            variable.assign(new)
        found = run(inputs)
        for variable, new in states:
            variable.assign(new)
        return found

    return ask


def _engine(build, recipe, strategy, own=None, steps=1) -> Engine:
    replaced = own is not None and own.identity()
    if replaced or recipe.freeze is not None or strategy.num_replicas_in_sync > 1:
        return Engine(build, recipe, strategy, own, steps)
    model = build()
    key = (_structure(model), dataclasses.replace(recipe, **_USUAL))
    if key not in _MADE:
        engine = Engine(lambda: model, recipe, strategy, own, steps)
        _MADE[key] = engine, [np.asarray(variable) for variable in engine.optimizer.variables]
        return engine
    engine, optimizer = _MADE[key]
    for variable, new in zip(engine.model.variables, model.variables, strict=True):
        variable.assign(new)
    for variable, new in zip(engine.optimizer.variables, optimizer, strict=True):
        variable.assign(new)
    if engine.averages is not None:
        engine.averages.begin()
    engine.recipe, engine.own, engine.steps = recipe, own or engine.own, steps
    return engine


def _structure(model) -> str:
    """Layers and how they are joined, without the numbers that Keras gives to those without a name.

    And the statistics of a normalisation, which a graph has as constants.
    """
    order = {layer.name: place for place, layer in enumerate(model.layers)}
    told = []
    for layer in model.layers:
        config = {name: value for name, value in layer.get_config().items() if name not in ("name", "seed")}
        before = [
            order[node.operation.name] for inbound in layer._inbound_nodes for node in inbound.parent_nodes
            if node.operation.name in order
        ]  # fmt: skip
        constants = [np.asarray(getattr(layer, name)).tolist() for name in ("mean", "variance") if _adapted(layer)]
        told.append((type(layer).__qualname__, config, before, constants))
    return json.dumps(told, default=repr)


def _adapted(layer) -> bool:
    return isinstance(layer, keras.layers.Normalization) and layer.mean is not None
