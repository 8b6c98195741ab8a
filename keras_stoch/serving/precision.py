"""A copy of a model in float32, for formats and runtimes without half types."""

import keras
import numpy as np

HALF = ("float16", "bfloat16")


def half_type(model) -> str | None:
    """The half type that a layer of a model computes or keeps its weights in, if one does."""
    types = {getattr(layer, name, None) for layer in model._flatten_layers() for name in ("compute_dtype", "dtype")}
    return next((name for name in reversed(HALF) if name in types), None)


def in_single_precision(model):
    """The same layers and weights, all in float32."""

    def clone(layer):
        if not isinstance(layer, keras.layers.Layer):
            return layer
        return layer.__class__.from_config(_widened(layer.get_config()))

    def wide(tensor):
        dtype = "float32" if tensor.dtype in HALF else tensor.dtype
        return keras.Input(batch_shape=tensor.shape, dtype=dtype, name=tensor.name)

    inputs = keras.tree.map_structure(wide, model.input)
    if isinstance(model, keras.Sequential):
        copy = keras.Sequential([inputs, *(clone(layer) for layer in model.layers)], name=model.name)
    else:
        copy = keras.models.clone_model(model, input_tensors=inputs, clone_function=clone)
    for variable, source in zip(copy.weights, model.weights, strict=True):
        value = keras.ops.convert_to_numpy(source)
        variable.assign(np.asarray(value, "float32") if keras.backend.is_float_dtype(source.dtype) else value)
    for layer in copy._flatten_layers():
        if hasattr(layer, "finalize_state"):  # Normalization keeps constants made of its weights
            layer.finalize_state()
    return copy


def _widened(config):
    """A layer's configuration, and those inside it, without half types."""
    if isinstance(config, list | tuple):
        return type(config)(map(_widened, config))
    if not isinstance(config, dict):
        return config
    config = {name: _widened(value) for name, value in config.items()}
    if "dtype" in config and "float16" in str(config["dtype"]):
        config["dtype"] = "float32"
    return config
