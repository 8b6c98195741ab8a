"""Fine-tuning in PyTorch: AdamW by its formula, losses, averages, frozen blocks, patience, and what is one's own."""

import json
import sys

import numpy as np
import pytest
import torch
from scipy.special import log_expit

import torch_ref
from torch_ref.norms import BatchNorm2d
from torch_ref.training import AdamW, Recipe, RMSprop, fit, make_optimizer
from torch_ref.training.__main__ import main
from torch_ref.training.optimizer import Averages, cross_entropy

pytestmark = pytest.mark.usefixtures("tiny")
ALL = {
    "recipe": "fine-tune", "epochs": 2, "batch_size": 16, "low_res": 32, "average": 0.9, "warmup_epochs": 0.5,
    "freeze": "block1", "freeze_epochs": 1, "learning_rate": 1e-2, "thaw_factor": 0.5,
}  # fmt: skip


def test_adamw_follows_its_formula(rng):
    w = torch.nn.Parameter(torch.from_numpy(rng.normal(size=5)))
    optimizer = AdamW([w], lr=0.1, betas=(0.5, 0.75), eps=1e-3, weight_decay=0.25)
    expected, m, v = w.detach().numpy().copy(), 0.0, 0.0
    for t in range(1, 11):
        g = rng.normal(size=5)
        w.grad = torch.from_numpy(g)
        optimizer.step()
        m, v = 0.5 * m + 0.5 * g, 0.75 * v + 0.25 * g**2
        expected *= 1 - 0.1 * 0.25
        expected -= 0.1 * np.sqrt(1 - 0.75**t) / (1 - 0.5**t) * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(w.detach(), expected, rtol=1e-12)


def test_difference_from_torch_optim():
    """The number in AdamW's docstring; far above epsilon there is none."""

    def first_step(kind, gradient):
        w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        w.grad = torch.full_like(w, gradient)
        kind([w], lr=1e-3, eps=1e-8).step()
        return float(w.detach().abs())

    assert round(first_step(torch.optim.AdamW, 1e-8) / first_step(AdamW, 1e-8)) == 16
    assert first_step(torch.optim.AdamW, 1.0) == pytest.approx(first_step(AdamW, 1.0), rel=1e-4)


def test_rmsprop_decays_before_its_step():
    w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    w.grad = torch.ones_like(w)
    RMSprop([w], lr=0.1, rho=0.75, eps=1e-8, weight_decay=0.5).step()
    assert float(w.detach()) == pytest.approx(0.95 - 0.1 / np.sqrt(0.25 + 1e-8), rel=1e-12)


