"""`add_detail`: backbones of many kinds get a second branch that reads the large image; what can't is named."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_stoch
from keras_stoch.evaluation.predictions import AveragedPasses
from keras_stoch.training.runs import check_run
from tests.conftest import shake
from tests.keras_stoch.serving.pictures import encode, picture

SMALL, LARGE = 32, 80


def pixels(size, count=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def inputs_of(low=SMALL, high=LARGE):
    return {"low_res": pixels(low), "high_res": pixels(high, seed=1)}


def residual(x, filters, name):
    y = layers.BatchNormalization(name=f"{name}_bn")(layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x))
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


def as_resnet(preprocess=None):
    """Padding, then a convolution with stride 2, as ResNet has it; pixels as they are, or preprocessed.

    Of 5 pixels in place of 7, for which the stem takes three times as long to compile.
    """
    inputs = keras.Input((SMALL, SMALL, 3))
    x = inputs if preprocess is None else preprocess(inputs)
    x = layers.ZeroPadding2D(2, name="conv1_pad")(x)
    x = layers.Conv2D(6, 5, strides=2, name="conv1_conv")(x)
    x = layers.ReLU(name="conv1_relu")(layers.BatchNormalization(name="conv1_bn")(x))
    x = layers.MaxPooling2D(2, name="pool1")(x)
    return keras.Model(inputs, residual(x, 6, "conv2"), name="small_resnet")


def as_convnext():
    """keras.applications' own builder: a stem inside of a Sequential, LayerScale, normalisation inside."""
    from keras.src.applications.convnext import ConvNeXt

    return ConvNeXt(
        depths=(1, 1, 1, 1), projection_dims=(6, 8, 8, 8), include_top=False, weights=None, drop_path_rate=0.1,
        input_shape=(SMALL, SMALL, 3), name="small_convnext",
    )  # fmt: skip


def as_efficientnet_v2():
    from keras.src.applications.efficientnet_v2 import EfficientNetV2

    block = {"kernel_size": 3, "num_repeat": 2, "expand_ratio": 2, "strides": 1, "se_ratio": 0.25}
    kinds = [
        {"input_filters": 8, "output_filters": 8, "conv_type": 1},
        {"input_filters": 8, "output_filters": 8, "conv_type": 0},
    ]
    return EfficientNetV2(
        1.0, 1.0, SMALL, blocks_args=[block | kind for kind in kinds], include_top=False, weights=None,
        input_shape=(SMALL, SMALL, 3), name="small_efficientnetv2", weights_name=None,
    )  # fmt: skip


class Backbone(keras.Model):
    """A functional model by inheritance, for images of any size, as keras-hub's are."""

    def __init__(self, filters=5, **kwargs):
        inputs = keras.Input((None, None, 3), name="images")
        x = layers.Rescaling(1 / 127.5, offset=-1, name="scale")(inputs)
        x = layers.Conv2D(filters, 4, strides=4, padding="valid", activation="gelu", name="patches")(x)
        super().__init__(inputs, layers.LayerNormalization(name="norm")(x), **kwargs)
        self.filters = filters

    def get_config(self):
        return {"filters": self.filters}


def as_keras_hub():
    return Backbone()


def with_top():
    """A classifier of five classes, its base inside, its preprocessing outside: transfer learning by Keras's guide."""
    inputs = keras.Input((SMALL, SMALL, 3))
    x = keras.applications.resnet.preprocess_input(inputs)  # BGR, mean subtracted
    x = layers.GlobalAveragePooling2D()(as_resnet()(x))
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(layers.Dropout(0.5)(x)), name="transfer")


def sequential():
    return keras.Sequential(
        [keras.Input((SMALL, SMALL, 3)), layers.Conv2D(4, 3, padding="same"), layers.Flatten()], name="plain"
    )


def shared():
    """A layer that is called twice, and arithmetic without layers."""
    inputs = keras.Input((SMALL, SMALL, 3))
    x = layers.Conv2D(4, 5, strides=(2, 1), padding="same", use_bias=False, name="first")((inputs - 127.0) / 60.0)
    again = layers.Conv2D(4, 3, padding="same", name="again")
    x = keras.ops.relu(again(x)) * 0.5 + again(x)
    return keras.Model(inputs, layers.GlobalMaxPooling2D(name="avg_pool")(x), name="shared")


KINDS = {
    f.__name__: f for f in (as_resnet, as_convnext, as_efficientnet_v2, as_keras_hub, with_top, sequential, shared)
}


# The others are one of these in all that `add_detail` looks at, by layers of other names.
QUICK = ("with_top", "shared")


def with_detail(kind, backbone):
    options = {"low_res": SMALL} if kind == "as_keras_hub" else {}
    return keras_stoch.add_detail(backbone, high_res=LARGE, seed=3, **options)


