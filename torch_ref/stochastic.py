"""The stochastic convolution: every output channel's kernel over its own random window of the image.

The forms below compute the same thing: (images, kernel, windows) -> maps, without padding, bias or activation. They
are those that the paper tried (section 4.2.3), as far as they are distinct. All take, in the letters of `torch_ref`,

    images   (B, C, H, W)            uint8 or float
    kernel   (F, C, K, L)            the type to compute in
    windows  (F, 2) or (B, F, 2)     int (top, left)

and stride (S, T) and output_size (P, Q), and return (B, F, P, Q).
"""

import functools
import importlib.util
import math
import os
import warnings

import torch
from torch.nn import functional as F

from torch_ref.windows import window_size

HAS_TRITON = importlib.util.find_spec("triton") is not None
TRITON_ENTRIES = 128  # of a kernel, C K L: more are more registers than a thread has, with what else it needs


def naive(images, kernel, windows, stride, output_size):
    """One convolution per image and filter, copied into a prepared output: the paper's StochasticConv1."""
    window = _window(kernel, stride, output_size)
    windows = windows.expand(len(images), *windows.shape[-2:])  # (B, F, 2)
    maps = torch.empty((len(images), len(kernel), *output_size), dtype=kernel.dtype, device=images.device)
    for b in range(len(images)):
        for f in range(len(kernel)):
            patch = _cut(images[b : b + 1], windows[b, f], window).to(kernel.dtype)  # (1, C, M, N)
            maps[b, f] = F.conv2d(patch, kernel[f : f + 1], stride=stride)[0, 0]  # (P, Q)
    return maps


def slices(images, kernel, windows, stride, output_size):
    """One convolution per filter over a slice of the whole batch: the paper's StochasticConv4, its fastest.

    With windows per image the slice is put together from every image's own window.
    """
    maps = []
    for f in range(len(kernel)):
        patch = _cut(images, windows[..., f, :], _window(kernel, stride, output_size))
        patch = patch.to(kernel.dtype)  # (B, C, M, N)
        maps.append(F.conv2d(patch, kernel[f : f + 1], stride=stride))  # (B, 1, P, Q)
    return torch.cat(maps, 1)


def slices_copied(images, kernel, windows, stride, output_size):
    """The same, the maps copied into a prepared output instead of concatenated."""
    window = _window(kernel, stride, output_size)
    maps = torch.empty((len(images), len(kernel), *output_size), dtype=kernel.dtype, device=images.device)
    for f in range(len(kernel)):
        patch = _cut(images, windows[..., f, :], window).to(kernel.dtype)  # (B, C, M, N)
        maps[:, f] = F.conv2d(patch, kernel[f : f + 1], stride=stride)[:, 0]  # (B, P, Q)
    return maps


def gather(images, kernel, windows, stride, output_size):
    """All windows gathered side by side as channels, then one grouped convolution: for GPUs without a compiler."""
    B, C = images.shape[:2]
    M, N = _window(kernel, stride, output_size)
    rows = windows[..., 0, None] + torch.arange(M, device=images.device)  # (F, M) or (B, F, M)
    columns = windows[..., 1, None] + torch.arange(N, device=images.device)  # (F, N) or (B, F, N)
    rows, columns = rows[..., None], columns[..., None, :]  # they meet in (F, M, N) or (B, F, M, N)
    if windows.ndim == 2:
        patches = images[:, :, rows, columns].transpose(1, 2)  # (B, F, C, M, N)
    else:
        image = torch.arange(B, device=images.device)[:, None, None, None]
        patches = images.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 1, 4, 2, 3)  # (B, F, C, M, N)
    patches = patches.reshape(B, len(kernel) * C, M, N).to(kernel.dtype)
    # A grouped convolution: the kernel has C channels, and every filter sees its own of the F * C.
    return F.conv2d(patches, kernel, stride=stride, groups=len(kernel))


def indexed(images, kernel, windows, stride, output_size):
    """Every kernel entry ("tap") multiplies the pixels that it meets, read by their index: windows are never gathered.

    For torch.compile, which fuses the reads into one loop, on a GPU. Without it every tap copies as many pixels as the
    output has.
    """
    (P, Q), device = output_size, images.device
    # Half precision is summed in float32, as convolutions do it inside.
    taps = kernel if kernel.dtype == torch.float64 else kernel.float()
    rows = windows[..., 0, None] + torch.arange(P, device=device) * stride[0]  # (F, P) or (B, F, P)
    columns = windows[..., 1, None] + torch.arange(Q, device=device) * stride[1]  # (F, Q) or (B, F, Q)
    rows, columns = rows[..., None], columns[..., None, :]  # they meet in (F, P, Q) or (B, F, P, Q)
    image = torch.arange(len(images), device=device)[:, None, None, None]
    total = 0
    for c in range(kernel.shape[1]):
        for i in range(kernel.shape[2]):
            for j in range(kernel.shape[3]):
                seen = images[image, c, rows + i, columns + j]  # (B, F, P, Q)
                total = total + taps[:, c, i, j, None, None] * seen.to(taps.dtype)
    return total.to(kernel.dtype)


