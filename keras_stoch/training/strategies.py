"""The devices that a training runs on, as tf.distribute strategies, and which process writes. Section 4.1.8."""

import functools
import warnings

STRATEGIES = ("one", "mirrored", "multiworker")


def check_strategy(strategy):
    """Raises ValueError for a name that is none, without TensorFlow."""
    if isinstance(strategy, str) and strategy not in STRATEGIES:
        raise ValueError(
            f"strategy must be one of {', '.join(STRATEGIES)} or a tf.distribute.Strategy. Received: {strategy!r}"
        )


def get_strategy(strategy):
    """(tf.distribute.Strategy, its name)."""
    import tensorflow as tf

    if isinstance(strategy, tf.distribute.Strategy):
        _warn_of_a_second(strategy)
        return strategy, type(strategy).__name__
    if strategy == "one":
        return tf.distribute.get_strategy(), strategy
    if strategy in ("mirrored", "multiworker"):
        shared = _shared_strategy(strategy)
        _warn_of_a_second(shared)
        return shared, strategy
    raise ValueError(
        f"strategy must be one of {', '.join(STRATEGIES)} or a tf.distribute.Strategy. Received: {strategy!r}"
    )


_seen = []  # the first strategy of several replicas, kept alive so that no other gets its identity


def _warn_of_a_second(strategy):
    """TensorFlow numbers the collective operations of each strategy from 100, so that those of a second meet those of
    the first."""
    if strategy.num_replicas_in_sync == 1:
        return
    if not _seen:
        _seen.append(strategy)
    elif strategy is not _seen[0]:
        warnings.warn(
            'This is the second strategy of several replicas in this process. TensorFlow may fail with "Shape mismatch '
            'in the collective instance"; use one for the whole process.',
            stacklevel=4,
        )


@functools.cache
def _shared_strategy(name):
    """One strategy per name and process."""
    import tensorflow as tf

    if name == "multiworker":
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise ValueError(
                f"{error}. Make a tf.distribute.MultiWorkerMirroredStrategy() before all else, and pass it as strategy"
            ) from error
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def is_chief(strategy) -> bool:
    """Whether this process is the one that writes: the "chief" of TF_CONFIG, or else the first worker."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or resolver.task_type is None:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_id == 0
