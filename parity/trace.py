"""What one model does with one set of inputs, computed once and then compared with any other model's."""

import contextlib
from dataclasses import replace
from functools import cached_property

import numpy as np

from parity.adapters.base import OUTPUT, Adapter, Call
from parity.errors import FLOAT32_ALONE, FLOAT64_TOLERANCE, Error, judge
from parity.graph import Graph
from parity.shelf import Shelf
from parity.sketch import comparable
from parity.values import Partners

SCALE = 10.0  # standard deviations: beyond every kink (ReLU6, hard sigmoid) and into every tail


class Trace:
    """Everything the numerical rungs look at, computed on demand and kept.

    Args:
        adapter: the model.
        batches: list of inputs, `(batch, height, width, 3)` arrays of pixel values or whatever the model takes.
            The first is used for inference and gradients, all for the moving averages.
        draws: what the model would draw at random, if its call takes it.
        dropout: whether dropout acts in training mode, because its masks are among the draws; else nothing is dropped.
        seed: of the direction in which the output is differentiated.
        tolerance: allowed relative error as a candidate without a truth to go by; None for `judge`'s default.
        owner: as a truth, whose float64 copy it is: "reference" or "candidate".
        strict: as a candidate, whether known differences of the frameworks count as faults.
        serving: as a candidate, whether only inference matters: then momenta and rates do not.
        ranges: as a candidate, whether to look beyond the range of the given inputs, see `scaled`.
    """

    def __init__(
        self,
        adapter: Adapter,
        batches: list,
        draws=None,
        seed: int = 0,
        tolerance=None,
        dropout=False,
        *,
        owner="reference",
        strict=True,
        serving=False,
        ranges=False,
    ):
        self.adapter = adapter
        self.batches = batches
        self.draws = draws
        self.seed = seed
        self.tolerance = tolerance
        self.dropout = dropout
        self.owner = owner
        self.strict = strict
        self.serving = serving
        self.ranges = ranges
        self.unsteady = None  # why training mode can not be compared
        self.alike = FLOAT32_ALONE  # as a candidate in float32, how far equal values may be apart
        self.missing = []  # as a candidate, outputs that only the reference has
        self.aliases = {}  # own names of outputs to those of the other side
        self.partners = None  # as a candidate, the values that both sides have, see `pair_values`
        self.parted = None  # as a candidate, those on the inputs on which the outputs part, if they do
        self.cut = {}  # as a candidate, tensors of one name that are not the same place, and why that is no fault
        self.rearranged = {}  # as a candidate, weight to what brings it into the reference's order, flat
        self._shelves = []  # of arrays that are kept
        self._recorded = {}  # training mode or not to the graph of the first batch
        self.biased = {}  # see `Adapter.biased_variances`; filled with `training` where `strict` is not set

    @cached_property
    def _calls(self) -> dict[str, Call]:
        calls, shelf = self.adapter.capture(self.batches[0], draws=self.draws), Shelf()
        for call in calls.values():
            for array in (*call.inputs, call.output):  # one call's output is another's input
                if isinstance(array, np.ndarray) and id(array) not in shelf:
                    shelf[id(array)] = array
        views = shelf.views()
        self._shelves.append(shelf)
        return {
            name: replace(
                call,
                inputs=tuple(views.get(id(array), array) for array in call.inputs),
                output=views.get(id(call.output), call.output),
            )
            for name, call in calls.items()
        }

    def graph(self, inputs, training: bool = False) -> Graph:
        """Every operation at inference or in training mode; those on the first batch are recorded once."""
        first = inputs is self.batches[0]
        if first and training in self._recorded:
            return self._recorded[training]
        with self.acting() if training else contextlib.nullcontext():
            found = self.adapter.graph(inputs, training, self.draws)
        if first:
            self._recorded[training] = found
        return found

    def rest(self) -> None:
        """Gives back the memory of arrays that were looked at, see `Shelf.rest`."""
        for kept in (*self._shelves, *self._recorded.values()):
            kept.rest()

    @property
    def calls(self) -> dict[str, Call]:
        """Every layer's call at inference on the first batch, in the order they finished."""
        return self._renamed(self._calls)

    @property
    def activations(self) -> dict[str, np.ndarray]:
        """Every layer's output at inference on the first batch."""
        return {name: call.output for name, call in self.calls.items()}

    @property
    def outputs(self) -> list[str]:
        """Names of the model's outputs."""
        return [name for name, call in self.calls.items() if call.final]

    def _renamed(self, found: dict) -> dict:
        if self.adapter.ignored:
            found = {n: v for n, v in found.items() if is_output(n) or not self.adapter.ignores(n)}
        return {self.aliases.get(name, name): value for name, value in found.items()} if self.aliases else found

    @property
    def training(self) -> dict[str, np.ndarray]:
        """Every layer's output in a first training-mode pass, the outputs of further ones, the moving averages."""
        return self._passes[0]

    @property
    def gradients(self) -> dict[str, np.ndarray]:
        """Gradient of a fixed random combination of the outputs, by weight, in the first of these passes.

        Raises:
            Whatever the framework raised; the other tensors of these passes are there all the same.
        """
        found = self._passes[1]
        if isinstance(found, Exception):
            raise found
        return found

    @cached_property
    def _passes(self):
        """(`training`, `gradients` or what went wrong with them)."""
        recorded = self.adapter.recorded_passes()
        if recorded is not None:
            training, gradients, biased = recorded
            self.biased = {} if self.strict else biased
            return self._renamed(training), gradients
        with self.adapter.preserved(trainable=False), self._dropping(), self._told_biased() as biased:
            calls, gradients = self._first_pass()
            found = Shelf((name, call.output) for name, call in self._renamed(calls).items())
            del calls
            for step, batch in enumerate(self.batches[1:], start=2):
                more = self._renamed(self.adapter.outputs(batch, True, self.draws))
                found.update({f"{name} of step {step}": array for name, array in more.items()})
            found.update({name: weight.array for name, weight in self.adapter.weights(trainable=False).items()})
            self.biased = dict(biased)
        return found, gradients

    def _told_biased(self):
        return contextlib.nullcontext({}) if self.strict else self.adapter.biased_variances()

    @property
    def _cotangents(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        return {
            name: rng.normal(size=call.output.shape)
            for name, call in self._calls.items()
            if call.final and call.output.dtype.kind == "f"
        }

    @cached_property
    def backwards(self) -> dict[str, np.ndarray]:
        """What comes back to every layer's output in the pass of `gradients`, in the order of the pass forwards."""
        with self.acting():
            return self._renamed(self.adapter.backwards(self.batches[0], self._cotangents, self.draws))

    def _first_pass(self):
        cotangents = self._cotangents
        before = {name: weight.array.copy() for name, weight in self.adapter.weights(trainable=False).items()}
        try:
            return self.adapter.train(self.batches[0], cotangents, self.draws)
        except Exception as error:  # some operation has no gradient, say: the outputs can be compared all the same
            self.adapter.assign(before)
            return self.adapter.capture(self.batches[0], training=True, draws=self.draws), error

    @contextlib.contextmanager
    def acting(self):
        """Context for passes in training mode: as `training` makes them, and without a trace afterwards."""
        with self.adapter.preserved(trainable=False), self._dropping():
            yield

    def _dropping(self):
        return contextlib.nullcontext() if self.dropout else self.adapter.without_dropout()


def scaled(array: np.ndarray, seed: int = 0, inside: bool = False) -> np.ndarray:
    """Floats moved to mean 0 and standard deviation `SCALE`, normal noise where they do not vary; integers as they are.

    Pictures between 0 and 1 never leave the middle of an activation: ReLU6 is ReLU there, and every slope is one.

    Args:
        inside: whether the array comes from inside of a model, where what is never negative may be so by design:
            behind a ReLU a pooling may pad with zeros. Then its sign is kept.
    """
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return array
    array = array.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        spread = float(array.std()) if array.size else 0.0
        if not np.isfinite(spread) or spread <= 1e-12 * float(np.abs(array).max(initial=0.0)):
            return np.random.default_rng(seed).normal(size=array.shape) * SCALE
        mean = 0.0 if inside and array.min() >= 0 else array.mean()
        return (array - mean) / spread * SCALE


def map_inputs(function, inputs):
    """A function on every array of the inputs, in the same structure."""
    if isinstance(inputs, dict):
        return {name: function(array) for name, array in inputs.items()}
    return tuple(map(function, inputs)) if isinstance(inputs, tuple) else function(inputs)


def match_outputs(reference: Trace, candidate: Trace) -> list[str]:
    """Gives the candidate's outputs the reference's names: by name, and the rest by order, for a tuple has no names.

    What only the reference has is `candidate.missing` from then on.

    Returns:
        Outputs that only the candidate has.
    """
    ours, theirs = reference.outputs, candidate.outputs
    ours, theirs = ([n for n in names if n not in others] for names, others in ((ours, theirs), (theirs, ours)))
    candidate.aliases = dict(zip(theirs, ours, strict=False))
    candidate.missing = ours[len(theirs) :]
    return theirs[len(ours) :]


def pair_values(reference: Trace, candidate: Trace, inputs, training: bool = False) -> Partners:
    """Records every operation of both sides at inference or in training mode, and finds the values that are equal.

    In float32 equal is what rounding explains, as far as that was measured (`Trace.alike`).
    """
    graphs = []
    for side in (reference, candidate):
        graph = side.graph(inputs, training)
        outputs = {side.aliases.get(name, name): number for name, number in graph.outputs.items()}
        graphs.append(replace(graph, outputs=outputs))
    double = all(side.adapter.dtype == "float64" for side in (reference, candidate))
    return Partners(*graphs, (candidate.tolerance or FLOAT64_TOLERANCE) if double else candidate.alike)


def is_output(name: str) -> bool:
    """Whether this is the name of an output of a model, see `adapters.base.named_outputs`."""
    return name == OUTPUT or (name.startswith(f"{OUTPUT} ") and name != f"{OUTPUT} layer")


def judge_sides(reference: Trace, candidate: Trace, truth: Trace | None, arrays, floor: float = 0.0) -> list[Error]:
    """`errors.judge` on arrays of two traces, by the candidate's tolerance or by the truth and whose it is.

    Args:
        arrays: three dicts of arrays by name, of the reference, the candidate and the truth (or None).
        floor: see `errors.relative_l2`.
    """
    arrays = comparable(*arrays[:2], arrays[2] if truth is not None else None)
    return judge(
        *arrays,
        floor,
        candidate.tolerance,
        "reference" if truth is None else truth.owner,
        max(reference.adapter.eps, candidate.adapter.eps),
    )
