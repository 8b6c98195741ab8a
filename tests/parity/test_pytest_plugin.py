"""The pytest plugin: what a failing port says in somebody's CI, and golden traces that are recorded anew."""

import pytest

pytest_plugins = ("pytester",)

SUITE = """
import keras, numpy as np, torch
from torch import nn

IMAGES = np.random.default_rng(0).uniform(size=(2, 6))

def original():
    torch.manual_seed({seed})
    return nn.Sequential(nn.Linear(6, 3), nn.ReLU())

def port(slope=0.0):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(3, name="0")(inputs)
    return keras.Model(inputs, keras.layers.ReLU(negative_slope=slope, name="1")(x))

def test_right(parity_check):
    assert parity_check(original, port, IMAGES, transfer=True).passed

def test_wrong(parity_check):
    parity_check(original(), port(0.5), IMAGES, transfer=True)

def test_golden(parity_check):
    parity_check({reference}, port, IMAGES, golden="golden/net.npz", transfer={transfer})
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Runs the suite in this process with the plugin."""
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider -p no:randomly")

    def run(*arguments, **values):
        pytester.makepyfile(test_port=SUITE.format(**{"seed": 0, "reference": "original", "transfer": True} | values))
        return pytester.runpytest_inprocess("-p", "parity.pytest_plugin", *arguments)

    return run


def test_a_failure_is_the_diagnosis(run):
    result = run("-k", "right or wrong", "--parity-out", "pages")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["Outputs differ by *", "*FAIL forward*first: 1*", "*They part on the rung*at 1*"])
    result.stdout.fnmatch_lines(["*pages/test_wrong/report.html"])
    assert "Traceback" not in result.stdout.str()


def test_golden_traces_are_recorded_and_stand_for_the_reference(run, pytester):
    result = run("-k", "golden")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["No golden trace *golden/net.npz; record it with --parity-update"])
    run("-k", "golden", "--parity-update").assert_outcomes(passed=1)
    assert (pytester.path / "golden/net.npz").is_file()
    # From now on the reference is not asked for.
    run("-k", "golden", reference="None").assert_outcomes(passed=1)
    # Nor is it followed: the port's own weights are other ones.
    result = run("-k", "golden", reference="None", transfer=False)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*FAIL weights*"])
