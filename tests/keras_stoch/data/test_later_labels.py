"""Label files that came after 2020: ISIC 2024, MILK10k, the archive's own tables, and rules by source."""

import pandas as pd
import pytest

from keras_stoch.cli import main, make_parser
from keras_stoch.commands.options import malignant_rule
from keras_stoch.data.diagnoses import classify
from keras_stoch.data.labels import merge_labels, read_labels

KAGGLE = (
    "isic_id,target,patient_id,age_approx,sex,anatom_site_general,clin_size_long_diam_mm,image_type,tbp_tile_type,"
    "tbp_lv_A,attribution,copyright_license,lesion_id,iddx_full,iddx_1,iddx_2,iddx_3,iddx_4,iddx_5,mel_thick_mm\n"
    "ISIC_0015670,0,IP_1235828,60.0,male,lower extremity,3.04,TBP tile: close-up,3D: white,20.2,MSK,CC-BY,,Benign,"
    "Benign,,,,,\n"
    "ISIC_0104229,1,IP_5,50,female,head/neck,2,TBP tile: close-up,3D: XP,1,MSK,CC-BY,IL_7,,Malignant,"
    "Malignant melanocytic proliferations (Melanoma),Melanoma in situ,,,NA\n"
    "ISIC_0157834,1,IP_5,NA,NA,,2,TBP tile: close-up,3D: XP,1,MSK,CC-BY,IL_8,,Malignant,"
    'Malignant adnexal epithelial proliferations - Follicular,Basal cell carcinoma,"Basal cell carcinoma, Nodular",,\n'
    "ISIC_0157999,0,IP_6,30,male,,2,TBP tile: close-up,3D: XP,1,MSK,CC-BY,IL_9,,Indeterminate,"
    "Indeterminate epidermal proliferations,Solar or actinic keratosis,,,\n"
)
ARCHIVE = (
    "isic_id,attribution,copyright_license,age_approx,anatom_site_1,anatom_site_general,diagnosis_1,diagnosis_2,"
    "diagnosis_3,diagnosis_4,diagnosis_confirm_type,image_type,lesion_id,patient_id,sex,a_column_of_tomorrow\n"
    "ISIC_1,A,CC-0,85,Trunk,posterior torso,Benign,Benign melanocytic proliferations,Nevus,,,dermoscopic,IL_1,IP_1,"
    "male,\n"
    "ISIC_2,A,CC-0,35,Head,head/neck,Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma Invasive,"
    '"Melanoma Invasive, Superficial spreading",histopathology,dermoscopic,IL_2,,female,\n'
    "ISIC_3,A,CC-0,,,,Indeterminate,Indeterminate melanocytic proliferations,Atypical melanocytic neoplasm,,,"
    "dermoscopic,IL_3,,,x\n"
    "ISIC_4,A,CC-0,,,,Indeterminate,Indeterminate epidermal proliferations,Solar or actinic keratosis,,,"
    "dermoscopic,,,,\n"
    "ISIC_5,A,CC-0,,,,,,,,,dermoscopic,IL_5,,,\n"
    "ISIC_6,A,CC-0,,,,Malignant,Lymphocytic proliferations - T-Cell/NK,,,,dermoscopic,IL_6,,,\n"
    "ISIC_7,A,CC-0,,,,Benign,Flat melanotic pigmentations - not melanocytic nevus,Solar lentigo,,,dermoscopic,IL_7,,,\n"
)
MILK = "lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC\n"
MILK += "IL_0000652,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0\n"
MILK += "IL_0003176,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0\n"
MILK += "IL_0004688,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0\n"
MILK_METADATA = (
    "lesion_id,image_type,isic_id,attribution,copyright_license,image_manipulation,age_approx,sex,skin_tone_class,site,"
    "MONET_ulceration_crust\n"
    "IL_0000652,clinical: close-up,ISIC_8149219,MILK,CC-BY-NC,,70,male,3,head_neck_face,0.1\n"
    "IL_0000652,dermoscopic,ISIC_4671410,MILK,CC-BY-NC,,70,male,3,head_neck_face,0.2\n"
    "IL_0003176,dermoscopic,ISIC_1,MILK,CC-BY-NC,,30,female,2,trunk,0\n"
    "IL_0004688,dermoscopic,ISIC_2,MILK,CC-BY-NC,,,,2,trunk,0\n"
    "IL_0009999,dermoscopic,ISIC_3,MILK,CC-BY-NC,,,,2,trunk,0\n"
)


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def targets(labels):
    return dict(zip(labels.table["image"], labels.table["target"], strict=True))


