"""External validation: what changes from the images a run was calibrated on to others, with an interval."""

import io

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from keras_stoch.data.audit import NEAR, image_hash
from keras_stoch.evaluation.calibration import Calibration
from keras_stoch.evaluation.metrics import Measures, interval, numbered, resamples
from keras_stoch.storage import as_path


def with_hashes(images: pd.DataFrame, files) -> pd.DataFrame:
    """The images with a perceptual hash where their manifest has none.

    Args:
        images: DataFrame.
        files: their paths.
    """
    known = images["hash"] if "hash" in images else pd.Series([None] * len(images), index=images.index)
    found = []
    for value, file in zip(known, files, strict=True):
        if isinstance(value, str) and value:
            found.append(value)
        else:
            with Image.open(io.BytesIO(as_path(file).read_bytes())) as image:
                found.append(image_hash(image).hex())
    return images.assign(hash=found)


def same_images(internal: pd.DataFrame, external: pd.DataFrame) -> np.ndarray:
    """Which rows are the same image: one id, one target, and hashes that differ as little as those of copies.

    Returns:
        int array (pairs, 2) of positions.
    """
    if "image" not in internal or "image" not in external:
        return np.zeros((0, 2), int)
    place = {str(image): n for n, image in enumerate(external["image"]) if pd.notna(image)}
    pairs = []
    for n, (image, target, own) in enumerate(zip(internal["image"], internal["target"], internal["hash"], strict=True)):
        m = place.get(str(image))
        if m is not None and external["target"].iloc[m] == target and _near(own, external["hash"].iloc[m]):
            pairs.append((n, m))
    return np.array(pairs, int).reshape(-1, 2)


def _near(one: str, other: str) -> bool:
    return (int(one, 16) ^ int(other, 16)).bit_count() <= NEAR


def change(
    internal: pd.DataFrame, external: pd.DataFrame, calibration: Calibration, *, bootstraps=2000, seed=0
) -> tuple[pd.DataFrame, int]:
    """Every measure on both sets of images, at the stored temperature and threshold, and their difference.

    Images that are in both sets are drawn together, so that the interval is that of paired images; the others are drawn
    independently. Groups are drawn whole, as everywhere.

    Args:
        internal, external: DataFrames with image, target, logit, hash, and where known group.
        calibration: `Calibration`.

    Returns:
        DataFrame by measure: internal, external, change (external - internal), low, high (its 95% interval), undefined
        (resamples without it); and the number of images that are in both sets.
    """
    pairs = same_images(internal, external)
    sides = [internal, external]
    groups = [numbered(side.get("group"), len(side)) for side in sides]
    offset = groups[0].max() + 1
    # What is drawn as one: groups of either side, joined by the images that they share.
    edges = np.stack([groups[0][pairs[:, 0]], groups[1][pairs[:, 1]] + offset])
    total = offset + groups[1].max() + 1
    graph = coo_matrix((np.ones(edges.shape[1], np.int8), edges), shape=(total, total))
    units = connected_components(graph, directed=False)[1]
    of_rows = np.concatenate([units[groups[0]], units[groups[1] + offset]])
    strata = np.zeros(units.max() + 1, int)
    strata[units[:offset]] += 1
    np.bitwise_or.at(strata, units[offset:], 2)
    of = [
        Measures(side["target"], side["logit"], calibration.temperature, calibration.threshold_logit) for side in sides
    ]
    found = {}
    for weights in resamples(of_rows, bootstraps, seed, strata):
        inside, outside = of[0](weights[:, : len(internal)]), of[1](weights[:, len(internal) :])
        for name in inside:
            found.setdefault(name, []).append(outside[name] - inside[name])
    before, after = of[0](), of[1]()
    rows = {}
    for name, parts in found.items():
        resampled = np.concatenate(parts)
        rows[name] = {
            "internal": float(before[name]),
            "external": float(after[name]),
            "change": float(after[name] - before[name]),
            **interval(resampled),
            "undefined": int(np.isnan(resampled).sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("measure"), len(pairs)
