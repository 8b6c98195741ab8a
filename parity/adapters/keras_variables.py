"""The variables of Keras layers: whose they are, where a layer is made of several or several are one to users."""

from collections.abc import Iterator

import numpy as np

from parity import kinds


def read(variable) -> np.ndarray:
    """The array that a variable holds, as it is now, without a copy; not to be written to."""
    value = variable.value
    if type(value).__name__ != "ResourceVariable":  # one on several devices, say
        return np.asarray(value)
    import tensorflow as tf

    # What `numpy()` does in a fraction of its time, in which hundreds of variables are read dozens of times.
    return in_place(tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype))


def in_place(tensor) -> np.ndarray:
    """A tensor's array without a copy, not to be written to; TensorFlow writes to no memory that somebody looks at."""
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError, BufferError):  # no type of NumPy's own, or a tensor of another backend
        import keras

        # TensorFlow's own method alone reads scalars of bfloat16; Keras knows how the others are detached and moved.
        if keras.config.backend() == "tensorflow":
            return np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)
        return np.asarray(keras.ops.convert_to_numpy(tensor))


def write(variable, array: np.ndarray) -> None:
    """Puts an array of its shape into a variable."""
    value = variable.value
    if type(value).__name__ != "ResourceVariable":
        variable.assign(array)
        return
    import tensorflow as tf

    tf.raw_ops.AssignVariableOp(resource=value.handle, value=tf.constant(array, value.dtype))


def own_variables(layer) -> list:
    """What a layer itself holds, not its parts; states of random numbers left out."""
    own = layer._trainable_variables + layer._non_trainable_variables
    return [variable for variable in own if "seed_generator" not in variable.path]


def held(layers: dict) -> Iterator[tuple]:
    """(layer's name, its part, kind, canonical variable, (layer, variable)) of every variable of every layer.

    What a recurrent cell holds is its layer's, "forward" and "backward" are parts of a Bidirectional; a separable
    convolution is two, "depthwise" and "pointwise".
    """
    owners = {}
    for name, layer in layers.items():
        for part, inner in (("forward", "forward_layer"), ("backward", "backward_layer")):
            if hasattr(layer, inner):
                owners[id(getattr(layer, inner).cell)] = (name, part)
        if hasattr(layer, "cell"):
            owners.setdefault(id(layer.cell), (name, ""))
    for name, layer in layers.items():
        kind = kinds.keras_kind(layer)
        for variable in own_variables(layer):
            owner, part = owners.get(id(layer), (name, ""))
            short, what = variable.name, kind
            if type(layer).__name__.startswith("SeparableConv"):
                what = "conv"
                if short == "depthwise_kernel":
                    part, what, short = "depthwise", "depthwise", "kernel"
                else:
                    part, short = "pointwise", short.replace("pointwise_kernel", "kernel")
            yield owner, part, what, short, (layer, variable)


def finalize(layers, changed: set[int]) -> None:
    """Has layers make again what they make of their variables (Normalization's constants), if those changed, by id."""
    for layer in layers:
        if hasattr(layer, "finalize_state") and changed & set(map(id, layer.variables)):
            layer.finalize_state()