def test_isic_2024_as_it_is_downloaded(tmp_path):
    labels = read_labels(write(tmp_path, train_metadata=KAGGLE))
    images = merge_labels(labels).set_index("image")
    assert images["target"].tolist() == [0, 1, 1, 0]  # the label as it is, indeterminate ones benign
    assert images["years"].unique().tolist() == ["2024"]
    assert images.loc["ISIC_0104229", ["patient_id", "lesion_id", "sex", "site", "diagnosis"]].tolist() == [
        *("IP_5", "IL_7", "female", "head/neck", "MEL")
    ]
    assert pd.isna(images.loc["ISIC_0157834", "age"])
    (file,) = labels.files.to_dict("records")
    assert (file["layout"], file["malignant"], file["undecided"]) == ("2024 metadata", 2, 0)
    assert file["rule"] == "its own label"
    assert targets(read_labels(tmp_path, "melanoma"))["ISIC_0157834"] == 0
    assert targets(read_labels(tmp_path, ["AK"])) == {
        "ISIC_0015670": 0,
        "ISIC_0104229": 0,
        "ISIC_0157834": 0,
        "ISIC_0157999": 1,
    }


def test_isic_2024_in_its_three_official_files(tmp_path):
    truth = "isic_id,malignant\nISIC_0015670,0.0\nISIC_0104229,1.0\nISIC_0157834,1.0\nISIC_0157999,0.0\n"
    table = [line.split(",") for line in KAGGLE.splitlines()]
    supplement = "isic_id,lesion_id,iddx_full,iddx_1,iddx_2,iddx_3\n" + "".join(
        f"{row[0]},IL,x,{first},,{third}\n"
        for row, first, third in zip(
            table[1:],
            ("Benign", "Malignant", "Malignant", "Indeterminate"),
            ("", "Melanoma in situ", "Basal cell carcinoma", ""),
            strict=True,
        )
    )
    inputs = "isic_id,patient_id,age_approx,sex,copyright_license\nISIC_0015670,IP_1,60,male,CC-BY\n"
    write(tmp_path, a=truth, b=supplement, c=inputs)
    labels = read_labels(tmp_path)
    assert labels.files["kind"].tolist() == ["labels", "metadata", "metadata"]
    images = merge_labels(labels).set_index("image")
    assert images["target"].tolist() == [0, 1, 1, 0]
    assert images.loc["ISIC_0015670", "patient_id"] == "IP_1"
    # By another rule the label does not tell which malignancy, and the supplement does.
    labels = read_labels(tmp_path, "melanoma")
    assert targets(labels) == {"ISIC_0015670": 0, "ISIC_0104229": 1, "ISIC_0157834": 0, "ISIC_0157999": 0}
    assert labels.files["undecided"].tolist()[0] == 2
    (tmp_path / "b.csv").unlink()
    assert targets(read_labels(tmp_path, "melanoma")) == {"ISIC_0015670": 0, "ISIC_0157999": 0}


