"""The rungs of the ladder, cheap and certain first. One file each."""

from parity.rungs import batch_norm, configuration, forward, gradients, isolated, structure, weights

# Each takes (reference, candidate, truth): `Trace`s of the two models, and of the reference in float64 when the
# two are float32. Each returns fields of an `errors.Row`.
RUNGS = {
    "configuration": configuration.check,
    "structure": structure.check,
    "weights": weights.check,
    "forward": forward.check,
    "isolated": isolated.check,
    "batch_norm": batch_norm.check,
    "gradients": gradients.check,
}
