"""The stochastic layer in every form against a convolution by hand."""

import numpy as np
import pytest
import torch

from tests.keras_stoch.test_stochastic_conv import CASES, by_hand
from torch_ref import stochastic
from torch_ref.layers import StochasticConv2d
from torch_ref.windows import draw_windows, window_size


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", stochastic.IMPLEMENTATIONS)
@pytest.mark.parametrize("sharing", ["batch", "image"])
def test_every_form_is_the_definition(case, form, sharing, rng):
    size, channels, kernel_size, strides, output, filters = case
    images = rng.integers(0, 256, (3, *size, channels)).astype("uint8")
    kernel = rng.normal(size=(*kernel_size, channels, filters))
    window = window_size(output, kernel_size, strides)
    windows = rng.integers(0, np.subtract(size, window) + 1, (filters, 2) if sharing == "batch" else (3, filters, 2))
    expected = by_hand(images.astype(float), kernel, windows, strides, output)
    actual = stochastic.IMPLEMENTATIONS[form](
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(kernel).permute(3, 2, 0, 1),
        torch.from_numpy(windows),
        strides,
        output,
    )
    np.testing.assert_allclose(actual.permute(0, 2, 3, 1), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("form", stochastic.IMPLEMENTATIONS)
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


@pytest.mark.parametrize("form", stochastic.IMPLEMENTATIONS)
def test_a_window_beyond_the_image(form):
    layer = StochasticConv2d(1, 2, 3, 4, implementation=form)
    images = torch.zeros(2, 1, 20, 30)
    layer(images, windows=torch.tensor([[14, 24], [0, 0]]))
    for bad in ([15, 24], [14, 25], [0, -1]):
        message = rf"6x6 pixels in an image of 20x30 .*\(14, 24\). Received: 1 of 2 elsewhere.*\({bad[0]}, {bad[1]}\)"
        with pytest.raises(ValueError, match=message):
            layer(images, windows=torch.tensor([bad, [0, 0]]))


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
