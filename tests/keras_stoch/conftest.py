"""Fixtures shared by the tests of keras_stoch: runs that are trained once."""

import pytest

import keras_stoch
from keras_stoch.cli import main
from tests.keras_stoch.reuse import engines_reused
from tests.tiny import SIZES, registered, sizes

EPOCH = {"epochs": 1, "batch_size": 16}
FIT_OPTIONS = [part for name, value in (EPOCH | SIZES).items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def traced_once():
    """Runs of this test share traced steps with all others that train the same, see `tests.keras_stoch.reuse`."""
    with engines_reused():
        yield


@pytest.fixture(scope="session")
def plain_run(lesions, tmp_path_factory):
    """The folder of a run of "tiny" on `lesions`: three epochs, seed 3. Tests that load it ask for `tiny` too."""
    out = tmp_path_factory.mktemp("plain") / "runs"
    with registered(), engines_reused():
        keras_stoch.fit("tiny", lesions, out, seed=3, **sizes("tiny"), **EPOCH | {"epochs": 3})
    return out / "run-0"


@pytest.fixture(scope="session")
def stem_run(lesions, tmp_path_factory):
    """The folder of a run of "tiny-stem" on `lesions`: one epoch, by the command line, with FIT_OPTIONS."""
    out = tmp_path_factory.mktemp("stem") / "runs"
    with registered(), engines_reused():
        assert main(["fit", "tiny-stem", "--data", str(lesions), "--out", str(out), *FIT_OPTIONS]) == 0
    return out / "run-0"