def built(kind):
    return with_detail(kind, shake(KINDS[kind]()))


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_both_branches_are_the_backbone(kind):
    """Where the large image is the small one, padded as the backbone pads it, and there is one window alone."""
    backbone = shake(KINDS[kind]())
    before = [w.copy() for w in backbone.get_weights()]
    model = with_detail(kind, backbone)
    reference = backbone
    if kind == "with_top":
        reference = keras.Model(backbone.input, backbone.layers[-2].input)
    check_branches(model, reference, lambda pixels: preprocessed(kind, pixels), inputs_of())
    for one, other in zip(backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not {id(w) for w in backbone.weights} & {id(w) for w in model.weights}


def check_branches(model, reference, preprocess, given):
    """AssertionError if a model's branches are not those of a backbone that is called `reference`."""
    parts = AveragedPasses(model)
    expected = np.asarray(reference(np.float32(given["low_res"]), training=False))
    expected = expected.mean((1, 2)) if expected.ndim == 4 else expected
    found = np.asarray(parts.global_branch(given["low_res"], training=False))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())

    (stem,) = (layer for layer in model.layers if isinstance(layer, keras_stoch.StochasticConv2D))
    conv = model.get_layer(stem.name.removeprefix("detail_"))
    assert (stem.filters, stem.kernel_size, stem.strides) == (conv.filters, conv.kernel_size, conv.strides)
    assert stem.output_size == tuple(conv.output.shape[1:3])
    # The stem's maps are those of the convolution without padding over the window, preprocessed as the backbone does.
    spans = np.subtract(given["high_res"].shape[1:3], stem.window) + 1
    windows = np.random.default_rng(2).integers(0, spans, (stem.filters, 2), dtype=np.int32)
    maps = np.asarray(stem(given["high_res"], windows=windows))
    large = np.float32(preprocess(given["high_res"]))
    kernel, *bias = conv.get_weights()
    for f, (top, left) in enumerate(windows):
        patch = large[:, top : top + stem.window[0], left : left + stem.window[1]]
        one = keras.ops.conv(patch, kernel[..., f : f + 1], conv.strides, "valid", data_format="channels_last")
        one = np.asarray(conv.activation(one + (bias[0][f] if bias else 0)))[..., 0]
        np.testing.assert_allclose(maps[..., f], one, rtol=1e-3, atol=1e-3 * np.abs(one).max())
    # All others behind it have the same weights in both branches.
    names = {layer.name for layer in model.layers}
    twins = [name for name in names if f"detail_{name}" in names and name != conv.name]
    for name in twins:
        for one, other in zip(model.get_layer(name).weights, model.get_layer(f"detail_{name}").weights, strict=True):
            np.testing.assert_array_equal(one, other)


def preprocessed(kind, images):
    """What the backbone makes of pixels before its first convolution."""
    x = np.float64(images)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return {
        "as_resnet": lambda: x,
        "as_convnext": lambda: (x / 255 - mean) / std,
        "as_efficientnet_v2": lambda: x / 128 - 1,
        "as_keras_hub": lambda: x / 127.5 - 1,
        "with_top": lambda: x[..., ::-1] - np.array([103.939, 116.779, 123.68]),
        "sequential": lambda: x,
        "shared": lambda: (x - 127) / 60,
    }[kind]()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k if k == "as_keras_hub" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_it_is_saved_loaded_and_averaged_as_ours_are(kind, tmp_path):
    model = built(kind)
    given = inputs_of()
    windows = np.zeros((model_stem(model).filters, 2), np.int32)
    once = np.asarray(model(given, windows=windows))
    assert once.shape == (2, 1)
    assert np.ptp([np.asarray(model(given)) for _ in range(6)], axis=0).max() > 0  # draws matter
    model.save(tmp_path / "model.keras")
    again = keras_stoch.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(np.asarray(again(given, windows=windows)), once, rtol=1e-4, atol=1e-5)
    draws = np.stack([windows, windows + 3])
    averaged = np.asarray(AveragedPasses(again)(given, 2, windows=draws))
    for found, draw in zip(averaged, draws, strict=True):
        np.testing.assert_allclose(found, np.asarray(model(given, windows=draw)), rtol=1e-4, atol=1e-5)
    assert keras_stoch.predict(model, given, passes=3).shape == (2, 1)


def model_stem(model):
    return next(layer for layer in model.layers if hasattr(layer, "draw_windows"))


def test_frozen_layers_stay_frozen():
    backbone = as_resnet()
    backbone.get_layer("conv1_conv").trainable = False
    backbone.get_layer("conv2_bn").trainable = False
    model = keras_stoch.add_detail(backbone, LARGE)
    frozen = {layer.name for layer in model.layers if not layer.trainable}
    assert {"conv1_conv", "detail_conv1_conv", "conv2_bn", "detail_conv2_bn"} <= frozen


