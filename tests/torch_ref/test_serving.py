"""Exported programs against the models they were made from, in a process that has torch alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import torch_ref
from torch_ref.layers import StochasticConv2d
from torch_ref.serving import export

ALONE = """
import json, sys
sys.modules["torch_ref"] = None
import numpy as np, torch
run = torch.export.load(sys.argv[1]).module()
given = {name: torch.from_numpy(array) for name, array in np.load(sys.argv[2]).items()}
one = {name: array if name == "windows" and array.ndim == 2 else array[:1] for name, array in given.items()}
print(json.dumps([run(**given).tolist(), run(**one).tolist()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sharing"), [("b0", "batch"), ("stem-b0", "batch"), ("stem-b0", "image"), ("split-b0", "batch")]
)
def test_same_probability_with_torch_alone(name, sharing, tmp_path, rng):
    sizes = {"low_res": 32} | ({"high_res": 128} if name != "b0" else {})
    model = torch_ref.create_model(name, **sizes, window_sharing=sharing)
    model.top_bn.eval()  # frozen, as for fine-tuning
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.2)
    path = export(model, tmp_path / "new" / "model.pt2", **sizes)
    assert model.training
    assert not model.top_bn.training
    given = {"low_res": np.float32(rng.integers(0, 256, (3, 3, 32, 32)))}
    if "high_res" in sizes:
        given["high_res"] = rng.integers(0, 256, (3, 3, 128, 128), dtype=np.uint8)
        layer = next(m for m in model.modules() if isinstance(m, StochasticConv2d))
        given["windows"] = layer.draw_windows((128, 128), 3).numpy().astype(np.int64)
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-c", ALONE, str(path), str(tmp_path / "given.npz")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found, single = json.loads(done.stdout.splitlines()[-1])
    model.eval()
    with torch.no_grad():
        expected = torch.sigmoid(model(**{n: torch.from_numpy(a) for n, a in given.items()})[:, 0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(single, expected[:1], rtol=0, atol=1e-6)


def test_bad_arguments(tmp_path):
    model = torch_ref.create_model("b0", 32)
    with pytest.raises(ValueError, match=r"must end with \.pt2"):
        export(model, tmp_path / "model.pt", 32)
    with pytest.raises(ValueError, match="takes no high_res. Received: high_res=64"):
        export(model, tmp_path / "model.pt2", 32, 64)
    with pytest.raises(ValueError, match="needs high_res"):
        export(torch_ref.create_model("stem-b0", low_res=32, high_res=128), tmp_path / "model.pt2", 32)
    assert not list(tmp_path.iterdir())
