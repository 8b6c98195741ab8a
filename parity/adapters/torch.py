"""A torch module behind the face of an `Adapter`."""

import contextlib
import copy
import inspect
from collections import Counter
from functools import cached_property

import numpy as np

from parity import kinds, layout
from parity.adapters import torch_graph
from parity.adapters.base import OUTPUT, Adapter, Call, InputSpec, Weight, named_outputs, replaced
from parity.adapters.torch_dropout import nothing_dropped
from parity.adapters.torch_statistics import biased_variances
from parity.adapters.torch_variables import as_array, claimed, restored, variables
from parity.naming import canonical_layer, ruled
from parity.shelf import Shelf


class TorchAdapter(Adapter):
    """A torch module, on whatever device. Inputs and outputs with four axes are (B, C, H, W) on its side."""

    framework = "torch"
    # Axis order of inputs and outputs: "channels first", "as given" or "time first", see `arrangement`.
    orders = ("channels first", "channels first")
    _silent = ()  # modules that stay in eval mode while the rest trains

    def walk(self):
        hidden = set()
        for path, module in self.model.named_modules():
            hidden |= claimed(module)
            if id(module) not in hidden and (path or self.holds(module) or next(module.children(), None) is None):
                yield path, module

    def kind_of(self, layer):
        return kinds.torch_kind(layer)

    def holds(self, layer):
        return bool(variables(layer))

    def kinds(self):
        found = {}
        for layer, module in self.layers().items():
            for variable in variables(module):
                found[self._name(layer, variable.part)] = variable.kind
        return found

    def _name(self, layer: str, part: str) -> str:
        """The canonical name of a part of a layer."""
        return self.rename(f"{layer}_{part}".lstrip("_")) if part else layer

    def _each_variable(self, tied=False):
        """(canonical name, torch's own name, `Variable`) of all; or of those whose tensors had their turn before."""
        paths = {id(module): path for path, module in self.model.named_modules()}
        seen = set()
        for layer, module in self.layers().items():
            own = set()
            for variable in variables(module):
                tensors = {id(tensor) for tensor in variable.tensors}
                again = bool(tensors) and tensors <= seen  # tied to another layer's, whose name it goes by
                own |= tensors
                if again is not tied:
                    continue
                native = f"{paths[id(module)]}.{variable.native}".lstrip(".")
                holder = self._name(layer, variable.part)
                name = f"{holder}/{variable.name}" if holder else self._of_root(variable.name)
                yield self.variable(name), native, variable
            seen |= own

    def _of_root(self, variable: str) -> str:
        """The name of a variable of the outermost module; a rule may give it a layer: "position.pos_embed"."""
        layer, dot, short = ruled(variable, self.rules).rpartition(".")
        return f"{canonical_layer(layer)}/{short}" if dot else variable

    def tied(self):
        return self.weights(tied=True)

    def weights(self, trainable=True, tied=False):
        found = {
            name: Weight(variable.value(), native, variable.trainable, variable.exact)
            for name, native, variable in self._each_variable(tied)
            if trainable or not variable.trainable
        }
        return self.told(found)

    def parts(self):
        return {
            name: list(zip(variable.native.split(" + "), variable.parts(), strict=True))
            for name, _, variable in self._each_variable()
            if variable.parts is not None
        }

    def assign(self, arrays):
        for name, _, variable in self._each_variable():
            if name in arrays and name not in self.converters:
                variable.assign(np.asarray(arrays[name]))

    def settings(self):
        told = {name: kinds.settings(module, "torch") for name, module in self.layers().items()}
        return {name: facts for name, facts in told.items() if facts and not self.ignores(name)}

    def input_specs(self):
        try:
            parameters = inspect.signature(self.model.forward).parameters.values()
        except (TypeError, ValueError):
            return None
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if any(p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for p in parameters):
            return None
        return [
            InputSpec(p.name, optional=p.default is not inspect.Parameter.empty) for p in parameters if p.kind in plain
        ]

    @cached_property
    def dtype(self):
        import torch

        tensors = [p for p in self.model.parameters() if p.is_floating_point()]
        return str(tensors[0].dtype if tensors else torch.get_default_dtype()).removeprefix("torch.")

    @property
    def _device(self):
        found = next(self.model.parameters(), None)
        return "cpu" if found is None else found.device

    def promoted(self, inputs=None):
        import torch

        model = copy.deepcopy(self.model).double()
        for module in model.modules():  # constants that are neither parameters nor buffers
            for name, value in list(vars(module).items()):
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    setattr(module, name, value.double())
        other = TorchAdapter(model, self.name, self.rules, self.groups).as_told(self)
        other.orders = self.orders
        other.dtype = "float64"  # of its inputs too, if it has no parameters
        return other

    def tensor(self, array, kind=""):
        """An array in canonical layout as a tensor in torch's, floats in the model's type."""
        import torch

        # Copied, for a layer may write over what it is given.
        array = np.array(layout.channels_first(kind, np.asarray(array)), order="C")
        tensor = torch.from_numpy(array).to(self._device)
        return tensor.to(getattr(torch, self.dtype)) if array.dtype.kind == "f" else tensor

    def native_tensor(self, array):
        """An array in torch's layout as a tensor, floats in the model's type."""
        import torch

        tensor = torch.from_numpy(np.array(array, order="C")).to(self._device)
        return tensor.to(getattr(torch, self.dtype)) if tensor.is_floating_point() else tensor

    def _edge(self, index: int) -> str:
        """The kind of the first (0) or last (-1) layer with weights: whether three axes are (B, C, L) or (B, L, C)."""
        kinds = list(self.kinds().values())
        return kinds[index] if kinds else ""

    def _into(self, array, kind):
        """An input as a tensor."""
        if self.orders[0] == "channels first":
            return self.tensor(array, kind)
        return self.native_tensor(layout.ordered(np.asarray(array), self.orders[0], back=True))

    def _out(self, tensor):
        """An output as an array in canonical layout."""
        array = as_array(tensor)
        if self.orders[1] == "channels first":
            return layout.channels_last(self._edge(-1), array)
        return layout.ordered(array, self.orders[1])

    def _back(self, array):
        """The inverse of `_out`."""
        array = np.asarray(array)
        if self.orders[1] == "channels first":
            return layout.channels_first(self._edge(-1), array)
        return layout.ordered(array, self.orders[1], back=True)

    def _set_mode(self, training: bool) -> None:
        self.model.train(training)
        for module in self._silent:
            # A module with parts has only its own switch turned: what else it holds trains.
            module.training = False

    def __call__(self, inputs, training=False, draws=None, told=lambda *tensors: None):
        kwargs = {}
        for name, draw in (draws or {}).items():
            kwargs[name] = {k: self.tensor(v) for k, v in draw.items()} if isinstance(draw, dict) else self.tensor(draw)
        self._set_mode(training)
        first = self._edge(0)
        if isinstance(inputs, dict):
            tensors = {key: self._into(value, first) for key, value in inputs.items()}
            told(*tensors.values())
            return self.model(**tensors, **kwargs)
        if not isinstance(inputs, tuple | list):
            inputs = (inputs,)
        tensors = [self._into(value, first) for value in inputs]
        told(*tensors)
        return self.model(*tensors, **kwargs)

    def graph(self, inputs, training=False, draws=None):
        import torch

        with torch.no_grad():
            return torch_graph.record(self, lambda told: named_outputs(self(inputs, training, draws, told)))

    def outputs(self, inputs, training=False, draws=None):
        import torch

        with torch.no_grad():
            found = named_outputs(self(inputs, training, draws))
        return {name: self._out(tensor) for name, tensor in found.items()}

    def capture(self, inputs, training=False, draws=None):
        import torch

        with torch.no_grad():
            return self._recorded(inputs, training, draws)[0]

    def _recorded(self, inputs, training, draws, returned=None):
        """(calls, output tensors by name). `returned` receives, by call, what comes back to its output."""
        import torch

        calls, handles = {}, []
        arrays, alive = {}, []

        def array(tensor, kind):
            # Copied, because a later in-place operation (ReLU(inplace=True)) writes over it; the version tells
            # the two apart. Tensors are kept alive, so that no other gets the same id.
            key = (id(tensor), tensor._version)
            if key not in arrays:
                alive.append(tensor)
                arrays[key] = as_array(tensor.detach().clone())
            return layout.channels_last(kind, arrays[key])

        def hook(name, kind):
            versions = []

            def before(module, args, kwargs):
                tensors = [a for a in args if isinstance(a, torch.Tensor)]
                versions.append(tuple(array(t, kind) for t in tensors))

            def record(module, args, kwargs, output):
                flat = versions.pop()  # the inputs as they were before the module ran
                if not isinstance(output, torch.Tensor):
                    return
                key, again = name, 1
                while key in calls:
                    again += 1
                    key = f"{name}#{again}"
                rest = [a for a in args if not isinstance(a, torch.Tensor)]

                def replay(new):
                    if self.model.training != training:  # it walks through every module
                        self._set_mode(training)
                    with torch.no_grad():
                        out = module(*[self.tensor(x, kind) for x in new], *rest, **kwargs)
                    return layout.channels_last(kind, as_array(out))

                calls[key] = Call(flat, array(output, kind), replay)
                if returned is not None and output.requires_grad:
                    output.register_hook(
                        lambda back: returned.__setitem__(key, layout.channels_last(kind, as_array(back)))
                    )

            return before, record

        try:
            for name, module in self.layers().items():
                if not name:
                    continue
                before, record = hook(f"{name} layer" if name == OUTPUT else name, kinds.torch_kind(module))
                handles += [
                    module.register_forward_pre_hook(before, with_kwargs=True),
                    module.register_forward_hook(record, with_kwargs=True),
                ]
            output = named_outputs(self(inputs, training, draws))
        finally:
            for handle in handles:
                handle.remove()
        for name, tensor in output.items():
            calls[name] = Call((), self._out(tensor), final=True)
        return calls, output

    def train(self, inputs, cotangents, draws=None):
        with self._gradients_set_aside():
            calls, output = self._recorded(inputs, True, draws)
            self._loss(output, cotangents).backward()
            asked = [(n, variable) for n, _, variable in self._each_variable() if self._differentiated(n, variable)]
            uses = Counter(id(tensor) for _, variable in asked for tensor in variable.tensors)
            found = Shelf()
            for name, variable in asked:
                given = [t.new_zeros(t.shape) if t.grad is None else t.grad for t in variable.tensors]
                found[name] = variable.gradient([as_array(g) for g in given])
                uses.subtract(map(id, variable.tensors))
                for tensor in variable.tensors:
                    if not uses[id(tensor)]:
                        tensor.grad = None  # together they are as large as all weights
        return calls, found

    def _differentiated(self, name: str, variable) -> bool:
        """Whether the gradient of a variable is known, and to be compared."""
        known = variable.gradient is not None and any(tensor.requires_grad for tensor in variable.tensors)
        return known and name not in self.converters and not self.ignores(name)

    def _loss(self, output, cotangents):
        given = {n: torch_graph.like(output[n], self._back(array)) for n, array in cotangents.items()}
        return sum((output[name] * array).sum() for name, array in given.items())

    def backwards(self, inputs, cotangents, draws=None):
        with self._gradients_set_aside():
            returned = {}
            calls, output = self._recorded(inputs, True, draws, returned)
            self._loss(output, cotangents).backward()
            return {n: returned.get(n, np.zeros_like(call.output)) for n, call in calls.items() if not call.final}

    @contextlib.contextmanager
    def _gradients_set_aside(self):
        before = [(p, p.grad) for p in self.model.parameters()]
        for parameter, _ in before:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in before:
                parameter.grad = gradient

    @contextlib.contextmanager
    def without_dropout(self):
        from torch import nn

        self._silent = self.droppers()
        rates = [(m, "dropout", 0.0) for m in self.model.modules() if isinstance(m, nn.RNNBase | nn.MultiheadAttention)]
        try:
            with replaced(rates), nothing_dropped():
                yield
        finally:
            self._silent = ()

    def biased_variances(self):
        return biased_variances(self.layers())

    def preserved(self, trainable=True):
        return restored([*(self.model.parameters() if trainable else ()), *self.model.buffers()])

    @contextlib.contextmanager
    def as_found(self):
        import torch

        modes = [(module, module.training) for module in self.model.modules()]
        try:
            with torch.random.fork_rng(devices=[]), self.preserved(), self._gradients_set_aside():
                yield
        finally:
            for module, mode in modes:
                module.training = mode
