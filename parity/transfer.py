"""Weights from one framework to the other, with a full account of what matched and what did not."""

from dataclasses import dataclass

import numpy as np

from parity.adapters.base import Adapter
from parity.naming import Rules
from parity.pairing import pair


class TransferError(ValueError):
    """Some weight found no partner of its shape. `report` tells which."""

    def __init__(self, message: str, report: "TransferReport"):
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class TransferReport:
    """The account of a transfer.

    Attributes:
        source, target: names of the two models.
        matched: (source's own name, target's own name) of every tensor that was copied.
        unused: tensors of the source without a partner in the target.
        unmatched: tensors of the target without a partner in the source; they keep their values.
        wrong_shape: (canonical name, source's shape, target's shape), both in Keras layout.
    """

    source: str
    target: str
    matched: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]
    unmatched: tuple[str, ...]
    wrong_shape: tuple[tuple[str, tuple, tuple], ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor on both sides was matched exactly once."""
        return not (self.unused or self.unmatched or self.wrong_shape)

    def __str__(self):
        lines = [f"{self.source} -> {self.target}: {len(self.matched)} tensors matched"]
        for title, names in (
            ("in the source only", self.unused),
            ("in the target only", self.unmatched),
            ("of another shape", [f"{n}: source {a}, target {b}" for n, a, b in self.wrong_shape]),
        ):
            if names:
                more = f", and {len(names) - 8} more" if len(names) > 8 else ""
                lines.append(f"  {len(names)} {title}: {', '.join(names[:8])}{more}")
        return "\n".join(lines)


def match(source: Adapter, target: Adapter) -> TransferReport:
    """Pairs the weights of two models by canonical name and shape; copies nothing."""
    ours, theirs = source.weights(), target.weights()
    matched, wrong_shape = [], []
    for name, weight in ours.items():
        if name not in theirs:
            continue
        a, b = weight.array, theirs[name].array
        if a.shape == b.shape:
            matched.append((weight.native, theirs[name].native))
        else:
            wrong_shape.append((name, a.shape, b.shape))
    return TransferReport(
        source.name,
        target.name,
        tuple(matched),
        tuple(ours[name].native for name in ours if name not in theirs),
        tuple(theirs[name].native for name in theirs if name not in ours),
        tuple(wrong_shape),
    )


def transfer(source: Adapter, target: Adapter, strict: bool = True) -> TransferReport:
    """Copies every matching weight from source to target, bit for bit where the types agree.

    Raises:
        TransferError: if `strict` and not every tensor on both sides is matched once; nothing is copied then.
    """
    report = match(source, target)
    if strict and not report.complete:
        raise TransferError(f"The models do not match; nothing was copied.\n{report}", report)
    wrong = {name for name, _, _ in report.wrong_shape}
    target.assign({n: np.asarray(w.array) for n, w in source.weights().items() if n not in wrong})
    return report


def torch_to_keras(torch_model, keras_model, names: Rules = None, strict: bool = True) -> TransferReport:
    """Copies the weights and statistics of a torch module into a Keras model.

    Args:
        torch_model: a `torch.nn.Module`.
        keras_model: a built Keras model.
        names: how torch's module paths turn into Keras's layer names, see `parity.pair`.
        strict: refuse unless every tensor on both sides is matched exactly once. If False, whatever matches is
            copied and the report tells the rest.

    Returns:
        A `TransferReport`.

    Raises:
        TransferError: if `strict` and something does not match; nothing was copied.
    """
    source, target = pair(torch_model, keras_model, names)
    return transfer(source, target, strict)


def keras_to_torch(keras_model, torch_model, names: Rules = None, strict: bool = True) -> TransferReport:
    """Copies the weights and statistics of a Keras model into a torch module; see `torch_to_keras`."""
    source, target = pair(keras_model, torch_model, names)
    return transfer(source, target, strict)
