"""Every Python block of README and docs runs as it is printed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = [
    # A training run and an export take their time.
    pytest.param(block, id=f"{path.name}-{number}", marks=[pytest.mark.slow] if "keras_stoch.fit(" in block else [])
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README", "exec"), {"__name__": "block"})


def test_what_the_comparison_in_the_readme_prints(capsys):
    (block,) = (p.values[0] for p in BLOCKS if "parity.compare" in p.values[0])
    exec(compile(block, "README", "exec"), {"__name__": "block"})
    out = capsys.readouterr().out
    assert "They part on the rung 'configuration' at norm" in out


@pytest.mark.slow
def test_numbers_of_models_in_the_docs_are_counted():
    from keras_stoch import summary

    table = summary.render(summary.table())
    assert table in (ROOT / "docs" / "models.md").read_text()


def test_number_of_faults_in_the_readme():
    from parity.court.mutations import MUTATIONS

    assert f"{len(MUTATIONS)} ports broken on" in (ROOT / "README.md").read_text()
