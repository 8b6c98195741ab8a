"""The stochastic layer in every form against a convolution by hand."""

import os

import numpy as np
import pytest
import torch

from tests.keras_stoch.test_stochastic_conv import CASES, by_hand
from torch_ref import stochastic
from torch_ref.layers import StochasticConv2d
from torch_ref.windows import draw_windows, window_size

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RUNS_TRITON = stochastic.HAS_TRITON and (DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")
needs_triton = pytest.mark.skipif(
    not RUNS_TRITON, reason="needs a CUDA GPU and triton; with TRITON_INTERPRET=1 triton alone"
)
ON_ANY_DEVICE = [form for form in stochastic.IMPLEMENTATIONS if form != "triton"]
FORMS = [*ON_ANY_DEVICE, pytest.param("triton", marks=needs_triton)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sharing", ["batch", "image"])
def test_every_form_is_the_definition(case, form, sharing, rng):
    size, channels, kernel_size, strides, output, filters = case
    images = rng.integers(0, 256, (3, *size, channels)).astype("uint8")
    kernel = rng.normal(size=(*kernel_size, channels, filters))
    window = window_size(output, kernel_size, strides)
    windows = rng.integers(0, np.subtract(size, window) + 1, (filters, 2) if sharing == "batch" else (3, filters, 2))
    expected = by_hand(images.astype(float), kernel, windows, strides, output)
    actual = stochastic.IMPLEMENTATIONS[form](
        torch.from_numpy(images).permute(0, 3, 1, 2).to(DEVICE),
        torch.from_numpy(kernel).permute(3, 2, 0, 1).to(DEVICE),
        torch.from_numpy(windows).to(DEVICE),
        strides,
        output,
    )
    np.testing.assert_allclose(actual.permute(0, 2, 3, 1).cpu(), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("form", ON_ANY_DEVICE)
def test_gradients(form, rng):
    layer = StochasticConv2d(2, 3, 3, 3, 2, implementation=form, image_gradient=True, rescale=0.5, normalize=True)
    layer = layer.double()
    windows = torch.from_numpy(rng.integers(0, 3, (2, 3, 2)))
    images = torch.from_numpy(rng.normal(size=(2, 2, 9, 10))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w, b: _call(layer, x, w, b, windows), (images, layer.weight, layer.bias))


def _call(layer, images, weight, bias, windows):
    return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (images, windows))


def test_draws_reproduce_from_a_generator_and_reach_both_ends():
    draws = [draw_windows((12, 15), (10, 10), 400, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].amin(0).tolist() == [0, 0]
    assert draws[0].amax(0).tolist() == [2, 5]
    layer = StochasticConv2d(1, 4, 3, 5, window_sharing="image", generator=torch.Generator().manual_seed(0)).eval()
    x = torch.rand(2, 1, 30, 30)
    assert not torch.equal(layer(x), layer(x))


def test_bad_arguments():
    with pytest.raises(ValueError, match='must be "batch" or "image"'):
        StochasticConv2d(3, 4, 3, 5, window_sharing="pixel")
    with pytest.raises(ValueError, match="implementation must be one of auto, naive"):
        StochasticConv2d(3, 4, 3, 5, implementation="magic")
    with pytest.raises(ValueError, match="at least 7x7 pixels.*Received: 6x9"):
        StochasticConv2d(3, 4, 3, 5)(torch.zeros(1, 3, 6, 9))
    with pytest.raises(ValueError, match=r"Received: \(3, 2\)"):
        StochasticConv2d(3, 4, 3, 5)(torch.zeros(1, 3, 9, 9), windows=torch.zeros(3, 2))


@pytest.mark.parametrize("form", ON_ANY_DEVICE)
def test_a_window_beyond_the_image(form):
    layer = StochasticConv2d(1, 2, 3, 4, implementation=form)
    images = torch.zeros(2, 1, 20, 30)
    layer(images, windows=torch.tensor([[14, 24], [0, 0]]))
    for bad in ([15, 24], [14, 25], [0, -1]):
        message = rf"6x6 pixels in an image of 20x30 .*\(14, 24\). Received: 1 of 2 elsewhere.*\({bad[0]}, {bad[1]}\)"
        with pytest.raises(ValueError, match=message):
            layer(images, windows=torch.tensor([bad, [0, 0]]))


@needs_triton
@pytest.mark.parametrize("sharing", ["batch", "image"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", ["bytes, channels last", "bytes", "floats, channels last"])
def test_triton_in_every_layout(layout, channels, sharing, rng):
    """Read byte by byte or four at once, of images whose first byte lies anywhere in a word; and with a gradient."""
    images = torch.from_numpy(rng.integers(0, 256, (3, channels, 35, 37)).astype("uint8")).to(DEVICE)
    if layout.startswith("floats"):
        images = images.float() / 255
    if layout.endswith("last"):
        images = images.contiguous(memory_format=torch.channels_last)
    windows = torch.from_numpy(rng.integers(0, (35 - 23 + 1, 37 - 28 + 1), (3, 5, 2))).to(DEVICE)
    windows = windows if sharing == "image" else windows[0]
    weights, upstream = rng.normal(size=(5, channels, 3, 4)), rng.normal(size=(3, 5, 11, 13))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        kernel = torch.from_numpy(weights).to(DEVICE, dtype).requires_grad_()
        exact = torch.from_numpy(weights).to(DEVICE).requires_grad_()
        results = []
        for form, seen, w in ((stochastic.triton, images, kernel), (stochastic.indexed, images.double(), exact)):
            maps = form(seen, w, windows, (2, 2), (11, 13))
            (gradient,) = torch.autograd.grad((maps * torch.from_numpy(upstream).to(maps)).sum(), w)
            results.append((maps.detach().double(), gradient.double()))
        for actual, expected in zip(*results, strict=True):
            assert torch.linalg.norm(actual - expected) < tolerance * torch.linalg.norm(expected)


@needs_triton
def test_triton_reads_nothing_beyond_the_image():
    """Windows that a compiled program could not check: no memory of others is read, and the maps say so."""
    images, kernel = torch.ones((1, 1, 8, 8), device=DEVICE), torch.ones((2, 1, 3, 3), device=DEVICE)
    for bad in ([3, 0], [0, 3], [-1, 0], [0, 10**6]):
        maps = stochastic.triton(images, kernel, torch.tensor([bad, [2, 2]], device=DEVICE), (1, 1), (4, 4))
        assert maps[:, 0].isnan().all()
        assert (maps[:, 1] == 9).all()


def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    with pytest.raises(ValueError, match="has no gradient for the image"):
        StochasticConv2d(3, 4, 3, 5, implementation="triton", image_gradient=True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    layer = StochasticConv2d(3, 4, 3, 5, implementation="triton")
    with pytest.raises(ValueError, match="needs images on a CUDA GPU. Received: cpu"):
        layer(torch.zeros(1, 3, 20, 20))


def test_auto_by_device(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(stochastic, "HAS_TRITON", True)
    assert [stochastic.choose(cuda, gradient) for gradient in (False, True)] == ["triton", "gather"]
    monkeypatch.setattr(stochastic, "HAS_TRITON", False)
    assert stochastic.choose(cuda, False) == "gather"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert stochastic.choose(cuda, False) == "indexed"
    assert stochastic.choose(torch.device("cpu"), False) == "slices"


@pytest.mark.slow  # a C++ compiler runs
def test_indexed_reads_under_torch_compile(rng):
    """The form for GPUs, compiled: equal in values and in the kernel's gradient, once for all draws."""
    images = torch.from_numpy(rng.integers(0, 256, (2, 20, 21, 2)).astype("uint8")).permute(0, 3, 1, 2)
    kernel = torch.from_numpy(rng.normal(size=(3, 2, 2, 1))).requires_grad_()
    upstream = torch.from_numpy(rng.normal(size=(2, 3, 5, 6)))
    torch._dynamo.reset()
    compiled = torch.compile(stochastic.indexed, fullgraph=True)
    spans = np.subtract((20, 21), window_size((5, 6), (2, 1), (2, 2))) + 1
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            windows = torch.from_numpy(rng.integers(0, spans, (2, 3, 2)))
            results = []
            for form in (stochastic.slices, compiled):
                maps = form(images, kernel, windows, (2, 2), (5, 6))
                results.append((maps.detach(), *torch.autograd.grad((maps * upstream).sum(), kernel)))
            for expected, actual in zip(*results, strict=True):
                np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-10)
