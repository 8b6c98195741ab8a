"""One device, replicas and workers: equal results where nothing is drawn, and draws of their own where it is."""

import json
import socket
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_stoch
from keras_stoch.training.engine import Engine
from keras_stoch.training.recipe import Recipe
from keras_stoch.training.strategies import get_strategy, is_chief
from tests.keras_stoch.small import RECIPE, build, injected, rows, started, train_as_worker, train_injected


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
    from keras_stoch.layers import Dropout

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
