"""Which file is whose photograph: names that clash, paths in labels, links, what is passed over or would be lost."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from keras_stoch.cli import main
from keras_stoch.data.audit import audit
from keras_stoch.data.labels import read_labels
from keras_stoch.data.photographs import find_photographs, find_sources, sources_of
from keras_stoch.data.prepare import Settings, describe, prepare

SMALL = Settings(size=32, min_side=40, crop_over=100, crop_to=80, format="png")


def save(path, seed=0, size=(60, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    options = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif") else {}
    formats = {".jfif": "JPEG", ".jpe": "JPEG"}
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    picture.save(path, formats.get(path.suffix.lower()), **options)
    return picture


def label(folder, **targets):
    rows = [f"{image},{target}" for image, target in targets.items()]
    (folder / "labels.csv").write_text("\n".join(["image,target", *rows]))
    return folder / "labels.csv"


@pytest.fixture
def raw(tmp_path):
    """Eight photographs, p0 to p7."""
    for number in range(8):
        save(tmp_path / "raw" / f"p{number}.png", number)
    return tmp_path / "raw"


@pytest.fixture
def labels(tmp_path):
    return label(tmp_path, **{f"p{number}": number % 2 for number in range(8)})


@pytest.mark.parametrize(
    ("one", "other"),
    [("a/X.jpg", "b/X.JPG"), ("X.jpg", "X.png"), ("a/X.png", "X.png"), ("X_downsampled.png", "a/X_downsampled.png")],
)
def test_different_photographs_of_one_name_are_refused_with_both_paths(tmp_path, raw, one, other):
    save(raw / one, 20)
    save(raw / other, 21, (90, 80))
    labels = label(tmp_path, X=1, p0=0, p1=1)
    for refused in (
        lambda: prepare(raw, labels, tmp_path / "out", settings=SMALL),
        lambda: audit(labels, raw),
        lambda: find_sources(raw),
    ):
        with pytest.raises(ValueError, match="X has different photographs") as told:
            refused()
        assert str(raw / one) in str(told.value)
        assert str(raw / other) in str(told.value)
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_so(tmp_path, raw, capsys):
    save(raw / "a" / "X.jpg", 20)
    save(raw / "b" / "X.JPG", 21)
    arguments = [str(raw), str(label(tmp_path, X=1, p0=0)), str(tmp_path / "out")]
    assert main(["prepare", *arguments]) == 2
    assert "Let the labels name the path below" in capsys.readouterr().err


def test_copies_of_one_photograph_are_one(tmp_path, raw, labels):
    for place in ("a/p0.png", "b/p0.PNG"):
        (raw / place).parent.mkdir()
        shutil.copy(raw / "p0.png", raw / place)
    save(raw / "p1_downsampled.png", 99, (45, 45))
    record = prepare(raw, labels, tmp_path / "out", settings=SMALL)
    assert record["counts"]["kept"] == 8
    assert record["files_without_label"] == []
    manifest = pd.read_csv(tmp_path / "out" / "manifest.csv").set_index("image")
    assert manifest["source"]["p1"] == "p1.png"


def test_names_that_no_label_asks_for_may_clash(tmp_path, raw, labels):
    save(raw / "a" / "X.png", 20)
    save(raw / "b" / "X.png", 21)
    record = prepare(raw, labels, tmp_path / "out", settings=SMALL)
    assert (record["counts"]["kept"], record["files_without_label"]) == (8, ["X"])


def test_labels_may_name_paths(tmp_path, raw):
    pictures = {place: save(raw / f"{place}.png", seed) for seed, place in enumerate(("a/X", "b/X", "b/c/X"), 20)}
    labels = label(tmp_path, **{"a/X.png": 1, "b/X": 0, "b/c/X.png": 1, "p0.png": 0, "p1": 1})
    record = prepare(raw, labels, tmp_path / "out", settings=SMALL, split="random", validation=0.4)
    assert record["counts"]["kept"] == 5
    assert record["files_without_label"] == [f"p{number}" for number in range(2, 8)]
    manifest = pd.read_csv(tmp_path / "out" / "manifest.csv").set_index("image")
    assert manifest["target"][["a/X", "b/X", "b/c/X"]].tolist() == [1, 0, 1]
    for place, picture in pictures.items():
        with Image.open(tmp_path / "out" / manifest["file"][place]) as found:
            expected = picture.resize((32, 32), Image.Resampling.LANCZOS)
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert prepare(raw, labels, tmp_path / "out", settings=SMALL, split="random", validation=0.4) == record
    assert audit(labels, raw).findings["near_duplicates"]["photographs"] == 11


def test_labels_with_endings_choose_between_them(tmp_path, raw):
    save(raw / "X.jpg", 20)
    picture = save(raw / "X.png", 21)
    labels = label(tmp_path, **{"X.PNG": 1, "p0": 0, "p1": 1})
    prepare(raw, labels, tmp_path / "out", settings=SMALL, split="random", validation=0.4)
    with Image.open(tmp_path / "out" / "images" / "X.png") as found:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(picture.resize((32, 32), 1)))
    assert read_labels(labels).listed == {"X": {"X.PNG"}}


def test_one_photograph_under_two_ids_is_refused(tmp_path, raw):
    save(raw / "a" / "X.png", 20)
    labels = label(tmp_path, **{"a/X": 1, "X": 0})
    with pytest.raises(ValueError, match=r"name one photograph twice, a/X and X|name one photograph twice, X and a/X"):
        prepare(raw, labels, tmp_path / "out", settings=SMALL)


@pytest.mark.parametrize("name", ["../X", "a/../X", "/X", "a//X", "a/.X", "a/", "./X", "a\\X"])
def test_paths_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is no image name"):
        read_labels(label(tmp_path, **{name: 1}))


def test_linked_folders_are_followed_without_circles(tmp_path):
    raw, other = tmp_path / "raw", tmp_path / "other"
    save(raw / "a" / "one.png")
    save(other / "deep" / "two.png")
    save(tmp_path / "beside" / "three.png")
    (raw / "linked").symlink_to(other)
    (raw / "0first").symlink_to(raw / "a")  # a real folder goes before what links to it
    (raw / "a" / "circle").symlink_to(raw)
    (raw / "a" / "itself").symlink_to("itself")
    (other / "back").symlink_to(raw / "a")
    (other / "above").symlink_to(tmp_path)
    (raw / "up").symlink_to("..")
    (raw / "out").symlink_to("../beside")
    (raw / "a" / "within").symlink_to("../a")
    (raw / "gone.png").symlink_to("nowhere.png")
    paths, passed_over = find_photographs(raw)
    assert [str(path.relative_to(raw)) for path in paths] == ["a/one.png", "linked/deep/two.png"]
    assert passed_over["links that lead out of the folder"] == 4
    assert set(find_sources(raw)) == {"one", "two"}


def test_a_folder_that_is_linked_itself(tmp_path):
    save(tmp_path / "real" / "one.png")
    (tmp_path / "raw").symlink_to(tmp_path / "real")
    assert list(find_sources(tmp_path / "raw")) == ["one"]


def test_endings_of_jpeg(tmp_path):
    for number, suffix in enumerate((".jpg", ".jpeg", ".jpe", ".jfif", ".JFIF")):
        save(tmp_path / "raw" / f"p{number}{suffix}", number)
    labels = label(tmp_path, **{"p0": 0, "p1": 1, "p2.jpe": 0, "p3.jfif": 1, "p4.JFIF": 1})
    record = prepare(tmp_path / "raw", labels, tmp_path / "out", settings=SMALL, split="random", validation=0.4)
    assert record["counts"]["kept"] == 5


@pytest.mark.slow
def test_what_is_passed_over_is_told_by_all(tiny, stem_run, tmp_path, raw, labels, capsys):
    for name in ("._p1.png", "notes.txt", "p9.heic", "q.HEIC", "README"):
        (raw / name).write_bytes(b"x")
    (raw / "p3.png").write_bytes(b"no picture")
    counted = {".heic": 2, ".txt": 1, "hidden": 1, "no ending": 1}
    told = "passed over: 2 .heic, 1 .txt, 1 hidden, 1 no ending"
    record = prepare(raw, labels, tmp_path / "out", settings=SMALL)
    assert record["passed_over"] == counted
    assert told in describe(record)
    found = audit(labels, raw)
    assert found.findings["near_duplicates"]["passed_over"] == counted
    ((file, why),) = found.findings["near_duplicates"]["unreadable"].items()
    assert file == str(raw / "p3.png")
    assert why.startswith("unreadable: ")
    assert told in str(found)
    assert f"1  photographs could not be read\n{'':9}{file}: unreadable" in str(found)
    assert main(["predict", str(stem_run), str(raw)]) == 0
    errors = capsys.readouterr().err
    assert told in errors
    assert "1 of 8 images could not be read" in errors


def test_what_a_second_folder_would_remove_is_said(tmp_path, raw, labels, capsys):
    out, other = tmp_path / "out", tmp_path / "other"
    prepare(raw, labels, out, settings=SMALL)
    for number in range(6):
        save(other / f"p{number}.png", number + (50 if number < 2 else 0))
        if number >= 2:
            shutil.copy2(raw / f"p{number}.png", other / f"p{number}.png")
    before = {path: path.read_bytes() for path in sorted((out / "images").iterdir())}
    with pytest.raises(
        ValueError, match="holds 4 images of an earlier run that would be removed .* p0, p1, p6. Choose"
    ):
        prepare(other, labels, out, settings=SMALL)
    pixels = ["--size", "32", "--min-side", "40", "--crop-over", "100", "--crop-to", "80", "--format", "png"]
    arguments = ["prepare", str(other), str(labels), str(out), *pixels]
    assert main(arguments) == 2
    assert "Choose another OUT, or --replace" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in sorted((out / "images").iterdir())} == before
    assert main([*arguments, "--replace"]) == 0
    assert "4 images of an earlier run were removed or replaced" in capsys.readouterr().out
    assert sorted(path.name for path in (out / "images").iterdir()) == [f"p{number}.png" for number in range(6)]
    assert json.loads((out / "prepare.json").read_text())["removed"] == ["p0", "p1", "p6", "p7"]
    assert prepare(other, labels, out, settings=SMALL)["removed"] == []


def test_the_same_photographs_in_another_place_lose_nothing(tmp_path, raw, labels):
    prepare(raw, labels, tmp_path / "out", settings=SMALL)
    raw.rename(tmp_path / "moved")
    assert prepare(tmp_path / "moved", labels, tmp_path / "out", settings=SMALL)["removed"] == []


def test_labels_that_lose_rows_lose_images_only_when_told(tmp_path, raw, labels):
    prepare(raw, labels, tmp_path / "out", settings=SMALL)
    fewer = label(tmp_path, **{f"p{number}": number % 2 for number in range(7)})
    with pytest.raises(ValueError, match="holds 1 images of an earlier run"):
        prepare(raw, fewer, tmp_path / "out", settings=SMALL)
    assert prepare(raw, fewer, tmp_path / "out", settings=SMALL, replace=True)["removed"] == ["p7"]


def test_sources_of_given_paths(tmp_path):
    one, other = tmp_path / "a" / "x.png", tmp_path / "b" / "y_downsampled.jpg"
    for path in (one, other):
        save(path)
    assert sources_of([one, other], tmp_path) == {"x": one, "y": other}
    assert sources_of([one, other], tmp_path, ["b/y"]) == {"b/y": other, "x": one}


def test_diagnoses_of_ham10000_are_labels_where_no_file_has_others(tmp_path):
    head = "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
    rows = [
        "HAM_1,I_1,mel,histo,50,male,back",
        "HAM_2,I_2,nv,follow_up,,female,face",
        "HAM_2,I_3,akiec,histo,4,male,ear",
    ]
    ham = tmp_path / "ham.csv"
    ham.write_text(head + "\n".join(rows))
    read = read_labels(ham)
    table = read.table.set_index("image")
    assert table["target"].to_dict() == {"I_1": 1, "I_2": 0, "I_3": 1}
    assert table["diagnosis"].tolist() == ["MEL", "NV", "AKIEC"]
    assert table["lesion_id"].tolist() == ["HAM_1", "HAM_2", "HAM_2"]
    assert read.files[["kind", "malignant"]].to_numpy().tolist() == [["labels", 2]]
    assert read_labels(ham, "melanoma").table["target"].tolist() == [1, 0, 0]
    # Beside ground truth it tells of lesions, and labels what that leaves out.
    truth = tmp_path / "truth.csv"
    truth.write_text("image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nI_1,0,1,0,0,0,0,0\nI_2,0,1,0,0,0,0,0\n")
    table = read_labels([ham, truth]).table.set_index("image")
    assert table["target"].to_dict() == {"I_1": 0, "I_2": 0, "I_3": 1}
    assert table["lesion_id"].to_dict() == {"I_1": "HAM_1", "I_2": "HAM_2", "I_3": "HAM_2"}
    truth.write_text(truth.read_text() + "I_3,0,1,0,0,0,0,0\n")
    read = read_labels([ham, truth])
    assert read.table["target"].sum() == 0
    assert read.files["kind"].tolist() == ["metadata", "labels"]
    ham.write_text(head + "HAM_1,I_1,melanoma,histo,50,male,back\n")
    with pytest.raises(ValueError, match="line 2: dx must be one of mel, nv, .* Received: 'melanoma'"):
        read_labels(ham)
