"""Official weights, in every form that keras.applications saves them, into both packages."""

import keras
import numpy as np
import pytest
import torch

import keras_stoch
import torch_ref
from parity.errors import relative_l2
from tests import tiny as small
from tests.conftest import shake

pytestmark = pytest.mark.usefixtures("tiny")


def torch_logits(model, images):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


@pytest.fixture(scope="module")
def official():
    return shake(small.official(classes=1, classifier_activation=None))


@pytest.fixture(scope="module")
def files(tmp_path_factory, official):
    folder = tmp_path_factory.mktemp("official")
    official.save(folder / "whole.keras")
    official.save(folder / "whole.h5")
    official.save_weights(folder / "bare.weights.h5")
    return folder


@pytest.mark.parametrize("file", ["whole.keras", "whole.h5", "bare.weights.h5"])
def test_files_load_into_both(files, file, images, official):
    expected = np.asarray(official(images))
    ours = keras_stoch.create_model("tiny", 64, weights=files / file)
    np.testing.assert_array_equal(ours(images), expected)
    theirs = torch_ref.create_model("tiny", 64, weights=str(files / file))
    np.testing.assert_allclose(torch_logits(theirs, images), expected, rtol=1e-4, atol=1e-5)


def test_a_second_official_model_numbers_its_layers(images):
    # The one unnamed layer is "normalization_7" or so in a process that has built others.
    for _ in range(2):
        official = small.official(classes=1)
    assert any(layer.name.startswith("normalization_") for layer in official.layers)
    report = keras_stoch.load_official_weights(keras_stoch.create_model("tiny", 64), official)
    assert len(report.loaded) == len(official.weights)
    assert not report.unused + report.kept
    twin = torch_ref.load_official_weights(torch_ref.create_model("tiny"), official)
    assert len(twin.loaded) == len(official.weights)


@pytest.mark.parametrize("package", [keras_stoch, torch_ref])
def test_all_tensors_of_b0(package, official_b0):
    assert len(package.load_official_weights(package.create_model("b0", 64), official_b0).loaded) == 314


def test_without_top_keeps_the_new_top(tmp_path, images):
    official = shake(small.official(include_top=False))
    official.save_weights(tmp_path / "notop.weights.h5")
    for package in (keras_stoch, torch_ref):
        model = package.create_model("tiny", 64, num_classes=3)
        report = package.load_official_weights(model, tmp_path / "notop.weights.h5")
        assert len(report.loaded) == len(official.weights)
        assert {name.replace(".", "/") for name in report.kept} <= {
            "predictions/kernel",
            "predictions/weight",
            "predictions/bias",
        }
        assert len(report.kept) == 2


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """What weights="imagenet" gives: bare Keras weights with ImageNet's statistics, and the model made from them."""
    folder = tmp_path_factory.mktemp("imagenet")
    plain = shake(small.official(include_top=False))
    normalization = next(layer for layer in plain.layers if isinstance(layer, keras.layers.Normalization))
    # The published files hold standard deviations in the place of variances.
    normalization.set_weights([np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225]), np.int32(0)])
    plain.save_weights(folder / "notop.weights.h5")

    with pytest.MonkeyPatch.context() as patch:
        from keras.src.applications import efficientnet

        path = str(folder / "notop.weights.h5")
        patch.setattr(efficientnet.file_utils, "get_file", lambda *a, **k: path)
        model = small.official(weights="imagenet", include_top=False)
    model.save(folder / "whole.keras")
    model.save(folder / "whole.h5")
    return folder, model


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "model",
        "notop.weights.h5",
        "whole.keras",
        "whole.h5",
    ],
)
def test_imagenet_variant_with_its_extra_rescaling(imagenet, source, images):
    folder, official = imagenet
    weights = official if source == "model" else folder / source
    expected = np.asarray(official(images))  # (2, 16, 16, 64)
    ours = keras_stoch.create_model("tiny", 64, weights=weights)
    features = keras.Model(ours.input, ours.get_layer("top_activation").output)
    np.testing.assert_allclose(features(images), expected, rtol=1e-5, atol=1e-6)

    theirs = torch_ref.create_model("tiny", 64, weights=weights).eval()
    seen = []
    theirs.top_activation.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch_logits(theirs, images)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(seen[0].permute(0, 2, 3, 1).numpy(), expected, atol=1e-4 * scale)


def test_the_extra_rescaling_matters(imagenet, images):
    _, official = imagenet
    without = keras_stoch.create_model("tiny", 64, weights=official, imagenet_rescaling=False)
    stems = [keras.Model(m.input, m.get_layer("stem_activation").output) for m in (without, official)]
    assert relative_l2(stems[0](images), stems[1](images)) > 0.1


@pytest.mark.parametrize("package", [keras_stoch, torch_ref])
class TestRefusals:
    def test_other_shapes(self, package, official):
        model = package.create_model("tiny", 64, num_classes=2)
        with pytest.raises(ValueError, match=r"(?s)do not fit.*nothing was loaded.*predictions"):
            package.load_official_weights(model, official)

    def test_missing_tensors_change_nothing(self, package, official):
        source = package.read_official_weights(official)
        del source.tensors["block2a_dwconv/kernel"]
        model = package.create_model("tiny", 64)

        def weights():
            kept = model.get_weights() if package is keras_stoch else model.state_dict().values()
            return [np.array(w) for w in kept]

        before = weights()
        with pytest.raises(ValueError, match=r"block2a_dwconv"):
            package.load_official_weights(model, source)
        for a, b in zip(before, weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_unused_tensors_are_listed(self, package, official, caplog):
        source = package.read_official_weights(official)
        source.tensors["extra/kernel"] = np.zeros(3)
        report = package.load_official_weights(package.create_model("tiny", 64), source)
        assert report.unused == ("extra/kernel",)
        assert "extra/kernel" in caplog.text

    def test_no_such_file(self, package):
        with pytest.raises(FileNotFoundError, match="nowhere.h5"):
            package.create_model("tiny", 64, weights="nowhere.h5")

    def test_not_a_checkpoint(self, package, tmp_path):
        path = tmp_path / "weights.h5"
        path.write_text("this is no HDF5")
        with pytest.raises(ValueError, match="weights.h5"):
            package.create_model("tiny", 64, weights=path)

    def test_not_a_path(self, package):
        with pytest.raises(ValueError, match="must be a Keras model or a path. Received: 3"):
            package.create_model("tiny", 64, weights=3)
