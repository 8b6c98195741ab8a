"""The command line: `python -m parity run | mutations | compare | curves | claims`.

Exit codes: 0 when everything agrees, 1 when a check failed, 2 when something could not be compared or an argument is
wrong.
"""

import argparse
import importlib
import os
import shlex
import sys

import parity  # sets the environment before Keras is imported


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m parity",
        description="Checks whether a port between Keras and PyTorch is faithful.",
        epilog="Exit codes: 0 all equal, 1 a check failed, 2 nothing or too little compared, or a wrong argument.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    # The court, this project's own case, knows the packages that the instrument does not.
    from parity.court import commands as court

    court.add_arguments(commands)

    compare = commands.add_parser(
        "compare",
        help="compare any two models",
        description="Compares any two models. Each is given as module:function, called without arguments.",
    )
    compare.add_argument("reference", metavar="REFERENCE", help="module:function that returns a model")
    compare.add_argument("candidate", metavar="CANDIDATE", help="module:function that returns a model")
    compare.add_argument(
        "--input",
        action="append",
        metavar="N,H,W,C",
        help="shape of an input, batch first, channels last; once for each, and each gets a picture of its own",
    )
    compare.add_argument(
        "--inputs", metavar="FILE.npz", help="real data instead: the inputs of one batch by name, as numpy.savez writes"
    )
    compare.add_argument(
        "--scale", type=float, default=1.0, help="inputs range from 0 to this (default 1; 255 for pixels)"
    )
    compare.add_argument(
        "--transfer", action="store_true", help="copy the reference's weights into the candidate first"
    )
    compare.add_argument(
        "--names",
        nargs="+",
        metavar="RULE",
        help='PATTERN=REPLACEMENT rules for torch module paths, which may count: "layer{s}.{i}=conv{s+1}_block{i+1}"; '
        '"order" alone, or last, pairs by kind, shape and place',
    )
    compare.add_argument("--no-training", action="store_true", help="compare inference only")
    compare.add_argument(
        "--strict", action="store_true", help="fail for known differences of the frameworks too (unbiased variance)"
    )
    compare.add_argument(
        "--ignore", nargs="+", default=(), metavar="PATTERN", help="names of layers and weights that are not compared"
    )
    compare.add_argument(
        "--explain", action="store_true", help="every place at which they part, on both sides, and its cause"
    )
    compare.add_argument("--out", metavar="DIR", help="write report.html, report.json and depth.svg there")
    compare.add_argument("--seed", type=int, default=0)
    compare.set_defaults(handler=run_compare)

    curves = commands.add_parser(
        "curves",
        help="compare sets of training runs",
        description="Compares sets of training runs, each a folder of per-epoch CSV files, with the first of them. "
        "Exits with 0 if all are equivalent to it, with 1 if one differs or the runs do not decide.",
    )
    curves.add_argument("sets", nargs="+", metavar="FOLDER", help="the reference, and what to compare with it")
    curves.add_argument("--measure", default="val_auc", help="whose whole curve is tested (default val_auc)")
    curves.add_argument("--auc-margin", type=float, metavar="X", help="difference in AUC that counts as none")
    curves.add_argument("--loss-margin", type=float, metavar="X", help="difference in loss that counts as none")
    curves.add_argument("--from-epoch", type=int, default=1, metavar="N", help="where the figure begins (default 1)")
    curves.add_argument("--out", default="build/curves", metavar="DIR", help="default: build/curves")

    curves.set_defaults(handler=run_curves)

    return parser


