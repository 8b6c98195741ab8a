"""One device, replicas and workers: equal results where nothing is drawn, and draws of their own where it is."""

import json
import socket
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_stoch
from keras_stoch.layers import Dropout
from keras_stoch.training.engine import Engine
from keras_stoch.training.recipe import Recipe
from keras_stoch.training.strategies import get_strategy, is_chief
from tests.keras_stoch.small import RECIPE, build, injected, rows, started, train_as_worker, train_injected


@pytest.mark.slow
def test_two_replicas_agree_with_one_device(tmp_path):
    """At one global batch, with given windows and masks and shared batch statistics: every loss to 1e-5."""
    one = train_injected(tmp_path / "one", "one")
    two = train_injected(tmp_path / "two", "mirrored")
    assert len(one) == 12
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_replicas_with_statistics_of_their_own_do_not(tmp_path):
    """So the check can fail."""
    one = train_injected(tmp_path / "one", "one")
    data, validation = injected()
    keras_stoch.fit(
        *(build, data, tmp_path / "apart"),
        **RECIPE | {"epochs": 2, "validation_data": validation, "strategy": "mirrored", "sync_batch_norm": False},
    )
    apart = [float(row["loss"]) for row in rows(tmp_path / "apart" / "run-0" / "batches.csv")]
    assert np.abs(np.subtract(apart, one)).max() > 1e-4


@pytest.mark.slow
def test_two_workers_agree_with_one_device(lesions, tmp_path):
    ports = []
    sockets = [socket.socket() for _ in range(2)]
    for s in sockets:
        s.bind(("localhost", 0))
        ports.append(s.getsockname()[1])
    for s in sockets:
        s.close()
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    workers = [
        started(
            *(train_as_worker, lesions, tmp_path / "two"),
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": n}}),
        )
        for n in range(2)
    ]
    try:
        for worker in workers:
            worker.join(timeout=240)
        assert [worker.exitcode for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    assert len(rows(tmp_path / "two" / "drawn" / "results.csv")) == 1  # one of the two writes
    two = [float(row["loss"]) for row in rows(tmp_path / "two" / "given" / "run-0" / "batches.csv")]
    np.testing.assert_allclose(two, train_injected(tmp_path / "one", "one"), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["nothing", "windows", "drop_masks"])
def test_replicas_draw_differently(given, mirrored):
    """Windows and drop masks, each by itself while the other is given."""
    engine = Engine(build, Recipe(**RECIPE), mirrored)
    data, _ = injected(1)
    inputs, _, draws = next(iter(data))
    half = {name: value[:4] for name, value in inputs.items()}
    draws = tf.nest.map_structure(lambda value: value[:4], {k: v for k, v in draws.items() if k == given})

    def difference(**draws):
        both = tf.function(lambda: mirrored.run(lambda: engine.model(half, training=True, **draws)))()
        first, second = (value.numpy() for value in mirrored.experimental_local_results(both))
        return np.abs(first - second).max()

    assert difference(**draws) > 1e-3
    everything = tf.nest.map_structure(lambda value: value[:4], next(iter(data))[2])
    assert difference(**everything) == 0


def test_drop_masks_of_replicas_drop_whole_images_at_the_rate(mirrored):
    with mirrored.scope():
        layer = Dropout(0.3, noise_shape=(None, 1, 1))
        layer.build((None, 2, 2))
    ones = tf.ones((4000, 2, 2))
    both = tf.function(lambda: mirrored.run(lambda: layer(ones, training=True)))()
    for value in mirrored.experimental_local_results(both):
        kept = value.numpy()
        assert (kept == kept[:, :1, :1]).all()
        np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.7], rtol=1e-6)
        assert abs((kept[:, 0, 0] > 0).mean() - 0.7) < 4 * np.sqrt(0.3 * 0.7 / 4000)


RANDOM_LAYERS = {
    "Dropout": lambda: keras.layers.Dropout(0.5),
    "SpatialDropout2D": lambda: keras.layers.SpatialDropout2D(0.5),
    "GaussianDropout": lambda: keras.layers.GaussianDropout(0.5),
    "GaussianNoise": lambda: keras.layers.GaussianNoise(1.0),
    "AlphaDropout": lambda: keras.layers.AlphaDropout(0.5),
    "RandomFlip": lambda: keras.layers.RandomFlip(),
    "RandomRotation": lambda: keras.layers.RandomRotation(0.5),
    "RandomBrightness": lambda: keras.layers.RandomBrightness(0.9),
    "RandomTranslation": lambda: keras.layers.RandomTranslation(0.5, 0.5),
    "Pipeline": lambda: keras.layers.Pipeline([keras.layers.RandomRotation(0.5)]),
    "nested": lambda: keras.Sequential([keras.Sequential([keras.layers.GaussianNoise(1.0)])]),
    "ours": lambda: Dropout(0.5),
    "shared": lambda: SharedNoise(),
}


