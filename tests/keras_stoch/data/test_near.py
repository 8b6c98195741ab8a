"""The search for near-duplicates that does not compare every pair, against the one that does."""

import time

import numpy as np
import pandas as pd
import pytest

from keras_stoch.data import near
from keras_stoch.data.audit import group_images
from keras_stoch.data.near import near_duplicates


def changed(hashes, rng, pairs, most):
    """Hashes, some of which became others with up to `most` bits changed."""
    for _ in range(pairs):
        source, target = rng.integers(len(hashes), size=2)
        bits = np.unpackbits(hashes[source])
        bits[rng.choice(256, rng.integers(0, most + 1), replace=False)] ^= 1
        hashes[target] = np.packbits(bits)
    return hashes


def as_bytes(hashes):
    return [bytes(row) for row in hashes]


def every_pair(hashes, limit, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(near, "FEW", len(hashes))
        return near_duplicates(hashes, limit)


KINDS = {
    "random": lambda rng: rng.integers(0, 256, (1500, 32), dtype=np.uint8),
    "planted": lambda rng: changed(rng.integers(0, 256, (1500, 32), dtype=np.uint8), rng, 600, 40),
    "on the limit": lambda rng: changed(rng.integers(0, 256, (1500, 32), dtype=np.uint8), rng, 1000, 34),
    "copies": lambda rng: rng.integers(0, 256, (400, 32), dtype=np.uint8)[rng.integers(0, 400, 2000)],
    "few bits in use": lambda rng: rng.integers(0, 2, (900, 32), dtype=np.uint8),
    "all equal but some": lambda rng: changed(np.zeros((1200, 32), np.uint8), rng, 600, 70),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pairs_as_by_comparing_every_one(kind, rng, monkeypatch):
    hashes = as_bytes(KINDS[kind](rng))
    monkeypatch.setattr(near, "BLOCK", 5000)  # several blocks
    monkeypatch.setattr(near, "FEW", 200)
    for limit in (32, 22, 21, 11, 3, 0) if kind == "planted" else (32,):
        expected = every_pair(hashes, limit, monkeypatch)
        found = near_duplicates(hashes, limit)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype == np.int64
    assert kind == "random" or len(found) > 0 or limit == 0


def test_hashes_that_are_alike_are_compared_one_by_one(monkeypatch, rng):
    """Their parts would name almost every pair, several times over."""
    monkeypatch.setattr(near, "FEW", 200)
    seen = []
    real = near._every_pair
    monkeypatch.setattr(near, "_every_pair", lambda words, limit: seen.append(len(words)) or real(words, limit))
    near_duplicates(as_bytes(KINDS["few bits in use"](rng)))
    assert len(seen) == 1
    near_duplicates(as_bytes(KINDS["planted"](rng)))
    assert len(seen) == 1


def test_pairs_that_differ_in_every_way_of_32_bits(rng, monkeypatch):
    """Bits that fall evenly on the parts, and all into one: the bound of the search is met, not only approached."""
    base = rng.integers(0, 256, (4100, 32), dtype=np.uint8)
    parts = np.array_split(np.random.default_rng(0).permutation(256), near.PARTS)
    for number in range(600):
        even = [bit for part in parts for bit in rng.choice(part, 3, replace=False)]
        uneven = np.concatenate([parts[number % 11], parts[(number + 1) % 11]])
        flip = np.zeros(256, np.uint8)
        flip[rng.permutation(even if number % 2 else uneven)[:32]] = 1
        # The search's order of bits: the lowest of a byte first.
        base[2000 + number] = base[number] ^ np.packbits(flip, bitorder="little")
    found = near_duplicates(as_bytes(base))
    assert len(found) == 600
    assert (found[:, 2] == 32).all()
    np.testing.assert_array_equal(found, every_pair(as_bytes(base), 32, monkeypatch))


@pytest.mark.slow
def test_401059_hashes_in_a_minute(rng):
    """As many as ISIC 2024 has images. A processor's own seconds: another's work does not count."""
    hashes = as_bytes(changed(rng.integers(0, 256, (401_059, 32), dtype=np.uint8), rng, 5000, 32))
    start = time.process_time()
    found = near_duplicates(hashes)
    assert time.process_time() - start < 120  # of two cores: a minute
    assert len(found) > 4900


def test_groups_of_400000_images_in_ten_seconds(rng):
    count = 400_000
    lesions = rng.integers(0, 200_000, count)
    images = pd.DataFrame(
        {
            "image": [f"I_{n}" for n in range(count)],
            "lesion_id": pd.Series([f"L_{n}" for n in lesions]).where(rng.random(count) < 0.5),
            "patient_id": pd.Series([f"P_{n}" for n in rng.integers(0, 50_000, count)]).where(rng.random(count) < 0.1),
        }
    )
    pairs = [(f"I_{a}", f"I_{b}") for a, b in rng.integers(0, count, (5000, 2))]
    start = time.process_time()
    groups = group_images(images, pairs)
    assert time.process_time() - start < 10
    for column in ("lesion_id", "patient_id"):
        known = images[column].notna()
        assert pd.Series(groups[known]).groupby(images[column][known].to_numpy()).nunique().max() == 1
    assert all(groups[int(a[2:])] == groups[int(b[2:])] for a, b in pairs)
