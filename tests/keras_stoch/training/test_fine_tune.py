"""What fine-tuning does to weights: losses, decay, averages, frozen blocks, patience, and the paper without them."""

import itertools
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_expit

import keras_stoch
from keras_stoch.cli import main
from keras_stoch.training.engine import Engine
from keras_stoch.training.freezing import first_layers
from keras_stoch.training.optimizer import cross_entropy
from keras_stoch.training.own import Own
from keras_stoch.training.recipe import Recipe
from keras_stoch.training.strategies import get_strategy
from tests.keras_stoch.conftest import FIT_OPTIONS
from tests.keras_stoch.small import build, injected, rows, weights

ALL = {
    "recipe": "fine-tune", "epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "weight_decay": 0.1, "average": 0.9,
    "pos_weight": 2.0, "freeze": "stem_bn", "freeze_epochs": 1, "thaw_factor": 0.5, "warmup_epochs": 0.5,
}  # fmt: skip


class Stop(keras.callbacks.Callback):
    """Ends training by an exception after some steps."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise InterruptedError


class Remember(keras.callbacks.Callback):
    """The weights after every step, by path."""

    def on_train_begin(self, logs=None):
        self.steps = [self.now()]

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.now())

    def now(self):
        return {v.path: np.array(v) for v in self.model.weights}


def engine(recipe, **own):
    return Engine(build, recipe, get_strategy("one")[0], Own(**own), steps=6)


def test_the_papers_steps_are_as_they_always_were(tmp_path):
    """`fit` without any of the new options against a loop written out, to the last bit."""
    data, validation = injected(3)
    options = {"epochs": 2, "batch_size": 8, "hold_epochs": 1, "validation_data": validation}
    keras_stoch.fit(build, data, tmp_path, **options)
    keras.utils.set_random_seed(0)
    model = build()
    optimizer = keras.optimizers.RMSprop(1e-3, rho=0.99, momentum=0.0, epsilon=1e-8)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(inputs, targets, draws):
        targets = tf.reshape(tf.cast(targets, tf.float32), (-1, 1))
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True, **draws)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_sum(losses) / tf.cast(tf.shape(targets)[0], losses.dtype)
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    losses = []
    for rate in (1e-3, 1e-3 * 0.9):
        optimizer.learning_rate = rate
        losses += [float(step(*batch)) for batch in data]
    assert [float(row["loss"]) for row in rows(tmp_path / "run-0" / "batches.csv")] == losses
    for found, expected in zip(weights(tmp_path / "run-0" / "last.weights.h5"), model.get_weights(), strict=True):
        if expected.dtype.kind == "f":  # validation draws windows, which moves the state of a generator
            np.testing.assert_array_equal(found, expected)


def test_losses_against_their_formula(rng):
    targets, logits = np.float64(rng.integers(0, 2, (40, 1))), rng.normal(0, 4, (40, 1))
    for smoothing, weight in ((0.0, 1.0), (0.1, 1.0), (0.0, 3.5), (0.3, 0.2)):
        found = cross_entropy(targets, tf.constant(logits), Recipe(label_smoothing=smoothing, pos_weight=weight))
        smooth = targets * (1 - smoothing) + smoothing / 2
        expected = -(weight * smooth * log_expit(logits) + (1 - smooth) * log_expit(-logits))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    theirs = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1, dtype="float64")
    ours = cross_entropy(targets, tf.constant(logits), Recipe(label_smoothing=0.1))
    assert float(theirs(targets, logits)) == pytest.approx(float(tf.reduce_mean(ours)), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("rmsprop", marks=pytest.mark.slow)])
def test_decay_is_of_kernels_alone(optimizer):
    """With a loss that does not depend on the model, decay is all that there is."""
    recipe = Recipe(optimizer=optimizer, weight_decay=0.5, learning_rate=0.1)
    trainer = engine(recipe, loss=lambda targets, logits: 0.0 * logits)
    before = {v.path: np.array(v) for v in trainer.model.trainable_variables}
    trainer.begin_epoch(0)
    trainer.train_step(next(iter(injected(1)[0])))
    decayed = set()
    for variable in trainer.model.trainable_variables:
        found, was = np.array(variable), before[variable.path]
        if (found != was).any():
            np.testing.assert_allclose(found, was * 0.95, rtol=1e-6)
            decayed.add(variable.path.split("/")[-1])
        else:
            assert variable.path.split("/")[-1] in ("bias", "gamma", "beta")
    assert decayed == {"kernel"}


@pytest.fixture(scope="module")
def whole(lesions, tmp_path_factory):
    """A run with everything on, and the weights after its steps."""
    out, remember = tmp_path_factory.mktemp("whole"), Remember()
    keras_stoch.fit(build, lesions, out, callbacks=[remember], **ALL)
    return out / "run-0", remember.steps


def test_the_first_blocks_stay_and_then_thaw(whole):
    run, steps = whole
    assert len(steps) == 1 + 3 * 6
    for path in steps[0]:
        if "seed_generator" in path:
            continue
        same = [(a[path] == b[path]).all() for a, b in itertools.pairwise(steps)]
        if path.startswith("stem_"):  # weights, and batch norm's statistics
            assert same == [True] * 6 + [False] * 12, path
        else:
            assert not any(same), path
    rates = [float(row["learning_rate"]) for row in rows(run / "curves.csv")]
    recipe = keras_stoch.Recipe(**json.loads((run / "config.json").read_text())["recipe"])
    assert rates == [recipe.rate(epoch, 5, 6) for epoch in range(3)]


def test_averaged_weights_are_validated_and_kept(whole, lesions):
    """The averages by their formula, from the weights after every step; begun anew where the second stage begins."""
    run, steps = whole
    paths = [v.path for v in build().trainable_variables]
    expected = {path: steps[0][path] for path in paths}
    for number, step in enumerate(steps[1:]):
        if number == 6:
            expected = {path: steps[6][path] for path in paths}
        done = 1 + (number if number < 6 else number - 6)
        decay = min(0.9, (1 + done) / (10 + done))
        expected = {path: a + (1 - decay) * (step[path] - a) for path, a in expected.items()}
    model = build()
    model.load_weights(run / "last.weights.h5")
    for variable in model.trainable_variables:
        np.testing.assert_allclose(variable, expected[variable.path], rtol=1e-4, atol=1e-6, err_msg=variable.path)
        assert (np.array(variable) != steps[-1][variable.path]).any()
    result = json.loads((run / "result.json").read_text())
    windows = np.zeros((6, 2), np.int32)  # drawn anew, they change the loss a little
    pipeline = keras_stoch.Pipeline(lesions, "validation", batch_size=12, low_res=32, high_res=64)
    ((inputs, targets),) = pipeline.epoch(0)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)(targets[:, None], model(inputs, windows=windows))
    assert float(loss) == pytest.approx(result["final_val_loss"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("after", [3, 6, 9])
def test_cut_in_either_stage_it_ends_as_if_not(whole, lesions, tmp_path, after):
    """In the first stage, at its end, and in the second: every loss, rate and weight to the bit."""
    run, cut = whole[0], tmp_path / "run-0"
    with pytest.raises(InterruptedError):
        keras_stoch.fit(build, lesions, tmp_path, checkpoint_seconds=0.0, callbacks=[Stop(after)], **ALL)
    keras_stoch.fit(build, lesions, tmp_path, **ALL)
    assert rows(run / "batches.csv") == rows(cut / "batches.csv")
    for a, b in zip(rows(run / "curves.csv"), rows(cut / "curves.csv"), strict=True):
        assert a | {"seconds": None} == b | {"seconds": None}
    for name in ("best", "last"):
        for a, b in zip(*(weights(one / f"{name}.weights.h5") for one in (run, cut)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_patience_ends_a_run_for_good(tmp_path, monkeypatch, capsys):
    data, validation = injected(1)
    aucs = iter([0.6, 0.7, 0.7, 0.5])
    monkeypatch.setattr(sys.modules["keras_stoch.training.fit"], "_validate", lambda *_: (1.0, next(aucs)))
    options = {"batch_size": 8, "patience": 2, "validation_data": validation}
    (result,) = keras_stoch.fit(build, lambda epoch: data, tmp_path, epochs=9, progress=True, **options)
    assert (result["epochs"], result["best_epoch"], result["best_val_auc"]) == (4, 1, 0.7)
    assert "no better validation AUC in 2 epochs, which ends training" in capsys.readouterr().err
    for epochs in (9, 12):  # it is not begun again, and more epochs change nothing
        again = keras_stoch.fit(build, lambda epoch: data, tmp_path, epochs=epochs, **options)
        assert again == [result]


def places(name):
    return sorted({layer.name for layer in first_layers(keras_stoch.create_model("tiny-split"), name)})


def test_places_are_of_both_branches(tiny):
    stem = ["detail_stem_activation", "detail_stem_bn", "detail_stem_conv", "stem_activation", "stem_bn", "stem_conv"]
    assert [name for name in places("stem") if "pad" not in name] == stem
    first = places("block1")
    assert first == places("block1a")
    assert {"block1a_bn", "detail_block1a_bn", "stem_conv"} <= set(first)
    assert not any("block2a" in name or "top" in name for name in first)
    assert {"top_conv", "detail_top_bn", "block2a_dwconv"} <= set(places("top"))
    assert "predictions" not in places("top")


def test_layers_that_were_frozen_stay_so():
    def half_frozen():
        model = build()
        model.get_layer("stem_conv").trainable = False
        return model

    recipe = Recipe(freeze="stem_bn", freeze_epochs=1)
    trainer = Engine(half_frozen, recipe, get_strategy("one")[0])
    trained = []
    for epoch in range(2):
        trainer.begin_epoch(epoch)
        trained.append({v.path.split("/")[0] for v in trainer.model.trainable_variables})
    assert trained == [{"detail", "detail_bn", "predictions"}, {"stem_bn", "detail", "detail_bn", "predictions"}]


def test_a_model_that_is_no_graph_is_frozen_in_the_order_of_its_layers():
    class Chain(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (keras.layers.Dense(2, name=name) for name in "abc")

        def call(self, x):
            return self.third(self.second(self.first(x)))

    model = Chain()
    model(np.zeros((1, 2)))
    assert [layer.name for layer in first_layers(model, "b")] == ["a", "b"]


@pytest.mark.parametrize(
    ("model", "freeze", "message"),
    [
        ("tiny", "block9", "freeze must be one of stem, block1a, block2a, top. Received: freeze='block9'"),
        ("tiny", "blok1a", "Did you mean 'block1a'"),
        ("tiny", "stem_conv", "freeze must be one of stem"),
        ("tiny", "block", "freeze must be one of stem"),
        (build, "stem_cnv", "freeze must be .* Did you mean 'stem_conv'"),
        (build, "predictions", "freeze leaves nothing to train. Received: freeze='predictions'"),
    ],
)
def test_places_that_are_none(tiny, lesions, tmp_path, model, freeze, message):
    with pytest.raises(ValueError, match=message):
        keras_stoch.fit(model, lesions, tmp_path / "out", batch_size=8, freeze=freeze)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_from_the_command_line(tiny, lesions, tmp_path, capsys):
    arguments = ["fit", "tiny-stem", "--data", str(lesions), "--out", str(tmp_path / "out"), *FIT_OPTIONS]
    for wrong, message in (
        (["--recipe", "fine-tun"], "did you mean fine-tune?"),
        (["--freezes", "stem"], "did you mean --freeze?"),
    ):
        with pytest.raises(SystemExit):
            main([*arguments, *wrong])
        assert message in capsys.readouterr().err
    assert main([*arguments, "--freeze", "block7"]) == 2
    assert "freeze must be one of stem" in capsys.readouterr().err
    assert main([*arguments, "--patience", "0"]) == 2
    assert "--patience must be None or an integer of at least 1. Received: --patience 0" in capsys.readouterr().err
    more = ["--recipe", "fine-tune", "--patience", "3", "--freeze", "block1", "--no-balanced", "--pos-weight", "2"]
    assert main([*arguments, *more]) == 0
    recipe = json.loads((tmp_path / "out" / "run-0" / "config.json").read_text())["recipe"]
    expected = {"patience": 3, "freeze": "block1", "balanced": False, "pos_weight": 2.0, "epochs": 1, "batch_size": 16}
    expected |= {"optimizer": "adamw", "schedule": "cosine", "average": 0.999, "learning_rate": 3e-4}
    assert {name: recipe[name] for name in expected} == expected


@pytest.mark.slow
def test_replicas_fine_tune_as_one_device(tmp_path, mirrored):
    """Equal losses and averaged kernels at one global batch, where all that is drawn is given.

    Vectors are not compared: AdamW makes steps of full length of gradients that are rounding alone, as those of a shift
    before another norm are.
    """
    data, validation = injected()
    options = {"validation_data": validation, **ALL, "balanced": False}
    for name, strategy in (("one", "one"), ("two", mirrored)):
        keras_stoch.fit(build, data, tmp_path / name, strategy=strategy, **options)
    one, two = (tmp_path / name / "run-0" for name in ("one", "two"))
    losses = [[float(row["loss"]) for row in rows(run / "batches.csv")] for run in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for a, b in zip(weights(one / "last.weights.h5"), weights(two / "last.weights.h5"), strict=True):
        if a.ndim > 1:
            assert np.linalg.norm(a - b) < 1e-2 * np.linalg.norm(a), a.shape


@pytest.mark.slow
def test_in_half_precision_too(tiny, lesions, tmp_path):
    options = {**ALL, "freeze": "block1a", "low_res": 32, "mixed_precision": "mixed_float16"}
    (result,) = keras_stoch.fit("tiny", lesions, tmp_path, **options)
    assert np.isfinite(result["final_val_loss"])
