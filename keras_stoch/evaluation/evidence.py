"""Evidence maps: which regions of a photograph carry its score, from what draws of the windows did to it.

Every draw covers some regions more often than others by chance alone, which makes of many draws a randomised
experiment: the logit is regressed on how many windows lie over a cell. Nothing but the model's own draws is needed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from keras_stoch.contracts import input_sizes
from keras_stoch.evaluation.predictions import JOIN, AveragedPasses, prepared_inputs
from keras_stoch.training.runs import loaded

FEWEST_DRAWS = 20
PERMUTATIONS = 1000


@dataclass
class Evidence:
    """What the draws tell about each cell of a photograph; arrays are (cells, cells), rows from top to bottom.

    Attributes:
        image: uint8 (side, side, 3), as the model saw it.
        effect: change of the logit for one more window over the cell, which covers its neighbours too: a map is not
            sharper than the window.
        low, high: 95% interval of each effect by itself.
        t: effect over its standard error.
        sure: bool, where |t| is larger than chance makes the largest of all cells in 95 of 100 maps (permutation of
            the logits among the draws).
        p: of the map as a whole: how often permuted logits give a largest |t| as large.
        windows_over: mean number of windows over each cell and draw: what was seen.
        explained: share of the variance of held-out draws that the map predicts, by five-fold cross-validation;
            negative if it predicts worse than the mean.
        logits: (draws,).
        window: (height, width) in pixels.
    """

    image: np.ndarray
    effect: np.ndarray
    low: np.ndarray
    high: np.ndarray
    t: np.ndarray
    sure: np.ndarray
    p: float
    windows_over: np.ndarray
    explained: float
    logits: np.ndarray
    window: tuple[int, int]

    def __str__(self):
        cells = self.sure.size
        told = (
            f"{int((self.sure & (self.effect > 0)).sum())} of {cells} cells raise the score and "
            f"{int((self.sure & (self.effect < 0)).sum())} lower it beyond chance"
            if self.sure.any()
            else f"none of {cells} cells is beyond chance: more draws, or the score does not depend on where it looks"
        )
        return (
            f"logit {self.logits.mean():.3f}, deviation {self.logits.std():.3f}, over {len(self.logits)} draws\n"
            f"{told}; p of the map {self.p:.3g}, explained variance of held-out draws {self.explained:.1%}"
        )

    def table(self) -> pd.DataFrame:
        """One row per cell: row, column, effect, low, high, t, sure, windows_over."""
        rows, columns = np.indices(self.effect.shape)
        names = ("effect", "low", "high", "t", "sure", "windows_over")
        return pd.DataFrame(
            {"row": rows.ravel(), "column": columns.ravel()} | {name: getattr(self, name).ravel() for name in names}
        )

    def figure(self, path) -> Path:
        """Draws the photograph, the map over it, what was seen, and how sure the map is."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(15, 4.3), layout="constrained")
        axes = figure.subplots(1, 4)
        height, width = self.image.shape[:2]
        whole = {"extent": (0, width, height, 0), "interpolation": "nearest"}
        axes[0].imshow(self.image)
        axes[0].set_title(f"logit {self.logits.mean():.2f} ± {self.logits.std():.2f} over {len(self.logits)} draws")
        most = float(np.abs(self.effect).max()) or 1.0
        axes[1].imshow(self.image.mean(2), cmap="gray", **whole)
        drawn = axes[1].imshow(self.effect, cmap="RdBu_r", vmin=-most, vmax=most, alpha=0.6, **whole)
        axes[1].set_title("logit for one more window over the cell")
        figure.colorbar(drawn, ax=axes[1], shrink=0.8)
        drawn = axes[2].imshow(self.windows_over, cmap="viridis", vmin=0, **whole)
        axes[2].set_title(f"windows over the cell, mean of a draw ({self.window[0]}x{self.window[1]} px)")
        figure.colorbar(drawn, ax=axes[2], shrink=0.8)
        limit = max(float(np.abs(self.t).max()), 3.0)
        drawn = axes[3].imshow(self.t, cmap="RdBu_r", vmin=-limit, vmax=limit, **whole)
        step = height / len(self.sure), width / len(self.sure)
        for row, column in np.argwhere(self.sure):
            axes[3].plot((column + 0.5) * step[1], (row + 0.5) * step[0], "k.", ms=5)
        axes[3].set_title(f"effect / standard error; dots beyond chance; p {self.p:.2g}")
        figure.colorbar(drawn, ax=axes[3], shrink=0.8)
        for ax in axes:
            ax.set_axis_off()
            ax.title.set_fontsize(9)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)
        return path


