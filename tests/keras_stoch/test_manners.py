"""How the command line behaves: what it checks before it loads TensorFlow, what it prints where, and how it speaks."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import keras_stoch
from keras_stoch.cli import main, make_parser
from keras_stoch.commands.options import in_options
from keras_stoch.progress import duration, progress_bar

ROOT = Path(__file__).parents[2]
# Runs a command line in a process in which TensorFlow and Keras can't be imported.
WITHOUT = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "torch"):
            raise AssertionError(f"{name} was loaded before the arguments were checked")

sys.meta_path.insert(0, Forbidden())
from keras_stoch.cli import main
for line in sys.stdin.read().splitlines():
    print(f"{main(line.split(' '))} {line}", flush=True)
    print(f"end of {line}", file=sys.stderr, flush=True)
"""
WRONG = {
    "fit split-b0 --data nowhere": "nowhere is no prepared folder",
    "fit split-b0 --data DATA --out FILE": "The run's folder can not be written: FILE is a file",
    "fit split-b0 --data DATA --out FILE/runs": "The run's folder can not be written: FILE is a file",
    "fit split-bo --data DATA": "Did you mean 'split-b0'?",
    "fit b0 --data DATA --passes 3": "'b0' draws no windows to average over. Received: --passes 3",
    "fit b0 --data DATA --high-res 512": "'b0' has no high-resolution input. Received: --high-res 512",
    "fit b0 --data DATA --epochs 0": "--epochs must be an integer of at least 1. Received: --epochs 0",
    "fit b0 --data DATA --learning-rate -1": "--learning-rate must be a positive number. Received: --learning-rate -1",
    "fit b0 --data DATA --checkpoint-seconds -1": "--checkpoint-seconds must be a number of at least 0. Received: -1.0",
    "fit b0 --data DATA --checkpoint-seconds nan": "--checkpoint-seconds must be a number of at least 0",
    "fit b0 --data DATA --runs 0": "--runs must be an integer of at least 1. Received: 0",
    "fit b0": "--data must be named",
    "fit b0 --data DATA --out RUNS --epochs 3": "(--batch-size: 8 there, 100 now). Choose another --out",
    "fit b4 --data DATA --out RUNS --batch-size 8": "model.name: 'b0' there, 'b4' now",
    "fit b0 --data DATA --out RUNS --batch-size 8 --seed 1": "(--seed: 0 there, 1 now)",
    "experiment --runs 0 --out new": "--runs must be an integer of at least 1. Received: --runs 0",
    "experiment --epochs 0 --out new": "--epochs must be an integer of at least 1. Received: --epochs 0",
    "experiment --images 9 --out new": "--images must be an integer of at least 10. Received: --images 9",
    "experiment --images 20 --out new": "--images must be enough for a batch of 32",
    "experiment --out FILE": "FILE is a file, and not a folder",
    "evaluate nowhere DATA": "nowhere is no run",
    "evaluate RUN nowhere": "nowhere is no prepared folder",
    "evaluate RUN DATA --passes 3": "'b0' draws no windows to average over. Received: --passes 3",
    "evaluate RUN DATA --passes 0": "--passes must be an integer of at least 1. Received: --passes 0",
    "evaluate RUN DATA --out FILE": "FILE is a file, and not a folder",
    "compare RUN nowhere": "nowhere is no run",
    "compare RUN RUN --data nowhere": "nowhere is no prepared folder",
    "predict nowhere FILE": "nowhere is no run",
    "predict RUN nowhere.jpg": "No such image or folder: nowhere.jpg",
    "predict RUN FILE --passes 3": "'b0' draws no windows",
    "export nowhere served": "nowhere is no run",
    "export nowhere.keras served": "No such model file: nowhere.keras",
    "export RUN FILE": "FILE exists already; choose another OUT, or --overwrite",
    "export RUN FILE/served": "FILE is a file, and not a folder",
    "export RUN served.onx --format onnx": "must end with .onnx",
    "augment nowhere": "nowhere is no prepared folder",
    "windows nowhere.jpg": "No such photograph: nowhere.jpg",
    "windows FILE --model b0": "b0 has no stochastic stem",
    "windows FILE --model spilt-b0": "Did you mean 'split-b0'?",
    "prepare nowhere LABELS out": "No such folder of images: nowhere",
    "prepare DATA nowhere.csv out": "No such label file or folder: nowhere.csv",
    "prepare DATA LABELS FILE": "FILE is a file; name a folder to write",
    "prepare DATA LABELS FULL": "FULL holds other things",
    "prepare DATA LABELS out --validation 2": "--validation must be a share between 0 and 1. Received: 2.0",
    "prepare DATA LABELS out --size 0": "--size must be a positive integer. Received: 0",
    "audit LABELS --images nowhere": "No such folder of images: nowhere",
    "audit nowhere.csv": "No such label file or folder: nowhere.csv",
    "lesions FILE": "FILE is a file; name a folder to write",
    "lesions new --count 3": "--count must be an integer of at least 10. Received: 3",
}  # fmt: skip


