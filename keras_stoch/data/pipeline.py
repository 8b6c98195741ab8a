"""A prepared folder -> batches, as tf.data. The order of images and their augmentation depend on seed and epoch alone.

Each epoch is a data set of its own, and can begin at any batch. So a run that was interrupted sees what it would have
seen, and several workers see disjoint parts of the batches that one would have seen.
"""

import contextlib
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from keras_stoch.data.augment import IDENTITY, affine_matrix, draw_transforms, reduce, transform
from keras_stoch.data.photographs import Dropped, open_image
from keras_stoch.data.sampling import balanced_draw, epoch_order
from keras_stoch.data.shards import Shards
from keras_stoch.files import check_prepared
from keras_stoch.storage import Remote, as_path, is_remote

REMAINDERS = ("keep", "drop", "pad")


@dataclass
class Pipeline:
    """Batches from a prepared folder.

    Args:
        data: a folder written by `prepare` or `write_lesions`, here or copied to object storage (gs://bucket/folder, or
            another file system that TensorFlow has); or the DataFrame of a manifest: columns `file`
            (absolute, or relative to `root`) and `target`, and `split` where `split` is asked for.
        split: "train", "validation", or None for all rows.
        batch_size: images of a batch, over all workers.
        low_res, high_res: sides in pixels. Without `high_res` only low_res images are made: JPEGs are decoded at
            reduced scale, and the large image never exists.
        augment: draw a transform for every image and epoch (`augment.draw_transforms`).
        shuffle: draw an order for every epoch.
        balanced: draw images for every epoch so that half of them are malignant; see `sampling.balanced_draw`.
        seed: of all three.
        remainder: of the last batch: "keep" it short, "drop" it, or "pad" it with the first images, in which case
            batches have a third part, weights of 1 and 0.
        source: "files", or "shards" for the TFRecord files of a folder, one split of them. Shards are shuffled by file
            and within blocks; their order differs from that of files, the augmentation of each image does not. A worker
            reads its own shards alone, so that the number of workers must divide both the number of shards and
            `batch_size`.
        worker, workers: which part of every batch this process makes.
        replicas: how many equal pieces its part is cut into, one after the other: tf.distribute hands one to each of
            a worker's replicas.
        root: folder that the `file` column of a DataFrame is relative to.

    Attributes:
        rows: DataFrame, the images in the order of the manifest.
        targets: float32 array of their targets.
        files: their paths.
        steps: batches of an epoch.

    Raises:
        ValueError: for arguments out of range, for a manifest without images of this split, or with files missing.

    Example:

    ```python
    train = keras_stoch.Pipeline("prepared", "train", batch_size=100, augment=True, shuffle=True)
    for inputs, targets in train.epoch(0):
        ...  # inputs["low_res"]: uint8 (100, 224, 224, 3), inputs["high_res"]: (100, 1024, 1024, 3)
    ```
    """

    data: object
    split: str | None = "train"
    batch_size: int = 100
    low_res: int = 224
    high_res: int | None = 1024
    augment: bool = False
    shuffle: bool = False
    balanced: bool = False
    seed: int = 0
    remainder: str = "keep"
    source: str = "files"
    worker: int = 0
    workers: int = 1
    replicas: int = 1
    root: object = None
    rows: pd.DataFrame = field(init=False, repr=False)
    targets: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        for name in ("batch_size", "low_res", "workers", "replicas"):
            _check_int(name, getattr(self, name), 1)
        if self.high_res is not None:
            _check_int("high_res", self.high_res, self.low_res)
        _check_int("seed", self.seed, 0)
        if self.remainder not in REMAINDERS:
            raise ValueError(f"remainder must be one of {', '.join(REMAINDERS)}. Received: {self.remainder!r}")
        if self.source not in ("files", "shards"):
            raise ValueError(f"source must be 'files' or 'shards'. Received: {self.source!r}")
        if not 0 <= self.worker < self.workers:
            raise ValueError(f"worker must be one of 0 to {self.workers - 1}. Received: {self.worker!r}")
        pieces = self.workers * self.replicas
        if self.batch_size % pieces:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of workers x replicas "
                f"({self.workers} x {self.replicas})"
            )
        if pieces > 1 and self.remainder == "keep":
            raise ValueError(
                "several workers or replicas need batches of equal size: remainder must be 'drop' or 'pad'"
            )
        manifest, self._root = read_manifest(self.data, self.root)
        self.rows = manifest if self.split is None else manifest[manifest["split"] == self.split]
        if self.rows.empty:
            raise ValueError(
                f"No image of split {self.split!r} in {_named(self.data)} ({len(manifest)} images altogether)"
            )
        self.targets = self.rows["target"].to_numpy(np.float32)
        if self.remainder == "drop" and self.steps == 0:
            raise ValueError(
                f"{len(self.rows)} images of split {self.split!r} fill no batch of {self.batch_size}; take a smaller "
                "batch_size"
            )
        self.files = [str(self._root / name) for name in self.rows["file"]]
        if self.balanced and self.source == "shards":
            raise ValueError("balanced=True needs images by number; shards are read one after the other")
        self.drawn(0)
        if self.source == "shards":
            if isinstance(self.data, pd.DataFrame) or self.split is None:
                # Shards hold the targets and the rows of the folder's own manifest, apart for each split.
                raise ValueError("source='shards' needs a prepared folder as data, and one split of it")
            self._shards = Shards(self._root, self.split, len(self.rows), self.batch_size, self.workers)
        if self.source == "files" and not isinstance(self._root, Remote):  # where each would be a request
            missing = [name for name in self.files if not os.path.isfile(name)]
            if missing:
                raise ValueError(f"{len(missing)} files of {_named(self.data)} are missing, first {missing[0]}")
        self._size = self._image_size()
        if max(self.high_res or 0, self.low_res) > self._size:
            wanted = f"high_res={self.high_res}" if self.high_res else f"low_res={self.low_res}"
            raise ValueError(f"The prepared images have {self._size} pixels a side, which is less than {wanted}")

    @property
    def steps(self) -> int:
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole + (rest > 0 and self.remainder != "drop")

    @property
    def working_size(self) -> int:
        """Side of the image that is transformed: high_res, or the smallest that a JPEG decodes to for low_res."""
        return self.high_res or self._size // self._ratio

    def order(self, epoch: int) -> np.ndarray:
        """Positions in `drawn`, in the order of this epoch (when read from files)."""
        if not self.shuffle:
            return np.arange(len(self.rows))
        return epoch_order(len(self.rows), self.seed, epoch)

    def drawn(self, epoch: int) -> np.ndarray:
        """Positions in `rows` of what this epoch is made of: each once, or a balanced draw."""
        return balanced_draw(self.targets, self.seed, epoch) if self.balanced else np.arange(len(self.rows))

    def transforms(self, epoch: int) -> np.ndarray:
        """Transforms of this epoch, (images, 4), by position in `drawn`; see `augment.draw_transforms`."""
        if not self.augment:
            return np.tile(IDENTITY, (len(self.rows), 1))
        return draw_transforms(len(self.rows), self.seed, epoch, 1)

    def epoch(self, number: int, start: int = 0):
        """The batches of one epoch.

        Args:
            number: of the epoch, from 0.
            start: batches to leave out at the beginning. Files of theirs are not read; shards are.

        Returns:
            tf.data.Dataset of (inputs, targets) or (inputs, targets, weights): inputs a dict of uint8 "low_res" and
            "high_res" `(batch, side, side, 3)`, or without `high_res` the low_res tensor alone; float32 `(batch,)`.
        """
        import tensorflow as tf

        _check_int("epoch", number, 0)
        _check_int("start", start, 0)
        matrices = affine_matrix(self.transforms(number), self.working_size)
        if self.source == "shards":
            dataset = self._from_shards(number, start, matrices)
        else:
            positions, weights = self._positions(number, start)
            rows = self.drawn(number)[positions]
            files = np.array(self.files, object)[rows]
            columns = (files.astype(str), self.targets[rows], matrices[positions], weights)
            dataset = tf.data.Dataset.from_tensor_slices(columns)
            dataset = dataset.map(self._read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        dataset = dataset.batch(
            self.batch_size // self.workers // self.replicas,
            drop_remainder=self.remainder != "keep" or len(self.rows) % self.batch_size == 0,
        )
        if self.remainder != "pad":
            dataset = dataset.map(lambda inputs, targets, weights: (inputs, targets))
        return dataset.prefetch(2)

    def _positions(self, number, start) -> tuple[np.ndarray, np.ndarray]:
        """This worker's images in order, and their weights."""
        order = self.order(number)
        weights = np.ones(len(order), np.float32)
        total = self.steps * self.batch_size
        if self.remainder == "pad":
            weights = np.concatenate([weights, np.zeros(total - len(order), np.float32)])
            order = np.resize(order, total)
        elif self.remainder == "drop":
            order, weights = order[:total], weights[:total]
        part = self.batch_size // self.workers
        place = np.arange(len(order))
        mine = (place // self.batch_size >= start) & (place % self.batch_size // part == self.worker)
        return order[mine], weights[mine]

    def _from_shards(self, number, start, matrices):
        import tensorflow as tf

        seed = self.seed if self.shuffle else None
        dataset = self._shards.records(*(seed, number, self.steps, start, self.remainder, self.worker, self.workers))
        # A record knows its row of the manifest; the transforms are by position among the rows of this split.
        position = np.zeros(int(self.rows.index.max()) + 1, np.int64)
        position[self.rows.index] = np.arange(len(self.rows))
        position, matrices = tf.constant(position), tf.constant(matrices)
        features = {
            "image": tf.io.FixedLenFeature([], tf.string),
            "target": tf.io.FixedLenFeature([], tf.int64),
            "index": tf.io.FixedLenFeature([], tf.int64),
        }

        def read(record, weight):
            example = tf.io.parse_single_example(record, features)
            matrix = tf.gather(matrices, tf.gather(position, example["index"]))
            return self._make(example["image"], matrix), tf.cast(example["target"], tf.float32), weight

        return dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _read(self, file, target, matrix, weight):
        import tensorflow as tf

        return self._make(tf.io.read_file(file), matrix), target, weight

    def _make(self, encoded, matrix):
        """The inputs of one image from its encoded bytes."""
        import tensorflow as tf

        size = self._size
        if self._jpeg:
            # The accurate transform is the one that Pillow uses: both decode to the same pixels.
            ratio = self._ratio
            image = tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")
            size //= ratio
        else:
            image = tf.io.decode_png(encoded, channels=3)
        image = tf.ensure_shape(image, (size, size, 3))
        if size != self.working_size:
            image = reduce(image, self.working_size)
        if self.augment:
            image = transform(image, matrix)
        small = reduce(image, self.low_res) if self.low_res != self.working_size else image
        return {"low_res": small, "high_res": image} if self.high_res else small

    @property
    def _ratio(self) -> int:
        """The largest reduction that JPEG decoding offers and that leaves enough pixels."""
        wanted = self.high_res or self.low_res
        ratios = [r for r in (8, 4, 2) if self._size % r == 0 and self._size // r >= wanted]
        return ratios[0] if self._jpeg and ratios else 1

    @property
    def _jpeg(self) -> bool:
        return not self.files[0].lower().endswith(".png")

    def _image_size(self) -> int:
        """Side of the prepared images, from the first; all have the same."""
        if self.source == "files":
            first = as_path(self.files[0]).read_bytes()
        else:
            record = json.loads((self._root / "prepare.json").read_text())
            return record.get("settings", record.get("synthetic"))["size"]
        try:
            with Image.open(io.BytesIO(first)) as image:
                width, height = image.size
        except Exception as error:  # Pillow's decoders raise what they like
            reason = str(error).partition(" <")[0]  # the file in memory is of no interest
            raise ValueError(f"{self.files[0]} is damaged ({reason}); prepare it again") from None
        if width != height:
            raise ValueError(f"{self.files[0]} is no square: {width}x{height}; prepare the images first")
        return width


@contextlib.contextmanager
def damage_named(files):
    """Around the use of batches: an image that can not be decoded, or has another size, is named.

    Args:
        files: that the batches are made of.

    Raises:
        ValueError: instead of TensorFlow's InvalidArgumentError, if one of the files is damaged, or has another size
            than the first; and if one is missing.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError as error:
        raise ValueError(f"A file of the prepared folder is missing: {error.message.split('; ')[0]}") from error
    except tf.errors.InvalidArgumentError as error:
        sizes = {}
        for file in files:
            try:
                size = open_image(io.BytesIO(as_path(file).read_bytes()) if is_remote(file) else file).size
            except Dropped as reason:
                raise ValueError(f"{file} is damaged ({reason}); prepare it again") from error
            sizes.setdefault(size, file)
            if len(sizes) > 1:
                (width, height), first = size, next(iter(sizes))
                raise ValueError(
                    f"{file} has {width}x{height} pixels, and {sizes[first]} {first[0]}x{first[1]}; prepare it again"
                ) from error
        raise


def read_manifest(data, root=None) -> tuple[pd.DataFrame, Path]:
    """The manifest of a prepared folder, or a DataFrame given instead, checked; and the folder its files are in.

    Raises:
        ValueError: if there is none, a column is missing, or a target is not 0 or 1.
    """
    if isinstance(data, pd.DataFrame):
        manifest, folder = data.reset_index(drop=True), as_path(root or ".")
    elif isinstance(data, str | Path):
        folder = as_path(data)
        check_prepared(folder)
        table = io.BytesIO((folder / "manifest.csv").read_bytes())
        manifest = pd.read_csv(table, dtype={"image": str, "patient_id": str, "lesion_id": str})
    else:
        raise ValueError(f"data must be a prepared folder or a DataFrame. Received: {type(data).__name__}")
    missing = [name for name in ("file", "target") if name not in manifest]
    if missing:
        raise ValueError(f"The manifest lacks the columns {', '.join(missing)}. It has: {', '.join(manifest.columns)}")
    if not manifest["target"].isin([0, 1]).all():
        wrong = manifest.index[~manifest["target"].isin([0, 1])][0]
        raise ValueError(
            f"Targets must be 0 or 1. Received: {manifest['target'][wrong]!r} for {manifest['file'][wrong]} "
            f"(row {wrong + 1})"
        )
    if "split" not in manifest:
        manifest = manifest.assign(split="train")
    return manifest, folder


def _named(data) -> str:
    return "the DataFrame" if isinstance(data, pd.DataFrame) else str(data)


def _check_int(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}. Received: {value!r}")
