"""The table of planted faults: each can still be planted, and its test is there."""

import ast

import pytest

from tests.planted import FAULTS, ROOT, spoilt


def test_there_are_enough_in_all_parts():
    files = {fault.file for fault in FAULTS}
    assert len(files) >= 20
    assert {file.partition("/")[0] for file in files} == {"keras_stoch", "torch_ref", "parity"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.file)
def test_a_fault_can_be_planted(fault):
    before = (ROOT / fault.file).read_text()
    after = spoilt(fault, before)
    assert ast.dump(ast.parse(before)) != ast.dump(ast.parse(after))
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(changed) == 1


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.file)
def test_its_test_is_there_and_fast(fault):
    file, _, name = fault.test.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    assert not any(ast.unparse(decorator) == "pytest.mark.slow" for decorator in found.decorator_list)


def test_what_is_not_there_is_told():
    fault = FAULTS[0]
    for text in ("", fault.text * 2):
        with pytest.raises(ValueError, match="must occur there once. Received: [02] times"):
            spoilt(fault, text)
