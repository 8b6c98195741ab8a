"""Every command that README and docs print is one that the command lines take."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = "keras-stoch|python|torchrun|make"
COMMANDS = [
    pytest.param(line, id=f"{path.name}: {line}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for line in re.findall(rf"^ {{4}}((?:{PROGRAMS}) .*)$", path.read_text(), re.MULTILINE)
]


def parse(line):
    """Gives a command to the parser it is for; SystemExit if that refuses it."""
    from keras_stoch.cli import make_parser as keras_stoch_parser
    from parity.__main__ import make_parser as parity_parser
    from torch_ref.training.__main__ import make_parser as torch_ref_parser

    words = shlex.split(re.sub(r"[][]", "", line), comments=True)  # [--optional X] is taken as given
    parsers = {"keras_stoch": keras_stoch_parser, "parity": parity_parser, "torch_ref.training": torch_ref_parser}
    if words[0] == "keras-stoch":
        keras_stoch_parser().parse_args(words[1:])
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
        assert all("=" in word for word in words[2:])
    elif "-m" in words:  # python -m, torchrun ... -m
        module = words.index("-m") + 1
        if words[module].startswith("tests."):  # takes no options
            assert (ROOT / f"{words[module].replace('.', '/')}.py").exists()
            assert not [word for word in words[module + 1 :] if word.startswith("-")]
            return
        parsers[words[module]]().parse_args(words[module + 1 :])
    else:
        script = (ROOT / words[1]).read_text()
        for option in (word for word in words[2:] if word.startswith("--")):
            assert f'"{option}"' in script


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_taken(line):
    parse(line)


def test_others_are_not():
    assert len(COMMANDS) > 20
    for line in ("keras-stoch fit b0 --epoch 3 --dat x", "python -m parity curve A B", "make dinner"):
        with pytest.raises((SystemExit, AssertionError)):
            parse(line)
