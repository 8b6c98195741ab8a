"""What several commands share: how one is added, options that mean the same everywhere, how errors speak of them."""

import argparse
import difflib
import logging
import os
import re
from pathlib import Path

from keras_stoch.files import of_this_machine
from keras_stoch.progress import terminal_muted


class Parser(argparse.ArgumentParser):
    """Suggests the nearest name for an option or a command that there is not."""

    def parse_args(self, args=None, namespace=None):
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = getattr(options, "parser", self)
            nearest = [suggestion(word.partition("=")[0], flags(parser)) for word in unknown if word.startswith("-")]
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(filter(None, nearest))}")
        return options

    def error(self, message):
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            known = re.findall(r"[\w-]+", choice[2])
            message += suggestion(choice[1], known)
        super().error(message)


def suggestion(name: str, known) -> str:
    """ "; did you mean ...?" for the nearest of the known names; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def flags(parser) -> list[str]:
    """The options of a parser, such as --epochs."""
    return [flag for action in parser._actions for flag in action.option_strings]


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
    command.set_defaults(run=run, resumes=resumes, parser=command)
    command.add_argument("--quiet", action="store_true", help="print results and errors only")
    return command


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults, where there are any."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def in_options(message: str, parser) -> str:
    """An error of the library in the words of the command line: `batch_size=3` becomes `--batch-size 3`.

    Args:
        message: of the error.
        parser: of the command that was given.
    """
    for action in parser._actions:
        flag = next((flag for flag in action.option_strings if flag.startswith("--")), None)
        if flag is None or action.dest == "help":
            continue
        name = action.dest
        off = next((other for other in action.option_strings if other.startswith("--no-")), flag)
        word = rf"(?<![\w./-]){name}"
        for pattern, told in (
            (rf"\brecipe\.{name}\b|(?:(?<=\()|(?<=; )){name}(?=: )", flag),
            (rf"{word}=True\b", flag),
            (rf"{word}=False\b", off),
            (rf"{word}='([^']*)'", rf"{flag} \1"),
            (rf"{word}=(-?[\w.+-]*\w)", rf"{flag} \1"),
            # A name that is a word of English too is meant where a sentence begins with it.
            (rf"{word}\b(?![=/]|\.\w)" if "_" in name else rf"(?:^|(?<=\. )){name}(?= must\b| \()", flag),
        ):
            message = re.sub(pattern, told, message)
    place = next((action for action in parser._actions if action.dest == "out"), None)
    if place is not None:
        name = place.option_strings[-1] if place.option_strings else place.metavar
        message = re.sub(r"([Cc]hoose another) (?:folder|path)(?: to write)?", rf"\1 {name}", message)
    return message


def load_tensorflow():
    """Loads it without what it writes straight to the terminal while it starts, whatever the log level."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with terminal_muted():
        import tensorflow as tf

        tf.config.list_physical_devices()  # where TensorFlow complains of drivers that are not there
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def place_for(file) -> Path:
    """The path of a file to be written, in a folder that exists from now on: what is wrong shows before the work."""
    path = of_this_machine(file, "A figure or a table is")
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
        help="what counts as malignant: paper, melanoma, or classes such as MEL,BCC; for some sources alone, "
        "archive=MEL,BCC 2019=melanoma",
    )


def malignant_rule(options):
    """What --malignant says, as `read_labels` takes it."""

    def rule(text):
        return text.split(",") if text.isupper() else text

    if "=" not in options.malignant:
        return rule(options.malignant)
    parts = [part.partition("=") for part in options.malignant.split()]
    return {source: rule(text) for source, _, text in parts}
