"""The recipe's optimisers as Keras has them, where keras_stoch has Keras's own; its loss, and averaged weights."""

import numpy as np
import torch
import torch.nn.functional as F

from torch_ref.training.recipe import Recipe


class RMSprop(torch.optim.Optimizer):
    """RMSprop with epsilon inside the square root, as in Keras.

        v <- rho v + (1 - rho) g^2
        m <- momentum m + lr g / sqrt(v + eps)
        w <- (1 - lr decay) w - m

    `torch.optim.RMSprop` divides by `sqrt(v) + eps` instead. The two take the same steps while sqrt(v) is far above
    sqrt(eps), and very different ones below: for a constant gradient of 1e-6 and eps 1e-8, torch's first step is 909
    times as large (measured in tests/torch_ref/test_training.py).

    Args:
        params: iterable of parameters or parameter groups.
        lr: learning rate.
        rho: decay of the average of squared gradients (torch calls it alpha).
        momentum: decay of the accumulated steps; 0 for none.
        eps: added to the average before the root.
        weight_decay: decay; 0 for none.

    Reference: section 5.1.1 of the paper: lr 1e-3, alpha 0.99, no momentum, no weight decay.
    """

    def __init__(self, params, lr=1e-3, rho=0.99, momentum=0.0, eps=1e-8, weight_decay=0.0):
        settings = {"lr": lr, "rho": rho, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        _check_range(settings, below_one=("rho", "momentum"))
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                if not state:
                    state["velocity"] = torch.zeros_like(w)
                    if group["momentum"] > 0:
                        state["momentum"] = torch.zeros_like(w)
                if group["weight_decay"]:
                    w.mul_(1 - group["lr"] * _as_in_keras(group["weight_decay"]))
                v = state["velocity"]
                v.mul_(group["rho"]).addcmul_(w.grad, w.grad, value=1 - group["rho"])
                step = group["lr"] * w.grad * torch.rsqrt(v + group["eps"])
                if group["momentum"] > 0:
                    step = state["momentum"].mul_(group["momentum"]).add_(step)
                w.sub_(step)
        return loss


class AdamW(torch.optim.Optimizer):
    """AdamW with epsilon where Keras has it.

        m <- b1 m + (1 - b1) g
        v <- b2 v + (1 - b2) g^2
        w <- (1 - lr decay) w - lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)

    `torch.optim.AdamW` divides by `sqrt(v / (1 - b2^t)) + eps`, so that epsilon counts less in the first steps. The two
    take the same steps while sqrt(v) is far above eps; for a gradient of 1e-8 and eps 1e-8, torch's first step is 16
    times as large (measured in tests/torch_ref/test_fine_tune.py).

    Args:
        params: iterable of parameters or parameter groups.
        lr: learning rate.
        betas: decay of the averages of gradients and of squared gradients.
        eps: added to the root.
        weight_decay: decay; 0 for none.

    Reference: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        settings = {"lr": lr, "beta_1": betas[0], "beta_2": betas[1], "eps": eps, "weight_decay": weight_decay}
        _check_range(settings, below_one=("beta_1", "beta_2"))
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta_1, beta_2 = group["beta_1"], group["beta_2"]
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                if not state:
                    state |= {"step": 0, "momentum": torch.zeros_like(w), "velocity": torch.zeros_like(w)}
                state["step"] += 1
                w.mul_(1 - group["lr"] * _as_in_keras(group["weight_decay"]))
                m, v = state["momentum"], state["velocity"]
                m.lerp_(w.grad, 1 - beta_1)
                v.mul_(beta_2).addcmul_(w.grad, w.grad, value=1 - beta_2)
                powers = (1 - _as_in_keras(beta) ** state["step"] for beta in (beta_2, beta_1))
                rate = group["lr"] * next(powers) ** 0.5 / next(powers)
                w.addcdiv_(m, v.sqrt() + group["eps"], value=-rate)
        return loss


def _as_in_keras(number: float) -> float:
    """Rounded to float32, whatever the type of the weights, as Keras casts plain numbers."""
    return float(np.float32(number))


def _check_range(settings: dict, below_one):
    for name, value in settings.items():
        good = value > 0 if name == "eps" else value >= 0 and (value < 1 or name not in below_one)
        if not good:
            raise ValueError(f"{name} is out of range. Received: {name}={value!r}")


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser of all parameters.

    Weight decay is of kernels: of parameters of two or more dimensions, which biases, gamma and beta have not.
    """
    groups = list(model.parameters())
    if recipe.weight_decay:
        kernels, rest = ([w for w in groups if (w.ndim >= 2) is kernel] for kernel in (True, False))
        groups = [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        betas = (recipe.beta_1, recipe.beta_2)
        return AdamW(groups, recipe.learning_rate, betas, recipe.epsilon, recipe.weight_decay)
    return RMSprop(groups, recipe.learning_rate, recipe.rho, recipe.momentum, recipe.epsilon, recipe.weight_decay)


def cross_entropy(targets, logits, recipe: Recipe) -> torch.Tensor:
    """The loss of a batch, of targets and logits (batch, 1); see `keras_stoch.training.optimizer`."""
    targets = targets.to(logits.dtype)
    if recipe.label_smoothing:
        targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    weight = None if recipe.pos_weight == 1 else logits.new_tensor(recipe.pos_weight)
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)


class Averages:
    """Averages of a model's parameters over the steps, w' <- w' + (1 - d) (w - w').

    d is the smaller of the recipe's decay and (1 + t) / (10 + t) after t steps, so that the first weights are forgotten
    in a short training too.

    Args:
        model: `torch.nn.Module`.
        decay: in (0, 1).

    Attributes:
        parameters: the averages.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay, self._steps = decay, 0
        self._weights = list(model.parameters())
        self.parameters = [w.detach().clone() for w in self._weights]

    @torch.no_grad()
    def update(self):
        """Takes in the weights after another step."""
        self._steps += 1
        rate = 1 - min(self.decay, (1 + self._steps) / (10 + self._steps))
        for average, weight in zip(self.parameters, self._weights, strict=True):
            average.add_(weight - average, alpha=rate)

    @torch.no_grad()
    def begin(self):
        """Begins anew from the weights as they are."""
        self._steps = 0
        for average, weight in zip(self.parameters, self._weights, strict=True):
            average.copy_(weight)

    @torch.no_grad()
    def swap(self):
        """Puts the averages in the place of the weights, or back."""
        for average, weight in zip(self.parameters, self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
