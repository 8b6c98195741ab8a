"""A Keras model behind the face of an `Adapter`."""

import contextlib
from functools import cached_property

import numpy as np

from parity import kinds
from parity.adapters import keras_graph
from parity.adapters.base import OUTPUT, Adapter, Call, InputSpec, Weight, named_outputs, replaced
from parity.adapters.keras_calls import at_inference, calling
from parity.adapters.keras_copy import keras_precision, rebuilt, renamed
from parity.adapters.keras_variables import finalize, held, in_place, own_variables, read, write
from parity.errors import eps_of, identical
from parity.shelf import Shelf

__all__ = ["KerasAdapter", "keras_precision"]


class KerasAdapter(Adapter):
    """A Keras model on the TensorFlow backend, run eagerly."""

    framework = "keras"
    # Whether captures run through a graph that is traced once: worth it for dozens of captures of one model.
    compiled = False

    @cached_property
    def _graphs(self):
        return {}

    @cached_property
    def _units(self):
        return {}

    def walk(self):
        seen = set()
        if self.holds(self.model) or not getattr(self.model, "_layers", ()):
            yield "", self.model
        for path, layer in self._below(self.model, ""):
            if id(layer) not in seen:  # a layer that several others hold
                seen.add(id(layer))
                yield path, layer

    def _below(self, parent, prefix):
        for layer in getattr(parent, "_layers", ()):
            path = f"{prefix}/{layer.name}" if prefix else layer.name
            if type(layer).__name__ == "InputLayer":
                continue
            yield path, layer
            yield from self._below(layer, path)

    def kind_of(self, layer):
        return kinds.keras_kind(layer)

    def holds(self, layer):
        return bool(own_variables(layer))

    def kinds(self):
        found = {}
        for layer, part, kind, _, _ in held(self.layers()):
            found[self._name(layer, part)] = kind
        return found

    def _name(self, layer: str, part: str) -> str:
        return self.rename(f"{layer}_{part}".lstrip("_")) if part else layer

    def _each_variable(self):
        seen = set()
        for owner, part, kind, short, (layer, variable) in held(self.layers()):
            if id(variable) not in seen:
                seen.add(id(variable))
                yield self.variable(f"{self._name(owner, part)}/{short}".lstrip("/")), kind, layer, variable

    def weights(self, trainable=True):
        found = {}
        for name, kind, layer, variable in self._each_variable():
            if variable.trainable and not trainable:
                continue
            array = read(variable)
            if kind == "depthwise" and type(layer).__name__.startswith("Conv") and variable.name == "kernel":
                # A grouped Conv2D's (*k, 1, channels * multiplier), as DepthwiseConv2D would hold it.
                array = array.reshape(*array.shape[:-2], layer.groups, -1)
            found[name] = Weight(array, variable.path, variable.trainable)
        return self.told(found)

    def assign(self, arrays):
        for name, _, layer, variable in self._each_variable():
            if name not in arrays or name in self.converters:
                continue
            new = np.asarray(arrays[name]).reshape(variable.shape)
            if not np.array_equal(read(variable), new):  # an assignment costs far more than a look
                write(variable, new)
                if hasattr(layer, "finalize_state"):
                    layer.finalize_state()

    def settings(self):
        told = {name: kinds.settings(layer, "keras") for name, layer in self.layers().items()}
        return {name: facts for name, facts in told.items() if facts and not self.ignores(name)}

    def input_specs(self):
        inputs = getattr(self.model, "inputs", None)  # of a functional graph or a built Sequential
        if not inputs:
            return None
        return [InputSpec(i.name, tuple(i.shape), not str(i.dtype).startswith(("float", "bfloat"))) for i in inputs]

    @cached_property
    def dtype(self):
        return self.model.compute_dtype

    @cached_property
    def eps(self):
        # One layer that computes in half precision is enough.
        return max(eps_of(dtype) for dtype in {self.dtype, *map(_computes_in, self.layers().values())})

    def promoted(self, inputs=None):
        def call(clone):
            other = KerasAdapter(clone)
            other(inputs)

        clone = rebuilt(self.model, [self.model, *self.layers().values()], None if inputs is None else call)
        other = KerasAdapter(clone, self.name, self.rules, self.groups).as_told(self)
        other.apart = other.apart | renamed(self.walk(), other.walk(), self.named)
        return other

    def tensors(self, inputs):
        """Arrays as tensors, floats in the model's type, in the same structure."""
        import keras

        if isinstance(inputs, dict):
            return {key: self.tensors(value) for key, value in inputs.items()}
        if isinstance(inputs, tuple | list):
            return [self.tensors(value) for value in inputs]
        inputs = np.asarray(inputs)
        return keras.ops.convert_to_tensor(inputs, self.dtype if inputs.dtype.kind == "f" else None)

    def call(self, tensors, training, draws):
        """The model on tensors."""
        return self.model(tensors, training=training, **draws)

    def __call__(self, inputs, training=False, draws=None):
        return self.call(self.tensors(inputs), training, draws or {})

    def outputs(self, inputs, training=False, draws=None):
        def run(inputs, draws):
            return {}, self.call(inputs, training, draws), []

        _, output, _ = self._run(("outputs", training, self._silent), run, inputs, draws or {})
        return {name: _array(tensor) for name, tensor in named_outputs(output).items()}

    def graph(self, inputs, training=False, draws=None):
        import keras

        tensors = self.tensors(inputs)
        flat = keras.tree.flatten(tensors)
        return keras_graph.record(
            self.layers(), calling, flat, lambda: named_outputs(self.call(tensors, training, draws or {}))
        )

    def capture(self, inputs, training=False, draws=None):
        def run(inputs, draws):
            return *self._recorded(lambda: self.call(inputs, training, draws)), []

        raw, output, _ = self._run(("capture", training, self._silent), run, inputs, draws or {})
        return self._calls(raw, output)

    def backwards(self, inputs, cotangents, draws=None):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            raw, output = self._recorded(lambda: self.call(self.tensors(inputs), True, draws or {}))
            loss = _loss(output, cotangents)
        made = {n: result for n, (_, _, _, result) in raw.items() if not isinstance(result, list | tuple | dict)}
        returned = tape.gradient(loss, list(made.values()), unconnected_gradients="zero")
        return {name: _array(tf.convert_to_tensor(back)) for name, back in zip(made, returned, strict=True)}

    def train(self, inputs, cotangents, draws=None):
        import tensorflow as tf

        trainable = [
            (name, variable)
            for name, _, _, variable in self._each_variable()
            if variable.trainable and not self.ignores(name) and name not in self.converters
        ]

        def run(inputs, draws, cotangents):
            with tf.GradientTape() as tape:
                raw, output = self._recorded(lambda: self.call(inputs, True, draws))
                loss = _loss(output, cotangents)
            return raw, output, tape.gradient(loss, [variable.value for _, variable in trainable])

        raw, output, found = self._run(("train", self._silent), run, inputs, draws or {}, cotangents)
        calls, shapes = self._calls(raw, output), {n: w.array.shape for n, w in self.weights().items()}
        del raw, output
        gradients = Shelf()
        found = list(found)[::-1]
        for name, _ in trainable:
            back = found.pop()  # together they are as large as all weights
            # Of an embedding it is a list of rows, which become a table here.
            array = np.zeros(shapes[name]) if back is None else _array(tf.convert_to_tensor(back))
            gradients[name] = array.reshape(shapes[name])
        return calls, gradients

    # Layers that are called with training=False while the rest trains; a graph that was traced knows which.
    _silent: tuple = ()

    @contextlib.contextmanager
    def without_dropout(self):
        layers = self.droppers()
        cells = [part for layer in self.layers().values() for part in (layer, getattr(layer, "cell", None))]
        rates = [
            (cell, name, 0.0)
            for cell in cells
            if type(cell).__name__ in ("LSTMCell", "GRUCell", "SimpleRNNCell")
            for name in ("dropout", "recurrent_dropout")
        ]
        self._silent = tuple(map(id, layers))
        try:
            with replaced(rates), contextlib.ExitStack() as stack:
                for layer in layers:
                    stack.enter_context(calling(layer, at_inference(layer.call)))
                yield
        finally:
            self._silent = ()

    @contextlib.contextmanager
    def as_found(self):
        variables = [*self.model.variables]  # those of random numbers too
        before, changed = Shelf((place, read(variable)) for place, variable in enumerate(variables)), set()
        try:
            yield
        finally:
            for place, variable in enumerate(variables):
                old = before[place]
                if not identical(read(variable), old):
                    variable.assign(old)
                    changed.add(id(variable))
            finalize(self.layers().values(), changed)

    def _run(self, key, run, inputs, *more):
        """`run` on tensors: (record of `_recorded`, output, gradients). Through one graph for all if `compiled`."""
        import keras

        arguments = (self.tensors(inputs), *keras.tree.map_structure(keras.ops.convert_to_tensor, more))
        if not self.compiled:
            return run(*arguments)
        if key not in self._graphs:
            kept = {}

            def traced(*arguments):
                raw, output, gradients = run(*arguments)
                kept["raw"] = raw
                parts = [part for _, args, kwargs, result in raw.values() for part in (args, kwargs, result)]
                kept["symbols"] = [x for x in keras.tree.flatten(parts) if keras.ops.is_tensor(x)]
                return kept["symbols"], output, gradients

            self._graphs[key] = self.through_graph(traced), kept
        graph, kept = self._graphs[key]
        values, output, gradients = graph(*arguments)
        known = {id(symbol): value for symbol, value in zip(kept["symbols"], values, strict=True)}

        def concrete(part):
            return keras.tree.map_structure(lambda x: known.get(id(x), x), part)

        raw = {
            name: (call, concrete(args), concrete(kwargs), concrete(result))
            for name, (call, args, kwargs, result) in kept["raw"].items()
        }
        return raw, output, gradients

    def through_graph(self, function):
        """A function of tensors that is traced when it is first called; see `compiled`."""
        import tensorflow as tf

        return tf.function(function, autograph=False)

    def _recorded(self, run):
        """(name -> (layer's call, args, kwargs, result), in the order of completion; what `run` returns)."""
        raw = {}

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

        with contextlib.ExitStack() as stack:
            for name, layer in self.layers().items():
                if name:
                    key = f"{name} layer" if name == OUTPUT else name
                    stack.enter_context(calling(layer, recording(key, layer)))
            output = run()
        return raw, output

    def _calls(self, raw, output):
        import keras

        layers = self.layers()
        arrays = {}  # a tensor is one layer's output and another's input: convert it once

        def array(tensor):
            if id(tensor) not in arrays:
                arrays[id(tensor)] = _array(tensor)
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

            form = keras.tree.map_structure(lambda x: 0, args_in)  # without the tensors, which need not be kept

            def replay(new, call=call, before=before, form=form, kwargs=kwargs):
                new = iter(self.tensors(tuple(new)))
                packed = keras.tree.map_structure(lambda x: next(new), form)
                if before is not None:
                    packed = (before(*packed),)
                return _array(call(*packed, **kwargs))

            flat = tuple(array(tensor) for tensor in keras.tree.flatten(args_in))
            calls[name] = Call(flat, array(result), replay)
        for group in self.groups:
            self._add_group(calls, group)
        for name, tensor in named_outputs(output).items():
            calls[name] = Call((), array(tensor), final=True)
        return calls

    def _add_group(self, calls, group):
        """Records a run of layers under one prefix as a unit, where the model is a functional graph."""
        import keras

        members = [name for name in calls if name.startswith(f"{group}_") and "#" not in name]
        if not members or group in calls or not isinstance(self.model, keras.Model):
            return
        unit = self._unit(members[0], members[-1])
        if unit is None:
            return

        def replay(new):
            (x,) = new
            return _array(unit(keras.ops.convert_to_tensor(x, self.dtype), training=False))

        call = Call(calls[members[0]].inputs, calls[members[-1]].output, replay)
        # Right behind its last member, to keep the order of completion.
        items = list(calls.items())
        place = [name for name, _ in items].index(members[-1]) + 1
        items.insert(place, (group, call))
        calls.clear()
        calls.update(items)

    def _unit(self, first: str, last: str):
        """The layers from one to another as a model, made once; None where they are none by themselves."""
        import keras

        if (first, last) not in self._units:
            layers = self.layers()
            try:
                unit = keras.Model(layers[first].input, layers[last].output)
            except (AttributeError, ValueError):  # no functional graph, or more than one way in
                unit = None
            self._units[first, last] = unit
        return self._units[first, last]


def _loss(output, cotangents):
    import keras
    import tensorflow as tf

    found = named_outputs(output)
    return tf.add_n([keras.ops.sum(found[n] * keras.ops.cast(c, found[n].dtype)) for n, c in cotangents.items()])


def _computes_in(layer) -> str:
    return getattr(layer, "compute_dtype", None) or "float64"


def _array(tensor) -> np.ndarray:
    """A tensor as an array; bfloat16, which NumPy has not, as float32."""
    array = in_place(tensor)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