@pytest.fixture(scope="module")
def wrong(lesions, tmp_path_factory):
    """What a process without TensorFlow answers to every line of WRONG: {line: (exit code, stderr)}."""
    place = tmp_path_factory.mktemp("wrong")
    (place / "FILE").write_text("in the way")
    (place / "LABELS").mkdir()
    # A label file that takes its time would be read for nothing; one that can not be read shows that it was.
    (place / "LABELS" / "l.csv").write_text("what is this?")
    (place / "FULL").mkdir()
    (place / "FULL" / "other").touch()
    (place / "DATA").symlink_to(lesions)
    (place / "RUN").mkdir()
    config = '{"model": {"kind": "name", "name": "b0", "arguments": {"low_res": 32}}}'
    (place / "RUN" / "config.json").write_text(config)
    (place / "RUN" / "best.weights.h5").touch()
    (place / "RUNS" / "run-0").mkdir(parents=True)
    recipe = dataclasses.asdict(keras_stoch.Recipe(batch_size=8))
    config = {"model": {"kind": "name", "name": "b0"}, "recipe": recipe, "seed": 0, "data": {"kind": "prepared"}}
    (place / "RUNS" / "run-0" / "config.json").write_text(json.dumps(config))
    (place / "RUNS" / "run-0" / "last.weights.h5").touch()
    before = sorted(place.rglob("*"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        *([sys.executable, "-c", WITHOUT],), input="\n".join(WRONG), capture_output=True, text=True, cwd=place,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    codes = dict(reversed(line.split(" ", 1)) for line in done.stdout.splitlines())
    errors = re.findall(r"(.*?)end of ([^\n]*)\n", done.stderr, re.DOTALL)
    assert sorted(place.rglob("*")) == before  # nothing was begun
    return {line: (codes[line], told) for told, line in errors}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_shows_before_tensorflow_is_loaded(line, wrong):
    code, told = wrong[line]
    assert code == "2"
    assert WRONG[line] in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "b0", "--epoch", "3", "--data", "x"], "unrecognized arguments: --epoch 3; did you mean --epochs?"),
        (["fit", "b0", "--batchsize=3"], "did you mean --batch-size?"),
        (["export", "a", "b", "--overwrit"], "did you mean --overwrite?"),
        (["evalute", "a", "b"], "did you mean evaluate?"),
        (["export", "a", "b", "--format", "onx"], "did you mean onnx?"),
        (["fit", "b0", "--strategy", "miror"], "did you mean mirrored?"),
    ],
)
def test_the_nearest_name_is_suggested(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_nothing_is_suggested_where_nothing_is_near(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "b0", "--zzzz"])
    assert "did you mean" not in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"keras-stoch {keras_stoch.__version__}\n"


def test_every_command_may_be_quiet():
    (commands,) = [action.choices for action in make_parser()._actions if isinstance(action.choices, dict)]
    assert len(commands) > 10
    for name, command in commands.items():
        assert "--quiet" in command.format_help(), name


