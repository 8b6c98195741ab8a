"""The arguments of `fit`: what can be known of them before TensorFlow is loaded and data are read."""

from dataclasses import asdict

from keras_stoch.storage import as_path
from keras_stoch.training.holds import check_folder
from keras_stoch.training.own import Own, split_own
from keras_stoch.training.recipe import Recipe, is_int
from keras_stoch.training.sources import check_place
from keras_stoch.training.strategies import check_strategy
from keras_stoch.training.subjects import check_weights, make_subject


def check_arguments(
    model,
    data,
    out,
    *,
    recipe="paper",
    runs=1,
    run=None,
    seed=0,
    strategy="one",
    validation_data=None,
    weights=None,
    shards=False,
    loss=None,
    checkpoint_seconds=300.0,
    **fields,
) -> tuple[Recipe, Own]:
    """The recipe of these arguments of `fit`, and what replaces parts of it.

    Raises:
        ValueError, OSError: as `fit`.
    """
    recipe, own = split_own(fields, recipe, loss)
    if not is_int(runs) or runs < 1:
        raise ValueError(f"runs must be an integer of at least 1. Received: {runs!r}")
    if run is not None and (not is_int(run) or run < 0 or (runs > 1 and run >= runs)):
        most = f" and less than the {runs} runs" if runs > 1 else ""
        raise ValueError(f"run must be an integer of at least 0{most}. Received: {run!r}")
    if not is_int(seed) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0. Received: {seed!r}")
    number = isinstance(checkpoint_seconds, int | float) and not isinstance(checkpoint_seconds, bool)
    if not number or not checkpoint_seconds >= 0:
        raise ValueError(f"checkpoint_seconds must be a number of at least 0. Received: {checkpoint_seconds!r}")
    check_strategy(strategy)
    check_weights(weights, model)
    check_place(data, validation_data, out, shards)
    if recipe.balanced and (validation_data is not None or shards):
        what = "shards, which are read one after the other" if shards else "Datasets of your own"
        raise ValueError(f"balanced=True draws images of a prepared folder, not {what}. Give balanced=False")
    if isinstance(model, str):
        make_subject(model, recipe, runs)
        known = {"model": {"name": model}, "recipe": asdict(recipe)}
        for number in range(runs) if run is None else [run]:
            alone = isinstance(strategy, str) and strategy != "multiworker"
            check_folder(as_path(out) / f"run-{number}", known | {"seed": seed + number}, alone)
    return recipe, own
