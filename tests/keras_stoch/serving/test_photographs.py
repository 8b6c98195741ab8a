"""Encoded photographs in a graph against Pillow and `prepare`."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_stoch.data.photographs import open_image
from keras_stoch.data.prepare import Settings, prepare_image
from keras_stoch.serving.photographs import exif_orientation, prepare_bytes
from tests.keras_stoch.serving.pictures import encode, picture

KINDS = {
    "small": (picture(300, 200), "PNG", {}),
    "wide": (picture(700, 1500, 1), "PNG", {}),
    "very large, cropped": (picture(3100, 3200, 2), "JPEG", {"quality": 95}),
    "large in one direction, not cropped": (picture(3000, 3200, 3), "JPEG", {"quality": 95}),
    "grey": (picture(400, 300, 4, 1), "PNG", {}),
    "transparent": (np.dstack([picture(300, 300, 5), picture(300, 300, 6)[..., 0]]), "PNG", {}),
    "grey and transparent": (np.dstack([picture(300, 300, 5, 1), picture(300, 300, 6)[..., 0]]), "PNG", {}),
    "very large, odd, transparent": (np.dstack([picture(3101, 3203, 2), picture(3101, 3203, 6)[..., 0]]), "PNG", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_prepared_as_prepare_does(kind, tmp_path):
    pixels, format, options = KINDS[kind]
    encoded = encode(pixels, format, **options)
    (tmp_path / "photo").write_bytes(encoded)
    ours, _ = prepare_image(open_image(tmp_path / "photo"), Settings(size=256, min_side=1))
    found = prepare_bytes(tf.constant(encoded), 0, 256, 256).numpy()
    difference = np.abs(np.int32(found) - np.asarray(ours))
    assert difference.max() <= 4  # Pillow rounds between its two passes, and TensorFlow's filter is float32
    assert difference.mean() < 0.3


def test_real_photographs_are_prepared_as_prepare_does(photographs):
    for path in photographs[:: max(1, len(photographs) // 6)]:
        ours, _ = prepare_image(open_image(path), Settings(min_side=1))
        found = prepare_bytes(tf.constant(path.read_bytes()), 0, 1024, 1024).numpy()
        assert np.abs(np.int32(found) - np.asarray(ours)).mean() < 0.5, path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a camera"  # another tag before it
    exif[0x0112] = orientation
    encoded = encode(picture(200, 300), "JPEG", exif=exif, quality=95)
    assert int(exif_orientation(tf.constant(encoded))) == orientation
    (tmp_path / "photo.jpg").write_bytes(encoded)
    ours, _ = prepare_image(open_image(tmp_path / "photo.jpg"), Settings(size=128, min_side=1))
    found = prepare_bytes(tf.constant(encoded), 0, 128, 128).numpy()
    assert np.abs(np.int32(found) - np.asarray(ours)).mean() < 0.5


@pytest.mark.slow
def test_broken_exif_is_no_orientation():
    for tail in (b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", bytes(range(256))):
        encoded = b"\xff\xd8\xff\xe1\0\x10Exif\0\0" + tail
        assert int(exif_orientation(tf.constant(encoded))) == 1
    assert int(exif_orientation(tf.constant(b""))) == 1
