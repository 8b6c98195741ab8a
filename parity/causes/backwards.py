"""Gradients at activations: where on the way back two models part, and what comes back to that place otherwise."""

from dataclasses import dataclass

import numpy as np

from parity.causes.scene import EXACT
from parity.graph import Unanswered
from parity.values import distance, varies


@dataclass(frozen=True)
class Return:
    """The last layer in the order forwards at whose output other gradients come back.

    Attributes:
        name: of its call.
        behind: the layers behind it, at which they agree, the nearest first.
        apart: how far the gradients are apart, relative L2.
        says: what comes back there otherwise; "" if that was not found out.
    """

    name: str
    behind: list[str]
    apart: float
    says: str

    def __str__(self):
        agree = f"they agree at {self.behind[0]} and " if self.behind else "they "
        return f"on the way back {agree}part at the output of {self.name}, by {self.apart:.1e}"


def locate(reference, candidate) -> Return | None:
    """Where the gradients part on the way back.

    None if they agree at all layers that both sides have, or if one side is a recording, which does not keep them.

    Args:
        reference, candidate: traces, of which every output in training mode agrees.
    """
    try:
        ours, theirs = reference.backwards, candidate.backwards
    except Unanswered:
        return None
    names = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
    names = [name for name in names if name not in candidate.cut]
    norms = [float(np.linalg.norm(ours[name])) for name in names]
    typical = float(np.median(norms)) if norms else 0.0
    allowed = candidate.tolerance or 1e-10
    behind = []
    for name in reversed(names):
        apart = float(np.linalg.norm(ours[name] - theirs[name])) / max(
            float(np.linalg.norm(ours[name])), 1e-5 * typical
        )
        if not apart <= 4 * allowed:
            return Return(name, behind, apart, _says(name, ours, theirs, behind))
        behind.insert(0, name)
    return None


def _says(name: str, ours: dict, theirs: dict, behind: list[str]) -> str:
    expected, found = ours[name].astype(np.float64), theirs[name].astype(np.float64)
    cut = "it is cut from the gradient there (detach, stop_gradient)"
    for array, other, side in ((found, expected, "candidate"), (expected, found, "reference")):
        if not array.any() and other.any():
            return f"in the {side} nothing comes back to it: {cut}."
    for array, other, side in ((found, expected, "candidate"), (expected, found, "reference")):
        for path in behind:
            part = ours[path]
            if part.shape == array.shape and varies(part) and distance(array + part, other) <= EXACT:
                return f"in the {side} what comes back through {path} is missing: {cut}."
    norm = float((expected * expected).sum())
    ratio = float((expected * found).sum()) / norm if norm else 0.0
    if ratio and distance(found, expected * ratio) <= EXACT:
        return f"in the candidate {ratio:.6g} times the reference's gradient comes back to it."
    return ""
