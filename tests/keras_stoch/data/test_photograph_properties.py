"""Properties of the reader of photographs: pixels that are written are read, upright, and what is none is refused."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from keras_stoch.data.photographs import Dropped, find_sources, open_image
from tests.keras_stoch.properties import FEW

# How a picture is stored, by the number of its orientation (EXIF 2.32, tag 274): of rows and columns.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p.transpose(1, 0, 2)[::-1],
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: p.transpose(1, 0, 2)[:, ::-1],
}
SIDES = st.integers(1, 12)
SEEDS = st.integers(0, 2**32 - 1)


def picture(height, width, seed, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def written(folder, image, **options):
    """The path of an image in a file; formats without loss."""
    path = folder / f"p.{options.pop('suffix', 'png')}"
    image.save(path, **options)
    return path


@FEW
@given(
    height=SIDES,
    width=SIDES,
    seed=SEEDS,
    orientation=st.sampled_from(sorted(STORED)),
    kind=st.sampled_from(["png", "tiff", "webp"]),
)
def test_pixels_come_back_upright(tmp_path, height, width, seed, orientation, kind):
    upright = picture(height, width, seed)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    path = written(tmp_path, Image.fromarray(stored), suffix=kind, exif=exif, **options)
    found = open_image(path)
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), upright)


@FEW
@given(
    height=SIDES,
    width=SIDES,
    seed=SEEDS,
    mode=st.sampled_from(["L", "P", "1", "RGB"]),
    kind=st.sampled_from(["png", "bmp", "tiff"]),
)
def test_modes_without_loss_become_the_rgb_that_they_mean(tmp_path, height, width, seed, mode, kind):
    rng = np.random.default_rng(seed)
    if mode == "P":
        image, palette = Image.fromarray(picture(height, width, seed, 1)[..., 0], "P"), picture(1, 256, seed + 1)[0]
        image.putpalette(palette.tobytes())
        meant = palette[np.asarray(image)]
    elif mode == "1":
        bits = rng.integers(0, 2, (height, width), dtype=np.uint8)
        image, meant = Image.fromarray(bits * 255).convert("1"), np.repeat(255 * bits[..., None], 3, 2)
    elif mode == "L":
        meant = np.repeat(picture(height, width, seed, 1), 3, 2)
        image = Image.fromarray(meant[..., 0])
    else:
        meant = picture(height, width, seed)
        image = Image.fromarray(meant)
    found = open_image(written(tmp_path, image, suffix=kind))
    np.testing.assert_array_equal(np.asarray(found), meant)


@FEW
@given(height=SIDES, width=SIDES, seed=SEEDS, grey=st.booleans())
def test_transparency_is_laid_over_white(tmp_path, height, width, seed, grey):
    pixels = picture(height, width, seed, 2 if grey else 4)
    found = np.asarray(open_image(written(tmp_path, Image.fromarray(pixels, "LA" if grey else "RGBA"))))
    alpha = pixels[..., -1:] / 255.0
    meant = pixels[..., :-1] * alpha + 255.0 * (1 - alpha)
    assert np.abs(found - np.broadcast_to(meant, found.shape)).max() <= 1


@FEW
@given(height=SIDES, width=SIDES, seed=SEEDS, kind=st.sampled_from(["png", "tiff"]))
def test_sixteen_bits_become_eight(tmp_path, height, width, seed, kind):
    values = np.random.default_rng(seed).integers(0, 65536, (height, width), dtype=np.uint16)
    values[0, 0] = 65535  # all of the range is used
    found = np.asarray(open_image(written(tmp_path, Image.fromarray(values), suffix=kind)))
    assert np.abs(found[..., 0] - values / 257.0).max() <= 0.5 + 1e-3
    assert (found == found[..., :1]).all()


def encoded(kind):
    """Bytes of a file with a little of everything: EXIF, a palette or transparency."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(picture(9, 7, 0, 4 if kind == "PNG" else 3))
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


FILES = [encoded(kind) for kind in ("JPEG", "PNG", "TIFF", "WEBP")]


@FEW
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.sampled_from(FILES).flatmap(lambda file: st.integers(0, len(file) - 1).map(lambda end: file[:end])),
        st.tuples(
            st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8)
        ).map(lambda pair: turned(*pair)),
    ),
    suffix=st.sampled_from([".jpg", ".png", ".tif", ".bmp", ".webp"]),
)
@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged metadata
def test_any_bytes_are_a_picture_or_refused_in_words(tmp_path, content, suffix):
    path = tmp_path / f"p{suffix}"
    path.write_bytes(content)
    try:
        found = open_image(path)
    except Dropped as reason:
        told = str(reason)
    else:
        told = "read"
        assert found.mode == "RGB"
        assert np.asarray(found).shape == (found.height, found.width, 3)
    assert told


def turned(file, changes):
    """A file with some bytes changed."""
    content = bytearray(file)
    for place, value in changes:
        content[place % len(content)] = value
    return bytes(content)


@FEW
@given(
    names=st.sets(st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True).map(str.lower), min_size=1, max_size=8),
    data=st.data(),
)
def test_every_photograph_is_found_by_its_name(tmp_path_factory, names, data):
    folder, where = tmp_path_factory.mktemp("found"), {}
    for name in sorted(names):
        place = folder / data.draw(st.sampled_from(["", "a", "a/b"]))
        place.mkdir(parents=True, exist_ok=True)
        where[name.removesuffix("_downsampled")] = place / (
            name + data.draw(st.sampled_from([".jpg", ".PNG", ".tiff"]))
        )
        (place / where[name].name).write_bytes(b"x")
        (place / ("." + where[name].name)).write_bytes(b"hidden")
        (place / (name + ".txt")).write_bytes(b"no picture")
    assert find_sources(folder) == dict(sorted(where.items()))
