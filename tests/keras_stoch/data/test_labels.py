"""Label files: the official layouts, whole where they are at hand, and what must be refused."""

import os
import re
from pathlib import Path

import pytest

from keras_stoch.data.labels import merge_labels, read_labels

EXAMPLES = {
    "2016": "ISIC_0000000,benign\r\nISIC_0000002,malignant\r\n",
    "2016 test": "ISIC_0000003,0.0\r\nISIC_0000004,1.0\r\n",
    "2017": "image_id,melanoma,seborrheic_keratosis\r\nISIC_0000002,1.0,0.0\r\nISIC_0000005,0.0,1.0\r\n",
    "2018": "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_0024306,0.0,1.0,0.0,0.0,0.0,0.0,0.0\n"
    "ISIC_0024307,0.0,0.0,0.0,1.0,0.0,0.0,0.0\n",
    "2019": "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\nISIC_0000002_downsampled,1.0,0,0,0,0,0,0,0,0\n"
    "ISIC_0024306,0,1,0,0,0,0,0,0,0\nISIC_0099999,0,0,0,0,0,0,0,1,0\n",
    "2019 metadata": "image,age_approx,anatom_site_general,lesion_id,sex\nISIC_0024306,55,,HAM_0000550,male\n",
    "2020": "image_name,patient_id,lesion_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,"
    "target\nISIC_2637011,IP_7279968,IL_1,male,45,head/neck,unknown,benign,0\n"
    "ISIC_0015719,IP_3075186,IL_2,female,45,upper extremity,melanoma,malignant,1\n",
    "2020 duplicates": "image_name_1,image_name_2\nISIC_2637011,ISIC_0015719\n",
}


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name.replace(' ', '_')}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_layouts_are_told_apart_by_content_and_joined(tmp_path):
    for number, text in enumerate(EXAMPLES.values()):
        (tmp_path / f"{number}.csv").write_bytes(text.encode())
    labels = read_labels(tmp_path)
    assert labels.files["layout"].tolist() == [
        *("2016 ground truth", "2016 ground truth", "2017 ground truth", "2018 ground truth", "2019 ground truth"),
        *("2019 metadata", "2020 ground truth", "2020 duplicates"),
    ]
    assert labels.files["malignant"].tolist()[:5] == [1, 1, 1, 1, 2]
    images = merge_labels(labels).set_index("image")
    assert images.loc["ISIC_0000002", "years"] == "2016 2017 2019"  # 2019 lists it as downsampled
    assert images.loc["ISIC_0024306", "lesion_id"] == "HAM_0000550"
    assert images.loc["ISIC_0024306", "age"] == 55
    assert images["target"].sum() == 5
    assert labels.duplicates[["first", "second"]].values.tolist() == [["ISIC_2637011", "ISIC_0015719"]]


def test_another_rule(tmp_path):
    write(tmp_path, a=EXAMPLES["2018"], b=EXAMPLES["2019"])
    melanoma = merge_labels(read_labels(tmp_path, "melanoma")).set_index("image")["target"]
    assert melanoma[melanoma == 1].index.tolist() == ["ISIC_0000002"]
    assert merge_labels(read_labels(tmp_path, ["SCC", "AKIEC"]))["target"].sum() == 2
    with pytest.raises(
        ValueError, match="malignant must be one of 'paper', 'melanoma', or classes .* Received: 'cancer'"
    ):
        read_labels(tmp_path, "cancer")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    text = EXAMPLES["2017"].replace("\r\n", end)
    labels = read_labels(write(tmp_path, a=text.encode(encoding)))
    assert labels.table["target"].tolist() == [1, 0]


def test_semicolons(tmp_path):
    assert len(read_labels(write(tmp_path, a=EXAMPLES["2018"].replace(",", ";"))).table) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\nx,1\n", "a.csv, line 1: unknown columns 'name,label'"),
        ("", "a.csv: the file is empty"),
        ("image,target\n", "a.csv: a header and no rows"),
        ("image,target\nx,1\ny,2\n", "a.csv, line 3: target must be 0 or 1. Received: '2'"),
        ("image,target\nx,1\ny,\n", "line 3: target must be 0 or 1. Received: ''"),
        ("image,target\nx,nan\n", "line 2: target must be 0 or 1"),
        ("image,target\nx,1\n\nx,1\n", "line 4: x stands in line 2 already"),
        ("image,target\nx,1,7\n", "line 2: 3 columns, the header has 2"),
        ("image,target\n../../etc/x,1\n", "line 2: '../../etc/x' is no image name"),
        ("image,target\n.hidden,1\n", "is no image name"),
        (b"image,target\nx,1\n\xff\xfe\n", "line 3: not UTF-8 text"),
        ("image,target\nx,1\n".encode("utf-16-le"), "a zero byte"),
        ('image,target\n"x,1\n', "line 2: unexpected end of data"),
        (EXAMPLES["2018"].replace("0.0,1.0", "1.0,1.0"), "line 2: one of MEL, .* Received: MEL and NV"),
        (EXAMPLES["2018"].replace("0.0,1.0", "0.0,0.0"), "line 2: one of MEL, .* must be 1. Received: none"),
        (EXAMPLES["2017"].replace("1.0,0.0", "1.0,1.0"), "line 2: both melanoma and seborrheic_keratosis"),
        (EXAMPLES["2020"].replace("benign,0", "benign,1"), "line 2: target is 1, but benign_malignant says 'benign'"),
        ("ISIC_0000000,benign\nISIC_0000001,perhaps\n", "line 2: the label must be 0 or 1. Received: 'perhaps'"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_labels(write(tmp_path, a=text))


def test_an_unknown_table_is_told_how_to_become_a_plain_one(tmp_path):
    """What the message asks for is what is read."""
    with pytest.raises(ValueError, match="a plain one can be made: a CSV with the columns image ") as told:
        read_labels(write(tmp_path, a="photo,verdict\nx,bad\n"))
    columns = re.findall(r"(image|target|patient_id|lesion_id|diagnosis|sex|age|site)", str(told.value).split("CSV")[1])
    header, row = ",".join(columns), "x.jpg,1,p,l,MEL,male,50,back"
    table = read_labels(write(tmp_path, a=f"{header}\n{row}\n")).table
    assert table.loc[0, ["image", "target", "patient_id", "age", "site"]].tolist() == ["x", 1, "p", 50, "back"]


def test_metadata_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"None of the files holds ground truth. Received: .*2019 metadata"):
        read_labels(write(tmp_path, a=EXAMPLES["2019 metadata"]))
    with pytest.raises(ValueError, match="No such label file or folder: nowhere"):
        read_labels("nowhere")


