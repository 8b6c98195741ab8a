"""Pictures: the windows of one draw over a photograph, and what n draws have covered."""

from pathlib import Path

import numpy as np


def coverage(windows, window, image_size) -> np.ndarray:
    """How many windows cover each pixel.

    Args:
        windows: int array (..., 2) of (top, left).
        window: (height, width) of each in pixels.
        image_size: (height, width) of the image.

    Returns:
        int32 array (height, width).
    """
    # Each window adds one inside its corners: the double running sum of +1 and -1 at the corners.
    corners = np.zeros((image_size[0] + 1, image_size[1] + 1), np.int32)
    top, left = np.reshape(np.asarray(windows), (-1, 2)).T
    for row, column, sign in (
        (top, left, 1),
        (top + window[0], left, -1),
        (top, left + window[1], -1),
        (top + window[0], left + window[1], 1),
    ):
        np.add.at(corners, (row, column), sign)
    return corners.cumsum(0).cumsum(1)[:-1, :-1]


def windows_figure(image, windows, window, path) -> Path:
    """Draws the windows of one draw over the image, and the coverage after 1, 3 and 10 draws.

    Args:
        image: (height, width, 3), values 0-255.
        windows: (draws, filters, 2), at least 10 draws.
        window: (height, width) in pixels.
        path: of the file to write, its ending says the format.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    windows = np.asarray(windows)
    if windows.ndim != 3 or len(windows) < 10:
        raise ValueError(f"windows must have the shape (draws, filters, 2) with at least 10 draws: {windows.shape}")
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.subplots(1, 4)
    pixels = np.uint8(np.clip(image, 0, 255))
    axes[0].imshow(pixels)
    for top, left in windows[0]:
        box = Rectangle((left, top), window[1], window[0], fill=False, lw=1.1, ec="white", alpha=0.9)
        axes[0].add_patch(box)
    axes[0].set_title(f"one draw: {windows.shape[1]} windows of {window[0]}x{window[1]}", fontsize=10)
    counts = [coverage(windows[:n], window, image.shape[:2]) for n in (1, 3, 10)]
    for ax, n, count in zip(axes[1:], (1, 3, 10), counts, strict=True):
        ax.imshow(pixels)
        shade = np.zeros((*count.shape, 4))
        shade[..., 3] = np.where(count == 0, 0.85, 0.0)  # black where no window has been
        ax.imshow(shade)
        seen = (count > 0).mean()
        ax.set_title(f"seen after {n} draw{'s' * (n > 1)}: {seen:.1%} (mean {count.mean():.1f} windows)", fontsize=10)
    for ax in axes:
        ax.set_axis_off()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path