@pytest.mark.slow
def test_a_run_of_it_is_evaluated_and_exported(lesions, tmp_path):
    """By its folder, as those by name."""
    fit = {"epochs": 1, "batch_size": 16, "augment": False}
    keras_stoch.fit(lambda: keras_stoch.add_detail(as_resnet(), 64), lesions, tmp_path / "runs", seed=2, **fit)
    run = tmp_path / "runs" / "run-0"
    assert check_run(run, passes=2)["draws"]
    found = keras_stoch.evaluate(run, lesions, passes=2, calibrate="validation", bootstraps=10)
    assert found.images["spread"].max() > 0
    path = keras_stoch.export(run, tmp_path / "model.keras", format="keras")
    given, windows = inputs_of(32, 64), np.full((6, 2), 5, np.int32)
    expected = np.asarray(keras_stoch.load_run(run)(given, windows=windows))
    np.testing.assert_allclose(np.asarray(keras_stoch.load_model(path)(given, windows=windows)), expected, rtol=1e-5)
    assert found.calibration.temperature > 0
    map_ = keras_stoch.evidence(run, given["high_res"][0], draws=20, cells=4)
    assert map_.effect.shape == (4, 4)
    with pytest.raises(ValueError, match="No model|is no run"):
        check_run(tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["as_convnext", "with_top"])
def test_it_is_served(kind, tmp_path):
    model = built(kind)
    head = model.get_layer("predictions")
    head.kernel.assign(head.kernel / np.abs(model(inputs_of())).max())  # logits of about 1, for windows to matter
    served = tf.saved_model.load(str(keras_stoch.export(model, tmp_path / "served"))).signatures
    given = inputs_of() | {"windows": np.zeros((model_stem(model).filters, 2), np.int32)}
    answer = served["serve_windows"](**{name: tf.constant(value) for name, value in given.items()})
    expected = tf.sigmoid(model(inputs_of(), windows=given["windows"]))[:, 0]
    np.testing.assert_allclose(answer["probability"], expected, rtol=0, atol=1e-4)
    drawn = served["serve_averaged"](images=tf.constant([encode(picture(90, 80))]), n=tf.constant(3))
    assert drawn["spread"].numpy() > 0


def test_a_frozen_norm_of_pixels_is_folded_too():
    """In inference mode for good, it is a scale and a shift by channel."""
    backbone = shake(chain(layers.BatchNormalization(name="bn", trainable=False), shape=(SMALL, SMALL, 3)))
    images = pixels(LARGE)
    stem = model_stem(keras_stoch.add_detail(backbone, LARGE))
    maps = np.asarray(stem(images, windows=np.full((4, 2), 7, np.int32)))
    window = np.float32(images)[:, 7 : 7 + stem.window[0], 7 : 7 + stem.window[1]]
    expected = np.asarray(backbone(window, training=False))
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def chain(*between, conv=None, **options):
    inputs = keras.Input(options.pop("shape", (SMALL, SMALL, 3)))
    x = inputs
    for layer in between:
        x = layer(x)
    x = (conv or layers.Conv2D(4, 3, name="conv"))(x)
    return keras.Model(inputs, x)


