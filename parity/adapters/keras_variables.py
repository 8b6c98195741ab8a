"""The variables of Keras layers: whose they are, where a layer is made of several or several are one to users."""

from collections.abc import Iterator

from parity import kinds


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
