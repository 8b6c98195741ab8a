"""Raw downloads -> a folder of equal, square, high-resolution images with a manifest. Section 4.1.5 of the paper.

    OUT/images/ISIC_0000018.jpg ...   size x size pixels, RGB, 8 bits
    OUT/manifest.csv                  one row per image: target, split, group, source
    OUT/prepare.json                  settings, versions, counts, and why each dropped image was dropped
    OUT/shards/train-00000-of-00004.tfrecord ...   on request, the same bytes
    OUT/journal.jsonl                 what is done, so that an interrupted run goes on

Every file appears whole or not at all: it is written under another name and then renamed. The journal is appended to
after the image is in place; a run that was killed redoes at most the images it was at.
"""

import contextlib
import hashlib
import io
import json
import platform
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from keras_stoch.data.audit import check_split, group_images, image_hash, near_duplicates, split_images
from keras_stoch.data.journal import Journal, stamp_of
from keras_stoch.data.labels import label_files, merge_labels, read_labels
from keras_stoch.data.photographs import (
    Dropped,
    check_folder,
    describe_passed_over,
    find_photographs,
    no_warnings,
    open_image,
    sources_of,
)
from keras_stoch.data.shards import remove_shards, write_shards
from keras_stoch.files import cores, locked, of_this_machine, versions, write_atomically
from keras_stoch.progress import progress_bar

FORMATS = {"jpeg": ".jpg", "png": ".png"}
MANIFEST_COLUMNS = (
    *("image", "file", "target", "split", "group", "years", "conflict", "diagnosis", "patient_id", "lesion_id"),
    *("sex", "age", "site", "source", "source_width", "source_height", "cropped", "hash", "sha256"),
)


@dataclass(frozen=True)
class Settings:
    """What decides the pixels. A folder holds images of one setting only.

    Attributes:
        size: side of the prepared square in pixels.
        min_side: images smaller than this in either dimension are dropped.
        crop_over: images larger than this in both dimensions are cropped,
        crop_to: to this many pixels a side, from their centre.
        format: "jpeg" or "png".
        quality: of JPEG, 1 to 95. Chroma is not subsampled.
        filter: of the resize, which is antialiased.
    """

    size: int = 1024
    min_side: int = 1000
    crop_over: int = 3048
    crop_to: int = 2048
    format: str = "jpeg"
    quality: int = 95
    filter: str = "lanczos"

    def __post_init__(self):
        for name in ("size", "min_side", "crop_over", "crop_to", "quality"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer. Received: {value!r}")
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}. Received: {self.format!r}")
        if self.quality > 95:
            raise ValueError(f"quality must be at most 95 (more only makes files larger). Received: {self.quality}")
        if self.filter != "lanczos":
            raise ValueError(f"filter must be 'lanczos'. Received: {self.filter!r}")
        if self.crop_to > self.crop_over:
            raise ValueError(f"crop_to ({self.crop_to}) must not exceed crop_over ({self.crop_over})")


def prepare_image(image: Image.Image, settings: Settings) -> tuple[Image.Image, bool]:
    """The paper's steps: drop the small, crop the very large, resize.

    Args:
        image: RGB.
        settings: `Settings`.

    Returns:
        The image of settings.size x settings.size pixels, and whether it was cropped. The aspect ratio is not kept.

    Raises:
        Dropped: if the image is smaller than settings.min_side in either dimension.
    """
    width, height = image.size
    if min(width, height) < settings.min_side:
        raise Dropped(f"smaller than {settings.min_side} pixels")
    cropped = min(width, height) > settings.crop_over
    if cropped:
        left, top = (width - settings.crop_to) // 2, (height - settings.crop_to) // 2
        image = image.crop((left, top, left + settings.crop_to, top + settings.crop_to))
    return image.resize((settings.size,) * 2, Image.Resampling.LANCZOS), cropped


