"""Images to compare models on: real photographs from a folder, or structured pictures made here.

Noise images make the logits of a classifier nearly equal and hide faults; these have objects, edges and texture.
"""

import csv
from pathlib import Path

import numpy as np

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(folder) -> list[Path]:
    """All image files below a folder, sorted; those of the manifest, if it is a prepared folder.

    Raises:
        ValueError: if there is no such folder, or it holds no images, or lacks images of its manifest.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"--images: no such folder: {folder}")
    if (folder / "manifest.csv").is_file():
        with open(folder / "manifest.csv", newline="") as file:
            paths = [folder / row["file"] for row in csv.DictReader(file)]
        missing = [path for path in paths if not path.is_file()]
        if missing or not paths:
            raise ValueError(f"--images: {len(missing)} of {len(paths)} images of {folder}/manifest.csv are missing")
        return sorted(paths)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"--images: no images ({', '.join(SUFFIXES)}) below {folder}")
    return paths


def load_images(paths, count: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """`count` different photographs (repeated only if there are fewer), squeezed to `size`.

    Returns:
        float32 array (count, height, width, 3), values 0-255.
    """
    from PIL import Image

    order = np.random.default_rng(seed).permutation(len(paths))
    images = []
    for index in np.resize(order, count):
        with Image.open(paths[index]) as image:
            image.draft("RGB", (2 * size[1], 2 * size[0]))  # decode large JPEGs at reduced scale
            picture = image.convert("RGB").resize(size[::-1], Image.Resampling.LANCZOS)
        images.append(np.asarray(picture, np.float32))
    return np.stack(images)


def structured_images(count: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """Pictures with a lesion-like blob, an irregular border, an uneven ground and fine texture.

    Returns:
        float32 array (count, height, width, 3), values 0-255 in whole numbers, as decoded pixels are.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    y, x = 2 * y / height - 1, 2 * x / width - 1
    images = []
    for _ in range(count):
        cy, cx = rng.uniform(-0.4, 0.4, 2)
        angle, radius = np.arctan2(y - cy, x - cx), np.hypot(y - cy, x - cx)
        border = rng.uniform(0.25, 0.7)
        for k in range(2, 7):
            border = border + rng.normal(0, 0.12 / k) * np.cos(k * angle + rng.uniform(0, 6.3))
        inside = 1 / (1 + np.exp((radius - border) * rng.uniform(8, 60)))
        waves = sum(
            rng.normal(0, 0.1) * np.sin(rng.normal(0, 25) * x + rng.normal(0, 25) * y + rng.uniform(0, 6.3))
            for _ in range(6)
        )
        shade = 1 + 0.25 * (rng.normal() * x + rng.normal() * y) / 2
        skin, lesion = rng.uniform((170, 120, 100), (240, 200, 180)), rng.uniform((50, 25, 20), (150, 90, 80))
        mixed = inside[..., None] * lesion + (1 - inside[..., None]) * skin
        picture = mixed * (shade + waves * inside + rng.normal(0, 0.03, size))[..., None]
        images.append(np.clip(np.rint(picture), 0, 255))
    return np.asarray(images, np.float32)


def make_batches(paths, count: int, size: tuple[int, int], seeds) -> list[np.ndarray]:
    """One batch of `count` images per seed: photographs, or structured pictures where `paths` is None."""
    if paths:
        return [load_images(paths, count, size, seed) for seed in seeds]
    return [structured_images(count, size, seed) for seed in seeds]
