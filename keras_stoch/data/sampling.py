"""Which images an epoch is made of, and in which order, by seed and epoch alone."""

import numpy as np


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch shows `count` images."""
    return np.random.default_rng((seed, epoch, 0)).permutation(count)


def balanced_draw(targets, seed: int, epoch: int) -> np.ndarray:
    """Images of one epoch, as many as there are, half of them of each class; of an odd number one more is benign.

    A class is gone through in a new order again and again until its half is full, so that no image of it is shown twice
    more often than another.

    Args:
        targets: (images,) of 0 and 1.
        seed, epoch: what the draw depends on.

    Returns:
        int64 (images,), positions in `targets`, benign ones first.

    Raises:
        ValueError: unless both classes are there.
    """
    rng, halves = np.random.default_rng((seed, epoch, 3)), []
    for target, count in ((0, len(targets) - len(targets) // 2), (1, len(targets) // 2)):
        of_class = np.flatnonzero(np.asarray(targets) == target)
        if not len(of_class):
            raise ValueError(f"balanced needs images of both targets, 0 and 1. Received: none of {target}")
        rounds = -(-count // len(of_class))
        halves.append(np.concatenate([rng.permutation(of_class) for _ in range(rounds)])[:count])
    return np.concatenate(halves)
