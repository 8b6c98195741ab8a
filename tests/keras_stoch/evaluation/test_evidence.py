"""Evidence maps: coverage counted by pixels, slopes by scipy, certainty that means what it says, the true place."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import linregress, spearmanr, t

import keras_stoch
from keras_stoch.cli import main
from keras_stoch.data.synthetic import HALVES, draw_lesion, network_place
from keras_stoch.evaluation.evidence import cell_coverage, regress
from keras_stoch.evaluation.figures import coverage

IMAGE = np.zeros((64, 64, 3), np.uint8)


def random_windows(rng, draws=30, filters=5, side=60, window=(17, 23)):
    return np.stack([rng.integers(0, side - w + 1, (draws, filters)) for w in window], -1)


@pytest.mark.parametrize("cells", [4, 7])  # 7 does not divide 60
def test_coverage_is_that_of_the_pixels(rng, cells):
    windows = random_windows(rng)
    found = cell_coverage(windows, (17, 23), 60, cells)
    fine = 60 * cells  # pixels cut so that cells have whole ones
    for draw in (0, 7):
        pixels = coverage(windows[draw], (17, 23), (60, 60))
        pixels = np.repeat(np.repeat(pixels, cells, 0), cells, 1)
        expected = pixels.reshape(cells, fine // cells, cells, fine // cells).mean((1, 3))
        np.testing.assert_allclose(found[draw], expected, atol=1e-12)


def test_effects_and_intervals_are_scipys(rng):
    over = cell_coverage(random_windows(rng), (17, 23), 60, 4)
    logits = over[:, 1, 2] - 0.5 * over[:, 3, 0] + rng.normal(0, 0.3, 30)
    found = regress(IMAGE, over, logits, (17, 23))
    for row, column in np.ndindex(4, 4):
        expected = linregress(over[:, row, column], logits)
        half = t.ppf(0.975, 28) * expected.stderr
        assert found.effect[row, column] == pytest.approx(expected.slope)
        assert found.low[row, column] == pytest.approx(expected.slope - half)
        assert found.high[row, column] == pytest.approx(expected.slope + half)
        assert found.t[row, column] == pytest.approx(expected.slope / expected.stderr)
    np.testing.assert_allclose(found.windows_over, over.mean(0))
    table = found.table()
    assert table.loc[(table["row"] == 1) & (table["column"] == 2), "effect"].item() == found.effect[1, 2]


def test_a_planted_cell_is_found(rng):
    over = cell_coverage(random_windows(rng, draws=300), (17, 23), 60, 6)
    noise = rng.normal(0, 1, 300)
    logits = over[:, 4, 1] / over[:, 4, 1].std() + noise
    found = regress(IMAGE, over, logits, (17, 23))
    assert np.unravel_index(np.argmax(found.t), (6, 6)) == (4, 1)
    assert found.sure[4, 1]
    assert found.p == pytest.approx(1 / 1001)
    assert found.explained == pytest.approx(0.5, abs=0.15)
    # Turned round, it lowers the score.
    assert regress(IMAGE, over, -logits, (17, 23)).high[4, 1] < 0
    assert "beyond chance" in str(found)


def test_chance_is_called_so():
    """Logits that windows say nothing of: one map in twenty has a cell beyond chance, and p is uniform."""
    maps = []
    for n in range(120):
        rng = np.random.default_rng(n)
        over = cell_coverage(random_windows(rng, draws=60), (17, 23), 60, 6)
        maps.append(regress(IMAGE, over, rng.standard_t(3, 60), (17, 23), seed=n))
    p = np.array([found.p for found in maps])
    assert 0.01 <= np.mean([found.sure.any() for found in maps]) <= 0.11
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.13)
    # Each cell's own interval, by contrast, leaves 0 out in 5% of all cells.
    outside = np.mean([(found.low > 0) | (found.high < 0) for found in maps])
    assert outside == pytest.approx(0.05, abs=0.02)
    assert np.mean([found.explained for found in maps]) < 0.02


def test_a_model_that_does_not_look_has_no_evidence(rng):
    over = cell_coverage(random_windows(rng), (17, 23), 60, 4)
    found = regress(IMAGE, over, np.full(30, 1.5), (17, 23))
    assert not found.sure.any()
    assert found.p == 1
    assert found.explained == 0
    assert (found.effect == 0).all()


def test_a_cell_that_no_window_reaches_has_no_effect(rng):
    over = cell_coverage(random_windows(rng), (17, 23), 60, 4)
    over[:, 2, 2] = 0
    found = regress(IMAGE, over, rng.normal(0, 1, 30), (17, 23))
    assert (found.effect[2, 2], found.t[2, 2]) == (0, 0)
    assert found.high[2, 2] == np.inf
    assert np.isfinite(found.p)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-stem", "tiny-split"])
def test_logits_are_those_of_the_model(tiny, name, rng):
    """Draw by draw, whatever the batch; the windows are those that the map is made of."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras_stoch.create_model(name, low_res=32, high_res=64)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found = keras_stoch.evidence(model, pixels, draws=21, cells=4, seed=3, batch_size=8)
    other = keras_stoch.evidence(model, pixels, draws=21, cells=4, seed=3, batch_size=5)
    np.testing.assert_allclose(other.logits, found.logits, rtol=1e-4, atol=1e-6)
    assert found.window == (33, 33)
    generator = np.random.default_rng(3)
    windows = np.stack([generator.integers(0, 32, (21, 8)) for _ in range(2)], -1).astype(np.int32)
    small = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))
    inputs = {"low_res": small[None], "high_res": pixels[None]}
    expected = [np.asarray(model(inputs, windows=one))[0, 0] for one in windows[:4]]
    np.testing.assert_allclose(found.logits[:4], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.windows_over, cell_coverage(windows, (33, 33), 64, 4).mean(0))
    assert (keras_stoch.evidence(model, pixels, draws=21, seed=4).logits != found.logits).any()