def test_the_archives_own_tables(tmp_path):
    labels = read_labels(write(tmp_path, a=ARCHIVE))
    assert targets(labels) == {"ISIC_1": 0, "ISIC_2": 1, "ISIC_4": 1, "ISIC_6": 1, "ISIC_7": 0}
    (file,) = labels.files.to_dict("records")
    assert (file["layout"], file["kind"], file["rows"], file["malignant"], file["undecided"]) == (
        *("archive table", "labels", 7),
        *(3, 2),
    )
    assert "AK" in file["rule"].split()
    images = merge_labels(labels).set_index("image")
    assert images["diagnosis"].to_dict() == {
        "ISIC_1": "NV", "ISIC_2": "MEL", "ISIC_4": "AK", "ISIC_6": "MAL_OTH", "ISIC_7": "BKL"
    }  # fmt: skip
    assert images.loc["ISIC_1", ["patient_id", "lesion_id", "age", "sex"]].tolist() == ["IP_1", "IL_1", 85, "male"]
    assert targets(read_labels(tmp_path, {"archive": ["MEL", "MAL_OTH"]})) == {
        "ISIC_1": 0, "ISIC_2": 1, "ISIC_4": 0, "ISIC_6": 1, "ISIC_7": 0
    }  # fmt: skip


def test_the_archives_tables_before_its_taxonomy(tmp_path):
    text = "isic_id,attribution,copyright_license,age_approx,benign_malignant,diagnosis,sex,site\n"
    rows = ("benign,nevus", "malignant,melanoma", "indeterminate,", ",", "benign,actinic keratosis",
            "indeterminate/malignant,AIMP", "malignant,squamous cell carcinoma")  # fmt: skip
    text += "".join(f"ISIC_{n},A,CC-0,50,{row},male,back\n" for n, row in enumerate(rows))
    labels = read_labels(write(tmp_path, a=text))
    assert targets(labels) == {"ISIC_0": 0, "ISIC_1": 1, "ISIC_4": 0, "ISIC_6": 1}
    assert labels.files["undecided"].tolist() == [3]
    alone = "isic_id,benign_malignant\nISIC_0,malignant\n"
    assert read_labels(write(tmp_path, a=alone)).table["diagnosis"].tolist() == ["MAL_OTH"]


def test_the_archive_is_metadata_beside_a_challenge(tmp_path):
    """What a challenge says of an image stands, as it is with HAM10000."""
    write(tmp_path, a=ARCHIVE, b="ISIC_1,malignant\nISIC_0000009,benign\n".replace("ISIC_1,", "ISIC_2,"))
    labels = read_labels(tmp_path)
    assert dict(zip(labels.files["layout"], labels.files["rows"], strict=True))["archive table"] == 7
    images = merge_labels(labels).set_index("image")
    assert images.loc["ISIC_2", "years"] == "2016"
    assert images.loc["ISIC_2", "sex"] == "female"
    assert len(images) == 6


def test_milk10k_has_labels_by_lesion(tmp_path):
    write(tmp_path, truth=MILK, metadata=MILK_METADATA)
    labels = read_labels(tmp_path)
    assert targets(labels) == {"ISIC_8149219": 1, "ISIC_4671410": 1, "ISIC_1": 0, "ISIC_2": 1}
    images = merge_labels(labels).set_index("image")
    assert images.loc["ISIC_4671410", ["lesion_id", "sex", "age", "diagnosis"]].tolist() == [
        *("IL_0000652", "male", 70, "BCC")
    ]
    assert images.loc["ISIC_2", "diagnosis"] == "SCCKA"
    by_rule = read_labels(tmp_path, {"MILK10k": ["BCC"]})
    assert targets(by_rule) == {"ISIC_8149219": 1, "ISIC_4671410": 1, "ISIC_1": 0, "ISIC_2": 0}
    rule = by_rule.files.set_index("layout").loc["MILK10k ground truth", "rule"]
    assert rule == "BCC"
    supplement = "isic_id,diagnosis_full,diagnosis_confirm_type,invasion_thickness_interval\nISIC_1,Nevus,histo,\n"
    assert len(read_labels(write(tmp_path, supplement=supplement)).table) == 4
    with pytest.raises(ValueError, match=r"truth.csv has labels by lesion, .*MILK10k_Training_Metadata.csv goes with"):
        read_labels(tmp_path / "truth.csv")


