"""Weights from one framework to the other, with a full account of what matched and what did not."""

from dataclasses import dataclass, replace

import numpy as np

from parity.adapters.base import Adapter, Weight
from parity.layout import compatible
from parity.naming import NamesClash, Rules
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
        overwritten: tensors of the target that hold other numbers after the copy than were put into them, because
            they share their memory with another tensor.
    """

    source: str
    target: str
    matched: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]
    unmatched: tuple[str, ...]
    wrong_shape: tuple[tuple[str, tuple, tuple], ...]
    overwritten: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every tensor on both sides was matched exactly once."""
        return not (self.unused or self.unmatched or self.wrong_shape or self.overwritten)

    def __str__(self):
        lines = [f"{self.source} -> {self.target}: {len(self.matched)} tensors matched"]
        for title, names in (
            ("in the source only", self.unused),
            ("in the target only", self.unmatched),
            ("of another shape", [f"{n}: source {a}, target {b}" for n, a, b in self.wrong_shape]),
            ("overwritten by another tensor in the same place", self.overwritten),
        ):
            if names:
                more = f", and {len(names) - 8} more" if len(names) > 8 else ""
                lines.append(f"  {len(names)} {title}: {', '.join(names[:8])}{more}")
        return "\n".join(lines)


def weights_of_both(source: Adapter, target: Adapter) -> tuple[dict[str, Weight], dict[str, Weight]]:
    """Two models' weights by name; what several layers of one share, under each name that the other has too."""
    own = source.weights(), target.weights()
    return tuple(
        mine | {name: weight for name, weight in side.tied().items() if name in names and name not in mine}
        for side, mine, names in ((source, *own), (target, *own[::-1]))
    )


def match(source: Adapter, target: Adapter, weights=None) -> TransferReport:
    """Pairs the weights of two models by canonical name and shape; copies nothing.

    Args:
        weights: `weights_of_both`, where they are known already.
    """
    ours, theirs = weights or weights_of_both(source, target)
    matched, wrong_shape = [], []
    for name, weight in ours.items():
        if name not in theirs:
            continue
        a, b = weight.array, theirs[name].array
        if compatible(a.shape, b.shape):
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
        TransferError: if `strict` and not every tensor on both sides is matched once, or tensors of the target
            overwrite each other; nothing is copied then.
    """
    report = match(source, target)
    if strict and not report.complete:
        raise TransferError(f"The models do not match; nothing was copied.\n{report}", report)
    wrong = {name for name, _, _ in report.wrong_shape}
    sent = {n: np.array(w.array) for n, w in weights_of_both(source, target)[0].items() if n not in wrong}
    before = {n: np.array(w.array) for n, w in target.weights().items()} if strict else {}
    target.assign(sent)
    arrived = target.weights() | target.tied()
    lost = [arrived[n].native for n in sent if n in arrived and not _arrived(sent[n], arrived[n], target.eps)]
    if lost:
        report = replace(report, overwritten=tuple(lost))
        if strict:
            target.assign(before)
            raise TransferError(f"Tensors overwrite each other; nothing was copied.\n{report}", report)
    return report


def _arrived(sent: np.ndarray, weight: Weight, eps: float) -> bool:
    """Whether a variable holds what was sent, but for being rounded to the target's type."""
    found = weight.array.reshape(sent.shape)
    if sent.dtype.kind != "f":
        return np.array_equal(sent, found)
    sent, found = sent.astype(np.float64), found.astype(np.float64)
    rtol = eps if weight.exact else 16 * eps
    scale = 0.0 if weight.exact else float(np.abs(sent).max(initial=0.0))
    return np.allclose(found, sent, rtol=rtol, atol=np.finfo(np.float32).tiny + rtol * scale, equal_nan=True)


def _pair(source, target, names) -> tuple[Adapter, Adapter]:
    try:
        return pair(source, target, names)
    except NamesClash as error:
        sides = [getattr(model, "name", None) or type(model).__name__ for model in (source, target)]
        raise TransferError(f"{error} Nothing was copied.", TransferReport(*sides, (), (), (), ())) from error


def torch_to_keras(torch_model, keras_model, names: Rules = None, strict: bool = True) -> TransferReport:
    """Copies the weights and statistics of a torch module into a Keras model.

    Args:
        torch_model: a `torch.nn.Module`.
        keras_model: a built Keras model.
        names: how torch's module paths turn into Keras's layer names, see `parity.compare`.
        strict: refuse unless every tensor on both sides is matched exactly once. If False, whatever matches is
            copied and the report tells the rest.

    Returns:
        A `TransferReport`.

    Raises:
        TransferError: if two layers of one side would have one name, or `strict` and something does not match; nothing
            was copied.
    """
    source, target = _pair(torch_model, keras_model, names)
    return transfer(source, target, strict)


def keras_to_torch(keras_model, torch_model, names: Rules = None, strict: bool = True) -> TransferReport:
    """Copies the weights and statistics of a Keras model into a torch module; see `torch_to_keras`."""
    source, target = _pair(keras_model, torch_model, names)
    return transfer(source, target, strict)
