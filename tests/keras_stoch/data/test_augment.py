"""One transform, three implementations: TensorFlow, torch and Pillow."""

import numpy as np
import pytest
import tensorflow as tf
import torch
from PIL import Image
from scipy import stats

from keras_stoch.data.augment import affine_matrix, draw_transforms, reduce, transform
from torch_ref import data as torch_data

TRANSFORMS = [
    *((0, 1, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1), (90, 1, 0, 0)),
    *((30, 0.8, 0, 0), (-170, 0.6, 1, 1), (77.7, 0.93, 1, 0), (-45, 0.7, 0, 1)),
]


@pytest.fixture(scope="module", params=["structured", "photograph"])
def pixels(request):
    """uint8 (256, 256, 3)."""
    if request.param == "photograph":
        path = request.getfixturevalue("photographs")[0]
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS))
    from parity.images import structured_images

    return np.uint8(structured_images(1, (256, 256), seed=1)[0])


def by_keras(pixels, parameters):
    return transform(tf.constant(pixels), affine_matrix(np.array(parameters), len(pixels))).numpy()


def by_torch(pixels, parameters):
    return torch_data.transform(torch.from_numpy(pixels.copy()).permute(2, 0, 1), parameters).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("parameters", TRANSFORMS)
def test_equal_to_torch(pixels, parameters):
    """Both blend in float32; where that falls on a half, rounding may part them by one grey level."""
    difference = np.abs(by_keras(pixels, parameters).astype(int) - by_torch(pixels, parameters))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("parameters", TRANSFORMS)
def test_equal_to_pillow(pixels, parameters):
    """Pillow cuts off the fraction, so one grey level; and it repeats the last pixel where the others blend into
    black, so the seam of the picture, a pixel wide on both sides, is left out."""
    size = len(pixels)
    a, b, c, d, e, f = affine_matrix(np.array(parameters), size).astype(float)
    matrix = (a, b, c + 0.5 - (a + b) / 2, d, e, f + 0.5 - (d + e) / 2)  # Pillow's pixel centres lie at halves
    image = Image.fromarray(pixels).transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    y, x = np.mgrid[:size, :size]
    x_in, y_in = a * x + b * y + c, d * x + e * y + f
    depth = np.minimum.reduce([x_in, y_in, size - 1 - x_in, size - 1 - y_in])
    away = (depth < -1) | (depth >= 0)
    assert away.mean() > 0.97
    difference = np.abs(by_keras(pixels, parameters).astype(int) - np.asarray(image))[away]
    assert difference.max() <= 1


def test_flips_and_quarter_turns_are_exact(pixels):
    assert (by_keras(pixels, (0, 1, 1, 0)) == pixels[:, ::-1]).all()
    assert (by_keras(pixels, (0, 1, 0, 1)) == pixels[::-1]).all()
    assert np.abs(by_keras(pixels, (90, 1, 0, 0)).astype(int) - np.rot90(pixels)).max() <= 1  # counter-clockwise


def test_half_scale_shrinks_about_the_centre():
    white = np.full((64, 64, 3), 255, np.uint8)
    inside = by_keras(white, (0, 0.5, 0, 0))[..., 0] > 127
    rows, columns = np.nonzero(inside)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 47, 16, 47)


@pytest.mark.parametrize("size", [64, 100, 224])
def test_reduction_is_antialiased_and_equal_to_torch_and_pillow(pixels, size):
    ours = reduce(tf.constant(pixels), size).numpy().astype(int)
    theirs = torch_data.reduce(torch.from_numpy(pixels.copy()).permute(2, 0, 1), size).permute(1, 2, 0).numpy()
    third = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - third).max() <= 1


def test_a_pattern_too_fine_for_the_small_image_turns_grey():
    checks = np.uint8(255 * (np.indices((256, 256)).sum(0) % 2))[..., None].repeat(3, -1)
    assert np.abs(reduce(tf.constant(checks), 64).numpy().astype(int) - 127).max() <= 2


def test_distribution_of_the_draws():
    draws = draw_transforms(20000, 1, 2)
    assert stats.kstest(draws[:, 0], stats.uniform(-180, 360).cdf).pvalue > 1e-3
    assert stats.kstest(draws[:, 1], stats.uniform(0.6, 0.4).cdf).pvalue > 1e-3
    for flips in draws[:, 2:].T:
        assert stats.binomtest(int(flips.sum()), len(flips)).pvalue > 1e-3
        assert set(flips) == {0, 1}
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.03
    assert (draws == draw_transforms(20000, 1, 2)).all()
    assert (draws != draw_transforms(20000, 1, 3)).any()
