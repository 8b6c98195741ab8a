"""Files that appear whole or not at all: what checkpoints, tables and exports need and none owns."""

import contextlib
import csv
import os
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path):
    """A path beside `path` to write a file to, which takes its place once all is written."""
    partial = path.with_name(f".{os.getpid()}.partial-{path.name}")  # keeps the suffix, by which writers go
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
