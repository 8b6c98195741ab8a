"""The command line: wrong arguments, reports, exit codes, a run that is killed."""

import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parity.__main__ import main


@pytest.fixture
def small(monkeypatch):
    """The ladder at a size that takes seconds."""
    from parity.court import cases, ladder, session

    for model in ("b0", "b4"):
        monkeypatch.setitem(cases.MODELS, model, (cases.Case(64),))
    for module in (ladder, session):
        monkeypatch.setattr(module, "BACKEND_CASES", (("b0", cases.Case(64)),))


@pytest.mark.slow
def test_run_on_photographs_writes_a_report(small, photographs, tmp_path, capsys):
    folder = photographs[0].parents[1]
    code = main(
        [
            "run",
            "--models",
            "b0",
            "--checks",
            "configuration",
            "forward",
            "--images",
            str(folder),
            "--seed",
            "3",
            "--out",
            str(tmp_path),
        ]
    )
    assert code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"]
    assert len(report["checks"]) == 2 * 3 * 2  # types, pairs, checks
    for row in report["checks"]:
        assert {"model", "reference", "candidate", "check", "dtype", "passed", "measure", "value", "tolerance"} <= set(
            row
        )
        assert "worst" in row
        assert "first_divergence" in row
    page = (tmp_path / "report.html").read_text()
    assert "Faithful: all 12 checks passed" in page
    assert page.count("<svg") == 3
    assert not re.search(r"(src|href)=[\"']?http|@import|url\(http", page)  # self-contained
    assert "12 of 12 checks passed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_failed_check_exits_with_1_and_says_where(small, tmp_path, capsys, monkeypatch):
    from parity.court import exhibits

    shared = exhibits.shared

    def broken(package, *args, **kwargs):
        if package != "torch_ref":
            return shared(package, *args, **kwargs)
        adapter = exhibits.build(package, *args, **kwargs)
        adapter.model.block3a.bn.eps = 1e-5
        return adapter

    monkeypatch.setattr(exhibits, "shared", broken)
    code = main(["run", "--models", "b0", "--checks", "forward", "--out", str(tmp_path)])
    assert code == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "first: block3a_bn" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["passed"]
    assert {row["first_divergence"] for row in report["checks"] if not row["passed"]} == {"block3a_bn"}
    assert "Not faithful" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--models", "b9"], "Unknown models: b9. Known are: b0, b0-stem64, b4"),
        (["run", "--checks", "luck"], "Unknown checks: luck. Known are: configuration, structure"),
        (["run", "--images", "nowhere"], "no such folder: nowhere"),
        (["mutations", "--names", "luck"], "Unknown mutation: luck"),
        (["compare", "a", "b", "--input", "2,3"], "Expected module:function. Received: a"),
        (["compare", "no_such_module:f", "b:g", "--input", "2,3"], "No module 'no_such_module'"),
        (["compare", "json:f", "b:g", "--input", "2,3"], "Module 'json' has no function 'f'"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


PAIR = """
import keras
from torch import nn

def make_torch():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

def make_keras(slope=0.0):
    x = keras.Input((16, 16, 3))
    y = keras.layers.Conv2D(4, 3, name="conv")(x)
    return keras.Model(x, keras.layers.ReLU(negative_slope=slope, name="relu")(y))

def make_wrong():
    return make_keras(0.01)
"""


def test_compare_a_strangers_port(tmp_path, monkeypatch, capsys):
    (tmp_path / "their_models.py").write_text(PAIR)
    monkeypatch.chdir(tmp_path)
    common = ["--input", "2,16,16,3", "--names", "^0$=conv", "^1$=relu", "--transfer"]
    assert main(["compare", "their_models:make_torch", "their_models:make_keras", *common]) == 0
    assert "Equal on every rung" in capsys.readouterr().out
    assert main(["compare", "their_models:make_torch", "their_models:make_wrong", *common]) == 1
    assert "They part on the rung 'forward' at relu" in capsys.readouterr().out
    bad = ["compare", "their_models:make_torch", "their_models:make_keras", "--input", "2,x"]
    assert main(bad) == 2
    assert "--input takes positive whole numbers" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_run_writes_what_is_done(small, tmp_path, capsys, monkeypatch):
    from parity.court import ladder

    compare = ladder.compare_model

    def interrupted(*arguments):
        yield next(compare(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(ladder, "compare_model", interrupted)
    assert main(["run", "--models", "b0", "--checks", "configuration", "forward", "--out", str(tmp_path)]) == 130
    assert "Not done: b0 at 64" in capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["complete"]
    assert not report["passed"]
    assert report["unfinished"] == ["b0 at 64"]
    assert [row["check"] for row in report["checks"]] == ["configuration"]
    assert "Incomplete: interrupted; 1 checks were made, 0 of them failed" in (tmp_path / "report.html").read_text()


def test_rows_stand_in_the_order_of_the_ladder_however_they_came():
    import random

    from parity.court.cases import MODELS
    from parity.court.exhibits import PAIRS
    from parity.court.session import Findings
    from parity.errors import Row

    def row(size, dtype, pair, check):
        return Row("b0", *pair, check, dtype, True, "", 0.0, 0.0, size=str(size))

    wanted = [
        row(case, dtype, pair, check)
        for case in MODELS["b0"]
        for dtype in case.dtypes
        for pair in PAIRS
        for check in ("configuration", "forward")
    ]
    found = Findings(random.Random(0).sample(wanted, len(wanted)))
    found.sort()
    assert found.rows == wanted


def test_models_by_name_leave_out_what_is_of_no_one_model():
    from parity.court.cases import CHECKS, MODELS, Options

    assert Options().models == tuple(MODELS)
    assert Options().checks == CHECKS
    assert set(CHECKS) - set(Options(models=("b0",)).checks) == {"optimizer", "statistics"}
    assert Options(models=("b0",), checks=("statistics",)).checks == ("statistics",)


@pytest.mark.slow
def test_backends_rung(small, tmp_path):
    pytest.importorskip("jax")
    code = main(["run", "--models", "b0", "--checks", "backends", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "report.json").read_text())["checks"]
    assert [row["candidate"] for row in rows] == ["keras_stoch on jax", "keras_stoch on torch"]
    assert code == 0, rows
    names = [name for name, *_ in rows[0]["details"]["errors"]]
    assert "block3b_add" in names
    assert "predictions (training)" in names


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_run_leaves_no_processes(tmp_path):
    """kill -9 gives the parent no chance to end the processes it shares the work with."""
    command = [sys.executable, "-m", "parity", "run", "--models", "b0", "--checks", "forward", "lockstep"]
    run = subprocess.Popen([*command, "--out", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def alive(pid):
        stat = Path(f"/proc/{pid}/stat")
        try:
            return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False

    def children(of):
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == of and b"spawn_main" in (
                    stat.with_name("cmdline").read_bytes()
                ):
                    found.append(int(stat.parent.name))
        return found

    deadline = time.monotonic() + 120
    while len(workers := children(run.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(workers) == 2
    run.kill()
    run.wait()
    deadline = time.monotonic() + 60
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, workers))


def test_ctrl_c_while_runs_are_judged_is_no_complete_hearing(monkeypatch):
    from parity.court import session
    from parity.court.report import all_well

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(session.jobs, "run", lambda work, *arguments: ((job, None) for job in work))
    monkeypatch.setattr(session.trials, "judge_runs", interrupted)
    findings = session.hold(None, ["torch's default initialisers"], processes=2)
    assert findings.unfinished == ["statistics"]
    assert not all_well(findings)


@pytest.mark.parametrize("command", ["run", "mutations", "long"])
def test_no_process_is_refused_before_anything_is_done(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([command, "--jobs", "0"]) == 2
    assert "--jobs must be at least 1. Received: 0" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
