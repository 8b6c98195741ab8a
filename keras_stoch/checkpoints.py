"""Reading official EfficientNet weights by name, from a live model or from a file that one saved."""

import json
import logging
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

logger = logging.getLogger(__name__)

# The variables of a layer in the order in which Keras saves them under vars/0, vars/1, ...
VARIABLES = {
    "conv": ("kernel", "bias"),
    "bn": ("gamma", "beta", "moving_mean", "moving_variance"),
    "normalization": ("mean", "variance", "count"),
}
# keras.applications' ImageNet checkpoints hold the standard deviations where Normalization expects variances; the
# official model divides by their square root once more.
IMAGENET_STDDEV_RGB = (0.229, 0.224, 0.225)


DETAIL = "detail_"  # prefix of the second branch's layers


@dataclass(frozen=True)
class OfficialWeights:
    """Tensors by name, in Keras layout.

    Attributes:
        source: what they were read from, for messages.
        tensors: "layer/variable" to array, for instance "stem_conv/kernel" (3, 3, 3, 32).
        imagenet_rescaling: whether their model scales its input once more by 1/sqrt(standard deviation).
    """

    source: str
    tensors: dict[str, np.ndarray]
    imagenet_rescaling: bool


@dataclass(frozen=True)
class LoadReport:
    """What happened to each tensor: `loaded`, `unused` (in the source only), `kept` (as initialised)."""

    loaded: tuple[str, ...]
    unused: tuple[str, ...]
    kept: tuple[str, ...]


def read_official_weights(source) -> OfficialWeights:
    """Reads the weights of a `keras.applications` EfficientNet.

    Args:
        source: a Keras model, an `OfficialWeights`, or a path to an `.h5` (whole model or weights, the layout of
            Keras 2 and of the published checkpoints), `.weights.h5` or `.keras` file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of these, or holds no weights.
    """
    if isinstance(source, OfficialWeights):
        return source
    if isinstance(source, keras.Model):
        tensors = {
            f"{_layer_name(layer.name)}/{variable.name}": keras.ops.convert_to_numpy(variable)
            for layer in source.layers
            for variable in layer.weights
        }
        names = [layer.name for layer in source.layers if isinstance(layer, keras.layers.Rescaling)]
        return OfficialWeights(f"model {source.name!r}", tensors, len(names) > 1)
    if not isinstance(source, str | Path):
        raise ValueError(f"weights must be a Keras model or a path. Received: {source!r}")
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"weights: no such file. Received: {source!r}")
    config = None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
                with archive.open("model.weights.h5") as stream, h5py.File(stream, "r") as file:
                    tensors = _read_h5(file)
        else:
            with h5py.File(path, "r") as file:
                tensors = _read_h5(file)
                if "model_config" in file.attrs:
                    config = json.loads(file.attrs["model_config"])
    except (OSError, KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"weights: {path} is no .h5, .weights.h5 or .keras file of a Keras model: {error}") from error
    if not tensors:
        raise ValueError(f"weights: {path} holds no tensors")
    return OfficialWeights(str(path), tensors, _has_imagenet_rescaling(config, tensors))


def load_official_weights(model, source) -> LoadReport:
    """Copies official weights into a model by name, all or nothing.

    Every branch that has the shape for them is given the official weights: `detail_block1a_dwconv` those of
    `block1a_dwconv`, both backbones of a split model the same. Where a model with a detail branch has other channels
    than the official one (the first block behind the join, the last dense layer), layers keep their initial values,
    and the report says so. A source without top leaves `predictions` as initialised. Anything else that the model
    needs and the source lacks, or has in another shape, is an error, and nothing is copied.

    Args:
        model: a model from `create_model`.
        source: as in `read_official_weights`.

    Returns:
        A `LoadReport`. Unused tensors are logged as a warning too.
    """
    official = read_official_weights(source)
    with_top = any(name.startswith("predictions/") for name in official.tensors)
    widened = _widened_layers(model)
    found, loaded, kept, missing, mismatched = {}, [], [], [], []
    for variable in model.weights:
        name = variable.path
        tensor = _official_tensor(name, official)
        if tensor is not None:
            if tuple(variable.shape) == tensor.shape:
                found[name] = tensor
                loaded.append(name)
            elif name.split("/")[0] in widened:
                kept.append(name)
            else:
                mismatched.append(f"{name}: model {tuple(variable.shape)}, source {tensor.shape}")
        elif name.startswith("predictions/") and not with_top:
            kept.append(name)
        else:
            missing.append(name)
    if missing or mismatched:
        raise ValueError(_describe_failure(official.source, missing, mismatched))
    for variable in model.weights:
        if variable.path in found:
            variable.assign(found[variable.path])
    # Assigning the statistics does not refresh the constants that Normalization computed from them.
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    used = {name for name in official.tensors for prefix in ("", DETAIL) if prefix + name in found}
    unused = tuple(sorted(set(official.tensors) - used))
    if unused:
        logger.warning("%s: %d tensors not used: %s", official.source, len(unused), ", ".join(unused[:10]))
    return LoadReport(tuple(loaded), unused, tuple(kept))


