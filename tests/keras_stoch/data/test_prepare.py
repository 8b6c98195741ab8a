"""Preparation: pixels against Pillow, every odd kind of image, kills, and what must be refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from keras_stoch.data.photographs import Dropped, find_sources, open_image
from keras_stoch.data.prepare import Settings, describe, prepare, prepare_image

SMALL = Settings(size=32, min_side=40, crop_over=100, crop_to=80, format="png")


def picture(width, height, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def raw_folder(folder, count=8, size=(60, 50)):
    raw = folder / "raw"
    raw.mkdir(parents=True)
    rows = ["image,target"]
    for number in range(count):
        picture(*size, seed=number).save(raw / f"IMG_{number}.png")
        rows.append(f"IMG_{number},{number % 2}")
    labels = folder / "labels.csv"
    labels.write_text("\n".join(rows))
    return raw, labels


def test_the_papers_steps():
    settings = Settings()
    for size in ((999, 2000), (2000, 999)):
        with pytest.raises(Dropped, match="smaller than 1000 pixels"):
            prepare_image(Image.new("RGB", size), settings)
    kept, cropped = prepare_image(picture(3048, 4000), settings)  # not larger in both: squeezed whole
    assert kept.size == (1024, 1024)
    assert not cropped
    large = picture(3050, 3049)
    kept, cropped = prepare_image(large, settings)
    assert cropped
    expected = large.crop((501, 500, 2549, 2548)).resize((1024, 1024), Image.Resampling.LANCZOS)
    assert (np.asarray(kept) == np.asarray(expected)).all()


def test_manifest_record_and_pixels(tmp_path):
    raw, labels = raw_folder(tmp_path)
    picture(30, 60).save(raw / "IMG_8.png")
    picture(120, 130, 9).save(raw / "IMG_9.png")
    picture(60, 60).save(raw / "stray.png")
    (raw / "._IMG_1.png").write_bytes(b"what macOS leaves")
    with open(labels, "a") as file:
        file.write("\nIMG_8,1\nIMG_9,1\nIMG_10,0")
    record = prepare(raw, labels, tmp_path / "out", settings=SMALL, validation=0.25)
    manifest = pd.read_csv(tmp_path / "out" / "manifest.csv")
    assert manifest["image"].tolist() == [*(f"IMG_{n}" for n in range(8)), "IMG_9"]
    assert record["counts"] == {
        "labelled": 11,
        "without_file": 1,
        "files_without_label": 1,
        "kept": 9,
        "cropped": 1,
        "malignant": 5,
        "train": 7,
        "validation": 2,
        "near_duplicate_pairs": 0,
        "dropped": {"smaller than 40 pixels": 1},
    }
    assert record["dropped"]["IMG_8"] == {"source": "IMG_8.png", "reason": "smaller than 40 pixels"}
    assert record["files_without_label"] == ["stray"]
    assert json.loads((tmp_path / "out" / "prepare.json").read_text()) == record
    for row in manifest.itertuples():
        with Image.open(tmp_path / "out" / row.file) as image:
            expected = prepare_image(Image.open(raw / row.source).convert("RGB"), SMALL)[0]
            assert (np.asarray(image) == np.asarray(expected)).all()


def test_jpegs_keep_their_chroma(tmp_path):
    raw, labels = raw_folder(tmp_path, 2)
    prepare(raw, labels, tmp_path / "out", settings=Settings(size=32, min_side=40, crop_over=100, crop_to=80))
    with Image.open(tmp_path / "out" / "images" / "IMG_0.jpg") as image:
        assert image.format == "JPEG"
        assert {component[1:3] for component in image.layer} == {(1, 1)}  # 4:4:4


def save_kinds(folder):
    """The same picture in many kinds of file, and its pixels as each should give them."""
    rgb = picture(64, 48)
    pixels, grey = np.asarray(rgb), rgb.convert("L")
    kinds = {}

    def add(name, image, expected, **options):
        image.save(folder / name, **options)
        kinds[name] = expected

    add("rgb.png", rgb, pixels)
    add("grey.png", grey, np.repeat(np.asarray(grey)[..., None], 3, -1))
    add("palette.png", rgb.quantize(255), np.asarray(rgb.quantize(255).convert("RGB")))
    clear = rgb.copy()
    clear.putalpha(0)
    add("clear.png", clear, np.full_like(pixels, 255))  # transparent: the white it lies on
    opaque = rgb.copy()
    opaque.putalpha(255)
    add("opaque.webp", opaque, pixels, lossless=True)
    sixteen = np.asarray(grey, np.uint16) * 257
    for ending in ("png", "tif"):
        add(f"sixteen.{ending}", Image.fromarray(sixteen), np.repeat(np.asarray(grey)[..., None], 3, -1))
    add(
        "eight_in_sixteen.png",
        Image.fromarray(np.asarray(grey, np.uint16)),
        np.repeat(np.asarray(grey)[..., None], 3, -1),
    )
    cmyk = rgb.convert("CMYK")
    add("cmyk.tif", cmyk, np.asarray(cmyk.convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn clockwise to see it upright"
    add("turned.png", rgb.transpose(Image.Transpose.ROTATE_90), pixels, exif=exif)
    return kinds


def test_every_kind_of_image(tmp_path):
    for name, expected in save_kinds(tmp_path).items():
        image = open_image(tmp_path / name)
        assert image.mode == "RGB", name
        assert (np.asarray(image) == expected).all(), name
    picture(64, 48).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    close = np.abs(np.asarray(open_image(tmp_path / "cmyk.jpg"), int) - np.asarray(picture(64, 48)))
    assert close.mean() < 8  # not inverted


def test_broken_images_are_reported_at_the_end(tmp_path):
    raw, labels = raw_folder(tmp_path)
    whole = (raw / "IMG_3.png").read_bytes()
    (raw / "IMG_3.png").write_bytes(whole[: len(whole) // 2])
    (raw / "IMG_5.png").write_bytes(b"")
    Image.fromarray(np.zeros((50, 50), np.float32)).save(raw / "IMG_6.tif")
    (raw / "IMG_6.png").unlink()
    Image.new("1", (20000, 20000)).save(raw / "IMG_7.png")
    record = prepare(raw, labels, tmp_path / "out", settings=SMALL)
    reasons = {image: why["reason"] for image, why in record["dropped"].items()}
    assert sorted(reasons) == ["IMG_3", "IMG_5", "IMG_6", "IMG_7"]
    assert reasons["IMG_3"].startswith("unreadable: ")
    assert reasons["IMG_5"].startswith("unreadable: ")
    assert reasons["IMG_6"] == "floating-point pixels of unknown range"
    assert "89000000 pixels are refused" in reasons["IMG_7"]
    assert record["counts"]["kept"] == 4


def test_downsampled_copies_give_way(tmp_path):
    picture(60, 50).save(tmp_path / "A_downsampled.png")
    assert find_sources(tmp_path)["A"].name == "A_downsampled.png"
    picture(30, 20).save(tmp_path / "A.png")
    assert find_sources(tmp_path)["A"].name == "A.png"


def test_a_second_run_does_nothing_and_changes_are_seen(tmp_path):
    raw, labels = raw_folder(tmp_path)
    out = tmp_path / "out"
    prepare(raw, labels, out, settings=SMALL)
    times = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    prepare(raw, labels, out, settings=SMALL)
    assert {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()} == times
    picture(70, 70, 99).save(raw / "IMG_2.png")
    (out / "images" / "IMG_4.png").write_bytes(b"shortened")
    prepare(raw, labels, out, settings=SMALL)
    changed = {path.name for path, t in times.items() if path.stat().st_mtime_ns != t}
    assert changed == {"IMG_2.png", "IMG_4.png"}


def test_what_is_refused(tmp_path):
    raw, labels = raw_folder(tmp_path)
    out = tmp_path / "out"
    prepare(raw, labels, out, settings=SMALL)
    with pytest.raises(ValueError, match="holds images of other settings"):
        prepare(raw, labels, out, settings=Settings(size=48, min_side=40, crop_over=100, crop_to=80))
    with pytest.raises(ValueError, match="holds the photographs .* themselves"):
        prepare(raw, labels, tmp_path, settings=SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds other things"):
        prepare(raw, labels, tmp_path / "full", settings=SMALL)
    (tmp_path / "other.csv").write_text("image,target\nx,1\n")
    with pytest.raises(ValueError, match=r"None of the 1 labelled images is below .* such as IMG_0"):
        prepare(raw, tmp_path / "other.csv", tmp_path / "new", settings=SMALL)
    with pytest.raises(ValueError, match="No such folder of images"):
        prepare(tmp_path / "nowhere", labels, tmp_path / "new")
    with pytest.raises(ValueError, match="No image is left: 8 smaller than 1000 pixels"):
        prepare(raw, labels, tmp_path / "new")
    with pytest.raises(ValueError, match="quality must be at most 95"):
        Settings(quality=100)
    with pytest.raises(ValueError, match="shards must be 0 or a positive integer"):
        prepare(raw, labels, out, settings=SMALL, shards=-1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "labels.csv", "new", "other.csv", "out", "raw"]


def test_out_below_raw_is_not_read_back(tmp_path):
    """The prepared files are larger than the originals here, and would be taken for better ones."""
    raw, labels = raw_folder(tmp_path)
    large = Settings(size=512, min_side=40, crop_over=100, crop_to=80, format="png")
    first = prepare(raw, labels, raw / "out", settings=large)
    again = prepare(raw, labels, raw / "out", settings=large)
    assert again["counts"] == first["counts"]
    assert len(list((raw / "out" / "images").iterdir())) == 8


def test_what_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    raw, labels = raw_folder(tmp_path)
    real = Image.open

    def out_of_files(path, *rest):
        if str(path).endswith("IMG_3.png"):
            raise OSError(24, "Too many open files")
        return real(path, *rest)

    monkeypatch.setattr(Image, "open", out_of_files)
    record = prepare(raw, labels, tmp_path / "out", settings=SMALL)
    assert "Too many open files" in record["dropped"]["IMG_3"]["reason"]
    monkeypatch.setattr(Image, "open", real)
    assert prepare(raw, labels, tmp_path / "out", settings=SMALL)["counts"]["kept"] == 8


def test_a_run_that_was_killed_at_once_is_gone_on_with(tmp_path):
    raw, labels = raw_folder(tmp_path)
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / ".lock").touch()
    (tmp_path / "out" / ".settings.json.1-2.partial").touch()
    assert prepare(raw, labels, tmp_path / "out", settings=SMALL)["counts"]["kept"] == 8
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_years_that_disagree_can_be_dropped_and_are_told(tmp_path):
    raw, labels = raw_folder(tmp_path)
    (tmp_path / "other.csv").write_text("image,target\nIMG_2,1\n")
    record = prepare(raw, [labels, tmp_path / "other.csv"], tmp_path / "out", settings=SMALL, on_conflict="drop")
    assert record["dropped"] == {"IMG_2": {"source": "IMG_2.png", "reason": "years disagree on its target"}}
    assert (record["counts"]["kept"], record["counts"]["files_without_label"]) == (7, 0)
    assert not (tmp_path / "out" / "images" / "IMG_2.png").exists()


def test_images_that_belong_together_by_way_of_an_absent_one_stay_together(tmp_path):
    raw, labels = raw_folder(tmp_path, 20)
    lines = labels.read_text().splitlines()
    lesion = {0: "a", 9: "b", 20: "a"}
    patient = {9: "p", 20: "p"}  # image 20 has no file: 0 and 9 are one group through it
    rows = [f"{line},{lesion.get(n, '')},{patient.get(n, '')}" for n, line in enumerate([*lines[1:], "IMG_20,1"])]
    labels.write_text("\n".join([f"{lines[0]},lesion_id,patient_id", *rows]))
    for seed in range(5):
        prepare(raw, labels, tmp_path / "out", settings=SMALL, seed=seed)
        manifest = pd.read_csv(tmp_path / "out" / "manifest.csv").set_index("image")
        assert manifest["group"]["IMG_0"] == manifest["group"]["IMG_9"]
        assert manifest["split"]["IMG_0"] == manifest["split"]["IMG_9"]
    assert manifest["group"].nunique() == 19


def test_a_split_that_nothing_can_be_trained_with_is_told(tmp_path):
    raw, labels = raw_folder(tmp_path)
    labels.write_text(labels.read_text().replace(",1", ",0"))
    record = prepare(raw, labels, tmp_path / "out", settings=SMALL)
    assert "both classes are needed" in record["warning"]
    assert "warning: The training side" in describe(record)
    assert (tmp_path / "out" / "manifest.csv").exists()


def test_warnings_are_as_before(tmp_path):
    raw, labels = raw_folder(tmp_path, 30)
    before = list(warnings.filters)
    prepare(raw, labels, tmp_path / "out", settings=SMALL, workers=8)
    assert warnings.filters == before


@pytest.mark.parametrize("name", ["shards", ".lock", "journal.jsonl"])
def test_links_are_not_followed(tmp_path, name):
    raw, labels = raw_folder(tmp_path)
    prepare(raw, labels, tmp_path / "out", settings=SMALL)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.tfrecord").write_text("mine")
    (tmp_path / "out" / name).unlink(missing_ok=True)
    (tmp_path / "out" / name).symlink_to(elsewhere if name == "shards" else elsewhere / "mine.tfrecord")
    with pytest.raises(ValueError, match="is a link; nothing is written outside"):
        prepare(raw, labels, tmp_path / "out", settings=SMALL)
    assert (elsewhere / "mine.tfrecord").read_text() == "mine"


def test_a_linked_images_folder_is_not_followed(tmp_path):
    raw, labels = raw_folder(tmp_path)
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    out.mkdir()
    (out / "settings.json").write_text("{}")
    (out / "images").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="is a link; nothing is written outside"):
        prepare(raw, labels, out, settings=SMALL)
    assert not list(elsewhere.iterdir())


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_never_killed(tmp_path):
    raw, labels = raw_folder(tmp_path, count=60, size=(700, 600))
    settings = "Settings(size=512, min_side=40, crop_over=1000, crop_to=80)"
    code = (
        "import sys\nfrom keras_stoch.data.prepare import *\n"
        f"prepare(sys.argv[1], sys.argv[2], sys.argv[3], settings={settings}, workers=2)"
    )

    def run(out):
        return subprocess.Popen([sys.executable, "-c", code, str(raw), str(labels), str(out)])

    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert run(whole).wait() == 0
    rng, kills = random.Random(0), 0
    for _ in range(12):
        process = run(out)
        while process.poll() is None and not (out / "images").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0.01, 0.25))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        for path in (out / "images").glob("*.jpg"):
            assert path.read_bytes() == (whole / "images" / path.name).read_bytes()
    assert run(out).wait() == 0
    assert kills > 0
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == names
    for name in ("manifest.csv", "prepare.json"):
        assert (out / name).read_text() == (whole / name).read_text()


def test_shards_hold_the_same_bytes(tmp_path):
    import tensorflow as tf

    raw, labels = raw_folder(tmp_path)
    out = tmp_path / "out"
    record = prepare(raw, labels, out, settings=SMALL, shards=2, validation=0.25)
    assert record["shards"] == [
        *("shards/train-00000-of-00002.tfrecord", "shards/train-00001-of-00002.tfrecord"),
        "shards/validation-00000-of-00001.tfrecord",
    ]
    manifest = pd.read_csv(out / "manifest.csv")
    found = {}
    for name in record["shards"]:
        for raw_record in tf.data.TFRecordDataset(str(out / name)).as_numpy_iterator():
            features = tf.train.Example.FromString(raw_record).features.feature
            row = manifest.loc[features["index"].int64_list.value[0]]
            assert features["image"].bytes_list.value[0] == (out / row["file"]).read_bytes()
            assert features["target"].int64_list.value[0] == row["target"]
            assert row["split"] in name
            found[row["image"]] = name
    assert sorted(found) == sorted(manifest["image"])


def test_real_photographs(photographs, tmp_path):
    """The folder of small photographs is dropped, all others are kept; names that no official file lists stay out."""
    folder = photographs[0].parents[2]
    assert os.path.isdir(folder / "labels")
    listed = {path.stem for path in photographs}
    labels = tmp_path / "labels.csv"
    small = sorted((folder / "images_lowres").rglob("*.jpg"))
    rows = [f"{path.stem},{int(path.parent.name == 'malignant')}" for path in [*photographs[:6], *small]]
    labels.write_text("image,target\n" + "\n".join(rows))
    (tmp_path / "raw").mkdir()
    for path in [*photographs[:6], *small]:
        (tmp_path / "raw" / path.name).symlink_to(path)
    record = prepare(tmp_path / "raw", labels, tmp_path / "out")
    assert record["counts"]["kept"] == 6
    assert record["counts"]["dropped"] == {"smaller than 1000 pixels": len(small)}
    assert listed.isdisjoint(record["dropped"])
