"""Serving: `export` writes a trained model for programs without this package."""

from keras_stoch.serving.export import export

__all__ = ["export"]
