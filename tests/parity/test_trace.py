"""A trace computes once what many comparisons ask of it."""

import numpy as np
import torch

from parity.adapters.torch import TorchAdapter
from parity.trace import Trace, pair_values


class Counted(TorchAdapter):
    """Counts how often its operations are recorded, by mode."""

    recorded_in = ()

    def graph(self, inputs, training=False, draws=None):
        self.recorded_in = (*self.recorded_in, training)
        return super().graph(inputs, training, draws)


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU()).double()


def test_operations_on_the_first_batch_are_recorded_once_in_each_mode():
    batch = np.random.default_rng(0).normal(size=(2, 6, 7, 2))
    reference = Counted(net())
    trace = Trace(reference, [batch])
    for _ in range(3):
        other = net()
        other[2] = torch.nn.SiLU()
        candidate = Trace(TorchAdapter(other), [batch])
        partners = pair_values(trace, candidate, batch)
        ends = [graph.outputs["output"] for graph in partners.graphs]
        assert all(end not in known for end, known in zip(ends, partners.of, strict=True))
        assert len(partners.of[0]) >= 3  # the images and what both norms are fed and make
        pair_values(trace, candidate, batch, training=True)
    assert sorted(reference.recorded_in) == [False, True]
    pair_values(trace, candidate, batch + 1)
    assert sorted(reference.recorded_in) == [False, False, True]
