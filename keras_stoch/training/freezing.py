"""The first stage of fine-tuning: which layers stay as they are, their batch norm in inference mode."""

import difflib
import re

from keras_stoch.architectures import Architecture

DETAIL = "detail_"
PLACE = re.compile(rf"^(?:{DETAIL})?(stem|block\d+[a-z]+|top)_")


def check_place_of(architecture: Architecture, until: str):
    """Raises ValueError unless a model by name has a place of that name."""
    _places_until(["stem", *(block.name for block in architecture.blocks), "top"], until)


def first_layers(model, until: str) -> list:
    """The layers of a Keras model up to a place, in both branches.

    Args:
        model: of this package or of your own.
        until: the name of a layer: it and all that it is computed from, and likewise the layer of that name behind
            "detail_", if there is one; of a model that is no graph of layers, those before it in `model.layers`. Or,
            where layers are named as EfficientNet's, a place such as "block4a".

    Raises:
        ValueError: if there is none, or nothing would be left to train.
    """
    names = [layer.name for layer in model.layers]
    if until in names:
        kept = _up_to(model, [name for name in (until, DETAIL + until) if name in names])
    else:
        places = [match[1] if (match := PLACE.match(name)) else None for name in names]
        chosen = _places_until(list(dict.fromkeys(filter(None, places))), until, names)
        kept = [layer for layer, place in zip(model.layers, places, strict=True) if place in chosen]
    frozen = {id(variable) for layer in kept for variable in layer.trainable_variables}
    if not any(id(variable) not in frozen for variable in model.trainable_variables):
        raise ValueError(f"freeze leaves nothing to train. Received: freeze={until!r}")
    return kept


def _up_to(model, names: list[str]) -> list:
    """Layers and all that they are computed from."""
    import keras

    try:
        outputs = [model.get_layer(name).output for name in names]
    except (AttributeError, ValueError):  # no graph, or a layer that stands in it twice
        return model.layers[: [layer.name for layer in model.layers].index(names[0]) + 1]
    return [layer for layer in keras.Model(model.inputs, outputs).layers if layer.weights]


def _places_until(places: list[str], until: str, layers=()) -> set[str]:
    """The places up to one, or up to the last block of a stage."""
    ends = [place for place in places if place == until or re.fullmatch(rf"{re.escape(until)}[a-z]+", place)]
    if not ends or (until != ends[-1] and not re.fullmatch(r"block\d+", until)):
        near = difflib.get_close_matches(until, [*places, *layers], 1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        told = f"one of {', '.join(places)}" if places else "the name of a layer"
        raise ValueError(f"freeze must be {told}. Received: freeze={until!r}{hint}")
    return set(places[: places.index(ends[-1]) + 1])


class Freezer:
    """Freezes the first layers of a model and thaws them, those that were frozen before excepted.

    Args:
        model: Keras model.
        until: see `first_layers`.
    """

    def __init__(self, model, until: str):
        # Parents before what they hold: a parent's flag is given to all that it holds.
        nested = [part for layer in first_layers(model, until) for part in layer._flatten_layers()]
        self._before = [(layer, layer.trainable) for layer in nested]
        self._frozen = False

    def set(self, frozen: bool) -> bool:
        """Freezes, or puts back what was before; whether that changed anything."""
        changed, self._frozen = frozen != self._frozen, frozen
        for layer, trainable in self._before if changed else ():
            layer.trainable = trainable and not frozen
        return changed
