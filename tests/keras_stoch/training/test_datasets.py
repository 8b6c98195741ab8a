"""Datasets of one's own: what they must give, said before the first step or in the pass that gives something else."""

import numpy as np
import pytest
import tensorflow as tf

import keras_stoch
from tests.keras_stoch.small import RECIPE, build, injected

pytestmark = pytest.mark.usefixtures("traced_once")

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
LARGE = np.random.default_rng(1).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
BOTH = {"low_res": IMAGES, "high_res": LARGE}
TARGETS = np.float32(np.arange(16) % 2)


def batches(*parts, size=4):
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)


def good():
    return batches(BOTH, TARGETS)


def refused(tmp_path, message, data=None, validation_data=None, model=build, **options):
    options = RECIPE | {"epochs": 2, "batch_size": 4} | options
    with pytest.raises(ValueError, match=message):
        keras_stoch.fit(model, data or good(), tmp_path / "out", validation_data=validation_data or good(), **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tf.data.Dataset.from_tensor_slices((BOTH, TARGETS)), r"takes low_res images \(batch, 32, 32, 3\).*no batches"),
        (batches(BOTH, TARGETS, np.ones(16)), "third part .* sample weights are not supported"),
        (batches(BOTH, TARGETS, {"weights": np.ones(16)}), r"part of a batch has windows and drop_masks. .*weigh"),
        (batches(BOTH, TARGETS, {}, TARGETS), "must give batches .inputs, targets.. Received: a tuple of 4"),
        (tf.data.Dataset.from_tensor_slices(BOTH).batch(4), "must give batches .inputs, targets.. Received: dict"),
        (batches(IMAGES, TARGETS), "Inputs must be a dict of low_res and high_res. Received: EagerTensor in batch 0"),
        (batches({"low_res": IMAGES}, TARGETS), r"must be a dict of low_res and high_res. Received: \['low_res'\]"),
        (batches({**BOTH, "high_res": LARGE[:, :48]}, TARGETS), r"takes high_res images .*64, 64, 3\). .*48, 64"),
        (batches({**BOTH, "low_res": IMAGES[..., :1]}, TARGETS), r"takes low_res images \(batch, 32, 32, 3\)"),
        (batches({**BOTH, "low_res": IMAGES.astype(str)}, TARGETS), "Inputs must be numbers. Received: string"),
        (batches(BOTH, np.eye(2)[np.arange(16) % 2]), r"Targets must be \(batch,\) or .*here \(4,\). .*4, 2"),
        (batches(BOTH, {"y": TARGETS}), "Targets must be one tensor"),
        (batches(BOTH, TARGETS, {"windows": np.zeros((16, 6, 2), np.int32)}).map(
            lambda x, y, draws: (x, y, {"windows": draws["windows"][0]})), "Draws must have a batch axis of 4"),
    ],
)  # fmt: skip
def test_what_training_can_not_use_is_said_before_the_first_step(tmp_path, data, message):
    refused(tmp_path, message, data)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (
            batches({**BOTH, "low_res": IMAGES[:, :16, :16]}, TARGETS),
            "takes low_res images .* in batch 0 of validation",
        ),
        (batches(BOTH, TARGETS, np.ones(16)), "validation_data must give batches .* sample weights are not supported"),
        (injected()[0], "validation_data must give batches"),
        (batches(BOTH, np.zeros(16)), "both classes are needed"),
    ],
)
def test_so_is_what_validation_can_not_use(tmp_path, validation, message):
    refused(tmp_path, message, validation_data=validation)


@pytest.mark.slow
def test_models_of_one_input_take_one(tiny, tmp_path):
    one = batches(IMAGES, TARGETS)
    refused(tmp_path, "The model takes one input. Received: 2", model="tiny", low_res=32)
    refused(tmp_path, r"takes images \(batch, 64, 64, 3\)", one, one, model="tiny", low_res=64)
    (result,) = keras_stoch.fit("tiny", one, tmp_path / "out", validation_data=one, low_res=32, epochs=1, batch_size=4)
    assert result["epochs"] == 1


@pytest.mark.parametrize("names", [["passes"], ["passes", "strategy"]])
def test_passes_of_a_model_that_draws_nothing_are_refused(tmp_path, tiny, lesions, names, mirrored):
    import keras

    def plain():
        inputs = keras.Input((32, 32, 3))
        return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(inputs)))

    options = {"passes": 3, "strategy": mirrored}
    one = batches(IMAGES, TARGETS)
    given = {name: options[name] for name in names}
    refused(tmp_path, "Averaging over draws needs a model with a detail branch", one, one, model=plain, **given)
    with pytest.raises(ValueError, match="'tiny' draws no windows to average over. Received: passes=3"):
        keras_stoch.fit("tiny", lesions, tmp_path / "out", passes=3)
    assert not (tmp_path / "out").exists()


