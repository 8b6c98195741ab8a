"""Letterboxes and crops of a number of their own: what a pipeline keeps of a picture is told, and how to have it."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from parity.geometries import GEOMETRIES
from parity.preprocessing import compare_inputs
from parity.resampling import FILTERS, resized

BILINEAR = Image.Resampling.BILINEAR
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two files of generated pictures, a wide one and a tall one."""
    from parity.images import structured_images

    folder = tmp_path_factory.mktemp("shapes")
    for seed, size in enumerate(((210, 320), (280, 190))):
        (pixels,) = structured_images(1, size, seed)
        noise = np.random.default_rng(seed).normal(0, 12, pixels.shape)
        Image.fromarray(np.uint8(np.clip(pixels + noise, 0, 255))).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


def opened(path):
    return Image.open(path).convert("RGB")


def squashed(path, size=64):
    return np.float32(opened(path).resize((size, size), BILINEAR))


def letterbox(fill=114, centre=True, size=64, whole=round):
    """By hand, as detectors have it."""

    def run(path):
        image = opened(path)
        scale = min(size / n for n in image.size)
        image = image.resize([whole(n * scale) for n in image.size], BILINEAR)
        made = np.full((size, size, 3), fill, np.float32)
        width, height = image.size
        top, left = ((size - height) // 2, (size - width) // 2) if centre else (0, 0)
        made[top : top + height, left : left + width] = image
        return made

    return run


def normed_then_padded(path):
    """Zeros behind the normalisation are its mean colour."""
    made = np.zeros((64, 64, 3))
    boxed = letterbox(-1.0)(path)
    inside = (boxed >= 0).all(-1)
    made[inside] = (boxed[inside] / 255 - MEAN) / STD
    return made


def shorter(size):
    def run(path):
        image = opened(path)
        short = min(image.size)
        image = image.resize([size if n == short else int(size * n / short) for n in image.size], BILINEAR)
        width, height = image.size
        left, top = round((width - 64) / 2), round((height - 64) / 2)
        return np.float32(image.crop((left, top, left + 64, top + 64)))

    return run


def central(part):
    def run(path):
        image = opened(path)
        width, height = image.size
        left, top = int((width - width * part) / 2), int((height - height * part) / 2)
        return np.float32(image.crop((left, top, width - left, height - top)).resize((64, 64), BILINEAR))

    return run


def squashed_then_cropped(path):
    return squashed(path, 73)[4:68, 4:68]  # round(64 * 256 / 224) pixels


def told(first, second, pictures):
    report = compare_inputs(first, second, pictures)
    assert not report.passed
    return report, [difference.what for difference in report.differences]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fill", "centre", "words"),
    [
        (114, True, ("in the centre", "grey 114", "pad half of what is left at the top and left")),
        (0, False, ("at the upper left", "black", "pad nothing at the top and left")),
        (255, True, ("in the centre", "white", "255")),
    ],
)
def test_a_letterbox_is_told_with_its_place_and_colour(pictures, fill, centre, words):
    report, differences = told(letterbox(fill, centre), squashed, pictures)
    assert differences == ["letterbox"], report
    assert all(word in str(report) for word in (*words, "the candidate resizes the whole picture")), report
    assert report.healed < 0.7


def test_two_letterboxes_that_differ(pictures):
    report, differences = told(letterbox(0), letterbox(114, centre=False), pictures)
    assert differences == ["letterbox"], report
    assert "tf.image.resize_with_pad" in str(report)


def test_the_libraries_letterboxes_are_known(pictures):
    def pillow(path):
        return np.float32(ImageOps.pad(opened(path), (63, 63), BILINEAR))  # an odd number is left

    report, differences = told(pillow, lambda path: squashed(path, 63), pictures)
    assert differences == ["letterbox"], report
    assert report.recipes[0].residual < 0.7


@pytest.mark.slow
def test_tensorflows_letterbox_is_known(pictures):
    import tensorflow as tf

    def padded(path):
        return tf.image.resize_with_pad(np.float32(opened(path)), 61, 61).numpy()

    report, differences = told(padded, lambda path: squashed(path, 61), pictures)
    assert differences == ["letterbox", "resize filter"], report
    assert max(recipe.residual for recipe in report.recipes) < 0.7


@pytest.mark.slow
def test_grey_pictures(pictures):
    def grey(path):
        return np.float32(opened(path).convert("L").resize((64, 64), BILINEAR))

    report, differences = told(squashed, grey, pictures)
    assert differences == ["channels", "grey"], report
    report, differences = told(lambda path: np.repeat(grey(path)[..., None] / 255, 3, -1), squashed, pictures)
    assert differences == ["grey", "range"], report
    assert 'image.convert("L")' in str(report)


@pytest.mark.slow
def test_a_letterbox_beside_other_differences(pictures):
    def other(path):
        return letterbox(114, whole=int)(path)[..., ::-1].transpose(2, 0, 1) / 255

    report, differences = told(squashed, other, pictures)
    assert differences == ["letterbox", "channel order", "range"], report
    report, differences = told(normed_then_padded, letterbox(), pictures)
    assert differences == ["letterbox", "normalisation"], report
    assert "ImageNet's mean colour" in str(report)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (shorter(69), shorter(73), "resizes the shorter side to 69 pixels, then crops the centre"),
        pytest.param(
            central(0.8), squashed, "crops the central 80%, then resizes", marks=pytest.mark.slow, id="central"
        ),
        (squashed_then_cropped, shorter(73), "resizes the whole picture to 256/224 of the size"),
    ],
)
def test_crops_of_numbers_of_their_own(pictures, first, second, words):
    report, differences = told(first, second, pictures)
    assert differences == ["crop"], report
    assert f"the reference {words}" in str(report), report
    assert not told(second, first, pictures)[0].passed


@pytest.mark.slow
def test_numbers_of_normalisation_are_named(pictures):
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])

    def clip(path):
        return (squashed(path) / 255 - mean) / std

    def caffe(path):
        return squashed(path)[..., ::-1] - np.array([103.939, 116.779, 123.68])

    def mixed(path):
        return (squashed(path)[..., ::-1] / 255 - MEAN) / STD

    report, differences = told(clip, caffe, pictures)
    assert differences == ["channel order", "normalisation"], report
    assert "CLIP's numbers, the candidate x - Caffe's mean colour" in str(report)
    report, differences = told(lambda path: squashed(path) / 255, mixed, pictures)
    assert "the candidate (x / 255 - mean) / std with ImageNet's numbers, in the order of RGB" in str(report), report


def test_what_a_geometry_does_not_reach_is_filled():
    pixels = np.full((20, 10, 3), 9, np.uint8)
    box = next(g for g in GEOMETRIES if "in the centre" in g.name and "grey 114" in g.name)
    made = resized(pixels, box, FILTERS[0], (8, 8))
    np.testing.assert_array_equal(made[..., 0], [[114, 114, 9, 9, 9, 9, 114, 114]] * 8)
