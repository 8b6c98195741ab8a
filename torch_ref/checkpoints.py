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
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class OfficialWeights:
    """`tensors` maps "layer/variable" to arrays in Keras layout; see `read_official_weights`.

    `certain` says whether `imagenet_rescaling` is known; bare weights of other statistics than ImageNet's do not tell.
    """

    source: str
    tensors: dict[str, np.ndarray]
    imagenet_rescaling: bool
    certain: bool = True


@dataclass(frozen=True)
class LoadReport:
    """What happened to each tensor: `loaded`, `unused` (in the source only), `kept` (as initialised)."""

    loaded: tuple[str, ...]
    unused: tuple[str, ...]
    kept: tuple[str, ...]


def read_official_weights(source) -> OfficialWeights:
    """Reads weights by layer name, of an EfficientNet or of the one inside of another model.

    Args:
        source: an object with Keras's `layers` and `weights`, or a path to an `.h5`, `.weights.h5` or `.keras` file.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, it is none of these, or holds several EfficientNets.
    """
    if isinstance(source, OfficialWeights):
        return source
    if hasattr(source, "layers") and hasattr(source, "weights"):
        name, parts = f"model {source.name!r}", _model_parts(source)
        tensors, place = _efficientnet(name, {place: tensors for place, (tensors, _) in parts.items()})
        return OfficialWeights(name, tensors, parts[place][1].count("Rescaling") > 1)
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
            parts = _keras2_parts(keras2) if "layer_names" in keras2.attrs else _keras3_parts(file)
    except (OSError, KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"weights: {path} was not saved by a Keras model: {error}") from error
    if not any(parts.values()):
        raise ValueError(f"weights: {path} holds no tensors")
    tensors, _ = _efficientnet(str(path), parts)
    kinds = _kinds_around_stem(config) if config else None
    if kinds is not None:
        return OfficialWeights(str(path), tensors, kinds.count("Rescaling") > 1)
    # Bare weights: only the ImageNet files hold standard deviations as variances.
    variance = tensors.get("normalization/variance", np.ones(3)).ravel()
    if np.allclose(variance, IMAGENET_STDDEV_RGB, rtol=1e-3):
        return OfficialWeights(str(path), tensors, True)
    mean = tensors.get("normalization/mean", np.zeros(3))
    return OfficialWeights(str(path), tensors, False, certain=bool((variance == 1).all() and (mean == 0).all()))


def load_official_weights(model: nn.Module, source) -> LoadReport:
    """Copies official weights into a model by name, all or nothing.

    Every branch that has the shape for them is given the official weights, `detail.block1a` those of `block1a`. The
    layers in front of which two branches meet keep their initial values where shapes differ. A source without top, and
    ImageNet's top of 1000 classes for a model with others, leave `predictions` as initialised; any other missing or
    misshapen tensor is an error. Unused tensors are logged, and an extra rescaling that was assumed or contradicts.
    """
    official = read_official_weights(source)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    headless = not any(name.startswith("predictions/") for name in official.tensors)
    # Two branches meet in front of these layers, which therefore have other channels than official ones.
    widened = tuple(f"{layer}." for layer in getattr(model, "widened", ()))
    if official.tensors.get("predictions/kernel", np.zeros((0, 0))).shape[-1] == IMAGENET_CLASSES:
        widened += ("predictions.",)
    scaled = hasattr(model, "rescaling_1")
    ready, problems, kept, used = {}, [], [], set()
    for name, tensor in state.items():
        keras_name, array = _official_tensor(model, name, official.tensors, scaled)
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
        if any(problem.endswith("in the source") and "normalization/" in problem for problem in problems):
            more += (
                ". A source without normalization expects inputs that were normalised before, where this model takes "
                "0-255 and normalises by itself. Give it a Normalization layer of its mean and variance"
            )
        raise ValueError(
            f"The weights of {official.source} do not fit; nothing was loaded. {'; '.join(problems[:10])}{more}"
        )
    with torch.no_grad():
        for name, tensor in ready.items():
            state[name].copy_(tensor)
    unused = tuple(sorted(set(official.tensors) - used))
    if unused:
        more = f" and {len(unused) - 10} more" if len(unused) > 10 else ""
        logger.warning("%s: %d tensors not used: %s%s", official.source, len(unused), ", ".join(unused[:10]), more)
    if not official.certain:
        logger.warning(
            "%s: bare weights, whose statistics are not ImageNet's, do not tell whether their model scales its inputs "
            "once more by 1/sqrt(standard deviation). Assumed: it does%s. If that is wrong, pass imagenet_rescaling=%s",
            *(official.source, "" if scaled else " not", not scaled),
        )
    elif official.imagenet_rescaling != scaled:
        logger.warning(
            "%s: the model of the weights %s its inputs once more by 1/sqrt(standard deviation), and this one %s: its "
            "features will be others. imagenet_rescaling=%s is what the weights were trained with",
            *(official.source, *(("does not scale", "does") if scaled else ("scales", "does not")), not scaled),
        )
    return LoadReport(tuple(ready), unused, tuple(kept))


