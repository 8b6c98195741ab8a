"""RMSprop as Keras has it, epsilon inside the root; in keras_stoch it is Keras's own."""

import torch

from torch_ref.training.recipe import Recipe


class RMSprop(torch.optim.Optimizer):
    """RMSprop with epsilon inside the square root, as in Keras.

        v <- rho v + (1 - rho) g^2
        m <- momentum m + lr g / sqrt(v + eps)
        w <- w - m

    `torch.optim.RMSprop` divides by `sqrt(v) + eps` instead. The two take the same steps while sqrt(v) is far above
    sqrt(eps), and very different ones below: for a constant gradient of 1e-6 and eps 1e-8, torch's first step is 909
    times as large (measured in tests/torch_ref/test_training.py).

    Args:
        params: iterable of parameters or parameter groups.
        lr: learning rate.
        rho: decay of the average of squared gradients (torch calls it alpha).
        momentum: decay of the accumulated steps; 0 for none.
        eps: added to the average before the root.

    Reference: section 5.1.1 of the paper: lr 1e-3, alpha 0.99, no momentum, no weight decay.
    """

    def __init__(self, params, lr=1e-3, rho=0.99, momentum=0.0, eps=1e-8):
        for name, value, valid in (
            ("lr", lr, lr >= 0),
            ("rho", rho, 0 <= rho < 1),
            ("momentum", momentum, 0 <= momentum < 1),
            ("eps", eps, eps > 0),
        ):
            if not valid:
                raise ValueError(f"{name} is out of range. Received: {name}={value!r}")
        super().__init__(params, {"lr": lr, "rho": rho, "momentum": momentum, "eps": eps})

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
                v = state["velocity"]
                v.mul_(group["rho"]).addcmul_(w.grad, w.grad, value=1 - group["rho"])
                step = group["lr"] * w.grad * torch.rsqrt(v + group["eps"])
                if group["momentum"] > 0:
                    step = state["momentum"].mul_(group["momentum"]).add_(step)
                w.sub_(step)
        return loss


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> RMSprop:
    """The recipe's optimiser of all parameters."""
    return RMSprop(model.parameters(), recipe.learning_rate, recipe.rho, recipe.momentum, recipe.epsilon)
