"""A prepared folder as TFRecord files, for training from object storage. `pipeline` reads them."""

from pathlib import Path

import numpy as np

from keras_stoch.files import full_disk_told, replacing


def remove_shards(out: Path) -> list[str]:
    """Removes the shards of an earlier run; returns what is left, nothing."""
    for path in out.glob("shards/*.tfrecord"):
        path.unlink()
    return []


def write_shards(manifest, out: Path, shards: int) -> list[str]:
    """TFRecord files of the same encoded images, each in random order across shards.

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
        for part, indices in enumerate(np.array_split(order, number)):
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


def _bytes(tf, value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int(tf, value):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
