"""What rungs ask of a model of any framework: weights, settings, intermediate tensors and gradients by name.

An `Adapter` wraps one model. All names are canonical (see `kinds` and `naming`), all arrays are numpy in Keras's layout
(see `layout`), so that a rung need not know which framework it looks at.
"""

import contextlib
from dataclasses import dataclass, field

import numpy as np

from parity.naming import Rules

OUTPUT = "output"


@dataclass
class Call:
    """One layer at work: what went in (in order), what came out, and how it was called."""

    inputs: tuple[np.ndarray, ...]
    output: np.ndarray
    replay: object = field(repr=False, default=None)  # inputs -> output array, with new inputs


@dataclass(frozen=True)
class Weight:
    """A variable: its array in canonical layout, its own name in its framework, whether it is trained."""

    array: np.ndarray
    native: str
    trainable: bool


class Adapter:
    """What the rungs ask of a model; `KerasAdapter` and `TorchAdapter` answer.

    `draws` are what the model would draw at random, given instead: a dict of keyword arguments of its call, arrays or
    dicts of arrays.

    Args:
        model: the model.
        name: how reports call it.
        names: rules for layer names, see `naming.canonical_layer`.
        groups: prefixes of layer names that form a unit to isolate (a block), for models whose blocks are no
            layers of their own.
    """

    def __init__(self, model, name: str | None = None, names: Rules = None, groups=()):
        self.model = model
        self.name = name or getattr(model, "name", None) or type(model).__name__
        self.rules = names
        self.groups = tuple(groups)
        self.rename = lambda layer: layer

    def layers(self) -> dict[str, object]:
        """Canonical name to layer, in the order of the model."""
        raise NotImplementedError

    def kinds(self) -> dict[str, str]:
        """Canonical name to kind, of layers that hold weights."""
        raise NotImplementedError

    def weights(self) -> dict[str, Weight]:
        """Canonical "layer/variable" to `Weight`."""
        raise NotImplementedError

    def assign(self, arrays: dict[str, np.ndarray]) -> None:
        """Sets variables from arrays in canonical layout."""
        raise NotImplementedError

    def settings(self) -> dict[str, dict]:
        """Canonical layer name to its settings (epsilon, momentum, strides, rates ...), in Keras's conventions."""
        raise NotImplementedError

    def predict(self, inputs, training=False, draws=None) -> np.ndarray:
        """The output alone."""
        raise NotImplementedError

    def capture(self, inputs, training=False, draws=None) -> dict[str, Call]:
        """Runs the model once and records every layer, in the order they finished; the result is `output`."""
        raise NotImplementedError

    def train(self, inputs, cotangent, draws=None) -> tuple[dict[str, Call], dict[str, np.ndarray]]:
        """As `capture` in training mode, and d sum(output * cotangent) / d weight for every trainable weight.

        Moving averages are left as the pass has moved them, weights as they were.
        """
        raise NotImplementedError

    def promoted(self):
        """The same model in float64 as a new `Adapter`; None if it can't be rebuilt."""
        raise NotImplementedError

    def without_dropout(self):
        """Context in which no layer drops anything."""
        rates = []
        for layer in self.layers().values():
            for attribute in ("rate", "p"):
                value = getattr(layer, attribute, None)
                if isinstance(value, int | float):
                    rates.append((layer, attribute, value))
        return _replaced(rates, 0)

    @contextlib.contextmanager
    def preserved(self):
        """Context after which every weight is as it was, moving averages included."""
        before = {name: weight.array.copy() for name, weight in self.weights().items()}
        try:
            yield
        finally:
            self.assign(before)


@contextlib.contextmanager
def _replaced(attributes, value):
    for target, name, _ in attributes:
        setattr(target, name, value)
    try:
        yield
    finally:
        for target, name, old in attributes:
            setattr(target, name, old)
