"""Properties of the label reader: what is written is what is read, and whatever else is refused with file and line."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_stoch.data.labels import RULES, merge_labels, read_labels
from keras_stoch.data.layouts import CLASSES
from tests.keras_stoch.properties import FEW

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True).filter(
    lambda n: not n.endswith("_downsampled")
)
# Of spreadsheets, editors and systems.
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
ENDS = ("\n", "\r\n", "\r")
COLUMNS_2018 = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def written(folder, rows, *, name="labels.csv", encoding="utf-8", end="\n", delimiter=",", quoting=csv.QUOTE_MINIMAL):
    """A file of these rows, as programs write them."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)
    path = folder / name
    path.write_bytes(text.getvalue().encode(encoding))
    return path


@pytest.mark.slow
@FEW
@given(
    labels=st.dictionaries(NAMES, st.booleans(), min_size=1, max_size=20),
    suffix=st.sampled_from(["", ".jpg", ".JPG", ".png"]),
    bits=st.sampled_from([("0", "1"), ("0.0", "1.0"), (" 0", "1 ")]),
    encoding=st.sampled_from(ENCODINGS),
    end=st.sampled_from(ENDS),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    turned=st.booleans(),
)
def test_a_plain_table_is_read_as_it_was_written(
    tmp_path, labels, suffix, bits, encoding, end, delimiter, quoting, turned
):
    rows = [("image", "target"), *((name + suffix, bits[target]) for name, target in labels.items())]
    rows = [row[::-1] for row in rows] if turned else rows
    path = written(tmp_path, rows, encoding=encoding, end=end, delimiter=delimiter, quoting=quoting)
    table = read_labels(path).table
    assert dict(zip(table["image"], table["target"].astype(bool), strict=True)) == labels


@pytest.mark.slow
@FEW
@given(
    diagnoses=st.dictionaries(NAMES, st.sampled_from(COLUMNS_2018), min_size=1, max_size=20),
    order=st.permutations(COLUMNS_2018),
    rule=st.one_of(st.sampled_from(sorted(RULES)), st.sets(st.sampled_from(CLASSES), min_size=1)),
)
def test_targets_follow_from_the_diagnoses_and_the_rule(tmp_path, diagnoses, order, rule):
    rows = [[name, *(f"{float(column == of):.1f}" for column in order)] for name, of in diagnoses.items()]
    table = read_labels(written(tmp_path, [["image", *order], *rows]), rule).table
    malignant = RULES[rule] if isinstance(rule, str) else rule
    assert dict(zip(table["image"], table["diagnosis"], strict=True)) == diagnoses
    assert dict(zip(table["image"], table["target"], strict=True)) == {
        name: int(of in malignant) for name, of in diagnoses.items()
    }


@FEW
@given(labels=st.dictionaries(NAMES, st.booleans(), min_size=2, max_size=12), data=st.data())
def test_one_wrong_row_is_refused_with_its_line(tmp_path, labels, data):
    rows = [("image", "target"), *((name, str(int(target))) for name, target in labels.items())]
    line = data.draw(st.integers(1, len(rows) - 1))
    name, target = rows[line]
    other = rows[1 if line > 1 else 2][0]
    wrong = data.draw(
        st.sampled_from(
            [(name,), (name, target, ""), (name, "2"), (name, ""), (name, "yes"), ("../" + name, target), ("", target)]
        )
    )
    rows[line] = wrong
    with pytest.raises(ValueError, match=f"labels.csv, line {line + 1}: "):
        read_labels(written(tmp_path, rows))
    rows[line] = (other, target)
    with pytest.raises(ValueError, match=f"labels.csv, line {max(line + 1, 3)}: {re.escape(other)} stands in line"):
        read_labels(written(tmp_path, rows))


@pytest.mark.slow
@FEW
@given(
    years=st.lists(
        st.tuples(st.dictionaries(st.sampled_from("abcdef"), st.booleans(), min_size=1), st.sampled_from([2017, 2018])),
        min_size=1,
        max_size=2,
        unique_by=lambda part: part[1],
    ),
    own=st.dictionaries(st.sampled_from("abcdef"), st.booleans()),
)
def test_the_latest_decides_and_a_table_of_ones_own_before_all(tmp_path, years, own):
    files, decided, listed = [], {}, {}
    for labels, year in sorted(years, key=lambda part: part[1]):
        decided |= labels
        for name, target in labels.items():
            listed.setdefault(name, []).append(target)
        if year == 2017:
            rows = [("image_id", "melanoma", "seborrheic_keratosis"), *((n, int(t), 0) for n, t in labels.items())]
        else:
            of = {True: "MEL", False: "NV"}
            rows = [
                ("image", *COLUMNS_2018),
                *((n, *(int(column == of[t]) for column in COLUMNS_2018)) for n, t in labels.items()),
            ]
        files.append(written(tmp_path, rows, name=f"{year}.csv"))
    if own:
        decided |= own
        for name, target in own.items():
            listed.setdefault(name, []).append(target)
        files.insert(0, written(tmp_path, [("image", "target"), *((n, int(t)) for n, t in own.items())]))
    labels = read_labels(files)
    merged = merge_labels(labels)
    assert merged["image"].tolist() == sorted(decided)
    assert dict(zip(merged["image"], merged["target"].astype(bool), strict=True)) == decided
    conflicting = {name for name, targets in listed.items() if len(set(targets)) > 1}
    assert set(merged["image"][merged["conflict"]]) == conflicting
    assert set(merge_labels(labels, "drop")["image"]) == set(decided) - conflicting
    assert dict(zip(merged["image"], merged["rows"], strict=True)) == {name: len(of) for name, of in listed.items()}


@FEW
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.text(alphabet='image,target"01\r\n;\t\0 ', max_size=120).map(
            lambda text: ("image,target\n" + text).encode()
        ),
    )
)
def test_any_bytes_are_read_or_refused_with_the_file(tmp_path, content):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    try:
        table = read_labels(path).table
    except ValueError as refused:
        told = str(refused)
    else:
        told = f"{path} is read"
        assert table["target"].isin([0, 1]).all()
        assert table["image"].str.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*").all()
        assert table["image"].is_unique
    assert str(path) in told
    assert len(told) < 3000
