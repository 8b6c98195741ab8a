"""Rung 7: many steps of the optimiser from equal gradients."""

import numpy as np

from parity.errors import judge, summarise

STEPS = 100
TOLERANCE = 1e-12
# The paper's recipe, and one with momentum.
SETTINGS = (
    {"learning_rate": 1e-3, "rho": 0.99, "epsilon": 1e-8, "momentum": 0.0},
    {"learning_rate": 1e-3, "rho": 0.99, "epsilon": 1e-8, "momentum": 0.9},
)
# From gradients far below the square root of epsilon, where its place matters, to far above.
SCALES = (0.0, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1.0, 100.0)


def torch_rmsprop(parameters, learning_rate, rho, epsilon, momentum):
    """The optimiser of `torch_ref`."""
    from torch_ref.training import RMSprop

    return RMSprop(parameters, lr=learning_rate, rho=rho, eps=epsilon, momentum=momentum)


def keras_weights(weights: dict, gradients: list[dict], dtype: str, settings: dict) -> dict[str, np.ndarray]:
    """Weights after one Keras RMSprop step per entry of `gradients`."""
    import keras

    from parity.adapters.keras import keras_precision

    with keras_precision(dtype):
        variables = {name: keras.Variable(array, dtype=dtype, name=name) for name, array in weights.items()}
        optimizer = keras.optimizers.RMSprop(**settings)
        for step in gradients:
            tensors = [keras.ops.convert_to_tensor(step[name], dtype) for name in variables]
            optimizer.apply(tensors, list(variables.values()))
        return {name: keras.ops.convert_to_numpy(variable) for name, variable in variables.items()}


def torch_weights(weights, gradients, dtype, settings, make_optimizer=torch_rmsprop) -> dict[str, np.ndarray]:
    """The same with a torch optimiser."""
    import torch

    kind = getattr(torch, dtype)
    parameters = {n: torch.nn.Parameter(torch.tensor(array, dtype=kind)) for n, array in weights.items()}
    optimizer = make_optimizer(list(parameters.values()), **settings)
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(step[name], dtype=kind)
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in parameters.items()}


def check(settings: dict, dtype: str = "float64", seed: int = 0, make_optimizer=torch_rmsprop) -> dict:
    """`STEPS` steps of Keras's RMSprop and a torch optimiser on weights of every gradient scale.

    All start from zero, where even the smallest step counts in full.
    """
    rng = np.random.default_rng(seed)
    weights = {f"gradient scale {scale:g}": np.zeros((8, 16), np.float32) for scale in SCALES}
    gradients = [
        {name: np.float32(s * rng.normal(size=(8, 16))) for name, s in zip(weights, SCALES, strict=True)}
        for _ in range(STEPS)
    ]
    reference = keras_weights(weights, gradients, dtype, settings)
    candidate = torch_weights(weights, gradients, dtype, settings, make_optimizer)
    truth = None if dtype == "float64" else keras_weights(weights, gradients, "float64", settings)
    errors = judge(reference, candidate, truth, tolerance=TOLERANCE)
    result = {"measure": f"relative L2 after {STEPS} steps"} | summarise(errors)
    result["details"]["settings"] = settings
    return result
