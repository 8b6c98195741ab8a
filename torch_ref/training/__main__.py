"""`python -m torch_ref.training`, and under torchrun: trains a model by name."""

import argparse
import os
import re
import sys
from dataclasses import fields
from importlib import metadata

from torch_ref.training.fit import fit
from torch_ref.training.recipe import Recipe


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
    for field in fields(Recipe):
        name, kind = "--" + field.name.replace("_", "-"), type(field.default)
        if kind is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            kind = {"low_res": int, "high_res": int}.get(field.name, str if field.default is None else kind)
            parser.add_argument(name, type=kind, default=field.default)
    return parser


def _version() -> str:
    try:
        return metadata.version("keras-stoch")
    except metadata.PackageNotFoundError:
        return "that is not installed"


def main(arguments=None) -> int:
    options = vars(make_parser().parse_args(arguments))
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
