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
IMAGENET_CLASSES = 1000
STEM = "stem_conv"
DETAIL = "detail_"  # prefix of the second branch's layers


@dataclass(frozen=True)
class OfficialWeights:
    """Tensors by name, in Keras layout.

    Attributes:
        source: what they were read from, for messages.
        tensors: "layer/variable" to array, for instance "stem_conv/kernel" (3, 3, 3, 32).
        imagenet_rescaling: whether their model scales its input once more by 1/sqrt(standard deviation).
        certain: whether that is known; bare weights of other statistics than ImageNet's do not tell.
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
    """Reads the weights of a `keras.applications` EfficientNet, or of the one inside of another model.

    Args:
        source: a Keras model, an `OfficialWeights`, or a path to an `.h5` (whole model or weights, the layout of
            Keras 2 and of the published checkpoints), `.weights.h5` or `.keras` file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of these, holds no weights, or several EfficientNets.
    """
    if isinstance(source, OfficialWeights):
        return source
    if isinstance(source, keras.Model):
        tensors = _pick(_levels_of_model(source), f"model {source.name!r}")
        holder = next((m for m in _models(source) if any(layer.name == STEM for layer in m.layers)), source)
        extra = sum(isinstance(layer, keras.layers.Rescaling) for layer in holder.layers) > 1
        return OfficialWeights(f"model {source.name!r}", tensors, extra)
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
                    levels = _levels_of_h5(file)
        else:
            with h5py.File(path, "r") as file:
                levels = _levels_of_h5(file)
                if "model_config" in file.attrs:
                    config = json.loads(file.attrs["model_config"])
    except (OSError, KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"weights: {path} is no .h5, .weights.h5 or .keras file of a Keras model: {error}") from error
    if not any(levels.values()):
        raise ValueError(f"weights: {path} holds no tensors")
    tensors = _pick(levels, str(path))
    return OfficialWeights(str(path), tensors, *_imagenet_rescaling(config, tensors))


def load_official_weights(model, source) -> LoadReport:
    """Copies official weights into a model by name, all or nothing.

    Every branch that has the shape for them is given the official weights: `detail_block1a_dwconv` those of
    `block1a_dwconv`, both backbones of a split model the same. Where a model with a detail branch has other channels
    than the official one (the first block behind the join, the last dense layer), layers keep their initial values,
    and the report says so. A source without top leaves `predictions` as initialised, and so does ImageNet's top of
    1000 classes where the model has others. Anything else that the model needs and the source lacks, or has in another
    shape, is an error, and nothing is copied.

    Args:
        model: a model from `create_model`.
        source: as in `read_official_weights`.

    Returns:
        A `LoadReport`. Unused tensors are logged as a warning too, and an extra rescaling that was assumed, or that the
        model has and the source has not.
    """
    official = read_official_weights(source)
    with_top = any(name.startswith("predictions/") for name in official.tensors)
    widened = _widened_layers(model)
    scaled = sum(isinstance(layer, keras.layers.Rescaling) for layer in model.layers) > 1
    of_imagenet = official.tensors.get("predictions/kernel", np.zeros((0, 0))).shape[-1] == IMAGENET_CLASSES
    found, loaded, kept, missing, mismatched = {}, [], [], [], []
    for variable in model.weights:
        name = variable.path
        tensor = _official_tensor(name, official, scaled)
        if tensor is not None:
            if tuple(variable.shape) == tensor.shape:
                found[name] = tensor
                loaded.append(name)
            elif name.split("/")[0] in widened or (of_imagenet and name.startswith("predictions/")):
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
        more = f" and {len(unused) - 10} more" if len(unused) > 10 else ""
        logger.warning("%s: %d tensors not used: %s%s", official.source, len(unused), ", ".join(unused[:10]), more)
    _tell_rescaling(official, scaled)
    return LoadReport(tuple(loaded), unused, tuple(kept))


def _tell_rescaling(official: OfficialWeights, scaled: bool):
    """Warns where a model scales its inputs once more, or does not, and the source may have it otherwise."""
    does = "scales" if scaled else "does not scale"
    if not official.certain:
        logger.warning(
            "%s: bare weights, whose statistics are not ImageNet's, do not tell whether their model scales its inputs "
            "once more by 1/sqrt(standard deviation), as those of weights='imagenet' do. Assumed: it does%s. If that "
            "is wrong, pass imagenet_rescaling=%s; a whole .keras file tells",
            *(official.source, "" if scaled else " not", not scaled),
        )
    elif official.imagenet_rescaling != scaled:
        logger.warning(
            "%s: the model %s its inputs once more by 1/sqrt(standard deviation), and that of the weights %s: its "
            "features will be others. imagenet_rescaling=%s is what the weights were trained with",
            *(official.source, does, "does not" if scaled else "does", not scaled),
        )


def _official_tensor(name: str, official: OfficialWeights, scaled: bool):
    """The official tensor for one of a model's variables, or None."""
    name = name.removeprefix(DETAIL)
    statistics = name.removeprefix("stem_conv/")
    if statistics in ("mean", "variance"):  # of the stochastic stem, which normalises by itself
        tensor = official.tensors.get(f"normalization/{statistics}")
        if tensor is not None and statistics == "variance" and scaled:
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
    if any("normalization/" in name for name in missing):
        lines.append(
            "A source without normalization expects inputs that were normalised before, by whoever made it, where this "
            "model takes 0-255 and normalises by itself. Give it a Normalization layer of its mean and variance"
        )
    return "\n".join(lines)


