"""Rung 3 as well: what the stochastic layers draw by themselves, for windows that are injected elsewhere.

Offsets must be uniform over every position, both ends included; rows and columns independent; filters, calls and,
where asked for, images different.
"""

import numpy as np
from scipy import stats

# So rare by chance that a failure means a fault, in a thousand runs of the whole suite.
SIGNIFICANCE = 1e-7
DRAWS = 4000  # offsets to look at
POSITIONS = (5, 8)  # how many rows and columns a window can start at


def check(reference, candidate, truth=None) -> dict:
    """Chi-square tests of both sides' own draws; each must pass by itself."""
    problems, lowest, layers = [], 1.0, 0
    for side in (reference, candidate):
        for name, layer in side.adapter.layers().items():
            if not hasattr(layer, "draw_windows"):
                continue
            layers += 1
            image_size = [w + n - 1 for w, n in zip(layer.window, POSITIONS, strict=True)]
            found, p = examine(
                lambda s=side, n=name, i=image_size: np.asarray(s.adapter.layers()[n].draw_windows(i, 2)), layer
            )
            problems += [(name, f"{side.adapter.name}: {problem}") for problem in found]
            lowest = min(lowest, p)
    first = problems[0][0] if problems else None
    return {
        "passed": not problems,
        "measure": "smallest p of chi-square tests" if layers else "no stochastic layer",
        "value": lowest,
        "tolerance": SIGNIFICANCE,
        "worst": first,
        "first_divergence": first,
        "message": "; ".join(problem for _, problem in problems),
    }


def examine(draw, layer) -> tuple[list[str], float]:
    """Looks at repeated draws of one layer. Returns what is wrong with them, and the smallest p-value."""
    batches = 1 if layer.window_sharing == "batch" else 2
    draws = np.stack([draw() for _ in range(-(-DRAWS // (layer.filters * batches)))])  # (calls, [images,] filters, 2)
    offsets = draws.reshape(-1, 2)
    problems = []
    if offsets.min() < 0 or (offsets >= POSITIONS).any():
        return [f"offsets from {offsets.min(0)} to {offsets.max(0)}, outside 0 to {np.subtract(POSITIONS, 1)}"], 0.0
    table = np.zeros(POSITIONS)
    np.add.at(table, tuple(offsets.T), 1)
    tests = {
        "rows are not uniform": stats.chisquare(table.sum(1)).pvalue,
        "columns are not uniform": stats.chisquare(table.sum(0)).pvalue,
        "rows and columns are not independent": stats.chisquare(table.ravel()).pvalue,
    }
    problems += [problem for problem, p in tests.items() if p < SIGNIFICANCE]
    never = [name for axis, name in enumerate(("row", "column")) if offsets[:, axis].max() < POSITIONS[axis] - 1]
    if never:
        problems.append(f"the last {' and '.join(never)} is never drawn")
    if len(draws) > 1 and (draws == draws[:1]).all():
        problems.append("every call draws the same")
    if (draws == draws[..., :1, :]).all():
        problems.append("all filters have one window")
    if draws.ndim == 4 and (draws == draws[:, :1]).all():
        problems.append("all images have the same windows")
    return problems, float(min(tests.values()))
