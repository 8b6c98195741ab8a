"""Ports of an EfficientNet with three to eight faults each: what is named in one run, and that a right one has none."""

import keras
import numpy as np
import pytest
import torch

import parity
from tests.conftest import shake
from tests.parity.strangers.efficientnets import PORTS, SIZE, WORDS, Port, reference


def compared(*faults):
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3))
    return parity.compare(shake(reference()), Port(*faults), pixels, names="order", transfer=True)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(PORTS)))
def test_all_faults_are_named(place):
    report = compared(*PORTS[place])
    told = "\n".join(map(str, report.causes))
    missing = [fault for fault in PORTS[place] if fault in WORDS and WORDS[fault] not in told]
    assert not missing, str(report)


def test_a_right_port_has_none():
    report = compared()
    assert report.passed, report
    assert not report.causes