def prepare(
    raw,
    labels,
    out,
    *,
    settings: Settings | None = None,
    malignant="paper",
    on_conflict="latest",
    split="group",
    validation=0.2,
    seed=0,
    shards=0,
    workers=None,
    progress=False,
    replace=False,
) -> dict:
    """Prepares all labelled photographs below `raw` into `out`, and goes on where an interrupted run stopped.

    Args:
        raw: folder of photographs, searched at any depth. A file belongs to the image whose id is its name, or its path
            below `raw`, without its ending.
        labels: files or folders for `read_labels`.
        out: folder to write; nothing is written elsewhere.
        settings: `Settings`, by default the paper's.
        malignant, on_conflict: see `read_labels` and `merge_labels`.
        split, validation, seed: see `split_images`; near-duplicates, lesions and patients are groups.
        shards: number of TFRecord files for training and, by share, validation; 0 writes none. Needs TensorFlow.
        workers: threads; all cores by default.
        progress: show a bar with rate and time left.
        replace: whether this run may remove images of an earlier one that are not part of it, or make them of other
            photographs of the same names, if `raw` is another folder.

    Returns:
        The record that is also in `out`/prepare.json: settings, versions, counts, dropped images.

    Raises:
        ValueError: for bad labels or arguments, for one image id with several different photographs, for an `out` that
            was prepared with other settings, holds images that would be lost, or is being prepared by another process,
            or if nothing is left to train on.
        OSError: if `out` can not be written.
    """
    settings = settings or Settings()
    if isinstance(shards, bool) or not isinstance(shards, int) or shards < 0:
        raise ValueError(f"shards must be 0 or a positive integer. Received: {shards!r}")
    # All that can be wrong with the arguments shows before hours of work.
    split_images([0, 1], [0, 1], split=split, validation=validation, seed=seed)
    raw, out = Path(raw), of_this_machine(out, "A prepared folder is")
    label_files(labels)
    check_folder(raw)
    if raw.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"{out} holds the photographs ({raw}) themselves; choose another folder to write")
    _check_out(out)
    read = read_labels(labels, malignant)
    known = merge_labels(read)
    agreed = set(merge_labels(read, on_conflict)["image"])
    paths, passed_over = find_photographs(raw, exclude=out)  # an `out` below `raw` is not read back in
    sources = sources_of(paths, raw, known["image"], read.listed)
    found = known.assign(source=known["image"].map(sources)).dropna(subset="source")
    there = found[found["image"].isin(agreed)]
    if there.empty:
        raise ValueError(
            f"None of the {len(agreed)} labelled images is below {raw}, which holds {len(sources)} images such as "
            f"{', '.join(list(sources)[:3])}"
        )
    with _claim(out, settings):
        journal = Journal(out / "journal.jsonl")
        suffix = FORMATS[settings.format]
        removed = _lost(journal, there, raw, out, suffix)
        if removed and not replace:
            raise ValueError(
                f"{out} holds {len(removed)} images of an earlier run that would be removed or replaced, such as "
                f"{', '.join(removed[:3])}. Choose another folder, or replace=True"
            )
        jobs = [
            (row.image, row.source, out / "images" / (row.image + suffix))
            for row in there.itertuples()
            if not journal.is_done(row.image, row.source, out / "images" / (row.image + suffix))
        ]
        _work(jobs, settings, journal, workers, progress)
        done = pd.DataFrame([journal.done[image] | {"image": image} for image in there["image"]])
        kept = there.merge(done[done["dropped"].isna()].drop(columns="dropped"), on="image", how="inner")
        dropped = dict(done[done["dropped"].notna()][["image", "dropped"]].itertuples(index=False))
        dropped |= {image: "years disagree on its target" for image in found["image"] if image not in agreed}
        if kept.empty:
            reasons = Counter(dropped.values())
            raise ValueError(f"No image is left: {', '.join(f'{n} {reason}' for reason, n in reasons.items())}")
        near = near_duplicates([bytes.fromhex(value) for value in kept["hash"]])
        names = kept["image"].tolist()
        pairs = [(names[a], names[b]) for a, b, _ in near]
        listed = zip(read.duplicates["first"], read.duplicates["second"], strict=True)
        # Among all that is known: two images may belong together by way of a third that is not here.
        groups = dict(zip(known["image"], group_images(known, [*pairs, *listed]), strict=True))
        kept["group"] = pd.factorize(kept["image"].map(groups))[0]
        held = split_images(kept["target"], kept["group"], split=split, validation=validation, seed=seed)
        kept["split"] = np.where(held, "validation", "train")
        kept["file"] = "images/" + kept["image"] + suffix
        kept["source"] = [str(path.relative_to(raw)) for path in kept["source"]]
        manifest = kept.reindex(columns=MANIFEST_COLUMNS)
        for name in ("source_width", "source_height"):
            manifest[name] = manifest[name].astype(int)
        _forget_others(out, set(journal.done) - set(manifest["image"]), suffix)
        # The manifest of an earlier, smaller run would not fit while shards are renewed.
        (out / "manifest.csv").unlink(missing_ok=True)
        files = write_shards(manifest, out, shards) if shards else remove_shards(out)
        record = {
            "raw": str(raw.resolve()),
            "settings": asdict(settings),
            "split": {"split": split, "validation": validation, "seed": seed},
            "malignant": sorted(read.rule),
            "on_conflict": on_conflict,
            "versions": _versions(),
            "labels": json.loads(read.files.to_json(orient="records")),
            "counts": {
                "labelled": len(known),
                "without_file": len(known) - len(found),
                "files_without_label": len(set(sources) - set(known["image"])),
                "kept": len(manifest),
                "cropped": int(manifest["cropped"].sum()),
                "malignant": int(manifest["target"].sum()),
                "train": int((~held).sum()),
                "validation": int(held.sum()),
                "near_duplicate_pairs": len(pairs),
                "dropped": dict(Counter(reason.split(":")[0] for reason in dropped.values()).most_common()),
            },
            "dropped": {
                image: {"source": str(sources[image].relative_to(raw)), "reason": reason}
                for image, reason in sorted(dropped.items())
            },
            "files_without_label": sorted(set(sources) - set(known["image"])),
            "passed_over": passed_over,
            "removed": removed,
            "warning": _untrainable(kept["target"].to_numpy(), held),
            "shards": files,
        }
        write_atomically(out / "prepare.json", json.dumps(record, indent=1) + "\n")
        write_atomically(out / "manifest.csv", manifest.to_csv(index=False, lineterminator="\n"))
    return record


