"""Optimizers, losses and learning-rate schedules of one's own."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_stoch
from keras_stoch.training.engine import Engine
from keras_stoch.training.own import Own, split_own
from keras_stoch.training.recipe import Recipe
from keras_stoch.training.strategies import get_strategy
from tests.keras_stoch.small import build, injected, rows


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that Keras does not know by name."""

    def __call__(self, step):
        return 0.1 / (1 + tf.cast(step, tf.float32))

    def get_config(self):
        return {}


def fitted(out, batches=2, **options):
    data, validation = injected(batches)
    options = {"epochs": 2, "batch_size": 8, "validation_data": validation} | options
    keras_stoch.fit(build, lambda epoch: data, out, **options)
    return out / "run-0"


def rates(run):
    return [float(row["learning_rate"]) for row in rows(run / "curves.csv")]


def config(run):
    return json.loads((run / "config.json").read_text())


@pytest.mark.slow
def test_an_optimizer_keeps_its_own_rate_and_settings(tmp_path):
    """Each run is given a copy; plain descent, so that one step can be worked out."""
    optimizer = keras.optimizers.SGD(0.5, clipvalue=1e-3)
    run = fitted(tmp_path / "a", optimizer=optimizer, runs=2)
    assert rates(run) == [0.5, 0.5]
    assert not optimizer.built
    told = config(run)["own"]["optimizer"]
    assert told["class"] == "SGD"
    assert told["config"]["clipvalue"] == 1e-3
    keras.utils.set_random_seed(0)
    for before, after in zip(build().trainable_variables, build_from(run).trainable_variables, strict=True):
        moved = np.abs(np.array(after) - np.array(before)).max()
        assert 0 < moved <= 4 * 0.5e-3 * 1.001  # four steps of at most 0.5 x 1e-3
    # A function that makes one like it is the same optimizer; another one is not.
    fitted(tmp_path / "a", optimizer=lambda: keras.optimizers.SGD(0.5, clipvalue=1e-3))
    with pytest.raises(ValueError, match="holds a run with other settings .*clipvalue: 0.001 there, 0.002 now"):
        fitted(tmp_path / "a", optimizer=keras.optimizers.SGD(0.5, clipvalue=2e-3))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        fitted(tmp_path / "a")


def build_from(run):
    model = build()
    model.load_weights(run / "last.weights.h5")
    return model


@pytest.mark.slow
def test_an_optimizer_with_a_schedule_inside(tmp_path):
    run = fitted(tmp_path, optimizer=keras.optimizers.Lion(Halving()))
    np.testing.assert_allclose(rates(run), [0.1 / 3, 0.1 / 5], rtol=1e-6)  # the next step's
    assert config(run)["own"]["optimizer"]["config"]["learning_rate"]["class_name"] == "Halving"


def test_names_that_are_not_decayed_stay_so():
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma"])
    copy = Own(optimizer).make_optimizer()
    assert copy is not optimizer
    assert copy._exclude_from_weight_decay_pattern.pattern in ("bias|gamma", "gamma|bias")


def test_a_schedule_by_step(tmp_path):
    """Over the whole run, also where it goes on, and with the factor of a callback."""
    schedule = Halving()
    run = fitted(tmp_path / "a", learning_rate=schedule, epochs=1)
    assert set(config(run)["own"]) == {"learning_rate"}
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    fitted(tmp_path / "a", learning_rate=schedule, callbacks=[halve])
    np.testing.assert_allclose(rates(run), [0.1 / 2, 0.1 / 8], rtol=1e-6)


@pytest.mark.slow
def test_an_optimizer_at_a_schedule(tmp_path):
    run = fitted(tmp_path, optimizer=keras.optimizers.SGD(9.0), learning_rate=lambda step: 0.25 * (step + 1))
    assert rates(run) == [0.5, 1.0]


@pytest.mark.slow
def test_the_second_stage_of_an_optimizer(tmp_path):
    options = {"freeze": "stem_bn", "freeze_epochs": 1, "thaw_factor": 0.25, "average": 0.9}
    run = fitted(tmp_path, optimizer=keras.optimizers.Adam(0.5), **options)
    assert rates(run) == [0.5, 0.125]


def by_hand(targets, logits):
    return tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)


@pytest.mark.slow
def test_losses():
    """A function that is the recipe's own loss, per image; focal loss is Keras's, a mean."""
    inputs, targets, draws = next(iter(injected(1)[0]))
    focal = keras.losses.BinaryFocalCrossentropy(from_logits=True)

    def first_step(loss):
        keras.utils.set_random_seed(0)
        engine = Engine(build, Recipe(), get_strategy("one")[0], Own(loss=loss))
        return float(engine._train_step((inputs, targets, draws))[0]), engine.model.get_weights()

    (paper, after), (loss, weights), theirs = map(first_step, (None, by_hand, focal))
    assert loss == pytest.approx(paper, rel=1e-6)
    for a, b in zip(weights, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    keras.utils.set_random_seed(0)
    assert theirs[0] == pytest.approx(float(focal(targets[:, None], build()(inputs, training=True, **draws))), rel=1e-5)
    assert Own(loss=by_hand).identity()["loss"]["function"].endswith("test_own.by_hand")
    given = functools.partial(keras.losses.binary_crossentropy, from_logits=True)
    assert split_own({}, "paper", given)[1].identity()["loss"]["arguments"] == "[('from_logits', True)]"
    assert Own(loss=focal).identity()["loss"]["config"]["gamma"] == 2.0


ADAM = keras.optimizers.Adam


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": 3}, "optimizer must be one of .*or a Keras optimizer. Received: optimizer=3"),
        ({"optimizer": lambda: 3}, "optimizer must be a Keras optimizer, or a function that makes one. Received: 3"),
        ({"optimizer": keras.losses.Hinge()}, "optimizer must be a Keras optimizer, or a function"),
        ({"optimizer": ADAM(), "rho": 0.5}, "rho: optimizer is your own, so that this has no effect"),
        ({"optimizer": ADAM(), "learning_rate": 3e-4}, "learning_rate: optimizer is your own"),
        ({"optimizer": ADAM(use_ema=True)}, "average=0.999 keeps averaged weights"),
        ({"optimizer": ADAM(Halving()), "learning_rate": Halving()}, "the optimizer has one too; give one of them"),
        (
            {"learning_rate": lambda step: "fast"},
            "a function of the step, must give a number of at least 0. Received: 'fast'",
        ),
        ({"learning_rate": lambda step: -1}, "must give a number of at least 0. Received: -1 for step 0"),
        ({"learning_rate": Halving(), "decay": 0.5}, "decay: learning_rate is your own"),
        ({"loss": "focal"}, "loss must be a Keras loss, or a function of targets and logits. Received: 'focal'"),
        ({"loss": keras.losses.BinaryCrossentropy()}, "logits: BinaryCrossentropy needs from_logits=True"),
        ({"loss": keras.losses.binary_crossentropy}, "logits: binary_crossentropy needs from_logits=True"),
        ({"loss": keras.losses.BinaryCrossentropy}, "loss must be a Keras loss, or"),
        ({"loss": keras.losses.Hinge(reduction="sum")}, "must be a mean over images. Received: reduction='sum'"),
        ({"loss": functools.partial(keras.losses.binary_crossentropy, label_smoothing=0.1)}, "needs from_logits=True"),
        ({"loss": by_hand, "pos_weight": 2.0}, "pos_weight: loss is your own"),
        ({"balanced": True}, "balanced=True draws images of a prepared folder, not Datasets"),
    ],
)
def test_what_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fitted(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