def _official_tensor(name: str, official: OfficialWeights):
    """The official tensor for one of a model's variables, or None."""
    name = name.removeprefix(DETAIL)
    statistics = name.removeprefix("stem_conv/")
    if statistics in ("mean", "variance"):  # of the stochastic stem, which normalises by itself
        tensor = official.tensors.get(f"normalization/{statistics}")
        if tensor is not None and statistics == "variance" and official.imagenet_rescaling:
            # Dividing by sqrt(v) and then by sqrt(stddev) is dividing by sqrt(v * stddev).
            tensor = tensor * np.float32(IMAGENET_STDDEV_RGB)
        return tensor
    return official.tensors.get(name)


def _widened_layers(model) -> set[str]:
    """Layers that have other channels than in the official model, because two branches meet in front of them."""
    names = [layer.name for layer in model.layers]
    if "join" not in names:
        return set()
    behind = names[names.index("join") + 1 :]
    first = behind[0].split("_")[0]
    if first.startswith("block"):
        return {name for name in behind if name.startswith(f"{first}_")}
    return {"predictions"}


def _describe_failure(source: str, missing: list[str], mismatched: list[str]) -> str:
    """The message for weights that do not fit."""
    lines = [f"The weights of {source} do not fit the model; nothing was loaded."]
    for title, names in (("Missing in the source", missing), ("Of another shape", mismatched)):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            lines.append(f"{title} ({len(names)}): " + "; ".join(names[:10]) + more)
    return "\n".join(lines)


def _read_h5(file: h5py.File) -> dict[str, np.ndarray]:
    """Tensors by "layer/variable" from either layout of Keras's HDF5 files."""
    root = file.get("model_weights", file)
    tensors = {}
    if "layer_names" in root.attrs:  # Keras 2 layout: full names are in the attributes
        for layer in root.attrs["layer_names"]:
            group = root[_text(layer)]
            for name in group.attrs["weight_names"]:
                # Nested as "layer/variable:0", or "layer/layer/variable:0" when the saver repeated the name.
                variable = _text(name).split(":")[0].split("/")[-1]
                tensors[f"{_layer_name(layer)}/{variable}"] = np.asarray(group[_text(name)])
        return tensors
    for group in file["layers"].values():  # Keras 3 layout: the layer's name is an attribute of its variables
        variables = group["vars"]
        if len(variables) == 0:
            continue
        layer = _layer_name(variables.attrs.get("name", ""))
        names = VARIABLES.get(layer) or VARIABLES["bn" if layer.endswith("bn") else "conv"]
        for index, array in variables.items():
            tensors[f"{layer}/{names[int(index)]}"] = np.asarray(array)
    return tensors


def _has_imagenet_rescaling(config, tensors) -> bool:
    """By the number of Rescaling layers, or for bare weights by the statistics only ImageNet's files have."""
    if config is not None:
        classes = [layer["class_name"] for layer in config["config"]["layers"]]
        return classes.count("Rescaling") > 1
    variance = tensors.get("normalization/variance")
    return variance is not None and np.allclose(np.ravel(variance), IMAGENET_STDDEV_RGB, rtol=1e-3)


def _layer_name(layer) -> str:
    """A layer's name without the number that Keras appends to the one layer official models leave unnamed."""
    return re.sub(r"^normalization_\d+$", "normalization", _text(layer))


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
