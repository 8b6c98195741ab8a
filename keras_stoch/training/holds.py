"""What a run's folder holds already: another run, which is not spoiled, or another process, which is not disturbed."""

import json
from dataclasses import asdict
from pathlib import Path

from keras_stoch.files import locked
from keras_stoch.storage import as_path
from keras_stoch.training.recipe import Recipe

# What may differ between the command that began a run and the one that goes on with it.
FREE = ("epochs", "folder", "contents", "source")
SCHEDULE = "recipe.schedule"
DEFAULTS = {f"recipe.{name}": value for name, value in asdict(Recipe()).items()}
# What a difference means, where its name does not say it.
MEANINGS = {
    "data.pixels": "the images have other pixels than those that the run began with",
    "data.manifest": "the manifest names other files, targets or splits",
    "model.weights.digest": "the run began from other weights",
}


def check_folder(path, known: dict, alone: bool):
    """What can be known of a run's folder before the data are read.

    Args:
        path: of the folder.
        known: the part of the config that is known.
        alone: whether one process trains there, so that another is one too many.

    Raises:
        ValueError: as `RunFolder`.
    """
    path = as_path(path)
    if not path.is_dir():
        return
    if binds(path):
        check_same(path, read_json(path / "config.json"), json.loads(json.dumps(known)), part=True)
    if alone:
        with held(path):
            pass


def held(path: Path):
    """The lock of a run's folder, as a context."""
    lock = path.resolve().with_name(f".{path.name}.lock")
    return locked(lock, f"{path} is being trained by another process")


def binds(path: Path) -> bool:
    """Whether a folder holds anything that another run would spoil, and says whose it is."""
    kept = any(path.glob("checkpoints/*.npz")) or any(path.glob("*.weights.h5")) or (path / "result.json").exists()
    return kept and (path / "config.json").exists()


def check_same(path: Path, before: dict | None, now: dict, part: bool = False):
    """Raises ValueError if a config differs from that of the run that a folder holds.

    Args:
        path: of the folder.
        before: its config, None for one that can not be read.
        now: the other.
        part: whether the other is a part of a config, and says nothing of the rest.
    """
    if before is None:
        raise ValueError(f"{path / 'config.json'} can not be read. Choose another folder, or delete this one")
    different = differences(before, now, part)
    if different:
        told = "; ".join(different)
        raise ValueError(f"{path} holds a run with other settings ({told}). Choose another folder, or delete this one")


def read_json(path: Path) -> dict | None:
    """What a file of JSON says; None if there is none, or it is no such file."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def differences(before: dict, now: dict, part: bool = False) -> list[str]:
    """What differs between two configs and may not, in words; of what is in `now` alone, if that is a part."""
    flat_before, flat_now = _flatten(before), _flatten(now)
    found = []
    # A cosine ends with the last epoch: with more of them each step has another rate.
    free = set(FREE) - ({"epochs"} if "cosine" in (flat_before.get(SCHEDULE), flat_now.get(SCHEDULE)) else set())
    for name in sorted(flat_now if part else {*flat_before, *flat_now}):
        # A recipe of an earlier version lacks fields, all of which do nothing by default.
        there, here = (flat.get(name, DEFAULTS.get(name)) for flat in (flat_before, flat_now))
        if there != here and name.split(".")[-1] not in free:
            meaning = f", {MEANINGS[name]}" if name in MEANINGS else ""
            found.append(f"{name}: {there!r} there, {here!r} now{meaning}")
    return found


def _flatten(value, prefix="") -> dict:
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {k: v for name, inner in value.items() for k, v in _flatten(inner, f"{prefix}{name}.").items()}
