"""One training step and one validation step. Section 4.1.8."""

import contextlib

import torch
import torch.nn.functional as F

from torch_ref.training.optimizer import cross_entropy
from torch_ref.training.recipe import Recipe


def train_step(
    model,
    optimizer,
    inputs: dict,
    targets: torch.Tensor,
    rate: float | None,
    draws=None,
    scaler=None,
    recipe: Recipe | None = None,
    loss_of=None,
):
    """One step of the optimiser on one batch.

    Args:
        model: from `create_model`, or anything that takes the same keywords.
        optimizer: `torch.optim.Optimizer`.
        inputs: dict of "low_res" and "high_res" tensors (batch, 3, side, side).
        targets: (batch,).
        rate: the learning rate; None for the optimizer's own.
        draws: dict of "windows" and "drop_masks" to use instead of draws.
        scaler: torch.amp.GradScaler, for float16.
        recipe: for its loss and precision; the paper's by default.
        loss_of: a function of (targets, logits) in the place of the recipe's loss.

    Returns:
        The mean loss before the step, and the logits (batch, 1), both detached.
    """
    recipe = recipe or Recipe()
    model.train()
    for group in optimizer.param_groups if rate is not None else ():
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with _autocast(recipe.mixed_precision, targets.device):
        logits = model(**inputs, **(draws or {}))
    if recipe.mixed_precision is not None:
        logits = logits.float()
    targets = targets.reshape(-1, 1).to(logits.dtype)
    loss = cross_entropy(targets, logits, recipe) if loss_of is None else loss_of(targets, logits).mean()
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return loss.detach(), logits.detach()


@torch.no_grad()
def validation_step(model, inputs: dict, recipe: Recipe) -> torch.Tensor:
    """Logits (of the mean probability over the passes), float64 (batch,), of a model in evaluation mode.

    Args:
        model: from `create_model`.
        inputs: as in `train_step`.
        recipe: `Recipe`, for its passes and precision.
    """
    with _autocast(recipe.mixed_precision, inputs["low_res"].device):
        logits = torch.stack([model(**inputs).double()[:, 0] for _ in range(recipe.passes)])
    if recipe.passes == 1:
        return logits[0]
    # The logit of the mean probability, in a form that does not overflow.
    return torch.logsumexp(F.logsigmoid(logits), 0) - torch.logsumexp(F.logsigmoid(-logits), 0)


def _autocast(precision, device):
    if precision is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))
