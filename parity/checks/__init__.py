"""The rungs of the ladder, cheap and certain first. One file each."""

from parity.checks import batch_norm, configuration, forward, gradients, isolated, structure, weights, windows

# Each takes (reference, candidate, truth): `Evidence` of the two models, and of the reference in float64 when the
# two are float32. Each returns fields of a `compare.Row`.
RUNGS = {
    "configuration": configuration.check,
    "structure": structure.check,
    "weights": weights.check,
    "windows": windows.check,
    "forward": forward.check,
    "isolated": isolated.check,
    "batch_norm": batch_norm.check,
    "gradients": gradients.check,
}
