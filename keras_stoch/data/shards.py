"""A prepared folder as TFRecord files, for training from object storage: written, and read by several workers.

An epoch deals the shards of a split out to lanes, and every global batch takes an equal part of each lane, one lane
after the other. A worker reads the shards of its own lanes and no others; the batches are the same however many workers
read them.
"""

import math
import re
from pathlib import Path

import numpy as np

from keras_stoch.files import full_disk_told, replacing

BLOCK = 512  # encoded images, over all lanes, that are shuffled among themselves, while the next are read


def remove_shards(out: Path) -> list[str]:
    """Removes the shards of an earlier run; returns what is left, nothing."""
    for path in out.glob("shards/*.tfrecord"):
        path.unlink()
    return []


def write_shards(manifest, out: Path, shards: int) -> list[str]:
    """TFRecord files of the same encoded images, each in random order across shards, whose sizes differ by one.

    Features: image (encoded bytes), name, target, index (the row of the manifest).
    """
    import tensorflow as tf

    remove_shards(out)
    (out / "shards").mkdir(exist_ok=True)
    written = []
    for split, rows in manifest.groupby("split"):
        number = shards if split == "train" else max(1, round(shards * len(rows) / max(len(manifest) - len(rows), 1)))
        number = min(number, len(rows))
        order = np.random.default_rng(0).permutation(rows.index.to_numpy())
        ends = np.cumsum(_sizes(len(rows), number))
        for part, indices in enumerate(np.split(order, ends[:-1])):
            path = out / "shards" / f"{split}-{part:05d}-of-{number:05d}.tfrecord"
            with full_disk_told(), replacing(path) as partial, tf.io.TFRecordWriter(str(partial)) as writer:
                for index in indices:
                    row = manifest.loc[index]
                    feature = {
                        "image": _bytes(tf, (out / row["file"]).read_bytes()),
                        "name": _bytes(tf, row["image"].encode()),
                        "target": _int(tf, row["target"]),
                        "index": _int(tf, index),
                    }
                    writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
            written.append(f"shards/{path.name}")
    return written


class Shards:
    """The shards of one split, and who reads which.

    Args:
        folder: prepared.
        split: of the folder.
        images: of this split.
        batch_size: images of a batch, over all workers.
        workers: that read them.

    Attributes:
        files: their paths.
        lanes: how many there are: as many as divide both the shards and the batch.

    Raises:
        ValueError: if there are none, one is missing, or the lanes can not be shared out among the workers.
    """

    def __init__(self, folder, split: str, images: int, batch_size: int, workers: int):
        names = sorted(path.name for path in (folder / "shards").glob(f"{split}-*.tfrecord"))
        if not names:
            raise ValueError(f"No shards of split {split!r} in {folder}; prepare with shards=4, say")
        number = int(found[1]) if (found := re.search(r"-of-(\d+)\.tfrecord$", names[-1])) else len(names)
        wanted = [f"{split}-{part:05d}-of-{number:05d}.tfrecord" for part in range(number)]
        if names != wanted:
            wrong = sorted({*names} ^ {*wanted})[0]
            why = "is missing" if wrong in wanted else "is none of them"
            raise ValueError(f"{folder} does not hold {number} whole shards of split {split!r}: {wrong} {why}")
        self.files = [str(folder / "shards" / name) for name in names]
        self.sizes = _sizes(images, number)
        self.lanes = math.gcd(number, batch_size)
        if self.lanes % workers:
            fitting = [str(n) for n in range(1, self.lanes + 1) if self.lanes % n == 0]
            raise ValueError(
                f"{number} shards and batches of {batch_size} can be shared out among {' or '.join(fitting)} workers, "
                f"each with its own shards. Received: workers={workers}"
            )
        self.part = batch_size // self.lanes  # of every batch, from each lane

    def records(self, seed, epoch: int, steps: int, start: int, remainder: str, worker: int, workers: int):
        """The records of one worker in the order of an epoch: a tf.data.Dataset of (serialised example, weight).

        Args:
            seed: of the order; None for that of the files.
            epoch: its number.
            steps, start: batches of the epoch, and how many of them to leave out at its beginning.
            remainder: see `Pipeline`.
            worker, workers: which worker's.
        """
        import tensorflow as tf

        dealt = self._deal(seed, epoch)
        counts = self.sizes[dealt].sum(axis=1)
        block = max(1, BLOCK // self.lanes)
        orders = np.tile(np.arange(counts.max()) % block, (self.lanes, 1))
        if seed is not None:
            for lane, count in enumerate(counts):
                rng = np.random.default_rng((seed, epoch, 2, lane))
                parts = [rng.permutation(min(block, count - begin)) for begin in range(0, count, block)]
                orders[lane, :count] = np.concatenate(parts)
        own = slice(worker * self.lanes // workers, (worker + 1) * self.lanes // workers)
        lanes = tf.data.Dataset.from_tensor_slices((np.array(self.files)[dealt[own]], orders[own], counts[own]))
        wanted = steps * self.part

        def read(files, order, count):
            records = tf.data.TFRecordDataset(files)
            shuffled = records
            if seed is not None:

                def shuffle(number, block_records):
                    begin = number * block
                    return tf.gather(block_records, order[begin : begin + tf.size(block_records, tf.int64)])

                shuffled = records.batch(block).prefetch(1).enumerate().map(shuffle).unbatch()
            weighted = shuffled.map(lambda record: (record, 1.0))
            if remainder == "pad":
                again = records.repeat().take(wanted - count)
                weighted = weighted.concatenate(again.map(lambda record: (record, 0.0)))
            elif remainder == "drop":
                weighted = weighted.take(wanted)
            return weighted.skip(start * self.part)

        return lanes.interleave(
            read,
            cycle_length=self.lanes // workers,
            block_length=self.part,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    def _deal(self, seed, epoch) -> np.ndarray:
        """Numbers of the shards of every lane, (lanes, shards of each)."""
        number, rng = len(self.files), np.random.default_rng((seed or 0, epoch, 0))
        order = np.arange(number) if seed is None else rng.permutation(number)
        # The larger ones first, in turn, so that no two lanes differ by more than one image.
        order = order[np.argsort(-self.sizes[order], kind="stable")]
        dealt = order.reshape(-1, self.lanes).T
        return dealt if seed is None else rng.permuted(dealt, axis=1)


def _sizes(images: int, shards: int) -> np.ndarray:
    """Images of every shard."""
    whole, rest = divmod(images, shards)
    return whole + (np.arange(shards) < rest)


def _bytes(tf, value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int(tf, value):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
