"""Stochastic convolutions for high resolution images, in PyTorch: the twin of `keras_stoch`, to be read beside it.

The letters of shapes are those of `keras_stoch`. Here channels stand first, there they stand last:

    B       images of a batch
    H, W    rows and columns of an image, or of the maps made of it
    C       their channels, 3 in a photograph
    F       filters: the channels that a layer puts out; a stochastic one draws a window for each
    K, L    rows and columns of a kernel; K alone where it is square
    S, T    strides over rows and columns; S alone where they are equal
    P, Q    rows and columns of the maps that a layer puts out
    M, N    rows and columns of a window: M = (P - 1) S + K, N = (Q - 1) T + L

    images (B, C, H, W), kernel (F, C, K, L), windows (F, 2) or (B, F, 2) -> maps (B, F, P, Q)
"""

from torch_ref.architectures import ARCHITECTURES
from torch_ref.checkpoints import load_official_weights, read_official_weights
from torch_ref.models import EfficientNet, create_model

__all__ = ["ARCHITECTURES", "EfficientNet", "create_model", "load_official_weights", "read_official_weights"]
