"""The site: examples of the API are Python that can be read as such, and the pages are built without a warning."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    f"{path.relative_to(ROOT)}:{node.name}": ast.get_docstring(node)
    for package in ("keras_stoch", "torch_ref", "parity")
    for path in sorted((ROOT / package).rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
    and re.search(r"^Examples?:", ast.get_docstring(node) or "", re.M)
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_are_blocks_of_python(name):
    """What is not fenced is set as prose, or as a shell's."""
    (code,) = re.findall(r"^Example:\n\n```python\n(.*?)^```$", EXAMPLES[name], re.S | re.M)
    if ">>>" in code:
        code = "\n".join(line[4:] for line in code.splitlines() if line.startswith((">>> ", "... ")))
    ast.parse(code)


def test_there_are_examples():
    assert len(EXAMPLES) >= 8


@pytest.mark.slow
def test_the_site_is_built_and_reads_well(tmp_path):
    pytest.importorskip("material", reason="the pages need mkdocs-material: pip install 'keras-stoch[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 14
    for page in pages:
        text = page.read_text()
        assert "style.css" in text
        assert not re.search(r"<p>\s*(&gt;){3}|<p>```", text), page
        # Code has its words in classes of their own, which the theme colours.
        assert "<pre" not in text or 'class="highlight' in text, page
    api = (tmp_path / "site" / "api" / "keras_stoch.html").read_text()
    assert len(re.findall(r'class="[^"]*\bhighlight\b', api)) > 20