class SharedNoise(keras.layers.Layer):
    """Draws twice from one generator of its own: one by a layer inside, one by itself."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(1)
        self.inside = keras.layers.GaussianNoise(1.0, seed=2)

    def call(self, inputs, training=False):
        return self.inside(inputs, training=training) + keras.random.normal(keras.ops.shape(inputs), seed=self.seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM_LAYERS)
def test_replicas_draw_differently_in_keras_own_layers(name, mirrored):
    def model():
        inputs = keras.Input((12, 12, 3))
        x = RANDOM_LAYERS[name]()(inputs)
        return keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(keras.layers.Flatten()(x)))

    engine = Engine(model, Recipe(**RECIPE), mirrored)
    images = tf.random.stateless_uniform((16, 12, 12, 3), (1, 2), 0, 255)
    step = tf.function(lambda: mirrored.run(lambda: engine.model.layers[1](images, training=True)))
    first, second = (value.numpy() for value in mirrored.experimental_local_results(step()))
    assert np.abs(first - second).max() > 1e-3
    again = mirrored.experimental_local_results(step())[0].numpy()
    assert np.abs(again - first).max() > 1e-3  # and differently the next time
    state = engine.state()  # one state, whatever the number of replicas
    engine.restore(state)
    third = mirrored.experimental_local_results(step())[1].numpy()
    engine.restore(state)
    np.testing.assert_array_equal(mirrored.experimental_local_results(step())[1].numpy(), third)


def overflowing(replica):
    """A batch of 8 images of which one, seen by this replica, is too large for float16 gradients; and a good one."""
    images = np.ones((8, 4), np.float32)
    good = images.copy()
    images[replica * 4] = 60000.0
    targets = np.float32(np.arange(8) % 2)
    return (images, targets), (good, targets)


def half_model():
    """One dense layer in float16 whose gradient is the input times the scale."""
    inputs = keras.Input((4,), dtype="float32")
    outputs = keras.layers.Dense(1, dtype="mixed_float16", kernel_initializer="zeros")(inputs)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("replica", [0, 1])
def test_an_overflow_on_any_replica_skips_the_step_on_all(replica, mirrored):
    engine = Engine(half_model, Recipe(**RECIPE), mirrored)

    def step(batch):
        parts = list(tf.data.Dataset.from_tensor_slices(batch).batch(4))
        values = [
            mirrored.experimental_distribute_values_from_function(
                lambda context, n=n: parts[context.replica_id_in_sync_group][n]
            )
            for n in range(2)
        ]
        engine.train_step(tuple(values))

    def replicas(variable):
        return [value.numpy() for value in mirrored.experimental_local_results(variable.value)]

    bad, good = overflowing(replica)
    kernel, scale = engine.model.trainable_variables[0], engine.optimizer.dynamic_scale
    step(bad)
    assert all((value == 0).all() for value in replicas(kernel))
    assert replicas(scale) == [2.0**14, 2.0**14]
    assert all(int(np.asarray(v)) == 0 for v in replicas(engine.optimizer.inner_optimizer.iterations))
    step(good)
    first, second = replicas(kernel)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)
    assert replicas(scale) == [2.0**14, 2.0**14]


def test_half_precision_on_replicas_takes_the_steps_of_one_device(mirrored):
    """Gradients are summed once, and not once for each replica."""
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(8, 4)).astype("float32"), np.float32(np.arange(8) % 2)
    one = Engine(half_model, Recipe(**RECIPE), get_strategy("one")[0])
    two = Engine(half_model, Recipe(**RECIPE), mirrored)
    halves = [
        mirrored.experimental_distribute_values_from_function(
            lambda context, value=value: value[context.replica_id_in_sync_group * 4 :][:4]
        )
        for value in map(tf.constant, batch)
    ]
    for _ in range(3):
        one.train_step(tuple(map(tf.constant, batch)))
        two.train_step(tuple(halves))
    # RMSprop hides a constant factor on gradients; its average of their squares does not.
    for a, b in zip(one.optimizer.variables, two.optimizer.variables, strict=True):
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=2e-3, atol=1e-6)


def test_what_can_not_be_done_with_replicas_is_refused(mirrored, lesions, tmp_path):
    with pytest.raises(ValueError, match="jit_compile=True is for one device; .* 2 replicas"):
        keras_stoch.fit("b0", lesions, tmp_path, strategy=mirrored, batch_size=16, low_res=32, jit_compile=True)
    with pytest.raises(ValueError, match="For several replicas, pass a function that builds the model"):
        keras_stoch.fit(build(), lesions, tmp_path, strategy=mirrored, batch_size=16)
    assert not list(tmp_path.iterdir())


def test_batch_norm_of_a_nested_model_is_synchronised(mirrored):
    def nested():
        inner = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization()], name="inner")
        inputs = keras.Input((8,))
        return keras.Model(inputs, keras.layers.Dense(1)(inner(inputs)))

    engine = Engine(nested, Recipe(**RECIPE), mirrored)
    assert engine.model.get_layer("inner").layers[0].synchronized


def test_a_second_strategy_is_warned_of(mirrored, lesions, tmp_path):
    """TensorFlow mixes up the operations of two."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_strategy(mirrored)[0] is get_strategy("mirrored")[0] is mirrored
        get_strategy(tf.distribute.OneDeviceStrategy("CPU:0"))
    second = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with (
        pytest.warns(UserWarning, match="second strategy of several replicas .* use one for the whole process"),
        pytest.raises(ValueError, match="batch_size must be a multiple of the 2 replicas"),
    ):
        keras_stoch.fit("b0", lesions, tmp_path, strategy=second, batch_size=15)


def test_who_writes():
    class Strategy:
        def __init__(self, cluster, task_type, task_id):
            self.cluster_resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec(cluster), task_type=task_type, task_id=task_id
            )

    two, led = {"worker": ["a:1", "b:1"]}, {"chief": ["a:1"], "worker": ["b:1"]}
    assert [is_chief(Strategy(two, "worker", n)) for n in (0, 1)] == [True, False]
    assert [is_chief(Strategy(led, *task)) for task in (("chief", 0), ("worker", 0))] == [True, False]
    assert is_chief(tf.distribute.get_strategy())