@pytest.mark.parametrize("wrong", [{"betas": (1.0, 0.9)}, {"eps": 0.0}, {"weight_decay": -1.0}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match="is out of range. Received"):
        AdamW([torch.nn.Parameter(torch.zeros(1))], **wrong)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_decay_is_of_kernels_alone(optimizer):
    model = torch_ref.create_model("tiny-split")
    made = make_optimizer(model, Recipe(optimizer=optimizer, weight_decay=0.25))
    decayed = {id(w): group["weight_decay"] for group in made.param_groups for w in group["params"]}
    for name, parameter in model.named_parameters():
        norm = "bn" in name.split(".")[-2] or name.endswith("bias")
        assert decayed[id(parameter)] == (0.0 if norm else 0.25), name


def test_losses_against_their_formula(rng):
    targets, logits = np.float64(rng.integers(0, 2, (40, 1))), rng.normal(0, 4, (40, 1))
    for smoothing, weight in ((0.0, 1.0), (0.1, 1.0), (0.0, 3.5), (0.3, 0.2)):
        recipe = Recipe(label_smoothing=smoothing, pos_weight=weight)
        found = cross_entropy(torch.from_numpy(targets), torch.from_numpy(logits), recipe)
        smooth = targets * (1 - smoothing) + smoothing / 2
        expected = -(weight * smooth * log_expit(logits) + (1 - smooth) * log_expit(-logits))
        assert float(found) == pytest.approx(expected.mean(), rel=1e-12)


def test_averages_follow_their_formula(rng):
    net = torch.nn.Linear(3, 1)
    averages, expected = Averages(net, 0.3), net.weight.detach().clone()
    for steps in range(1, 8):
        with torch.no_grad():
            net.weight.add_(torch.from_numpy(rng.normal(size=(1, 3))))
        averages.update()
        decay = min(0.3, (1 + steps) / (10 + steps))
        expected = decay * expected + (1 - decay) * net.weight.detach()
        torch.testing.assert_close(averages.parameters[0], expected)
    last, bias = net.weight.detach().clone(), net.bias.detach().clone()
    averages.swap()
    torch.testing.assert_close(net.weight, torch.nn.Parameter(expected))
    assert torch.equal(net.bias, bias)  # what does not change stays, to the bit
    averages.swap()
    assert torch.equal(net.weight, last)


@pytest.fixture
def recorded(monkeypatch):
    """A list that is given the state of the net after every step."""
    from torch_ref.training import stages

    found, step = [], stages.Trainer.step

    def recording(self, *arguments, **options):
        if not found:
            found.append({name: value.clone() for name, value in self.net.state_dict().items()})
        result = step(self, *arguments, **options)
        found.append({name: value.clone() for name, value in self.net.state_dict().items()})
        return result

    monkeypatch.setattr(stages.Trainer, "step", recording)
    return found


def test_the_first_blocks_stay_and_then_thaw(lesions, tmp_path, recorded):
    (result,) = fit("tiny-split", lesions, tmp_path, **ALL | {"high_res": 64})
    assert len(recorded) == 1 + 2 * 3
    recipe = Recipe(**json.loads((tmp_path / "run-0" / "config.json").read_text())["recipe"])
    curves = np.loadtxt(tmp_path / "run-0" / "curves.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(curves[:, 5], [recipe.rate(epoch, 2, 3) for epoch in range(2)])
    first, thawed, last = recorded[0], recorded[3], recorded[-1]
    for name in first:
        place = name.removeprefix("detail.").replace(".", "_").split("_")[0]
        if "num_batches" in name:
            continue
        if place in ("stem", "block1a"):
            assert torch.equal(first[name], thawed[name]), name
            moves = name.split(".")[-1] not in ("mean", "variance", "count")  # the stem's normalisation never does
            assert torch.equal(first[name], last[name]) is not moves, name
        elif place in ("block2a", "top"):
            assert not torch.equal(first[name], thawed[name]), name
    kept = torch.load(tmp_path / "run-0" / "last.pt")
    assert not torch.equal(kept["predictions.weight"], last["predictions.weight"])  # the average is kept
    assert np.isfinite(result["final_val_loss"])


def test_frozen_batch_norm_is_that_of_inference(rng):
    layer, x = BatchNorm2d(3), torch.from_numpy(rng.normal(5, 3, (4, 3, 5, 5))).float()
    layer.train()(x)
    layer.eval()
    expected, before = layer(x), layer.running_mean.clone()
    layer.train()
    layer.frozen = True
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(layer.running_mean, before)
    layer.frozen = False
    assert not torch.allclose(layer(x), expected)


def test_patience_and_what_is_ones_own(lesions, tmp_path, monkeypatch):
    """With a loss that is constant nothing becomes better; the optimizer keeps its rate."""
    options = {"batch_size": 16, "low_res": 32, "loss": lambda targets, logits: 0 * logits, "patience": 1}
    given = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.25)}
    aucs = iter([0.6, 0.5])
    monkeypatch.setattr(sys.modules["torch_ref.training.fit"], "_validate", lambda *_: (1.0, next(aucs)))
    (result,) = fit("tiny", lesions, tmp_path, epochs=9, **options, **given)
    assert (result["epochs"], result["best_epoch"]) == (2, 0)
    own = json.loads((tmp_path / "run-0" / "config.json").read_text())["own"]
    assert own["optimizer"]["class"] == "SGD"
    assert own["optimizer"]["config"]["lr"] == "0.25"
    assert np.loadtxt(tmp_path / "run-0" / "curves.csv", delimiter=",", skiprows=1)[:, 5].tolist() == [0.25, 0.25]
    with pytest.raises(ValueError, match="holds a run with other settings"):
        fit("tiny", lesions, tmp_path, epochs=9, **options)


def test_a_schedule_by_step(lesions, tmp_path):
    fit("tiny", lesions, tmp_path, epochs=2, batch_size=24, low_res=32, learning_rate=lambda step: 0.01 / (step + 1))
    curves = np.loadtxt(tmp_path / "run-0" / "curves.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(curves[:, 5], [0.005, 0.0025])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"recipe": "finetune"},
            "recipe must be one of paper, fine-tune. Received: 'finetune'. Did you",
        ),
        ({"freeze": "blok1a"}, "freeze must be one of stem, block1a, block2a, top. .* Did you mean 'block1a'"),
        ({"optimizer": "adam"}, "optimizer must be one of"),
        ({"optimizer": lambda parameters: 3}, "must give a torch.optim.Optimizer. Received: 3"),
        ({"learning_rate": lambda step: -1}, "must give a number of at least 0. Received: -1 for step 0"),
        ({"optimizer": torch.optim.SGD, "rho": 0.5}, "rho: optimizer is your own, so that this has no effect"),
        ({"loss": "focal"}, "loss must be a function of targets and logits. Received: 'focal'"),
        ({"patience": 0}, "patience must be None or an integer of at least 1"),
    ],
)
def test_what_is_refused(lesions, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fit("tiny", lesions, tmp_path / "out", batch_size=16, low_res=32, **options)
    assert not (tmp_path / "out").exists()


def test_from_the_command_line(lesions, tmp_path, capsys):
    arguments = ["tiny", str(lesions), str(tmp_path / "out"), "--epochs", "1", "--batch-size", "16", "--low-res", "32"]
    assert main([*arguments, "--patience", "0"]) == 2
    assert "--patience must be None or an integer of at least 1. Received: --patience 0" in capsys.readouterr().err
    assert main([*arguments, "--recipe", "fine-tune", "--no-balanced", "--pos-weight", "2", "--quiet"]) == 0
    recipe = json.loads((tmp_path / "out" / "run-0" / "config.json").read_text())["recipe"]
    expected = {"optimizer": "adamw", "balanced": False, "pos_weight": 2.0, "epochs": 1, "average": 0.999}
    assert {name: recipe[name] for name in expected} == expected