def triton(images, kernel, windows, stride, output_size):
    """Kernels in Triton that read pixels where they lie, see `torch_ref.triton_kernels`: for CUDA GPUs, the fastest.

    No gradient reaches the image, and the kernel has no second one; `gather` has both. Maps of windows that reach
    beyond the image are NaN. Every entry of the kernel is a register: for kernels of up to some hundred entries.
    """
    if images.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            'implementation="triton" has no gradient for the image. Received: images with requires_grad=True'
        )
    if images.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f'implementation="triton" needs images on a CUDA GPU. Received: {images.device}')
    if not HAS_TRITON:
        raise ImportError('implementation="triton" needs the package triton, which comes with torch for CUDA on Linux')
    from torch_ref.triton_kernels import convolve

    return convolve(images, kernel, windows, stride, output_size)


IMPLEMENTATIONS = {
    "naive": naive,
    "slices": slices,
    "slices_copied": slices_copied,
    "gather": gather,
    "indexed": indexed,
    "triton": triton,
}


def choose(images, kernel, image_gradient: bool) -> str:
    """The fastest form for these on their device, by benchmarks/stochastic_conv.py, as far as it was measured there.

    On a GPU it measured kernels of 3x3x3 without a gradient for the image.
    """
    if images.device.type != "cuda":
        return "slices"
    if _is_exported():
        return "indexed"  # of torch's own operators alone
    small = math.prod(kernel.shape[1:]) <= TRITON_ENTRIES
    if small and not image_gradient and HAS_TRITON and _triton_runs(images.device):
        return "triton"
    return "indexed" if torch.compiler.is_compiling() else "gather"


def _is_exported() -> bool:
    """Whether torch.export is at work; of versions before 2.7, which can not say, whether they trace without Dynamo."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def _triton_runs(device) -> bool:
    return _try_triton(device)


# torch.compile calls these two as they are, and takes what they say for a constant: `_triton_runs` can not be traced,
# and to what `_is_exported` asks, some versions say yes whenever they trace. This is all that
# torch.compiler.assume_constant_result does, once it has imported the whole compiler, which takes seconds.
_is_exported._dynamo_marked_constant = _triton_runs._dynamo_marked_constant = True


@functools.cache
def _try_triton(device) -> bool:
    """Whether the kernels in Triton compute on this device what `gather` does; if not, a warning says why.

    They need Triton 3.3 or newer, a GPU that it knows, and a C compiler, which it calls.
    """
    images = torch.arange(2 * 3 * 12 * 13, device=device).remainder(251).to(torch.uint8).reshape(2, 12, 13, 3)
    images, windows = images.permute(0, 3, 1, 2), torch.tensor([[0, 1], [3, 4]], device=device)
    weights = torch.linspace(-1, 1, 54, device=device).reshape(2, 3, 3, 3)
    results = []
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            # As it trains, against what no TF32 rounds.
            for form, dtype in ((triton, torch.float32), (gather, torch.float64)):
                kernel = weights.to(dtype, copy=True).requires_grad_()
                maps = form(images.clone(), kernel, windows.clone(), (2, 2), (4, 4))
                (gradient,) = torch.autograd.grad((maps**2).sum(), kernel)
                results.append((maps.detach().double(), gradient.double()))
        if all(torch.linalg.norm(a - b) <= 1e-5 * torch.linalg.norm(b) for a, b in zip(*results, strict=True)):
            return True
        reason = "they compute other numbers than the form 'gather'"
    except Exception as error:  # of a compiler, a driver, a version
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(
        f"The stochastic convolution's kernels in Triton do not run on {device}: its form 'gather' is used, which "
        f"takes some 30 times as long. {reason}",
        stacklevel=3,
    )
    return False


def _window(kernel, stride, output_size) -> tuple[int, int]:
    """(M, N) for a kernel (F, C, K, L)."""
    return window_size(output_size, kernel.shape[2:], stride)


def _cut(images, offsets, window):
    """The windows of one filter, (B, C, M, N): one (top, left) for all images, or one for each."""
    if offsets.ndim == 2:
        return torch.stack([_cut(image, offset, window) for image, offset in zip(images, offsets, strict=True)])
    top, left = offsets.tolist()
    return images[..., top : top + window[0], left : left + window[1]]
