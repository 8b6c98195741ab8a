"""Is this port faithful? Weight transfer and a ladder of checks between Keras and PyTorch models.

Keras runs on TensorFlow here, whose float64 is exact to the last digits; on other backends float32 leaks in.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # torch uses the same GPU

from parity.comparison import ComparisonReport, compare
from parity.environment import import_triton_first
from parity.kinds import Kind, register_kind
from parity.preprocessing import InputReport, compare_inputs
from parity.recording import record
from parity.transfer import TransferError, TransferReport, keras_to_torch, torch_to_keras

__all__ = [
    "ComparisonReport",
    "InputReport",
    "Kind",
    "TransferError",
    "TransferReport",
    "compare",
    "compare_inputs",
    "keras_to_torch",
    "record",
    "register_kind",
    "torch_to_keras",
]

import_triton_first()  # before anything here brings TensorFlow
