"""The command line: `python -m parity run | mutations | long | compare | record | verify | inputs | curves | claims`.

Exit codes: 0 when everything agrees, 1 when a check failed, 2 when something could not be compared or an argument is
wrong.
"""

import argparse
import sys

import parity  # noqa: F401  sets the environment before Keras is imported


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m parity",
        description="Checks whether a port between Keras and PyTorch is faithful.",
        epilog="Exit codes: 0 all equal, 1 a check failed, 2 nothing or too little compared, or a wrong argument.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    # The court, this project's own case, knows the packages that the instrument does not.
    from parity import commands as files
    from parity.court import commands as court

    court.add_arguments(commands)

    files.add_arguments(commands)

    curves = commands.add_parser(
        "curves",
        help="compare sets of training runs",
        description="Compares sets of training runs, each a folder of per-epoch CSV files or a record of runs "
        "as `python -m parity long` writes it, with the first of them. "
        "Exits with 0 if all are equivalent to it, with 1 if one differs or the runs do not decide.",
    )
    curves.add_argument("sets", nargs="+", metavar="RUNS", help="the reference, and what to compare with it")
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


def run_curves(arguments) -> int:
    import json
    from pathlib import Path

    from parity.curves import compare_runs, curves_figure, read_runs

    if len(arguments.sets) < 2:
        raise ValueError("Two sets are needed, the reference first. Received: one")
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


if __name__ == "__main__":
    sys.exit(main())
