import numpy as np
import pytest
import torch

from torch_ref.training import RMSprop


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_follow_the_formula(momentum, rng):
    w = torch.nn.Parameter(torch.from_numpy(rng.normal(size=5)))
    optimizer = RMSprop([w], lr=0.1, rho=0.8, eps=1e-3, momentum=momentum)
    expected, v, m = w.detach().numpy().copy(), 0.0, 0.0
    for _ in range(10):
        g = rng.normal(size=5)
        w.grad = torch.from_numpy(g)
        optimizer.step()
        v = 0.8 * v + 0.2 * g**2
        m = momentum * m + 0.1 * g / np.sqrt(v + 1e-3)
        expected -= m
        np.testing.assert_allclose(w.detach(), expected, rtol=1e-12)


def first_step(make):
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.full_like(w, 1e-6)
    make([w]).step()
    return float(w.detach().abs())


def test_difference_from_torch_optim():
    """The number in RMSprop's docstring: epsilon outside the root makes small gradients count 909 times as much."""
    inside = first_step(lambda p: RMSprop(p, lr=1e-3, rho=0.99, eps=1e-8))
    outside = first_step(lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.99, eps=1e-8))
    assert round(outside / inside) == 909


def test_state_survives_saving(rng):
    def run(steps, state=None, value=None):
        w = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64) if value is None else value)
        optimizer = RMSprop([w], momentum=0.9)
        if state is not None:
            optimizer.load_state_dict(state)
        for step in steps:
            w.grad = torch.from_numpy(np.random.default_rng(step).normal(size=3))
            optimizer.step()
        return w.detach(), optimizer.state_dict()

    whole, _ = run(range(10))
    half, state = run(range(5))
    assert torch.equal(run(range(5, 10), state, half)[0], whole)


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"rho": 1.0}, {"momentum": 1.0}, {"eps": 0.0}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is out of range"):
        RMSprop([torch.nn.Parameter(torch.zeros(1))], **wrong)
