"""Models of either framework behind one face: weights, settings, intermediate tensors and gradients by name.

A `Subject` wraps one model. All names are canonical (see `naming`), all arrays are numpy in Keras's layout, so that
a check need not know which framework it looks at.
"""

import contextlib
import copy
import re
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from parity import naming

OUTPUT = "output"
STOCHASTIC_SETTINGS = ("window", "output_size", "window_sharing", "normalize")


@dataclass
class Call:
    """One layer at work: what went in (in order), what came out, and how it was called."""

    inputs: tuple[np.ndarray, ...]
    output: np.ndarray
    replay: object = field(repr=False, default=None)  # inputs -> output array, with new inputs


@dataclass(frozen=True)
class Weight:
    """A variable: its array in canonical layout, its own name in its framework, whether it is trained."""

    array: np.ndarray
    native: str
    trainable: bool


class Subject:
    """What the checks ask of a model; `KerasSubject` and `TorchSubject` answer.

    `draws` are what the model would draw at random, given instead: a dict of the keyword arguments of its call, for
    the models of this project `windows` (an array) and `drop_masks` (arrays by layer name).

    Args:
        model: the model.
        name: how reports call it.
        names: rules for layer names, see `naming.canonical_layer`.
        groups: prefixes of layer names that form a unit to isolate (a block), for models whose blocks are no
            layers of their own.
    """

    def __init__(self, model, name: str | None = None, names: naming.Rules = None, groups=()):
        self.model = model
        self.name = name or getattr(model, "name", None) or type(model).__name__
        self.rules = names
        self.groups = tuple(groups)
        self.rename = lambda layer: layer

    def layers(self) -> dict[str, object]:
        """Canonical name to layer, in the order of the model."""
        raise NotImplementedError

    def kinds(self) -> dict[str, str]:
        """Canonical name to kind, of layers that hold weights."""
        raise NotImplementedError

    def weights(self) -> dict[str, Weight]:
        """Canonical "layer/variable" to `Weight`."""
        raise NotImplementedError

    def assign(self, arrays: dict[str, np.ndarray]) -> None:
        """Sets variables from arrays in canonical layout."""
        raise NotImplementedError

    def settings(self) -> dict[str, dict]:
        """Canonical layer name to its settings (epsilon, momentum, strides, rates ...), in Keras's conventions."""
        raise NotImplementedError

    def predict(self, inputs, training=False, draws=None) -> np.ndarray:
        """The output alone."""
        raise NotImplementedError

    def capture(self, inputs, training=False, draws=None) -> dict[str, Call]:
        """Runs the model once and records every layer, in the order they finished; the result is `output`."""
        raise NotImplementedError

    def draw_windows(self, layer: str, image_size, batch: int) -> np.ndarray:
        """What a stochastic layer draws by itself: (filters, 2) or (batch, filters, 2)."""
        return np.asarray(self.layers()[layer].draw_windows(image_size, batch))

    def gradients(self, inputs, cotangent, draws=None) -> dict[str, np.ndarray]:
        """d sum(output * cotangent) / d weight in training mode, for every trainable weight."""
        raise NotImplementedError

    def promoted(self):
        """The same model in float64 as a new `Subject`; None if it can't be rebuilt."""
        raise NotImplementedError

    def without_dropout(self):
        """Context in which no layer drops anything."""
        rates = []
        for layer in self.layers().values():
            for attribute in ("rate", "p"):
                value = getattr(layer, attribute, None)
                if isinstance(value, int | float):
                    rates.append((layer, attribute, value))
        return _replaced(rates, 0)

    @contextlib.contextmanager
    def preserved(self):
        """Context after which every weight is as it was, moving averages included."""
        before = {name: weight.array.copy() for name, weight in self.weights().items()}
        try:
            yield
        finally:
            self.assign(before)


@contextlib.contextmanager
def _replaced(attributes, value):
    for target, name, _ in attributes:
        setattr(target, name, value)
    try:
        yield
    finally:
        for target, name, old in attributes:
            setattr(target, name, old)