def _lost(journal, there, raw, out, suffix) -> list[str]:
    """The images of an earlier run that this one removes, or makes of other photographs from another folder."""
    sources = dict(zip(there["image"], there["source"], strict=True))
    record = out / "prepare.json"
    before = json.loads(record.read_text()).get("raw") if record.exists() else None
    moved = before is not None and before != str(raw.resolve())
    lost = []
    for image, entry in journal.done.items():
        if entry["dropped"] is None and (out / "images" / (image + suffix)).exists():
            source = sources.get(image)
            if source is None or (moved and entry["stamp"] != stamp_of(source)):
                lost.append(image)
    return sorted(lost)


def _untrainable(targets, held) -> str | None:
    """Why nothing can be trained with a split, if so. The images are prepared all the same; the split can be redone."""
    try:
        check_split(targets, held)
    except ValueError as error:
        return str(error)
    return None


def describe(record: dict) -> str:
    """What `prepare` did, for people."""
    counts = record["counts"]
    lines = [
        f"{counts['kept']} images kept ({counts['malignant']} malignant, {counts['cropped']} cropped), "
        f"{counts['train']} for training and {counts['validation']} for validation",
        f"{counts['without_file']} of {counts['labelled']} labelled images have no file, "
        f"{counts['files_without_label']} files have no label, "
        f"{counts['near_duplicate_pairs']} pairs of near-duplicates stay on one side of the split",
    ]
    if record["passed_over"]:
        lines.append(describe_passed_over(record["passed_over"]))
    if record["removed"]:
        lines.append(f"{len(record['removed'])} images of an earlier run were removed or replaced")
    lines += [f"{number} dropped: {reason}" for reason, number in counts["dropped"].items()]
    broken = [why for why in record["dropped"].values() if not why["reason"].startswith(("smaller", "years"))]
    lines += [f"  {why['source']}: {why['reason']}" for why in broken]
    if record["warning"]:
        lines.append(f"warning: {record['warning']}")
    return "\n".join(lines)


