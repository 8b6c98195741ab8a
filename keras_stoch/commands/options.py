"""What several commands share: how one is added, and options that mean the same everywhere."""

import argparse
import os
import sys
from pathlib import Path


def add_command(commands, name, run, help, resumes=False):
    """A subcommand whose long help is the same sentence as the short one.

    Args:
        resumes: whether the same command goes on where it was interrupted.
    """
    command = commands.add_parser(
        name,
        help=help,
        description=help,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run, resumes=resumes)
    return command


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults, where there are any."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def place_for(file) -> Path:
    """The path of a file to be written, in a folder that exists from now on: what is wrong shows before the work."""
    path = Path(file)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def add_split(command):
    group = command.add_argument_group("split")
    group.add_argument(
        "--split",
        choices=("group", "random"),
        default="group",
        help="keep duplicates, lesions and patients on one side, or split at random as the paper did",
    )
    group.add_argument("--validation", type=float, default=0.2, metavar="SHARE", help="share of validation images")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the split")


def add_malignant(command):
    command.add_argument(
        "--malignant",
        default="paper",
        metavar="RULE",
        help="what counts as malignant: paper, melanoma, or classes such as MEL,BCC",
    )


def malignant_rule(options):
    return options.malignant.split(",") if options.malignant.isupper() else options.malignant


def bar_wanted():
    return sys.stderr.isatty() or os.environ.get("KERAS_STOCH_PROGRESS") == "1"
