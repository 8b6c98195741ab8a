"""The official ISIC label files of 2016 to 2020, read into one table. Section 4.1.5 of the paper.

Files are told apart by their columns, not by their names: downloads get renamed. A file that is not understood whole is
refused with its name and line, because a label that is silently wrong costs more than a file that has to be mended.
"""

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from keras_stoch.data.layouts import CLASSES, LAYOUT_2016, LAYOUTS, METADATA, Layout

# Which diagnoses count as malignant. "paper": 2016 and 2020 the label, 2017 melanoma, 2018 MEL, BCC and AKIEC, 2019
# MEL, BCC, AK and SCC. The binary files of 2016 and 2020 call nothing malignant but melanoma.
RULES = {
    "paper": frozenset({"MEL", "BCC", "AKIEC", "AK", "SCC"}),
    "melanoma": frozenset({"MEL"}),
}
COLUMNS = [
    *("image", "target", "year", "file", "line", "name", "diagnosis"),
    *("patient_id", "lesion_id", "sex", "age", "site"),
]


# Every part of a name becomes one of a path, so it must not be able to leave its folder.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MISSING = ("", "na", "n/a", "nan", "none", "null", "unknown")
_ENDING = re.compile(r"\.(jpe?g?|jfif|png|tiff?|bmp|webp)$", re.IGNORECASE)
_DOWNSAMPLED = "_downsampled"


@dataclass
class Labels:
    """What the label files say.

    Attributes:
        table: DataFrame, one row per image and ground-truth file, columns `COLUMNS`. `image` is the image's id, `name`
            what the file calls it (2019 has names that end in "_downsampled"), `target` 1 for malignant, `diagnosis` a
            class of 2018/2019 ("MEL", "NV", ...) or the words of the file; the rest is missing where unknown.
        duplicates: DataFrame with columns `first`, `second`, `file`, `line`: the pairs of the official list.
        files: DataFrame, one row per file: file, layout, kind, year, rows, malignant.
        rule: the diagnoses that count as malignant.
        listed: image -> what files call it, of those that do so with an ending ("ISIC_0000018.jpg").
    """

    table: pd.DataFrame
    duplicates: pd.DataFrame
    files: pd.DataFrame
    rule: frozenset
    listed: dict[str, set[str]] = field(default_factory=dict)


def label_files(paths) -> list[Path]:
    """The CSV files that `paths` (files or folders) name, sorted within each folder.

    Raises:
        ValueError: if a path does not exist or a folder holds no CSV file.
    """
    found = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        if path.is_dir():
            # Hidden files are none: macOS leaves "._labels.csv" beside each real one.
            inside = [p for p in path.rglob("*") if p.suffix.lower() == ".csv" and p.name[0] != "." and p.is_file()]
            inside.sort()
            if not inside:
                raise ValueError(f"No label files (*.csv) below the folder {path}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"No such label file or folder: {path}")
    return list(dict.fromkeys(found))


def read_labels(paths, malignant="paper") -> Labels:
    """Reads any mix of official ground-truth, metadata and duplicates files.

    Ground truth and metadata of one image are joined; what the files of an earlier entry of `paths` say comes first.

    Args:
        paths: files, or folders whose CSV files are all read.
        malignant: "paper" or "melanoma" (`RULES`), or the class names that count as malignant.

    Returns:
        `Labels`.

    Raises:
        ValueError: with file and line, for an unknown layout, an id twice in one file, a target that is not 0 or 1, a
            row with no or several classes, an id that could not be a file name, or bytes that are no text.

    Example:

        labels = read_labels(["ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"])
        print(labels.table.target.mean())
    """
    rule = _rule(malignant)
    tables, metadata, duplicates, either, files = [], [], [], [], []
    for path in label_files(paths):
        layout, rows = _read(path, rule)
        frame = pd.DataFrame(rows)
        count = int(frame["target"].sum()) if layout.kind == "labels" else None
        kind = "metadata" if layout.kind == "either" else layout.kind
        if layout.kind == "either":
            either.append((len(files), frame))
        else:
            {"labels": tables, "metadata": metadata, "duplicates": duplicates}[kind].append(frame)
        files.append((str(path), layout.name, kind, layout.year, len(frame), count))
    labelled = {image for frame in tables for image in frame["image"]}
    for place, frame in either:
        metadata.append(frame)
        alone = frame[~frame["image"].isin(labelled)]
        if len(alone):
            tables.append(alone)
            files[place] = (*files[place][:2], "labels", *files[place][3:5], int(alone["target"].sum()))
    files = pd.DataFrame(files, columns=["file", "layout", "kind", "year", "rows", "malignant"])
    files = files.astype({"year": "Int64", "malignant": "Int64"})
    if not tables:
        raise ValueError(
            "None of the files holds ground truth. Received: "
            + ", ".join(f"{f.file} ({f.layout})" for f in files.itertuples())
        )
    listed = {}
    for frame in tables:
        named = frame[frame["listed"].notna()]
        for image, cell in zip(named["image"], named["listed"], strict=True):
            listed.setdefault(image, set()).add(cell)
    table = pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)
    table = _join_metadata(table, [*tables, *metadata])
    table = table.astype({"target": "int8", "year": "Int64"})
    pairs = ["first", "second", "file", "line"]
    return Labels(
        table, pd.concat([pd.DataFrame(columns=pairs), *duplicates], ignore_index=True)[pairs], files, rule, listed
    )


