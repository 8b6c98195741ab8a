"""`parity.compare`: any two models up the ladder, and the report of what was found."""

from dataclasses import dataclass

from parity.errors import CONSTANT_TOLERANCE, Row
from parity.naming import Rules
from parity.pairing import pair
from parity.report.terminal import table_line
from parity.rungs import RUNGS
from parity.trace import Trace
from parity.transfer import transfer as transfer_weights


@dataclass
class ComparisonReport:
    """What `compare` found: one `Row` per rung, in the order of the ladder."""

    rows: list[Row]
    transfer: object = None

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def first_failure(self) -> Row | None:
        """The lowest rung that failed: start here, for what lies above may follow from it."""
        return next((row for row in self.rows if not row.passed), None)

    def __str__(self):
        lines = [table_line(row) for row in self.rows]
        failure = self.first_failure
        if failure is None:
            lines.append("Equal on every rung.")
        else:
            where = f" at {failure.first_divergence}" if failure.first_divergence else ""
            lines.append(f"They part on the rung '{failure.check}'{where}. {failure.message}".rstrip())
        return "\n".join(lines)


def compare(
    reference,
    candidate,
    inputs,
    names: Rules = None,
    transfer: bool = False,
    training: bool = True,
    float64: bool = True,
    tolerance: float = CONSTANT_TOLERANCE,
) -> ComparisonReport:
    """Compares any two models of which at least one was ported from the other.

    Climbs the ladder: configuration, structure, weights, every intermediate tensor, every layer by itself, training
    mode with moving averages, gradients. Neither model is changed, unless `transfer` is set.

    Args:
        reference, candidate: a `torch.nn.Module` or a built Keras model each.
        inputs: one batch as an array in Keras's layout `(batch, height, width, channels)`, a tuple or dict of
            arrays for several inputs, or a list of batches (the first is used for inference and gradients, all for
            the moving averages).
        names: None where layer names agree once "." and "/" become "_"; pairs of (regular expression, replacement)
            that turn torch's module paths into Keras's names; or "order", to pair layers by order within each kind.
        transfer: copy the reference's weights into the candidate first. Without it both must already have them.
        training: whether to compare training mode and gradients too.
        float64: compare copies in float64, where a correct port agrees to about 1e-12 and nothing hides behind
            rounding. Where a Keras model can't be rebuilt in float64 (subclassed, without get_config), the
            comparison is made in its own type.
        tolerance: allowed relative error in float64. The default lets pass what both frameworks do here and there,
            a constant rounded to float32 inside an otherwise exact operation; 1e-10 lets nothing pass.

    Returns:
        A `ComparisonReport`; print it.

    Raises:
        TypeError: if a model is neither Keras nor torch.
        ValueError: if `names` is not understood, or a Keras model has no weights yet.

    Example:

    >>> report = parity.compare(torch_model, keras_model, images, names="order", transfer=True)
    >>> print(report.first_failure)
    """
    reference, candidate = pair(reference, candidate, names)
    if reference.name == candidate.name:
        reference.name, candidate.name = f"reference {reference.name}", f"candidate {candidate.name}"
    report = ComparisonReport([])
    if transfer:
        report.transfer = transfer_weights(reference, candidate, strict=False)
    truth = None
    if float64:
        promoted = [reference.promoted(), candidate.promoted()]
        if all(promoted):
            reference, candidate = promoted
        else:
            truth = next((side for side in promoted if side is not None), None)
    batches = inputs if isinstance(inputs, list) else [inputs]
    allowed = tolerance if candidate.dtype == reference.dtype == "float64" else None
    sides = [Trace(side, batches, tolerance=allowed) for side in (reference, candidate)]
    if truth is not None:
        truth = Trace(truth, batches)
    for name, check in RUNGS.items():
        if not training and name in ("batch_norm", "gradients"):
            continue
        try:
            fields = check(*sides, truth)
        except Exception as error:  # a stranger's model may fail in any way; the other rungs still tell
            fields = {
                "passed": False,
                "measure": "",
                "value": None,
                "tolerance": None,
                "message": f"{type(error).__name__}: {error}",
            }
        report.rows.append(Row("", reference.name, candidate.name, name, candidate.dtype, **fields))
    return report
