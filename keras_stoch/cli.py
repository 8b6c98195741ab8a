"""The command line: `keras-stoch ...`, a thin face over the library's functions.

Exit codes: 0 done, 2 a wrong argument or bad input, 3 training diverged, 130 interrupted, 143 terminated; 1, with a
traceback, an error of the program itself.
"""

import contextlib
import os
import sys
import warnings

import keras_stoch
from keras_stoch.commands import data, evaluation, models, serving, training
from keras_stoch.commands.options import Parser, in_options, load_tensorflow
from keras_stoch.files import given_command
from keras_stoch.storage import is_remote
from keras_stoch.training.interrupts import Terminated, terminations_raised
from keras_stoch.training.recipe import TrainingDiverged


def make_parser() -> Parser:
    parser = Parser(
        prog="keras-stoch",
        description="Stochastic convolutions in Keras: prepare photographs, train, evaluate, serve.",
        epilog="Exit codes: 0 done, 2 a wrong argument or bad input, 3 training diverged, 130 interrupted, 143 "
        "terminated; 1, with a traceback, an error of the program itself.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"keras-stoch {keras_stoch.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for add in (
        data.add_prepare,
        data.add_split_command,
        data.add_audit,
        data.add_lesions,
        data.add_augment,
        training.add_fit,
        evaluation.add_evaluate,
        evaluation.add_compare,
        evaluation.add_evidence,
        evaluation.add_predict,
        serving.add_export,
        training.add_experiment,
        models.add_models,
        models.add_windows,
    ):
        add(commands)
    return parser


def main(arguments=None) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notices about its build are not the user's
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = make_parser().parse_args(arguments)
    token = given_command.set(["keras-stoch", *map(str, arguments)])
    given = [value for values in vars(options).values() for value in (values if isinstance(values, list) else [values])]
    if any(isinstance(value, str) and is_remote(value) for value in given):
        load_tensorflow()  # whose file systems are asked from here on
    goes_on = "; the same command goes on where this one stopped" if options.resumes else ""
    try:
        with _warnings_in_a_line(), terminations_raised():
            return options.run(options) or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {in_options(_sentence(error), options.parser)}", file=sys.stderr)
        return 2
    except TrainingDiverged as error:
        print(f"stopped: {in_options(str(error), options.parser)}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
    except Terminated as error:
        print(f"terminated{goes_on}", file=sys.stderr)
        return error.code
    except Exception as error:
        if "No space left on device" not in str(error):
            raise
        print("error: No space left on device", file=sys.stderr)
        return 2
    finally:
        given_command.reset(token)


def _sentence(error: Exception) -> str:
    """What an error says, without the number that the system gives it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


@contextlib.contextmanager
def _warnings_in_a_line():
    """Warnings are told as sentences, without the line of the program that they come from."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


if __name__ == "__main__":
    sys.exit(main())
