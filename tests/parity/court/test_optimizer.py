"""The optimiser rung: Keras's RMSprop and torch_ref's from equal gradients."""

import pytest

from parity.court.rungs import optimizer


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("settings", optimizer.SETTINGS, ids=["plain", "momentum"])
def test_optimizer_rung(dtype, settings):
    verdict = optimizer.check(settings, dtype)
    assert verdict["passed"], verdict
    if dtype == "float64":
        assert verdict["value"] < 1e-12