def test_wrong_arguments(tiny):
    plain, split = (keras_stoch.create_model(name, low_res=32) for name in ("tiny", "tiny-split"))
    pixels = np.zeros((64, 64, 3), np.uint8)
    for arguments, options, message in (
        ((split, pixels), {"draws": 19}, "draws must be an integer of at least 20. Received: 19"),
        ((split, pixels), {"draws": 20.0}, "draws must be an integer of at least 20"),
        ((split, pixels), {"cells": 1}, "cells must be an integer of at least 2"),
        ((split, pixels), {"cells": 65}, "cells must be at most the 64 pixels of a side"),
        ((split, pixels), {"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ((split, pixels), {"seed": -1}, "seed must be an integer of at least 0"),
        ((split, pixels[:32]), {}, r"Pixels must be uint8 of the shape \(64, 64, 3\). Received: uint8, \(32, 64, 3\)"),
        ((split, pixels / 255), {}, "Pixels must be uint8 of the shape .* Received: float64"),
        ((plain, pixels), {}, "'tiny' has no detail branch that draws any"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_stoch.evidence(*arguments, **options)


@pytest.mark.slow
def test_from_the_command_line(tiny, stem_run, plain_run, tmp_path, capsys):
    photograph = tmp_path / "photo.jpg"
    Image.fromarray(draw_lesion(1, 0, 128)).save(photograph)
    out = tmp_path / "new" / "map.png"
    arguments = ["evidence", str(stem_run), str(photograph), "--draws", "20", "--cells", "4", "--out", str(out)]
    assert main(arguments) == 0
    assert "over 20 draws" in capsys.readouterr().out
    with Image.open(out) as figure:
        assert figure.width > 1000
    assert len(pd.read_csv(out.with_suffix(".csv"))) == 16
    photograph.write_bytes(b"no picture")
    assert main(arguments) == 2
    assert f"error: {photograph} can not be read: " in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "map.txt")]) == 2
    assert "--out must end with one of .png, .svg" in capsys.readouterr().err
    assert main(["evidence", str(stem_run), str(tmp_path / "none.jpg")]) == 2
    assert "No such photograph: " in capsys.readouterr().err
    assert main(["evidence", str(plain_run), str(photograph)]) == 2
    assert "'tiny' draws no windows to learn from" in capsys.readouterr().err


def test_the_network_is_in_its_half_only():
    whole = network_place([1, 2], 128)
    for half in HALVES:
        place = network_place([1, 2], 128, half)
        other = network_place([1, 2], 128, {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[half])
        np.testing.assert_allclose(place + other, whole, atol=1e-6)
        assert 0.25 < place.sum() / whole.sum() < 0.75
        # Of two lesions of one seed the pixels differ where the network is.
        drawn, none = (np.int32(draw_lesion(1, [1, 2], 128, s, half)) for s in (3.0, 0.0))
        room, _ = (np.int32(draw_lesion(0, [1, 2], 128, s, half)) for s in (3.0, 0.0))
        change = np.abs(drawn - room).mean(2)
        assert change[place > 0.3].mean() > 20 * change[(whole > 0.3) & (place < 1e-3)].mean()
        assert none.shape == (128, 128, 3)
    with pytest.raises(ValueError, match="half must be None or one of left, right, top, bottom. Received: 'middle'"):
        draw_lesion(1, 0, 128, half="middle")


@pytest.mark.slow
def test_the_map_points_at_the_network(tiny, tmp_path):
    """A model trained on whole lesions, asked about some that have their network in one half."""
    data = keras_stoch.write_lesions(tmp_path / "lesions", 1000, size=128, strength=3.0)
    recipe = {"epochs": 20, "batch_size": 16, "hold_epochs": 12, "augment": False, "low_res": 32, "high_res": 128}
    (result,) = keras_stoch.fit("tiny-split", data, tmp_path / "runs", window_sharing="image", **recipe)
    assert result["best_val_auc"] > 0.95
    model = keras_stoch.load_run(tmp_path / "runs" / "run-0")
    found, control, beyond = [], [], 0
    for n in range(12):
        half = HALVES[n % 4]
        pixels = draw_lesion(1, [77, n], 128, 3.0, half)
        place = network_place([77, n], 128, half).reshape(8, 16, 8, 16).mean((1, 3)).ravel()
        tells = keras_stoch.evidence(model, pixels, draws=200, seed=n)
        found.append(spearmanr(tells.effect.ravel(), place)[0])
        control.append(spearmanr(tells.effect.ravel(), np.random.default_rng(n).permutation(place))[0])
        beyond += tells.p < 0.05
    assert np.mean(found) > 0.5
    assert min(found) > 0.2
    assert abs(np.mean(control)) < 0.15
    assert beyond >= 11