class KerasSubject(Subject):
    """A Keras model on the TensorFlow backend, run eagerly."""

    framework = "keras"

    def layers(self):
        return {self.rename(path): layer for path, layer in self._walk(self.model, "")}

    def _walk(self, parent, prefix):
        for layer in getattr(parent, "_layers", ()):
            path = f"{prefix}/{layer.name}" if prefix else layer.name
            if type(layer).__name__ == "InputLayer":
                continue
            yield naming.canonical_layer(path, self.rules), layer
            yield from self._walk(layer, path)

    def kinds(self):
        layers = self.layers().items()
        return {name: naming.keras_kind(layer) for name, layer in layers if self._variables(layer)}

    @staticmethod
    def _variables(layer):
        own = layer._trainable_variables + layer._non_trainable_variables
        return [variable for variable in own if "seed_generator" not in variable.path]

    def _each_variable(self):
        for name, layer in self.layers().items():
            kind = naming.keras_kind(layer)
            for variable in self._variables(layer):
                yield f"{name}/{variable.name}", kind, layer, variable

    def weights(self):
        found = {}
        for name, kind, layer, variable in self._each_variable():
            array = np.asarray(variable.value)
            if kind == "depthwise" and type(layer).__name__.startswith("Conv") and variable.name == "kernel":
                # A grouped Conv2D's (*k, 1, channels * multiplier), as DepthwiseConv2D would hold it.
                array = array.reshape(*array.shape[:-2], layer.groups, -1)
            found[name] = Weight(array, variable.path, variable.trainable)
        return found

    def assign(self, arrays):
        for name, _, layer, variable in self._each_variable():
            if name not in arrays:
                continue
            new = np.asarray(arrays[name]).reshape(variable.shape)
            if not np.array_equal(np.asarray(variable.value), new):  # an assignment costs far more than a look
                variable.assign(new)
                if hasattr(layer, "finalize_state"):
                    layer.finalize_state()

    def settings(self):
        found = {}
        for name, layer in self.layers().items():
            kind, facts = naming.keras_kind(layer), {}
            if kind in ("conv", "depthwise", "conv_transpose"):
                facts = {
                    "kernel_size": tuple(layer.kernel_size),
                    "strides": tuple(layer.strides),
                    "use_bias": layer.use_bias,
                }
                if hasattr(layer, "draw_windows"):
                    facts |= {name: getattr(layer, name) for name in STOCHASTIC_SETTINGS}
            elif kind == "batch_norm":
                facts = {"epsilon": layer.epsilon, "momentum": layer.momentum}
            elif kind in ("layer_norm", "group_norm"):
                facts = {"epsilon": layer.epsilon}
            elif isinstance(getattr(layer, "rate", None), int | float):
                facts = {"rate": layer.rate}
            elif kind == "Rescaling":
                facts = {"scale": tuple(np.float32(np.atleast_1d(layer.scale)).tolist())}
            if facts:
                found[name] = facts
        return found

    @cached_property
    def dtype(self):
        return self.model.compute_dtype

    def promoted(self):
        import keras

        from parity.exhibits import keras_precision

        try:
            with keras_precision("float64"), keras.utils.CustomObjectScope(self._classes()):
                clone = type(self.model).from_config(_in_float64(self.model.get_config()))
                if not clone.built:
                    clone.build(self.model.input_shape)
        except Exception:  # a subclassed model may fail in any way here
            return None
        if [v.shape for v in clone.weights] != [v.shape for v in self.model.weights]:
            return None
        clone.set_weights([np.asarray(v.value, None) for v in self.model.weights])
        other = KerasSubject(clone, self.name, self.rules, self.groups)
        other.rename = self.rename
        return other

    def _classes(self):
        """What a config may name without being registered: the layers' own classes and activation functions."""
        found = {}
        for layer in self.layers().values():
            for thing in (type(layer), getattr(layer, "activation", None)):
                if callable(thing) and hasattr(thing, "__name__"):
                    found[thing.__name__] = thing
        return found

    def _tensors(self, inputs):
        import keras

        if isinstance(inputs, dict):
            return {key: self._tensors(value) for key, value in inputs.items()}
        if isinstance(inputs, tuple | list):
            return [self._tensors(value) for value in inputs]
        inputs = np.asarray(inputs)
        return keras.ops.convert_to_tensor(inputs, self.dtype if inputs.dtype.kind == "f" else None)

    def __call__(self, inputs, training=False, draws=None):
        return self.model(self._tensors(inputs), training=training, **(draws or {}))

    def predict(self, inputs, training=False, draws=None):
        import keras

        return keras.ops.convert_to_numpy(self(inputs, training, draws))

    def capture(self, inputs, training=False, draws=None):
        import keras

        raw = {}  # name -> (layer, args, kwargs, output), in the order of completion

        def recording(name, layer):
            call = layer.call

            def recorded(*args, **kwargs):
                output = call(*args, **kwargs)
                key, again = name, 1
                while key in raw:  # a layer used more than once
                    again += 1
                    key = f"{name}#{again}"
                raw[key] = (call, args, kwargs, output)
                return output

            return recorded

        layers = self.layers()
        try:
            for name, layer in layers.items():
                object.__setattr__(layer, "call", recording(name, layer))
            output = self(inputs, training, draws)
        finally:
            for layer in layers.values():
                layer.__dict__.pop("call", None)

        arrays = {}  # a tensor is one layer's output and another's input: convert it once

        def array(tensor):
            if id(tensor) not in arrays:
                arrays[id(tensor)] = keras.ops.convert_to_numpy(tensor)
            return arrays[id(tensor)]

        calls = {}
        padded = {}  # id of a padding layer's output -> its call, so that padding counts to its consumer
        for name, (call, args, kwargs, result) in raw.items():
            if isinstance(result, list | tuple | dict):
                continue
            before, args_in = None, args
            tensors = keras.tree.flatten(args)
            if len(tensors) == 1 and id(tensors[0]) in padded:
                before, args_in = padded[id(tensors[0])]
            if isinstance(layers.get(name), keras.layers.ZeroPadding2D):
                padded[id(result)] = (call, args)

            def replay(new, call=call, before=before, args_in=args_in, kwargs=kwargs):
                new = iter([keras.ops.convert_to_tensor(x, self.dtype) for x in new])
                packed = keras.tree.map_structure(lambda x: next(new), args_in)
                if before is not None:
                    packed = (before(*packed),)
                return keras.ops.convert_to_numpy(call(*packed, **kwargs))

            flat = tuple(array(tensor) for tensor in keras.tree.flatten(args_in))
            calls[name] = Call(flat, array(result), replay)
        for group in self.groups:
            self._add_group(calls, group)
        calls[OUTPUT] = Call((), array(output))
        return calls

    def _add_group(self, calls, group):
        """Records a run of layers under one prefix as a unit, where the model is a functional graph."""
        import keras

        members = [name for name in calls if name.startswith(f"{group}_") and "#" not in name]
        layers = self.layers()
        if not members or group in calls or not isinstance(self.model, keras.Model):
            return
        first, last = layers[members[0]], layers[members[-1]]
        try:
            unit = keras.Model(first.input, last.output)
        except (AttributeError, ValueError):  # no functional graph, or more than one way in
            return

        def replay(new):
            (x,) = new
            return keras.ops.convert_to_numpy(unit(keras.ops.convert_to_tensor(x, self.dtype), training=False))

        call = Call(calls[members[0]].inputs, calls[members[-1]].output, replay)
        # Right behind its last member, to keep the order of completion.
        items = list(calls.items())
        place = [name for name, _ in items].index(members[-1]) + 1
        items.insert(place, (group, call))
        calls.clear()
        calls.update(items)

    def gradients(self, inputs, cotangent, draws=None):
        import keras
        import tensorflow as tf

        with self.preserved():
            trainable = [(n, kind, v) for n, kind, _, v in self._each_variable() if v.trainable]
            with tf.GradientTape() as tape:
                output = self(inputs, True, draws)
                loss = keras.ops.sum(output * keras.ops.convert_to_tensor(cotangent, output.dtype))
            gradients = tape.gradient(loss, [variable.value for _, _, variable in trainable])
        weights = self.weights()
        return {
            name: np.zeros(variable.shape) if g is None else np.asarray(g).reshape(weights[name].array.shape)
            for (name, _, variable), g in zip(trainable, gradients, strict=True)
        }


