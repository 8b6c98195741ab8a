"""`add_detail` on the backbones of keras-hub, small ones of every kind; `make strangers` installs it."""

import importlib.util

import numpy as np
import pytest

import keras_stoch
from tests.conftest import shake
from tests.keras_stoch.test_detail import check_branches, inputs_of

if importlib.util.find_spec("keras_hub") is None:
    pytest.skip("keras_hub is not installed; make strangers installs it", allow_module_level=True)

SIDE, LARGE = 64, 160
SHAPE = (SIDE, SIDE, 3)
EFFICIENTNET = {
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [1, 1],
    "stackwise_input_filters": [8, 8],
    "stackwise_output_filters": [8, 12],
    "stackwise_expansion_ratios": [1, 4],
    "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
    "stackwise_strides": [1, 2],
    "stackwise_force_input_filters": [0, 0],
    "stackwise_nores_option": [False, False],
    "stackwise_width_coefficients": [1.0, 1.0],
    "stackwise_depth_coefficients": [1.0, 1.0],
    "num_features": 16,
}
MOBILENET = {
    "stackwise_expansion": [[16], [24]],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_filters": [[8], [12]],
    "stackwise_kernel_size": [[3], [3]],
    "stackwise_num_strides": [[1], [2]],
    "stackwise_se_ratio": [[None], [0.25]],
    "stackwise_activation": [["relu"], ["hard_swish"]],
    "stackwise_padding": [[1], [1]],
    "input_num_filters": 8,
    "output_num_filters": 16,
    "depthwise_filters": 8,
    "depthwise_stride": 1,
    "depthwise_residual": True,
    "last_layer_filter": 8,
}
FIT = {  # name: (backbone, arguments)
    "ResNet": ("ResNet", ([64], [7], [64, 64], [1, 1], [1, 2], "basic_block")),
    "ResNet V2": ("ResNet", ([8], [7], [64, 8], [1, 1], [1, 2], "bottleneck_block", True)),
    "ResNet D": ("ResNet", ([8, 8, 8], [3, 3, 3], [64, 8], [1, 1], [1, 2], "bottleneck_block_vd")),
    "EfficientNet": ("EfficientNet", EFFICIENTNET | {"stackwise_block_types": ["v1", "v1"]}),
    "EfficientNet V2": ("EfficientNet", EFFICIENTNET | {"stackwise_block_types": ["fused", "unfused"]}),
    "CSPNet": ("CSPNet", (8, 3, 2, [1, 1], [1, 2], [8, 16], "dark_block", 1, "dark")),
    "DenseNet": ("DenseNet", {"stackwise_num_repeats": [1, 1], "growth_rate": 4}),
    "MobileNet": ("MobileNet", MOBILENET),
    "VGG": ("VGG", ([1, 1], [4, 8])),
    "Xception": ("Xception", ([[8, 8], [8, 8]], [True, False])),
}
UNFIT = {  # name: (backbone, arguments, what the error names)
    "ViT": ("ViT", (SHAPE, 16, 1, 2, 8, 16), r"'vit_patching_and_embedding' \(ViTPatchingAndEmbedding\) .* learns"),
    "DeiT": ("DeiT", (SHAPE, 16, 1, 2, 8, 16), r"'deit_patching_and_embedding' \(DeiTEmbeddings\) .* learns"),
    "Swin": ("SwinTransformer", (SHAPE, 8, [1, 1], [1, 2], 4), r"'patch_embedding' \(PatchEmbedding\) .* learns"),
    "MiT": (
        "MiT", ([1, 1], 2, [1, 2], [2, 1], 0.1, [7, 3], [4, 2], SHAPE, [8, 16]),
        r"'patch_and_embed_0' \(OverlappingPatchingAndEmbedding\) .* learns",
    ),
    "HGNetV2": (
        "HGNetV2",
        ([1, 1], 8, [8, 16], [3, 8, 8], "relu", False, [(8, 4, 8, 1, 1, 3), (8, 4, 16, 1, 1, 3)], [False, True],
         [False, False], SHAPE),
        "must have one output. Received: 3",
    ),
}  # fmt: skip


def backbone_of(kind, arguments):
    import keras_hub

    made = getattr(keras_hub.models, f"{kind}Backbone")
    return made(**arguments) if isinstance(arguments, dict) else made(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIT)
def test_both_branches_are_the_backbone(name, tmp_path):
    """Its pixels are preprocessed outside; it takes images of any size."""
    backbone = shake(backbone_of(*FIT[name]))
    model = keras_stoch.add_detail(backbone, high_res=LARGE, low_res=SIDE)
    given = inputs_of(SIDE, LARGE)
    check_branches(model, backbone, np.float64, given)
    if name in ("CSPNet", "MobileNet"):  # layers of their own, by their configuration
        stem = next(layer for layer in model.layers if isinstance(layer, keras_stoch.StochasticConv2D))
        windows = np.full((stem.filters, 2), 9, np.int32)
        model.save(tmp_path / "model.keras")
        found = keras_stoch.load_model(tmp_path / "model.keras")(given, windows=windows)
        expected = np.asarray(model(given, windows=windows))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", UNFIT)
def test_what_stands_before_the_first_convolution_is_named(name):
    kind, arguments, message = UNFIT[name]
    with pytest.raises(ValueError, match=message):
        keras_stoch.add_detail(backbone_of(kind, arguments), high_res=LARGE, low_res=SIDE)
