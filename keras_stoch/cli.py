"""The command line: `keras-stoch ...`, a thin face over the library's functions.

Exit codes: 0 done, 2 a wrong argument or bad input, 3 training diverged, 130 interrupted; 1, with a traceback, an error
of the program itself.
"""

import argparse
import os
import sys

from keras_stoch.commands import data, evaluation, models, serving, training
from keras_stoch.training.recipe import TrainingDiverged


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-stoch",
        description="Stochastic convolutions in Keras: prepare photographs, train, evaluate, serve.",
        epilog="Exit codes: 0 done, 2 a wrong argument or bad input, 3 training diverged, 130 interrupted; 1, with a "
        "traceback, an error of the program itself.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        data.add_prepare,
        data.add_audit,
        data.add_lesions,
        data.add_augment,
        training.add_fit,
        evaluation.add_evaluate,
        evaluation.add_compare,
        evaluation.add_predict,
        serving.add_export,
        training.add_experiment,
        models.add_models,
        models.add_windows,
    ):
        add(commands)
    return parser


def main(arguments=None) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notices about its build are not the user's
    options = make_parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingDiverged as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        more = "; the same command goes on where this one stopped" if options.resumes else ""
        print(f"interrupted{more}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
