"""Figures of training: lockstep by step, and the curves of independent runs."""

import itertools

import numpy as np

from parity.errors import Row
from parity.report.figures import COLOURS, plain, svg


def training_figures(rows: list[Row], outcomes=()) -> dict[str, str]:
    """SVGs of rungs 8 and 9: "lockstep" (the growth of the error by step) and "statistics" (curves of all runs, and
    the losses of their first steps, those of planted faults among them)."""
    found = {}
    steps = [row for row in rows if row.check == "lockstep" and row.details.get("errors")]
    if steps:
        found["lockstep"] = _lockstep_figure(steps)
    compared = [row.details for row in rows if row.check == "statistics"]
    if compared:
        runs = {}  # name -> (curves, losses of the first steps)
        for details in (*compared, *(outcome.details for outcome in outcomes if outcome.details)):
            for name, curves in details["curves"].items():
                runs.setdefault(name, (np.array(curves), np.array(details["early_losses"][name])))
        faults = runs.keys() - {name for details in compared for name in details["curves"]}
        found["statistics"] = _statistics_figure(runs, compared[0]["looks"], faults)
    return found


def _lockstep_figure(rows) -> str:
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys((row.reference, row.candidate) for row in rows))
    # A model may have been trained in more ways than one, which its size tells.
    models = list(dict.fromkeys((row.model, row.size) for row in rows))
    figure = Figure(figsize=(12.4, 3.6), layout="constrained")
    panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for axes, pair in zip(panels, pairs, strict=True):
        for row in rows:
            if (row.reference, row.candidate) == pair:
                values = np.array([e[1] for e in row.details["errors"]], float)
                steps = np.arange(1, len(values) + 1)
                colour = f"C{models.index((row.model, row.size))}"
                label = f"{row.model} {row.size}".strip()
                axes.plot(steps, np.maximum(values, 1e-17), color=colour, lw=1.4, label=label)
        axes.axhline(rows[0].tolerance, color="#b3261e", lw=1, ls=":")
        axes.set_xticks([1, 5, 10, 15, 20])
        axes.set_yscale("log")
        exponents = (15, 13, 11, 9, 7)
        axes.set_yticks([1e-17, *(10.0**-n for n in exponents)], ["equal", *(f"1e-{n:02d}" for n in exponents)])
        axes.set_ylim(5e-18, 1e-6)
        axes.set_title(" ~ ".join(pair), fontsize=9, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.legend(fontsize=7, frameon=False, ncols=2)
        plain(axes)
    panels[0].set_ylabel("difference of losses (allowed: dotted)", fontsize=8)
    return svg(figure)


def _statistics_figure(runs: dict, looks, faults) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.4, 8.4), layout="constrained")
    left, right = figure.subplots(2, 1)
    dashes = itertools.cycle(("--", ":", "-."))
    for number, (name, (curves, early)) in enumerate(runs.items()):
        style = {"color": f"C{number}", "ls": "-", "lw": 1.8}
        if name in faults:
            style |= {"color": COLOURS["fault"], "ls": next(dashes)}
        shade = {"color": style["color"], "alpha": 0.07 if name in faults else 0.15, "lw": 0}
        steps = np.arange(1, early.shape[1] + 1)
        left.fill_between(steps, *np.percentile(early, (25, 75), axis=0), **shade)
        left.plot(steps, np.median(early, axis=0), label=f"{name} ({len(early)} runs)", **style)
        if name in faults:  # their bands would hide all else
            right.plot(looks, curves.min(0), color=style["color"], ls=style["ls"], lw=0.6, alpha=0.5)
        else:
            right.fill_between(looks, curves.min(0), curves.max(0), **shade)
        right.plot(looks, curves.mean(0), label=f"{name} ({len(curves)} runs)", **style)
    left.set_yscale("log")
    left.set_xlabel("step", fontsize=8)
    left.set_title("loss of the first steps: median and quartiles", fontsize=9, loc="left")
    right.set_xscale("symlog", linthresh=1, base=2)
    right.set_xticks(looks, [str(look) for look in looks])
    right.minorticks_off()
    right.set_xlabel("steps", fontsize=8)
    right.set_title("validation ROC AUC: mean, minimum and maximum", fontsize=9, loc="left")
    right.set_ylim(min(0.45, *(float(curves.min()) for curves, _ in runs.values())), 1.005)
    for panel in (left, right):
        panel.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for panel in (left, right):
        plain(panel)
    return svg(figure)