class TorchSubject(Subject):
    """A torch module on the CPU. Inputs and outputs with four axes are (B, C, H, W) on its side."""

    framework = "torch"

    def layers(self):
        return {
            self.rename(naming.canonical_layer(path, self.rules)): module
            for path, module in self.model.named_modules()
            if path
        }

    def kinds(self):
        layers = self.layers().items()
        return {name: naming.torch_kind(module) for name, module in layers if self._variables(module)}

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
            kind = naming.torch_kind(module)
            for variable, tensor in self._variables(module):
                short = naming.canonical_variable(kind, variable)
                native = f"{paths[id(module)]}.{variable}".lstrip(".")
                yield f"{layer}/{short}".lstrip("/"), short, kind, module, tensor, native

    def weights(self):
        import torch

        found = {}
        for name, short, kind, module, tensor, native in self._each_variable():
            array = tensor.detach().cpu().numpy()
            array = naming.torch_to_canonical(kind, short, array, getattr(module, "in_channels", 0))
            found[name] = Weight(array, native, isinstance(tensor, torch.nn.Parameter))
        return found

    def assign(self, arrays):
        import torch

        with torch.no_grad():
            for name, short, kind, _, tensor, _ in self._each_variable():
                if name in arrays:
                    array = naming.canonical_to_torch(kind, short, np.asarray(arrays[name]))
                    array = np.array(array, order="C").reshape(tuple(tensor.shape))
                    tensor.copy_(torch.from_numpy(array))

    def settings(self):
        found = {}
        for name, module in self.layers().items():
            kind, facts = naming.torch_kind(module), {}
            if kind in ("conv", "depthwise", "conv_transpose"):
                facts = {
                    "kernel_size": tuple(module.kernel_size),
                    "strides": tuple(module.stride),
                    "use_bias": module.bias is not None,
                }
                if hasattr(module, "draw_windows"):
                    facts |= {name: getattr(module, name) for name in STOCHASTIC_SETTINGS}
            elif kind == "batch_norm":
                facts = {"epsilon": module.eps, "momentum": 1.0 - module.momentum}
            elif kind in ("layer_norm", "group_norm"):
                facts = {"epsilon": module.eps}
            elif isinstance(getattr(module, "rate", getattr(module, "p", None)), int | float):
                facts = {"rate": getattr(module, "rate", getattr(module, "p", None))}
            elif kind == "Rescaling":
                facts = {"scale": tuple(module.scale.float().flatten().tolist())}
            if facts:
                found[name] = facts
        return found

    @cached_property
    def dtype(self):
        import torch

        tensors = [p for p in self.model.parameters() if p.is_floating_point()]
        return str(tensors[0].dtype if tensors else torch.get_default_dtype()).removeprefix("torch.")

    def promoted(self):
        other = TorchSubject(copy.deepcopy(self.model).double(), self.name, self.rules, self.groups)
        other.rename = self.rename
        return other

    def _tensor(self, array, kind=""):
        import torch

        array = naming.channels_first(kind, np.asarray(array))
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(getattr(torch, self.dtype)) if array.dtype.kind == "f" else tensor

    def _edge(self, index: int) -> str:
        """The kind of the first (0) or last (-1) layer with weights: whether three axes are (B, C, L) or (B, L, C)."""
        kinds = list(self.kinds().values())
        return kinds[index] if kinds else ""

    def __call__(self, inputs, training=False, draws=None):

        kwargs = {}
        for name, draw in (draws or {}).items():
            kwargs[name] = (
                {k: self._tensor(v) for k, v in draw.items()} if isinstance(draw, dict) else self._tensor(draw)
            )
        self.model.train(training)
        first = self._edge(0)
        if isinstance(inputs, dict):
            return self.model(**{key: self._tensor(value, first) for key, value in inputs.items()}, **kwargs)
        if not isinstance(inputs, tuple | list):
            inputs = (inputs,)
        return self.model(*[self._tensor(value, first) for value in inputs], **kwargs)

    def predict(self, inputs, training=False, draws=None):
        import torch

        with torch.no_grad():
            return naming.channels_last(self._edge(-1), self(inputs, training, draws).numpy())

    def capture(self, inputs, training=False, draws=None):
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
            return naming.channels_last(kind, arrays[key])

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
                    self.model.train(training)
                    with torch.no_grad():
                        out = module(*[self._tensor(x, kind) for x in new], *rest, **kwargs)
                    return naming.channels_last(kind, out.numpy())

                calls[key] = Call(flat, array(output, kind), replay)

            return before, record

        try:
            for name, module in self.layers().items():
                before, record = hook(name, naming.torch_kind(module))
                handles += [
                    module.register_forward_pre_hook(before, with_kwargs=True),
                    module.register_forward_hook(record, with_kwargs=True),
                ]
            with torch.no_grad():
                output = self(inputs, training, draws)
        finally:
            for handle in handles:
                handle.remove()
        calls[OUTPUT] = Call((), naming.channels_last(self._edge(-1), output.numpy()))
        return calls

    def gradients(self, inputs, cotangent, draws=None):
        import torch

        with self.preserved():
            self.model.zero_grad(set_to_none=True)
            output = self(inputs, True, draws)
            cotangent = naming.channels_first(self._edge(-1), np.asarray(cotangent))
            (output * torch.from_numpy(np.ascontiguousarray(cotangent)).to(output)).sum().backward()
            found = {}
            for name, short, kind, module, tensor, _ in self._each_variable():
                if isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad:
                    g = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                    channels = getattr(module, "in_channels", 0)
                    found[name] = naming.torch_to_canonical(kind, short, g.numpy().copy(), channels)
            self.model.zero_grad(set_to_none=True)
        return found


