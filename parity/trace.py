"""What one model does with one set of inputs, computed once and then compared with any other model's."""

import contextlib
from functools import cached_property

import numpy as np

from parity.adapters.base import OUTPUT, Adapter, Call


class Trace:
    """Everything the numerical rungs look at, computed on demand and kept.

    Args:
        adapter: the model.
        batches: list of inputs, `(batch, height, width, 3)` arrays of pixel values or whatever the model takes.
            The first is used for inference and gradients, all for the moving averages.
        draws: what the model would draw at random, if its call takes it.
        dropout: whether dropout acts in training mode, because its masks are among the draws; else nothing is dropped.
        seed: of the direction in which the output is differentiated.
        tolerance: allowed relative error as a candidate without a truth to go by; None for `judge`'s default.
    """

    def __init__(self, adapter: Adapter, batches: list, draws=None, seed: int = 0, tolerance=None, dropout=False):
        self.adapter = adapter
        self.batches = batches
        self.draws = draws
        self.seed = seed
        self.tolerance = tolerance
        self.dropout = dropout

    @cached_property
    def calls(self) -> dict[str, Call]:
        """Every layer's call at inference on the first batch, in the order they finished."""
        return self.adapter.capture(self.batches[0], draws=self.draws)

    @property
    def activations(self) -> dict[str, np.ndarray]:
        """Every layer's output at inference on the first batch."""
        return {name: call.output for name, call in self.calls.items()}

    @property
    def training(self) -> dict[str, np.ndarray]:
        """Every layer's output in a first training-mode pass, the outputs of further ones, the moving averages."""
        return self._passes[0]

    @property
    def gradients(self) -> dict[str, np.ndarray]:
        """Gradient of a fixed random combination of the outputs, by weight, in the first of these passes.

        Raises:
            Whatever the framework raised; the other tensors of these passes are there all the same.
        """
        found = self._passes[1]
        if isinstance(found, Exception):
            raise found
        return found

    @cached_property
    def _passes(self):
        """(`training`, `gradients` or what went wrong with them)."""
        with self.adapter.preserved(), self._dropping():
            calls, gradients = self._first_pass()
            found = {name: call.output for name, call in calls.items()}
            for step, batch in enumerate(self.batches[1:], start=2):
                found[f"{OUTPUT} of step {step}"] = self.adapter.predict(batch, True, self.draws)
            for name, weight in self.adapter.weights().items():
                if not weight.trainable:
                    found[name] = np.array(weight.array)
        return found, gradients

    def _first_pass(self):
        cotangent = np.random.default_rng(self.seed).normal(size=self.calls[OUTPUT].output.shape)
        before = {name: weight.array.copy() for name, weight in self.adapter.weights().items()}
        try:
            return self.adapter.train(self.batches[0], cotangent, self.draws)
        except Exception as error:  # some operation has no gradient, say: the outputs can be compared all the same
            self.adapter.assign(before)
            return self.adapter.capture(self.batches[0], training=True, draws=self.draws), error

    def _dropping(self):
        return contextlib.nullcontext() if self.dropout else self.adapter.without_dropout()
