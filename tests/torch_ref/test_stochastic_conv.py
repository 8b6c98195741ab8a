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
    not RUNS_TRITON,
    reason="needs triton, and a GPU that CUDA_VISIBLE_DEVICES=0 lets tests see, or TRITON_INTERPRET=1",
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


@pytest.mark.slow
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
    with pytest.raises(ValueError, match=r"windows of 2 images were given for 1"):
        StochasticConv2d(3, 4, 3, 5)(torch.zeros(1, 3, 9, 9), windows=torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match=r"with 3 channels. Received: \(1, 4, 9, 9\)"):
        StochasticConv2d(3, 4, 3, 5)(torch.zeros(1, 4, 9, 9))


@pytest.mark.parametrize("form", ON_ANY_DEVICE)
def test_a_window_beyond_the_image(form):
    layer = StochasticConv2d(1, 2, 3, 4, implementation=form)
    images = torch.zeros(2, 1, 20, 30)
    layer(images, windows=torch.tensor([[14, 24], [0, 0]]))
    for bad in ([15, 24], [14, 25], [0, -1]):
        message = rf"6x6 pixels in an image of 20x30 .*\(14, 24\). Received: 1 of 2 elsewhere.*\({bad[0]}, {bad[1]}\)"
        with pytest.raises(ValueError, match=message):
            layer(images, windows=torch.tensor([bad, [0, 0]]))


def images_of(layout, shape, rng):
    """uint8 or float images (B, C, H, W) in a layout."""
    B, C, H, W = shape
    pixels = torch.from_numpy(rng.integers(0, 256, (B, H + 1, W + 2, C)).astype("uint8")).to(DEVICE)
    last = pixels[:, :H, :W].contiguous().permute(0, 3, 1, 2)
    return {
        "channels last": last,
        "cut out": pixels[:, 1:, 1 : W + 1].permute(0, 3, 1, 2),  # its first byte begins no word
        "channels first": last.contiguous(),
        "one for all": last[:1].expand(B, -1, -1, -1),
        "floats": last.float() / 255,
    }[layout]


@needs_triton
@pytest.mark.parametrize(("channels", "columns"), [(3, 3), (3, 5), (1, 4), (3, 2), (1, 3), (1, 1)])  # 1, 3, 0, 2, 3, 1
@pytest.mark.parametrize("layout", ["channels last", "cut out", "channels first", "one for all", "floats"])
def test_triton_in_every_layout(layout, channels, columns, rng):
    """Read byte by byte or four at once, whatever of the last word is left; with maps of many blocks."""
    size, (P, Q) = (45, 47), (21, 19)  # 399 positions: two blocks of maps, two turns of the gradient's loop and a rest
    images = images_of(layout, (2, channels, *size), rng)
    window = window_size((P, Q), (3, columns), (2, 2))
    windows = torch.from_numpy(rng.integers(0, np.subtract(size, window) + 1, (2, 3, 2))).to(DEVICE)
    windows[0, 0] = torch.tensor(np.subtract(size, window))  # the last pixel of the image is seen
    weights, upstream = rng.normal(size=(3, channels, 3, columns)), rng.normal(size=(2, 3, P, Q))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 1e-2)):
        kernel = torch.from_numpy(weights).to(DEVICE, dtype).requires_grad_()
        exact = kernel.detach().double().requires_grad_()
        results = []
        for form, seen, w in ((stochastic.triton, images, kernel), (stochastic.indexed, images.double(), exact)):
            maps = form(seen, w, windows, (2, 2), (P, Q))
            (gradient,) = torch.autograd.grad((maps * torch.from_numpy(upstream).to(maps)).sum(), w)
            results.append((maps.detach().double(), gradient.double()))
        for actual, expected in zip(*results, strict=True):
            assert torch.linalg.norm(actual - expected) < tolerance * torch.linalg.norm(expected)


@needs_triton
def test_triton_in_the_layer(rng):
    """Rescaled, normalised, with a bias, without images, and chosen after it was tried on the device."""
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, 20, 20)).astype("uint8")).to(DEVICE)
    layers = []
    for form in ("triton", "gather"):
        torch.manual_seed(0)
        layers.append(StochasticConv2d(3, 4, 3, 5, 2, implementation=form, rescale=1 / 255, normalize=True).to(DEVICE))
        layers[-1].variance.fill_(0.3)
    windows = layers[0].draw_windows((20, 20), device=DEVICE)
    torch.testing.assert_close(layers[0](images, windows=windows), layers[1](images, windows=windows))
    assert layers[0](images[:0]).shape == (0, 4, 5, 5)
    assert stochastic._triton_runs(torch.device(DEVICE))


