"""`python -m torch_ref.training`, and under torchrun: trains a model by name."""

import argparse
import os
from dataclasses import fields

from torch_ref.training.fit import fit
from torch_ref.training.recipe import Recipe


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m torch_ref.training", description="Train a model in PyTorch.", allow_abbrev=False
    )
    parser.add_argument("model")
    parser.add_argument("data", help="folder written by keras-stoch prepare or lesions")
    parser.add_argument("out")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    for field in fields(Recipe):
        name, kind = "--" + field.name.replace("_", "-"), type(field.default)
        if kind is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            kind = {"low_res": int, "high_res": int}.get(field.name, str if field.default is None else kind)
            parser.add_argument(name, type=kind, default=field.default)
    return parser


def main():
    options = vars(make_parser().parse_args())
    for result in fit(options.pop("model"), options.pop("data"), options.pop("out"), **options):
        if os.environ.get("RANK", "0") == "0":
            print(result)


if __name__ == "__main__":
    main()
