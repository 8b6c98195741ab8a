"""The optimiser against its formula, `fit` and its files, and two processes against one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

import torch_ref
from torch_ref.training import Recipe, RMSprop, fit, validation_step
from torch_ref.training.runs import RunFolder

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_follow_the_formula(momentum, rng):
    w = torch.nn.Parameter(torch.from_numpy(rng.normal(size=5)))
    optimizer = RMSprop([w], lr=0.1, rho=0.8, eps=1e-3, momentum=momentum)
    expected, v, m = w.detach().numpy().copy(), 0.0, 0.0
    for _ in range(10):
        g = rng.normal(size=5)
        w.grad = torch.from_numpy(g)
        optimizer.step()
        v = 0.8 * v + 0.2 * g**2
        m = momentum * m + 0.1 * g / np.sqrt(v + 1e-3)
        expected -= m
        np.testing.assert_allclose(w.detach(), expected, rtol=1e-12)


def first_step(make):
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.full_like(w, 1e-6)
    make([w]).step()
    return float(w.detach().abs())


def test_difference_from_torch_optim():
    """The number in RMSprop's docstring: epsilon outside the root makes small gradients count 909 times as much."""
    inside = first_step(lambda p: RMSprop(p, lr=1e-3, rho=0.99, eps=1e-8))
    outside = first_step(lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.99, eps=1e-8))
    assert round(outside / inside) == 909


def test_state_survives_saving(rng):
    def run(steps, state=None, value=None):
        w = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64) if value is None else value)
        optimizer = RMSprop([w], momentum=0.9)
        if state is not None:
            optimizer.load_state_dict(state)
        for step in steps:
            w.grad = torch.from_numpy(np.random.default_rng(step).normal(size=3))
            optimizer.step()
        return w.detach(), optimizer.state_dict()

    whole, _ = run(range(10))
    half, state = run(range(5))
    assert torch.equal(run(range(5, 10), state, half)[0], whole)


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"rho": 1.0}, {"momentum": 1.0}, {"eps": 0.0}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is out of range"):
        RMSprop([torch.nn.Parameter(torch.zeros(1))], **wrong)


OPTIONS = {"epochs": 2, "batch_size": 16, "low_res": 32, "hold_epochs": 1}


def test_fit_writes_what_the_keras_side_writes(lesions, tmp_path):
    from parity.curves import read_runs

    results = fit("tiny", lesions, tmp_path / "runs", runs=2, **OPTIONS)
    assert [result["seed"] for result in results] == [0, 1]
    names = {"config.json", "environment.json", "curves.csv", "batches.csv", "best.pt", "last.pt", "result.json"}
    assert {path.name for path in (tmp_path / "runs" / "run-0").iterdir()} == names
    runs = read_runs(tmp_path / "runs")
    assert len(runs) == 2
    assert runs.values["val_auc"].shape == (2, 2)
    assert runs.batches.shape == (2, 6)  # 48 training images
    assert results[0]["best_val_auc"] == pytest.approx(runs.values["val_auc"][0].max())
    rates = np.loadtxt(tmp_path / "runs" / "run-0" / "curves.csv", delimiter=",", skiprows=1)[:, 5]
    np.testing.assert_allclose(rates, [1e-3, 0.9e-3])
    table = (tmp_path / "runs" / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["run", "run-0", "run-1"]
    again = fit("tiny", lesions, tmp_path / "runs", runs=2, **OPTIONS)
    assert again == results  # what has ended is not repeated
    with pytest.raises(ValueError, match=r"holds a run with other settings \(model: 'tiny' there, 'b0-stem64' now\)"):
        fit("b0-stem64", lesions, tmp_path / "runs", **OPTIONS)


def test_the_table_of_runs_is_in_their_order(tmp_path):
    for run in (10, 2, 9):
        folder = RunFolder(tmp_path / f"run-{run}", {})
        folder.begin()
        folder.finish({"seed": run})
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["run", "run-2", "run-9", "run-10"]


def test_validation_auc_is_that_of_the_last_weights(lesions, tmp_path):
    from sklearn.metrics import roc_auc_score

    from torch_ref.data import make_loader

    fit("tiny", lesions, tmp_path, **OPTIONS)
    model = torch_ref.create_model("tiny", 32)
    model.load_state_dict(torch.load(tmp_path / "run-0" / "last.pt"))
    model.eval()
    scores, targets = [], []
    for inputs, target in make_loader(lesions, "validation", 12, low_res=32, high_res=None):
        with torch.no_grad():
            scores += model(**inputs)[:, 0].tolist()
        targets += target.tolist()
    curve = np.loadtxt(tmp_path / "run-0" / "curves.csv", delimiter=",", skiprows=1)
    assert curve[-1, 4] == pytest.approx(roc_auc_score(targets, scores), abs=1e-9)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(scores), torch.tensor(targets))
    assert curve[-1, 2] == pytest.approx(float(loss), rel=1e-5)