@contextlib.contextmanager
def _claim(out: Path, settings: Settings):
    """Makes `out` ours: its folders, a lock against a second run, and the settings its images must share."""
    _check_out(out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", f"{out} is being prepared by another process"):
        for partial in [*out.glob(".*.partial"), *out.glob("images/**/.*.partial"), *out.glob("shards/.*.partial*")]:
            partial.unlink()
        mine = json.dumps(asdict(settings))
        known = out / "settings.json"
        if known.exists() and (before := known.read_text().strip()) != mine:
            if any((out / "images").iterdir()):
                raise ValueError(f"{out} holds images of other settings: {before}, not {mine}. Choose another folder")
            # A run without an image binds nobody, and what it dropped it dropped by its own settings.
            (out / "journal.jsonl").unlink(missing_ok=True)
        write_atomically(known, mine + "\n")
        yield


def _check_out(out: Path):
    """Raises ValueError for a folder that holds something else, or that leads out of itself."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder to write")
    if out.exists() and not (out / "settings.json").exists() and not all(map(_is_beginning, out.iterdir())):
        raise ValueError(f"{out} holds other things; choose a new or an empty folder")
    for name in ("images", "shards", ".lock", "journal.jsonl"):
        if (out / name).is_symlink():
            raise ValueError(f"{out / name} is a link; nothing is written outside {out}")


def _is_beginning(path: Path) -> bool:
    """Whether a run that was killed in its first moments leaves such a thing."""
    empty = path.is_dir() and not any(path.iterdir())
    return path.name == ".lock" or path.suffix == ".partial" or (path.name == "images" and empty)


def _work(jobs, settings, journal, workers, progress):
    """Runs the jobs in threads (Pillow lets go of Python's lock while it decodes, resizes and encodes).

    At most a few jobs a worker are in flight, so that memory does not grow with their number.
    """
    workers = workers or cores()
    waiting = iter(jobs)
    pool = ThreadPoolExecutor(workers)
    running = {}
    with no_warnings(), progress_bar(len(jobs), "prepare", progress) as bar:
        try:
            while True:
                for job in waiting:
                    running[pool.submit(_one, *job[1:], settings)] = job[0]
                    if len(running) >= 2 * workers:
                        break
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    journal.add(running.pop(future), future.result())
                    bar.update()
        finally:
            pool.shutdown(cancel_futures=True)


def _one(source: Path, target: Path, settings: Settings) -> dict:
    """Prepares one photograph; returns its line of the journal."""
    entry = {"stamp": stamp_of(source), "dropped": None}
    try:
        image = open_image(source)
        entry |= {"source_width": image.width, "source_height": image.height}
        image, entry["cropped"] = prepare_image(image, settings)
    except Dropped as reason:
        target.unlink(missing_ok=True)
        return entry | {"dropped": str(reason)}
    target.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    if settings.format == "jpeg":
        image.save(buffer, "JPEG", quality=settings.quality, subsampling=0)
    else:
        image.save(buffer, "PNG")
    write_atomically(target, buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return entry | {"bytes": buffer.tell(), "hash": image_hash(image).hex(), "sha256": digest}


def _forget_others(out: Path, images: set[str], suffix: str):
    """Removes images of an earlier run that are no longer part of the set, so that folder and manifest agree."""
    for image in images:
        (out / "images" / (image + suffix)).unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    ours = {"keras_stoch": versions("keras-stoch")["keras-stoch"], "python": platform.python_version()}
    return ours | versions("pillow", "numpy", "pandas")
