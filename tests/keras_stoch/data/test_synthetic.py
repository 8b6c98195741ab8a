"""Generated lesions: at chance when small, plain when large; the same again for the same seed."""

import functools
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import fft
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_stoch.data.synthetic import WAVELENGTHS, draw_lesion, write_lesions


@functools.cache
def band_of(side):
    """The band, 0 to 14, of each coefficient of a real Fourier transform, by its frequency in cycles per pixel."""
    frequency = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None])
    return np.int64(frequency / 0.05).ravel()


def features(image):
    """Colours, their spread, contrast between neighbours, and the power of each band of frequencies."""
    pixels = np.asarray(image, np.float32)
    grey = pixels.mean(-1)
    power = np.square(np.abs(fft.rfft2(grey - grey.mean()))).ravel()
    bands = np.bincount(band_of(len(grey)), power) / np.bincount(band_of(len(grey)))
    steps = [np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1)]
    planes = np.ascontiguousarray(pixels.reshape(-1, 3).T)
    return np.concatenate([planes.mean(1), planes.std(1), np.log(np.concatenate([steps, bands]) + 1e-3)])


def auc(rows, targets):
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    scores = cross_val_predict(classifier, np.array(rows), targets, cv=5, method="predict_proba")[:, 1]
    return roc_auc_score(targets, scores)


# With n images the standard error of an AUC at chance is about 0.58 / sqrt(n): 0.018 and 0.037.
@pytest.mark.slow
@pytest.mark.parametrize(("size", "low_res", "count"), [(256, 64, 1000), (1024, 224, 240)])
def test_the_class_lies_in_fine_detail_only(size, low_res, count):
    targets = np.arange(count) % 2
    large, small = [], []
    for index, target in enumerate(targets):
        pixels = draw_lesion(int(target), [0, index], size)
        large.append(features(pixels))
        small.append(features(Image.fromarray(pixels).resize((low_res, low_res), Image.Resampling.BILINEAR)))
    assert auc(large, targets) > 0.9
    assert abs(auc(small, targets) - 0.5) < 0.05


@pytest.mark.slow
def test_at_the_strength_of_the_experiment_the_small_image_has_a_trace_at_most():
    """As the models get it: a JPEG, decoded at a reduced scale where only the small image is wanted."""
    targets, small, large = np.arange(600) % 2, [], []
    for index, target in enumerate(targets):
        buffer = io.BytesIO()
        image = Image.fromarray(draw_lesion(int(target), [1, index], 128, strength=3.0))
        image.save(buffer, "JPEG", quality=95, subsampling=0)
        large.append(features(image))
        with Image.open(buffer) as jpeg:
            jpeg.draft("RGB", (32, 32))
            small.append(features(jpeg.convert("RGB")))
    assert auc(large, targets) > 0.99
    assert auc(small, targets) < 0.6


def test_a_folder_that_was_killed_at_once_is_gone_on_with(tmp_path):
    (tmp_path / "lesions").mkdir()
    (tmp_path / "lesions" / ".prepare.json.1-2.partial").touch()
    assert (write_lesions(tmp_path / "lesions", 10, size=64) / "manifest.csv").exists()


def test_the_classes_of_one_seed_differ_in_their_band_alone():
    zero, one = (draw_lesion(target, 5, 512).astype(float).mean(-1) for target in (0, 1))
    power = np.abs(np.fft.fft2(one - zero)) ** 2
    wavelength = 1 / np.maximum(np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512))), 1e-9)
    shortest, longest = WAVELENGTHS
    assert power[wavelength > 1.3 * longest].sum() < 0.01 * power.sum()
    assert abs((one - zero).mean()) < 0.05  # grey levels
    assert power[(wavelength > shortest) & (wavelength < longest)].sum() > 0.9 * power.sum()


def test_strength_and_seed():
    assert (draw_lesion(1, 3, 128, strength=0) == draw_lesion(0, 3, 128)).all()
    assert (draw_lesion(1, 3, 128) == draw_lesion(1, 3, 128)).all()
    assert (draw_lesion(1, 3, 128) != draw_lesion(1, 4, 128)).any()
    weak, strong = (np.abs(draw_lesion(1, 3, 128, s).astype(int) - draw_lesion(0, 3, 128)).mean() for s in (0.3, 0.9))
    assert weak < strong / 2


def test_a_folder_of_them(tmp_path):
    write_lesions(tmp_path / "a", 20, size=64, seed=1)
    manifest = pd.read_csv(tmp_path / "a" / "manifest.csv")
    assert manifest["target"].sum() == 10
    assert (manifest["split"] == "validation").sum() == 4
    (tmp_path / "a" / "manifest.csv").unlink()  # as if interrupted
    (tmp_path / "a" / manifest["file"][3]).unlink()
    write_lesions(tmp_path / "a", 20, size=64, seed=1)
    write_lesions(tmp_path / "b", 20, size=64, seed=1)
    for name in ["manifest.csv", *manifest["file"]]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(ValueError, match="holds something else"):
        write_lesions(tmp_path / "a", 30, size=64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 2}, "target must be 0 or 1. Received: 2"),
        ({"size": 8}, "size must be an integer of at least 64. Received: 8"),
        ({"strength": 3.5}, "strength must lie between 0 and 3. Received: 3.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_lesion(**{"target": 0, "seed": 0} | arguments)