@needs_triton
def test_triton_in_memory_past_32_bits(monkeypatch, rng):
    """Indices of 64 bits give what those of 32 give."""
    from torch_ref import triton_kernels

    images = images_of("channels last", (2, 3, 20, 21), rng)
    kernel = torch.from_numpy(rng.normal(size=(2, 3, 3, 3))).to(DEVICE).requires_grad_()
    windows = torch.tensor([[1, 2], [9, 8]], device=DEVICE)
    where = triton_kernels._where
    results = []
    for large in (False, True):
        monkeypatch.setattr(triton_kernels, "_where", lambda *args, large=large: (where(*args)[0], (True, large)))
        maps = stochastic.triton(images, kernel, windows, (2, 2), (4, 4))
        results.append((maps, *torch.autograd.grad(maps.square().sum(), kernel)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@needs_triton
def test_triton_refuses_shapes_that_do_not_belong_together():
    images, kernel = torch.zeros((3, 4, 9, 9), device=DEVICE), torch.zeros((2, 3, 3, 3), device=DEVICE)
    windows = torch.zeros((2, 2), dtype=torch.int64, device=DEVICE)
    for given in (
        (images, kernel, windows, (4, 4)),
        (images[:, :3], kernel, windows.expand(1, 2, 2), (4, 4)),
        (images[:, :3], kernel, windows, (8, 4)),
    ):
        with pytest.raises(ValueError, match="need images"):
            stochastic.triton(*given[:3], (1, 1), given[3])


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
    images = torch.zeros((1, 3, 20, 20), requires_grad=True)
    with pytest.raises(ValueError, match="has no gradient for the image. Received: images with requires_grad"):
        stochastic.triton(images, torch.zeros((4, 3, 3, 3)), torch.zeros((4, 2)), (1, 1), (5, 5))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    layer = StochasticConv2d(3, 4, 3, 5, implementation="triton")
    with pytest.raises(ValueError, match="needs images on a CUDA GPU. Received: cpu"):
        layer(torch.zeros(1, 3, 20, 20))


def test_auto_by_device(monkeypatch):
    class OnGPU:
        device = torch.device("cuda")

    kernel, large = torch.zeros((2, 3, 3, 3)), torch.zeros((2, 3, 11, 11))
    monkeypatch.setattr(stochastic, "HAS_TRITON", True)
    monkeypatch.setattr(stochastic, "_triton_runs", lambda device: True)
    assert stochastic.choose(OnGPU, kernel, False) == "triton"
    assert stochastic.choose(OnGPU, kernel, True) == stochastic.choose(OnGPU, large, False) == "gather"
    monkeypatch.setattr(stochastic, "_triton_runs", lambda device: False)
    assert stochastic.choose(OnGPU, kernel, False) == "gather"
    assert stochastic.choose(torch.zeros(1), kernel, False) == "slices"


def test_auto_while_something_traces(monkeypatch):
    """Under torch.compile the device is tried for once, not traced; what is exported has operators of torch's alone."""

    class OnGPU:
        device = torch.device("cuda")

    tried, kernel = [], torch.zeros((2, 3, 3, 3))
    monkeypatch.setattr(stochastic, "HAS_TRITON", True)
    monkeypatch.setattr(stochastic, "_try_triton", lambda device: tried.append(device) or len(tried) == 1)

    class Model(torch.nn.Module):
        def forward(self, x):
            found = [stochastic.choose(OnGPU, kernel, gradient) for gradient in (False, True)]
            found.append(stochastic.choose(OnGPU, torch.zeros((2, 3, 11, 11)), False))
            return x + torch.tensor([("gather", "indexed", "triton").index(name) for name in found])

    for expected in (2, 1):  # where the kernels run, and where they do not
        torch._dynamo.reset()
        chosen = torch.compile(Model(), backend="eager", fullgraph=True)(torch.zeros(()))
        assert chosen.tolist() == [expected, 1, 1]
    assert tried == [torch.device("cuda")] * 2
    for strict in (False, True) if hasattr(torch.compiler, "is_exporting") else (False,):
        exported = torch.export.export(Model(), (torch.zeros(()),), strict=strict)
        assert exported.module()(torch.zeros(())).tolist() == [1, 1, 1]
    assert len(tried) == 2


@needs_triton
def test_triton_in_compiled_programs(rng):
    """The kernels are operators of torch, with shapes, layouts and gradients that its compiler can rely on."""
    from torch_ref import triton_kernels

    images = torch.from_numpy(rng.integers(0, 256, (7, 3, 20, 21)).astype("uint8")).to(DEVICE)
    more = images.to(memory_format=torch.channels_last)
    images = images[:6].to(memory_format=torch.channels_last)
    layer = StochasticConv2d(3, 4, 3, 5, 2, implementation="triton", rescale=1 / 255).to(DEVICE)
    windows, found = layer.draw_windows((20, 21), device=DEVICE), []
    torch._dynamo.reset()
    if DEVICE == "cuda":  # tried while the compiler traces
        layer.implementation = "auto"
        stochastic._try_triton.cache_clear()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for run in (compiled, layer):
        layer.zero_grad()
        maps = run(images, windows=windows)
        maps.square().sum().backward()
        found.append((maps.detach(), layer.weight.grad.clone()))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    with torch._dynamo.config.patch(error_on_recompile=True):  # one program for any number of images
        assert torch.equal(compiled(more, windows=windows)[:6], found[0][0])
    torch.library.opcheck(triton_kernels._convolve, (images, layer.weight, windows, (2, 2), (5, 5)))
    torch.library.opcheck(triton_kernels._gradient, (images, found[0][0], windows, (3, 3), (2, 2)))


def test_triton_that_does_not_run_is_told(monkeypatch):
    """Of a version, a compiler or a driver, or because it computes something else."""

    def broken(*args):
        raise RuntimeError("Failed to find C compiler")

    for form, reason in (
        (broken, "Failed to find C compiler"),
        (lambda *args: stochastic.gather(*args) * 1.01, "other"),
    ):
        monkeypatch.setattr(stochastic, "triton", form)
        stochastic._try_triton.cache_clear()
        with pytest.warns(UserWarning, match=f"'gather' is used.*{reason}"):
            assert not stochastic._triton_runs(torch.device("cpu"))
    stochastic._try_triton.cache_clear()


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
