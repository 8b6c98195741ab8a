"""The walls between files and packages: no circles, no borrowed underscores, no framework where it does not belong."""

import ast
import os
import subprocess
import sys
import traceback
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("keras_stoch", "torch_ref", "parity")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imports(tree: ast.AST) -> list[tuple[str, str]]:
    """What a file imports, anywhere in it: its name there, and the dotted name of what it is."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.asname or alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports would hide from these tests"
            found += [(alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def loaded_on_first_use(name: str, tree: ast.Module) -> set[str]:
    """What a package's `_EXPORTS` loads when it is asked for."""
    tables = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_EXPORTS"
    ]
    return {f"{name}.{module}" for table in tables for module in ast.literal_eval(table).values()}


def of_file(dotted: str) -> str | None:
    """The file of ours that an import names: the module itself, or the one that holds the name."""
    return next((name for name in (dotted, dotted.rpartition(".")[0]) if name in FILES), None)


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """One circle for every file from which the walk comes back to a file that it is still in."""
    found, done = [], set()

    def walk(name, path):
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(edges[name]):
                walk(other, [*path, name])
            done.add(name)

    for name in sorted(edges):
        walk(name, [])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_files_import_each_other(package):
    edges = defaultdict(set)
    for name, tree in TREES.items():
        named = {dotted for _, dotted in imports(tree)} | loaded_on_first_use(name, tree)
        edges[name] = {of_file(dotted) for dotted in named} - {None}
    assert [circle for circle in circles(edges) if circle[0].split(".")[0] == package] == []


def test_a_circle_is_found():
    edges = defaultdict(set, a={"b"}, b={"c"}, c={"b"}, d={"d"})
    assert circles(edges) == [["b", "c", "b"], ["d", "d"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_underscored_names_stay_in_their_file(package):
    borrowed = []
    for name, tree in TREES.items():
        known = dict(imports(tree))
        for _, dotted in imports(tree):
            if of_file(dotted) and any(is_private(part) for part in dotted.split(".")):
                borrowed.append(f"{name} imports {dotted}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                holder = ast.unparse(node.value)
                if known.get(holder, holder) in FILES:
                    borrowed.append(f"{name} uses {holder}.{node.attr}")
    assert [line for line in borrowed if line.split(".")[0].split(" ")[0] == package] == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


ALLOWED = {"keras_stoch.stochastic": {"torch"}}  # asks Keras's torch backend for a GPU


@pytest.mark.parametrize(
    ("importer", "forbidden"),
    [
        ("keras_stoch", {"torch", "torch_ref", "parity"}),
        ("torch_ref", {"keras", "tensorflow", "keras_stoch", "parity"}),
        ("parity", {"keras_stoch", "torch_ref"}),
    ],
)
def test_packages_do_not_reach_over(importer, forbidden):
    reached = [
        f"{name} imports {dotted}"
        for name, tree in TREES.items()
        if name.split(".")[0] == importer and not name.startswith("parity.court")
        for _, dotted in imports(tree)
        if dotted.split(".")[0] in forbidden - ALLOWED.get(name, set())
    ]
    assert reached == []


# The instrument is of use to one who has neither of our packages.
ALONE = """
import importlib, pkgutil, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras_stoch", "torch_ref"):
            raise ImportError(f"{name} is forbidden here")

for name in [name for name in sys.modules if name.split(".")[0] in ("keras_stoch", "torch_ref", "parity")]:
    del sys.modules[name]
sys.meta_path.insert(0, Forbidden())
import parity
for module in pkgutil.walk_packages(parity.__path__, "parity.", onerror=lambda name: None):
    if not module.name.startswith("parity.court") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_parity_stands_alone(tmp_path):
    """In a process that parts from this one, which has the frameworks already."""
    import keras  # noqa: F401
    import torch  # noqa: F401

    child = os.fork()
    if not child:
        try:
            exec(ALONE, {})
            os._exit(0)
        except BaseException:
            (tmp_path / "told").write_text(traceback.format_exc())
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, (tmp_path / "told").read_text()[-2000:]


LIGHT = """
import sys
import {module}
heavy = [name for name in ("keras", "tensorflow", "torch", "pandas", "matplotlib") if name in sys.modules]
assert not set(heavy) & {{{forbidden}}}, heavy
"""


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("keras_stoch, keras_stoch.cli", '"keras", "tensorflow", "torch", "pandas", "matplotlib"'),
        ("keras_stoch.training, keras_stoch.evaluation, keras_stoch.serving", '"keras", "tensorflow", "torch"'),
        ("keras_stoch.data.prepare, keras_stoch.data.audit, keras_stoch.data.synthetic", '"keras", "tensorflow"'),
    ],
)
def test_imports_that_are_light(module, forbidden):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(module=module, forbidden=forbidden)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_files_are_short_and_say_what_they_are_for():
    wrong = []
    for folder in (*PACKAGES, "tests", "benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text()
            if len(text.splitlines()) > 400:
                wrong.append(f"{path.relative_to(ROOT)} has {len(text.splitlines())} lines")
            if text and not (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].strip():
                wrong.append(f"{path.relative_to(ROOT)} does not say what it is for")
    assert wrong == []
