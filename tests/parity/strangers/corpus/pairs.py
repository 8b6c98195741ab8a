"""What the corpus is made of: pairs of models, each with the verdict that is right, decided by hand."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import torch
from torch import nn

import parity
from parity.errors import Row
from tests.parity.strangers.models import L, random


@dataclass(frozen=True)
class Pair:
    """A torch module, a Keras model, and what is to be said of them.

    Attributes:
        name: of the pair.
        kind: what it is about, as the table of docs/parity.md groups it.
        make: gives (torch module, Keras model, inputs, keyword arguments of `parity.compare`).
        rungs: the rungs that may fail first; none where the models are equal.
        places: the canonical names that may be given as the place.
    """

    name: str
    kind: str
    make: Callable[[], tuple]
    rungs: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()

    @property
    def equal(self) -> bool:
        return not self.rungs

    def allows(self, row: Row) -> bool:
        """Whether a rung that failed is one that may, at a place that may be named."""
        return row.check in self.rungs and row.first_divergence in self.places

    def report(self) -> parity.ComparisonReport:
        keras.utils.set_random_seed(0)
        torch.manual_seed(0)
        reference, candidate, inputs, options = self.make()
        return parity.compare(reference, candidate, inputs, **options)


PAIRS: list[Pair] = []


def _words(words) -> frozenset[str]:
    return frozenset([words] if isinstance(words, str) else words or ())


def _add(name, kind, make, rungs=(), places=()) -> None:
    assert name not in {pair.name for pair in PAIRS}, name
    PAIRS.append(Pair(name, kind, make, _words(rungs), _words(places)))


def right(kind: str):
    """Registers a function that makes a right port."""

    def register(make):
        _add(make.__name__, kind, make)
        return make

    return register


def fault(kind: str, rungs, places):
    """Registers a function that makes a port with one fault."""

    def register(make):
        _add(make.__name__, kind, make, rungs, places)
        return make

    return register


def layered(kind, name, shape, original, port, faults=None, inputs=None, **options) -> None:
    """Registers a chain of layers, and the same with one fault each.

    Args:
        shape: of one input, channels last.
        original: function that makes torch modules; they are named by their place.
        port: function that makes Keras layers; they are named by their place too, None leaves a place empty, and
            (name, layer) has a name of its own.
        faults: name of a fault to (function that makes other Keras layers, rungs, places).
        inputs: function that makes the inputs; random numbers by default.
        options: keyword arguments of `compare`; weights are transferred by default.
    """
    options = {"transfer": True} | options

    def make(port):
        def made():
            given = random(2 if len(shape) > 1 else 5, *shape) if inputs is None else inputs()
            return chain(*original()), keras_chain(shape, *port()), given, options

        return made

    _add(name, kind, make(port))
    for fault_name, (wrong, rungs, places) in (faults or {}).items():
        _add(f"{name}__{fault_name}", kind, make(wrong), rungs, places)


def chain(*modules) -> nn.Sequential:
    return vary(nn.Sequential(*modules))


def keras_chain(shape, *layers, dtype=None) -> keras.Model:
    inputs = x = keras.Input(shape, dtype=dtype)
    for place, layer in enumerate(layers):
        if layer is None:
            continue
        name, layer = layer if isinstance(layer, tuple) else (str(place), layer)
        layer.name = name
        x = layer(x)
    return keras.Model(inputs, x)


def vary(module: nn.Module) -> nn.Module:
    """Gives constant parameters and statistics numbers of their own, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point() and tensor.numel() > 1 and (tensor == tensor.flatten()[0]).all():
                tensor += 0.5 * torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
    return module


def pixels(*shape, dtype="float32"):
    return np.random.default_rng(3).integers(0, 256, shape).astype(dtype)


def ids(*shape, vocabulary=20):
    return np.random.default_rng(4).integers(1, vocabulary, shape)


def array(tensor) -> np.ndarray:
    return tensor.detach().numpy()


def dense(module) -> list[np.ndarray]:
    """The weights of an nn.Linear as those of a Dense, by hand."""
    return [array(module.weight).T] + ([] if module.bias is None else [array(module.bias)])


def conv(module) -> list[np.ndarray]:
    """The weights of an nn.Conv2d as those of a Conv2D, by hand."""
    return [array(module.weight).transpose(2, 3, 1, 0)] + ([] if module.bias is None else [array(module.bias)])


def norm(module) -> list[np.ndarray]:
    """The weights and statistics of a norm in Keras's order, by hand."""
    kept = [module.weight, module.bias, getattr(module, "running_mean", None), getattr(module, "running_var", None)]
    return [array(tensor) for tensor in kept if tensor is not None]


def module(forward, **parts) -> nn.Module:
    """A torch module of some parts and a function `forward(self, *inputs)`."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

    Net.forward = lambda self, *inputs, **named: forward(self, *inputs, **named)
    return vary(Net())


def batch_norm(**changed) -> L.Layer:
    """A BatchNormalization with torch's defaults."""
    return L.BatchNormalization(**{"epsilon": 1e-5, "momentum": 0.9} | changed)
