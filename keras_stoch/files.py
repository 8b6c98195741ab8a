"""What every part needs and none owns: files that appear whole or not at all, locks, cores, versions, commands."""

import contextlib
import contextvars
import errno
import hashlib
import os
import shlex
import shutil
import sys
import threading
from importlib import metadata
from pathlib import Path

from keras_stoch.storage import Remote, as_path, is_remote

# What the command line was given, where it is not the process's own.
given_command = contextvars.ContextVar("given_command", default=None)


def write_atomically(path, content: str | bytes) -> Path:
    """Writes a file whole or not at all."""
    path = as_path(path)
    if isinstance(path, Remote):  # an object is there when all of it is
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path
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


def check_prepared(folder):
    """Raises ValueError unless a folder has a manifest."""
    if not (as_path(folder) / "manifest.csv").is_file():
        raise ValueError(
            f"{folder} is no prepared folder: there is no manifest.csv. "
            f"`keras-stoch prepare RAW LABELS {folder}` makes one"
        )


def of_this_machine(path, what) -> Path:
    """The path of what is written on this machine alone; ValueError for an address in object storage."""
    if is_remote(path):
        raise ValueError(f"{what} written on this machine, and can be copied from there. Received: {as_path(path)}")
    return Path(path)


def check_no_file(folder, what="The folder") -> Path:
    """The path of a folder to write; OSError if it, or one that it is in, is a file."""
    path = as_path(folder)
    if isinstance(path, Remote):
        return path
    for part in (path, *path.parents):
        if part.exists():
            if not part.is_dir():
                raise OSError(f"{what} can not be written: {part} is a file, and not a folder")
            break
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
def full_disk_told():
    """Turns TensorFlow's own error of a full disk into the OSError that it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or "No space left on device" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


@contextlib.contextmanager
def locked(path, busy: str, wait: float = 0.0):
    """Holds the lock file `path`, which ends with the process that holds it, on network file systems too.

    Object storage has no locks: there nothing is held.

    Args:
        path: of the file; it stays when the lock is let go.
        busy: what the error says if another process, or another part of this one, holds it.
        wait: seconds to wait for it.

    Raises:
        ValueError: if it is held by another.
        OSError: if it can not be written.
    """
    if isinstance(path, Remote):
        yield
        return
    import filelock

    lock = filelock.FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(busy) from None
    try:
        yield
    finally:
        lock.release()


def sha256(path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def command_line() -> str:
    """The command that this process does, as a shell takes it."""
    return shlex.join(given_command.get() or sys.argv)
