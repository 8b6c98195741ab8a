"""Fixtures shared by all tests. Frameworks get two threads at most, so that two workers do not fight."""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import pytest

from parity.environment import import_triton_first

import_triton_first()  # TensorFlow before it ends the process, where torch is the build for CUDA

LONGEST_FIRST = (
    "parity/strangers/test_corpus.py",
    "parity/court/test_mutations.py",
    "keras_stoch/serving/test_one_decoder.py",
    "keras_stoch/serving/test_trial.py",
    "keras_stoch/serving/test_endpoints.py",
    "keras_stoch/training/test_interrupts.py",
    "keras_stoch/test_stochastic_models.py",
    "keras_stoch/training/test_runs.py",
    "keras_stoch/serving/test_card.py",
    "keras_stoch/training/test_datasets.py",
    "keras_stoch/training/test_devices.py",
    "keras_stoch/serving/test_formats.py",
    "keras_stoch/test_detail.py",
    "keras_stoch/test_stochastic_conv.py",
    "parity/court/test_lockstep.py",
    "parity/strangers/test_faults.py",
    "parity/strangers/test_diagnosis.py",
    "parity/strangers/test_alarms.py",
    "parity/strangers/test_reports.py",
    "keras_stoch/training/test_folds.py",
    "keras_stoch/training/test_own.py",
    "keras_stoch/training/test_fine_tune.py",
    "keras_stoch/training/test_weights.py",
    "keras_stoch/training/test_which_data.py",
    "parity/test_preprocessing.py",
    "parity/test_command_line.py",
    "keras_stoch/evaluation/test_assessment.py",
    "keras_stoch/test_sources_of_weights.py",
    "keras_stoch/test_cli.py",
    "torch_ref/test_training.py",
    "docs/test_code_blocks.py",
    # Of those that are slow, which `make test-all` runs.
    "keras_stoch/training/test_baselines.py",
    "keras_stoch/data/test_synthetic.py",
    "keras_stoch/test_from_weights_to_server.py",
)


def pytest_configure(config):
    """Two logical CPU devices, for tests of replicas; and under pytest-xdist one core for every worker.

    Two workers that each take both cores are slower than one. The process that starts them runs no test, and goes
    without TensorFlow.
    """
    if getattr(config.option, "numprocesses", None):
        return
    import tensorflow as tf

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    if os.environ.get("PYTEST_XDIST_WORKER"):
        import torch

        torch.set_num_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that two workers, which share files out, end at about the same time."""

    def place(item):
        file = item.nodeid.partition("::")[0].removeprefix("tests/")
        return LONGEST_FIRST.index(file) if file in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


@pytest.fixture
def tiny():
    """The architectures of `tests.tiny` can be made by name in this test, in both packages."""
    from tests.tiny import registered

    with registered():
        yield


@pytest.fixture(scope="session")
def lesions(tmp_path_factory):
    """A prepared folder of 60 generated lesions of 64 pixels, 48 of them for training; not to be written into."""
    import keras_stoch

    return keras_stoch.write_lesions(tmp_path_factory.mktemp("data") / "lesions", 60, size=64)


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """Paths of real dermoscopic photographs, from the folder that ISIC_SAMPLE names."""
    folder = os.environ.get("ISIC_SAMPLE")
    if not folder:
        pytest.skip("needs real photographs: set ISIC_SAMPLE to a folder with images/")
    from parity.images import find_images

    return find_images(Path(folder) / "images")


@pytest.fixture
def mirrored():
    """MirroredStrategy over two logical CPU devices, the only one of the process: operations of two would collide."""
    from keras_stoch.training.strategies import get_strategy

    strategy, _ = get_strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    return strategy


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def official_b0():
    """The official B0 at 64x64 with one logit and no weights at their initial values."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.applications.EfficientNetB0(
        weights=None, classes=1, classifier_activation=None, input_shape=(64, 64, 3)
    )
    return shake(model)


def shake(model):
    """Gives every weight of a Keras model a value that it does not have by default."""
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            w
            if w.dtype.kind == "i"
            else np.float32(w * rng.uniform(0.8, 1.2, w.shape) + 0.01 * rng.uniform(size=w.shape))
            for w in model.get_weights()
        ]
    )
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


@pytest.fixture(scope="session")
def images():
    """Two structured 64x64 pictures, float32, values 0-255."""
    from parity.images import structured_images

    return structured_images(2, (64, 64), seed=1)
