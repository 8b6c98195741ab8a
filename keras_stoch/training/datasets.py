"""tf.data.Datasets of one's own as a source of batches: what they must give, checked before the first step.

They are read once to begin with. A Dataset may give something else in every pass, so that each batch is looked at again
when it is used, as far as that costs nothing.
"""

import hashlib

import numpy as np

DRAWS = ("windows", "drop_masks")


def check_dataset(dataset, name: str, replicas: int, shapes) -> tuple[int, str]:
    """Reads all batches once, and refuses what would spoil training.

    Args:
        dataset: tf.data.Dataset.
        name: "data" or "validation_data".
        replicas: number that every batch must be divisible by.
        shapes: what the model takes: a shape `(None, side, side, channels)`, or a dict of them by name.

    Returns:
        The number of batches, and a digest of their images and targets that does not depend on the order.

    Raises:
        ValueError: naming the batch and what is wrong with it.
    """
    import tensorflow as tf

    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{name} never ends, but an epoch is one pass over it; take(n) of its batches")
    seen, count, digest = set(), 0, 0
    for batch in dataset:
        where = f"in batch {count} of {name}"
        check_batch(batch, name, shapes, where)
        for value in tf.nest.flatten(batch[0]):
            if value.dtype.is_floating and not np.isfinite(value.numpy()).all():
                raise ValueError(f"Inputs must be numbers. Received: NaN or infinite {where}")
        targets = np.asarray(batch[1])
        if len(targets) % replicas:
            raise ValueError(f"Batches must be divisible by the {replicas} replicas. Received: {len(targets)} {where}")
        for row in zip(*(value.numpy() for value in tf.nest.flatten(batch[0])), targets.ravel(), strict=True):
            content = b"".join(np.ascontiguousarray(value).tobytes() for value in row)
            digest += int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
        seen |= set(np.unique(targets).tolist())
        count += 1
    if not count:
        raise ValueError(f"{name} is empty")
    if len(seen) < 2:
        raise ValueError(f"{name} has targets {sorted(map(int, seen))} only; both classes are needed")
    return count, f"{digest % 2**64:016x}"


def check_batch(batch, name: str, shapes, where: str):
    """Raises ValueError for a batch of another form, of other sizes than the model's, or with targets but 0 and 1."""
    import tensorflow as tf

    parts = ("inputs", "targets", "draws") if name == "data" else ("inputs", "targets")
    if not isinstance(batch, tuple) or not 2 <= len(batch) <= len(parts):
        found = f"a tuple of {len(batch)}" if isinstance(batch, tuple) else type(batch).__name__
        more = "; sample weights are not supported" if isinstance(batch, tuple) and len(batch) == 3 else ""
        raise ValueError(f"{name} must give batches (inputs, targets). Received: {found} {where}{more}")
    if len(batch) == 3:
        if not isinstance(batch[2], dict):
            raise ValueError(
                f"The third part of a batch must be a dict with {' and '.join(DRAWS)}; sample weights are not "
                f"supported. Received: {type(batch[2]).__name__} {where}"
            )
        unknown = sorted(map(str, set(batch[2]) - set(DRAWS)))
        if unknown:
            raise ValueError(f"The third part of a batch has {' and '.join(DRAWS)}. Received: {unknown} {where}")
    targets = batch[1]
    if isinstance(targets, dict | tuple | list) or not hasattr(targets, "shape"):
        raise ValueError(f"Targets must be one tensor (batch,). Received: {type(targets).__name__} {where}")
    _check_inputs(batch[0], shapes, where)
    size = tuple(targets.shape)
    count = int(tf.nest.flatten(batch[0])[0].shape[0])
    if size not in ((count,), (count, 1)):
        raise ValueError(f"Targets must be (batch,) or (batch, 1), here ({count},). Received: {size} {where}")
    for value in tf.nest.flatten(batch[2]) if len(batch) == 3 else ():
        if not value.shape.rank or value.shape[0] != count:
            raise ValueError(f"Draws must have a batch axis of {count}. Received: shape {tuple(value.shape)} {where}")
    values = np.asarray(targets)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"Targets must be 0 or 1. Received: {values[~np.isin(values, (0, 1))].ravel()[0]!r} {where}")


def _check_inputs(inputs, shapes, where):
    """Raises ValueError unless inputs are what the model takes."""
    import tensorflow as tf

    if isinstance(shapes, dict):
        if not isinstance(inputs, dict) or set(shapes) - set(inputs):
            found = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            raise ValueError(f"Inputs must be a dict of {' and '.join(shapes)}. Received: {found} {where}")
        pairs = [(f"{key} ", inputs[key], shape) for key, shape in shapes.items()]
    else:
        values = tf.nest.flatten(inputs)
        if len(values) != 1:
            raise ValueError(f"The model takes one input. Received: {len(values)} {where}")
        pairs = [("", values[0], shapes)]
    for name, value, shape in pairs:
        found = tuple(value.shape)
        hint = ""
        if len(found) == len(shape) - 1 and _fits(found, shape[1:]):
            hint = "; the Dataset has no batches, .batch(n) makes some"
        if len(found) != len(shape) or not _fits(found[1:], shape[1:]):
            wanted = ", ".join("batch" if n == 0 else str(side) for n, side in enumerate(shape))
            raise ValueError(f"The model takes {name}images ({wanted}). Received: shape {found} {where}{hint}")
        if not (value.dtype.is_floating or value.dtype.is_integer):
            raise ValueError(f"Inputs must be numbers. Received: {value.dtype.name} {where}")


def _fits(found, shape) -> bool:
    """Whether sides are those of a shape, None being any."""
    return len(found) == len(shape) and all(b is None or a == b for a, b in zip(found, shape, strict=True))


def distributed(of_epoch, name: str, shapes):
    """A function of (strategy, seed, epoch, first batch) that gives the batches, one piece for every replica.

    Args:
        of_epoch: function of the epoch that gives a tf.data.Dataset.
        name, shapes: see `check_dataset`.
    """
    import tensorflow as tf

    def make(strategy, seed, epoch, start):
        dataset = of_epoch(epoch).skip(start)
        pieces = strategy.distribute_datasets_from_function(lambda context: _pieces(dataset, context))
        batch, where = start, name
        try:
            for step in pieces:
                where = f"in batch {batch} of {name}, in epoch {epoch}, which is another than when it was checked"
                locally = [strategy.experimental_local_results(value) for value in tf.nest.flatten(step)]
                for part in zip(*locally, strict=True):
                    check_batch(tf.nest.pack_sequence_as(step, part), name, shapes, where)
                yield step
                batch += 1
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                f"{name} can not be divided among {strategy.num_replicas_in_sync} replicas in batch {batch} of epoch "
                f"{epoch}, which it could when it was checked. Every pass must give batches of the same sizes"
            ) from error
        if batch == start == 0:
            raise ValueError(f"{name} is empty in epoch {epoch}, and was not when it was checked")

    return make


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
