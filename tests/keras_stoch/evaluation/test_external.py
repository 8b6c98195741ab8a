"""External validation: what is stored is applied as it is, and the change from internal validation has an interval."""

import numpy as np
import pandas as pd
import pytest

from keras_stoch.evaluation.calibration import calibrate
from keras_stoch.evaluation.external import change, same_images, with_hashes

ABOUT = {"data": "prepared", "split": "validation", "passes": 1, "weights": "w"}
HASH, NEAR, FAR = "00" * 32, "0f" + "00" * 31, "ff" * 32


def sample(rng, count=300, shift=1.0, start=0, groups=None):
    targets = np.arange(count) % 2
    return pd.DataFrame(
        {
            "image": [f"i{n + start}" for n in range(count)],
            "target": targets,
            "logit": rng.normal(0, 1, count) + shift * targets,
            "group": np.arange(count) if groups is None else groups,
            "hash": HASH,
        }
    )


def test_images_are_the_same_by_name_target_and_look():
    internal = pd.DataFrame({"image": ["a", "b", "c", "d", None], "target": [0, 1, 0, 1, 0], "hash": HASH})
    external = pd.DataFrame(
        {"image": ["d", "c", "b", "a", None], "target": [1, 1, 1, 0, 0], "hash": [HASH, HASH, FAR, NEAR, HASH]}
    )
    # c has another target, b is another picture, and a is a copy of four different bits.
    assert same_images(internal, external).tolist() == [[0, 3], [3, 0]]
    assert len(same_images(internal.drop(columns="image"), external)) == 0


def test_hashes_are_made_where_the_manifest_has_none(lesions):
    manifest = pd.read_csv(lesions / "manifest.csv").head(3)
    files = [lesions / name for name in manifest["file"]]
    made = with_hashes(manifest, files)["hash"]
    assert all(len(value) == 64 for value in made)
    assert len(set(made)) == 3
    manifest["hash"] = [HASH, None, HASH]
    assert with_hashes(manifest, files)["hash"].tolist() == [HASH, made[1], HASH]
    assert with_hashes(manifest.drop(columns="hash"), files)["hash"].tolist() == made.tolist()


def test_the_same_scores_on_the_same_images_change_nothing(rng):
    images = sample(rng, 100)
    known = calibrate(images, sensitivity=0.9, **ABOUT)
    table, paired = change(images, images.sample(frac=1, random_state=0), known, bootstraps=100)
    assert paired == 100
    np.testing.assert_allclose(table[["change", "low", "high"]], 0, atol=1e-12)
    assert table.loc["sensitivity", "external"] == known.sensitivity


def test_pairing_narrows_the_interval(rng):
    """The same images with a little noise on their logits, once under their names and once under others."""
    internal = sample(rng)
    external = internal.assign(logit=internal["logit"] + rng.normal(0, 0.2, len(internal)))
    known = calibrate(internal, **ABOUT)
    width = []
    for names, pairs in ((internal["image"], 300), ("x" + internal["image"], 0)):
        table, paired = change(internal, external.assign(image=names), known, bootstraps=500)
        assert paired == pairs
        width.append(table.loc["auc", "high"] - table.loc["auc", "low"])
    assert width[0] < 0.4 * width[1]


def test_a_fall_is_found_and_what_is_stored_is_not_refitted(rng):
    internal = sample(rng, shift=2.0)
    external = sample(rng, shift=0.7, start=1000).assign(logit=lambda table: table["logit"] * 3)
    known = calibrate(internal, specificity=0.8, **ABOUT)
    table, paired = change(internal, external, known, bootstraps=500)
    assert paired == 0
    assert table.loc["auc", "high"] < 0
    assert table.loc["log_loss", "low"] > 0
    called = external["logit"] >= known.threshold_logit
    assert table.loc["specificity", "external"] == pytest.approx((~called[external["target"] == 0]).mean())
    assert table.loc["specificity", "internal"] == pytest.approx(known.specificity)
    p = 1 / (1 + np.exp(-external["logit"] / known.temperature))
    assert table.loc["brier", "external"] == pytest.approx(((p - external["target"]) ** 2).mean())


def test_the_interval_of_independent_sets_is_the_bootstraps(rng):
    """Standard error of a difference of means, here of Brier scores, whose formula is known."""
    internal, external = sample(rng), sample(rng, start=5000)
    known = calibrate(internal, **ABOUT)
    table, _ = change(internal, external, known, bootstraps=4000)
    variance = 0
    for side in (internal, external):
        p = known.probability(side["logit"])
        variance += np.var((p - side["target"]) ** 2) / len(side)
    width = table.loc["brier", "high"] - table.loc["brier", "low"]
    assert width == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.08)


def test_groups_that_share_an_image_are_drawn_together(rng):
    """Two images of one lesion, of which the other set holds one: three rows in one draw."""
    internal = sample(rng, 60, groups=np.arange(60) // 2)
    external = internal.iloc[::2].assign(group=np.arange(30))
    known = calibrate(internal, **ABOUT)
    table, paired = change(internal, external.assign(target=internal["target"].iloc[::2]), known, bootstraps=50)
    assert paired == 30
    assert table.loc["auc", "undefined"] == 50  # the even rows are all benign
    assert table["undefined"].drop(["auc", "partial_auc", "average_precision"]).max() == 0