def test_ham10000_with_the_columns_that_matter(tmp_path):
    labels = read_labels(write(tmp_path, a="image_id,dx\nISIC_0027419,bkl\nISIC_0025030,akiec\n"))
    assert targets(labels) == {"ISIC_0027419": 0, "ISIC_0025030": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ARCHIVE.replace(",Benign,Benign mel", ",Harmless,Benign mel"),
            "line 2: diagnosis_1 must be Benign, .* 'Harmless'",
        ),
        (KAGGLE.replace("ISIC_0015670,0", "ISIC_0015670,1"), "line 2: target is 1, but iddx_1 says 'Benign'"),
        (KAGGLE.replace("ISIC_0015670,0", "ISIC_0015670,2"), "line 2: target must be 0 or 1. Received: '2'"),
        (MILK.replace("0.0,1.0,0.0", "1.0,1.0,0.0", 1), "line 2: one of MEL, .* must be 1. Received: "),
        ("isic_id,something\nISIC_1,2\n", "unknown columns 'isic_id,something'.* a plain one can be made"),
        ("isic_id,copyright_license\nISIC_1,CC-0\n", "None of the files holds ground truth"),
        ("isic_id,diagnosis_1\nISIC_1,\n", "None of the files holds ground truth"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_labels(write(tmp_path, a=text))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("Malignant", "Malignant epidermal proliferations", "Squamous cell carcinoma in situ"), "SCC"),
        (("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma metastasis"), "MEL"),
        (("Malignant", "Malignant soft tissue proliferations - Vascular", "Angiosarcoma"), "MAL_OTH"),
        (("Malignant", "Collision - At least one malignant proliferation"), "MAL_OTH"),
        (("Benign", "Benign soft tissue proliferations - Vascular", ""), "VASC"),
        (("Benign", "Benign soft tissue proliferations - Fibro-histiocytic", "Scar"), "BEN_OTH"),
        (("Benign", "Benign epidermal proliferations", "Lichen planus like keratosis"), "BKL"),
        (("Benign", "Inflammatory or infectious diseases", "Psoriasis"), "INF"),
        (("benign", "Benign melanocytic proliferations", ""), "NV"),
        (("Indeterminate", "Indeterminate melanocytic proliferations", "Nevus or melanoma"), None),
        (("indeterminate/benign", "", "nevus"), None),
        (("", "", "melanoma"), None),
    ],
)
def test_diagnoses_as_classes(words, expected):
    """No name makes a benign lesion malignant, or an indeterminate one decided."""
    assert classify(*words) == expected


def test_the_audit_tells_the_rules(tmp_path, capsys):
    write(tmp_path, a=ARCHIVE, b=KAGGLE)
    assert main(["audit", str(tmp_path), "--malignant", "archive=MEL,BCC", "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "malignant by: BCC MEL; 2 rows say neither" in told
    assert "malignant by: its own label\n" in told


def test_rules_of_the_command_line(tmp_path):
    def given(text):
        return malignant_rule(make_parser().parse_args(["audit", "labels", "--malignant", text]))

    assert given("MEL,BCC") == ["MEL", "BCC"]
    assert given("melanoma") == "melanoma"
    assert given("archive=MEL,BCC 2019=melanoma") == {"archive": ["MEL", "BCC"], "2019": "melanoma"}
    write(tmp_path, a=ARCHIVE)
    with pytest.raises(ValueError, match="malignant can have rules for 2016, .* archive. Received: 2031"):
        read_labels(tmp_path, {"2031": "paper"})
    with pytest.raises(ValueError, match="Received: 'CANCER'"):
        read_labels(tmp_path, {"archive": ["CANCER"]})
    years = {2019: "melanoma"}  # a year may be a number
    text = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\nISIC_8,0,0,1,0,0,0,0,0,0\n"
    write(tmp_path, b=text)
    assert targets(read_labels(tmp_path, years))["ISIC_8"] == 0
    assert targets(read_labels(tmp_path, years))["ISIC_4"] == 1