def _in_float64(config):
    """A Keras config with every float32 or half type in it made float64."""
    if isinstance(config, dict):
        if config.get("class_name") in ("DTypePolicy", "FloatDTypePolicy"):
            return "float64"
        return {key: _in_float64(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_in_float64(value) for value in config)
    if config in ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"):
        return "float64"
    return config


def is_torch(model) -> bool:
    """Whether `model` is a torch module, asked without importing torch for a Keras model."""
    return any(f"{cls.__module__}.{cls.__name__}" == "torch.nn.modules.module.Module" for cls in type(model).__mro__)


def subject(model, name=None, names: naming.Rules = None, groups=()) -> Subject:
    """Wraps a Keras model or a torch module.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(model, Subject):
        return model
    if is_torch(model):
        return TorchSubject(model, name, names, groups)
    import keras

    if isinstance(model, keras.Layer):
        if not model.built:
            raise ValueError(
                f"The Keras model {model.name!r} has no weights yet; call it once on an input of the right shape."
            )
        return KerasSubject(model, name, None, groups)
    raise TypeError(f"Expected a Keras model or a torch.nn.Module. Received: {type(model).__name__}")


def pair(reference, candidate, names: naming.Rules = None) -> tuple[Subject, Subject]:
    """Wraps two models so that their layers have common names.

    Args:
        reference, candidate: Keras models or torch modules (or `Subject`s, taken as they are).
        names: None where names agree; pairs of (regular expression, replacement) that turn torch's module paths
            into Keras's layer names; or "order", to pair layers by their order within each kind.
    """
    if isinstance(names, str) and names != "order":
        raise ValueError(f'names must be None, "order" or a list of (pattern, replacement). Received: {names!r}')
    reference, candidate = subject(reference, names=names), subject(candidate, names=names)
    torch_side = next((s for s in (reference, candidate) if s.framework == "torch"), None)
    keras_side = next((s for s in (reference, candidate) if s.framework == "keras"), None)
    if names == "order" and torch_side is not None and keras_side is not None:
        torch_side.rename = naming.by_order(torch_side.kinds(), keras_side.kinds())
    if torch_side is not None and keras_side is not None and not keras_side.groups:
        # Whatever is a module with parts in torch may be a run of layers with a common prefix in Keras.
        keras_side.groups = tuple(
            name for name, module in torch_side.layers().items() if next(module.children(), None) is not None
        )
    return reference, candidate


BLOCK = re.compile(r"^((?:detail_)?block\d+[a-z]+)_")


def block_names(subject_: Subject) -> tuple[str, ...]:
    """The blocks of an EfficientNet, by the prefix of its layers' names, in order."""
    found = (BLOCK.match(name) for name in subject_.layers())
    return tuple(dict.fromkeys(match.group(1) for match in found if match))
