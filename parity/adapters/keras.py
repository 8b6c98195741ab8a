"""A Keras model behind the face of an `Adapter`."""

import contextlib
from functools import cached_property

import numpy as np

from parity import kinds
from parity.adapters.base import OUTPUT, Adapter, Call, Weight
from parity.naming import canonical_layer


@contextlib.contextmanager
def keras_precision(dtype: str):
    """Keras builds models of this float type inside the context."""
    import keras

    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


class KerasAdapter(Adapter):
    """A Keras model on the TensorFlow backend, run eagerly."""

    framework = "keras"
    # Whether captures run through a graph that is traced once: worth it for dozens of captures of one model.
    compiled = False

    @cached_property
    def _graphs(self):
        return {}

    def layers(self):
        return {self.rename(path): layer for path, layer in self._walk(self.model, "")}

    def _walk(self, parent, prefix):
        for layer in getattr(parent, "_layers", ()):
            path = f"{prefix}/{layer.name}" if prefix else layer.name
            if type(layer).__name__ == "InputLayer":
                continue
            yield canonical_layer(path, self.rules), layer
            yield from self._walk(layer, path)

    def kinds(self):
        layers = self.layers().items()
        return {name: kinds.keras_kind(layer) for name, layer in layers if self._variables(layer)}

    @staticmethod
    def _variables(layer):
        own = layer._trainable_variables + layer._non_trainable_variables
        return [variable for variable in own if "seed_generator" not in variable.path]

    def _each_variable(self):
        for name, layer in self.layers().items():
            kind = kinds.keras_kind(layer)
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
        told = {name: kinds.settings(layer, "keras") for name, layer in self.layers().items()}
        return {name: facts for name, facts in told.items() if facts}

    @cached_property
    def dtype(self):
        return self.model.compute_dtype

    def promoted(self):
        import keras

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
        other = KerasAdapter(clone, self.name, self.rules, self.groups)
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

    def predict(self, inputs, training=False, draws=None):
        import keras

        return keras.ops.convert_to_numpy(self(inputs, training, draws))

    def capture(self, inputs, training=False, draws=None):
        def run(inputs, draws):
            return *self._recorded(lambda: self.call(inputs, training, draws)), []

        raw, output, _ = self._run(("capture", training), run, inputs, draws or {})
        return self._calls(raw, output)

    def train(self, inputs, cotangent, draws=None):
        import keras
        import tensorflow as tf

        trainable = [(name, variable) for name, _, _, variable in self._each_variable() if variable.trainable]

        def run(inputs, draws, cotangent):
            with tf.GradientTape() as tape:
                raw, output = self._recorded(lambda: self.call(inputs, True, draws))
                loss = keras.ops.sum(output * keras.ops.cast(cotangent, output.dtype))
            return raw, output, tape.gradient(loss, [variable.value for _, variable in trainable])

        raw, output, found = self._run(("train",), run, inputs, draws or {}, cotangent)
        weights = self.weights()
        gradients = {
            name: np.zeros(variable.shape) if g is None else np.asarray(g).reshape(weights[name].array.shape)
            for (name, variable), g in zip(trainable, found, strict=True)
        }
        return self._calls(raw, output), gradients

    def _run(self, key, run, inputs, *more):
        """`run` on tensors: (record of `_recorded`, output, gradients). Through one graph for all if `compiled`."""
        import keras
        import tensorflow as tf

        arguments = (self.tensors(inputs), *tf.nest.map_structure(tf.convert_to_tensor, more))
        if not self.compiled:
            return run(*arguments)
        if key not in self._graphs:
            kept = {}

            def traced(*arguments):
                raw, output, gradients = run(*arguments)
                kept["raw"] = raw
                parts = [part for _, args, kwargs, result in raw.values() for part in (args, kwargs, result)]
                kept["symbols"] = [x for x in keras.tree.flatten(parts) if tf.is_tensor(x)]
                return kept["symbols"], output, gradients

            self._graphs[key] = tf.function(traced, autograph=False), kept
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

        layers = self.layers()
        try:
            for name, layer in layers.items():
                object.__setattr__(layer, "call", recording(name, layer))
            output = run()
        finally:
            for layer in layers.values():
                layer.__dict__.pop("call", None)
        return raw, output

    def _calls(self, raw, output):
        import keras

        layers = self.layers()
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