def merge_labels(labels: Labels, on_conflict: str = "latest") -> pd.DataFrame:
    """One row per image: its target, the years that list it, and what is known of it.

    Args:
        labels: from `read_labels`.
        on_conflict: when years disagree on the target, "latest" takes the newest year's word (diagnoses get revised),
            "drop" leaves the image out. A table of one's own, which has no year, is later than all of them.

    Returns:
        DataFrame sorted by image: image, target, years ("2017 2019"), rows (how often it is listed), conflict (bool),
        diagnosis, patient_id, lesion_id, sex, age, site.
    """
    if on_conflict not in ("latest", "drop"):
        raise ValueError(f"on_conflict must be 'latest' or 'drop'. Received: {on_conflict!r}")
    table = labels.table.sort_values(["image", "year"], kind="stable", na_position="last")
    # A diagnosis that went with another target is no longer one.
    decided = table.groupby("image")["target"].transform("last")
    table["diagnosis"] = table["diagnosis"].where(table["target"] == decided)
    groups = table.groupby("image", sort=True)
    merged = groups.agg(
        target=("target", "last"),
        rows=("target", "size"),
        conflict=("target", "nunique"),
        **{name: (name, "last") for name in METADATA},
    )
    merged["conflict"] = merged["conflict"] > 1
    years = table.dropna(subset="year").drop_duplicates(["image", "year"])
    years = years.assign(year=years["year"].astype(str)).groupby("image")["year"].agg(" ".join)
    merged.insert(1, "years", years.reindex(merged.index).fillna(""))
    if on_conflict == "drop":
        merged = merged[~merged["conflict"]]
    return merged.reset_index()


def _rule(malignant) -> frozenset:
    if isinstance(malignant, str):
        if malignant in RULES:
            return RULES[malignant]
        malignant = [malignant]
    rule = frozenset(malignant)
    unknown = sorted(rule.difference(CLASSES))
    if unknown or not rule:
        raise ValueError(
            f"malignant must be one of {', '.join(map(repr, RULES))}, or classes among {', '.join(CLASSES)}. "
            f"Received: {', '.join(map(repr, unknown)) or 'nothing'}"
        )
    return rule


def _text(path: Path) -> str:
    data = path.read_bytes()
    # utf-8-sig reads UTF-8 with or without a byte-order mark; UTF-16 is what spreadsheets call "Unicode text".
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{path}, line {line}: a zero byte; this is no CSV file (UTF-16 needs its byte-order mark)")
    return text


def _records(path: Path) -> list[tuple[int, list[str]]]:
    """Lines that hold something, as (line number, cells without surrounding space)."""
    text = _text(path)
    first = text.lstrip().split("\n", 1)[0]
    delimiter = next((d for d in (",", ";", "\t") if d in first), ",")
    # newline="" leaves the line ends to csv, which knows all three kinds.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                records.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    if not records:
        raise ValueError(f"{path}: the file is empty")
    return records


def _layout(path: Path, records) -> tuple[Layout, list[str]]:
    line, header = records[0]
    for layout in LAYOUTS:
        if set(layout.required) <= set(header) <= {*layout.required, *layout.optional}:
            if len(set(header)) < len(header):
                raise ValueError(f"{path}, line {line}: a column stands twice in the header: {', '.join(header)}")
            return layout, header
    if len(header) == 2 and re.fullmatch(r"ISIC_\d+", header[0]):  # 2016 has no header
        return LAYOUT_2016, ["image", "label"]
    known = "; ".join(f"{layout.name}: {','.join(layout.required)}" for layout in LAYOUTS)
    raise ValueError(
        f"{path}, line {line}: unknown columns {','.join(header)[:200]!r}. Known are 2016's two columns without a "
        f"header, and {known}. Of any other table a plain one can be made: a CSV with the columns image (name of the "
        "photograph) and target (0 or 1), and where known patient_id, lesion_id, diagnosis, sex, age, site"
    )


