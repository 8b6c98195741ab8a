"""What every part needs and none owns: files that appear whole or not at all, locks, progress bars, cores, versions."""

import contextlib
import fcntl
import os
import shutil
import threading
from importlib import metadata
from pathlib import Path


def write_atomically(path, content: str | bytes) -> Path:
    """Writes a file whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def replacing(path: Path):
    """A path beside `path`, for a file or a folder, which takes its place once all is written."""
    partial = path.with_name(f".{os.getpid()}.partial-{path.name}")  # keeps the suffix, by which writers go
    old = path.with_name(f".{os.getpid()}.old-{path.name}")
    try:
        yield partial
        if path.is_dir():  # a folder can not be replaced in one step; the old one is deleted when the new one is there
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for left in (partial, old):
            if left.is_dir():
                shutil.rmtree(left)
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, busy: str):
    """Holds the lock file `path`; ValueError that says `busy` if another process does."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(busy) from None
        yield


def progress_bar(total: int, title: str, show: bool, unit: str = "image", done: int = 0):
    """A bar with rate and time left, as a context; `update()` it once per unit.

    Args:
        total: units altogether.
        title: what stands in front of it.
        show: False for none, which takes the same calls.
        unit: what is counted.
        done: units that are done already.
    """
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=title, unit=unit, disable=not show)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str | None]:
    """Their installed versions, None for what is not installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
