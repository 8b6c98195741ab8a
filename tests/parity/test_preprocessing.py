"""Are two pipelines the same? Each difference by its name, several at once, and none where there is none."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from parity.__main__ import main
from parity.preprocessing import compare_inputs

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three JPEG files of generated pictures, of other shape each."""
    from parity.images import structured_images

    folder = tmp_path_factory.mktemp("pictures")
    for seed, size in enumerate(((300, 420), (360, 300), (310, 310))):
        (pixels,) = structured_images(1, size, seed)
        noise = np.random.default_rng(seed).normal(0, 12, pixels.shape)
        Image.fromarray(np.uint8(np.clip(pixels + noise, 0, 255))).save(folder / f"{seed}.jpg", quality=95)
    return sorted(folder.iterdir())


def pipeline(size=64, filter="BICUBIC", exif=False, shorter=None, square=False, bgr=False, scale="255", first=False):
    """Pillow's steps, as torchvision takes them."""

    def run(path):
        image = Image.open(path)
        image = (ImageOps.exif_transpose(image) if exif else image).convert("RGB")
        width, height = image.size
        if square:
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        if shorter:
            new = [int(shorter * n / min(width, height)) for n in (width, height)]
            image = image.resize(new, Image.Resampling[filter])
            left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)
            image = image.crop((left, top, left + size, top + size))
        else:
            image = image.resize((size, size), Image.Resampling[filter])
        x = np.float32(image)
        x = {"255": x, "1": x / 255, "-1": x / 127.5 - 1, "imagenet": (x / 255 - MEAN) / STD}[scale]
        x = x[..., ::-1] if bgr else x
        return np.moveaxis(x, -1, 0)[None] if first else x

    return run


CASES = {
    "none": ({}, {}, []),
    "layout alone": ({"first": True}, {}, []),
    "filter": ({}, {"filter": "BILINEAR"}, ["resize filter"]),
    "rotation": ({"exif": True}, {}, ["rotation by EXIF"]),
    "crop": ({"shorter": 73}, {}, ["crop"]),
    "two crops": ({"square": True, "filter": "LANCZOS"}, {"shorter": 64, "filter": "BOX"}, ["crop", "resize filter"]),
    "range": ({"scale": "1"}, {}, ["range"]),
    "normalisation": ({"scale": "imagenet"}, {"scale": "1"}, ["normalisation"]),
    "many": (
        {"shorter": 73, "filter": "BILINEAR", "scale": "imagenet", "exif": True, "first": True},
        {"filter": "LANCZOS", "bgr": True, "scale": "-1"},
        ["rotation by EXIF", "crop", "resize filter", "channel order", "normalisation"],
    ),
    "size": ({"size": 64}, {"size": 72, "filter": "NEAREST"}, ["size", "resize filter"]),
}


FAST = ("none", "rotation", "normalisation", "many", "size")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_each_difference_is_named(pictures, name):
    first, second, expected = CASES[name]
    report = compare_inputs(pipeline(**first), pipeline(**second), pictures)
    assert sorted(d.what for d in report.differences) == sorted(expected), report
    assert report.passed is not bool(expected)
    if expected:
        assert report.healed < 0.7
    assert all(recipe is None or recipe.residual < 0.7 for recipe in report.recipes)


def test_cures_say_how(pictures):
    told = str(compare_inputs(pipeline(scale="imagenet"), pipeline(filter="NEAREST"), pictures))
    assert "image.resize(size, Image.Resampling.BICUBIC)" in told
    assert 'tf.image.resize(x, size, "bicubic", antialias=True)' in told
    assert "(x / 255 - mean) / std with ImageNet's numbers, the candidate 0 to 255" in told
    assert "keras.layers.Rescaling(1 / 255, 0)" in str(compare_inputs(pipeline(scale="1"), pipeline(), pictures))
    assert "[::-1]" not in told


