"""Weights whose origin matters: extra rescaling that a file does not tell, models inside of others, ImageNet's top."""

import dataclasses
import re

import keras
import numpy as np
import pytest
import torch

import keras_stoch
import torch_ref
from tests import tiny as small
from tests.conftest import shake

pytestmark = pytest.mark.usefixtures("tiny")

PACKAGES = pytest.mark.parametrize("package", [keras_stoch, torch_ref])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
ADAPTED = ([0.71, 0.52, 0.49], [0.021, 0.019, 0.024])
INITIAL = ([0, 0, 0], [1, 1, 1])


def official(statistics=ADAPTED, **options):
    """An EfficientNet with these mean and variance; weights=None has no extra rescaling, whatever they are."""
    model = small.official(**options)
    shake(model)
    layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    layer.set_weights([*map(np.float32, statistics), np.asarray(0, layer.get_weights()[2].dtype)])
    layer.finalize_state()
    return model


@pytest.fixture(scope="module")
def headless():
    return official(include_top=False)


@pytest.fixture(scope="module")
def bare(headless, tmp_path_factory):
    """Files of bare weights by their statistics."""
    folder, layer = tmp_path_factory.mktemp("bare"), None
    layer = next(layer for layer in headless.layers if isinstance(layer, keras.layers.Normalization))
    before, files = layer.get_weights(), {}
    for name, statistics in (("imagenet", IMAGENET), ("adapted", ADAPTED), ("initial", INITIAL)):
        layer.set_weights([*map(np.float32, statistics), before[2]])
        for suffix in (".weights.h5", ".h5"):
            files[name, suffix] = folder / f"{name}{suffix}"
            if suffix == ".h5":  # bare weights in Keras 2's layout, as the published files are
                import h5py
                from keras.src.legacy.saving import legacy_h5_format

                with h5py.File(files[name, suffix], "w") as file:
                    legacy_h5_format.save_weights_to_hdf5_group(file, headless)
            else:
                headless.save_weights(files[name, suffix])
    layer.set_weights(before)
    layer.finalize_state()
    return files


def scales(model):
    """Whether a model of either package scales its inputs once more."""
    if isinstance(model, torch.nn.Module):
        return hasattr(model, "rescaling_1")
    return any(layer.name == "rescaling_1" for layer in model.layers)


@PACKAGES
@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
@pytest.mark.parametrize(
    ("statistics", "given", "scaled", "told"),
    [
        ("imagenet", None, True, None),
        ("imagenet", True, True, None),
        ("imagenet", False, False, "imagenet_rescaling=True is what the weights were trained with"),
        ("adapted", None, False, "Assumed: it does not.*pass imagenet_rescaling=True"),
        ("adapted", True, True, None),
        ("adapted", False, False, None),
        ("initial", None, False, None),
        ("initial", True, True, "imagenet_rescaling=False is what the weights were trained with"),
    ],
)
def test_the_extra_rescaling_is_known_or_told(package, suffix, statistics, given, scaled, told, bare, caplog):
    model = package.create_model("tiny", 64, weights=bare[statistics, suffix], imagenet_rescaling=given)
    assert scales(model) == scaled
    found = [record.getMessage() for record in caplog.records if "standard deviation" in record.getMessage()]
    if told is None:
        assert found == []
    else:
        (message,) = found
        assert str(bare[statistics, suffix]) in message
        assert re.search(told, message)


@PACKAGES
def test_both_stems_follow_the_argument(package, bare):
    """The stochastic stem folds the extra rescaling into its variance, or not, as the other stem has it."""
    for given, factor in ((True, np.float32(IMAGENET[1])), (False, 1)):
        model = package.create_model(
            "tiny-stem", 64, high_res=128, weights=bare["imagenet", ".weights.h5"], imagenet_rescaling=given
        )
        if package is torch_ref:
            variance = model.detail.stem_conv.variance.numpy()
        else:
            variance = np.asarray(model.get_layer("detail_stem_conv").variance)
        np.testing.assert_allclose(variance.ravel(), np.float32(IMAGENET[1]) * factor, rtol=1e-6)


