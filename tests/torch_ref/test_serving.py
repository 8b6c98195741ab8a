"""Exported programs against the models they were made from, in a process that has torch alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import torch_ref
from tests.tiny import registered
from torch_ref.layers import StochasticConv2d
from torch_ref.serving import export

ALONE = """
import json, sys
sys.modules["torch_ref"] = None
import numpy as np, torch
for folder in sys.argv[1:]:
    run = torch.export.load(f"{folder}/model.pt2").module()
    given = {name: torch.from_numpy(array) for name, array in np.load(f"{folder}/given.npz").items()}
    one = {name: array if name == "windows" and array.ndim == 2 else array[:1] for name, array in given.items()}
    print(json.dumps([run(**given).tolist(), run(**one).tolist()]))
"""
TINY = (("tiny", "batch"), ("tiny-stem", "batch"), ("tiny-skip", "image"), ("tiny-split", "batch"))


def answers_alone(cases, base):
    """Exports models, and gives by case the model, what it was given, and what the program said to three and to one."""
    rng, asked = np.random.default_rng(0), {}
    for name, sharing in cases:
        sizes = {"low_res": 32} | ({"high_res": 128} if name != "tiny" else {})
        model = torch_ref.create_model(name, **sizes, window_sharing=sharing)
        model.top_bn.eval()  # frozen, as for fine-tuning
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.2)
        path = export(model, base / f"{name}-{sharing}" / "model.pt2", **sizes)
        assert model.training
        assert not model.top_bn.training
        given = {"low_res": np.float32(rng.integers(0, 256, (3, 3, 32, 32)))}
        if "high_res" in sizes:
            given["high_res"] = rng.integers(0, 256, (3, 3, 128, 128), dtype=np.uint8)
            layer = next(m for m in model.modules() if isinstance(m, StochasticConv2d))
            given["windows"] = layer.draw_windows((128, 128), 3).numpy().astype(np.int64)
        np.savez(path.with_name("given.npz"), **given)
        asked[name, sharing] = model, given, path.parent
    command = [sys.executable, "-c", ALONE, *(str(folder) for _, _, folder in asked.values())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=base)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = map(json.loads, done.stdout.splitlines())
    return {case: (model, given, *line) for (case, (model, given, _)), line in zip(asked.items(), lines, strict=True)}


@pytest.fixture(scope="module")
def of_tiny(tmp_path_factory):
    """Those of all tiny models, from one process."""
    with registered():
        return answers_alone(TINY, tmp_path_factory.mktemp("alone"))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*TINY, pytest.param(("stem-b0", "image"), marks=pytest.mark.slow)], ids="-".join)
def test_same_probability_with_torch_alone(case, of_tiny, tmp_path):
    answers = of_tiny if case in TINY else answers_alone([case], tmp_path)
    model, given, found, single = answers[case]
    model.eval()
    with torch.no_grad():
        expected = torch.sigmoid(model(**{n: torch.from_numpy(a) for n, a in given.items()})[:, 0])
    # A network of B0's depth ends some 1e-5 of its logit apart between kernels in float32.
    atol = 1e-6 if case in TINY else 1e-5
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    np.testing.assert_allclose(single, expected[:1], rtol=0, atol=atol)


@pytest.mark.filterwarnings("ignore:.*get_attr:UserWarning")  # torch 2.5 warns of its own tracing
def test_windows_outside_are_refused(tmp_path):
    """64 pixels and windows of 33: offsets are 0 to 31."""
    with registered():
        model = torch_ref.create_model("tiny-stem", low_res=32, high_res=64)
    run = torch.export.load(export(model, tmp_path / "model.pt2", 32, 64)).module()
    given = {"low_res": torch.zeros(1, 3, 32, 32), "high_res": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}
    filters = model.detail.stem_conv.filters
    for offset in (0, 31):
        assert run(**given, windows=torch.full((filters, 2), offset)).shape == (1,)
    for offset in (-1, 32, 500):
        windows = torch.zeros((filters, 2), dtype=torch.int64)
        windows[-1, 1] = offset
        with pytest.raises(RuntimeError, match=r"windows must lie between 0 and \[31, 31\]"):
            run(**given, windows=windows)


def test_a_temperature_and_a_threshold_are_part_of_the_program(tmp_path):
    with registered():
        model = torch_ref.create_model("tiny", low_res=32)
    given = {"low_res": torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (8, 3, 32, 32)).astype("float32"))}
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
        logits = model.eval()(**given)[:, 0]
    middle = float(logits.median()) + 1e-3 * float(logits.std())
    path = export(model, tmp_path / "model.pt2", 32, temperature=2.0, threshold_logit=middle)
    with torch.no_grad():
        answer = torch.export.load(path).module()(**given)
    assert set(answer) == {"probability", "calibrated", "decision"}
    np.testing.assert_allclose(answer["probability"], torch.sigmoid(logits), rtol=0, atol=1e-6)
    np.testing.assert_allclose(answer["calibrated"], torch.sigmoid(logits / 2), rtol=0, atol=1e-6)
    assert answer["decision"].tolist() == (logits >= middle).int().tolist()
    assert 0 < answer["decision"].sum() < 8
    for wrong, told in (
        ({"temperature": 0.0}, "temperature must be a positive number. Received: 0.0"),
        ({"threshold_logit": 0.5}, "goes with a temperature. Received: threshold_logit=0.5"),
        ({"temperature": 1.0, "threshold_logit": float("nan")}, "threshold_logit must be a number"),
    ):
        with pytest.raises(ValueError, match=told):
            export(model, tmp_path / "model.pt2", 32, **wrong)


def test_bad_arguments(tmp_path):
    model = torch_ref.create_model("b0", 32)
    with pytest.raises(ValueError, match=r"must end with \.pt2"):
        export(model, tmp_path / "model.pt", 32)
    with pytest.raises(ValueError, match="takes no high_res. Received: high_res=64"):
        export(model, tmp_path / "model.pt2", 32, 64)
    with pytest.raises(ValueError, match="needs high_res"):
        export(torch_ref.create_model("stem-b0", low_res=32, high_res=128), tmp_path / "model.pt2", 32)
    assert not list(tmp_path.iterdir())
