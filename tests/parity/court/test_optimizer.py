"""The optimiser rung: Keras's RMSprop and AdamW, and torch_ref's, from equal gradients."""

import pytest

from parity.court.rungs import optimizer

FAST = [("RMSprop", "float64"), ("AdamW", "float64")]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if (name, dtype) in FAST else pytest.mark.slow)
        for name in optimizer.SETTINGS
        for dtype in ("float64", "float32")
    ],
)
def test_optimizer_rung(name, dtype):
    verdict = optimizer.check(name, dtype)
    assert verdict["passed"], verdict
    if dtype == "float64":
        assert verdict["value"] < 1e-12
