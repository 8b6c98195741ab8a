"""A Keras model rebuilt in float64 from its config."""

import base64
import contextlib
import hashlib
import inspect
import itertools
import marshal
import warnings

import numpy as np

# What a layer may hold that its config can only tell as bytes.
FUNCTIONS = ("activation", "recurrent_activation", "function", "mask", "_output_shape")


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


def rebuilt(model, layers: list, call=None):
    """The model in float64, with the same weights.

    What a layer makes of its weights (`finalize_state`: Normalization's constants) is made again. What was set on a
    layer after it was made, and is in no config, is not there: see `promotion`.

    Args:
        model: Keras model.
        layers: all of its layers.
        call: calls a model once, to build it, where it can't tell for what shapes it was built.

    Raises:
        Exception: of any type, if that can't be done.
    """
    import keras

    with keras_precision("float64"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # functions without a name are safe here, they are the user's own
        with keras.utils.CustomObjectScope(_classes(layers) | _functions(layers)):
            clone = type(model).from_config(_in_float64(model.get_config()))
            if not clone.built and hasattr(model, "input_shape"):
                clone.build(model.input_shape)
            if call is not None and len(clone.weights) != len(model.weights):
                call(clone)
    if [v.shape for v in clone.weights] != [v.shape for v in model.weights]:
        raise ValueError("what its config makes has other weights")
    _restore_functions(model, clone)
    for variable, own in zip(clone.weights, model.weights, strict=True):  # one after the other: all may be much
        variable.assign(np.asarray(own.value, None))
    for layer in clone._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return clone


def _restore_functions(model, clone) -> None:
    """Gives a copy the model's own functions: keras.ops.gelu is no keras.activations.gelu, whatever a config says."""
    own, copies = (list(side._flatten_layers(include_self=False)) for side in (model, clone))
    if [(type(a), a.name) for a in own] != [(type(b), b.name) for b in copies]:
        return
    for layer, copy in zip(own, copies, strict=True):
        for name in ("activation", "recurrent_activation"):
            function = getattr(layer, name, None)
            if inspect.isfunction(function) and getattr(copy, name, None) is not function:
                setattr(copy, name, function)


def renamed(layers, copies, named) -> dict[str, str]:
    """Path of a copy's layer to the canonical name of the original's, where the copy calls it otherwise.

    A model may put its own name before those of its layers if it was given one, as its config always gives one.

    Args:
        layers, copies: (path, layer) of the two, in order.
        named: from a path of the original to its canonical name.
    """
    pairs = list(itertools.zip_longest(layers, copies, fillvalue=("", None)))
    if any(type(layer) is not type(copy) for (_, layer), (_, copy) in pairs):
        return {}
    return {other: named(path) for (path, _), (other, _) in pairs if path != other}


def _classes(layers) -> dict:
    """What a config may name without being registered: the layers' own classes and activation functions."""
    found = {}
    for layer in layers:
        for thing in (type(layer), getattr(layer, "activation", None)):
            if callable(thing) and hasattr(thing, "__name__"):
                found[thing.__name__] = thing
    return found


def _functions(layers) -> dict:
    """Functions without a name of their own, by the name that `_in_float64` gives them in place of their bytes."""
    found = {}
    for layer in layers:
        for name in FUNCTIONS:
            function = getattr(layer, name, None)
            told = getattr(function, "__qualname__", "")
            if told.endswith("<lambda>"):
                if found.setdefault(_name_of(function.__code__), function) is not function:
                    raise ValueError(f"two functions of one line, {function.__code__.co_firstlineno}, have no names")
            # One inside of another is in a config by a name that leads nowhere.
            elif "<locals>" in told and found.setdefault(function.__name__, function) is not function:
                raise ValueError(f"two functions inside of others have the name {function.__name__}")
    return found


def _name_of(code) -> str:
    """Of a code object, or of what a config holds of it."""
    if not hasattr(code, "co_code"):
        value = code["value"][0] if "value" in code else code["code"]
        code = marshal.loads(base64.b64decode(value))
    told = (code.co_filename, code.co_firstlineno, code.co_code, code.co_names, repr(code.co_consts))
    return "lambda_" + hashlib.sha1(repr(told).encode()).hexdigest()[:16]


def _named_function(code: dict) -> dict:
    return {"module": "builtins", "class_name": "function", "config": _name_of(code), "registered_name": "function"}


def _is_drawn(config: dict) -> bool:
    """Whether a config is that of an initializer whose numbers are others every time: a copy's are all replaced."""
    drawn = config.get("module") == "keras.initializers" and isinstance(config.get("config"), dict)
    return drawn and "seed" in config["config"] and config["config"]["seed"] is None


def _in_float64(config):
    """A Keras config with every float32 or half type in it made float64."""
    if isinstance(config, dict):
        if config.get("class_name") in ("DTypePolicy", "FloatDTypePolicy"):
            return "float64"
        if _is_drawn(config):
            return {"module": "keras.initializers", "class_name": "Zeros", "config": {}, "registered_name": None}
        if config.get("class_name") == "__lambda__":  # of a Lambda layer
            return _named_function(config["config"])
        if set(config) == {"value"} and isinstance(config["value"], list | tuple):  # of an activation
            return _named_function(config)
        return {key: _in_float64(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_in_float64(value) for value in config)
    if config in ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"):
        return "float64"
    return config
