"""`parity.compare`: any two models up the ladder, and the report of what was found."""

import contextlib
from dataclasses import dataclass, field

from parity.adapters.base import Adapter
from parity.errors import CONSTANT_TOLERANCE, FAIL, FLOAT32_ALONE, FLOOR_ROUNDINGS, NOT_COMPARED, OK, Row
from parity.inputs import prepare
from parity.naming import Rules
from parity.pairing import pair
from parity.promotion import ROUNDINGS, Copy, copy_in_float64, grain
from parity.report.terminal import number, table_line
from parity.rungs import RUNGS, determinism
from parity.trace import Trace, judge_sides, match_outputs
from parity.transfer import transfer as transfer_weights

TRAINING = ("batch_norm", "gradients")  # rungs that `training=False` leaves out
COARSE = 1e-11  # rounding inside a copy that is no longer float64's own


@dataclass
class ComparisonReport:
    """What `compare` found.

    Attributes:
        rows: one `Row` a rung, in the order of the ladder; rungs that do not concern the pair are left out.
        transfer: what was copied before, a `TransferReport`, or None.
        notes: what else there is to know: in which type it was compared, and why; what could not be.
    """

    rows: list[Row]
    transfer: object = None
    notes: list[str] = field(default_factory=list)

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

    def __str__(self):
        lines = [self._headline(), *(table_line(row) for row in self.rows)]
        lines += [f"note: {note}" for note in self.notes]
        for row in self.rows:
            if row.message and (row.passed or row.status == NOT_COMPARED):
                lines.append(f"{row.check}: {row.message}")
        failure = self.first_failure
        if failure is not None:
            where = f" at {failure.first_divergence}" if failure.first_divergence else ""
            lines.append(f"They part on the rung '{failure.check}'{where}. {failure.message}".rstrip())
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
    inputs,
    names: Rules = None,
    transfer: bool = False,
    training: bool = True,
    float64: bool = True,
    tolerance: float = CONSTANT_TOLERANCE,
    strict: bool = False,
) -> ComparisonReport:
    """Compares any two models of which at least one was ported from the other.

    First each is run twice, for who gives another answer every time can't be compared. Then it climbs the ladder:
    configuration, structure, weights, every intermediate tensor, every layer by itself, training mode with moving
    averages, gradients. Neither model is changed, unless `transfer` is set.

    Args:
        reference, candidate: a `torch.nn.Module` or a built Keras model each.
        inputs: one batch as an array in Keras's layout `(batch, height, width, channels)`, a tuple or dict of
            arrays for several inputs, or a list of batches (the first is used for inference and gradients, all for
            the moving averages). Integers become floats where the models compute with them.
        names: None where layer names agree once "." and "/" become "_"; pairs of (regular expression, replacement)
            that turn torch's module paths into Keras's names; or "order", to pair layers by order within each kind.
        transfer: copy the reference's weights into the candidate first. Without it both must already have them.
        training: whether to compare training mode and gradients too. If not, what does not matter at inference is
            told and not failed: momenta, rates of dropout, biases of zeros.
        float64: compare copies in float64, where a correct port agrees to about 1e-12 and nothing hides behind
            rounding. A copy counts after it gave the model's own output. Where a model has none, or with False, both
            are compared in their own types, and float64 copies only tell how much rounding is allowed: the one of the
            reference, or else of the candidate, whose own rounding then is the measure for the other side.
        tolerance: allowed relative error in float64. The default lets pass what both frameworks do here and there,
            a constant rounded to float32 inside an otherwise exact operation; 1e-10 lets nothing pass.
        strict: fail for known differences of the frameworks too, that no port can help: torch's unbiased variance.

    Returns:
        A `ComparisonReport`; print it.

    Raises:
        TypeError: if a model is neither Keras nor torch.
        ValueError: if `names` is not understood or gives two layers one name; if a Keras model has no weights yet or
            does not run on TensorFlow; if the inputs are none that anything could be compared on (see
            `inputs.prepare`), or neither model runs on them.

    Example:

    >>> report = parity.compare(torch_model, keras_model, images, names="order", transfer=True)
    >>> print(report.first_failure)
    """
    reference, candidate = pair(reference, candidate, names)
    batches, notes = prepare(inputs, reference, candidate)
    if reference.name == candidate.name:
        reference.name, candidate.name = f"reference {reference.name}", f"candidate {candidate.name}"
    report = ComparisonReport([], notes=notes)
    if transfer:
        report.transfer = transfer_weights(reference, candidate, strict=False)
    with contextlib.ExitStack() as stack:
        for side in dict.fromkeys((reference, candidate)):
            stack.enter_context(side.as_found())
        own = {}
        fields = determinism.check(reference, candidate, batches[0], own)
        report.rows.append(Row("", reference.name, candidate.name, "determinism", candidate.dtype, **fields))
        if report.rows[0].passed:
            options = {"strict": strict, "serving": not training, "ranges": True}
            sides = _sides((reference, candidate), batches, own, float64, tolerance, options, notes)
            report.rows += _climb(*sides, training, notes)
    return report


