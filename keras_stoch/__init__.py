"""Stochastic convolutions for high resolution images, in Keras 3.

Names are loaded on first use, so that `import keras_stoch` costs nothing.
"""

import sys
from importlib import import_module

_EXPORTS = {
    "ARCHITECTURES": "architectures",
    "AveragedPasses": "evaluation.predictions",
    "EfficientNet": "models",
    "Pipeline": "data.pipeline",
    "Recipe": "training.recipe",
    "StochasticConv2D": "layers",
    "TrainingDiverged": "training.recipe",
    "audit": "data.audit",
    "create_model": "models",
    "evaluate": "evaluation.metrics",
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
