"""The stochastic convolution for GPUs, as two kernels in Triton: pixels are read where they lie, as the bytes they are.

The windows of all filters, as float32, hold six times the bytes of the image. They do not exist here: a program takes
a block of positions of one map, and every entry of the kernel ("tap") multiplies the pixel under it. What binds is how
many loads a multiprocessor can do, not the bytes: neighbouring positions of a map lie apart by the stride, so that a
load of one byte by each of 32 threads takes as long as a load of four. Where the bytes under a row of the kernel are
neighbours (uint8, channels last) they are loaded four at a time, and shifted into place.
"""

# ruff: noqa: RUF005, SIM300 (the language of Triton kernels has no starred tuples)

from typing import Sequence  # noqa: UP035 (torch 2.5 knows no other in the types of an operator)

import torch
import triton
import triton.language as tl
from torch import Tensor

from torch_ref.windows import window_size

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):  # 3.1 reads other pixels, and says nothing
    raise ImportError(
        f"The stochastic convolution's kernels need triton 3.3 or newer, which comes with torch 2.7. Received: "
        f'{triton.__version__}. Use implementation="gather"'
    )

# Positions of a map that a program takes at once, and its warps; programs that share a map. The fastest on an H100.
BLOCK, WARPS = 256, 2
GRADIENT_BLOCK, GRADIENT_WARPS, PARTS = 128, 4, 2


