"""Figures of a comparison, as SVG."""

import io
import re

import numpy as np

from parity.errors import Row

COLOURS = {"float64": "#1f5fa8", "float32": "#d1761b", "fault": "#b3261e"}


def depth_figures(rows: list[Row], landmarks: str = r"") -> dict[str, str]:
    """Error along the depth of the model at inference, one SVG per model, size and pair.

    Args:
        rows: verdicts; those of the forward rung are drawn.
        landmarks: regular expression of the names that mark the axis; all, if it is empty.
    """
    groups = {}
    for row in rows:
        if row.check == "forward" and row.details.get("errors"):
            groups.setdefault((row.model, row.size, row.reference, row.candidate), []).append(row)
    return {
        re.sub(r"[^a-z0-9]+", "-", "-".join(key).lower()): _depth_figure(key, group, landmarks)
        for key, group in groups.items()
    }


def _depth_figure(key, rows, landmarks) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.4, 2.9), layout="constrained")
    axes = figure.subplots()
    exact = True
    for row in rows:
        errors = row.details["errors"]
        colour = COLOURS[row.dtype]
        values = np.array([e[1] for e in errors], float)
        exact = exact and not values.any()
        axes.plot(np.maximum(values, 1e-17), color=colour, lw=1.4, label=row.dtype)
        axes.plot([e[2] for e in errors], color=colour, lw=1, ls=":", label=f"{row.dtype} allowed")
        bad = [i for i, e in enumerate(errors) if not e[1] <= e[2]]
        axes.plot(bad, np.maximum(values[bad], 1e-17), "x", color="#b3261e", ms=4)
    names = [e[0] for e in rows[0].details["errors"]]
    marks = [i for i, n in enumerate(names) if re.fullmatch(landmarks or ".*", n)]
    marks = [m for m, after in zip(marks, [*marks[1:], 10**9], strict=True) if after - m > len(names) / 40]
    axes.set_xlim(-1, len(names))
    axes.set_xticks(marks, [names[i] for i in marks], rotation=45, ha="right", fontsize=7)
    axes.set_yscale("log")
    axes.set_ylim(5e-18, None)
    axes.set_ylabel("relative L2 error", fontsize=8)
    plain(axes)
    model, size, reference, candidate = key
    note = " (equal bit for bit)" if exact else ""
    axes.set_title(f"{model} at {size}: {reference} ~ {candidate}{note}", fontsize=9, loc="left")
    axes.legend(fontsize=7, ncols=4, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    return svg(figure)


def plain(axes) -> None:
    """Axes without what distracts."""
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def svg(figure) -> str:
    """A figure as an SVG element without metadata."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
