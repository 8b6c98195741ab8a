"""Predictions, averaged over draws of the windows. Sections 5.1.5 and 4.1.7 of the paper."""

import keras
import numpy as np
from keras import ops

JOIN = "join"  # the layer at which the branches meet


class AveragedPasses:
    """A model with a detail branch, taken apart so that several draws share the work that does not depend on them.

    At inference the global branch is deterministic: n passes cost one pass of it, and n of the detail branch and of
    whatever follows the join. For split models that is the dense layer alone. The outputs are those of n whole passes.

    Args:
        model: a model from `create_model` with a detail branch. Weights are shared, not copied.

    Raises:
        ValueError: if the model has no detail branch.
    """

    def __init__(self, model):
        if not any(layer.name == JOIN for layer in model.layers):
            raise ValueError(
                f"Averaging over draws needs a model with a detail branch (stem-*, skip-*, split-*). "
                f"Received: {model.name!r}"
            )
        first, detail = model.get_layer(JOIN).input
        low_res, high_res = (model.input[name] for name in ("low_res", "high_res"))
        cls = type(model)  # keeps passing on windows=, and uint8 images as they are
        self.global_branch = cls(low_res, first, name="global_branch")
        self.detail_branch = cls(high_res, detail, name="detail_branch")
        self.head = cls(model.get_layer(JOIN).output, model.output, name="head")

    def __call__(self, inputs, passes: int = 3, windows=None):
        """Outputs of every pass: (passes, batch, classes).

        Args:
            inputs: dict of "low_res" and "high_res".
            passes: number of draws.
            windows: offsets for every pass, with a leading axis of `passes`, instead of draws.
        """
        if passes < 1:
            raise ValueError(f"passes must be at least 1. Received: passes={passes}")
        if windows is not None and len(windows) != passes:
            raise ValueError(f"windows must have one entry per pass ({passes}). Received: {len(windows)}")
        common = self.global_branch(inputs["low_res"], training=False)
        outputs = []
        for n in range(passes):
            given = {} if windows is None else {"windows": windows[n]}
            detail = self.detail_branch(inputs["high_res"], training=False, **given)
            outputs.append(self.head(ops.concatenate([common, detail], axis=-1), training=False))
        return ops.stack(outputs)


def predict(model, inputs, passes: int = 1, batch_size: int = 32, activation="sigmoid") -> np.ndarray:
    """Predictions, averaged over draws.

    Args:
        model: a model from `create_model`, with logits as output.
        inputs: an array of images, or a dict of "low_res" and "high_res".
        passes: draws to average over; the paper's test-time augmentation is 3. Must be 1 for a model without
            stochastic layer, which would give the same every time.
        batch_size: images at once.
        activation: applied to the logits of every pass before averaging; None averages logits.

    Returns:
        float32 array (images, classes).
    """
    activation = keras.activations.get(activation)
    count = len(inputs["low_res"]) if isinstance(inputs, dict) else len(inputs)
    run = model if passes == 1 else AveragedPasses(model)
    found = []
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        batch = {k: v[part] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[part]
        outputs = run(batch, training=False)[None] if passes == 1 else run(batch, passes)
        found.append(ops.convert_to_numpy(ops.mean(activation(outputs), axis=0)))
    return np.concatenate(found)
