"""The journal of a preparation: what is done with every image, so that an interrupted run goes on."""

import json
from pathlib import Path

from keras_stoch.data.photographs import UNREADABLE
from keras_stoch.files import write_atomically


class Journal:
    """One line of JSON per image that is finished, kept or dropped. A torn last line is forgotten."""

    def __init__(self, path: Path):
        self.path, self.done, lines = path, {}, []
        if path.exists():
            for line in path.read_text(errors="replace").splitlines():
                entry = _entry(line)
                if entry is not None:
                    self.done[entry.pop("image")] = entry
                    lines.append(line)
            write_atomically(path, "".join(line + "\n" for line in lines))

    def is_done(self, image: str, source: Path, target: Path) -> bool:
        entry = self.done.get(image)
        if entry is None or entry["stamp"] != stamp_of(source):
            return False
        if entry["dropped"] is not None:
            # What could not be read may have been the disk's fault, and is tried again.
            return not entry["dropped"].startswith(UNREADABLE)
        return target.exists() and target.stat().st_size == entry["bytes"]

    def add(self, image: str, entry: dict):
        self.done[image] = entry
        with open(self.path, "a") as file:
            file.write(json.dumps({"image": image} | entry) + "\n")


# What a line of the journal has: of every image, and of one that was kept.
_OF_ALL = {"image": str, "stamp": list, "dropped": str | None}
_OF_KEPT = {"bytes": int, "hash": str, "sha256": str, "source_width": int, "source_height": int, "cropped": bool}


def _entry(line: str) -> dict | None:
    """What a line of the journal says; None if it is torn, or says something else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not _OF_ALL.keys() <= entry.keys():
        return None
    wanted = _OF_ALL if entry["dropped"] is not None else _OF_ALL | _OF_KEPT
    return entry if all(isinstance(entry.get(name), kind) for name, kind in wanted.items()) else None


def stamp_of(path: Path) -> list:
    stat = path.stat()
    return [str(path.name), stat.st_size, stat.st_mtime_ns]