def test_passes_average_probabilities(rng):
    logits = rng.normal(0, 3, (3, 8))
    draws = iter(torch.from_numpy(logits)[..., None])
    inputs = {"low_res": torch.zeros(8, 3, 32, 32)}
    found = validation_step(lambda low_res: next(draws), inputs, Recipe(passes=3))
    np.testing.assert_allclose(found, logit(expit(logits).mean(0)), rtol=1e-9)


def test_both_packages_have_one_recipe():
    import dataclasses

    import keras_stoch
    import torch_ref.training

    ours = {field.name: field.default for field in dataclasses.fields(torch_ref.training.Recipe)}
    theirs = {field.name: field.default for field in dataclasses.fields(keras_stoch.Recipe)}
    assert ours.items() <= theirs.items()
    assert set(theirs) - set(ours) == {"jit_compile"}
    for epochs in (1, 14, 15, 16, 59):
        assert torch_ref.training.Recipe().rate(epochs) == keras_stoch.Recipe().rate(epochs)


def test_bad_input_is_refused(lesions, tmp_path):
    with pytest.raises(ValueError, match="Unknown options: batchsize. A recipe has: epochs, batch_size"):
        fit("tiny", lesions, tmp_path / "x", batchsize=3)
    with pytest.raises(ValueError, match="no prepared folder"):
        fit("tiny", tmp_path, tmp_path / "x", low_res=32)
    with pytest.raises(ValueError, match="48 training images fill no batch of 100"):
        fit("tiny", lesions, tmp_path / "x", low_res=32)
    for options, message in (
        ({"epochs": 0}, "epochs must be an integer of at least 1. Received: epochs=0"),
        ({"passes": 0}, "passes=0"),
        ({"augment": "no"}, "augment='no'"),
        ({"mixed_precision": "mixed_bfloat16"}, "mixed_precision='mixed_bfloat16'"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"runs": 0}, "runs must be an integer of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            fit("tiny", lesions, tmp_path / "x", **options)
    import shutil

    import pandas as pd

    manifest = pd.read_csv(lesions / "manifest.csv")
    for wrong, found in ((manifest.assign(target=1), r"\[1.0\]"), (manifest.assign(target=2), r"\[2.0\]")):
        shutil.copytree(lesions, tmp_path / "data")
        wrong.to_csv(tmp_path / "data" / "manifest.csv")
        with pytest.raises(ValueError, match=f"'train' must have images of both targets, 0 and 1. Received: {found}"):
            fit("tiny", tmp_path / "data", tmp_path / "x", low_res=32)
        shutil.rmtree(tmp_path / "data")
    assert not (tmp_path / "x").exists()


def test_a_loss_that_is_no_number_stops_the_run(lesions, tmp_path):
    with pytest.raises(FloatingPointError, match="became (nan|inf) in epoch 0, .*No epoch had ended"):
        fit("tiny", lesions, tmp_path, **OPTIONS | {"learning_rate": 1e30})


def test_weights_that_the_last_step_spoiled_stop_the_run_too(lesions, tmp_path):
    """One step an epoch: the loss of that step is still a number, and only validation shows what it did."""
    with pytest.raises(FloatingPointError, match="The validation loss became no number in epoch 0"):
        fit("tiny", lesions, tmp_path, **OPTIONS | {"learning_rate": 1e30, "batch_size": 48})
    assert not list(tmp_path.glob("run-0/*.pt"))


def test_autocast(lesions, tmp_path):
    (result,) = fit("tiny", lesions, tmp_path, **OPTIONS | {"mixed_precision": "bfloat16", "epochs": 1})
    assert np.isfinite(result["final_val_loss"])


# `torch_ref.training`'s own program, which also tells what weights each process ends with.
PROGRAM = """
import os, sys, torch
sys.path.insert(0, os.environ["ROOT"])
from tests.tiny import registered
from torch_ref.training.__main__ import main
from torch_ref.training import stages
torch.set_default_dtype(getattr(torch, os.environ.get("DTYPE", "float32")))
nets, make_optimizer = [], stages.make_optimizer
stages.make_optimizer = lambda net, recipe: (nets.append(net), make_optimizer(net, recipe))[1]
with registered():
    main()
with open(os.path.join(sys.argv[3], "rank" + os.environ["RANK"]), "w") as file:
    file.write(" ".join(repr(float(w.double().sum())) for w in nets[0].parameters()))
"""


# Batch norm over three and five images in two processes, against one process with all eight.
BATCH_NORM = """
import torch
from torch_ref.norms import BatchNorm2d
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
generator = torch.Generator().manual_seed(0)
x, g = (3 * torch.randn(8, 4, 5, 6, generator=generator, dtype=torch.float64) + 2 for _ in range(2))
def run(x, g, synchronized):
    layer = BatchNorm2d(4).double()
    torch.nn.init.normal_(layer.weight, generator=generator.manual_seed(1))
    layer.synchronized = synchronized
    x = x.clone().requires_grad_()
    out = layer(x)
    (out * g).sum().backward()
    return out, x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var
mine = slice(0, 3) if rank == 0 else slice(3, 8)
out, dx, *sums, mean, variance = run(x[mine], g[mine], True)
for value in sums:
    torch.distributed.all_reduce(value)
expected = list(run(x, g, False))
expected[:2] = [value[mine] for value in expected[:2]]
for found, value in zip((out, dx, *sums, mean, variance), expected, strict=True):
    torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
_, dx, *_ = run(x[mine], g[mine], False)
assert (dx - expected[1]).abs().max() > 1e-3  # the check can fail
"""


def torchrun(program, *arguments):
    """Runs a program in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += map(str, (program, *arguments))
    environment = os.environ | {"ROOT": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def train_in_two(lesions, out, **options):
    """Trains in two processes, and returns the losses of all steps."""
    (out / "program.py").write_text(PROGRAM)
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    torchrun(out / "program.py", "tiny", lesions, out, "--no-augment", *given)
    return np.loadtxt(out / "run-0" / "batches.csv", delimiter=",", skiprows=1)[:, 2]


@pytest.mark.slow
def test_two_processes_under_torchrun(lesions, tmp_path):
    losses = train_in_two(lesions, tmp_path, **OPTIONS)
    assert losses.shape == (6,)
    assert np.isfinite(losses).all()
    # Each saw other images and drew other masks: equal weights come of exchanged gradients alone.
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert len(first.split()) == len(list(torch_ref.create_model("tiny").parameters()))
    assert first == second


@pytest.mark.slow
def test_batch_norm_of_two_processes_is_that_of_one(tmp_path):
    (tmp_path / "program.py").write_text(BATCH_NORM)
    torchrun(tmp_path / "program.py")


@pytest.mark.slow
def test_two_processes_agree_with_one(lesions, tmp_path, monkeypatch):
    """At one global batch, with nothing drawn and shared batch statistics: every loss, in float64."""
    options = OPTIONS | {"dropout": 0.0, "drop_connect": 0.0, "learning_rate": 1e-5, "epochs": 1}
    monkeypatch.setenv("DTYPE", "float64")
    two = train_in_two(lesions, tmp_path, **options)
    torch.set_default_dtype(torch.float64)
    try:
        fit("tiny", lesions, tmp_path / "one", augment=False, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    one = np.loadtxt(tmp_path / "one" / "run-0" / "batches.csv", delimiter=",", skiprows=1)[:, 2]
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-8)
