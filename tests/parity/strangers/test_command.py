"""What the command line says of models that are not there, before it asks for anything else."""

import pytest

from parity.__main__ import main


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["compare", "missing.npz", "mymodels:port"], "No such file: missing.npz"),
        (["compare", "missing.npz", "missing.onnx"], "No such file: missing.npz"),
        (["compare", "json:dumps", "served/missing"], "No such file: served/missing"),
        (["compare", "model.keras", "json:dumps"], "No such file: model.keras"),
        (["compare", "json:dumps", "C:port.pt2"], "No such file: C:port.pt2"),
        (["compare", "missing", "json:dumps"], "Expected module:function. Received: missing, which is no file either"),
        (["record", "missing.npz", "--out", "trace.npz"], "No such file: missing.npz"),
    ],
)
def test_a_missing_file_is_told_first(command, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert told in capsys.readouterr().err


def test_inputs_are_asked_for_where_the_models_are_there(capsys):
    assert main(["compare", "json:dumps", "json:dumps"]) == 2
    assert "Give shapes with --input" in capsys.readouterr().err
