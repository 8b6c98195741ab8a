"""Commands that train: fit, experiment."""

import argparse
import dataclasses
import inspect
import re
import typing

import keras_stoch
from keras_stoch.commands.options import add_command, load_tensorflow
from keras_stoch.files import check_no_file
from keras_stoch.training.recipe import OPTIMIZERS, PRECISIONS, RECIPES, SCHEDULES, Recipe


def add_fit(commands):
    explained = _attributes(Recipe)
    choices = {
        "mixed_precision": PRECISIONS[1:],
        "window_sharing": ("batch", "image"),
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
    }
    command = add_command(commands, "fit", _fit, "train a model, one or several times; goes on if interrupted", True)
    command.add_argument("model", metavar="MODEL", help="a name such as split-b0, see `keras-stoch models`")
    command.add_argument(
        "--data", metavar="PREPARED", help="folder written by prepare or lesions, or `lesions` for generated ones"
    )
    command.add_argument("--out", default="runs/latest", metavar="FOLDER", help="folder of the runs")
    command.add_argument(
        "--weights",
        metavar="FILE",
        help="start from official EfficientNet weights, .h5, .weights.h5 or .keras, in every branch that fits them",
    )
    command.add_argument("--runs", type=int, default=1, metavar="N", help="runs from different seeds")
    command.add_argument(
        "--run", dest="number", type=int, metavar="N", help="train this one of the runs, counted from 0, alone"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the first run")
    command.add_argument("--strategy", default="one", choices=("one", "mirrored", "multiworker"), help="devices to use")
    command.add_argument("--shards", action="store_true", help="read the folder's TFRecord files, each worker its own")
    command.add_argument("--checkpoint-seconds", type=float, default=300, metavar="S", help="between checkpoints")
    recipe = command.add_argument_group("recipe", "--recipe names one, and what else is given here changes it.")
    recipe.add_argument("--recipe", choices=tuple(RECIPES), default="paper", help="where the other values come from")
    metavars = {"freeze": "UNTIL"}
    for field in dataclasses.fields(Recipe):
        name, kind, told = "--" + field.name.replace("_", "-"), _kind(field.name), explained[field.name]
        told += _values(field.name)
        if kind is bool:
            recipe.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=told)
        elif field.name in choices:
            recipe.add_argument(name, choices=choices[field.name], help=told)
        else:
            metavar = metavars.get(field.name, {int: "N", float: "X"}.get(kind))
            recipe.add_argument(name, type=kind, metavar=metavar, help=told)


def _kind(name: str) -> type:
    """The type of a recipe's field, where it is not None."""
    hint = typing.get_type_hints(Recipe)[name]
    return next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint)


def _values(name: str) -> str:
    """What the recipes have for a field: one value where they agree; nothing for None."""
    values = {recipe: getattr(record.recipe, name) for recipe, record in RECIPES.items()}
    if len(set(values.values())) == 1:
        value = values["paper"]
        return "" if value is None else f" (default: {value})"
    return f" ({', '.join(f'{recipe}: {value}' for recipe, value in values.items())})"


def _attributes(cls) -> dict[str, str]:
    """Names of a class's attributes and what its docstring says of them."""
    text = inspect.getdoc(cls).partition("Attributes:\n")[2]
    found = {}
    for names, told in re.findall(r"^    ([a-z0-9_, ]+): (.*(?:\n {8,}.*)*)", text, re.MULTILINE):
        sentence = " ".join(told.split()).rstrip(".")
        found |= {name: sentence.replace("%", "%%") for name in names.split(", ")}
    return found


def _fit(options):
    from keras_stoch.training.arguments import check_arguments

    if options.data is None:
        raise ValueError(
            "--data must be named: a folder written by `keras-stoch prepare` or `keras-stoch lesions`, or `--data "
            "lesions` for generated ones"
        )
    names = ("recipe", "weights", "runs", "seed", "strategy", "shards", "checkpoint_seconds")
    given = {name: getattr(options, name) for name in names} | {"run": options.number}
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)}
    given |= {name: value for name, value in fields.items() if value is not None}
    check_arguments(options.model, options.data, options.out, **given)
    load_tensorflow()
    results = keras_stoch.fit(options.model, options.data, options.out, progress=not options.quiet, **given)
    first = options.number or 0
    for run, result in enumerate(results, first):
        print(
            f"{options.out}/run-{run}: best validation AUC {result['best_val_auc']:.4f} in epoch "
            f"{result['best_epoch']}, final {result['final_val_auc']:.4f}, {result['seconds']:.0f} s"
        )


def add_experiment(commands):
    command = add_command(
        commands, "experiment", _experiment, "the paper's comparison of models, on generated lesions", True
    )
    command.add_argument("--out", default="runs/experiment", metavar="DIR", help="folder of runs, table and figure")
    command.add_argument("--runs", type=int, default=3, metavar="N", help="per model")
    command.add_argument("--epochs", type=int, default=10, metavar="N", help="per run")
    command.add_argument("--images", type=int, default=3000, metavar="N", help="generated lesions")
    command.add_argument(
        "--baselines",
        action="store_true",
        help="instead: is a detail branch worth it? larger images, crops and tiles, trained for equal seconds",
    )
    command.add_argument("--hours", type=float, metavar="X", help="with --baselines: of training in all; 2 if left out")


def _experiment(options):
    if options.baselines:
        return _baselines(options)
    if options.hours is not None:
        raise ValueError("--hours goes with --baselines; without it, --epochs says how long")
    from keras_stoch.training.experiment import Experiment, run

    settings = Experiment(runs=options.runs, epochs=options.epochs, images=options.images)
    check_no_file(options.out)
    load_tensorflow()
    table = run(options.out, settings, progress=not options.quiet)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    print(f"{options.out}/results.csv\n{options.out}/curves.png")


def _baselines(options):
    from keras_stoch.training.baselines import Baselines, run

    hours = {} if options.hours is None else {"hours": options.hours}
    settings = Baselines(runs=options.runs, images=options.images, **hours)
    check_no_file(options.out)
    load_tensorflow()
    told = run(options.out, settings, progress=not options.quiet)
    print(told.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    print("\n".join(f"{options.out}/{name}" for name in ("results.csv", "table.csv", "baselines.png")))
