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


def augmentation_figure(data, path, *, images=4, epochs=2, low_res=224, high_res=None, seed=0) -> Path:
    """Prepared images, and beside each the high- and low-resolution pairs that some epochs make of it.

    Args:
        data: a prepared folder.
        path: of the file to write.
        images: rows: training images, spread evenly over the manifest.
        epochs: pairs per row.
        low_res, high_res: sides in pixels; high_res defaults to the size of the prepared images.
        seed: of the augmentation.
    """
    from matplotlib.figure import Figure

    from keras_stoch.data.photographs import Dropped, open_image
    from keras_stoch.data.pipeline import Pipeline, damage_named, read_manifest

    manifest, root = read_manifest(data)
    if images < 1 or epochs < 1:
        raise ValueError(f"images and epochs must be at least 1. Received: images={images}, epochs={epochs}")
    chosen = manifest.iloc[np.unique(np.linspace(0, len(manifest) - 1, images).round().astype(int))]
    pictures = []
    for file in chosen["file"]:
        try:
            pictures.append(open_image(root / file))
        except Dropped as reason:
            raise ValueError(f"{root / file} is damaged ({reason}); prepare it again") from None
    high_res = high_res or pictures[0].width
    batches = Pipeline(
        chosen, None, batch_size=len(chosen), low_res=low_res, high_res=high_res, augment=True, seed=seed, root=root
    )
    columns = 1 + 2 * epochs
    figure = Figure(figsize=(2.4 * columns, 2.6 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), columns, squeeze=False)
    for row, (_, image) in enumerate(chosen.iterrows()):
        axes[row, 0].imshow(pictures[row])
        kind = "malignant" if image["target"] else "benign"
        axes[row, 0].set_title(f"{image['image'] if 'image' in image else image['file']}, {kind}", fontsize=8)
    for epoch in range(epochs):
        with damage_named(batches.files):
            (inputs, _), transforms = next(iter(batches.epoch(epoch))), batches.transforms(epoch)
        for row in range(len(chosen)):
            angle, scale, *flips = transforms[row]
            words = f"{angle:.0f}°, {scale:.0%}" + "".join(w for w, on in zip((", ↔", ", ↕"), flips, strict=True) if on)
            for column, name in ((1 + 2 * epoch, "high_res"), (2 + 2 * epoch, "low_res")):
                pixels = inputs[name][row].numpy()
                axes[row, column].imshow(pixels, interpolation="nearest")
                axes[row, column].set_title(
                    f"{len(pixels)} px: {words}" if name == "high_res" else f"{len(pixels)} px", fontsize=8
                )
    for ax in axes.flat:
        ax.set_axis_off()
    figure.savefig(path, dpi=110)
    return Path(path)


def lesions_figure(path, *, size=1024, strength=1.0, seed=0, low_res=None) -> Path:
    """Generated lesions, one pair a row: the same lesion as either class, small, and enlarged."""
    from matplotlib.figure import Figure
    from PIL import Image

    from keras_stoch.data.synthetic import draw_lesion

    low_res = low_res or round(size * 224 / 1024)
    figure = Figure(figsize=(13, 6.8), layout="constrained")
    axes = figure.subplots(2, 4)
    for row in range(2):
        for target in (0, 1):
            pixels = draw_lesion(target, [seed, row], size, strength)
            small = np.asarray(Image.fromarray(pixels).resize((low_res,) * 2, Image.Resampling.BILINEAR))
            start, side = 3 * size // 8, size // 8
            cut = pixels[start : start + side, start : start + side]
            axes[row, target].imshow(small, interpolation="nearest")
            axes[row, target].set_title(f"class {target}, {low_res} px")
            axes[row, 2 + target].imshow(cut, interpolation="nearest")
            axes[row, 2 + target].set_title(f"class {target}, {side} of {size} px")
    for ax in axes.flat:
        ax.set_axis_off()
    figure.savefig(path, dpi=110)
    return Path(path)


def roc_figure(evaluation, path) -> Path:
    """The ROC curve of an `Evaluation`, with the sensitivities it tells."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    ax = figure.subplots()
    curve = evaluation.curve
    ax.plot(curve["false_positive_rate"], curve["true_positive_rate"], lw=2)
    ax.plot([0, 1], [0, 1], color="0.7", lw=1, ls="--")
    for specificity, sensitivity in evaluation.sensitivity.items():
        ax.plot(1 - specificity, sensitivity, "o", color="C3", ms=5)
        ax.annotate(
            f"{sensitivity:.0%} at {specificity:.0%}", (1 - specificity, sensitivity), (6, -10),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    low, high = evaluation.interval
    ax.set_title(f"ROC AUC {evaluation.auc:.4f} ({low:.4f} to {high:.4f})", fontsize=11)
    ax.set_xlabel("1 - specificity")
    ax.set_ylabel("sensitivity")
    ax.set_aspect("equal")
    figure.savefig(path, dpi=110)
    return Path(path)
