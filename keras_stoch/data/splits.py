"""A prepared folder divided as studies are: training, validation and test, or k folds, by group and stratified."""

import hashlib

import numpy as np
import pandas as pd

from keras_stoch.data.audit import split_images
from keras_stoch.files import check_prepared, locked, of_this_machine, write_atomically

FOLD, TEST = "fold", "test"


def split(prepared, *, folds: int | None = None, validation: float = 0.2, test: float = 0.0, seed: int = 0):
    """Divides a prepared folder anew: writes the columns `split` and, for folds, `fold` of its manifest.

    Groups (patients, lesions, duplicates) are kept whole, and every part gets its share of images and of malignant
    ones, as near as the groups allow. A folder with folds is for cross-validation: run n of `fit` is validated on fold
    n, counted again from 0 where there are more runs, and trained on the others.

    Args:
        prepared: folder written by `prepare` or `write_lesions`.
        folds: at least 2; None for one validation part.
        validation: share of the validation images, without folds.
        test: share of the images that are held out for the end; 0 for none.
        seed: int.

    Returns:
        DataFrame of what each part holds: part, images, malignant, groups.

    Raises:
        ValueError: for arguments out of range, a part without images of both classes, or a folder with shards, which
            are cut along the split.
        OSError: if the manifest can not be written.
    """
    if folds is not None and (isinstance(folds, bool) or not isinstance(folds, int) or folds < 2):
        raise ValueError(f"folds must be None or an integer of at least 2. Received: {folds!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0. Received: {seed!r}")
    for name, value, least in (("validation", validation, "more than 0"), ("test", test, "at least 0")):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (0 < value < 1 or (name == TEST and value == 0)):
            raise ValueError(f"{name} must be a share of {least} and less than 1. Received: {value!r}")
    if folds is None and validation + test >= 1:
        raise ValueError(f"validation and test leave nothing to train on. Received: {validation} and {test}")
    folder = of_this_machine(prepared, "A prepared folder is")
    check_prepared(folder)
    if any((folder / "shards").glob("*.tfrecord")):
        raise ValueError(f"{folder} has shards, which are cut along its split; prepare it again without them")
    with locked(folder / ".lock", f"{folder} is being prepared by another process"):
        path = folder / "manifest.csv"
        # As text, so that what is not split stays as it is.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        targets = table["target"].astype(int).to_numpy()
        groups = table["group"].to_numpy() if "group" in table else np.arange(len(table))
        parts = _divide(targets, groups, folds, validation, test, seed)
        told = []
        for name in dict.fromkeys(sorted(parts, key=lambda name: (name == TEST, name))):
            inside = parts == name
            found = {int(target) for target in targets[inside]}
            if found != {0, 1}:
                raise ValueError(
                    f"{name} would have {int(inside.sum())} images with targets {sorted(found)}; both classes are "
                    "needed. Fewer folds, another share or another seed may help"
                )
            counts = int(inside.sum()), int(targets[inside].sum()), len(set(groups[inside]))
            told.append((name, *counts))
        table = table.drop(columns=FOLD, errors="ignore")
        if folds is None:
            table["split"] = parts
        else:
            number = [name.removeprefix("fold ") if name != TEST else "" for name in parts]
            named = {"": TEST, "0": "validation"}
            table["split"] = [named.get(fold, "train") for fold in number]
            table.insert(table.columns.get_loc("split") + 1, FOLD, number)
        write_atomically(path, table.to_csv(index=False, lineterminator="\n"))
    return pd.DataFrame(told, columns=["part", "images", "malignant", "groups"])


def _divide(targets, groups, folds, validation, test, seed) -> np.ndarray:
    """The part of every image: "test", and "train" and "validation", or "fold 0" and so on."""
    parts = np.full(len(targets), "train", object)
    left = np.arange(len(targets))

    def take(name, share):
        nonlocal left
        held = split_images(targets[left], groups[left], validation=share, seed=seed)
        parts[left[held]] = name
        left = left[~held]

    if test:
        take(TEST, test)
    if folds is None:
        take("validation", validation / (1 - test))
    else:
        for fold in range(folds - 1):
            take(f"fold {fold}", 1 / (folds - fold))
        parts[left] = f"fold {folds - 1}"
    return parts


def of_run(manifest: pd.DataFrame, run: int) -> tuple[pd.DataFrame, int | None]:
    """The manifest as run `run` is trained with it, and its fold; as it is, and None, where there are no folds."""
    if FOLD not in manifest:
        return manifest, None
    numbers = pd.to_numeric(manifest[FOLD])
    fold = run % (int(numbers.max()) + 1)
    names = np.where(numbers == fold, "validation", "train")
    return manifest.assign(split=np.where(manifest["split"] == TEST, TEST, names)), fold


def manifest_digest(manifest: pd.DataFrame) -> str:
    """16 hexadecimal digits of a manifest's files, targets and split."""
    return hashlib.sha256(manifest[["file", "target", "split"]].to_csv().encode()).hexdigest()[:16]
