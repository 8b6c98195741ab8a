"""What one model does with one set of images, computed once and then compared with any other model's."""

import contextlib
from functools import cached_property

import numpy as np

from parity.capture import OUTPUT, Call, Subject


class Evidence:
    """Everything the numerical rungs look at, computed on demand and kept.

    Args:
        subject: the model.
        batches: list of inputs, `(batch, height, width, 3)` arrays of pixel values or whatever the model takes.
            The first is used for inference and gradients, all for the moving averages.
        draws: windows and drop masks to use, if the model takes them. Without drop masks nothing is dropped.
        seed: of the direction in which the output is differentiated.
        tolerance: allowed relative error as a candidate without a truth to go by; None for `judge`'s default.
    """

    def __init__(self, subject: Subject, batches: list, draws=None, seed: int = 0, tolerance=None):
        self.subject = subject
        self.batches = batches
        self.draws = draws
        self.seed = seed
        self.tolerance = tolerance

    @cached_property
    def calls(self) -> dict[str, Call]:
        """Every layer's call at inference on the first batch, in the order they finished."""
        return self.subject.capture(self.batches[0], draws=self.draws)

    @property
    def activations(self) -> dict[str, np.ndarray]:
        """Every layer's output at inference on the first batch."""
        return {name: call.output for name, call in self.calls.items()}

    @cached_property
    def training(self) -> dict[str, np.ndarray]:
        """Every layer's output in a first training-mode pass, the outputs of further ones, the moving averages."""
        with self.subject.preserved(), self._dropping():
            calls = self.subject.capture(self.batches[0], training=True, draws=self.draws)
            found = {name: call.output for name, call in calls.items()}
            for step, batch in enumerate(self.batches[1:], start=2):
                found[f"{OUTPUT} of step {step}"] = self.subject.predict(batch, True, self.draws)
            for name, weight in self.subject.weights().items():
                if not weight.trainable:
                    found[name] = np.array(weight.array)
        return found

    @cached_property
    def gradients(self) -> dict[str, np.ndarray]:
        """Gradient of a fixed random combination of the outputs, by weight, in training mode."""
        shape = self.calls[OUTPUT].output.shape
        cotangent = np.random.default_rng(self.seed).normal(size=shape)
        with self._dropping():
            return self.subject.gradients(self.batches[0], cotangent, self.draws)

    def _dropping(self):
        injected = "drop_masks" in (self.draws or {})
        return contextlib.nullcontext() if injected else self.subject.without_dropout()