def main(arguments=None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        return options.handler(options)
    except (ValueError, TypeError, OSError) as error:
        if isinstance(error, TypeError) and not str(error).startswith("Expected a Keras model"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; no report was written", file=sys.stderr)
        return 130


def run_compare(arguments) -> int:
    from parity.environment import import_tensorflow_quietly
    from parity.inputs import load

    if bool(arguments.input) == bool(arguments.inputs):
        raise ValueError(
            "Give shapes with --input or a file with --inputs. Received: " + ("both" if arguments.input else "neither")
        )
    names = arguments.names
    if names == ["order"]:
        names = "order"
    elif names is not None:
        wrong = [
            rule for place, rule in enumerate(names) if "=" not in rule and (rule, place) != ("order", len(names) - 1)
        ]
        if wrong:
            raise ValueError(
                f'--names takes PATTERN=REPLACEMENT, and "order" alone or last. Received: {" ".join(wrong)}'
            )
        names = [tuple(rule.split("=", 1)) if "=" in rule else rule for rule in names]
    inputs = load(arguments.inputs) if arguments.inputs else _made(arguments.input, arguments.seed, arguments.scale)
    import_tensorflow_quietly()
    reference, candidate = _make(arguments.reference), _make(arguments.candidate)
    report = parity.compare(
        reference,
        candidate,
        inputs,
        names=names,
        transfer=arguments.transfer,
        training=not arguments.no_training,
        strict=arguments.strict,
        ignore=arguments.ignore,
    )
    if report.transfer is not None:
        print(report.transfer)
    print(report)
    if arguments.explain:
        for finding in report.causes:
            print(f"\n{finding.name}" if finding.place is None else f"\n{finding.name}: {finding.place}")
            print(f"  {finding.says or 'no cure that was tried heals it'}")
    if arguments.out:
        print(report.write(arguments.out, command_line()))
    return {"ok": 0, "FAIL": 1}.get(report.status, 2)


def command_line() -> str:
    """How this process was called, for the record."""
    return shlex.join(["python", "-m", "parity", *sys.argv[1:]])


def _made(shapes: list[str], seed: int, scale: float):
    """Inputs of these shapes, each from a seed of its own: pictures where they have three channels, else noise."""
    import numpy as np

    from parity import images

    inputs = []
    for place, text in enumerate(shapes):
        try:
            shape = tuple(int(n) for n in text.split(","))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            raise ValueError(f"--input takes positive whole numbers such as 2,224,224,3. Received: {text}")
        if len(shape) == 4 and shape[3] == 3:
            array = images.structured_images(shape[0], shape[1:3], seed + place) / 255.0
        else:
            array = np.random.default_rng(seed + place).uniform(size=shape)
        inputs.append(np.float64(array) * scale)
    return inputs[0] if len(inputs) == 1 else tuple(inputs)


def run_curves(arguments) -> int:
    import json
    from pathlib import Path

    from parity.curves import compare_runs, curves_figure, read_runs

    if len(arguments.sets) < 2:
        raise ValueError("Two folders are needed, the reference first. Received: one")
    sets = [read_runs(folder) for folder in arguments.sets]
    given = {"auc": arguments.auc_margin, "loss": arguments.loss_margin}
    margins = {name: value for name, value in given.items() if value is not None}
    reports = [compare_runs(sets[0], other, measure=arguments.measure, margins=margins) for other in sets[1:]]
    print("\n\n".join(map(str, reports)))
    measures = tuple(dict.fromkeys((arguments.measure, "train_loss")))
    figure = curves_figure(sets, Path(arguments.out) / "curves.png", measures, start=arguments.from_epoch - 1)
    record = Path(arguments.out) / "curves.json"
    record.write_text(json.dumps([report.to_dict() for report in reports], indent=1) + "\n")
    print(f"\n{figure}\n{record}")
    return 0 if all(report.equivalent for report in reports) else 1


def _make(spec: str):
    """Calls what "module:function" names."""
    module, _, function = spec.partition(":")
    if not module or not function:
        raise ValueError(f"Expected module:function. Received: {spec}")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)()
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise
        raise ValueError(f"No module {module!r}; it must be importable from {os.getcwd()}") from error
    except AttributeError as error:
        if not hasattr(sys.modules.get(module), function):
            raise ValueError(f"Module {module!r} has no function {function!r}") from error
        raise


if __name__ == "__main__":
    sys.exit(main())
