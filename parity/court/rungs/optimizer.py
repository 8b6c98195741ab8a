"""Rung 7: many steps of the optimiser from equal gradients."""

import functools

import numpy as np

from parity.errors import judge, summarise

STEPS = 100
TOLERANCE = 1e-12
_COMMON = {"learning_rate": 1e-3, "epsilon": 1e-8}
# The paper's recipe, one with momentum and decay, fine-tuning's, and one with other averages.
SETTINGS = {
    "RMSprop": _COMMON | {"rho": 0.99, "momentum": 0.0},
    "RMSprop, momentum 0.9": _COMMON | {"rho": 0.99, "momentum": 0.9, "weight_decay": 0.1},
    "AdamW": _COMMON | {"beta_1": 0.9, "beta_2": 0.999, "weight_decay": 0.01},
    "AdamW, other betas": _COMMON | {"beta_1": 0.5, "beta_2": 0.9, "weight_decay": 0.1},
}
# From gradients far below the square root of epsilon, where its place matters, to far above.
SCALES = (0.0, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1.0, 100.0)


def torch_rmsprop(parameters, learning_rate, rho, epsilon, momentum, weight_decay=0.0):
    """The optimiser of `torch_ref`."""
    from torch_ref.training import RMSprop

    return RMSprop(parameters, learning_rate, rho, momentum, epsilon, weight_decay)


def torch_adamw(parameters, learning_rate, beta_1, beta_2, epsilon, weight_decay):
    """The optimiser of `torch_ref`."""
    from torch_ref.training import AdamW

    return AdamW(parameters, learning_rate, (beta_1, beta_2), epsilon, weight_decay)


def make_gradients(seed: int) -> tuple[dict, list[dict]]:
    """(weights to begin with, gradients of every step), by the scale of the gradients."""
    rng = np.random.default_rng(seed)
    weights = {f"gradient scale {scale:g}": np.zeros((8, 16), np.float32) for scale in SCALES}
    return weights, [
        {name: np.float32(s * rng.normal(size=(8, 16))) for name, s in zip(weights, SCALES, strict=True)}
        for _ in range(STEPS)
    ]


@functools.cache
def keras_weights(name: str, dtype: str, seed: int) -> dict[str, np.ndarray]:
    """Weights after `STEPS` steps of Keras's optimiser, computed once a process: every candidate is held against them.

    The step is a graph, as it is in training.
    """
    import keras
    import tensorflow as tf

    from parity.adapters.keras import keras_precision

    weights, gradients = make_gradients(seed)
    make = getattr(keras.optimizers, name.partition(",")[0])
    with keras_precision(dtype):
        variables = {tensor: keras.Variable(array, dtype=dtype, name=tensor) for tensor, array in weights.items()}
        optimizer = make(**SETTINGS[name])
        optimizer.build(list(variables.values()))
        apply = tf.function(lambda *tensors: optimizer.apply(tensors, list(variables.values())), autograph=False)
        for step in gradients:
            apply(*(keras.ops.convert_to_tensor(step[tensor], dtype) for tensor in variables))
        return {tensor: keras.ops.convert_to_numpy(variable) for tensor, variable in variables.items()}


def torch_weights(weights, gradients, dtype, name, make_optimizer) -> dict[str, np.ndarray]:
    """The same with a torch optimiser."""
    import torch

    kind = getattr(torch, dtype)
    parameters = {n: torch.nn.Parameter(torch.tensor(array, dtype=kind)) for n, array in weights.items()}
    optimizer = make_optimizer(list(parameters.values()), **SETTINGS[name])
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(step[name], dtype=kind)
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in parameters.items()}


def check(name: str, dtype: str = "float64", seed: int = 0, make_optimizer=None) -> dict:
    """`STEPS` steps of Keras's optimiser and a torch one on weights of every gradient scale.

    All start from zero, where even the smallest step counts in full.

    Args:
        name: key of `SETTINGS`.
        dtype: "float64" or "float32".
        seed: of the gradients.
        make_optimizer: function of parameters and settings, for planted faults; that of `torch_ref` by default.
    """
    make_optimizer = make_optimizer or {"RMSprop": torch_rmsprop, "AdamW": torch_adamw}[name.partition(",")[0]]
    weights, gradients = make_gradients(seed)
    reference = keras_weights(name, dtype, seed)
    candidate = torch_weights(weights, gradients, dtype, name, make_optimizer)
    truth = None if dtype == "float64" else keras_weights(name, "float64", seed)
    errors = judge(reference, candidate, truth, tolerance=TOLERANCE)
    result = {"measure": f"relative L2 after {STEPS} steps"} | summarise(errors)
    result["details"]["settings"] = SETTINGS[name]
    if not result["passed"] and SETTINGS[name].keys() == {"learning_rate", "rho", "epsilon", "momentum"}:
        result["causes"] = _causes(reference, candidate, gradients, SETTINGS[name])
    return result


def _causes(reference: dict, candidate: dict, gradients: list[dict], settings: dict) -> list[str]:
    """What the candidate's steps are, of the ways in which people write RMSprop."""
    ways = {"epsilon outside of the root, as torch.optim has it": {"outside": True}}
    ways |= {f"a decay (rho) of {rho}": {"rho": rho} for rho in (0.9, 0.95, 0.99, 0.999) if rho != settings["rho"]}
    ways |= {f"an epsilon of {eps:g}": {"epsilon": eps} for eps in (1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10)}
    for words, changed in ways.items():
        made = _steps(gradients, **settings | changed)
        if all(np.allclose(made[name], candidate[name], rtol=1e-9, atol=1e-15) for name in made):
            return [f"the candidate's steps are those of {words}."]
    name = max(reference, key=lambda n: float(np.abs(reference[n]).max()))
    first = _steps([{name: gradients[0][name]}], **settings)[name]
    later, found = reference[name] - first, candidate[name] - first
    ratio = float((later * found).sum() / (later * later).sum())
    if abs(ratio - 1) > 1e-9 and np.allclose(ratio * later, found, rtol=1e-6):
        return [f"after the first step the candidate's steps are {ratio:.6g} times the reference's: another rate."]
    return []


def _steps(gradients, learning_rate, rho, epsilon, momentum, outside=False) -> dict[str, np.ndarray]:
    """Weights after steps from zero, in float64; `outside` of the root stands epsilon in torch.optim."""
    found = {}
    for name in gradients[0]:
        weight = square = gathered = np.zeros(gradients[0][name].shape)
        for step in gradients:
            g = step[name].astype(np.float64)
            square = rho * square + (1 - rho) * g * g
            root = np.sqrt(square) + epsilon if outside else np.sqrt(square + epsilon)
            if momentum:
                gathered = momentum * gathered + (g / root if outside else learning_rate * g / root)
                weight = weight - (learning_rate * gathered if outside else gathered)
            else:
                weight = weight - learning_rate * g / root
        found[name] = weight
    return found
