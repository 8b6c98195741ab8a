"""Trained models for serving without this package: `torch.export`, with the draws as an input."""

import math
from pathlib import Path

import torch

from torch_ref.files import replacing
from torch_ref.layers import StochasticConv2d


class _Probability(torch.nn.Module):
    def __init__(self, model, window=None, temperature=None, threshold_logit=None):
        super().__init__()
        self.model, self.window = model, window
        self.temperature, self.threshold_logit = temperature, threshold_logit

    def forward(self, low_res, high_res=None, windows=None):
        if windows is not None:
            last = [side - window for side, window in zip(high_res.shape[2:], self.window, strict=True)]
            inside = ((windows >= 0) & (windows <= torch.tensor(last, device=windows.device))).all()
            # A check that stays in the program: below zero, indices would count from the other end.
            torch.ops.aten._assert_async.msg(inside, f"windows must lie between 0 and {last} (top, left)")
        given = {} if high_res is None else {"high_res": high_res, "windows": windows}
        logits = self.model(low_res=low_res, **given)[:, 0]
        probability = torch.sigmoid(logits)
        if self.temperature is None:
            return probability
        found = {"probability": probability, "calibrated": torch.sigmoid(logits / self.temperature)}
        if self.threshold_logit is not None:
            found["decision"] = (logits >= self.threshold_logit).to(torch.int32)
        return found


def export(
    model: torch.nn.Module,
    path,
    low_res: int = 224,
    high_res: int | None = None,
    temperature: float | None = None,
    threshold_logit: float | None = None,
) -> Path:
    """Writes a model as a torch.export program (.pt2) that takes a batch of any size.

    The program takes `low_res` (batch, 3, low, low), float32 pixels 0-255, and for a model with a detail branch
    `high_res` (batch, 3, high, high), uint8, and `windows`, int64 (filters, 2), or (batch, filters, 2) with
    window_sharing="image": what the model would draw. Windows outside of the image are a RuntimeError. It returns
    probabilities (batch,). Load it with
    `torch.export.load(path).module()`.

    With a temperature it returns a dict instead: "probability", "calibrated" (of the logit divided by it) and, with a
    threshold, "decision", int32, 1 from it on; all (batch,). A calibration.json holds both under these names.

    Args:
        model: from `create_model`, with one class.
        path: file that ends with .pt2.
        low_res, high_res: sides in pixels that the model was made for.
        temperature: that logits are divided by to become calibrated probabilities.
        threshold_logit: logit, before division, from which on an image counts as malignant.

    Raises:
        ValueError: for another suffix, several classes, a `high_res` that does not go with the model, a temperature
            that is no positive number, or a threshold without one.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"The file must end with .pt2. Received: {path}")
    if model.predictions.out_features != 1:
        raise ValueError(f"Only models with one logit are exported. Received: {model.predictions.out_features} classes")
    if temperature is not None and not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a positive number. Received: {temperature!r}")
    if threshold_logit is not None and (temperature is None or not math.isfinite(threshold_logit)):
        raise ValueError(
            "threshold_logit must be a number, and goes with a temperature. Received: "
            f"{threshold_logit=}, {temperature=}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    stochastic = [module for module in model.modules() if isinstance(module, StochasticConv2d)]
    if bool(stochastic) != (high_res is not None):
        need = "needs high_res" if stochastic else "takes no high_res"
        raise ValueError(f"This model {need}. Received: high_res={high_res}")
    training = {module: module.training for module in model.modules()}
    # Slices would be cut at the positions of the example; gathered windows are data.
    before = [module.implementation for module in stochastic]
    for module in stochastic:
        module.implementation = "gather"
    window = stochastic[0].window if stochastic else None
    inputs = {"low_res": torch.zeros(2, 3, low_res, low_res)}
    batch = torch.export.Dim("batch", min=1, max=2**31 - 1)  # torch 2.5 wants an end
    shapes = {"low_res": {0: batch}}
    if stochastic:
        inputs |= {
            "high_res": torch.zeros(2, 3, high_res, high_res, dtype=torch.uint8),
            "windows": torch.zeros(stochastic[0].filters, 2, dtype=torch.int64),
        }
        shapes |= {"high_res": {0: batch}, "windows": None}
        if stochastic[0].window_sharing == "image":
            inputs["windows"] = inputs["windows"].repeat(2, 1, 1)
            shapes["windows"] = {0: batch}
    try:
        program = torch.export.export(
            _Probability(model, window, temperature, threshold_logit).eval(), (), inputs, dynamic_shapes=shapes
        )
    finally:
        for module, before_export in training.items():
            module.training = before_export
        for module, implementation in zip(stochastic, before, strict=True):
            module.implementation = implementation
    with replacing(path) as partial:
        torch.export.save(program, partial)
    return path
