"""Near-duplicates: all pairs of hashes that differ in a few bits, found without comparing every pair."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_stoch.files import cores

HASH_BITS = 256
NEAR = 32  # bits of 256 that may differ, see `near_duplicates`
PARTS = 11  # of a hash, 23 or 24 bits each: of up to 32 differing bits, one part has at most 2
FEW = 4000  # so many hashes are compared pair by pair
BLOCK = 2**20  # pairs in memory at once


def near_duplicates(hashes, limit: int = NEAR) -> np.ndarray:
    """All pairs of images whose hashes differ in at most `limit` bits.

    Among 114 different dermoscopic photographs the nearest two differ in 74 bits; their copies, halved or squeezed to
    600 x 450 and recompressed at quality 60 or 40, in at most 14 (`tests/keras_stoch/data/test_audit.py`).

    Up to 32 bits, multi-index hashing finds them (Norouzi, Punjani and Fleet, "Fast exact search in Hamming space with
    multi-index hashing", 2014): two hashes that are near are nearly equal in one of eleven parts. Above, among few
    hashes, and among hashes so alike that their parts do not tell them apart, every pair is compared.

    Args:
        hashes: n bytes objects of 32 bytes each.
        limit: bits of 256.

    Returns:
        int64 array (pairs, 3): first index < second index, and the bits that differ; sorted.
    """
    words = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, HASH_BITS // 64)
    if len(words) <= FEW or limit // PARTS > 2:
        return _every_pair(words, limit)
    # Copies of one hash are one while others are sought.
    rows = np.ascontiguousarray(words).view(f"V{HASH_BITS // 8}")[:, 0]
    _, first, group = np.unique(rows, return_index=True, return_inverse=True)
    found = _of_different(words[first], limit)
    members, sizes = np.argsort(group, kind="stable"), np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    same = np.flatnonzero(sizes > 1)
    found = np.concatenate([found, np.stack([same, same, 0 * same], axis=1)])
    pairs = []
    for place, one, other in _products(starts, sizes, found[:, 0], found[:, 1]):
        one, other, bits = members[one], members[other], found[place, 2]
        keep = (one < other) | (found[place, 0] != found[place, 1])
        one, other = np.minimum(one, other)[keep], np.maximum(one, other)[keep]
        pairs.append(np.stack([one, other, bits[keep]], axis=1))
    pairs = np.concatenate(pairs) if pairs else np.zeros((0, 3), np.int64)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].astype(np.int64)


def _every_pair(words, limit):
    pairs = []
    rows = max(1, 2**22 // max(len(words), 1))  # bounds the memory of one comparison
    for start in range(0, len(words), rows):
        later = words[start:]
        bits = np.zeros((min(rows, len(words) - start), len(later)), np.uint16)
        for word in range(words.shape[1]):
            bits += np.bitwise_count(words[start : start + rows, word, None] ^ later[None, :, word])
        first, second = np.nonzero(bits <= limit)
        keep = second > first
        first, second = first[keep], second[keep]
        pairs.append(np.stack([first + start, second + start, bits[first, second]], axis=1))
    return np.concatenate(pairs).astype(np.int64) if pairs else np.zeros((0, 3), np.int64)


def _of_different(words, limit):
    """Pairs of hashes that are all different, (pairs, 3) as above, in no order."""
    if len(words) <= FEW:
        return _every_pair(words, limit)
    data = np.ascontiguousarray(words).view(np.uint8)
    # Neighbouring bits are neighbouring frequencies, which go together; scattered, the parts tell hashes apart better.
    bits = np.array_split(np.random.default_rng(0).permutation(HASH_BITS), PARTS)
    keys = np.zeros((PARTS, len(words)), np.uint32)
    for part, places in enumerate(bits):
        for n, place in enumerate(places):
            keys[part] |= (data[:, place // 8] >> np.uint8(place % 8) & np.uint8(1)).astype(np.uint32) << np.uint32(n)
    alike = sum(int((np.square(np.unique(key, return_counts=True)[1], dtype=np.int64)).sum()) for key in keys)
    if alike - PARTS * len(words) > len(words) ** 2 / 50:
        return _every_pair(words, limit)
    with ThreadPoolExecutor(cores()) as pool:
        found = list(pool.map(lambda part: _of_part(words, keys, part, len(bits[part]), limit), range(PARTS)))
    return np.concatenate(found)


def _of_part(words, keys, part, width, limit):
    """Those that are near in one part and, so that none is found twice, in none before it."""
    radius = limit // PARTS
    order = np.argsort(keys[part], kind="stable")
    values, starts, sizes = np.unique(keys[part][order], return_index=True, return_counts=True)
    present = np.zeros(2**width, bool)
    present[values] = True
    found = []

    def compare(asking, partners):
        for place, one, other in _products(starts, sizes, asking, partners):
            one, other = order[one], order[other]
            keep = (one < other) | (asking[place] != partners[place])
            one, other = one[keep], other[keep]
            apart = np.bitwise_count(words[one] ^ words[other]).sum(axis=1, dtype=np.int64)
            near = apart <= limit
            one, other, apart = one[near], other[near], apart[near]
            for before in keys[:part]:
                new = np.bitwise_count(before[one] ^ before[other]) > radius
                one, other, apart = one[new], other[new], apart[new]
            if len(one):
                found.append(np.stack([one, other, apart], axis=1))

    several = np.flatnonzero(sizes > 1)
    compare(several, several)
    for bit in range(width if radius else 0):
        # Of two keys that differ in this bit, and in none before it, the one that has it not.
        asking = np.flatnonzero(values & np.uint32(1 << bit) == 0)
        without = values[asking]
        for others in range(radius):
            for more in itertools.combinations(range(bit + 1, width), others):
                partner = without ^ np.uint32(sum(1 << n for n in (bit, *more)))
                there = np.flatnonzero(present.take(partner))
                compare(asking[there], np.searchsorted(values, partner[there]))
    return np.concatenate(found) if found else np.zeros((0, 3), np.int64)


def _products(starts, sizes, left, right):
    """All pairs of a member of group left[n] and one of right[n], block by block: n, and the two places (block,)."""
    counts = sizes[left] * sizes[right]
    ends = np.cumsum(counts)
    for start in range(0, int(ends[-1]) if len(ends) else 0, BLOCK):
        index = np.arange(start, min(start + BLOCK, ends[-1]))
        place = np.searchsorted(ends, index, side="right")
        row, column = np.divmod(index - (ends - counts)[place], sizes[right][place])
        yield place, starts[left][place] + row, starts[right][place] + column
