"""The comparison with larger images, crops and tiles: what is cut, measured, put in the table, and refused."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from keras_stoch.cli import main
from keras_stoch.data.pipeline import Pipeline
from keras_stoch.evaluation.metrics import roc_auc
from keras_stoch.models import create_model
from keras_stoch.training.baselines import (
    Baselines,
    Candidate,
    candidates,
    figure,
    measured,
    random_crops,
    run,
    table,
)
from tests.tiny import SIZES, shallow


def test_crops_are_of_the_image_and_uniform():
    """Every place of the image as often as another, both ends included; pixels as they are."""
    rows, columns = np.meshgrid(np.arange(12), np.arange(10), indexing="ij")
    image = np.stack([rows, columns, rows * 10 + columns], -1).astype("uint8")
    crops = random_crops(np.stack([image] * 4000), 8, [3, 1]).numpy()
    top, left = crops[:, 0, 0, 0], crops[:, 0, 0, 1]
    for n in range(0, 4000, 500):
        np.testing.assert_array_equal(crops[n], image[top[n] : top[n] + 8, left[n] : left[n] + 8])
    counts = np.zeros((5, 3))
    np.add.at(counts, (top, left), 1)
    expected = 4000 / 15
    assert ((counts - expected) ** 2 / expected).sum() < 36.1  # chi-square, 14 degrees of freedom, p = 0.001
    again = random_crops(np.stack([image] * 4000), 8, [3, 1]).numpy()
    np.testing.assert_array_equal(crops, again)
    assert (random_crops(np.stack([image] * 4000), 8, [3, 2]).numpy() != crops).any()


def results():
    """Numbers for two candidates: crops cost 1 ms each, a draw 2 ms beside 1 ms of the global branch."""
    rows = []
    for number, shift in enumerate((-0.02, 0.02)):
        common = {"run": number, "training_seconds": 60.0, "epochs": 5 + number, "parameters": 7}
        for k in (1, 2, 4, 8):
            rows.append(
                {"candidate": "crops", "averaged": k, "auc": 0.6 + 0.01 * k + shift, "milliseconds": 1.0 * k} | common
            )
        for n in (1, 2, 3):
            rows.append(
                {"candidate": "split-b0", "averaged": n, "auc": 0.8 + shift, "milliseconds": 1.0 + 2 * n} | common
            )
        rows.append({"candidate": "tiles", "averaged": 1, "auc": 0.7 + shift, "milliseconds": 5.0} | common)
    return pd.DataFrame(rows)


def test_the_table_compares_at_equal_milliseconds():
    found = table(results()).set_index("candidate")
    assert found.loc["crops", ["averaged", "auc"]].tolist() == pytest.approx([1, 0.61])
    # 3 ms for one draw: two crops; 7 ms for three: four of them; tiles fit into the larger alone.
    assert found.loc["crops", ["averaged_at_1_draw", "auc_at_1_draw"]].tolist() == pytest.approx([2, 0.62])
    assert found.loc["crops", ["averaged_at_3_draws", "auc_min_at_3_draws"]].tolist() == pytest.approx([4, 0.62])
    assert found.loc["split-b0", "averaged_at_3_draws"] == 3
    assert np.isnan(found.loc["tiles", "auc_at_1_draw"])
    assert found.loc["tiles", "auc_at_3_draws"] == pytest.approx(0.7)
    assert found.loc["tiles", "epochs"] == 5.5


def test_the_figure(tmp_path):
    with Image.open(figure(results(), tmp_path / "baselines.png")) as drawn:
        assert drawn.width > 800
        assert len(drawn.convert("RGB").getcolors(10**6)) > 20


def test_what_is_compared_gets_equal_time():
    settings = Baselines(hours=1.8, runs=3)
    names = [candidate.name for candidate in candidates(settings)]
    assert names == ["b0 at 32", "b0 at 64", "b0 at 96", "crops", "tiles", "split-b0"]
    assert settings.seconds == pytest.approx(1.8 * 3600 / 18)


@pytest.mark.slow
def test_tiles_are_all_of_the_image_and_averaged():
    settings = Baselines(sides=())
    (candidate,) = (c for c in candidates(settings) if c.name == "tiles")
    model, images = candidate.build(), np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3)).astype("float32")
    inner = next(layer for layer in model.layers if layer.name == "b0")
    tiles = np.stack([images[:, y : y + 32, x : x + 32] for y in range(0, 128, 32) for x in range(0, 128, 32)], 1)
    logits = np.stack([np.asarray(inner(each)).mean() for each in tiles])
    np.testing.assert_allclose(np.asarray(model(images))[:, 0], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hours": 0}, "hours must be a positive number. Received: hours=0"),
        ({"hours": float("inf")}, "hours must be a positive number"),
        ({"runs": 0}, "runs must be an integer of at least 1"),
        ({"high_res": 100}, "high_res must be a multiple of 32. Received: high_res=100"),
        ({"images": 30}, "images must be enough for a batch of 32. Received: images=30"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Baselines(**arguments)


def test_hours_are_of_the_baselines(capsys):
    assert main(["experiment", "--hours", "1"]) == 2
    assert "--hours goes with --baselines" in capsys.readouterr().err
    assert main(["experiment", "--baselines", "--hours", "-1"]) == 2
    assert "must be a positive number" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("crops", [True, False])
def test_what_is_measured_is_the_mean_over_crops_or_draws(crops, tiny, lesions, tmp_path):
    settings = Baselines(runs=1, low_res=32, high_res=64, batch_size=32, sides=())
    if crops:
        candidate = Candidate("crops", lambda: create_model("tiny", low_res=32), 32, crops=True, settings=(1, 3))
    else:
        candidate = Candidate("split-b0", lambda: create_model("tiny-split", **SIZES), None, settings=(1, 2))
    model, folder = candidate.build(), tmp_path / "run-0"
    folder.mkdir()
    model.save_weights(folder / "best.weights.h5")
    (folder / "curves.csv").write_text("epoch,seconds\n0,2.5\n1,1.5\n")
    rows = measured(candidate, lesions, tmp_path, settings)
    assert [(row["averaged"], row["training_seconds"], row["epochs"]) for row in rows] == [
        (n, 4.0, 2) for n in candidate.settings
    ]
    assert all(row["milliseconds"] > 0 for row in rows)
    if crops:
        pipeline = Pipeline(lesions, None, batch_size=32, low_res=64, high_res=None)
        batches = [images for images, _ in pipeline.epoch(0)]
        draws = [
            np.concatenate([np.asarray(model(random_crops(b, 32, [n, k])))[:, 0] for n, b in enumerate(batches)])
            for k in range(3)
        ]
        for row in rows:
            mean = (1 / (1 + np.exp(-np.float64(draws[: row["averaged"]])))).mean(0)
            assert row["auc"] == pytest.approx(roc_auc(pipeline.targets, mean), abs=0.01)


@pytest.mark.slow
@shallow()
def test_all_of_it_on_a_few_lesions(tmp_path, capsys):
    """Interrupted or not, what is there is not trained again; by models of a few blocks."""
    settings = Baselines(
        hours=1e-4, runs=1, images=40, test_images=20, sides=(), batch_size=16, crops=(1, 2), draws=(1, 2)
    )
    found = run(tmp_path, settings, progress=True).set_index("candidate")
    told = [line for line in capsys.readouterr().err.splitlines() if "of training left" in line]
    names = [line.partition(",")[0] for line in told]
    assert names == found.index.tolist()
    assert all("run 1 of 1: epoch 1, AUC" in line for line in told)
    assert told[-1].endswith("; 0.0 s of training left")
    assert found.index.tolist() == ["b0 at 32", "crops", "tiles", "split-b0"]
    rows = pd.read_csv(tmp_path / "results.csv")
    assert len(rows) == 1 + 2 + 1 + 2
    assert rows["auc"].between(0, 1).all()
    assert (rows["milliseconds"] > 0).all()
    assert (found["epochs"] == 1).all()
    assert (tmp_path / "baselines.png").stat().st_size > 10_000
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/run-0/last.weights.h5")}
    assert len(times) == 4
    run(tmp_path, settings)
    assert times == {path: path.stat().st_mtime_ns for path in times}
