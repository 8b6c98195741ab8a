"""A torch module behind the face of an `Adapter`."""

import contextlib
import copy
import inspect
from functools import cached_property

import numpy as np

from parity import kinds, layout
from parity.adapters.base import OUTPUT, Adapter, Call, InputSpec, Weight, named_outputs, replaced
from parity.naming import canonical_layer, ruled


class TorchAdapter(Adapter):
    """A torch module, on whatever device. Inputs and outputs with four axes are (B, C, H, W) on its side."""

    framework = "torch"
    _silent = ()  # modules that stay in eval mode while the rest trains

    def walk(self):
        for path, module in self.model.named_modules():
            if path or self.holds(module) or next(module.children(), None) is None:
                yield path, module

    def holds(self, layer):
        return bool(self._variables(layer))

    def kinds(self):
        layers = self.layers().items()
        return {name: kinds.torch_kind(module) for name, module in layers if self._variables(module)}

    @staticmethod
    def _variables(module):
        own = list(module.named_parameters(recurse=False)) + list(module.named_buffers(recurse=False))
        skip = module._non_persistent_buffers_set | {"num_batches_tracked"}
        return [(name, tensor) for name, tensor in own if name not in skip]

    def _each_variable(self, tied=False):
        paths = {id(module): path for path, module in self.model.named_modules()}
        seen = set()
        for layer, module in self.layers().items():
            kind = kinds.torch_kind(module)
            for variable, tensor in self._variables(module):
                again = id(tensor) in seen  # tied to another, whose name it goes by
                seen.add(id(tensor))
                if again is not tied:
                    continue
                short = kinds.canonical_variable(module, variable)
                native = f"{paths[id(module)]}.{variable}".lstrip(".")
                name = f"{layer}/{short}" if layer else self._of_root(short)
                yield name, short, kind, module, tensor, native

    def _of_root(self, variable: str) -> str:
        """The name of a variable of the outermost module; a rule may give it a layer: "position.pos_embed"."""
        layer, dot, short = ruled(variable, self.rules).rpartition(".")
        return f"{canonical_layer(layer)}/{short}" if dot else variable

    def tied(self):
        return self.weights(tied=True)

    def weights(self, trainable=True, tied=False):
        import torch

        found = {}
        for name, short, kind, module, tensor, native in self._each_variable(tied):
            trained = isinstance(tensor, torch.nn.Parameter)
            if trainable or not trained:
                array = layout.torch_to_canonical(kind, short, _array(tensor), getattr(module, "in_channels", 0))
                found[name] = Weight(array, native, trained)
        return found

    def assign(self, arrays):
        import torch

        with torch.no_grad():
            for name, short, kind, _, tensor, _ in self._each_variable():
                if name in arrays:
                    array = layout.canonical_to_torch(kind, short, np.asarray(arrays[name]))
                    array = np.array(array, order="C").reshape(tuple(tensor.shape))
                    tensor.copy_(torch.from_numpy(array))

    def settings(self):
        told = {name: kinds.settings(module, "torch") for name, module in self.layers().items()}
        return {name: facts for name, facts in told.items() if facts}

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
        other = TorchAdapter(model, self.name, self.rules, self.groups)
        other.rename, other.random_layers = self.rename, self.random_layers
        other.dtype = "float64"  # of its inputs too, if it has no parameters
        return other

    def tensor(self, array, kind=""):
        """An array in canonical layout as a tensor in torch's, floats in the model's type."""
        import torch

        array = layout.channels_first(kind, np.asarray(array))
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
        return tensor.to(getattr(torch, self.dtype)) if array.dtype.kind == "f" else tensor

    def _edge(self, index: int) -> str:
        """The kind of the first (0) or last (-1) layer with weights: whether three axes are (B, C, L) or (B, L, C)."""
        kinds = list(self.kinds().values())
        return kinds[index] if kinds else ""

    def _set_mode(self, training: bool) -> None:
        self.model.train(training)
        for module in self._silent:
            # A module with parts has only its own switch turned: what else it holds trains.
            module.training = False

    def __call__(self, inputs, training=False, draws=None):
        kwargs = {}
        for name, draw in (draws or {}).items():
            kwargs[name] = {k: self.tensor(v) for k, v in draw.items()} if isinstance(draw, dict) else self.tensor(draw)
        self._set_mode(training)
        first = self._edge(0)
        if isinstance(inputs, dict):
            return self.model(**{key: self.tensor(value, first) for key, value in inputs.items()}, **kwargs)
        if not isinstance(inputs, tuple | list):
            inputs = (inputs,)
        return self.model(*[self.tensor(value, first) for value in inputs], **kwargs)

    def outputs(self, inputs, training=False, draws=None):
        import torch

        last = self._edge(-1)
        with torch.no_grad():
            found = named_outputs(self(inputs, training, draws))
        return {name: layout.channels_last(last, _array(tensor)) for name, tensor in found.items()}

    def capture(self, inputs, training=False, draws=None):
        import torch

        with torch.no_grad():
            return self._recorded(inputs, training, draws)[0]

    def _recorded(self, inputs, training, draws):
        """(calls, output tensors by name)."""
        import torch

        calls, handles = {}, []
        arrays, alive = {}, []

        def array(tensor, kind):
            # Copied, because a later in-place operation (ReLU(inplace=True)) writes over it; the version tells
            # the two apart. Tensors are kept alive, so that no other gets the same id.
            key = (id(tensor), tensor._version)
            if key not in arrays:
                alive.append(tensor)
                arrays[key] = _array(tensor.detach().clone())
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
                    return layout.channels_last(kind, _array(out))

                calls[key] = Call(flat, array(output, kind), replay)

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
        last = self._edge(-1)
        for name, tensor in output.items():
            calls[name] = Call((), layout.channels_last(last, _array(tensor)), final=True)
        return calls, output

    def train(self, inputs, cotangents, draws=None):
        import torch

        with self._gradients_set_aside():
            calls, output = self._recorded(inputs, True, draws)
            loss = 0.0
            for name, cotangent in cotangents.items():
                cotangent = layout.channels_first(self._edge(-1), np.asarray(cotangent))
                loss = loss + (output[name] * torch.from_numpy(np.ascontiguousarray(cotangent)).to(output[name])).sum()
            loss.backward()
            found = {}
            for name, short, kind, module, tensor, _ in self._each_variable():
                if isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad:
                    g = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                    g = g.to_dense() if g.is_sparse else g
                    channels = getattr(module, "in_channels", 0)
                    found[name] = layout.torch_to_canonical(kind, short, _array(g).copy(), channels)
        return calls, found

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
            with replaced(rates), _nothing_dropped():
                yield
        finally:
            self._silent = ()

    @contextlib.contextmanager
    def biased_variances(self):
        """See `Adapter.biased_variances`. A batch norm of n values keeps their variance times n / (n - 1)."""
        from torch.nn.modules.batchnorm import _BatchNorm

        told, handles = {}, []

        def follow(name, module):
            old = []

            def before(module, args):
                old.append(_array(module.running_var).copy())

            def after(module, args, output):
                was, new, x = old.pop(), _array(module.running_var), args[0]
                if not module.training:
                    return
                part = 1 / int(module.num_batches_tracked) if module.momentum is None else module.momentum
                n = x.numel() // x.shape[1]
                seen = (new - (1 - part) * was) * ((n - 1) / n)
                told[name] = (1 - part) * told.get(name, was) + seen

            return module.register_forward_pre_hook(before), module.register_forward_hook(after)

        for layer, module in self.layers().items():
            if isinstance(module, _BatchNorm) and module.running_var is not None:
                handles += follow(f"{layer}/moving_variance", module)
        try:
            yield told
        finally:
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def preserved(self, trainable=True):
        import torch

        tensors = [*(self.model.parameters() if trainable else ()), *self.model.buffers()]
        before = [tensor.detach().clone() for tensor in tensors]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, old in zip(tensors, before, strict=True):
                    if not torch.equal(tensor, old):
                        tensor.copy_(old)

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


def _array(tensor) -> np.ndarray:
    """A tensor of any type and device as an array; NumPy has no bfloat16."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.cpu().numpy()


def _nothing_dropped():
    """Context in which torch's dropout functions, called anywhere, return what they are given."""
    import torch
    from torch.nn import functional as F
    from torch.overrides import TorchFunctionMode

    names = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
    functions = {getattr(F, name) for name in names} | {torch.dropout, torch.dropout_}

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if function in functions:
                return args[0] if args else kwargs["input"]
            if function is F.scaled_dot_product_attention:
                args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
                kwargs = {name: 0.0 if name == "dropout_p" else value for name, value in kwargs.items()}
            return function(*args, **kwargs)

    return Mode()
