"""Generated lesions whose class lies in fine detail only: the data set that needs no download.

Skin, hairs, colour, size, shape, and everything else that a small image can carry, have one distribution for both
classes. What differs is the contrast of a pigment network of 3 to 4.5 pixels' wavelength, inside the lesion and along
its border. An image that was reduced by 4 or more, antialiased, has no room for it: its shortest wavelength is 8
pixels of the original. What the filters of real resizing let through is too weak for a simple classifier at strength 1
(AUC within 0.05 of 0.5) and a trace at strength 3 (below 0.6). So a network that sees the small image alone can only
guess, and one that sees windows of the large one need not: the claim of the paper (section 3.1) in its purest form.
"""

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter
from scipy import fft

from keras_stoch.data.audit import check_split, split_images
from keras_stoch.data.prepare import MANIFEST_COLUMNS
from keras_stoch.files import cores, locked, of_this_machine, sha256, write_atomically
from keras_stoch.progress import progress_bar

WAVELENGTHS = (3.0, 4.5)  # pixels; independent of the size of the image
CONTRAST = 12.0  # root mean square of the network in grey levels, at strength 1 and where the lesion is darkest
SENSOR_NOISE = 2.0  # grey levels


HALVES = ("left", "right", "top", "bottom")


def draw_lesion(target: int, seed, size: int = 1024, strength: float = 1.0, half: str | None = None) -> np.ndarray:
    """One lesion on skin.

    Args:
        target: 0 or 1. The contrast of the fine network is drawn from [0, 0.3] for 0, and for 1 from the same
            interval moved up by `strength` times 0.7.
        seed: int or sequence of ints; two images of one seed and different targets differ in the network alone.
        size: side in pixels, at least 64.
        strength: 0 makes the classes equal; at 1 a filter separates them at full resolution; up to 3, where small
            networks learn to in a few epochs.
        half: "left", "right", "top" or "bottom": the part of the lesion that has the network; None for all of it.

    Returns:
        uint8 array (size, size, 3).
    """
    if target not in (0, 1):
        raise ValueError(f"target must be 0 or 1. Received: {target!r}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 64:
        raise ValueError(f"size must be an integer of at least 64. Received: {size!r}")
    if not 0 <= strength <= 3:
        raise ValueError(f"strength must lie between 0 and 3. Received: {strength!r}")
    if half is not None and half not in HALVES:
        raise ValueError(f"half must be None or one of {', '.join(HALVES)}. Received: {half!r}")
    rng = np.random.default_rng(seed)
    inside, edge = _shape(rng, size)
    picture = _colours(rng, size, inside)
    picture = _hairs(rng, picture, size)
    # Drawn for both targets alike, so that everything else stays the same.
    amount = rng.uniform(0, 0.3) + 0.7 * strength * target
    network = _network(rng, size) * (CONTRAST * amount) * _place(inside, edge, half)
    noise = rng.standard_normal((size, size), np.float32) * SENSOR_NOISE
    # Room for the network on both sides: where it were cut off at 0 or 255, its contrast would shift the mean colour.
    room = 2.5 * CONTRAST * max(1.0, strength)
    picture = np.clip(picture, room, 255 - room) + (network + noise)[..., None]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def network_place(seed, size: int = 1024, half: str | None = None) -> np.ndarray:
    """Where the network of a lesion is, and how strong there: float32 (size, size), 0 to 1.

    Args:
        seed, size, half: as `draw_lesion` was given them.
    """
    return _place(*_shape(np.random.default_rng(seed), size), half)


def _place(inside, edge, half):
    place = 0.35 * inside + 0.65 * edge
    if half is None:
        return place
    axis = 1 if half in ("left", "right") else 0
    along = np.arange(len(inside), dtype=np.float32)
    profile = inside.sum(1 - axis)
    centre = (profile * along).sum() / profile.sum()
    # Soft over a few pixels: a hard border would be a detail of its own.
    share = np.clip(0.5 + (centre - along) / 8, 0, 1) * np.float32(1)
    share = share if half in ("left", "top") else 1 - share
    return place * (share[None, :] if axis else share[:, None])


def write_lesions(
    out, count=1000, *, size=1024, strength=1.0, validation=0.2, seed=0, quality=95, workers=None, progress=False
) -> Path:
    """Writes a prepared folder of generated lesions, half of each class, as `prepare` would.

    Args:
        out: folder; one that was written with the same arguments is kept as it is.
        count: images, at least 10.
        size, strength: see `draw_lesion`.
        validation: share of the validation half.
        seed: of everything; equal arguments give equal pixels.
        quality: of the JPEGs.
        workers: threads; all cores by default.
        progress: show a bar.

    Returns:
        `out`.

    Raises:
        ValueError: for bad arguments, or if `out` holds something else or is being written by another process.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 10:
        raise ValueError(f"count must be an integer of at least 10. Received: {count!r}")
    out = of_this_machine(out, "A prepared folder is")
    record = json.dumps(
        {
            "synthetic": dict(
                count=count, size=size, strength=strength, validation=validation, seed=seed, quality=quality
            )
        }
    )
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder to write")
    if _is_other(out, record):
        raise ValueError(f"{out} holds something else: {out / 'prepare.json'} is not {record}. Choose another folder")
    if (out / "manifest.csv").exists():
        return out
    targets = np.arange(count) % 2
    held = split_images(targets, np.arange(count), validation=validation, seed=seed)
    check_split(targets, held)
    draw_lesion(0, seed, 64 if isinstance(size, int) and size > 64 else size, strength)  # bad arguments show here
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 95:
        raise ValueError(f"quality must be an integer from 1 to 95. Received: {quality!r}")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", f"{out} is being written by another process"):
        if _is_other(out, record):  # by then
            raise ValueError(f"{out} holds something else by now. Choose another folder")
        write_atomically(out / "prepare.json", record)
        (out / "images").mkdir(exist_ok=True)
        for partial in [*out.glob(".*.partial"), *out.glob("images/.*.partial")]:
            partial.unlink()
        return _draw(out, targets, held, size, strength, seed, quality, workers, progress)


def _is_other(out: Path, record: str) -> bool:
    """Whether a folder holds anything but the lesions of `record`, or the beginnings of some without an image yet."""
    if not out.exists():
        return False
    known, images = out / "prepare.json", out / "images"
    before = known.read_text(errors="replace") if known.is_file() else None
    if before == record:
        return False
    if before is not None and not before.startswith('{"synthetic"'):
        return True
    begun = all(path.suffix == ".partial" or path.name in (".lock", "prepare.json", "images") for path in out.iterdir())
    return not begun or (images.exists() and any(path.suffix != ".partial" for path in images.iterdir()))


def _draw(out: Path, targets, held, size, strength, seed, quality, workers, progress) -> Path:
    """Draws the images that are not there yet, and writes the manifest."""
    count = len(targets)

    def write(index):
        buffer = io.BytesIO()
        pixels = draw_lesion(int(targets[index]), [seed, index], size, strength)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
        write_atomically(out / "images" / f"SYN_{index:07d}.jpg", buffer.getvalue())

    names = [f"SYN_{index:07d}" for index in range(count)]
    todo = [i for i, name in enumerate(names) if not (out / "images" / f"{name}.jpg").exists()]
    with ThreadPoolExecutor(workers or cores()) as pool, progress_bar(len(todo), "draw", progress) as bar:
        for _ in pool.map(write, todo):
            bar.update()
        digests = list(pool.map(lambda name: sha256(out / "images" / f"{name}.jpg"), names))
    manifest = pd.DataFrame(
        {
            "image": names,
            "file": [f"images/{name}.jpg" for name in names],
            "target": targets,
            "split": np.where(held, "validation", "train"),
            "group": np.arange(count),
            "source_width": size,
            "source_height": size,
            "cropped": False,
            "sha256": digests,
        }
    ).reindex(columns=MANIFEST_COLUMNS)
    write_atomically(out / "manifest.csv", manifest.to_csv(index=False, lineterminator="\n"))
    return out


def default_lesions(count=1000, **options) -> Path:
    """A prepared folder of generated lesions in the user's cache (KERAS_STOCH_CACHE, or ~/.cache/keras_stoch)."""
    cache = Path(os.environ.get("KERAS_STOCH_CACHE") or Path.home() / ".cache" / "keras_stoch")
    name = "-".join(
        f"{key}={value}" for key, value in sorted((options | {"count": count}).items()) if key != "progress"
    )
    return write_lesions(cache / f"lesions-v1-{name}", count, **options)


def _smooth(rng, size, cells, count=1) -> np.ndarray:
    """Smooth random fields of unit variance with about `cells` features across: (count, size, size)."""
    fields = []
    for _ in range(count):
        coarse = Image.fromarray(rng.standard_normal((cells + 3, cells + 3), np.float32))
        fields.append(
            np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC, box=(1, 1, cells + 2, cells + 2)))
        )
    return np.stack(fields) / 0.7


