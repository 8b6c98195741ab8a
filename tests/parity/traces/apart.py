"""Runs a program in a process in which some packages can not be imported."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

# Some are not there, as in an environment without them; of others the import fails, as that of a broken one does.
ABSENT = """
from importlib.machinery import PathFinder

found = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None:
    None if name.split(".")[0] in {absent!r} else found(name, path, target)
)
"""
FORBID = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {forbidden!r}:
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Forbidden())
"""


def run_without(
    forbidden: tuple[str, ...], program: str, folder: Path, absent: bool = False
) -> subprocess.CompletedProcess:
    """The finished process; its working directory is `folder`, from which it can import."""
    text = ABSENT.format(absent=forbidden) if absent else FORBID.format(forbidden=forbidden)
    text += f"import sys\nsys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n" + program
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=folder)


def command_without(
    forbidden: tuple[str, ...], arguments: list[str], folder: Path, absent: bool = False
) -> subprocess.CompletedProcess:
    """`python -m parity` with these arguments."""
    program = f"from parity.__main__ import main\nraise SystemExit(main({arguments!r}))\n"
    return run_without(forbidden, program, folder, absent)