def _official_tensor(model, name, tensors, scaled):
    """The Keras name of a torch tensor, and that tensor's array in torch layout (None if absent)."""
    path, _, variable = name.rpartition(".")
    layer, module = path.removeprefix("detail.").replace(".", "_"), model.get_submodule(path)
    if path == "detail.stem_conv" and variable in ("mean", "variance"):  # it normalises by itself
        keras_name = f"normalization/{variable}"
        array = tensors.get(keras_name)
        if array is not None and variable == "variance" and scaled:
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


def _model_parts(model, place="") -> dict:
    """Place of a model in the outer one ("" for that itself) -> its tensors, and the kinds of its layers."""
    tensors, parts = {}, {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            parts |= _model_parts(layer, f"{place}/{layer.name}".lstrip("/"))
        else:
            tensors |= {f"{_layer_name(layer.name)}/{v.name}": np.asarray(v) for v in layer.weights}
    return {place: (tensors, [type(layer).__name__ for layer in model.layers])} | parts


def _efficientnet(source, parts) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of the part that is an EfficientNet, those of others under "../", and its place."""
    stems = [place for place, tensors in parts.items() if "stem_conv/kernel" in tensors]
    place = stems[0] if stems and "" not in stems else ""
    if place and len(stems) > 1:
        raise ValueError(f"{source} holds several EfficientNets: {', '.join(stems)}. Give one of them")
    others = {
        "/".join(("..", *filter(None, [part]), name)): array
        for part, tensors in parts.items()
        if part != place
        for name, array in tensors.items()
    }
    return parts[place] | others, place


def _kinds_around_stem(config) -> list[str] | None:
    """The classes of the layers beside the stem, wherever it is in a model's configuration."""
    inside = config.get("config")
    layers = inside.get("layers", []) if isinstance(inside, dict) else []
    if "stem_conv" in [layer["config"].get("name") for layer in layers]:
        return [layer["class_name"] for layer in layers]
    for layer in layers:
        if (kinds := _kinds_around_stem(layer)) is not None:
            return kinds
    return None


def _keras2_parts(root) -> dict[str, dict]:
    parts = {"": {}}
    for layer in map(_text, root.attrs["layer_names"]):
        names = list(map(_text, root[layer].attrs["weight_names"]))
        owners = [name.split("/")[-2] if "/" in name else layer for name in names]
        # A model that is a layer has all its weights in one group.
        place = layer if len(set(owners)) > 1 else ""
        for name, owner in zip(names, owners, strict=True):
            variable = name.split("/")[-1].split(":")[0]
            parts.setdefault(place, {})[f"{_layer_name(owner)}/{variable}"] = np.asarray(root[layer][name])
    return parts


def _keras3_parts(file, place="") -> dict[str, dict]:
    """Variables are numbered in Keras 3 files; the layer's name is an attribute."""
    tensors, parts = {}, {}
    for key, group in file["layers"].items():
        if "layers" in group:
            parts |= _keras3_parts(group, f"{place}/{key}".lstrip("/"))
            continue
        if not len(group.get("vars", ())):
            continue
        layer = _layer_name(group["vars"].attrs["name"])
        if layer == "normalization":
            order = ["mean", "variance", "count"]
        elif layer.endswith("bn"):
            order = ["gamma", "beta", "moving_mean", "moving_variance"]
        else:
            order = ["kernel", "bias"]
        for number, array in group["vars"].items():
            variable = order[int(number)] if int(number) < len(order) else number
            tensors[f"{layer}/{variable}"] = np.asarray(array)
    return {place: tensors} | parts


def _layer_name(name) -> str:
    """Official models leave their Normalization unnamed, so that Keras may number it."""
    name = _text(name)
    return "normalization" if name.rstrip("0123456789") == "normalization_" else name


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else value
