"""`python -m torch_ref.training`, and under torchrun: trains a model by name."""

import argparse
import os
import re
import sys
import typing
from dataclasses import fields
from importlib import metadata

from torch_ref.training.fit import fit
from torch_ref.training.recipe import RECIPES, Recipe

FIELDS = {field.name for field in fields(Recipe)}


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m torch_ref.training", description="Train a model in PyTorch.", allow_abbrev=False
    )
    parser.add_argument("model", help="a name such as split-b0")
    parser.add_argument("data", help="folder written by keras-stoch prepare or lesions")
    parser.add_argument("out", help="folder of the runs")
    parser.add_argument("--quiet", action="store_true", help="print results and errors only")
    parser.add_argument("--version", action="version", version=f"torch_ref of keras-stoch {_version()}")
    parser.add_argument("--weights", help="official EfficientNet weights to start from: .h5, .weights.h5 or .keras")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--run", type=int, help="train this one of the runs, counted from 0, alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="paper", help="what is left out is taken from it")
    hints = typing.get_type_hints(Recipe)
    for field in fields(Recipe):
        name, hint = "--" + field.name.replace("_", "-"), hints[field.name]
        kind = next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint)
        action = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        parser.add_argument(name, default=None, **action)
    return parser


def _version() -> str:
    try:
        return metadata.version("keras-stoch")
    except metadata.PackageNotFoundError:
        return "that is not installed"


def main(arguments=None) -> int:
    options = vars(make_parser().parse_args(arguments))
    options = {name: value for name, value in options.items() if value is not None or name not in FIELDS}
    names, progress = [options.pop(name) for name in ("model", "data", "out")], not options.pop("quiet")
    try:
        results = fit(*names, progress=progress, **options)
    except (ValueError, OSError) as error:
        said = f"{error.strerror}: {error.filename}" if getattr(error, "strerror", None) else str(error)
        print(f"error: {_in_options(said, options)}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"stopped: {_in_options(str(error), options)}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    for result in results:
        if os.environ.get("RANK", "0") == "0":
            print(result)
    return 0


def _in_options(message: str, names) -> str:
    """An error in the words of the command line: `batch_size=3` becomes `--batch-size 3`."""
    for name in names:
        flag = "--" + name.replace("_", "-")
        message = re.sub(rf"\b(?:recipe\.)?{name}='?(-?[\w.+-]*\w)'?", rf"{flag} \1", message)
        message = re.sub(rf"\brecipe\.{name}\b|(?:^|(?<=\. )){name}(?= must\b)", flag, message)
    return message


if __name__ == "__main__":
    sys.exit(main())