def test_conflicts(tmp_path):
    conflict = EXAMPLES["2016"].replace("malignant", "benign") + "ISIC_0000009,benign\r\n"
    labels = read_labels(write(tmp_path, a=conflict, b=EXAMPLES["2017"]))
    images = merge_labels(labels).set_index("image")
    assert images["conflict"][images["conflict"]].index.tolist() == ["ISIC_0000002"]
    assert images.loc["ISIC_0000002", "target"] == 1  # the later year's word
    assert "ISIC_0000002" not in set(merge_labels(labels, "drop")["image"])


def test_the_official_files():
    """Rows and malignant images as the challenges published them (section 4.1.5 unites them)."""
    folder = os.environ.get("ISIC_SAMPLE")
    if not folder:
        pytest.skip("needs the official label files: set ISIC_SAMPLE to a folder with labels/")
    labels = read_labels(Path(folder) / "labels")
    files = labels.files[labels.files["kind"] == "labels"].assign(name=lambda f: f["file"].map(lambda x: Path(x).name))
    counts = {row.name: (row.rows, row.malignant) for row in files.drop(columns="file").itertuples(index=False)}
    assert counts["ISBI2016_ISIC_Part3_Training_GroundTruth.csv"] == (900, 173)
    assert counts["ISBI2016_ISIC_Part3_Test_GroundTruth.csv"] == (379, 75)
    assert counts["ISIC-2017_Training_Part3_GroundTruth.csv"] == (2000, 374)
    assert counts["ISIC-2017_Validation_Part3_GroundTruth.csv"] == (150, 30)
    assert counts["ISIC-2017_Test_v2_Part3_GroundTruth.csv"] == (600, 117)
    assert counts["ISIC2018_Task3_Training_GroundTruth.csv"] == (10015, 1113 + 514 + 327)  # MEL, BCC, AKIEC
    assert counts["ISIC_2019_Training_GroundTruth.csv"] == (25331, 4522 + 3323 + 867 + 628)  # MEL, BCC, AK, SCC
    assert counts["ISIC_2020_Training_GroundTruth_v2.csv"] == (33126, 584)
    assert len(labels.duplicates) == 425
    assert (labels.table["name"] != labels.table["image"]).sum() == 2074


def test_what_macos_leaves_is_no_label_file(tmp_path):
    write(tmp_path, a="image,target\nA,1\n")
    (tmp_path / "._a.csv").write_bytes(b"\0\5\x16\7")
    assert len(read_labels(tmp_path).table) == 1


def test_words_for_missing_values_are_none(tmp_path):
    write(tmp_path, a="image,target,patient_id\nA,1,NaN\nB,0,None\nC,0,n/a\nD,1,P1\n")
    assert merge_labels(read_labels(tmp_path))["patient_id"].dropna().tolist() == ["P1"]


def test_own_labels_are_the_last_word_and_diagnoses_go_with_their_target(tmp_path):
    official = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\nISIC_0000001,1,0,0,0,0,0,0,0,0\n"
    write(tmp_path, official=official, own="image,target\nISIC_0000001,0\n")
    merged = merge_labels(read_labels(tmp_path))
    assert merged["target"].tolist() == [0]
    assert merged["conflict"].tolist() == [True]
    assert merged["diagnosis"].isna().all()  # melanoma was said with the other target


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("papers", "'paper'"),
        ("mel", "'MEL'"),
        (["MEL", "BBC"], "'BCC'"),
        ("melanomas", "'melanoma'"),
        ({"208": "paper"}, ""),
    ],
)
def test_the_nearest_rule_is_suggested(tmp_path, given, meant):
    (tmp_path / "l.csv").write_text("image,target\na,1\n")
    with pytest.raises(ValueError, match=f"Did you mean .*{meant}"):
        read_labels(tmp_path / "l.csv", given)


def test_nothing_is_suggested_for_what_is_near_to_nothing(tmp_path):
    (tmp_path / "l.csv").write_text("image,target\na,1\n")
    with pytest.raises(ValueError, match="Received: 'xylophone'$"):
        read_labels(tmp_path / "l.csv", "xylophone")