def _models(model) -> list:
    """A model and those inside of it, at any depth."""
    return [model, *(m for layer in model.layers if isinstance(layer, keras.Model) for m in _models(layer))]


def _levels_of_model(model, name="") -> dict[str, dict]:
    """Tensors by "layer/variable", of a model ("") and of each that is a layer of it ("backbone", "a/backbone")."""
    levels = {name: {}}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            levels |= _levels_of_model(layer, f"{name}/{layer.name}".lstrip("/"))
        else:
            for variable in layer.weights:
                tensor = keras.ops.convert_to_numpy(variable)
                levels[name][f"{_layer_name(layer.name)}/{variable.name}"] = tensor
    return levels


def _levels_of_h5(file: h5py.File) -> dict[str, dict]:
    """The same of either layout of Keras's HDF5 files."""
    root = file.get("model_weights", file)
    if "layer_names" not in root.attrs:  # Keras 3 layout: the layer's name is an attribute of its variables
        return _levels_of_groups(file)
    levels = {"": {}}  # Keras 2 layout: full names are in the attributes
    for layer in map(_text, root.attrs["layer_names"]):
        names = [_text(name) for name in root[layer].attrs["weight_names"]]
        # As "layer/variable:0", or "layer/layer/variable:0" when the saver repeated the name; those of a model inside
        # are all in its group.
        owners = {name: _layer_name((name.split("/")[-2:-1] or [layer])[0]) for name in names}
        inner = layer if len(set(owners.values())) > 1 else ""
        for name in names:
            variable = name.split(":")[0].split("/")[-1]
            levels.setdefault(inner, {})[f"{owners[name]}/{variable}"] = np.asarray(root[layer][name])
    return levels


def _levels_of_groups(group, name="") -> dict[str, dict]:
    levels = {name: {}}
    for key, layer in group["layers"].items():
        if "layers" in layer:
            levels |= _levels_of_groups(layer, f"{name}/{key}".lstrip("/"))
        elif len(variables := layer.get("vars", ())):
            owner = _layer_name(variables.attrs.get("name", ""))
            names = VARIABLES.get(owner) or VARIABLES["bn" if owner.endswith("bn") else "conv"]
            for index, array in variables.items():
                variable = names[int(index)] if int(index) < len(names) else index
                levels[name][f"{owner}/{variable}"] = np.asarray(array)
    return levels


def _pick(levels: dict[str, dict], source: str) -> dict[str, np.ndarray]:
    """The tensors of the EfficientNet among the levels of a source; what is beside it goes by its place ("../head")."""
    having = [name for name, tensors in levels.items() if f"{STEM}/kernel" in tensors]
    inside = "" if "" in having or not having else having[0]
    if inside and len(having) > 1:
        raise ValueError(f"{source} holds several EfficientNets: {', '.join(having)}. Give one of them")
    found = dict(levels[inside])
    for name, tensors in levels.items():
        if name != inside:
            found |= {f"../{name}/{tensor}".replace("//", "/"): array for tensor, array in tensors.items()}
    return found


def _imagenet_rescaling(config, tensors) -> tuple[bool, bool]:
    """Whether there is an extra rescaling, and whether that is certain: by the number of Rescaling layers, or for bare
    weights by the statistics, which only ImageNet's files have."""
    classes = None if config is None else _classes_beside_stem(config)
    if classes is not None:
        return classes.count("Rescaling") > 1, True
    mean, variance = (tensors.get(f"normalization/{name}") for name in ("mean", "variance"))
    if mean is None or variance is None:
        return False, True
    if np.allclose(np.ravel(variance), IMAGENET_STDDEV_RGB, rtol=1e-3):
        return True, True
    return False, bool(np.all(mean == 0) and np.all(variance == 1))  # as initialised: not made from ImageNet's


def _classes_beside_stem(config) -> list[str] | None:
    """The classes of the layers among which the stem is, at any depth of a model's configuration."""
    layers = config.get("config", {})
    layers = layers.get("layers", []) if isinstance(layers, dict) else []
    if any(layer["config"].get("name") == STEM for layer in layers):
        return [layer["class_name"] for layer in layers]
    return next((found for layer in layers if (found := _classes_beside_stem(layer)) is not None), None)


def _layer_name(layer) -> str:
    """A layer's name without the number that Keras appends to the one layer official models leave unnamed."""
    return re.sub(r"^normalization_\d+$", "normalization", _text(layer))


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
