"""What rungs ask of a model of any framework: weights, settings, intermediate tensors and gradients by name.

An `Adapter` wraps one model. All names are canonical (see `kinds` and `naming`), all arrays are numpy in Keras's layout
(see `layout`), so that a rung need not know which framework it looks at.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from parity import kinds
from parity.errors import eps_of
from parity.graph import Graph
from parity.naming import Rules, canonical_layer
from parity.shelf import Shelf

OUTPUT = "output"
AT_ONCE = 64 * 2**20  # bytes of weights that are copied together


@dataclass
class Call:
    """One layer at work: what went in (in order), what came out, and how it was called.

    Attributes:
        final: whether this is an output of the whole model.
    """

    inputs: tuple[np.ndarray, ...]
    output: np.ndarray
    replay: object = field(repr=False, default=None)  # inputs -> output array, with new inputs
    final: bool = False


@dataclass(frozen=True)
class Weight:
    """A variable: its array in canonical layout, its own name in its framework, whether it is trained.

    Attributes:
        exact: whether it is kept as it stands; if not it is computed of others (weight norm), up to rounding.
    """

    array: np.ndarray
    native: str
    trainable: bool
    exact: bool = True


class InputSpec(NamedTuple):
    """What a model says of one of its inputs, where it says anything: shapes have None for any size."""

    name: str
    shape: tuple | None = None
    integer: bool | None = None
    optional: bool = False


def named_outputs(output, name: str = OUTPUT) -> dict[str, object]:
    """Every tensor that a model returned, by name: "output", or "output a" and "output b" where there are several.

    Args:
        output: a tensor, or a sequence, mapping or dataclass of such, as deep as may be. What is no tensor is left out.
        name: of it.
    """
    found = dict(_flat(output, ()))
    if len(found) == 1:
        return {name: next(iter(found.values()))}
    return {f"{name} {'.'.join(path)}": tensor for path, tensor in found.items()}


def _flat(value, path) -> Iterator:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        yield path, value
    elif isinstance(value, Mapping):
        parts = value.items()
        yield from (found for key, part in parts for found in _flat(part, (*path, str(key))))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        yield from (found for key, part in parts for found in _flat(part, (*path, key)))
    elif isinstance(value, tuple | list):
        keys = getattr(value, "_fields", range(len(value)))
        parts = zip(keys, value, strict=True)
        yield from (found for key, part in parts for found in _flat(part, (*path, str(key))))


def in_parts(arrays: Mapping[str, np.ndarray]) -> Iterator[list[str]]:
    """Names of arrays, in order, in groups that may be copied together: at most `AT_ONCE` bytes, or a single one."""
    names, size = [], 0
    for name, array in arrays.items():
        if names and size + array.nbytes > AT_ONCE:
            yield names
            names, size = [], 0
        names.append(name)
        size += array.nbytes
    if names:
        yield names


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

    # Names of layers without weights that were found to act at random in training; see `without_dropout`.
    random_layers: frozenset = frozenset()
    recorded = False  # whether it is a trace of a model, which answers only what it was asked then
    opaque = False  # whether it is known by its inputs and outputs alone, as a file of a deployed model is

    def __init__(self, model, name: str | None = None, names: Rules = None, groups=()):
        self.model = model
        self.name = name or getattr(model, "name", None) or type(model).__name__
        self.rules = names
        self.groups = tuple(groups)
        self.rename = lambda layer: layer
        self.variables: dict[str, str] = {}  # canonical name of a variable to that of its partner, of another layer
        self.ignored: tuple[str, ...] = ()  # regular expressions of names that are not compared
        self.converters: dict = {}  # canonical name of a weight to a function from it to what the other side holds
        self.pairs: dict[str, str] = {}  # canonical name to the partner's, of layers paired by value or by order
        self.apart: dict[str, str] = {}  # path to name, of layers that rules would give one name

    def as_told(self, other):
        """This adapter, told all that another was: names, what is ignored or converted, what draws at random."""
        self.rename, self.apart, self.random_layers = other.rename, other.apart, other.random_layers
        self.ignored, self.converters, self.variables = other.ignored, other.converters, other.variables
        return self

    @property
    def eps(self) -> float:
        """The relative spacing of the model's float type."""
        return eps_of(self.dtype)

    def walk(self) -> Iterator[tuple[str, object]]:
        """(path in the framework's own words, layer) of every layer once, in the order of the model.

        The model itself is among them, under the path "", if it holds weights or has no parts.
        """
        raise NotImplementedError

    def named(self, path: str) -> str:
        """The canonical name of the layer at a path."""
        return self.apart.get(path) or self.rename(canonical_layer(path, self.rules))

    def ignores(self, name: str) -> bool:
        """Whether a layer or tensor of this canonical name was asked not to be compared."""
        return any(re.search(pattern, name) for pattern in self.ignored)

    def told(self, weights: dict[str, "Weight"]) -> dict[str, "Weight"]:
        """Weights as they are to be compared: without what is ignored, and converted where that was asked for."""
        if not self.ignored and not self.converters:
            return weights
        found = {}
        for name, weight in weights.items():
            if self.ignores(name):
                continue
            convert = self.converters.get(name)
            if convert is not None:
                weight = Weight(np.asarray(convert(weight.array)), weight.native, weight.trainable, exact=False)
            found[name] = weight
        return found

    def variable(self, name: str) -> str:
        """The canonical name of a variable after what was paired by itself."""
        return self.variables.get(name, name)

    def kind_of(self, layer) -> str:
        """The kind of a layer, see `kinds`."""
        raise NotImplementedError

    def holds(self, layer) -> bool:
        """Whether a layer holds weights of its own."""
        raise NotImplementedError

    def layers(self) -> dict[str, object]:
        """Canonical name to layer, in the order of the model.

        Of several layers that would have one name, the one that holds weights has it; the others get a number.
        """
        found = {}
        for path, layer in self.walk():
            name = key = self.named(path)
            again = 1
            while key in found:
                again += 1
                key = f"{name}#{again}"
            if key != name and self.holds(layer) and not self.holds(found[name]):
                found[key], found[name] = found[name], layer
            else:
                found[key] = layer
        return found

    def clashes(self) -> list[tuple[str, str, str]]:
        """(name, path, path) of layers that hold weights and would go by one name."""
        paths, found = {}, []
        for path, layer in self.walk():
            if self.holds(layer):
                name = self.named(path)
                if name in paths:
                    found.append((name, paths[name], path))
                paths.setdefault(name, path)
        return found

    def kinds(self) -> dict[str, str]:
        """Canonical name to kind, of layers that hold weights."""
        raise NotImplementedError

    def weights(self, trainable: bool = True) -> dict[str, Weight]:
        """Canonical "layer/variable" to `Weight`; a variable that several layers share is told once.

        Args:
            trainable: whether those that are trained are asked for too.
        """
        raise NotImplementedError

    def tied(self) -> dict[str, Weight]:
        """Further names of variables that several layers share, each as the layer of that name holds it."""
        return {}

    def parts(self) -> dict[str, list[tuple[str, np.ndarray]]]:
        """Of variables that are sums of tensors (an LSTM's two biases), each by its own name, in canonical layout."""
        return {}

    def assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Sets variables from arrays in canonical layout."""
        raise NotImplementedError

    def settings(self) -> dict[str, dict]:
        """Canonical layer name to its settings (epsilon, momentum, strides, rates ...), in Keras's conventions."""
        raise NotImplementedError

    def input_specs(self) -> list[InputSpec] | None:
        """What the model says of its inputs, in order; None if nothing."""
        return None

    def outputs(self, inputs, training=False, draws=None) -> dict[str, np.ndarray]:
        """Every output by name, see `named_outputs`."""
        raise NotImplementedError

    def predict(self, inputs, training=False, draws=None) -> np.ndarray:
        """The output alone; the first, where there are several."""
        return next(iter(self.outputs(inputs, training, draws).values()))

    def capture(self, inputs, training=False, draws=None) -> dict[str, Call]:
        """Runs the model once and records every layer, in the order they finished; at the end, its outputs."""
        raise NotImplementedError

    def graph(self, inputs, training=False, draws=None) -> Graph:
        """Runs the model once and records every operation, see `graph.Graph`."""
        raise NotImplementedError

    def train(self, inputs, cotangents, draws=None) -> tuple[dict[str, Call], dict[str, np.ndarray]]:
        """As `capture` in training mode, and d sum(output * cotangent) / d weight for every trainable weight.

        Moving averages are left as the pass has moved them, weights as they were.

        Args:
            cotangents: array by name of the output, for those that count.
        """
        raise NotImplementedError

    def backwards(self, inputs, cotangents, draws=None) -> dict[str, np.ndarray]:
        """d sum(output * cotangent) / d output of every layer's call, in training mode, by the names of `capture`.

        Zeros where nothing comes back to a layer.
        """
        raise NotImplementedError

    def recorded_passes(self) -> tuple[dict, dict | Exception, dict] | None:
        """What a trace has of training mode: tensors, gradients or an error, biased variances; None of a model."""
        return None

    def promoted(self, inputs=None):
        """The same model in float64 as a new `Adapter`, so far as it can be copied; see `promotion`.

        Args:
            inputs: one batch to build it by, where it can't tell for what shapes it was built.

        Raises:
            Exception: of any type, if it can't be copied.
        """
        raise NotImplementedError

    def without_dropout(self):
        """Context in which no layer drops anything: what is one by its class (`kinds.drops`) or in `random_layers`."""
        raise NotImplementedError

    def biased_variances(self):
        """Context whose value becomes, by name, moving variances as they would be of biased batch variances.

        Empty where the framework keeps the biased ones itself.
        """
        return contextlib.nullcontext({})

    def droppers(self) -> list:
        """The layers that `without_dropout` silences."""
        return [
            layer
            for name, layer in self.layers().items()
            if name in self.random_layers or (kinds.drops(layer) and not self.holds(layer))
        ]

    @contextlib.contextmanager
    def preserved(self, trainable: bool = True):
        """Context after which every weight is as it was, moving averages included.

        Args:
            trainable: whether those that are trained may change inside too; a pass in training mode moves others only.
        """
        before = Shelf((n, w.array) for n, w in self.weights(trainable).items())
        try:
            yield
        finally:
            self.assign(before)

    def as_found(self):
        """Context after which all of the model is as it was: weights, modes, gradients, states of random numbers."""
        return self.preserved()


@contextlib.contextmanager
def replaced(attributes):
    """Context in which attributes have other values: (object, name, value) each."""
    before = [(target, name, getattr(target, name)) for target, name, _ in attributes]
    for target, name, value in attributes:
        setattr(target, name, value)
    try:
        yield
    finally:
        for target, name, value in before:
            setattr(target, name, value)
