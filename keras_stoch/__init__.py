"""Stochastic convolutions for high resolution images, in Keras 3.

Names are loaded on first use, so that `import keras_stoch` costs nothing.

The letters of shapes are those of `torch_ref`. Here channels stand last, there they stand first:

    B       images of a batch
    H, W    rows and columns of an image, or of the maps made of it
    C       their channels, 3 in a photograph
    F       filters: the channels that a layer puts out; a stochastic one draws a window for each
    K, L    rows and columns of a kernel; K alone where it is square
    S, T    strides over rows and columns; S alone where they are equal
    P, Q    rows and columns of the maps that a layer puts out
    M, N    rows and columns of a window: M = (P - 1) S + K, N = (Q - 1) T + L

    images (B, H, W, C), kernel (K, L, C, F), windows (F, 2) or (B, F, 2) -> maps (B, P, Q, F)
"""

import sys
from importlib import import_module

_EXPORTS = {
    "ARCHITECTURES": "architectures",
    "AveragedPasses": "evaluation.predictions",
    "EfficientNet": "models",
    "Pipeline": "data.pipeline",
    "RECIPES": "training.recipe",
    "Recipe": "training.recipe",
    "StochasticConv2D": "layers",
    "StochasticModel": "models",
    "TrainingDiverged": "training.recipe",
    "add_detail": "detail",
    "audit": "data.audit",
    "compare": "evaluation.comparison",
    "create_model": "models",
    "evaluate": "evaluation.assessment",
    "evidence": "evaluation.evidence",
    "export": "serving.export",
    "fit": "training.fit",
    "load_model": "models",
    "load_official_weights": "checkpoints",
    "load_run": "training.runs",
    "predict": "evaluation.predictions",
    "predict_photographs": "evaluation.predictions",
    "prepare": "data.prepare",
    "read_labels": "data.labels",
    "write_lesions": "data.synthetic",
    "read_official_weights": "checkpoints",
}
__all__ = sorted(_EXPORTS)
__version__ = "0.1.0"


# Keras can only load a saved model whose classes are registered. Where Keras is there already, registering is cheap.
if "keras" in sys.modules:
    import_module("keras_stoch.models")


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'keras_stoch' has no attribute {name!r}")
    return getattr(import_module(f"keras_stoch.{_EXPORTS[name]}"), name)


def __dir__():
    return __all__