def _read(path: Path, rule) -> tuple[Layout, list[dict]]:
    records = _records(path)
    layout, header = _layout(path, records)
    if layout is not LAYOUT_2016:
        records = records[1:]
    if not records:
        raise ValueError(f"{path}: a header and no rows")
    seen, rows = {}, []
    for line, cells in records:
        where = f"{path}, line {line}"
        if len(cells) != len(header):
            raise ValueError(f"{where}: {len(cells)} columns, the header has {len(header)}")
        row = dict(zip(header, cells, strict=True))
        if layout.kind == "duplicates":
            first, second = (_image(row[column], where)[0] for column in layout.required)
            rows.append({"first": first, "second": second, "file": str(path), "line": line})
            continue
        cell = row[layout.image]
        image, name = _image(cell, where)
        if image in seen:
            raise ValueError(f"{where}: {image} stands in line {seen[image]} already")
        seen[image] = line
        record = {"image": image, "name": name, "year": layout.year, "file": str(path), "line": line}
        record["listed"] = cell if cell != name else None
        for column, known in layout.renamed.items():
            if row.get(column, "").strip().casefold() not in _MISSING:
                record[known] = _age(row[column], where) if known == "age" else row[column]
        if layout.kind in ("labels", "either"):
            record["target"], record["diagnosis"] = _target(layout, row, rule, where)
        rows.append(record)
    return layout, rows


def _image(cell: str, where: str) -> tuple[str, str]:
    """The image's id, and its name as listed, which may be a path. A file ending is dropped, as is 2019's suffix."""
    name = _ENDING.sub("", cell)
    if not all(_IMAGE.fullmatch(part) for part in name.split("/")):
        raise ValueError(
            f"{where}: {cell!r} is no image name; letters, digits, '_', '-' and '.' are, and '/' between folders"
        )
    return name.removesuffix(_DOWNSAMPLED), name


def _age(cell: str, where: str) -> float:
    try:
        age = float(cell)
    except ValueError:
        raise ValueError(f"{where}: an age must be a number. Received: {cell!r}") from None
    return age if np.isfinite(age) else np.nan


def _bit(cell: str, column: str, where: str) -> int:
    try:
        value = float(cell)
    except ValueError:
        value = None
    if value not in (0.0, 1.0):
        raise ValueError(f"{where}: {column} must be 0 or 1. Received: {cell!r}")
    return int(value)


def _target(layout: Layout, row: dict, rule, where: str) -> tuple[int, str | None]:
    """(target, diagnosis) of one row."""
    if layout.year == 2016:
        words = {"benign": 0, "malignant": 1}
        malignant = words[row["label"]] if row["label"] in words else _bit(row["label"], "the label", where)
        diagnosis = "MEL" if malignant else None
    elif layout.year == 2017:
        melanoma, keratosis = (_bit(row[column], column, where) for column in layout.required[1:])
        if melanoma and keratosis:
            raise ValueError(f"{where}: both melanoma and seborrheic_keratosis are 1")
        diagnosis = "MEL" if melanoma else "BKL" if keratosis else "NV"
    elif layout.year == 2020:
        malignant = _bit(row["target"], "target", where)
        if row["benign_malignant"] != ("benign", "malignant")[malignant]:
            raise ValueError(f"{where}: target is {malignant}, but benign_malignant says {row['benign_malignant']!r}")
        words = {"nevus": "NV", "seborrheic keratosis": "BKL", "unknown": None, "": None}
        diagnosis = "MEL" if malignant else words.get(row["diagnosis"], row["diagnosis"])
    elif layout.kind == "either":
        diagnosis = row["dx"].upper()
        if diagnosis not in CLASSES:
            known = ", ".join(name.lower() for name in CLASSES)
            raise ValueError(f"{where}: dx must be one of {known}. Received: {row['dx']!r}")
    elif layout.year is None:
        return _bit(row["target"], "target", where), row.get("diagnosis") or None
    else:
        classes = [name for name in CLASSES if name in row]
        on = [name for name in classes if _bit(row[name], name, where)]
        if len(on) != 1:
            raise ValueError(f"{where}: one of {', '.join(classes)} must be 1. Received: {' and '.join(on) or 'none'}")
        diagnosis = on[0]
    return int(diagnosis in rule), diagnosis


def _join_metadata(table, frames):
    """Fills what one file leaves out of an image with what the others know."""
    for name in METADATA[:-1]:
        known = pd.concat([f[["image", name]] for f in frames if name in f] or [table[["image", name]]])
        known = known.dropna(subset=name).drop_duplicates("image").set_index("image")[name]
        table[name] = table["image"].map(known)
    return table
