"""`parity.compare`: any two models up the ladder, and the report of what was found."""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from parity.adapters import adapt
from parity.adapters.base import Adapter
from parity.arrangement import arrange
from parity.errors import FAIL, NOT_COMPARED, OK, Row
from parity.inputs import prepare, recorded_inputs
from parity.layout import compatible
from parity.naming import Rules
from parity.pairing import pair
from parity.precision import runs, traces
from parity.reconciliation import reconcile
from parity.report import page
from parity.report.terminal import number, table_line
from parity.rungs import RUNGS, determinism
from parity.scope import Scope, survey
from parity.trace import Trace
from parity.transfer import transfer as transfer_weights

TRAINING = ("batch_norm", "gradients")  # rungs that `training=False` leaves out
PAIRS_SHOWN = 6


@dataclass
class ComparisonReport:
    """What `compare` found.

    Attributes:
        rows: one `Row` a rung, in the order of the ladder; rungs that do not concern the pair are left out.
        transfer: what was copied before, a `TransferReport`, or None.
        notes: what else there is to know: in which type it was compared, and why; what could not be.
        causes: a `diagnosis.Finding` for everything in which the models differ: settings, weights, operations.
        pairs: (reference's name, candidate's name) of layers paired by value or by order, and not by their names.
        scope: how much of both sides was compared, and the error along the depth; None if nothing was.
    """

    rows: list[Row]
    transfer: object = None
    notes: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    causes: list = field(default_factory=list)
    scope: Scope | None = None

    @property
    def passed(self) -> bool:
        """Whether everything that was asked for was compared, and agrees."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def status(self) -> str:
        """ "ok", "FAIL", or "not compared" where nothing failed but something could not be compared."""
        if self.first_failure is not None:
            return FAIL
        return OK if self.passed else NOT_COMPARED

    @property
    def first_failure(self) -> Row | None:
        """The lowest rung that failed: start here, for what lies above may follow from it."""
        return next((row for row in self.rows if row.status == FAIL), None)

    def write(self, folder, command: str = "") -> Path:
        """Writes report.html, report.json and depth.svg into a folder, which is made if need be.

        Args:
            folder: where to.
            command: what was asked for, for the record.

        Returns:
            The path of report.html.
        """
        return page.write(self, folder, command)

    def __str__(self):
        lines = [self._headline(), *(table_line(row) for row in self.rows)]
        if self.scope is not None:
            lines.append(str(self.scope))
        if self.pairs:
            shown = ", ".join(f"{a} ~ {b}" for a, b in self.pairs[:PAIRS_SHOWN])
            more = f" and {len(self.pairs) - PAIRS_SHOWN} more" if len(self.pairs) > PAIRS_SHOWN else ""
            lines.append(f"paired: {shown}{more}")
        lines += [f"note: {note}" for note in self.notes]
        for row in self.rows:
            if row.message and (row.passed or row.status == NOT_COMPARED):
                lines.append(f"{row.check}: {row.message}")
        failure = self.first_failure
        if failure is not None:
            where = f" at {failure.first_divergence}" if failure.first_divergence else ""
            lines.append(f"They part on the rung '{failure.check}'{where}. {failure.message}".rstrip())
            lines += [f"why: {finding}" for finding in self.causes if finding.says]
            left = [finding.name for finding in self.causes if not finding.says]
            if len(self.causes) > 1 and left:
                lines.append(f"Without a cause that was found: {', '.join(left)}.")
        elif self.passed:
            lines.append("Equal on every rung.")
        else:
            left = ", ".join(row.check for row in self.rows if not row.passed) or "everything"
            lines.append(f"No verdict: not compared are {left}.")
        return "\n".join(lines)

    def _headline(self) -> str:
        """Whether the outputs agree, and how far."""
        row = next((row for row in self.rows if row.check == "forward"), None)
        outputs = row.details.get("outputs", {}) if row else {}
        if not outputs:
            return "Outputs were not compared."
        name, (value, allowed) = max(outputs.items(), key=lambda item: _share(*item[1]))
        which = "Outputs" if len(outputs) == 1 else f"{len(outputs)} outputs"
        worst = "" if len(outputs) == 1 else f", {name}"
        if value <= allowed:
            return f"{which} agree to {number(value)} (allowed: {number(allowed)}{worst})."
        return f"Outputs differ by {number(value)} (allowed: {number(allowed)}{worst})."


def _share(value, allowed) -> float:
    return value / allowed if value == value else float("inf")


def compare(
    reference,
    candidate,
    inputs=None,
    names: Rules = None,
    transfer: bool = False,
    training: bool = True,
    float64: bool = True,
    tolerance: float | None = None,
    strict: bool = False,
    convert: Mapping[str, Callable] | None = None,
    ignore: Sequence[str] = (),
) -> ComparisonReport:
    """Compares any two models of which at least one was ported from the other.

    First each is run twice, for who gives another answer every time can't be compared. Then it climbs the ladder:
    configuration, structure, weights, every intermediate tensor, every layer by itself, training mode with moving
    averages, gradients. Neither model is changed, unless `transfer` is set.

    Args:
        reference, candidate: a `torch.nn.Module` or a built Keras model each; or a path: of a trace (see `record`), or
            of a deployed model, which is compared by its inputs and outputs (the folder of a SavedModel, .onnx,
            .tflite, .pt2 of torch.export).
        inputs: one batch as an array in Keras's layout `(batch, height, width, channels)`, a tuple or dict of
            arrays for several inputs, or a list of batches (the first is used for inference and gradients, all for
            the moving averages). None for what a trace was recorded on. Integers become floats where the models
            compute with them.
        names: None where layer names agree once "." and "/" become "_", or where the candidate has its weights already:
            layers without partner by name are then paired by their numbers. Else (pattern, replacement) rules that turn
            torch's module paths into Keras's names: patterns are regular expressions, or count,
            ("layer{s}.{i}", "conv{s+1}_block{i+1}"). A dict of such lists by framework, or by "reference" and
            "candidate", has rules for both sides. "order" pairs layers by kind, shape and place in the graph; as the
            last of a list, what the rules leave.
        transfer: copy the reference's weights into the candidate first. Without it both must already have them.
        training: whether to compare training mode and gradients too. If not, what does not matter at inference is
            told and not failed: momenta, rates of dropout, biases of zeros.
        float64: compare copies in float64, where a correct port agrees to about 1e-12 and nothing hides behind
            rounding. A copy counts after it gave the model's own output. Where a model has none, or with False, both
            are compared in their own types, and float64 copies only tell how much rounding is allowed: the one of the
            reference, or else of the candidate, whose own rounding then is the measure for the other side.
        tolerance: allowed relative error in float64. The default, 1e-7, lets pass what both frameworks do here and
            there, a constant rounded to float32 inside an otherwise exact operation; 1e-10 lets nothing pass. Gradients
            may be off by four times as much: they are products of what may be off by that. Where neither side has a
            copy in float64 it holds for their own types, whose default is 1e-4.
        convert: for weights that no kind of layer explains: canonical name "layer/variable" to a function from the
            reference's array, in Keras's layout, to what the candidate holds. It is used for transfer too; gradients of
            these are not compared.
        ignore: regular expressions; layers and weights whose canonical names match are not compared, which is told.
        strict: fail for known differences of the frameworks too, that no port can help: torch's unbiased variance.

    Returns:
        A `ComparisonReport`; print it.

    Raises:
        TypeError: if a model is neither Keras nor torch.
        ValueError: if `names` is not understood or gives two layers one name; if a Keras model has no weights yet or
            does not run on TensorFlow; if the inputs are none that anything could be compared on (see
            `inputs.prepare`), or neither model runs on them.

    Example:

    ```python
    >>> report = parity.compare(torch_model, keras_model, images, names="order", transfer=True)
    >>> print(report.first_failure)
    ```
    """
    reference, candidate = adapt(reference), adapt(candidate)
    inputs = recorded_inputs(inputs, reference, candidate)
    if transfer and (candidate.recorded or candidate.opaque or reference.opaque):
        raise ValueError(f"Weights go from a model, or its trace, into a model. Received: transfer to {candidate.name}")
    batches, notes = prepare(inputs, reference, candidate)
    notes += _told_of_files(reference, candidate)
    training = training and not (reference.opaque or candidate.opaque)
    pair(reference, candidate, names, batches[0], transfer)
    if reference.name == candidate.name:
        reference.name, candidate.name = f"reference {reference.name}", f"candidate {candidate.name}"
    _set_apart(reference, candidate, convert or {}, tuple(ignore), notes)
    report = ComparisonReport([], notes=notes)
    report.pairs = [(a, b) for a, b in reference.pairs.items()] or [(b, a) for a, b in candidate.pairs.items()]
    report.pairs = [(a, b) for a, b in report.pairs if a != b]
    if transfer:
        report.transfer = transfer_weights(reference, candidate, strict=False)
    with contextlib.ExitStack() as stack:
        for side in dict.fromkeys((reference, candidate)):
            stack.enter_context(side.as_found())
        notes += arrange(reference, candidate, batches[0])
        own = {}
        fields = determinism.check(reference, candidate, batches[0], own)
        report.rows.append(Row("", reference.name, candidate.name, "determinism", candidate.dtype, **fields))
        if report.rows[0].passed:
            options = {"strict": strict, "serving": not training, "ranges": True}
            sides = traces((reference, candidate), batches, own, float64, tolerance, options, notes)
            report.rows += _climb(*sides, training, notes)
            reconcile(report.rows, *sides[:2])
            if not (reference.opaque or candidate.opaque):
                from parity import diagnosis  # not for files, which are verified where there is no SciPy

                report.causes = diagnosis.findings(report.rows, *sides[:2], notes)
            report.scope = survey(report.rows, *sides[:2], report.causes)
    return report


def _set_apart(reference: Adapter, candidate: Adapter, convert: Mapping, ignore: tuple[str, ...], notes) -> None:
    """Has converted and ignored what was asked for.

    Raises:
        ValueError: if there is no such name, or a conversion does not give what the candidate holds.
    """
    ours, theirs = reference.weights(), candidate.weights()
    names = {*ours, *theirs, *reference.layers(), *candidate.layers()}
    for pattern in ignore:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"ignore has a pattern that matches no layer or weight. Received: {pattern!r}")
    for name, function in convert.items():
        if name not in ours or name not in theirs:
            where = " and ".join(side.name for side, w in ((reference, ours), (candidate, theirs)) if name not in w)
            raise ValueError(f"convert names a weight that {where} does not have. Received: {name!r}")
        made, wanted = np.shape(function(ours[name].array)), theirs[name].array.shape
        if not compatible(made, wanted):
            raise ValueError(f"convert[{name!r}] gives shape {made} where {candidate.name} holds {wanted}")
    for side in (reference, candidate):
        side.ignored = ignore
    reference.converters = dict(convert)
    if ignore:
        found = sorted(name for name in names if reference.ignores(name))
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        notes.append(f"Not compared, as asked: {', '.join(found[:8])}{more}.")
    if convert:
        notes.append(f"Converted, as asked: {', '.join(convert)}.")


def _climb(reference: Trace, candidate: Trace, truth: Trace | None, training: bool, notes) -> list[Row]:
    rows = []
    unsteady = "; ".join(filter(None, (reference.unsteady, candidate.unsteady)))
    for name, check in RUNGS.items():
        if (name in TRAINING and not training) or not _concerns(name, reference, candidate):
            continue
        for side in filter(None, (reference, candidate, truth)):
            side.rest()
        if name in TRAINING and unsteady:
            fields = _nothing(unsteady)
        else:
            try:
                fields = check(reference, candidate, truth)
            except Exception as error:  # a stranger's model may fail in any way; the other rungs still tell
                fields = _blamed(name, reference, candidate, error)
        dtype = candidate.adapter.dtype
        rows.append(Row("", reference.adapter.name, candidate.adapter.name, name, dtype, **fields))
    return rows


def _told_of_files(*sides: Adapter) -> list[str]:
    """What is to be known of sides that are no models."""
    notes = []
    for side in sides:
        if side.recorded:
            notes.append(side.told_versions())
            if side.document["statistics"]:
                notes.append(
                    f"{side.name} was recorded in statistics: errors are estimates, give or take a tenth; operations "
                    "and single layers are not compared."
                )
        if side.opaque:
            notes.append(f"{side.name} is compared by its inputs and outputs alone.")
    return list(filter(None, notes))


def _concerns(name: str, reference: Trace, candidate: Trace) -> bool:
    """Whether a rung has anything to look at: models without weights have no gradients."""
    adapters = reference.adapter, candidate.adapter
    if any(adapter.opaque for adapter in adapters):
        return name == "forward"
    if name == "isolated" and (candidate.adapter.recorded or any(_in_statistics(a) for a in adapters)):
        return False
    if name in ("structure", "weights"):
        return any(side.adapter.weights() for side in (reference, candidate))
    if name == "gradients":
        return any(w.trainable for side in (reference, candidate) for w in side.adapter.weights().values())
    if name == "isolated" and runs(reference, candidate):
        return all(any(call.inputs for call in side.calls.values()) for side in (reference, candidate))
    return True


def _in_statistics(adapter: Adapter) -> bool:
    return adapter.recorded and adapter.document["statistics"]


def _nothing(why: str) -> dict:
    return {
        "passed": False,
        "status": NOT_COMPARED,
        "measure": "",
        "value": None,
        "tolerance": None,
        "message": why,
    }


_NEEDS = {"batch_norm": "training", "gradients": "gradients"}


def _blamed(name: str, reference: Trace, candidate: Trace, error) -> dict:
    """The verdict where a rung ended with an error: a failure only if the candidate alone can't do what is asked."""
    failed = []
    for role, side in (("reference", reference), ("candidate", candidate)):
        try:
            getattr(side, _NEEDS.get(name, "calls"))
        except Exception as own:
            failed.append(role)
            error = own
    text = str(error).strip()
    message = f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:300]
    if failed:
        message = f"the {' and the '.join(failed)} failed: {message}"
    fields = _nothing(message)
    if failed == ["candidate"] and candidate.adapter.dtype != "float64":
        fields["status"] = FAIL
    return fields