@triton.jit
def _number(byte, SUM: tl.constexpr):
    if SUM == tl.float32:
        # 2^23 + byte, put together from its bits: a tenth faster than a conversion, of which a GPU does few at a time.
        return (byte | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0
    return byte.to(SUM)


@triton.jit
def _row(
    images, at, inside, stride_W, stride_C, N: tl.constexpr, C: tl.constexpr, WORDS: tl.constexpr, SUM: tl.constexpr
):
    """What the N = L C entries of one row of the kernel see, pixel after pixel: a tuple of blocks, `at` the first."""
    values = ()
    if WORDS:
        words = images.to(tl.pointer_type(tl.uint32), bitcast=True) + (at >> 2)
        shift = ((at & 3) * 8).to(tl.uint64)
        low = tl.load(words, mask=inside, other=0)
        for u in tl.static_range((N + 3) // 4):
            high = low
            if N - 4 * u > 1:
                # Where all that is left lies in the word that is there, the next may lie beyond the image.
                high = tl.load(words + (u + 1), mask=inside & ((at & 3) + (N - 4 * u) > 4), other=0)
            four = (((high.to(tl.uint64) << 32) | low.to(tl.uint64)) >> shift).to(tl.uint32)
            for n in tl.static_range(4):
                if 4 * u + n < N:
                    values = values + (_number((four >> (8 * n)) & 255, SUM),)
            low = high
    else:
        for n in tl.static_range(N):
            seen = tl.load(images + at + (n // C) * stride_W + (n % C) * stride_C, mask=inside, other=0)
            values = values + (seen.to(SUM),)
    return values


@triton.jit
def _window(
    images, windows, b, f, stride_B, stride_H, stride_W, windows_stride_B, last_top, last_left, LARGE: tl.constexpr
):
    """(images from a word's start on, index of the window's first pixel from there, whether it lies in the image)."""
    top = tl.load(windows + b * windows_stride_B + 2 * f)
    left = tl.load(windows + b * windows_stride_B + 2 * f + 1)
    valid = (top >= 0) & (top <= last_top) & (left >= 0) & (left <= last_left)
    top, left = tl.maximum(tl.minimum(top, last_top), 0), tl.maximum(tl.minimum(left, last_left), 0)
    if LARGE:
        top, left = top.to(tl.int64), left.to(tl.int64)
    # The images of a batch may lie further apart than int32 reaches, those of one if they are LARGE.
    before = b.to(tl.int64) * stride_B
    rest = (before % 4).to(tl.int32)
    return images + (before - rest), rest + top * stride_H + left * stride_W, valid


@triton.jit
def _maps(
    images, kernel, windows, maps, stride_B, stride_H, stride_W, stride_C, windows_stride_B, last_top, last_left, P,
    Q: tl.constexpr, K: tl.constexpr, L: tl.constexpr, C: tl.constexpr, S: tl.constexpr, T: tl.constexpr,
    WORDS: tl.constexpr, LARGE: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes a block of maps (B, F, P, Q); kernel (F, C, K, L) and windows (.., F, 2) are contiguous."""
    f, b, F = tl.program_id(1), tl.program_id(2), tl.num_programs(1)
    image, corner, valid = _window(
        images, windows, b, f, stride_B, stride_H, stride_W, windows_stride_B, last_top, last_left, LARGE
    )
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < P * Q
    place = at.to(tl.int64) if LARGE else at
    first = corner + (place // Q) * (S * stride_H) + (place % Q) * (T * stride_W)
    total = tl.zeros((BLOCK,), SUM)
    for i in tl.static_range(K):
        row = _row(image, first + i * stride_H, inside, stride_W, stride_C, L * C, C, WORDS, SUM)
        for n in tl.static_range(L * C):
            tap = tl.load(kernel + ((f * C + n % C) * K + i) * L + n // C).to(SUM)
            total += tap * row[n]
    total = tl.where(valid, total, float("nan"))  # what could not be checked, in a compiled program, shall not pass
    tl.store(maps + (b.to(tl.int64) * F + f) * (P * Q) + at, total.to(maps.dtype.element_ty), mask=inside)


@triton.jit
def _kernel_gradient(
    images, upstream, windows, sums, stride_B, stride_H, stride_W, stride_C, windows_stride_B, last_top, last_left,
    positions, positions_of_part,
    Q: tl.constexpr, K: tl.constexpr, L: tl.constexpr, C: tl.constexpr, S: tl.constexpr, T: tl.constexpr,
    WORDS: tl.constexpr, LARGE: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes sums (B, parts, F, K L C): what a part of one map's positions adds to its kernel's gradient."""
    part, f, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    parts, F = tl.num_programs(0), tl.num_programs(1)
    image, corner, valid = _window(
        images, windows, b, f, stride_B, stride_H, stride_W, windows_stride_B, last_top, last_left, LARGE
    )
    map_ = upstream + (b.to(tl.int64) * F + f) * positions
    total = ()
    for _ in tl.static_range(K * L * C):
        total = total + (tl.zeros((BLOCK,), SUM),)
    begin = part * positions_of_part
    end = tl.minimum(begin + positions_of_part, positions)
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < end
        place = at.to(tl.int64) if LARGE else at
        weight = tl.load(map_ + at, mask=inside, other=0).to(SUM)
        first = corner + (place // Q) * (S * stride_H) + (place % Q) * (T * stride_W)
        more = ()
        for i in tl.static_range(K):
            row = _row(image, first + i * stride_H, inside, stride_W, stride_C, L * C, C, WORDS, SUM)
            for n in tl.static_range(L * C):
                more = more + (total[i * L * C + n] + weight * row[n],)
        total = more
    out = sums + ((b * parts + part) * F + f) * (K * L * C)
    for n in tl.static_range(K * L * C):
        tl.store(out + n, tl.where(valid, tl.sum(total[n]), float("nan")))


def _sum_type(dtype):
    """Half precision is summed in float32, as convolutions do it inside."""
    return (tl.float64, torch.float64) if dtype == torch.float64 else (tl.float32, torch.float32)


def _where(images, windows, kernel_size, stride, output_size):
    """The arguments by which both kernels find a pixel, and (whether they can read four bytes at once, LARGE)."""
    (K, L), (S, T), (P, Q) = kernel_size, stride, output_size
    B, C, H, W = images.stride()
    last = images.shape[2] - (P - 1) * S - K, images.shape[3] - (Q - 1) * T - L
    neighbours = images.dtype == torch.uint8 and C == 1 and images.shape[1] == W
    # A word may hold up to three bytes beyond the last pixel, which are never used; memory is given out in whole words.
    words = neighbours and images.data_ptr() % 4 == 0
    large = sum((n - 1) * abs(stride) for n, stride in zip(images.shape[1:], (C, H, W), strict=True)) > 2**31 - 8
    return (B, H, W, C, windows.stride(0) if windows.ndim == 3 else 0, *last), (words, large)


# As operators of torch, so that torch.compile calls them as they are, without a break in its graph.
@torch.library.custom_op("torch_ref::stochastic_conv", mutates_args=())
def _convolve(
    images: Tensor, kernel: Tensor, windows: Tensor, stride: Sequence[int], output_size: Sequence[int]
) -> Tensor:
    (B, C), (F, _, K, L), (P, Q) = images.shape[:2], kernel.shape, output_size
    windows = windows.to(torch.int32).contiguous()
    maps = torch.empty((B, F, P, Q), dtype=kernel.dtype, device=images.device)
    where, how = _where(images, windows, (K, L), stride, output_size)
    with torch.cuda.device_of(images):
        _maps[triton.cdiv(P * Q, BLOCK), F, B](
            images, kernel.contiguous(), windows, maps, *where, P, Q, K, L, C, *stride, *how,
            _sum_type(kernel.dtype)[0], BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return maps


@torch.library.custom_op("torch_ref::stochastic_conv_kernel_gradient", mutates_args=())
def _gradient(
    images: Tensor, upstream: Tensor, windows: Tensor, kernel_size: Sequence[int], stride: Sequence[int]
) -> Tensor:
    (B, C), F, (P, Q), (K, L) = images.shape[:2], upstream.shape[1], upstream.shape[2:], kernel_size
    windows = windows.to(torch.int32).contiguous()
    in_triton, in_torch = _sum_type(upstream.dtype)
    sums = torch.empty((B, PARTS, F, K * L * C), dtype=in_torch, device=images.device)
    part = triton.cdiv(triton.cdiv(P * Q, PARTS), GRADIENT_BLOCK) * GRADIENT_BLOCK
    where, how = _where(images, windows, (K, L), stride, (P, Q))
    with torch.cuda.device_of(images):
        _kernel_gradient[PARTS, F, B](
            images, upstream.contiguous(), windows, sums, *where, P * Q, part, Q, K, L, C, *stride, *how,
            in_triton, GRADIENT_BLOCK, num_warps=GRADIENT_WARPS,
        )  # fmt: skip
    gradient = sums.sum((0, 1)).reshape(F, K, L, C).permute(0, 3, 1, 2)
    return gradient.to(upstream.dtype).contiguous()


@_convolve.register_fake
def _(images, kernel, windows, stride, output_size):
    return kernel.new_empty((images.shape[0], kernel.shape[0], *output_size))


@_gradient.register_fake
def _(images, upstream, windows, kernel_size, stride):
    return upstream.new_empty((upstream.shape[1], images.shape[1], *kernel_size))


def _keep(ctx, inputs, output):
    images, kernel, windows, stride, _ = inputs
    ctx.save_for_backward(images, windows)
    ctx.geometry = kernel.shape[2:], stride


def _backward(ctx, upstream):
    images, windows = ctx.saved_tensors
    return None, _gradient(images, upstream, windows, *ctx.geometry), None, None, None


_convolve.register_autograd(_backward, setup_context=_keep)


def convolve(images, kernel, windows, stride, output_size):
    """Maps (B, F, P, Q) of images (B, C, H, W) in any layout, kernel (F, C, K, L), windows (F, 2) or (B, F, 2).

    No gradient reaches the images, and the kernel has no second one. Maps of windows that reach beyond their image are
    NaN.

    Raises:
        ValueError: if shapes do not belong together: what a kernel is given it reads.
    """
    B, C, H, W = images.shape
    M, N = window_size(output_size, kernel.shape[2:], stride)
    if C != kernel.shape[1] or H < M or W < N or (windows.ndim == 3 and len(windows) != B):
        raise ValueError(
            f"A kernel (F, C, K, L) of {tuple(kernel.shape)} and windows of {tuple(windows.shape)} need images "
            f"(B, C, H, W) of as many channels, at least {M}x{N} pixels, and as many as there are windows if each has "
            f"its own. Received: {tuple(images.shape)}"
        )
    return _convolve(images, kernel, windows, stride, output_size)
