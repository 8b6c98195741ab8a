"""Networks that people port, from transformers to keras-hub and Keras: right ones pass, wrong ones have a cause."""

import warnings

import keras
import pytest

import parity
from tests.parity.strangers.models import causes

for package in ("transformers", "keras_hub"):
    pytest.importorskip(package, reason=f"{package} is not installed; make strangers installs it")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they warn of when they are imported is theirs
    from tests.parity.strangers.networks import PAIRS

FAST = ("ViT",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PAIRS]
)
@pytest.mark.filterwarnings("ignore")
def test_a_network(name):
    make, words = PAIRS[name]
    keras.utils.set_random_seed(0)
    report = parity.compare(*make(), names="order", transfer=True, training=False)
    assert report.transfer.complete, report
    assert report.passed == (not words), report
    assert bool(report.causes) == bool(words), report
    for word in words:
        assert word in causes(report), report
