"""A torch module behind the face of an `Adapter`."""

import copy
from functools import cached_property

import numpy as np

from parity import kinds, layout
from parity.adapters.base import OUTPUT, Adapter, Call, Weight
from parity.naming import canonical_layer


class TorchAdapter(Adapter):
    """A torch module on the CPU. Inputs and outputs with four axes are (B, C, H, W) on its side."""

    framework = "torch"

    def layers(self):
        return {
            self.rename(canonical_layer(path, self.rules)): module
            for path, module in self.model.named_modules()
            if path
        }

    def kinds(self):
        layers = self.layers().items()
        return {name: kinds.torch_kind(module) for name, module in layers if self._variables(module)}

    @staticmethod
    def _variables(module):
        own = list(module.named_parameters(recurse=False)) + list(module.named_buffers(recurse=False))
        skip = module._non_persistent_buffers_set | {"num_batches_tracked"}
        return [(name, tensor) for name, tensor in own if name not in skip]

    def _each_variable(self):
        paths = {id(module): path for path, module in self.model.named_modules()}
        layers = self.layers()
        if self._variables(self.model):  # parameters of the outermost module itself
            layers = {"": self.model} | layers
        for layer, module in layers.items():
            kind = kinds.torch_kind(module)
            for variable, tensor in self._variables(module):
                short = kinds.canonical_variable(module, variable)
                native = f"{paths[id(module)]}.{variable}".lstrip(".")
                yield f"{layer}/{short}".lstrip("/"), short, kind, module, tensor, native

    def weights(self):
        import torch

        found = {}
        for name, short, kind, module, tensor, native in self._each_variable():
            array = tensor.detach().cpu().numpy()
            array = layout.torch_to_canonical(kind, short, array, getattr(module, "in_channels", 0))
            found[name] = Weight(array, native, isinstance(tensor, torch.nn.Parameter))
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

    @cached_property
    def dtype(self):
        import torch

        tensors = [p for p in self.model.parameters() if p.is_floating_point()]
        return str(tensors[0].dtype if tensors else torch.get_default_dtype()).removeprefix("torch.")

    def promoted(self):
        other = TorchAdapter(copy.deepcopy(self.model).double(), self.name, self.rules, self.groups)
        other.rename = self.rename
        return other

    def tensor(self, array, kind=""):
        """An array in canonical layout as a tensor in torch's, floats in the model's type."""
        import torch

        array = layout.channels_first(kind, np.asarray(array))
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(getattr(torch, self.dtype)) if array.dtype.kind == "f" else tensor

    def _edge(self, index: int) -> str:
        """The kind of the first (0) or last (-1) layer with weights: whether three axes are (B, C, L) or (B, L, C)."""
        kinds = list(self.kinds().values())
        return kinds[index] if kinds else ""

    def __call__(self, inputs, training=False, draws=None):

        kwargs = {}
        for name, draw in (draws or {}).items():
            kwargs[name] = {k: self.tensor(v) for k, v in draw.items()} if isinstance(draw, dict) else self.tensor(draw)
        self.model.train(training)
        first = self._edge(0)
        if isinstance(inputs, dict):
            return self.model(**{key: self.tensor(value, first) for key, value in inputs.items()}, **kwargs)
        if not isinstance(inputs, tuple | list):
            inputs = (inputs,)
        return self.model(*[self.tensor(value, first) for value in inputs], **kwargs)

    def predict(self, inputs, training=False, draws=None):
        import torch

        with torch.no_grad():
            return layout.channels_last(self._edge(-1), self(inputs, training, draws).numpy())

    def capture(self, inputs, training=False, draws=None):
        import torch

        with torch.no_grad():
            return self._recorded(inputs, training, draws)[0]

    def _recorded(self, inputs, training, draws):
        """(calls, output tensor)."""
        import torch

        calls, handles = {}, []
        arrays, alive = {}, []

        def array(tensor, kind):
            # Copied, because a later in-place operation (ReLU(inplace=True)) writes over it; the version tells
            # the two apart. Tensors are kept alive, so that no other gets the same id.
            key = (id(tensor), tensor._version)
            if key not in arrays:
                alive.append(tensor)
                arrays[key] = tensor.detach().clone().numpy()
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
                        self.model.train(training)
                    with torch.no_grad():
                        out = module(*[self.tensor(x, kind) for x in new], *rest, **kwargs)
                    return layout.channels_last(kind, out.numpy())

                calls[key] = Call(flat, array(output, kind), replay)

            return before, record

        try:
            for name, module in self.layers().items():
                before, record = hook(name, kinds.torch_kind(module))
                handles += [
                    module.register_forward_pre_hook(before, with_kwargs=True),
                    module.register_forward_hook(record, with_kwargs=True),
                ]
            output = self(inputs, training, draws)
        finally:
            for handle in handles:
                handle.remove()
        calls[OUTPUT] = Call((), layout.channels_last(self._edge(-1), output.detach().numpy()))
        return calls, output

    def train(self, inputs, cotangent, draws=None):
        import torch

        self.model.zero_grad(set_to_none=True)
        calls, output = self._recorded(inputs, True, draws)
        cotangent = layout.channels_first(self._edge(-1), np.asarray(cotangent))
        (output * torch.from_numpy(np.ascontiguousarray(cotangent)).to(output)).sum().backward()
        found = {}
        for name, short, kind, module, tensor, _ in self._each_variable():
            if isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad:
                g = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                channels = getattr(module, "in_channels", 0)
                found[name] = layout.torch_to_canonical(kind, short, g.numpy().copy(), channels)
        self.model.zero_grad(set_to_none=True)
        return calls, found