@pytest.fixture(scope="module")
def nested(headless, tmp_path_factory):
    """A classifier around an EfficientNet, and its files."""
    inputs = keras.Input((64, 64, 3))
    x = keras.layers.Rescaling(1.0, name="outer_rescaling")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(headless(keras.layers.Rescaling(1.0)(x)))
    model = keras.Model(inputs, keras.layers.Dense(7, name="head")(x))
    folder = tmp_path_factory.mktemp("nested")
    model.save(folder / "whole.keras")
    model.save(folder / "whole.h5")
    model.save_weights(folder / "bare.weights.h5")
    deep = keras.Sequential([keras.Input((64, 64, 3)), keras.Sequential([keras.Input((64, 64, 3)), model])])
    return {"model": model, "deep": deep} | {path.name: path for path in folder.iterdir()}


@pytest.mark.slow
@PACKAGES
@pytest.mark.parametrize("source", ["model", "deep", "whole.keras", "whole.h5", "bare.weights.h5"])
def test_an_efficientnet_inside_of_another_model_is_found(package, source, nested, headless, images, caplog):
    report = package.load_official_weights(package.create_model("tiny", 64), nested[source])
    assert len(report.loaded) == len(headless.weights)
    assert {name.rsplit("/", 1)[1] for name in report.unused if "../" in name} == {"kernel", "bias"}
    model = package.create_model("tiny", 64, weights=nested[source])
    assert not scales(model)  # the Rescaling layers around it are not its own
    expected = np.asarray(headless(images))
    if package is keras_stoch:
        found = keras.Model(model.input, model.get_layer("top_activation").output)(images)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    else:
        seen = []
        model.top_activation.register_forward_hook(lambda module, inputs, output: seen.append(output))
        with torch.no_grad():
            model.eval()(torch.from_numpy(images).permute(0, 3, 1, 2))
        np.testing.assert_allclose(seen[0].permute(0, 2, 3, 1), expected, atol=1e-4 * np.abs(expected).max())
    assert "../" in caplog.text
    assert "tensors not used" in caplog.text


@PACKAGES
def test_several_inside_are_named(package, headless, images):
    other = keras.models.clone_model(headless)
    other.name = "second"
    inputs = keras.Input((64, 64, 3))
    both = keras.layers.Concatenate()([headless(inputs), other(inputs)])
    with pytest.raises(ValueError, match="holds several EfficientNets: efficientnet_tiny, second. Give one of them"):
        package.read_official_weights(keras.Model(inputs, both))


@PACKAGES
def test_many_unused_tensors_are_counted(package, headless, caplog):
    source = package.read_official_weights(headless)
    source.tensors.update({f"extra_{n}/kernel": np.zeros(1) for n in range(13)})
    report = package.load_official_weights(package.create_model("tiny", 64), source)
    assert len(report.unused) == 13
    assert "13 tensors not used" in caplog.text
    assert "and 3 more" in caplog.text


@PACKAGES
def test_the_top_of_imagenet_is_left_out(package, caplog):
    model = official(classifier_activation=None)
    source = package.read_official_weights(model)
    assert source.tensors["predictions/kernel"].shape == (64, 1000)
    for classes, kept in ((1, 2), (7, 2), (1000, 0)):
        report = package.load_official_weights(package.create_model("tiny", 64, num_classes=classes), source)
        assert (len(report.kept), len(report.loaded)) == (kept, len(model.weights) - kept)
        assert sorted(report.unused) == (["predictions/bias", "predictions/kernel"] if kept else [])


@PACKAGES
def test_without_normalization_the_message_says_what_that_means(package, headless):
    source = package.read_official_weights(headless)
    tensors = {name: value for name, value in source.tensors.items() if not name.startswith("normalization/")}
    with pytest.raises(ValueError, match=r"(?s)nothing was loaded.*source without normalization expects inputs"):
        package.load_official_weights(package.create_model("tiny", 64), dataclasses.replace(source, tensors=tensors))
    broken = {name: value for name, value in source.tensors.items() if name != "block2a_dwconv/kernel"}
    with pytest.raises(ValueError, match="block2a_dwconv") as told:
        package.load_official_weights(package.create_model("tiny", 64), dataclasses.replace(source, tensors=broken))
    assert "without normalization" not in str(told.value)


def test_training_tells_what_it_assumed(bare):
    from keras_stoch.training.recipe import Recipe
    from keras_stoch.training.subjects import make_subject

    recipe = Recipe(low_res=64)
    for statistics, assumed in (("imagenet", False), ("adapted", True)):
        told = make_subject("tiny", recipe, 1, bare[statistics, ".weights.h5"]).told
        assert ("assumed to scale inputs once only" in told) == assumed
