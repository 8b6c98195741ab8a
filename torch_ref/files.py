"""Files that appear whole or not at all, and locks: what checkpoints, tables and exports need and none owns."""

import contextlib
import csv
import hashlib
import os
import re
from pathlib import Path


def of_this_machine(path) -> Path:
    """The path of a file or folder; ValueError for an address in object storage."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):  # pathlib makes one slash of two
        raise ValueError(
            f"torch_ref reads and writes folders of this machine; copy or mount what is in object storage, or train "
            f"with keras_stoch. Received: {path}"
        )
    return Path(path)


@contextlib.contextmanager
def replacing(path: Path):
    """A path beside `path` to write a file to, which takes its place once all is written."""
    partial = path.with_name(f".{os.getpid()}.partial-{path.name}")  # keeps the suffix, by which writers go
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, busy: str, wait: float = 0.0):
    """Holds a lock file, which ends with the process that holds it; ValueError that says `busy` if another does.

    Args:
        path: of the file.
        busy: what to say.
        wait: seconds to wait for it.
    """
    import filelock

    try:
        held = filelock.FileLock(path, timeout=wait).acquire()
    except filelock.Timeout:
        raise ValueError(busy) from None
    with held:
        yield


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str):
    """Writes a file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text)


def write_table(path: Path, names, rows):
    """Writes a CSV whole or not at all."""
    with replacing(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
