"""Subgroups as the manifest knows them, and whether uncertainty tells errors."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from keras_stoch.evaluation.metrics import measure
from keras_stoch.evaluation.subgroups import FEWEST, by_subgroup, memberships, told_uncertainty, uncertainty


@pytest.fixture
def images(rng):
    count = 200
    targets = np.arange(count) % 2
    return pd.DataFrame(
        {
            "target": targets,
            "logit": rng.normal(0, 1, count) + targets,
            "group": np.arange(count) // 2,
            "sex": ["male", "Female", None, "female "] * 50,
            "age": [25.0, 30, 69.9, np.nan, 70] * 40,
            "years": ["2018", "2018 2019", "", np.nan] * 50,
            "source": ["clinic_a/x.jpg", "clinic_a/y.PNG", "clinic_b/deep/z.jpeg", "w.jpg"] * 50,
        }
    )


def test_values_of_the_manifest(images):
    found = {}
    for attribute, value, inside in memberships(images):
        found.setdefault(attribute, {})[value] = int(inside.sum())
    assert found == {
        "sex": {"female": 100, "male": 50, "unknown": 50},
        "age": {"under 30": 40, "30 to 49": 40, "50 to 69": 40, "70 and over": 40, "unknown": 40},
        "year": {"2018": 100, "2019": 50, "unknown": 100},  # an image of both is in both
        "source": {"clinic_a": 100, "clinic_b/deep": 50, "top folder": 50},
    }


def test_what_is_unknown_or_the_same_for_all_is_left_out(images):
    images["sex"], images["years"], images["source"], images["site"] = (
        "male",
        np.nan,
        "bcn20000",
        [2017.0, 2018.0] * 100,
    )
    assert [(a, v) for a, v, _ in memberships(images) if a != "age"] == [("site", "2017.0"), ("site", "2018.0")]
    assert memberships(images[["target", "logit"]]) == []
    assert by_subgroup(images[["target", "logit"]]).empty
    # Years that pandas read as numbers.
    images["years"] = [2017.0, 2018.0] * 100
    assert {v for a, v, _ in memberships(images) if a == "year"} == {"2017", "2018"}


def test_a_subgroup_is_measured_as_if_it_were_alone(images):
    table = by_subgroup(images, temperature=2.0, threshold=0.5, bootstraps=200, seed=1)
    row = table[(table["attribute"] == "sex") & (table["value"] == "female")].iloc[0]
    part = images[images["sex"].fillna("").str.strip().str.lower() == "female"]
    assert (row["images"], row["malignant"], row["groups"]) == (100, int(part["target"].sum()), part["group"].nunique())
    # All of them are malignant.
    assert row["note"] == "too few: 0 benign; 10 needed"
    row = table[(table["attribute"] == "age") & (table["value"] == "30 to 49")].iloc[0]
    part = images[images["age"] == 30]
    alone = measure(
        *(part["target"], part["logit"], part["group"]), temperature=2.0, threshold=0.5, bootstraps=200, seed=1
    )
    for name in ("auc", "ece", "sensitivity", "specificity"):
        assert row[name] == alone.loc[name, "value"]
        assert row[f"{name}_low"] == alone.loc[name, "low"]
        assert row[f"{name}_high"] == alone.loc[name, "high"]
    assert row["auc"] == pytest.approx(roc_auc_score(part["target"], part["logit"]))


@pytest.mark.parametrize(
    ("malignant", "benign", "per_group", "told"),
    [
        (FEWEST, FEWEST, 1, ""),
        (FEWEST - 1, FEWEST, 1, "too few: 9 malignant; 10 needed"),
        (FEWEST, FEWEST - 1, 1, "too few: 9 benign; 10 needed"),
        (0, 3, 1, "too few: 0 malignant, 3 benign, 3 groups; 10 needed"),
        (15, 15, 4, "too few: 8 groups; 10 needed"),  # eight patients, however many images of theirs
    ],
)
def test_too_few_are_said_and_not_computed(rng, malignant, benign, per_group, told):
    count = malignant + benign
    part = pd.DataFrame(
        {"target": [1] * malignant + [0] * benign, "group": np.arange(count) // per_group, "sex": "male"}
    )
    rest = pd.DataFrame({"target": [0, 1] * 20, "group": 1000 + np.arange(40), "sex": "female"})
    images = pd.concat([part, rest], ignore_index=True)
    images["logit"] = rng.normal(0, 1, len(images))
    row = by_subgroup(images, bootstraps=50).set_index("value").loc["male"]
    assert row["note"] == told
    assert np.isnan(row["auc"]) == np.isnan(row["auc_low"]) == np.isnan(row["brier"]) == bool(told)


def uncertain(rng, tells):
    """1000 images; where `tells`, the spread is larger for those that are wrong."""
    targets = rng.integers(0, 2, 1000)
    logits = rng.normal(0, 1, 1000) + 1.5 * (2 * targets - 1)
    wrong = (logits >= 0) != (targets == 1)
    spread = rng.random(1000) + (0.5 * wrong if tells else 0)
    return pd.DataFrame({"target": targets, "logit": logits, "spread": spread}), wrong


def test_spread_that_tells_errors_and_spread_that_does_not(rng):
    for tells in (True, False):
        images, wrong = uncertain(rng, tells)
        found = uncertainty(images, bootstraps=300)
        assert found["errors"] == wrong.sum()
        assert found["spread"]["value"] == pytest.approx(roc_auc_score(wrong, images["spread"]))
        assert (found["spread"]["low"] > 0.6) == tells
        assert (found["spread"]["low"] < 0.5 < found["spread"]["high"]) != tells
        assert found["nearness"]["value"] == pytest.approx(roc_auc_score(wrong, -images["logit"].abs()))
        assert sum(part["errors"] for part in found["fifths"]) == wrong.sum()
        means = [part["mean_spread"] for part in found["fifths"]]
        assert means == sorted(means)
        assert f"probability {found['spread']['value']:.3f}" in told_uncertainty(found)


def test_errors_are_those_at_the_threshold(rng):
    images, _ = uncertain(rng, False)
    found = uncertainty(images, 2.0, bootstraps=10)
    assert found["errors"] == ((images["logit"] >= 2) != (images["target"] == 1)).sum()
    assert found["nearness"]["value"] == pytest.approx(
        roc_auc_score((images["logit"] >= 2) != (images["target"] == 1), -(images["logit"] - 2).abs())
    )


def test_too_few_errors_are_said():
    images = pd.DataFrame({"target": [0, 1] * 10, "logit": [-1.0, 1] * 10, "spread": 0.1})
    found = uncertainty(images)
    assert "spread" not in found
    assert told_uncertainty(found).endswith("too few: 0 wrong of 20; 10 wrong and 10 right are needed")
