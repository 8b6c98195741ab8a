"""Windows: the region of a high-resolution image that one kernel sees.

A window is given by the `(top, left)` offset of its first pixel, int32: (F, 2) when all images of a batch share them,
(B, F, 2) when every image has its own. Source: section 3.2.1 of the paper.
"""

import keras
import numpy as np
from keras import ops


def window_size(output_size, kernel_size, strides) -> tuple[int, int]:
    """Rows and columns of a window in pixels: M = (P - 1) S + K, N = (Q - 1) T + L.

    Args:
        output_size, kernel_size, strides: (P, Q), (K, L), (S, T).
    """
    return tuple((p - 1) * s + k for p, k, s in zip(output_size, kernel_size, strides, strict=True))


def check_fits(image_size, window) -> None:
    """ValueError naming both sizes if an image (H, W) is smaller than the window (M, N). Unknown (None) sizes pass."""
    if any(h is not None and h < m for h, m in zip(image_size, window, strict=True)):
        raise ValueError(
            f"The image is smaller than the window that each kernel is convolved over: an output of this size needs "
            f"images of at least {window[0]}x{window[1]} pixels (height x width). "
            f"Received: {image_size[0]}x{image_size[1]}"
        )


def check_count(shape, filters: int, batch) -> None:
    """ValueError if windows of this shape are not one for every filter, or for every filter of every image.

    Args:
        shape: of the windows.
        filters, batch: F and B; a batch that is not known yet (None) passes.
    """
    if len(shape) not in (2, 3) or tuple(shape[-2:]) != (filters, 2):
        raise ValueError(
            f"windows must have the shape ({filters}, 2) or (batch, {filters}, 2). Received: {tuple(shape)}"
        )
    if len(shape) == 3 and None not in (shape[0], batch) and shape[0] != batch:
        raise ValueError(f"windows of {shape[0]} images were given for {batch}. Received: {tuple(shape)}")


def check_windows(windows, image_size, window) -> None:
    """ValueError if a window reaches beyond its image, where the numbers are at hand: symbolic ones pass.

    Args:
        windows: int tensor (..., 2) of (top, left).
        image_size, window: (H, W) and (M, N) in pixels.
    """
    try:
        corners = np.asarray(ops.convert_to_numpy(windows)).reshape(-1, 2)
    except Exception:  # every framework has an error of its own for a tensor that has no value yet
        return
    last = np.subtract(image_size, window)
    wrong = corners[((corners < 0) | (corners > last)).any(-1)]
    if len(wrong):
        raise ValueError(
            f"Windows of {window[0]}x{window[1]} pixels in an image of {image_size[0]}x{image_size[1]} begin between "
            f"(0, 0) and ({last[0]}, {last[1]}). Received: {len(wrong)} of {len(corners)} elsewhere, the first at "
            f"({wrong[0][0]}, {wrong[0][1]})"
        )


def draw_windows(image_size, window, filters: int, batch=None, seed=None):
    """Draws windows uniformly over every position inside the image, both ends included, rows and columns apart.

    The paper draws the *end* of a window from {window, ..., image} and subtracts the window; the start is then
    uniform over {0, ..., image - window}, which is drawn here.

    Args:
        image_size: (H, W) of the images in pixels.
        window: (M, N) of the window, see `window_size`.
        filters: F, one window each.
        batch: B, if every image gets windows of its own; None for windows shared by the batch.
        seed: `keras.random.SeedGenerator`, int or None. Replicas of a `tf.distribute` strategy draw differently.

    Returns:
        int32 tensor of (top, left): (F, 2), or (B, F, 2).
    """
    check_fits(image_size, window)
    shape = (filters,) if batch is None else (batch, filters)
    spans = [h - m + 1 for h, m in zip(image_size, window, strict=True)]
    return ops.stack([_uniform(shape, span, seed) for span in spans], axis=-1)


def _uniform(shape, span: int, seed):
    """int32 tensor uniform over {0, ..., span - 1}."""
    folded = replica_seed(seed)
    if folded is not None:
        import tensorflow as tf

        return tf.random.stateless_uniform(shape, folded, 0, span, tf.int32)
    return keras.random.randint(shape, 0, span, dtype="int32", seed=seed)


def replica_seed(seed):
    """The next seed of a generator with the number of this replica folded in; None where there is one replica.

    Under a tf.distribute strategy every replica holds the same state, and would draw the same.

    Args:
        seed: `keras.random.SeedGenerator`; of anything else, None is returned.

    Returns:
        int32 tensor (2,) for TensorFlow's stateless functions, or None.
    """
    if keras.config.backend() != "tensorflow" or not isinstance(seed, keras.random.SeedGenerator):
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    if hasattr(seed, "next_of_all"):  # of `draw_per_replica`
        return tf.cast(seed.next(), tf.int32)
    return tf.random.experimental.stateless_fold_in(tf.cast(seed.next(), tf.int32), context.replica_id_in_sync_group)


def draw_per_replica(generator: keras.random.SeedGenerator):
    """Lets every replica of a tf.distribute strategy draw its own from a generator that Keras's own layers use.

    Layers of this package do so by themselves, see `replica_seed`.
    """
    if hasattr(generator, "next_of_all"):
        return
    generator.next_of_all = generator.next

    def next_of_replica(ordered=True):
        import tensorflow as tf

        seed = generator.next_of_all(ordered)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return seed
        folded = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), context.replica_id_in_sync_group)
        return tf.cast(folded, seed.dtype)

    generator.next = next_of_replica
