"""Addresses in object storage, such as gs://bucket/folder, with the part of pathlib that this project uses.

TensorFlow's file systems carry it (`tf.io.gfile`): gs:// and ram:// are part of TensorFlow, others are plugins of it.
"""

import contextlib
import re
import sys
from pathlib import Path, PurePath

from keras_stoch.progress import terminal_muted


def as_path(path):
    """The `Path` of a file or folder of this machine, or the `Remote` of an address."""
    text = str(path)
    if isinstance(path, PurePath):  # which makes one slash of two
        text = re.sub(r"^([a-z][a-z0-9+.-]+):/(?=[^/])", r"\1://", text)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return Remote(text) if re.match(r"[a-z][a-z0-9+.-]+://", text) else Path(path)


def is_remote(path) -> bool:
    """Whether this is an address, and not a path of this machine."""
    return isinstance(as_path(path), Remote)


@contextlib.contextmanager
def _told(path):
    """Errors of TensorFlow's file systems as the OSErrors that they are."""
    import tensorflow as tf

    kinds = {tf.errors.NotFoundError: FileNotFoundError, tf.errors.PermissionDeniedError: PermissionError}
    try:
        yield tf.io.gfile
    except tf.errors.UnimplementedError:
        known = [f"{scheme}://" for scheme in sorted({*tf.io.gfile.get_registered_schemes()} - {"", "file"})]
        raise ValueError(
            f"TensorFlow has no file system for {path}; it has {', '.join(known)}. Copy the folder to this machine, "
            "mount it, or load a plugin of TensorFlow that has one"
        ) from None
    except tf.errors.OpError as error:
        kind = next((ours for theirs, ours in kinds.items() if isinstance(error, theirs)), OSError)
        raise kind(f"{path}: {' '.join(str(error.message).split()) or type(error).__name__}") from None


def _files(path):
    if "tensorflow" not in sys.modules:
        with terminal_muted():
            import tensorflow  # noqa: F401
    return _told(path)


class Remote(str):
    """An address. Objects there appear whole when they are closed, nothing can be locked, and links do not exist."""

    def __new__(cls, address):
        return super().__new__(cls, str(address).rstrip("/"))

    def __truediv__(self, name):
        below = as_path(name)
        if isinstance(below, Remote) or below.is_absolute():
            return below
        return Remote(f"{self}/{below.as_posix()}")

    @property
    def name(self) -> str:
        return self.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePath(self.name).suffix

    @property
    def parent(self):
        return Remote(self.rpartition("/")[0])

    def with_name(self, name):
        return self.parent / name

    def resolve(self):
        return self

    def absolute(self):
        return self

    def is_relative_to(self, other) -> bool:
        return self == str(other) or self.startswith(f"{other}/")

    def relative_to(self, other) -> PurePath:
        return PurePath(self.removeprefix(f"{other}/"))

    def exists(self) -> bool:
        with _files(self) as files:
            return files.exists(self)

    def is_dir(self) -> bool:
        with _files(self) as files:
            return files.isdir(self)

    def is_file(self) -> bool:
        with _files(self) as files:
            return files.exists(self) and not files.isdir(self)

    def is_symlink(self) -> bool:
        return False

    def mkdir(self, parents=True, exist_ok=True):
        with _files(self) as files:
            files.makedirs(self)

    def iterdir(self):
        with _files(self) as files:
            return [self / name.rstrip("/") for name in sorted(files.listdir(self))]

    def glob(self, pattern: str):
        with _files(self) as files:
            return [Remote(found) for found in sorted(files.glob(f"{self}/{pattern}"))]

    def unlink(self, missing_ok=False):
        with _files(self) as files:
            if not missing_ok or files.exists(self):
                files.remove(self)

    def read_bytes(self) -> bytes:
        with _files(self) as files, files.GFile(self, "rb") as file:
            return file.read()

    def read_text(self, errors="strict") -> str:
        return self.read_bytes().decode(errors=errors)

    def write_bytes(self, content: bytes):
        if self.startswith("ram://"):  # which would add to what is there
            self.unlink(missing_ok=True)
        with _files(self) as files, files.GFile(self, "wb") as file:
            file.write(content)

    def size(self) -> int:
        with _files(self) as files:
            return files.stat(self).length
