"""A small model with a detail branch, and inputs for it."""

import numpy as np
import pytest

from tests.conftest import shake
from tests.keras_stoch.small import build


@pytest.fixture(scope="package")
def model():
    # Larger weights, so that the windows matter to the probability.
    return shake(build())


@pytest.fixture(scope="package")
def given():
    rng = np.random.default_rng(0)
    return {
        "low_res": rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8),
        "high_res": rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8),
        "windows": rng.integers(0, 34, (3, 6, 2), dtype=np.int32),
    }
