"""What is trained: a model by name, or one of your own, with all that is known of it before it is built."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keras_stoch.training.freezing import check_place_of, first_layers
from keras_stoch.training.recipe import Recipe

SUFFIXES = (".h5", ".keras")  # of weights


@dataclass(frozen=True)
class Subject:
    """What is trained.

    Attributes:
        build: function of a seed that makes the model.
        identity: plain values that tell one from another.
        sizes: function without arguments that gives (low_res, high_res) in pixels, None for an input that is not there.
        shapes: function without arguments that gives what the model takes: a shape, or a dict of shapes by name.
        rebuilds: whether `build` makes a new model every time.
        told: its name, in words.
    """

    build: Callable
    identity: dict
    sizes: Callable
    shapes: Callable
    rebuilds: bool
    told: str


def check_weights(weights, model):
    """What can be known of weights to start from without reading them.

    Raises:
        ValueError, FileNotFoundError: for weights of a model that is not made by name, or a file that is not there.
    """
    if weights is None:
        return
    if not isinstance(model, str):
        raise ValueError("weights are for a model that is made by name; load them into your own before you pass it")
    if isinstance(weights, str | Path):
        if not Path(weights).is_file():
            raise FileNotFoundError(f"weights: no such file. Received: {str(weights)!r}")
        if Path(weights).suffix not in SUFFIXES:
            raise ValueError(f"weights must be a file of Keras ({', '.join(SUFFIXES)}). Received: {str(weights)!r}")


def make_subject(model, recipe: Recipe, runs: int, weights=None) -> Subject:
    """Checks all that can be known of a model beforehand. One by name is not built, and Keras not loaded.

    Args:
        model: as `fit` takes it.
        recipe: `Recipe`.
        runs: how often it will be built.
        weights: official weights to start from, see `fit`. With them, one by name is built once to see what fits.

    Raises:
        ValueError: for an unknown name, a recipe that the model can not follow, a model that is not one logit of
            images, or weights that do not fit.
    """
    check_weights(weights, model)
    if isinstance(model, str):
        return _by_name(model, recipe, weights)
    import keras

    from keras_stoch.contracts import check_logit, input_sizes

    own = isinstance(model, keras.Model)
    if own and runs > 1:
        raise ValueError("For several runs, pass a function that builds the model, not the model itself")
    if not own and not callable(model):
        raise ValueError(f"model must be a name, a Keras model, or a function that makes one. Received: {model!r}")
    example = model if own else model()
    if not isinstance(example, keras.Model):
        raise ValueError(f"The function model must give a Keras model. Received: {example!r}")
    check_logit(example)
    if recipe.passes > 1:
        from keras_stoch.evaluation.predictions import AveragedPasses

        AveragedPasses(example)
    if recipe.freeze is not None:
        first_layers(example, recipe.freeze)
    # Shapes and not names: Keras numbers the layers of a second model differently.
    weights = [(v.name, tuple(v.shape)) for v in example.trainable_variables]
    digest = hashlib.sha256(repr(weights).encode()).hexdigest()[:16]
    given = example.input
    by_name = isinstance(given, dict) and len(given) > 1
    shapes = {k: tuple(v.shape) for k, v in given.items()} if by_name else tuple(example.inputs[0].shape)
    return Subject(
        build=(lambda seed: model) if own else (lambda seed: model()),
        identity={"kind": "own", "class": type(example).__name__, "weights": digest},
        sizes=lambda: input_sizes(example),
        shapes=lambda: shapes,
        rebuilds=not own,
        told=f"a model of your own ({type(example).__name__})",
    )


def _by_name(name: str, recipe: Recipe, weights) -> Subject:
    from keras_stoch.architectures import get_architecture

    architecture = get_architecture(name)
    low_res, high_res = recipe.low_res or architecture.low_res, None
    arguments = {"low_res": low_res, "dropout": recipe.dropout, "drop_connect": recipe.drop_connect}
    if architecture.join is not None:
        high_res = recipe.high_res or architecture.high_res
        arguments |= {"high_res": high_res, "window_sharing": recipe.window_sharing}
    elif recipe.high_res is not None:
        raise ValueError(f"{name!r} has no high-resolution input. Received: high_res={recipe.high_res}")
    elif recipe.passes > 1:
        raise ValueError(f"{name!r} draws no windows to average over. Received: passes={recipe.passes}")
    if recipe.freeze is not None:
        check_place_of(architecture, recipe.freeze)
    if recipe.mixed_precision:
        arguments["dtype"] = recipe.mixed_precision

    identity = {"kind": "name", "name": name, "arguments": arguments}
    told, official = name, None
    if weights is not None:
        from keras_stoch.checkpoints import read_official_weights

        official = read_official_weights(weights)
        # Part of the model, and not of its weights: whoever loads the run must build it too.
        arguments["imagenet_rescaling"] = official.imagenet_rescaling

    def build(seed):
        from keras_stoch.models import create_model

        model = create_model(name, **arguments, seed=seed)
        if official is not None:
            _load(model, official)
        return model

    if official is not None:
        from keras_stoch.models import create_model

        report = _load(create_model(name, **arguments), official)
        identity["weights"] = {
            "source": Path(weights).name if isinstance(weights, str | Path) else official.source,
            "digest": _digest(official.tensors),
            "loaded": len(report.loaded),
            "kept": sorted(report.kept),
            "unused": list(report.unused),
        }
        kept = f", as initialised: {', '.join(sorted(report.kept))}" if report.kept else ""
        unused = f", not used: {', '.join(report.unused)}" if report.unused else ""
        assumed = (
            "" if official.certain else ", assumed to scale inputs once only, which a whole .keras file would tell"
        )
        told = f"{name}, {len(report.loaded)} tensors from {identity['weights']['source']}{kept}{unused}{assumed}"

    def shapes():
        low = (None, low_res, low_res, 3)
        return {"low_res": low, "high_res": (None, high_res, high_res, 3)} if high_res else low

    return Subject(build, identity, lambda: (low_res, high_res), shapes, True, told)


def _load(model, official):
    """Loads, without the warning about unused tensors, which `fit` tells by itself."""
    from keras_stoch import checkpoints

    before = checkpoints.logger.disabled
    checkpoints.logger.disabled = True
    try:
        return checkpoints.load_official_weights(model, official)
    finally:
        checkpoints.logger.disabled = before


def _digest(tensors: dict) -> str:
    """16 hexadecimal digits of what a file holds, whatever its format."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape} {tensors[name].dtype}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()[:16]
