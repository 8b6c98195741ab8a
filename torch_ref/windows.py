"""Windows of the stochastic convolution: (top, left) offsets, (filters, 2) or (batch, filters, 2). Section 3.2.1."""

import torch


def window_size(output_size, kernel_size, strides) -> tuple[int, int]:
    """(output - 1) * stride + kernel, in pixels, rows and columns separately."""
    return tuple((o - 1) * s + k for o, s, k in zip(output_size, strides, kernel_size, strict=True))


def check_fits(image_size, window) -> None:
    """ValueError naming both sizes if an image is smaller than the window."""
    if image_size[0] < window[0] or image_size[1] < window[1]:
        raise ValueError(
            f"The image is smaller than the window of a kernel. Needed are at least {window[0]}x{window[1]} pixels "
            f"(height x width). Received: {image_size[0]}x{image_size[1]}"
        )


def draw_windows(image_size, window, filters: int, batch: int | None = None, generator=None, device=None):
    """Uniform over every window inside the image, both ends included, rows and columns independent.

    Returns:
        int64 tensor (filters, 2) if `batch` is None, else (batch, filters, 2).
    """
    check_fits(image_size, window)
    shape = (filters,) if batch is None else (batch, filters)
    rows, columns = (
        torch.randint(0, n - w + 1, shape, generator=generator, device=device)
        for n, w in zip(image_size, window, strict=True)
    )
    return torch.stack((rows, columns), -1)
