"""Tiny networks of transformers with random weights, and their ports in keras-hub or Keras: `PAIRS`, right and wrong.

Needs both packages (`make strangers`). Nothing is downloaded.
"""

import keras
import keras_hub
import numpy as np
import torch
import transformers
from keras import ops
from torch import nn

from tests.parity.strangers.models import L, random

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGES = {"image_size": 20, "patch_size": 4}
SIZE = (20, 20, 3)


def shaken(model):
    """A torch module with numbers everywhere that are worth comparing."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(parameter + 0.1 * noise if parameter.ndim == 1 else 0.2 * noise)
    return model.eval()


class Bert(nn.Module):
    def __init__(self, **changed):
        super().__init__()
        config = SMALL | {"vocab_size": 31, "max_position_embeddings": 12, "hidden_act": "gelu_new"} | changed
        self.model = transformers.BertModel(transformers.BertConfig(**config))

    def forward(self, token_ids, segment_ids, padding_mask):
        out = self.model(input_ids=token_ids, token_type_ids=segment_ids, attention_mask=padding_mask)
        return {"sequence_output": out.last_hidden_state, "pooled_output": out.pooler_output}


def bert(**changed):
    port = keras_hub.models.BertBackbone(31, 2, 2, 16, 24, max_sequence_length=12)
    rng = np.random.default_rng(0)
    mask = np.ones((3, 9), "int64")
    mask[1, 6:] = 0
    inputs = {"token_ids": rng.integers(0, 31, (3, 9)), "segment_ids": rng.integers(0, 2, (3, 9)), "padding_mask": mask}
    return shaken(Bert(**changed)), port, inputs


class Vision(nn.Module):
    """What a vision model returns last."""

    def __init__(self, model, norm=None):
        super().__init__()
        self.model, self.norm = model, norm

    def forward(self, images):
        return self.model(pixel_values=images).last_hidden_state


def vit(**changed):
    config = transformers.ViTConfig(**SMALL | IMAGES | {"layer_norm_eps": 1e-6} | changed)
    port = keras_hub.models.ViTBackbone(SIZE, 4, 2, 2, 16, 24)
    return shaken(Vision(transformers.ViTModel(config, add_pooling_layer=False))), port, random(2, *SIZE)


class Scale(L.Layer):
    """A layer scale."""

    def build(self, shape):
        self.layer_scale_parameter = self.add_weight(shape=(shape[-1],), name="layer_scale_parameter")

    def call(self, x):
        return x * self.layer_scale_parameter


class ConvNext(nn.Module):
    def __init__(self, **changed):
        super().__init__()
        sizes = {"hidden_sizes": [6, 8], "depths": [1, 2], "num_stages": 2, "patch_size": 4}
        model = transformers.ConvNextModel(transformers.ConvNextConfig(**sizes | changed))
        self.embeddings, self.encoder = model.embeddings, model.encoder

    def forward(self, images):
        return self.encoder(self.embeddings(images)).last_hidden_state


def convnext(epsilon=1e-6, **changed):
    scale = keras.saving.register_keras_serializable("strangers")(Scale)

    def norm(x, name):
        return L.LayerNormalization(epsilon=epsilon, name=name)(x)

    inputs = keras.Input((40, 32, 3))
    x = norm(L.Conv2D(6, 4, 4, name="stem")(inputs), "stem_norm")
    for stage, (filters, depth) in enumerate(((6, 1), (8, 2))):
        if stage:
            x = L.Conv2D(filters, 2, 2, name=f"down{stage}")(norm(x, f"down{stage}_norm"))
        for block in range(depth):
            name = f"stage{stage}_block{block}_"
            y = norm(L.DepthwiseConv2D(7, padding="same", name=f"{name}depthwise")(x), f"{name}norm")
            y = ops.gelu(L.Dense(4 * filters, name=f"{name}up")(y), approximate=False)
            x = L.Add(name=f"{name}add")([x, scale(name=f"{name}scale")(L.Dense(filters, name=f"{name}out")(y))])
    return shaken(ConvNext(**changed)), keras.Model(inputs, x), random(2, 40, 32, 3)


def resnet(**changed):
    sizes = {"embedding_size": 8, "hidden_sizes": [256, 32], "depths": [1, 2], "layer_type": "bottleneck"}
    port = keras_hub.models.ResNetBackbone(
        [8], [7], [64, 8], [1, 2], [1, 2], "bottleneck_block", image_shape=(40, 32, 3)
    )
    model = transformers.ResNetModel(transformers.ResNetConfig(**sizes | changed))
    return shaken(Vision(model)), port, random(2, 40, 32, 3)


def mobilenet(**changed):
    as_tensorflow = {"tf_padding": True, "finegrained_output": True, "first_layer_is_expansion": True}
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, image_size=32, **as_tensorflow | changed)
    port = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
    model = transformers.MobileNetV2Model(config, add_pooling_layer=False)
    return shaken(Vision(model)), port, random(2, 32, 32, 3)


def efficientnet(strides=(1, 1), **changed):
    sizes = {"in_channels": [32, 8], "out_channels": [8, 16], "kernel_sizes": [3, 5], "strides": list(strides)}
    blocks = {"num_block_repeats": [1, 2], "expand_ratios": [1, 6], "depthwise_padding": []}
    scales = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 32}
    model = transformers.EfficientNetModel(transformers.EfficientNetConfig(**sizes | blocks | scales | changed))
    port = keras_hub.models.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0],
        stackwise_kernel_sizes=[3, 5],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[32, 8],
        stackwise_output_filters=[8, 16],
        stackwise_expansion_ratios=[1, 6],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_strides=list(strides),
        stackwise_block_types=["v1", "v1"],
        stackwise_force_input_filters=[0, 0],
        stackwise_nores_option=[False, False],
        input_shape=(32, 32, 3),
        include_stem_padding=False,
        stem_conv_padding="same",
        batch_norm_epsilon=1e-3,
    )
    return shaken(Vision(model)), port, random(2, 32, 32, 3)


# Name to (function that makes the pair, words that the causes of a wrong one have; none for a right one).
PAIRS = {
    "BERT": (bert, ()),
    "BERT, exact GELU": (lambda: bert(hidden_act="gelu"), ("exact GELU, the candidate GELU by tanh",)),
    "BERT, epsilon": (lambda: bert(layer_norm_eps=1e-5), ("epsilon is 1e-05 in the reference and 1e-12",)),
    "ViT": (vit, ()),
    "ViT, epsilon": (lambda: vit(layer_norm_eps=1e-3), ("epsilon is 0.001 in the reference and 1e-06",)),
    "ViT, GELU by tanh": (lambda: vit(hidden_act="gelu_new"), ("GELU by tanh, the candidate exact GELU",)),
    "ConvNeXt": (convnext, ()),
    "ConvNeXt, epsilon": (lambda: convnext(epsilon=1e-2), ("epsilon is 1e-06 in the reference and 0.01",)),
    "ResNet": (resnet, ()),
    "ResNet, strides": (
        lambda: resnet(downsample_in_bottleneck=True),
        ("strides is (2, 2) in the reference and (1, 1)", "strides is (1, 1) in the reference and (2, 2)"),
    ),
    "MobileNetV2": (mobilenet, ()),
    "MobileNetV2, padding": (
        lambda: mobilenet(tf_padding=False),
        ("with padding ((1, 1), (1, 1)), the candidate with padding ((0, 1), (0, 1))",),
    ),
    "MobileNetV2, ReLU": (lambda: mobilenet(hidden_act="relu"), ("computes ReLU, the candidate ReLU6",)),
    "EfficientNet": (efficientnet, ()),
    "EfficientNet, padding": (
        lambda: efficientnet((1, 2)),
        ("with padding ((1, 2), (1, 2)), the candidate with padding ((2, 1), (2, 1))",),
    ),
    "EfficientNet, GELU": (lambda: efficientnet(hidden_act="gelu"), ("computes exact GELU, the candidate SiLU",)),
    "EfficientNet, epsilon": (
        lambda: efficientnet(batch_norm_eps=1e-5),
        ("epsilon is 1e-05 in the reference and 0.001",),
    ),
}
