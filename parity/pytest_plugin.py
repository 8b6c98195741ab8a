"""pytest: a port stays right in somebody's CI. `parity_check` compares, and what it fails with is the diagnosis.

    def test_port(parity_check):
        parity_check("golden/reference.npz", make_keras(), names="order")

`--parity-update` records golden traces anew from the models that tests give for them.
"""

from pathlib import Path

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("parity", "ports between Keras and PyTorch")
    group.addoption("--parity-update", action="store_true", help="record golden traces anew, where tests tell of what")
    group.addoption("--parity-out", metavar="DIR", help="write a page for every comparison below DIR")


@pytest.fixture
def parity_check(request):
    """A function (reference, candidate, inputs=None, *, golden=None, partial=False, **options) that fails a test.

    Args of it:
        reference: a model, the path of a trace or of a deployed model; or a function of no arguments that makes one,
            which is called only if it is needed.
        candidate: a model or path, or a function that makes one.
        inputs: as `parity.compare` takes them; None for a trace's own.
        golden: path of a trace that stands for the reference. With --parity-update it is recorded of `reference` on
            `inputs`; without, `reference` is not used, and its framework need not be installed.
        partial: accept what could not be compared, so long as nothing failed.
        options: of `parity.compare`.

    Returns:
        The `ComparisonReport`.
    """

    def check(reference, candidate, inputs=None, *, golden=None, partial=False, **options):
        __tracebackhide__ = True
        import parity

        if golden is not None:
            golden = Path(golden)
            if not golden.is_absolute():
                golden = request.path.parent / golden
            if request.config.getoption("--parity-update"):
                parity.record(_made(reference), inputs, golden, training=options.get("training", True))
            elif not golden.is_file():
                pytest.fail(f"No golden trace {golden}; record it with --parity-update", pytrace=False)
            reference, inputs = golden, None
        report = parity.compare(_made(reference), _made(candidate), inputs, **options)
        out = request.config.getoption("--parity-out")
        page = ""
        if out:
            name = "".join(c if c.isalnum() or c in "-_." else "-" for c in request.node.name)
            page = f"\n{report.write(Path(out) / name, request.node.nodeid)}"
        if not (report.passed or (partial and report.status != "FAIL")):
            pytest.fail(f"{report}{page}", pytrace=False)
        return report

    return check


def _made(side):
    """What a function makes; a model, though it can be called, is one."""
    plain = callable(side) and not hasattr(side, "parameters") and not hasattr(side, "weights")
    return side() if plain else side
