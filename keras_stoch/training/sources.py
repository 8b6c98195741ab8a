"""Where the batches of a training run come from: a prepared folder, or Datasets of one's own, checked beforehand."""

import hashlib
from dataclasses import dataclass

import numpy as np

from keras_stoch.training.recipe import Recipe


@dataclass
class Source:
    """Where batches come from.

    Attributes:
        identity: plain values that tell one source from another.
        train, validation: functions of (strategy, seed, epoch, first batch) that give a distributed data set.
        steps: batches of an epoch.
        repeats: whether an epoch's batches are known to be the same when it is begun again.
        files: that the batches are made of, if any.
    """

    identity: dict
    train: object
    validation: object
    steps: int
    repeats: bool
    files: tuple[str, ...] = ()


def make_source(data, validation_data, recipe: Recipe, sizes, replicas: int) -> Source:
    """Checks all that can be known of the data beforehand, and makes a `Source` of them.

    Args:
        data, validation_data: as `fit` takes them.
        recipe: `Recipe`.
        sizes: function without arguments that gives (low_res, high_res) in pixels; asked for folders only.
        replicas: number that every batch must be divisible by.

    Raises:
        ValueError: for data that nothing can be trained with, naming what is wrong.
    """
    import tensorflow as tf

    if isinstance(data, tf.data.Dataset) or callable(data):
        if not isinstance(validation_data, tf.data.Dataset):
            raise ValueError(f"data is a Dataset, so validation_data must be one. Received: {validation_data!r}")
        of_epoch = data if callable(data) else lambda epoch: data
        if not isinstance(of_epoch(0), tf.data.Dataset):
            raise ValueError(f"The function data must give a tf.data.Dataset. Received: {of_epoch(0)!r}")
        steps = _check_dataset(of_epoch(0), "data", replicas)
        _check_dataset(validation_data, "validation_data", replicas)

        def own(of_epoch):
            def make(strategy, seed, epoch, start):
                dataset = of_epoch(epoch).skip(start)
                return strategy.distribute_datasets_from_function(lambda context: _pieces(dataset, context))

            return make

        identity = {"kind": "dataset", "batches": steps}
        return Source(
            *(identity, own(of_epoch), own(lambda epoch: validation_data), steps),
            repeats=callable(data),
        )
    if validation_data is not None:
        raise ValueError("validation_data goes with a Dataset; a prepared folder holds its own validation split")
    from keras_stoch.data.audit import check_split
    from keras_stoch.data.pipeline import Pipeline, read_manifest

    low_res, high_res = sizes()
    if data is None:
        from keras_stoch.data.synthetic import default_lesions

        data = default_lesions(size=high_res or 1024)
    manifest, _ = read_manifest(data)
    check_split(manifest["target"].to_numpy(), (manifest["split"] == "validation").to_numpy())
    common = {"batch_size": recipe.batch_size, "low_res": low_res, "high_res": high_res}

    def pipeline(split, context=None, seed=0, **options):
        if context is not None:
            local = context.num_replicas_in_sync // context.num_input_pipelines
            options |= {"worker": context.input_pipeline_id, "workers": context.num_input_pipelines, "replicas": local}
        return Pipeline(data, split, **common, seed=seed, **options)

    training = {"augment": recipe.augment, "shuffle": True, "remainder": "drop"}
    watching = {"augment": recipe.augment_validation, "remainder": "pad"}

    def distribute(split, options):
        def make(strategy, seed, epoch, start):
            return strategy.distribute_datasets_from_function(
                lambda context: pipeline(split, context, seed, **options).epoch(epoch, start)
            )

        return make

    both = pipeline("train", **training), pipeline("validation", **watching)  # checked before anything is begun
    identity = {
        "kind": "prepared",
        "images": len(manifest),
        "manifest": hashlib.sha256(manifest[["file", "target", "split"]].to_csv().encode()).hexdigest()[:16],
    }
    train, validation = distribute("train", training), distribute("validation", watching)
    files = (*both[0].files, *both[1].files)
    return Source(identity, train, validation, both[0].steps, repeats=True, files=files)


def _pieces(dataset, context):
    """Cuts every batch into one piece per replica, and keeps this worker's. So batches are the same for any number."""
    import tensorflow as tf

    replicas = context.num_replicas_in_sync
    local = replicas // context.num_input_pipelines
    if replicas == 1:
        return dataset

    def cut(*batch):
        def pieces(x):
            parts = tf.reshape(x, tf.concat([[replicas, -1], tf.shape(x)[1:]], 0))
            parts = parts[context.input_pipeline_id * local : (context.input_pipeline_id + 1) * local]
            return tf.ensure_shape(parts, (local, None, *x.shape[1:]))

        return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(pieces, batch))

    return dataset.flat_map(cut).prefetch(2 * local)


def _check_dataset(dataset, name, replicas) -> int:
    """Reads all batches once, refuses what would spoil training, and returns their number."""
    import tensorflow as tf

    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{name} never ends, but an epoch is one pass over it; take(n) of its batches")
    seen, count = set(), 0
    for batch in dataset:
        where = f"in batch {count} of {name}"
        if not isinstance(batch, tuple) or len(batch) not in (2, 3):
            raise ValueError(f"{name} must give batches (inputs, targets). Received: {type(batch).__name__}")
        for value in tf.nest.flatten(batch[0]):
            if value.dtype.is_floating and not np.isfinite(value.numpy()).all():
                raise ValueError(f"Inputs must be numbers. Received: NaN or infinite {where}")
        targets = np.asarray(batch[1])
        if not np.isin(targets, (0, 1)).all():
            wrong = targets[~np.isin(targets, (0, 1))].ravel()[0]
            raise ValueError(f"Targets must be 0 or 1. Received: {wrong!r} {where}")
        if len(targets) % replicas:
            raise ValueError(f"Batches must be divisible by the {replicas} replicas. Received: {len(targets)} {where}")
        seen |= set(np.unique(targets).tolist())
        count += 1
    if not count:
        raise ValueError(f"{name} is empty")
    if len(seen) < 2:
        raise ValueError(f"{name} has targets {sorted(map(int, seen))} only; both classes are needed")
    return count