def _sides(both, batches, own, float64, tolerance, options, notes) -> tuple:
    """The traces to compare, and the truth or None."""
    roles = ("reference", "candidate")
    steady = [(None, None) if options["serving"] else _steady_training(side, batches[0]) for side in both]
    copies = [
        copy_in_float64(side, batches[0], own[role], trained)
        for role, side, (_, trained) in zip(roles, both, steady, strict=True)
    ]
    for role, side, copied in zip(roles, both, copies, strict=True):
        if copied.adapter is None:
            notes.append(f"{role} {side.name}: {copied.reason}.")
        elif float64 and side.dtype not in ("float32", "float64"):
            notes.append(f"{role} {side.name} computes in {side.dtype}; half precision itself is not looked at.")
    truth = None
    if float64 and all(copied.adapter for copied in copies):
        traces = [Trace(copied.adapter, batches, tolerance=tolerance, **options) for copied in copies]
    else:
        traces, truth = _in_own_types(both, copies, batches, options, notes)
    for trace, (why, _) in zip(traces, steady, strict=True):
        trace.unsteady = why
    if _runs(*traces):
        lonely = match_outputs(*traces)
        if lonely:
            notes.append(f"Only {both[1].name} has {', '.join(lonely)}; that was not compared.")
        if truth is not None and truth.owner == "candidate":
            truth.aliases = traces[1].aliases
        elif truth is None and traces[1].adapter.dtype == "float64":
            _allow_grain(*traces, notes)
    return (*traces, truth)


def _allow_grain(reference: Trace, candidate: Trace, notes) -> None:
    """Raises the tolerance to what float32 inside the copies explains, where they are that near to each other."""
    errors = judge_sides(reference, candidate, None, (reference.activations, candidate.activations, None))
    if not COARSE < max((error.value for error in errors), default=0.0) < FLOAT32_ALONE:
        return
    rough = max(grain(trace.adapter, trace.batches[0]) for trace in (reference, candidate))
    if rough > COARSE:
        allowed = min(ROUNDINGS * rough, FLOAT32_ALONE / 10)
        if allowed > candidate.tolerance:
            notes.append(f"Something is computed in float32 even in the copies; allowed are {number(allowed)}.")
            candidate.tolerance = allowed


def _in_own_types(both, copies: list[Copy], batches, options, notes) -> tuple:
    """(traces, truth) where rounding is part of what is compared."""
    eps = max(side.eps for side in both)
    owner = next((n for n, copied in zip(("reference", "candidate"), copies, strict=True) if copied.adapter), None)
    types = " and ".join(dict.fromkeys(side.dtype for side in both))
    if owner is None:
        allowed = max(FLOAT32_ALONE, FLOOR_ROUNDINGS * eps)
        notes.append(f"Compared in {types} without a float64 copy to go by; {number(allowed)} is allowed, a guess.")
        return [Trace(side, batches, tolerance=allowed, **options) for side in both], None
    notes.append(f"Compared in {types}; what rounding may do is measured on the {owner}, by its float64 copy.")
    truth = Trace(next(copied.adapter for copied in copies if copied.adapter), batches, owner=owner)
    return [Trace(side, batches, **options) for side in both], truth


def _steady_training(side: Adapter, inputs) -> tuple[str | None, dict | None]:
    """(why a model can't be compared in training mode, its outputs in it if it can).

    A model that draws at random though its dropout is off can't.
    """
    try:
        for attempt in range(2):
            with side.without_dropout():
                apart, layer, outputs = determinism.look(side, inputs, training=True)
                if apart <= determinism.tolerance(side):
                    return None, outputs
                if not attempt:
                    found = determinism.random_layers(side, inputs)
            side.random_layers = side.random_layers | found
    except Exception:  # what training mode does not do, its rungs tell
        return None, None
    where = "" if layer is None else f", first {layer if layer.startswith('before') else 'at ' + layer}"
    return f"{side.name} draws at random in training mode (two runs are {apart:.1e} apart{where})", None


def _runs(*traces) -> bool:
    with contextlib.suppress(Exception):
        return all(trace.calls for trace in traces)
    return False


def _climb(reference: Trace, candidate: Trace, truth: Trace | None, training: bool, notes) -> list[Row]:
    rows = []
    unsteady = "; ".join(filter(None, (reference.unsteady, candidate.unsteady)))
    for name, check in RUNGS.items():
        if (name in TRAINING and not training) or not _concerns(name, reference, candidate):
            continue
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


def _concerns(name: str, reference: Trace, candidate: Trace) -> bool:
    """Whether a rung has anything to look at: models without weights have no gradients."""
    if name in ("structure", "weights"):
        return any(side.adapter.weights() for side in (reference, candidate))
    if name == "gradients":
        return any(w.trainable for side in (reference, candidate) for w in side.adapter.weights().values())
    if name == "isolated" and _runs(reference, candidate):
        return all(any(call.inputs for call in side.calls.values()) for side in (reference, candidate))
    return True


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