@pytest.mark.slow
def test_what_no_step_explains_is_not_explained(pictures):
    def blurred(path):
        x = pipeline()(path)
        return (x + np.roll(x, 3, 0) + np.roll(x, 5, 1)) / 3

    report = compare_inputs(pipeline(), blurred, pictures[:1], probe=False)
    assert not report.passed
    assert report.differences == []
    assert "No steps that are known give the numbers of the candidate" in str(report)
    assert "No cure that was tried heals it" in str(report)
    # Pipelines of one's own that differ in range alone are told by their numbers.
    report = compare_inputs(blurred, lambda path: blurred(path)[..., ::-1] / 255, pictures[:1], probe=False)
    assert [d.what for d in report.differences] == ["channel order", "range"]


def test_without_probes_what_no_file_shows_is_not_seen(pictures):
    report = compare_inputs(pipeline(exif=True), pipeline(), pictures, probe=False)
    assert report.passed


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((2, 8, 8, 3)), "must give one picture"),
        (np.full((8, 8, 3), np.nan), "finite numbers"),
        (np.array(["a"]), "must give one picture"),
    ],
)
def test_what_is_no_picture_is_refused(pictures, result, message):
    with pytest.raises(ValueError, match=message):
        compare_inputs(lambda path: result, pipeline(), pictures)
    with pytest.raises(ValueError, match="no files"):
        compare_inputs(pipeline(), pipeline(), [])
    with pytest.raises(ValueError, match="No such file"):
        compare_inputs(pipeline(), pipeline(), ["nowhere.jpg"])


STEPS = """
import numpy as np
from PIL import Image

def first(path):
    return np.float32(Image.open(path).convert("RGB").resize((64, 64)))

def second(path):
    return first(path) / 255
"""


@pytest.mark.slow
def test_the_command_line(pictures, tmp_path, monkeypatch, capsys):
    (tmp_path / "their_steps.py").write_text(STEPS)
    monkeypatch.chdir(tmp_path)
    folder = str(pictures[0].parent)
    assert main(["inputs", "their_steps:first", "their_steps:first", folder]) == 0
    assert main(["inputs", "their_steps:second", "their_steps:first", *map(str, pictures)]) == 1
    assert "range: the reference gives 0 to 1, the candidate 0 to 255" in capsys.readouterr().out
    assert main(["inputs", "their_steps:third", "their_steps:first", folder]) == 2


@pytest.mark.slow
def test_pipelines_of_tensorflow_on_photographs(photographs):
    import tensorflow as tf

    def graph(antialias=True, method="bilinear", **decoding):
        def run(path):
            x = tf.io.decode_jpeg(tf.io.read_file(path), channels=3, **decoding)
            return tf.image.resize(x, (224, 224), method, antialias=antialias)

        return run

    accurate = {"dct_method": "INTEGER_ACCURATE"}
    torchvision = pipeline(224, "BILINEAR")
    few = photographs[:4]
    report = compare_inputs(torchvision, graph(**accurate), few)
    assert report.passed, report
    report = compare_inputs(torchvision, graph(antialias=False, **accurate), few)
    assert [d.what for d in report.differences] == ["resize filter"]
    assert "bilinear without antialiasing" in str(report)
    report = compare_inputs(graph(**accurate), graph(), few)
    assert {d.what for d in report.differences} <= {"JPEG decoder"}
    report = compare_inputs(graph(**accurate), graph(fancy_upscaling=False, **accurate), few)
    assert {d.what for d in report.differences} <= {"JPEG decoder"}


@pytest.mark.slow
def test_prepare_and_the_served_graph_give_one_picture(photographs):
    import tensorflow as tf

    from keras_stoch.data.photographs import open_image
    from keras_stoch.data.prepare import Settings, prepare_image
    from keras_stoch.serving.endpoints import decoder

    served = decoder(1024, 1024, 10**8)

    def by_tensorflow(path):
        return served(tf.io.read_file(path)[None])[0].numpy()

    def prepared(path):
        return np.asarray(prepare_image(open_image(path), Settings(min_side=1))[0])

    report = compare_inputs(prepared, by_tensorflow, photographs[:4], tolerance=1.0)
    assert report.passed, report