@pytest.mark.parametrize(
    ("command", "said", "told"),
    [
        ("export", "x exists already; choose another path, or overwrite=True", "another OUT, or --overwrite"),
        ("fit", "augment=False and sync_batch_norm=False", "--no-augment and --no-sync-batch-norm"),
        ("fit", "batch_size must be a multiple of the 2 replicas. Received: 15", "--batch-size must be a multiple of"),
        ("fit", "Received: mixed_precision='mixed_float16'", "Received: --mixed-precision mixed_float16"),
        ("fit", "recipe.epochs: 3 there, 4 now; recipe.batch_size: 8 there", "--epochs: 3 there, 4 now; --batch-size:"),
        ("fit", "a smaller learning_rate may help", "a smaller --learning-rate may help"),
        ("fit", "The prepared images have 64 pixels, less than low_res=128", "less than --low-res 128"),
        ("fit", "runs/batch_size/run-0 holds seeds and epochs of data", "runs/batch_size/run-0 holds seeds and epochs"),
        ("prepare", "size (2) must not exceed it", "--size (2) must not exceed it"),
        ("prepare", "crop_to (4000) must not exceed crop_over (3048)", "--crop-to (4000) must not exceed --crop-over"),
        ("fit", "run-0 holds a run. Choose another folder, or delete this one", "Choose another --out, or delete"),
        ("prepare", "x holds other things; choose another folder to write", "choose another OUT"),
        ("evaluate", "bootstraps=0 is wrong", "bootstraps=0 is wrong"),
    ],
)  # fmt: skip
def test_messages_speak_of_options(command, said, told):
    parser = make_parser().parse_args([command, *["x"] * {"fit": 1, "export": 2, "evaluate": 2, "prepare": 3}[command]])
    assert told in in_options(said, parser.parser)


def test_warnings_are_sentences(lesions, monkeypatch):
    told, before = [], warnings.formatwarning

    def look(*_, **__):
        told.append(warnings.formatwarning(UserWarning("this is told"), UserWarning, "file.py", 3))
        return []

    monkeypatch.setattr(keras_stoch, "fit", look)
    assert main(["fit", "b0", "--data", str(lesions)]) == 0
    assert told == ["warning: this is told\n"]
    assert warnings.formatwarning is before


def test_times_as_people_tell_them():
    assert [duration(s) for s in (0.04, 12.34, 99, 150, 5999, 6000, 90000)] == [
        *("0.0 s", "12.3 s", "99.0 s", "2 min", "1 h 40 min", "1 h 40 min", "25 h 0 min"),
    ]


def test_a_log_has_lines_now_and_then(monkeypatch, capfd):
    from keras_stoch import progress

    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress_bar(1000, "prepare", True, done=100) as bar:
        for _ in range(90):
            clock[0] += 1.0
            bar.update(10)
            bar.set_postfix(loss=1)
    assert capfd.readouterr().err.splitlines() == [
        "prepare: 400 of 1000 images, 10.0 a second, 60.0 s left",
        "prepare: 700 of 1000 images, 10.0 a second, 30.0 s left",
    ]
    with progress_bar(10, "prepare", False) as bar:
        clock[0] += 100
        bar.update(5)
    assert capfd.readouterr().err == ""


def test_a_terminal_has_a_bar(monkeypatch, capfd):
    monkeypatch.setenv("KERAS_STOCH_PROGRESS", "1")
    with progress_bar(10, "prepare", True) as bar:
        bar.update(10)
    assert "10/10" in capfd.readouterr().err


SMALL = ("--low-res", "32", "--batch-size", "16", "--epochs", "1")


def in_a_process(*commands):
    """Command lines, one after the other in a process of its own, in which the tiny architectures have names."""
    program = (
        "import json, sys; from tests.tiny import registered; from keras_stoch.cli import main\n"
        "with registered(): sys.exit(max(main(line) for line in json.loads(sys.argv[1])))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TF_CPP", "CUDA_VISIBLE", "KERAS_BACKEND"))}
    lines = json.dumps([[*map(str, command), "--quiet"] for command in commands])
    return subprocess.run(
        [sys.executable, "-c", program, lines], capture_output=True, text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.slow
def test_stderr_has_no_notices_of_tensorflow(lesions, stem_run, tmp_path):
    """Where TensorFlow starts by different ways, and of what is done with it once it has."""
    photograph = next((lesions / "images").iterdir())
    for commands in (
        [
            ["fit", "tiny", "--data", lesions, "--out", tmp_path / "two", *SMALL, "--strategy", "mirrored"],
            ["evaluate", stem_run, lesions, "--passes", "2", "--out", tmp_path / "found"],
            ["export", stem_run, tmp_path / "served"],
            ["export", stem_run, tmp_path / "model.onnx", "--format", "onnx"],
            ["export", stem_run, tmp_path / "model.tflite", "--format", "litert"],
            ["augment", lesions, "--low-res", "32", "--images", "2", "--out", tmp_path / "augmented.png"],
        ],
        [["predict", stem_run, photograph]],
        [["windows", photograph, "--out", tmp_path / "windows.png"], ["models"]],
        [["lesions", tmp_path / "new", "--count", "10", "--size", "64"]],
    ):
        done = in_a_process(*commands)
        assert (done.returncode, done.stderr) == (0, ""), commands