def evidence(model, photograph, *, draws: int = 200, cells: int = 8, seed: int = 0, batch_size: int = 8) -> Evidence:
    """Which regions of a photograph carry its score, by regression of the logit on the windows of many draws.

    Args:
        model: a model with a detail branch and one logit as output, or the folder of a run.
        photograph: path of a photograph of any size, which goes through the crop and resize of `prepare`; or uint8
            pixels (high_res, high_res, 3), taken as they are.
        draws: at least 20. The intervals narrow with their square root.
        cells: per side of the map; a map is not sharper than the windows, whatever their number.
        seed: of the draws and permutations.
        batch_size: draws at once.

    Returns:
        `Evidence`.

    Raises:
        ValueError: for a model without detail branch, a photograph that can not be read, or arguments out of range.
    """
    for name, value, least in (("draws", draws, FEWEST_DRAWS), ("cells", cells, 2), ("batch_size", batch_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}. Received: {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0. Received: {seed!r}")
    model = loaded(model)
    _, high_res = input_sizes(model)
    if high_res is None or not any(layer.name == JOIN for layer in model.layers):
        raise ValueError(
            f"An evidence map comes from draws of windows, and {model.name!r} has no detail branch that draws any"
        )
    if cells > high_res:
        raise ValueError(f"cells must be at most the {high_res} pixels of a side. Received: {cells}")
    inputs = prepared_inputs(model, photograph)
    layer = next(layer for layer in model._flatten_layers() if hasattr(layer, "draw_windows"))
    rng = np.random.default_rng(seed)
    spans = [high_res - side + 1 for side in layer.window]
    shape = (draws, layer.filters)
    windows = np.stack([rng.integers(0, span, shape) for span in spans], axis=-1).astype(np.int32)
    logits = _logits(model, inputs, windows, batch_size)
    over = cell_coverage(windows, layer.window, high_res, cells)
    return regress(inputs["high_res"][0], over, logits, layer.window, seed)


def cell_coverage(windows, window, side: int, cells: int) -> np.ndarray:
    """How many windows lie over each cell, parts counted as parts: float64 (draws, cells, cells).

    Args:
        windows: int (draws, filters, 2).
        window: (height, width) in pixels.
        side: of the image in pixels.
        cells: per side.
    """
    edges = np.linspace(0, side, cells + 1)
    shares = []
    for axis in (0, 1):
        start = np.asarray(windows)[..., axis, None]
        inside = np.minimum(start + window[axis], edges[1:]) - np.maximum(start, edges[:-1])
        shares.append(np.clip(inside, 0, None) / np.diff(edges))  # (draws, filters, cells)
    return np.einsum("dfi,dfj->dij", *shares)


def regress(image, over, logits, window, seed: int = 0) -> Evidence:
    """The map of one photograph from its draws.

    Each cell's effect is the slope of the logit on the windows over this cell alone. A regression on all cells at once
    would have more unknowns than draws, and what it gains in sharpness it loses in noise.

    Args:
        image: uint8 (side, side, 3).
        over: (draws, cells, cells), see `cell_coverage`.
        logits: (draws,).
        window: (height, width) in pixels.
        seed: of permutations and folds.
    """
    rng = np.random.default_rng([seed, 1])
    draws, shape = len(logits), over.shape[1:]
    x, y = over.reshape(draws, -1), np.asarray(logits, np.float64)
    effect, error = _slopes(x, y)
    t = np.divide(effect, error, out=np.zeros_like(effect), where=error > 0)
    half = student.ppf(0.975, draws - 2) * error
    centred = x - x.mean(0)
    scale = np.sqrt(np.square(centred).sum(0))
    unit = np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0)
    shuffled = np.stack([rng.permutation(y) for _ in range(PERMUTATIONS)]) - y.mean()
    spread = np.sqrt(np.square(y - y.mean()).sum())
    # |t| grows with |correlation|, so that the largest of both is in the same cell.
    largest = np.abs(shuffled @ unit).max(1) / spread if spread > 0 else np.ones(PERMUTATIONS)
    own = np.abs((y - y.mean()) @ unit) / spread if spread > 0 else np.zeros(x.shape[1])
    return Evidence(
        image=np.uint8(np.clip(image, 0, 255)),
        effect=effect.reshape(shape),
        low=(effect - half).reshape(shape),
        high=(effect + half).reshape(shape),
        t=t.reshape(shape),
        sure=(own > np.quantile(largest, 0.95)).reshape(shape),
        p=float((1 + (largest >= own.max()).sum()) / (1 + PERMUTATIONS)),
        windows_over=x.mean(0).reshape(shape),
        explained=_explained(x, y, rng),
        logits=y,
        window=tuple(window),
    )


def _slopes(x, y):
    """Slope of y on each column of x by itself, and its standard error."""
    centred, rest = x - x.mean(0), y - y.mean()
    squares = np.square(centred).sum(0)
    known = squares > 1e-12 * max(len(y), 1)
    slope = np.divide(rest @ centred, squares, out=np.zeros(x.shape[1]), where=known)
    left = np.maximum(np.square(rest).sum() - slope**2 * squares, 0)
    error = np.sqrt(np.divide(left / (len(y) - 2), squares, out=np.full(x.shape[1], np.inf), where=known))
    return slope, error


def _explained(x, y, rng) -> float:
    """1 - error / variance on draws that neither the map nor its one scale was fitted on."""
    folds = rng.permutation(len(y)) % 5
    predicted = np.empty_like(y)
    for fold in range(5):
        fitted, held = folds != fold, folds == fold
        slope, error = _slopes(x[fitted], y[fitted])
        weight = np.divide(slope, error**2, out=np.zeros_like(slope), where=error > 0)
        score = (x - x[fitted].mean(0)) @ weight
        scale, _ = _slopes(score[fitted, None], y[fitted])
        predicted[held] = y[fitted].mean() + scale[0] * (score[held] - score[fitted].mean())
    variance = np.square(y - y.mean()).sum()
    return float(1 - np.square(y - predicted).sum() / variance) if variance > 0 else 0.0


def _logits(model, inputs, windows, batch_size) -> np.ndarray:
    """The logit of one photograph for each draw: the global branch runs once, the detail branch for all draws."""
    from keras import ops

    parts = AveragedPasses(model)
    common = parts.global_branch(inputs["low_res"], training=False)
    run = _compiled(parts)
    found = []
    for start in range(0, len(windows), batch_size):
        some = windows[start : start + batch_size]
        count = len(some)
        if count < batch_size:  # of one shape, so that one graph is enough
            some = np.concatenate([some, np.repeat(some[-1:], batch_size - count, 0)])
        photographs = np.repeat(inputs["high_res"], batch_size, 0)
        both = ops.repeat(common, batch_size, 0)
        found.append(ops.convert_to_numpy(run(both, photographs, some))[:count, 0])
    return np.concatenate(found).astype(np.float64)


def _compiled(parts):
    import keras
    from keras import ops

    def run(common, photographs, windows):
        detail = parts.detail_branch(photographs, training=False, windows=windows)
        return parts.head(ops.concatenate([common, detail], axis=-1), training=False)

    if keras.backend.backend() != "tensorflow":
        return run
    import tensorflow as tf

    return tf.function(run, autograph=False, reduce_retracing=True)
