"""What data a training used: the folder, how it was prepared, and digests of what is in it."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from keras_stoch.data.splits import manifest_digest
from keras_stoch.files import cores, sha256
from keras_stoch.storage import Remote, as_path

COLUMNS = ("hash", "sha256")  # of the manifest, which change with the pixels
PORTION = 256  # files


def identify(data, manifest: pd.DataFrame, files: list[str]) -> dict:
    """Plain values that tell one prepared folder from another, by what is in it and not by where it is.

    Args:
        data: folder, or the DataFrame of a manifest.
        manifest: of `read_manifest`.
        files: the paths of the images, by row.

    Returns:
        kind ("prepared", "generated", or "table" for a DataFrame), folder, images, malignant, preparation (the settings
        that prepare.json tells, or None), manifest (digest of files, targets and split) and pixels (digest of the
        SHA-256 of every file as the manifest has it, and of their sizes now). Files without a SHA-256 in the manifest
        are read. In object storage what the manifest says of the pixels is taken as it is.
    """
    folder = None if isinstance(data, pd.DataFrame) else as_path(data)
    remote = isinstance(folder, Remote)
    preparation = None if folder is None else _preparation(folder)
    kind = "generated" if preparation and "synthetic" in preparation else "prepared" if folder else "table"
    return {
        "kind": kind,
        "folder": None if folder is None else str(folder.resolve()),
        "images": len(manifest),
        "malignant": int(manifest["target"].sum()),
        "preparation": preparation.get("synthetic", preparation) if preparation else None,
        "manifest": manifest_digest(manifest),
        "pixels": _digest("\n".join(_contents(manifest, files, remote))),
    }


def _preparation(folder) -> dict | None:
    """The settings that a folder was prepared with, or the arguments that its lesions were drawn with."""
    try:
        record = json.loads((folder / "prepare.json").read_text())
        return {"synthetic": record["synthetic"]} if "synthetic" in record else record["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _contents(manifest, files, remote) -> list[str]:
    """A line for every image that changes with its pixels."""
    known = [manifest[name].astype(object).where(manifest[name].notna(), "") for name in COLUMNS if name in manifest]
    lines = [" ".join(map(str, values)) for values in zip(*known, strict=True)] if known else [""] * len(manifest)
    if remote:
        return lines
    read = manifest["sha256"].isna().tolist() if "sha256" in manifest else [True] * len(manifest)
    unknown = [file for file, unknown in zip(files, read, strict=True) if unknown]
    # In portions: a call for each of 400,000 files would take more memory than what it reads.
    portions = [unknown[start : start + PORTION] for start in range(0, len(unknown), PORTION)]
    with ThreadPoolExecutor(cores()) as pool:
        digests = iter([digest for part in pool.map(lambda part: [*map(sha256, part)], portions) for digest in part])
    return [
        f"{line} {next(digests) if unknown else os.path.getsize(file)}"
        for line, file, unknown in zip(lines, files, read, strict=True)
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