def from_the_second_pass_on(other):
    """A Dataset that gives `other` from its third pass on: one is the check, one is the first epoch."""
    passes = [0]

    def generate():
        passes[0] += 1
        yield from good() if passes[0] < 3 else other

    return tf.data.Dataset.from_generator(
        generate,
        output_signature=(
            {
                "low_res": tf.TensorSpec((None, None, None, 3), tf.uint8),
                "high_res": tf.TensorSpec((None, None, None, 3), tf.uint8),
            },
            tf.TensorSpec((None,), tf.float32),
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "side", "message"),
    [
        (
            batches({**BOTH, "low_res": IMAGES[:, :16]}, TARGETS),
            "data",
            r"takes low_res images .* in epoch 1, which is",
        ),
        (batches(BOTH, TARGETS + 1), "data", "Targets must be 0 or 1. .* in batch 0 of data, in epoch 1"),
        (good().take(0), "data", "data is empty in epoch 1, and was not when it was checked"),
        (good().take(0), "validation_data", "validation_data is empty in epoch 1"),
        (batches(BOTH, TARGETS + 1), "validation_data", "in batch 0 of validation_data, in epoch 1"),
    ],
)
def test_another_pass_that_gives_something_else_is_refused_then(tmp_path, other, side, message):
    given = {"data": good(), "validation_data": good()} | {side: from_the_second_pass_on(other)}
    with pytest.raises(ValueError, match=message):
        keras_stoch.fit(build, out=tmp_path, **given, **RECIPE | {"epochs": 3, "batch_size": 4})
    assert (tmp_path / "run-0" / "last.weights.h5").exists()  # of the first epoch


@pytest.mark.slow
def test_batches_that_replicas_can_not_share(tmp_path, mirrored):
    options = RECIPE | {"epochs": 3, "batch_size": 4, "strategy": mirrored}
    with pytest.raises(ValueError, match="Batches must be divisible by the 2 replicas. Received: 3 in batch 0"):
        keras_stoch.fit(build, batches(BOTH, TARGETS, size=3), tmp_path, validation_data=good(), **options)
    later = from_the_second_pass_on(batches(BOTH, TARGETS, size=3))
    message = "data can not be divided among 2 replicas in batch 0 of epoch 1, which it could when it was checked"
    with pytest.raises(ValueError, match=message):
        keras_stoch.fit(build, later, tmp_path, validation_data=good(), **options)


@pytest.mark.slow
def test_validation_of_one_class_in_a_later_pass_has_no_auc_and_keeps_the_best(tmp_path):
    later = from_the_second_pass_on(batches(BOTH, np.zeros(16, np.float32)))
    options = RECIPE | {"epochs": 3, "batch_size": 4}
    (result,) = keras_stoch.fit(build, good(), tmp_path, validation_data=later, **options)
    assert np.isnan(result["final_val_auc"])
    assert result["best_epoch"] == 0
    assert 0 <= result["best_val_auc"] <= 1
    never = batches(BOTH, TARGETS)
    rows = [0]

    def generate():
        rows[0] += 1
        yield from never if rows[0] < 2 else batches(BOTH, np.zeros(16, np.float32))

    always = tf.data.Dataset.from_generator(generate, output_signature=good().element_spec)
    (result,) = keras_stoch.fit(build, good(), tmp_path / "never", validation_data=always, **options)
    assert np.isnan(result["best_val_auc"])
    assert (tmp_path / "never" / "run-0" / "best.weights.h5").exists()


@pytest.mark.slow
def test_a_function_that_gives_other_images_than_when_the_run_began_is_told(tmp_path):
    options = RECIPE | {"epochs": 1, "batch_size": 4, "validation_data": good()}
    keras_stoch.fit(build, lambda epoch: good(), tmp_path, **options)
    shuffled = batches({k: v[::-1] for k, v in BOTH.items()}, TARGETS[::-1])
    keras_stoch.fit(build, lambda epoch: shuffled, tmp_path, **options | {"epochs": 2})  # the order may differ
    other = batches({**BOTH, "low_res": IMAGES ^ 1}, TARGETS)
    with pytest.warns(UserWarning, match="goes on with other images or targets in epoch 0 of data than it began with"):
        keras_stoch.fit(build, lambda epoch: other, tmp_path, **options | {"epochs": 3})
