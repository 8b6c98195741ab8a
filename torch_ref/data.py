"""A prepared folder -> batches for PyTorch: the same images, order and augmentation as `keras_stoch.data.pipeline`.

What the two share is the folder and one convention: the order of an epoch is NumPy's permutation seeded by
(seed, epoch, 0), the transforms are uniform numbers seeded by (seed, epoch, 1), one row for every image, and a balanced
epoch is drawn by permutations seeded by (seed, epoch, 3).
"""

import csv
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from torch_ref.files import of_this_machine


def fold_of(folder, run: int) -> int | None:
    """The fold that run `run` is validated on; None for a folder without folds."""
    path = of_this_machine(folder) / "manifest.csv"
    if not path.is_file():
        raise ValueError(f"{folder} is no prepared folder: there is no manifest.csv")
    with open(path, newline="") as file:
        folds = [int(float(row["fold"])) for row in csv.DictReader(file) if row.get("fold")]
    return run % (max(folds) + 1) if folds else None


def split_of(row: dict, fold: int | None) -> str | None:
    """Which part an image of the manifest belongs to, where `fold` is for validation."""
    if fold is None or row["split"] == "test":
        return row.get("split")
    return "validation" if int(float(row["fold"])) == fold else "train"


class PreparedImages(torch.utils.data.Dataset):
    """Images of a prepared folder, augmented by the numbers of the epoch that `set_epoch` names.

    Args:
        folder: with manifest.csv and images/, as written by `keras-stoch prepare`.
        split: "train", "validation", or None for all.
        low_res, high_res: sides in pixels; without `high_res`, JPEGs are decoded at reduced scale.
        augment: rotation, scale and flips, one transform per image for both resolutions.
        balanced: draw images for every epoch so that half of them are malignant, as `balanced_draw` has it.
        seed: of the augmentation, and of the draw.
        fold: of a folder with folds, the one that is for validation; None goes by the column `split`.

    Items are ({"low_res", "high_res"}, target): uint8 tensors (3, side, side) and a float32 scalar.

    Raises:
        ValueError: if the folder has no manifest or no image of this split, or an image is missing or damaged, or has
            another size than the first.
    """

    def __init__(
        self, folder, split="train", low_res=224, high_res=1024, augment=False, seed=0, fold=None, balanced=False
    ):
        self.balanced = balanced
        self.folder, self.low_res, self.high_res = of_this_machine(folder), low_res, high_res
        self.augment, self.seed = augment, seed
        if not (self.folder / "manifest.csv").is_file():
            raise ValueError(f"{folder} is no prepared folder: there is no manifest.csv")
        with open(self.folder / "manifest.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if split is None or split_of(row, fold) == split]
        if not rows:
            raise ValueError(f"No image of split {split!r} in {folder}")
        self.files = [row["file"] for row in rows]
        self.targets = np.array([float(row["target"]) for row in rows], np.float32)
        missing = [name for name in self.files if not (self.folder / name).is_file()]
        if missing:
            raise ValueError(f"{len(missing)} files of {folder} are missing, first {self.folder / missing[0]}")
        with self._open(0) as image:
            self.size = image.width
        if max(high_res or 0, low_res) > self.size:
            wanted = f"high_res={high_res}" if high_res else f"low_res={low_res}"
            raise ValueError(f"The prepared images have {self.size} pixels a side, less than {wanted}")
        # JPEGs can be decoded at a half, a quarter or an eighth; by the largest that divides the side without rest.
        ratios = [r for r in (8, 4, 2, 1) if self.size % r == 0 and self.size // r >= (high_res or low_res)]
        self.ratio = ratios[0]
        self.set_epoch(0)

    def _open(self, index) -> Image.Image:
        """An image that is not decoded yet."""
        path = self.folder / self.files[index]
        try:
            return Image.open(path)
        except Exception as error:
            reason = str(error).partition(" '")[0]  # without the path, which stands in front already
            raise ValueError(f"{path} is damaged ({reason}); prepare it again") from None

    def set_epoch(self, epoch: int):
        """Draws the images and the transforms of this epoch."""
        everything = np.arange(len(self.files))
        self.drawn = balanced_draw(self.targets, self.seed, epoch) if self.balanced else everything
        uniform = np.random.default_rng((self.seed, epoch, 1)).random((len(self.files), 4))
        self.transforms = np.concatenate(
            [[[-180.0, 0.6]] + uniform[:, :2] * [[360.0, 1.0 - 0.6]], np.floor(2 * uniform[:, 2:])], axis=1
        )

    def __len__(self):
        return len(self.files)

    def __getitem__(self, place):
        index = self.drawn[place]
        with self._open(index) as file:
            if file.size != (self.size,) * 2:
                found, wanted = f"{file.width}x{file.height}", f"{self.size}x{self.size}"
                raise ValueError(
                    f"{self.folder / self.files[index]} has {found} pixels, not {wanted}; prepare it again"
                )
            if file.format == "JPEG":
                file.draft("RGB", (self.size // self.ratio,) * 2)
            try:
                pixels = np.array(file.convert("RGB"))
            except Exception as error:  # Pillow's decoders raise what they like
                raise ValueError(f"{self.folder / self.files[index]} is damaged ({error}); prepare it again") from None
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.high_res and image.shape[-1] != self.high_res:
            image = reduce(image, self.high_res)
        if self.augment:
            image = transform(image, self.transforms[place])
        small = reduce(image, self.low_res) if image.shape[-1] != self.low_res else image
        target = torch.tensor(self.targets[index])
        return ({"low_res": small, "high_res": image} if self.high_res else {"low_res": small}), target


def balanced_draw(targets, seed: int, epoch: int) -> np.ndarray:
    """Images of one epoch, as many as there are, half of them of each class; of an odd number one more is benign.

    Args:
        targets: (images,) of 0 and 1.
        seed, epoch: what the draw depends on.

    Returns:
        Positions in `targets`, benign ones first. A class is gone through in a new order until its half is full.

    Raises:
        ValueError: unless both classes are there.
    """
    rng = np.random.default_rng((seed, epoch, 3))
    malignant = len(targets) // 2
    halves = []
    for target, count in ((0, len(targets) - malignant), (1, malignant)):
        of_class = np.flatnonzero(targets == target)
        if len(of_class) == 0:
            raise ValueError(f"balanced needs images of both targets, 0 and 1. Received: none of {target}")
        half = np.empty(0, int)
        while len(half) < count:
            half = np.append(half, rng.permutation(of_class))
        halves.append(half[:count])
    return np.concatenate(halves)


def transform(image: torch.Tensor, parameters) -> torch.Tensor:
    """Turns an image counter-clockwise, scales and flips it about its centre, bilinearly; outside is black.

    Args:
        image: uint8 (3, side, side).
        parameters: angle in degrees, scale, horizontal flip, vertical flip.
    """
    angle, scale, flip_x, flip_y = (float(value) for value in parameters)
    cosine, sine = math.cos(math.radians(angle)) / scale, math.sin(math.radians(angle)) / scale
    sign_x, sign_y = 1 - 2 * flip_x, 1 - 2 * flip_y
    # Coordinates that go from -1 at the centre of the first pixel to 1 at that of the last.
    theta = torch.tensor([[sign_x * cosine, -sign_x * sine, 0.0], [sign_y * sine, sign_y * cosine, 0.0]])
    grid = F.affine_grid(theta[None], (1, *image.shape), align_corners=True)
    warped = F.grid_sample(image[None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return warped[0].round().to(torch.uint8)


def reduce(image: torch.Tensor, size: int) -> torch.Tensor:
    """The image at `size` x `size` pixels, antialiased by a triangular filter. uint8 in, uint8 out."""
    small = F.interpolate(image[None].float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
    return small[0].round().clamp(0, 255).to(torch.uint8)


class EpochBatches(torch.utils.data.Sampler):
    """Batches of indices in the order of one epoch; worker `rank` of `world` gets its part of each.

    Args:
        count: images.
        batch_size: over all workers.
        shuffle: draw an order for every epoch.
        seed: of the order.
        drop_remainder: leave out a short last batch; several workers need it.
        rank, world: number of this worker and of all.
    """

    def __init__(self, count, batch_size, shuffle=False, seed=0, drop_remainder=False, rank=0, world=1):
        if batch_size % world or (world > 1 and not drop_remainder):
            raise ValueError(f"{world} workers need a batch_size divisible by them and drop_remainder=True")
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.drop_remainder, self.rank, self.world = drop_remainder, rank, world
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int, start: int = 0):
        """The epoch to sample, and how many of its batches to leave out."""
        self.epoch, self.start = epoch, start

    def __len__(self):
        whole, rest = divmod(self.count, self.batch_size)
        return whole + (rest > 0 and not self.drop_remainder) - self.start

    def __iter__(self):
        order = np.arange(self.count)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch, 0)).permutation(self.count)
        part = self.batch_size // self.world
        for step in range(self.start, self.start + len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield batch[self.rank * part : (self.rank + 1) * part].tolist() if self.world > 1 else batch.tolist()


def make_loader(
    folder, split="train", batch_size=100, low_res=224, high_res=1024, augment=False, shuffle=False, seed=0,
    drop_remainder=False, rank=0, world=1, num_workers=0, fold=None, balanced=False,
):  # fmt: skip
    """A DataLoader over a prepared folder.

    Call `loader.dataset.set_epoch(n)` and `loader.batch_sampler.set_epoch(n)` before each epoch.
    """
    images = PreparedImages(folder, split, low_res, high_res, augment, seed, fold, balanced)
    batches = EpochBatches(len(images), batch_size, shuffle, seed, drop_remainder, rank, world)
    return torch.utils.data.DataLoader(images, batch_sampler=batches, num_workers=num_workers)
