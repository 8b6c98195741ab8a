"""Evaluation: predictions averaged over draws, how good they are, and figures. Names are loaded on first use."""

from importlib import import_module

_EXPORTS = {
    "AveragedPasses": "predictions",
    "Evaluation": "assessment",
    "bootstrap_auc": "metrics",
    "Calibration": "calibration",
    "compare": "comparison",
    "draw_logits": "predictions",
    "evaluate": "assessment",
    "evidence": "evidence",
    "mean_logit": "predictions",
    "predict": "predictions",
    "predict_photographs": "predictions",
    "roc_auc": "metrics",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'keras_stoch.evaluation' has no attribute {name!r}")
    return getattr(import_module(f"keras_stoch.evaluation.{_EXPORTS[name]}"), name)


def __dir__():
    return __all__
