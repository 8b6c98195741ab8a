"""Models of either framework behind one face: weights, settings, intermediate tensors and gradients by name.

A `Subject` wraps one model. All names are canonical (see `naming`), all arrays are numpy in Keras's layout, so that
a check need not know which framework it looks at.
"""

import contextlib
import re
from dataclasses import dataclass, field

import numpy as np

from parity import naming

OUTPUT = "output"
STOCHASTIC_SETTINGS = ("window", "output_size", "window_sharing", "normalize")


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


class Subject:
    """What the checks ask of a model; `KerasSubject` and `TorchSubject` answer.

    `draws` are what the model would draw at random, given instead: a dict of the keyword arguments of its call, for
    the models of this project `windows` (an array) and `drop_masks` (arrays by layer name).

    Args:
        model: the model.
        name: how reports call it.
        names: rules for layer names, see `naming.canonical_layer`.
        groups: prefixes of layer names that form a unit to isolate (a block), for models whose blocks are no
            layers of their own.
    """

    def __init__(self, model, name: str | None = None, names: naming.Rules = None, groups=()):
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

    def draw_windows(self, layer: str, image_size, batch: int) -> np.ndarray:
        """What a stochastic layer draws by itself: (filters, 2) or (batch, filters, 2)."""
        return np.asarray(self.layers()[layer].draw_windows(image_size, batch))

    def gradients(self, inputs, cotangent, draws=None) -> dict[str, np.ndarray]:
        """d sum(output * cotangent) / d weight in training mode, for every trainable weight."""
        raise NotImplementedError

    def promoted(self):
        """The same model in float64 as a new `Subject`; None if it can't be rebuilt."""
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


def is_torch(model) -> bool:
    """Whether `model` is a torch module, asked without importing torch for a Keras model."""
    return any(f"{cls.__module__}.{cls.__name__}" == "torch.nn.modules.module.Module" for cls in type(model).__mro__)


def subject(model, name=None, names: naming.Rules = None, groups=()) -> Subject:
    """Wraps a Keras model or a torch module.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(model, Subject):
        return model
    if is_torch(model):
        from parity.capture_torch import TorchSubject

        return TorchSubject(model, name, names, groups)
    import keras

    if isinstance(model, keras.Layer):
        if not model.built:
            raise ValueError(
                f"The Keras model {model.name!r} has no weights yet; call it once on an input of the right shape."
            )
        from parity.capture_keras import KerasSubject

        return KerasSubject(model, name, None, groups)
    raise TypeError(f"Expected a Keras model or a torch.nn.Module. Received: {type(model).__name__}")


def pair(reference, candidate, names: naming.Rules = None) -> tuple[Subject, Subject]:
    """Wraps two models so that their layers have common names.

    Args:
        reference, candidate: Keras models or torch modules (or `Subject`s, taken as they are).
        names: None where names agree; pairs of (regular expression, replacement) that turn torch's module paths
            into Keras's layer names; or "order", to pair layers by their order within each kind.
    """
    if isinstance(names, str) and names != "order":
        raise ValueError(f'names must be None, "order" or a list of (pattern, replacement). Received: {names!r}')
    reference, candidate = subject(reference, names=names), subject(candidate, names=names)
    torch_side = next((s for s in (reference, candidate) if s.framework == "torch"), None)
    keras_side = next((s for s in (reference, candidate) if s.framework == "keras"), None)
    if names == "order" and torch_side is not None and keras_side is not None:
        torch_side.rename = naming.by_order(torch_side.kinds(), keras_side.kinds())
    if torch_side is not None and keras_side is not None and not keras_side.groups:
        # Whatever is a module with parts in torch may be a run of layers with a common prefix in Keras.
        keras_side.groups = tuple(
            name for name, module in torch_side.layers().items() if next(module.children(), None) is not None
        )
    return reference, candidate


BLOCK = re.compile(r"^((?:detail_)?block\d+[a-z]+)_")


def block_names(subject_: Subject) -> tuple[str, ...]:
    """The blocks of an EfficientNet, by the prefix of its layers' names, in order."""
    found = (BLOCK.match(name) for name in subject_.layers())
    return tuple(dict.fromkeys(match.group(1) for match in found if match))
