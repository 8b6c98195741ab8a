"""What training, evaluation and serving ask of a model: one logit an image, and square images of a fixed size."""

import keras


def check_logit(model):
    """Raises ValueError unless a model puts out one logit per image."""
    if tuple(model.output_shape) != (None, 1):
        raise ValueError(f"The model must put out one logit per image, (batch, 1). Received: {model.output_shape}")
    check_no_sigmoid(model)


def check_no_sigmoid(model):
    """Raises ValueError for a model whose last layer makes probabilities, of which others would be made."""
    last = model.layers[-1]
    if getattr(last, "activation", None) in (keras.activations.sigmoid, keras.activations.softmax):
        name = last.activation.__name__
        raise ValueError(f"The model must put out logits, but {last.name!r} ends with a {name}")


def input_sizes(model) -> tuple[int, int | None]:
    """(low_res, high_res) in pixels that a model takes.

    Raises:
        ValueError: for several inputs of other names, or images that are not square.
    """
    inputs = {"low_res": model.inputs[0]} if len(model.inputs) == 1 else model.input
    if not isinstance(inputs, dict) or not set(inputs) <= {"low_res", "high_res"}:
        names = sorted(inputs) if isinstance(inputs, dict) else [tensor.name for tensor in inputs]
        raise ValueError(f"Inputs must be a dict of low_res and high_res. Received: {names}")
    for name, tensor in inputs.items():
        if len(tensor.shape) != 4 or tensor.shape[1] != tensor.shape[2] or tensor.shape[1] is None:
            first = len(tensor.shape) == 4 and tensor.shape[1] in (1, 3) and tensor.shape[2] == tensor.shape[3]
            hint = ": (batch, side, side, 3), channels last" if first else ""
            raise ValueError(f"{name} must take square images of a fixed size{hint}. Received: {tuple(tensor.shape)}")
    return tuple(inputs[name].shape[1] if name in inputs else None for name in ("low_res", "high_res"))
