"""A recorded model behind the face of an `Adapter`: it answers what it was asked then, and nothing else."""

import contextlib
from functools import cached_property

import numpy as np

from parity.adapters.base import Adapter, Call, InputSpec, Weight
from parity.environment import versions
from parity.graph import Graph, Node, Unanswered
from parity.naming import canonical_layer, ruled
from parity.trace import map_inputs, scaled
from parity.tracefile import Reader, inputs_of


class RecordedLayer:
    """A layer of a recorded model: its kind, its settings, how it was made."""

    def __init__(self, text: dict):
        self.kind, self.held, self.parts, self.made = text["kind"], text["holds"], text["parts"], text["made"]
        self.facts = {name: _tuple(value) for name, value in text["settings"].items()}

    def children(self):
        return iter((self,) if self.parts else ())


class RecordedAdapter(Adapter):
    """A trace that `record` wrote; `framework` is that of the model.

    Args:
        reader: of the file.
        run: "own" for what the model did in its own type, "float64" for what its copy did.
    """

    recorded = True

    def __init__(self, reader: Reader, run: str = "own", name=None, names=None):
        document = reader.document
        super().__init__(reader, name or document["model"], names)
        self.reader, self.document, self.run = reader, document, document["runs"][run]
        self.framework = document["framework"]
        self.dtype = self.run["dtype"]
        self.opaque = not document["layers"]
        self.unsteady = document.get("unsteady")
        self.steps = len(document["inputs"])
        self._layers = [(text["path"], RecordedLayer(text)) for text in document["layers"]]
        self._changed: dict[str, np.ndarray] = {}
        self._named = None  # names of all layers, and what they were made by

    @cached_property
    def batches(self) -> list:
        """The inputs that it was recorded on."""
        return [inputs_of(text, self.reader.get) for text in self.document["inputs"]]

    def copied(self):
        """(the same with what its float64 copy did, or None; why there is none)."""
        if self.document["runs"].get("float64") is None:
            return None, self.document.get("no_float64", "it was recorded without a copy in float64")
        other = RecordedAdapter(self.reader, "float64", self.name, self.rules)
        other.rename, other.apart, other.variables = self.rename, self.apart, self.variables
        other.ignored, other.converters, other.groups = self.ignored, self.converters, self.groups
        return other, ""

    def told_versions(self) -> str:
        """What it was recorded with, where that is not what is here; "" if it is the same."""
        here, there = versions(), self.document["versions"]
        runtimes = {"keras": "tensorflow", "saved_model": "tensorflow", "litert": "tensorflow", "onnx": "onnxruntime"}
        own = runtimes.get(self.framework, self.framework)
        names = [n for n in there if n in here and n not in ("python", "platform") and there[n] != "not installed"]
        names = [n for n in names if n in (own, self.framework) or here.get(n) not in (there[n], "not installed")]
        other = [f"{n} {there[n]}" + ("" if here.get(n) == there[n] else f" (here: {here.get(n, 'not installed')})")
                 for n in names]  # fmt: skip
        return f"{self.name} was recorded with {', '.join(other)}, on {there['platform']}." if other else ""

    def walk(self):
        yield from self._layers

    def kind_of(self, layer):
        return layer.kind

    def holds(self, layer):
        return layer.held

    def kinds(self):
        return {self._holder(text): text["kind"] for text in self.document["kinds"]}

    def _name_of(self, index: int) -> str:
        """The canonical name, by today's rules, of a layer by its number."""
        key = (self.rename, self.rules and tuple(self.rules), tuple(self.apart.items()))
        if self._named is None or self._named[0] != key:
            by_layer = {id(layer): name for name, layer in self.layers().items()}
            self._named = key, [by_layer[id(layer)] for _, layer in self._layers]
        return self._named[1][index]

    def _holder(self, text: dict) -> str:
        layer = "" if text["layer"] is None else self._name_of(text["layer"])
        return self.rename(f"{layer}_{text['part']}".lstrip("_")) if text["part"] else layer

    def _variable_name(self, text: dict) -> str:
        holder = self._holder(text)
        if holder:
            name = f"{holder}/{text['variable']}"
        else:
            layer, dot, short = ruled(text["variable"], self.rules).rpartition(".")
            name = f"{canonical_layer(layer)}/{short}" if dot else text["variable"]
        return self.variable(name)

    @cached_property
    def _arrays(self):
        arrays = [self.reader.get(text["array"]) for text in self.document["weights"]]
        if self.dtype == "float64":  # the copy's, which are the model's own numbers
            arrays = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
        return arrays

    def _held(self, tied: bool) -> dict[str, Weight]:
        found = {}
        for text, array in zip(self.document["weights"], self._arrays, strict=True):
            if text["tied"] is tied:
                name = self._variable_name(text)
                array = self._changed.get(name, array)
                found[name] = Weight(array, text["native"], text["trainable"], text["exact"])
        return found

    def weights(self, trainable=True):
        return self.told({n: w for n, w in self._held(False).items() if trainable or not w.trainable})

    def tied(self):
        return self.told(self._held(True))

    def assign(self, arrays):
        own = self._held(False)
        self._changed |= {n: np.asarray(a).reshape(own[n].array.shape) for n, a in arrays.items() if n in own}

    def settings(self):
        return {n: layer.facts for n, layer in self.layers().items() if layer.facts and not self.ignores(n)}

    def input_specs(self):
        specs = self.document["input_specs"]
        return specs and [InputSpec(name, shape and tuple(shape), *more) for name, shape, *more in specs]

    def _which(self, inputs) -> str:
        """Which of the recorded inputs these are: a number of a batch, or "wide"."""
        for number, batch in enumerate(self.batches):
            if _equal(inputs, batch):
                return str(number)
        if _equal(inputs, map_inputs(scaled, self.batches[0])):
            return "wide"
        raise Unanswered(f"{self.name} is a recording, and can't be run on other inputs")

    def outputs(self, inputs, training=False, draws=None):
        key = f"{'training' if training else 'inference'} {self._which(inputs)}"
        found = self.run["outputs"].get(key)
        if found is None:
            raise Unanswered(f"{self.name} was not recorded in this: {key}")
        if isinstance(found, str):
            raise RuntimeError(found)  # what the model itself said
        return {name: self.reader.get(reference) for name, reference in found.items()}

    def capture(self, inputs, training=False, draws=None):
        calls, which = {}, self._which(inputs)
        if which == "0" and not training:
            for text in self.run["calls"]:
                name = self._name_of(text["layer"])
                key = name if text["again"] == 1 else f"{name}#{text['again']}"
                given = text["inputs"]
                given = () if given is None else tuple(map(self.reader.get, given))
                calls[key] = Call(given, self.reader.get(text["output"]), self._replay(text))
        for name, array in self.outputs(inputs, training).items():
            calls[name] = Call((), array, final=True)
        return calls

    def _replay(self, text):
        def replay(new):
            wide = text["wide"]
            recorded = [self.reader.get(reference) for reference in text["inputs"] or ()]
            if len(new) == len(recorded):
                if all(np.array_equal(a, scaled(b, inside=True)) for a, b in zip(new, recorded, strict=True)):
                    if isinstance(wide, str):
                        raise RuntimeError(wide)
                    if wide is not None:
                        return self.reader.get(wide)
                if all(np.array_equal(a, b) for a, b in zip(new, recorded, strict=True)):
                    return self.reader.get(text["output"])
            raise Unanswered(f"{self.name} is a recording, whose layers can't be fed other inputs")

        return replay

    def recorded_passes(self):
        """(tensors of the passes in training mode, gradients or what went wrong, biased variances), by today's names.

        None where training was not recorded.
        """
        text = self.run.get("passes")
        if text is None:
            raise Unanswered(f"{self.name} was recorded at inference only")

        def named(entries):
            return {self._tensor_name(entry["of"]): self.reader.get(entry["tensor"]) for entry in entries}

        gradients = text["gradients"]
        gradients = RuntimeError(gradients) if isinstance(gradients, str) else named(gradients)
        if isinstance(gradients, dict):
            gradients = {n: g for n, g in gradients.items() if n not in self.converters and not self.ignores(n)}
        return named(text["training"]), gradients, named(text["biased"])

    def backwards(self, inputs, cotangents, draws=None):
        raise Unanswered(f"{self.name} is a recording, of whose way back only gradients of weights were kept")

    def _tensor_name(self, of: list) -> str:
        kind, *where = of
        if kind == "layer":
            name = self._name_of(where[0])
            return name if where[1] == 1 else f"{name}#{where[1]}"
        return self._variable_name(self.document["weights"][where[0]]) if kind == "weight" else where[0]

    def graph(self, inputs, training=False, draws=None):
        text = self.run.get("graph")
        if text is None or training or self._which(inputs) != "0":
            raise Unanswered(f"the operations of {self.name} were not recorded")

        def run(arrays):
            raise Unanswered(f"{self.name} is a recording, whose operations can't be run again")

        nodes = [
            Node("" if layer is None else self._name_of(layer), title, source, tuple(given), tuple(made), run, moves)
            for layer, title, source, given, made, moves in text["nodes"]
        ]
        values = [self.reader.get(reference) for reference in text["values"]]
        return Graph(text["framework"], nodes, values, tuple(text["sources"]), dict(text["outputs"]))

    def promoted(self, inputs=None):
        raise Unanswered(f"{self.name} is a recording")

    @property
    def measured(self) -> dict:
        """What rounding was seen to do to the model while it was recorded: "grain" and "rounding"."""
        return self.run.get("measured") or {}

    def without_dropout(self):
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def preserved(self, trainable=True):
        before = dict(self._changed)
        try:
            yield
        finally:
            self._changed = before


def _tuple(value):
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _equal(inputs, others) -> bool:
    if type(inputs) is not type(others):
        return False
    if isinstance(inputs, dict):
        return inputs.keys() == others.keys() and all(np.array_equal(inputs[n], others[n]) for n in inputs)
    if isinstance(inputs, tuple):
        return len(inputs) == len(others) and all(map(np.array_equal, inputs, others))
    return bool(np.array_equal(inputs, others))
