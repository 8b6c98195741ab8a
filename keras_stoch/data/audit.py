"""What a random split hides: duplicates, conflicts and leakage; and a split that keeps what belongs together together.

The paper unites the files of five years and splits at random, 80 to 20 (section 4.1.5). The same photograph stands in
several years, the same lesion and the same patient were photographed several times: `audit` counts what of the
validation half the training half has seen.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import fft
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from keras_stoch.data.labels import Labels, merge_labels, read_labels
from keras_stoch.data.near import NEAR, near_duplicates
from keras_stoch.data.photographs import (
    Dropped,
    describe_passed_over,
    find_photographs,
    no_warnings,
    open_image,
    sources_of,
)
from keras_stoch.files import cores, write_atomically
from keras_stoch.progress import progress_bar

HASH_SIDE = 16  # 16 x 16 = 256 bits: 64 do not tell one round dark blob on skin from another
SPLITS = ("group", "random")


def image_hash(image) -> bytes:
    """A perceptual hash (DCT hash, "pHash") of 256 bits that survives resizing and recompression.

    The signs, against their median, of the 16 x 16 lowest frequencies of the picture in grey at 64 x 64 pixels; the
    mean brightness is left out.

    Args:
        image: a `PIL.Image.Image`.

    Returns:
        32 bytes.
    """
    grey = image.convert("L").resize((64, 64), resample=1, reducing_gap=3.0)  # 1 is LANCZOS
    spectrum = fft.dctn(np.asarray(grey, np.float64), norm="ortho")[:HASH_SIDE, :HASH_SIDE].ravel()
    return np.packbits(spectrum > np.median(spectrum[1:])).tobytes()


def group_images(images: pd.DataFrame, pairs=(), by=("lesion_id", "patient_id")) -> np.ndarray:
    """Numbers of the groups that must not be torn apart: images joined by a pair, a lesion or a patient, transitively.

    Args:
        images: DataFrame with the column `image` and, where known, those of `by`.
        pairs: (first, second) image ids.
        by: columns whose equal values join images; missing values join nothing.

    Returns:
        int array (images,), numbered by first appearance.
    """
    position = dict(zip(images["image"], range(len(images)), strict=True))
    edges = [(position[a], position[b]) for a, b in pairs if a in position and b in position]
    edges = np.array(edges, np.int64).reshape(-1, 2)
    for column in by:
        if column in images:
            known = np.flatnonzero(images[column].notna())
            values, _ = pd.factorize(images[column].iloc[known])
            _, first = np.unique(values, return_index=True)
            edges = np.concatenate([edges, np.stack([known[first[values]], known], axis=1)])
    graph = coo_matrix((np.ones(len(edges), np.int8), edges.T), shape=(len(images),) * 2)
    return connected_components(graph, directed=False)[1]


def split_images(targets, groups=None, *, split="group", validation=0.2, seed=0) -> np.ndarray:
    """Which images are for validation.

    "group" keeps groups whole and both the share of images and the share of malignant ones at `validation`, as near as
    the groups allow. "random" is the paper's: every image by itself, whatever it belongs to.

    Args:
        targets: (images,) of 0 and 1.
        groups: (images,) of group numbers; needed for "group".
        split: "group" or "random".
        validation: share, between 0 and 1.
        seed: int.

    Returns:
        bool array (images,).

    Raises:
        ValueError: for another split or a share outside (0, 1). Whether both sides have both classes is asked by
            `check_split`.
    """
    targets = np.asarray(targets)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}. Received: {split!r}")
    if not 0 < validation < 1:
        raise ValueError(f"validation must be a share between 0 and 1. Received: {validation!r}")
    rng = np.random.default_rng(seed)
    held = np.zeros(len(targets), bool)
    if split == "random":
        held[rng.permutation(len(targets))[: round(validation * len(targets))]] = True
        return held
    _, groups = np.unique(np.asarray(groups), return_inverse=True)
    size = np.bincount(groups)
    positive = np.bincount(groups, targets)
    order = rng.permutation(len(size))
    # Large groups first, while there is room to make up for them; equal ones stand next to each other, in random order.
    order = order[np.lexsort((-positive[order], -size[order]))]
    wanted, chosen = np.zeros(2), np.zeros(2)  # images and malignant ones, among the groups seen so far
    scale = np.maximum([size.sum(), positive.sum()], 1)
    take = np.zeros(len(size), bool)
    for group in order:
        counts = np.array([size[group], positive[group]])
        wanted += validation * counts
        with_it, without = (np.square((wanted - chosen - extra) / scale).sum() for extra in (counts, 0))
        if with_it < without:
            take[group], chosen = True, chosen + counts
    return take[groups]


def check_split(targets, held) -> None:
    """Raises ValueError where one side of a split has no image of one of the classes."""
    for side, name in ((~held, "training"), (held, "validation")):
        found = sorted({int(target) for target in np.asarray(targets)[side]})
        if found != [0, 1]:
            raise ValueError(
                f"The {name} side of the split has {int(side.sum())} images with targets {found}; both classes are "
                "needed. More images, another seed or another share may help"
            )


def leakage(images: pd.DataFrame, held, pairs=()) -> dict[str, int]:
    """How many validation rows have a counterpart in training.

    Args:
        images: DataFrame with `image`, and `lesion_id`, `patient_id` where known; an image may stand in several rows.
        held: bool (rows,), True for validation.
        pairs: ids of duplicate images.

    Returns:
        Counts of validation rows: `rows`; with the same `image`, a `duplicate` of it, the same `lesion` or `patient` in
        training; and with `any` of these.
    """
    held = np.asarray(held)
    found = {}
    of_pair = {}
    for a, b in pairs:
        of_pair.setdefault(a, set()).add(b)
        of_pair.setdefault(b, set()).add(a)
    for name, column in (("image", "image"), ("lesion", "lesion_id"), ("patient", "patient_id")):
        if column in images:
            values = images[column]
            found[name] = (values[held].isin(set(values[~held].dropna())) & values[held].notna()).to_numpy()
    trained = set(images["image"][~held])
    found["duplicate"] = np.array([not trained.isdisjoint(of_pair.get(i, ())) for i in images["image"][held]], bool)
    counts = {"rows": int(held.sum())}
    counts |= {name: int(found[name].sum()) for name in ("image", "duplicate", "lesion", "patient") if name in found}
    return counts | {"any": int(np.logical_or.reduce(list(found.values())).sum())}


@dataclass
class Audit:
    """Findings of `audit`: plain numbers and lists, as they stand in its JSON."""

    findings: dict

    def to_json(self, path) -> Path:
        """Writes the findings whole or not at all."""
        return write_atomically(path, json.dumps(self.findings, indent=1) + "\n")

    def __str__(self) -> str:
        f = self.findings
        lines = [f"{'rows':>7} {'malignant':>9}  year  layout                        file"]
        for row in f["files"]:
            malignant = "" if row["malignant"] is None else row["malignant"]
            lines.append(f"{row['rows']:7} {malignant:>9}  {row['year'] or '':4}  {row['layout']:28}  {row['file']}")
            if row["rule"] is not None:
                undecided = f"; {row['undecided']} rows say neither" if row["undecided"] else ""
                lines.append(f"{'':25}malignant by: {row['rule']}{undecided}")
        lines += ["", f"{'images':>7} {'malignant':>9}  year"]
        for year, count in f["years"].items():
            lines.append(f"{count['images']:7} {count['malignant']:9}  {year}")
        total = f["images"]
        lines += [
            f"{total['images']:7} {total['malignant']:9}  different ones altogether",
            "",
            f"{total['in_several_years']:7}  images stand in more than one year",
            f"{total['downsampled_names']:7}  rows name a downsampled copy",
            f"{len(f['conflicts']):7}  images have conflicting labels: {', '.join(f['conflicts'][:5])}"
            + (" ..." if len(f["conflicts"]) > 5 else ""),
            f"{f['duplicates']['listed']:7}  pairs on the official list of duplicates, "
            f"{f['duplicates']['conflicting']} of them with different labels",
        ]
        if (near := f.get("near_duplicates")) is not None:
            lines.append(
                f"{len(near['pairs']):7}  pairs of near-duplicates among {near['photographs']} photographs, "
                f"{near['conflicting']} of them with different labels"
            )
            lines += [f"{'':9}{a} ~ {b} ({bits} of 256 bits differ)" for a, b, bits in near["pairs"][:5]]
            lines += [f"{len(near['unreadable']):7}  photographs could not be read"] if near["unreadable"] else []
            lines += [f"{'':9}{file}: {why}" for file, why in list(near["unreadable"].items())[:5]]
            lines += [f"{'':9}{describe_passed_over(near['passed_over'])}"] if near["passed_over"] else []
        lines += ["", "Validation rows that training has seen:", ""]
        names = ("rows", "image", "duplicate", "lesion", "patient", "any")
        lines.append(f"{'':46}" + "".join(f"{name:>11}" for name in names))
        for title, counts in f["leakage"].items():
            lines.append(f"{title:46}" + "".join(f"{counts.get(name, 0):11}" for name in names))
            share = {name: counts.get(name, 0) / max(counts["rows"], 1) for name in names[1:]}
            lines.append(f"{'':46}" + f"{'':11}" + "".join(f"{share[name]:11.1%}" for name in names[1:]))
        return "\n".join(lines)


def audit(labels, images=None, *, validation=0.2, split="group", seed=0, progress=False) -> Audit:
    """Counts duplicates, conflicts and what the paper's split and the chosen one leak.

    Args:
        labels: from `read_labels`, or the files and folders it takes.
        images: folder of photographs, for near-duplicates by perceptual hash; None leaves them out.
        validation: share of the split.
        split, seed: of the chosen split, see `split_images`.
        progress: show a bar while photographs are read.

    Returns:
        `Audit`; `print` it, or see `findings`.
    """
    labels = labels if isinstance(labels, Labels) else read_labels(labels)
    table, merged = labels.table, merge_labels(labels)
    pairs = list(zip(labels.duplicates["first"], labels.duplicates["second"], strict=True))
    findings = {
        "rule": sorted(labels.rule),
        "files": json.loads(labels.files.to_json(orient="records")),
        "years": {
            str(year): {"images": len(rows), "malignant": int(rows["target"].sum())}
            for year, rows in table.drop_duplicates(["image", "year"]).groupby("year")
        },
        "images": {
            "images": len(merged),
            "malignant": int(merged["target"].sum()),
            "in_several_years": int(merged["years"].str.contains(" ").sum()),
            "downsampled_names": int((table["name"] != table["image"]).sum()),
        },
        "conflicts": merged["image"][merged["conflict"]].tolist(),
        "duplicates": {"listed": len(pairs), "conflicting": _conflicting(merged, pairs)},
    }
    if images is not None:
        near, count, unreadable, passed_over = _near(images, labels, merged, progress)
        findings["near_duplicates"] = {
            "photographs": count,
            "limit": NEAR,
            "conflicting": _conflicting(merged, [(a, b) for a, b, _ in near]),
            "pairs": near,
            "unreadable": unreadable,
            "passed_over": passed_over,
        }
        pairs += [(a, b) for a, b, _ in near]
    findings["leakage"] = {
        # Two files of one year (2020 and its second version) are one listing; two years are two.
        "the paper's: years united, random": _leak_random(
            table.drop_duplicates(["image", "year"]).reset_index(drop=True), pairs, validation, seed
        ),
        "every image once, random": _leak_random(merged, pairs, validation, seed),
    }
    if split == "group":
        held = split_images(
            merged["target"], group_images(merged, pairs), split=split, validation=validation, seed=seed
        )
        findings["leakage"]["every image once, groups kept together"] = leakage(merged, held, pairs) | {
            "malignant_share": [float(merged["target"][side].mean()) if side.any() else None for side in (~held, held)]
        }
    return Audit(findings)


def _leak_random(rows, pairs, validation, seed):
    return leakage(rows, split_images(rows["target"], split="random", validation=validation, seed=seed), pairs)


def _conflicting(merged, pairs) -> int:
    target = merged.set_index("image")["target"]
    return sum(bool(target[a] != target[b]) for a, b in pairs if a in target and b in target)


def _near(folder, labels, merged, progress):
    """Near-duplicates in a folder of photographs, as (image, image, bits), how many were read, and what was not."""
    paths, passed_over = find_photographs(folder)
    sources = sources_of(paths, Path(folder), merged["image"], labels.listed)
    names, hashes, unreadable = hash_sources(sources, progress)
    near = [(names[a], names[b], int(bits)) for a, b, bits in near_duplicates(hashes)]
    return near, len(names), {str(sources[image]): why for image, why in unreadable.items()}, passed_over


def hash_sources(sources: dict[str, Path], progress=False) -> tuple[list[str], list[bytes], dict[str, str]]:
    """Perceptual hashes of photographs.

    Args:
        sources: image id -> path, as from `photographs.find_sources`.

    Returns:
        Image ids and their hashes, and why others could not be read: id -> reason.
    """

    def read(item):
        name, path = item
        try:
            return name, image_hash(open_image(path, draft=(256, 256))), None
        except Dropped as reason:
            return name, None, str(reason)

    with no_warnings(), ThreadPoolExecutor(cores()) as pool, progress_bar(len(sources), "hash", progress) as bar:
        found = []
        for result in pool.map(read, sources.items()):
            bar.update()
            found.append(result)
    good = [(name, value) for name, value, _ in found if value is not None]
    unreadable = {name: why for name, value, why in found if value is None}
    return [name for name, _ in good], [value for _, value in good], unreadable