@keras.saving.register_keras_serializable("tests")
class Wider(layers.Conv2D):
    pass


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (lambda: chain(conv=layers.DepthwiseConv2D(3, name="d")), r"layer 'd' \(DepthwiseConv2D\) stands .* learns"),
        (lambda: chain(conv=layers.SeparableConv2D(4, 3, name="s")), r"layer 's' \(SeparableConv2D\)"),
        (lambda: chain(layers.BatchNormalization(name="bn")), r"layer 'bn' \(BatchNormalization\) .* learns"),
        (lambda: chain(layers.AveragePooling2D(2, name="p")), r"layer 'p' .* makes \(None, 16, 16, 3\) of the image"),
        (lambda: chain(layers.RandomFlip(name="flip")), r"layer 'flip' \(RandomFlip\) .* draws at random"),
        (lambda: chain(layers.Activation("tanh", name="t")), r"layer 't' \(Activation\).* something else"),
        (lambda: chain(layers.Rescaling(-1 / 255, offset=1, name="n")), r"layer 'n' .* turns dark and light around"),
        (lambda: chain(lambda x: keras.ops.flip(x, 1)), r"layer 'flip.* does something else"),
        (lambda: chain(lambda x: x[..., :1]), r"GetItem\) .* makes others of the three channels"),
        (lambda: chain(lambda x: keras.ops.repeat(keras.ops.mean(x, -1, keepdims=True), 3, -1)), "makes others of the"),
        (lambda: chain(conv=Wider(4, 3, name="w")), r"layer 'w' \(Wider\).* must be a keras.layers.Conv2D, and no sub"),
        (lambda: chain(conv=layers.Conv2D(6, 3, groups=3, name="g")), r"layer 'g' \(Conv2D\).* one group.*groups=3"),
        (lambda: chain(conv=layers.Conv2D(6, 3, dilation_rate=2, name="dil")), r"layer 'dil' .* no dilation"),
        (lambda: chain(conv=layers.Conv2D(6, 3, kernel_regularizer="l2", name="r")), "layer 'r'.* has kernel_regular"),
        (lambda: chain(shape=(SMALL, SMALL, 1)), r"images \(batch, height, width, 3\). Received: \(None, 32, 32, 1\)"),
        (lambda: chain(shape=(None, None, 3)), "takes images of any size: low_res must say which"),
        (lambda: "resnet", "backbone must be a functional or sequential Keras model that is built"),
        (lambda: keras.Sequential([layers.Conv2D(3, 3)]), "that is built"),
        (lambda: chain(conv=layers.GlobalAveragePooling2D(name="pool")), "one convolution: .* Received: none"),
        (lambda: chain(conv=layers.Dense(4, name="dense")), r"layer 'dense' \(Dense\).* learns"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_named(backbone, message):
    with pytest.raises(ValueError, match=message):
        keras_stoch.add_detail(backbone(), LARGE)


def test_several_inputs_outputs_and_ways_are_refused():
    a = keras.Input((SMALL, SMALL, 3))
    x, y = layers.Conv2D(4, 3, name="one")(a), layers.Conv2D(4, 3, name="two")(a)
    with pytest.raises(ValueError, match=r"must go into one convolution: .* Received: layer 'one' \(Conv2D\) and lay"):
        keras_stoch.add_detail(keras.Model(a, x + y), LARGE)
    skip = layers.Concatenate(name="skip")([layers.Conv2D(4, 3, padding="same", name="same")(a), a])
    with pytest.raises(ValueError, match=r"Received: layer 'same' \(Conv2D\) and layer 'skip' \(Concatenate\)"):
        keras_stoch.add_detail(keras.Model(a, skip), LARGE)
    with pytest.raises(ValueError, match="backbone must have one output. Received: 2"):
        keras_stoch.add_detail(keras.Model(a, [x, y]), LARGE)
    b = keras.Input((SMALL, SMALL, 3))
    with pytest.raises(ValueError, match="backbone must have one input. Received: 2"):
        keras_stoch.add_detail(keras.Model([a, b], x + layers.Conv2D(4, 3)(b)), LARGE)
    tokens = layers.Reshape((-1, 4))(x)
    with pytest.raises(ValueError, match=r"feature maps .* or a vector .* Received: \(None, 900, 4\)"):
        keras_stoch.add_detail(keras.Model(a, tokens), LARGE)
    with pytest.raises(ValueError, match="smaller than the window"):
        keras_stoch.add_detail(as_resnet(), 32)
    with pytest.raises(ValueError, match="dropout must be"):
        keras_stoch.add_detail(as_resnet(), LARGE, dropout=1)
    with pytest.raises(ValueError, match="num_classes must be a positive int"):
        keras_stoch.add_detail(as_resnet(), LARGE, num_classes=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "top"),
    [
        *(("ConvNeXtTiny", False), ("EfficientNetV2B0", False), ("EfficientNetB0", False), ("ResNet50", False)),
        *(("ResNet50V2", False), ("MobileNetV3Small", False), ("DenseNet121", False)),
        # A norm before the dense layer, dropout, and a top that is a convolution; the others' are one dense layer.
        *(("ConvNeXtTiny", True), ("EfficientNetB0", True), ("ResNet50", True), ("MobileNetV3Small", True)),
    ],
)
def test_models_of_keras_applications(name, top):
    options = {"classes": 7} if top else {}
    backbone = getattr(keras.applications, name)(weights=None, include_top=top, input_shape=(64, 64, 3), **options)
    model = keras_stoch.add_detail(backbone, 128)
    model_stem(model).implementation = "slices"  # which is not compiled, as kernels of 7 pixels are for half a minute
    assert model(inputs_of(64, 128)).shape == (2, 1)
    width = model.get_layer("join").input[0].shape[-1]
    dense = next((layer for layer in reversed(backbone.layers) if isinstance(layer, layers.Dense)), None)
    if top and dense is not None:  # MobileNetV3's top is a convolution, and stays
        assert width == dense.input.shape[-1]
    else:
        assert width == backbone.output.shape[-1]
