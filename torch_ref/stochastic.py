"""The stochastic convolution in the forms that the paper tried (section 4.2.3), as far as they are distinct.

All take images (B, C, H, W) uint8 or float, a kernel (filters, C, kh, kw), windows (filters, 2) or (B, filters, 2),
and return (B, filters, oh, ow) without padding, bias or activation.
"""

import torch
from torch.nn import functional as F


def naive(images, kernel, windows, stride, window):
    """A convolution per image and filter, copied into a prepared output: StochasticConv1."""
    windows = windows.expand(len(images), *windows.shape[-2:])
    oh, ow = ((w - k) // s + 1 for w, k, s in zip(window, kernel.shape[2:], stride, strict=True))
    out = torch.empty((len(images), len(kernel), oh, ow), dtype=kernel.dtype, device=images.device)
    for b in range(len(images)):
        for f in range(len(kernel)):
            patch = _cut(images[b : b + 1], windows[b, f], window).to(kernel.dtype)
            out[b, f] = F.conv2d(patch, kernel[f : f + 1], stride=stride)[0, 0]
    return out


def slices_copied(images, kernel, windows, stride, window):
    """A convolution per filter over a slice of the batch, copied into a prepared output."""
    oh, ow = ((w - k) // s + 1 for w, k, s in zip(window, kernel.shape[2:], stride, strict=True))
    out = torch.empty((len(images), len(kernel), oh, ow), dtype=kernel.dtype, device=images.device)
    for f in range(len(kernel)):
        patch = _cut_batch(images, windows[..., f, :], window).to(kernel.dtype)
        out[:, f] = F.conv2d(patch, kernel[f : f + 1], stride=stride)[:, 0]
    return out


def slices(images, kernel, windows, stride, window):
    """The same, the maps concatenated instead of copied: StochasticConv4, the paper's fastest."""
    maps = []
    for f in range(len(kernel)):
        patch = _cut_batch(images, windows[..., f, :], window).to(kernel.dtype)
        maps.append(F.conv2d(patch, kernel[f : f + 1], stride=stride))
    return torch.cat(maps, 1)


def gather(images, kernel, windows, stride, window):
    """All windows gathered as channels, then one grouped convolution: one kernel launch on a GPU."""
    batch, channels = images.shape[:2]
    filters = len(kernel)
    rows = windows[..., 0, None] + torch.arange(window[0], device=images.device)  # (..., filters, wh)
    columns = windows[..., 1, None] + torch.arange(window[1], device=images.device)
    rows, columns = rows[..., None], columns[..., None, :]
    if windows.ndim == 2:
        patches = images[:, :, rows, columns].transpose(1, 2)  # (B, filters, C, wh, ww)
    else:
        index = torch.arange(batch, device=images.device)[:, None, None, None]
        patches = images.permute(0, 2, 3, 1)[index, rows, columns].permute(0, 1, 4, 2, 3)
    patches = patches.reshape(batch, filters * channels, *window).to(kernel.dtype)
    return F.conv2d(patches, kernel, stride=stride, groups=filters)


IMPLEMENTATIONS = {"naive": naive, "slices_copied": slices_copied, "slices": slices, "gather": gather}


def _cut(images, offset, window):
    top, left = offset.tolist()
    return images[..., top : top + window[0], left : left + window[1]]


def _cut_batch(images, offsets, window):
    """One window for all images, or one for each."""
    if offsets.ndim == 1:
        return _cut(images, offsets, window)
    return torch.stack([_cut(image, offset, window) for image, offset in zip(images, offsets, strict=True)])
