"""Label files of the ISIC challenges, of HAM10000, MILK10k and of the archive itself, read into one table.

Section 4.1.5 of the paper, and what has been published since.

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

from keras_stoch.data.layouts import LAYOUT_2016, LAYOUTS, METADATA, Layout
from keras_stoch.data.rules import MISSING, RULES, make_rules, rule_for, target_of

COLUMNS = [
    *("image", "target", "year", "file", "line", "name", "diagnosis"),
    *("patient_id", "lesion_id", "sex", "age", "site"),
]


# Every part of a name becomes one of a path, so it must not be able to leave its folder.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
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
        files: DataFrame, one row per file: file, layout, kind, year, rows, malignant, undecided (rows that say neither:
            they label no image), rule (what counted as malignant, in words).
        rule: the diagnoses that count as malignant, where a source has no rule of its own.
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
    """Reads any mix of ground-truth, metadata and duplicates files of the challenges of 2016 to 2020 and 2024, of
    HAM10000, MILK10k, the archive's own tables, and plain tables with the columns image and target.

    Ground truth and metadata of one image are joined; what the files of an earlier entry of `paths` say comes first.

    Args:
        paths: files, or folders whose CSV files are all read.
        malignant: "paper" or "melanoma" (`RULES`), or the class names that count as malignant; or a dict from a source
            (2016 to 2020, 2024, "MILK10k", "archive") to one of these, "paper" for those that it does not name.

    Returns:
        `Labels`.

    Raises:
        ValueError: with file and line, for an unknown layout, an id twice in one file, a target that is not 0 or 1, a
            row with no or several classes, an id that could not be a file name, or bytes that are no text.

    Example:

    ```python
    labels = read_labels(["ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"])
    print(labels.table.target.mean())
    ```
    """
    rules = make_rules(malignant)
    tables, metadata, duplicates, either, files = [], [], [], [], []
    lesions = []
    for path in label_files(paths):
        layout, rows = _read(path, rules)
        frame = pd.DataFrame(rows)
        told = {"file": str(path), "layout": layout.name, "kind": layout.kind, "year": layout.year, "rows": len(frame)}
        files.append(told)
        if layout.kind == "duplicates":
            duplicates.append(frame)
        elif layout.kind == "lesions":
            lesions.append((told, frame, layout))
        elif layout.kind == "either":
            either.append((told, frame, layout))
            metadata.append(frame)
            told["kind"] = "metadata"
        elif layout.kind == "metadata":
            metadata.append(frame)
        else:
            tables.append(_decided(told, frame, layout, rules))
    for told, frame, layout in lesions:
        tables.append(_decided(told, _images_of_lesions(frame, metadata, told["file"]), layout, rules))
    labelled = {image for frame in tables for image in frame["image"]}
    for told, frame, layout in either:
        alone = frame[~frame["image"].isin(labelled)]
        if alone["target"].notna().any():
            told["kind"] = "labels"
            tables.append(_decided(told, alone, layout, rules))
    files = pd.DataFrame(files, columns=["file", "layout", "kind", "year", "rows", "malignant", "undecided", "rule"])
    files = files.astype({"year": "Int64", "malignant": "Int64", "undecided": "Int64"})
    tables = [frame for frame in tables if len(frame)]
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
    duplicates = pd.concat([pd.DataFrame(columns=pairs), *duplicates], ignore_index=True)[pairs]
    return Labels(table, duplicates, files, rules[None], listed)


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


def _decided(told: dict, frame, layout: Layout, rules: dict):
    """The rows of a table that label an image; what there is beside them, and by which rule, is put into `told`."""
    rule = rule_for(layout, rules)
    decided = frame[frame["target"].notna()]
    told["malignant"], told["undecided"] = int(decided["target"].sum()), len(frame) - len(decided)
    own = layout.name == "plain" or (layout.year == 2024 and layout.kind == "labels" and rule == RULES["paper"])
    told["rule"] = "its own label" if own else " ".join(sorted(rule))
    return decided


def _images_of_lesions(frame, metadata, file: str):
    """Labels by lesion as labels by image, for the images that tables of metadata name."""
    known = [table[["image", "name", "listed", "lesion_id"]] for table in metadata if "lesion_id" in table]
    known = pd.concat(known).dropna(subset="lesion_id").drop_duplicates("image") if known else None
    labels = frame.drop(columns=["name", "listed"]).rename(columns={"image": "lesion_id"})
    images = labels.iloc[:0] if known is None else known.merge(labels, on="lesion_id")
    if not len(images):
        raise ValueError(
            f"{file} has labels by lesion, and no table that names the images of its lesions was given: "
            "MILK10k_Training_Metadata.csv goes with it"
        )
    return images


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
        if layout.fits(header):
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


def _read(path: Path, rules) -> tuple[Layout, list[dict]]:
    records = _records(path)
    layout, header = _layout(path, records)
    rule = rule_for(layout, rules)
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
            if row.get(column, "").strip().casefold() not in MISSING:
                record[known] = _age(row[column], where) if known == "age" else row[column]
        if layout.kind in ("labels", "either", "lesions"):
            record["target"], record["diagnosis"] = target_of(layout, row, rule, where)
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


def _join_metadata(table, frames):
    """Fills what one file leaves out of an image with what the others know."""
    for name in METADATA[:-1]:
        known = pd.concat([f[["image", name]] for f in frames if name in f] or [table[["image", name]]])
        known = known.dropna(subset=name).drop_duplicates("image").set_index("image")[name]
        table[name] = table["image"].map(known)
    return table
