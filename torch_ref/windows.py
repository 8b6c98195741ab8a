"""Windows: the region of a high-resolution image that one kernel sees.

A window is given by the `(top, left)` offset of its first pixel, int64: (F, 2) when all images of a batch share them,
(B, F, 2) when every image has its own. Source: section 3.2.1 of the paper.
"""

import torch


def window_size(output_size, kernel_size, stride) -> tuple[int, int]:
    """Rows and columns of a window in pixels: M = (P - 1) S + K, N = (Q - 1) T + L.

    Args:
        output_size, kernel_size, stride: (P, Q), (K, L), (S, T).
    """
    return tuple((p - 1) * s + k for p, k, s in zip(output_size, kernel_size, stride, strict=True))


def check_fits(image_size, window) -> None:
    """ValueError naming both sizes if an image (H, W) is smaller than the window (M, N)."""
    if image_size[0] < window[0] or image_size[1] < window[1]:
        raise ValueError(
            f"The image is smaller than the window of a kernel. Needed are at least {window[0]}x{window[1]} pixels "
            f"(height x width). Received: {image_size[0]}x{image_size[1]}"
        )


def check_count(shape, filters: int, batch) -> None:
    """ValueError if windows of this shape are not one for every filter, or for every filter of every image.

    Args:
        shape: of the windows.
        filters, batch: F and B.
    """
    if len(shape) not in (2, 3) or tuple(shape[-2:]) != (filters, 2):
        raise ValueError(
            f"windows must have the shape ({filters}, 2) or (batch, {filters}, 2). Received: {tuple(shape)}"
        )
    if len(shape) == 3 and shape[0] != batch:
        raise ValueError(f"windows of {shape[0]} images were given for {batch}. Received: {tuple(shape)}")


def check_windows(windows, image_size, window) -> None:
    """ValueError if a window reaches beyond its image, where the numbers are at hand: what is compiled passes.

    Args:
        windows: int tensor (..., 2) of (top, left).
        image_size, window: (H, W) and (M, N) in pixels.
    """
    if torch.compiler.is_compiling() or windows.is_meta:
        return
    corners = windows.reshape(-1, 2)
    last = torch.tensor([n - m for n, m in zip(image_size, window, strict=True)], device=windows.device)
    wrong = corners[((corners < 0) | (corners > last)).any(-1)]
    if len(wrong):
        raise ValueError(
            f"Windows of {window[0]}x{window[1]} pixels in an image of {image_size[0]}x{image_size[1]} begin between "
            f"(0, 0) and ({int(last[0])}, {int(last[1])}). Received: {len(wrong)} of {len(corners)} elsewhere, the "
            f"first at ({int(wrong[0][0])}, {int(wrong[0][1])})"
        )


def draw_windows(image_size, window, filters: int, batch: int | None = None, generator=None, device=None):
    """Draws windows uniformly over every position inside the image, both ends included, rows and columns apart.

    Args:
        image_size: (H, W) of the images in pixels.
        window: (M, N) of the window, see `window_size`.
        filters: F, one window each.
        batch: B, if every image gets windows of its own; None for windows shared by the batch.
        generator: `torch.Generator` or None.
        device: of the result.

    Returns:
        int64 tensor of (top, left): (F, 2), or (B, F, 2).
    """
    check_fits(image_size, window)
    shape = (filters,) if batch is None else (batch, filters)
    spans = [h - m + 1 for h, m in zip(image_size, window, strict=True)]
    drawn = [torch.randint(0, span, shape, generator=generator, device=device) for span in spans]
    return torch.stack(drawn, -1)