def _shape(rng, size) -> tuple[np.ndarray, np.ndarray]:
    """Soft masks (size, size) of the lesion and of the band along its border."""
    small = 256  # borders are soft: a quarter of the resolution holds them
    y, x = np.mgrid[:small, :small].astype(np.float32) * (2 / small) - 1
    cy, cx = rng.uniform(-0.2, 0.2, 2)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.7, 1.0)
    u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
    v = ((y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)) / stretch
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    border = np.full_like(radius, rng.uniform(0.35, 0.7))
    for k in range(2, 9):
        border += rng.normal(0, 0.06 / np.sqrt(k)) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    distance = radius - border + 0.02 * _smooth(rng, small, 24)[0]
    softness = rng.uniform(0.02, 0.06)
    inside = 1 / (1 + np.exp(np.clip(distance / softness, -30, 30)))
    edge = np.exp(-np.square((distance + 0.06) / 0.09))
    return tuple(
        np.asarray(Image.fromarray(np.float32(mask)).resize((size, size), Image.Resampling.BICUBIC))
        for mask in (inside, edge)
    )


def _colours(rng, size, inside) -> np.ndarray:
    """Skin and pigment, float32 (size, size, 3)."""
    skin = np.array([215, 165, 145]) * rng.uniform(0.85, 1.1) + rng.normal(0, 8, 3)
    brown = np.array([120, 75, 60]) * rng.uniform(0.75, 1.25) + rng.normal(0, 8, 3)
    dark = brown * rng.uniform(0.45, 0.8)
    small = Image.fromarray(inside).resize((256, 256), Image.Resampling.BOX)
    mask = np.asarray(small)[..., None]
    clouds, globules, ground, tint = (
        _smooth(rng, 256, int(rng.integers(4, 9)), 1)[0],
        *(_smooth(rng, 256, cells)[0] for cells in (36, 3, 12)),
    )
    share = 1 / (1 + np.exp(-3 * (clouds + rng.normal(0, 0.5))))[..., None]
    pigment = share * dark + (1 - share) * brown + (rng.uniform(2, 7) * globules)[..., None]
    ground = (6 * ground + 3 * tint)[..., None] * np.array([1.0, 0.9, 0.8])
    y, x = np.mgrid[:256, :256] / 127.5 - 1
    light = 1 - rng.uniform(0.05, 0.2) * (x**2 + y**2)[..., None] / 2
    picture = np.float32(((1 - mask) * (skin + ground) + mask * (pigment + ground)) * light)
    planes = [
        Image.fromarray(np.ascontiguousarray(picture[..., c])).resize((size, size), Image.Resampling.BICUBIC)
        for c in range(3)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _hairs(rng, picture, size) -> np.ndarray:
    """A few thin dark curves over the picture."""
    number = int(rng.integers(0, 12))
    if not number:
        return picture
    mask = Image.new("L", (size, size))
    pen = ImageDraw.Draw(mask)
    for _ in range(number):
        start, bend = rng.uniform(0, size, 2), rng.normal(0, 1.5)
        heading, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8) * size
        t = np.linspace(0, 1, 24)
        turned = heading + bend * t
        points = start + np.cumsum(np.stack([np.cos(turned), np.sin(turned)], 1) * length / len(t), axis=0)
        pen.line([tuple(p) for p in points], fill=int(rng.integers(90, 200)), width=max(1, round(size / 300)))
    cover = np.asarray(mask.filter(ImageFilter.GaussianBlur(size / 1000)), np.float32)[..., None] / 255
    return picture * (1 - cover) + np.float32([45, 35, 30]) * cover


def _network(rng, size) -> np.ndarray:
    """A net-like texture (size, size) of zero mean and unit variance, with no wavelength outside `WAVELENGTHS`."""
    longest, shortest = 1 / WAVELENGTHS[1], 1 / WAVELENGTHS[0]
    y, x = fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None]
    frequency = np.hypot(y, x)
    # A smooth bump between the limits and nothing outside: hard edges would ring.
    position = np.clip((frequency - longest) / (shortest - longest), 0, 1)
    gain = np.float32(np.sin(np.pi * position) ** 2)
    field = fft.irfft2(fft.rfft2(rng.standard_normal((size, size), np.float32)) * gain, s=(size, size))
    return field / field.std()
