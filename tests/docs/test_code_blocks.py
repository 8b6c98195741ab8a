"""Every Python block of README and docs runs as it is printed."""

import contextlib
import re
from pathlib import Path

import pytest

from tests.tiny import shallow

ROOT = Path(__file__).parents[2]
SLOW = re.compile(r"\b(fit|export|predict)\(")  # a training run, an export, or several draws of a whole model
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}", marks=[pytest.mark.slow] if SLOW.search(block) else [])
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, tmp_path, monkeypatch):
    """Models that are trained, exported or asked several times have a few blocks; all else is as it is printed."""
    monkeypatch.chdir(tmp_path)
    with shallow() if SLOW.search(block) else contextlib.nullcontext():
        exec(compile(block, "README", "exec"), {"__name__": "block"})


def test_what_the_comparison_in_the_readme_prints(capsys):
    (block,) = (p.values[0] for p in BLOCKS if "parity.compare" in p.values[0])
    exec(compile(block, "README", "exec"), {"__name__": "block"})
    out = capsys.readouterr().out
    assert "They part on the rung 'configuration' at norm" in out


def test_number_of_faults_in_the_readme():
    from parity.court.mutations import MUTATIONS

    assert f"{len(MUTATIONS)} ports broken on" in (ROOT / "README.md").read_text()
