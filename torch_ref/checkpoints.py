"""Official EfficientNet weights, from a Keras model or from a file that one saved, without importing Keras."""

import io
import json
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

logger = logging.getLogger(__name__)

IMAGENET_STDDEV_RGB = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class OfficialWeights:
    """`tensors` maps "layer/variable" to arrays in Keras layout; see `read_official_weights`."""

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
    """Reads weights by layer name.

    Args:
        source: an object with Keras's `layers` and `weights`, or a path to an `.h5`, `.weights.h5` or `.keras` file.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, or it is none of these.
    """
    if isinstance(source, OfficialWeights):
        return source
    if hasattr(source, "layers") and hasattr(source, "weights"):
        kinds = [type(layer).__name__ for layer in source.layers]
        tensors = {
            f"{_layer_name(layer.name)}/{variable.name}": np.asarray(variable)
            for layer in source.layers
            for variable in layer.weights
        }
        return OfficialWeights(f"model {source.name!r}", tensors, kinds.count("Rescaling") > 1)
    if not isinstance(source, str | Path):
        raise ValueError(f"weights must be a Keras model or a path. Received: {source!r}")
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"weights: no such file. Received: {source!r}")
    try:
        if zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            config = json.loads(archive.read("config.json"))
            file = h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r")
        else:
            file = h5py.File(path, "r")
            config = json.loads(file.attrs["model_config"]) if "model_config" in file.attrs else None
        with file:
            keras2 = file.get("model_weights", file)
            tensors = _keras2_tensors(keras2) if "layer_names" in keras2.attrs else _keras3_tensors(file)
    except (OSError, KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"weights: {path} was not saved by a Keras model: {error}") from error
    if config is not None:
        extra = [layer["class_name"] for layer in config["config"]["layers"]].count("Rescaling") > 1
    else:  # bare weights: only the ImageNet files hold standard deviations as variances
        variance = tensors.get("normalization/variance", np.ones(3)).ravel()
        extra = np.allclose(variance, IMAGENET_STDDEV_RGB, rtol=1e-3)
    return OfficialWeights(str(path), tensors, bool(extra))


def load_official_weights(model: nn.Module, source) -> LoadReport:
    """Copies official weights into a model by name, all or nothing.

    Every branch that has the shape for them is given the official weights, `detail.block1a` those of `block1a`. The
    layers in front of which two branches meet keep their initial values where shapes differ. A source without top
    leaves `predictions` as initialised; any other missing or misshapen tensor is an error.
    """
    official = read_official_weights(source)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    headless = not any(name.startswith("predictions/") for name in official.tensors)
    # Two branches meet in front of these layers, which therefore have other channels than official ones.
    widened = tuple(f"{layer}." for layer in getattr(model, "widened", ()))
    ready, problems, kept, used = {}, [], [], set()
    for name, tensor in state.items():
        keras_name, array = _official_tensor(model, name, official)
        if array is None:
            if headless and name.startswith("predictions."):
                kept.append(name)
            else:
                problems.append(f"{name}: no {keras_name} in the source")
            continue
        if tuple(array.shape) != tuple(tensor.shape):
            if name.startswith(widened):
                kept.append(name)
                continue
            problems.append(f"{name}: model {tuple(tensor.shape)}, source {tuple(array.shape)}")
        ready[name] = torch.from_numpy(np.array(array, order="C"))
        used.add(keras_name)
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(
            f"The weights of {official.source} do not fit; nothing was loaded. {'; '.join(problems[:10])}{more}"
        )
    with torch.no_grad():
        for name, tensor in ready.items():
            state[name].copy_(tensor)
    unused = tuple(sorted(set(official.tensors) - used))
    if unused:
        logger.warning("%s: %d tensors not used: %s", official.source, len(unused), ", ".join(unused[:10]))
    return LoadReport(tuple(ready), unused, tuple(kept))


def _official_tensor(model, name, official):
    """The Keras name of a torch tensor, and that tensor's array in torch layout (None if absent)."""
    tensors = official.tensors
    path, _, variable = name.rpartition(".")
    layer, module = path.removeprefix("detail.").replace(".", "_"), model.get_submodule(path)
    if path == "detail.stem_conv" and variable in ("mean", "variance"):  # it normalises by itself
        keras_name = f"normalization/{variable}"
        array = tensors.get(keras_name)
        if array is not None and variable == "variance" and official.imagenet_rescaling:
            array = array * np.float32(IMAGENET_STDDEV_RGB)  # the extra division by sqrt(stddev), folded in
        return keras_name, array
    if isinstance(module, nn.BatchNorm2d):
        rename = {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }
    else:
        rename = {"weight": "kernel"}
    keras_name = f"{layer}/{rename.get(variable, variable)}"
    array = tensors.get(keras_name)
    if array is not None and variable == "weight":
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            array = array.transpose(2, 3, 0, 1)  # (h, w, channels, 1) -> (channels, 1, h, w)
        elif module.weight.ndim == 4:  # Conv2d, StochasticConv2d
            array = array.transpose(3, 2, 0, 1)  # (h, w, in, out) -> (out, in, h, w)
        elif isinstance(module, nn.Linear):
            array = array.T  # (in, out) -> (out, in)
    return keras_name, array


def _keras2_tensors(root) -> dict[str, np.ndarray]:
    tensors = {}
    for layer in map(_text, root.attrs["layer_names"]):
        for name in map(_text, root[layer].attrs["weight_names"]):
            variable = name.split("/")[-1].split(":")[0]
            tensors[f"{_layer_name(layer)}/{variable}"] = np.asarray(root[layer][name])
    return tensors


def _keras3_tensors(file) -> dict[str, np.ndarray]:
    """Variables are numbered in Keras 3 files; the layer's name is an attribute."""
    tensors = {}
    for group in file["layers"].values():
        if not len(group["vars"]):
            continue
        layer = _layer_name(group["vars"].attrs["name"])
        if layer == "normalization":
            order = ["mean", "variance", "count"]
        elif layer.endswith("bn"):
            order = ["gamma", "beta", "moving_mean", "moving_variance"]
        else:
            order = ["kernel", "bias"]
        for number, array in group["vars"].items():
            tensors[f"{layer}/{order[int(number)]}"] = np.asarray(array)
    return tensors


def _layer_name(name) -> str:
    """Official models leave their Normalization unnamed, so that Keras may number it."""
    name = _text(name)
    return "normalization" if name.rstrip("0123456789") == "normalization_" else name


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else value
