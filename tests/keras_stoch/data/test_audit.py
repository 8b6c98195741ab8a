"""Hashes, groups, splits and what a random split leaks."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from keras_stoch.data.audit import audit, group_images, image_hash, leakage, near_duplicates, split_images


def bits_apart(a, b):
    return sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_hashes_of_real_photographs(photographs, every):
    """Copies stay far below the limit of 32 bits, different photographs far above."""
    hashes, copies = [], []
    for path in photographs[::every]:
        if "lowres" in str(path):
            continue
        with Image.open(path) as file:
            file.draft("RGB", (1024, 1024))
            picture = file.convert("RGB")
        hashes.append(image_hash(picture))
        for size, quality in (((picture.width // 2, picture.height // 2), 60), ((600, 450), 40)):
            buffer = io.BytesIO()
            picture.resize(size).save(buffer, "JPEG", quality=quality)
            copies.append(bits_apart(hashes[-1], image_hash(Image.open(buffer))))
    assert max(copies) <= 20
    assert near_duplicates(hashes, 256)[:, 2].min() >= 60
    assert len(near_duplicates(hashes)) == 0
    assert near_duplicates([*hashes, hashes[3]]).tolist() == [[3, len(hashes), 0]]


def test_near_duplicates_agree_with_every_pair_counted(rng):
    hashes = [rng.bytes(32) for _ in range(40)]
    hashes += [bytes([value[0] ^ 3, *value[1:]]) for value in hashes[:5]]
    expected = [
        [i, j, bits_apart(hashes[i], hashes[j])]
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if bits_apart(hashes[i], hashes[j]) <= 110
    ]
    assert near_duplicates(hashes, 110).tolist() == expected
    assert near_duplicates([]).shape == (0, 3)


def test_groups_are_transitive():
    images = pd.DataFrame(
        {
            "image": list("abcdefg"),
            "lesion_id": ["x", "x", None, None, None, None, None],
            "patient_id": [None, "p", "p", None, None, "q", None],
        }
    )
    groups = group_images(images, [("c", "d"), ("g", "not there")])
    assert len(set(groups[:4])) == 1  # a-b by lesion, b-c by patient, c-d by the list
    assert len(set(groups[4:])) == 3


def test_group_split_keeps_groups_and_shares(rng):
    sizes = rng.geometric(0.2, 3000)
    groups = np.repeat(np.arange(3000), sizes)
    targets = (rng.random(len(groups)) < 0.1).astype(int)
    held = split_images(targets, groups, validation=0.2, seed=1)
    assert set(groups[held]).isdisjoint(groups[~held])
    assert abs(held.mean() - 0.2) < 0.002
    assert abs(targets[held].sum() / targets.sum() - 0.2) < 0.005
    assert (held == split_images(targets, groups, validation=0.2, seed=1)).all()
    assert (held != split_images(targets, groups, validation=0.2, seed=2)).any()


def test_a_random_split_leaks_and_the_count_is_right():
    images = pd.DataFrame(
        {
            "image": ["a", "a", "b", "c", "d", "e"],
            "lesion_id": [None, None, "x", "x", None, None],
            "patient_id": [None, None, None, None, "p", "p"],
        }
    )
    held = np.array([True, False, True, False, True, True])
    assert leakage(images, held, [("d", "c")]) == {
        "rows": 4,
        "image": 1,
        "duplicate": 1,
        "lesion": 1,
        "patient": 0,
        "any": 3,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "half"}, "split must be one of group, random. Received: 'half'"),
        ({"validation": 0}, "validation must be a share between 0 and 1. Received: 0"),
        ({"validation": 20}, "Received: 20"),
    ],
)
def test_bad_splits(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_images([0, 1], [0, 1], **arguments)


def test_audit_of_files_and_images(tmp_path):
    (tmp_path / "a.csv").write_text("ISIC_1,benign\nISIC_2,malignant\nISIC_3,benign\n")
    (tmp_path / "b.csv").write_text("image_id,melanoma,seborrheic_keratosis\nISIC_1,1,0\nISIC_3,0,0\n")
    (tmp_path / "c.csv").write_text("image_name_1,image_name_2\nISIC_2,ISIC_3\n")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    coarse.resize((300, 300)).save(photographs / "ISIC_1.png")
    coarse.resize((200, 150)).save(photographs / "ISIC_2.jpg")
    (photographs / "ISIC_3.jpg").write_bytes(b"no image")
    found = audit(tmp_path, photographs)
    assert found.findings["conflicts"] == ["ISIC_1"]
    assert found.findings["images"]["in_several_years"] == 2
    assert found.findings["duplicates"] == {"listed": 1, "conflicting": 1}
    near = found.findings["near_duplicates"]
    assert near["photographs"] == 2
    assert [pair[:2] for pair in near["pairs"]] == [["ISIC_1", "ISIC_2"]] or near["pairs"][0][:2] == (
        "ISIC_1",
        "ISIC_2",
    )
    assert found.findings["leakage"]["every image once, groups kept together"]["any"] == 0
    assert json.loads(found.to_json(tmp_path / "audit.json").read_text())["duplicates"]["listed"] == 1
    assert "conflicting labels: ISIC_1" in str(found)
