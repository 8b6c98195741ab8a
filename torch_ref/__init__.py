"""The models of `keras_stoch` in plain PyTorch, written to be read beside it."""

from torch_ref.architectures import ARCHITECTURES
from torch_ref.checkpoints import load_official_weights, read_official_weights
from torch_ref.models import EfficientNet, create_model

__all__ = ["ARCHITECTURES", "EfficientNet", "create_model", "load_official_weights", "read_official_weights"]
