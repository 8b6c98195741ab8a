"""Fixtures shared by the tests of keras_stoch."""

import pytest

import keras_stoch


@pytest.fixture(scope="session")
def lesions(tmp_path_factory):
    """60 generated lesions of 64 pixels."""
    return keras_stoch.write_lesions(tmp_path_factory.mktemp("data") / "lesions", 60, size=64)
