"""The verdict for people and for machines: a terminal table, report.json, and one self-contained HTML page."""

import html
import io
import itertools
import json
import math
import os
import platform
import re
from importlib import metadata
from pathlib import Path

import numpy as np

from parity.compare import Row

PACKAGES = ("keras", "tensorflow", "torch", "jax", "numpy")
COLOURS = {"float64": "#1f5fa8", "float32": "#d1761b", "fault": "#b3261e"}


def environment() -> dict[str, str]:
    """Versions and machine, as they stand in every report."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["platform"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return found


class Terminal:
    """Prints a table row by row, while it grows."""

    HEADER = (
        f"{'':5}{'model':10} {'size':13} {'dtype':8} {'reference ~ candidate':36} {'check':14}"
        f" {'error':>8}  {'allowed':>8}  worst"
    )

    def __init__(self, write=print):
        self.write = write
        self.write(self.HEADER)

    def row(self, row: Row) -> None:
        sides = f"{row.reference} ~ {row.candidate}"
        verdict = "ok" if row.passed else "FAIL"
        where = (row.worst or "") if row.passed else f"first: {row.first_divergence or '-'}; {row.message[:200]}"
        self.write(
            f"{verdict:5}{row.model:10} {row.size:13} {row.dtype:8} {sides:36} {row.check:14}"
            f" {number(row.value):>8}  {number(row.tolerance):>8}  {where}"
        )


def number(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and (math.isnan(value) or math.isinf(value)):
        return str(value)
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e4 else f"{value:.1e}"


def write(rows: list[Row], folder, options: dict, seconds: float, outcomes=(), thumbnails=None) -> Path:
    """Writes report.json, report.html and figures/*.svg, each whole or not at all.

    Args:
        rows: verdicts.
        folder: where to; made if need be.
        options: what was asked for, for the record.
        seconds: the whole run took.
        outcomes: of `court.run`, if they were tried.
        thumbnails: (n, height, width, 3) pictures of the images that were used, 0-255.

    Returns:
        The path of report.html.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    passed = bool(rows) and all(row.passed for row in rows) and all(o.caught for o in outcomes)
    document = {
        "passed": passed,
        "seconds": round(seconds, 1),
        "options": options,
        "environment": environment(),
        "checks": [row.asdict() for row in rows],
        "mutations": [
            {
                "name": o.mutation.name,
                "rung": o.mutation.rung,
                "layer": o.mutation.layer,
                "caught": o.caught,
                "failed": o.failed,
                "value": o.value,
            }
            for o in outcomes
        ],
    }
    _replace(folder / "report.json", json.dumps(_finite(document), indent=1))
    figures = depth_figures(rows)
    training = training_figures(rows, outcomes)
    for name, svg in training.items():
        _replace(folder / "figures" / f"{name}.svg", svg)
    for name, svg in figures.items():
        _replace(folder / "figures" / f"{name}.svg", svg)
    page = render(rows, document, figures, outcomes, thumbnails, training)
    _replace(folder / "report.html", page)
    return folder / "report.html"


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _finite(value):
    """JSON has no NaN and no infinity: they become strings."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def depth_figures(rows: list[Row]) -> dict[str, str]:
    """Error along the depth of the model at inference, one SVG per model, size and pair."""
    groups = {}
    for row in rows:
        if row.check == "forward" and row.details.get("errors"):
            groups.setdefault((row.model, row.size, row.reference, row.candidate), []).append(row)
    return {
        re.sub(r"[^a-z0-9]+", "-", "-".join(key).lower()): _depth_figure(key, group) for key, group in groups.items()
    }


def _depth_figure(key, rows) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.6), layout="constrained")
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
    marks = [i for i, n in enumerate(names) if re.fullmatch(r"(detail_)?(stem_conv|block\d+a|top_conv|predictions)", n)]
    marks = [m for m, after in zip(marks, [*marks[1:], 10**9], strict=True) if after - m > len(names) / 40]
    axes.set_xlim(-1, len(names))
    axes.set_xticks(marks, [names[i] for i in marks], rotation=45, ha="right", fontsize=7)
    axes.set_yscale("log")
    axes.set_ylim(5e-18, None)
    axes.set_ylabel("relative L2 error", fontsize=8)
    _plain(axes)
    model, size, reference, candidate = key
    note = " (equal bit for bit)" if exact else ""
    axes.set_title(f"{model} at {size}: {reference} ~ {candidate}{note}", fontsize=9, loc="left")
    axes.legend(fontsize=7, ncols=4, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    return _svg(figure)


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
    models = list(dict.fromkeys(row.model for row in rows))
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for axes, pair in zip(panels, pairs, strict=True):
        for row in rows:
            if (row.reference, row.candidate) == pair:
                values = np.array([e[1] for e in row.details["errors"]], float)
                steps = np.arange(1, len(values) + 1)
                axes.plot(
                    steps, np.maximum(values, 1e-17), color=f"C{models.index(row.model)}", lw=1.4, label=row.model
                )
        axes.axhline(rows[0].tolerance, color="#b3261e", lw=1, ls=":")
        axes.set_xticks([1, 5, 10, 15, 20])
        axes.set_yscale("log")
        exponents = (15, 13, 11, 9, 7)
        axes.set_yticks([1e-17, *(10.0**-n for n in exponents)], ["equal", *(f"1e-{n:02d}" for n in exponents)])
        axes.set_ylim(5e-18, 1e-6)
        axes.set_title(" ~ ".join(pair), fontsize=9, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.legend(fontsize=7, frameon=False, ncols=2)
        _plain(axes)
    panels[0].set_ylabel("difference of losses (allowed: dotted)", fontsize=8)
    return _svg(figure)


def _statistics_figure(runs: dict, looks, faults) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    dashes = itertools.cycle(("--", ":", "-."))
    for number, (name, (curves, early)) in enumerate(runs.items()):
        style = {"color": f"C{number}", "ls": "-", "lw": 1.8}
        if name in faults:
            style |= {"color": COLOURS["fault"], "ls": next(dashes)}
        shade = {"color": style["color"], "alpha": 0.07 if name in faults else 0.15, "lw": 0}
        steps = np.arange(1, early.shape[1] + 1)
        left.fill_between(steps, *np.percentile(early, (25, 75), axis=0), **shade)
        left.plot(steps, np.median(early, axis=0), label=f"{name} ({len(early)} runs)", **style)
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
    left.legend(fontsize=7, frameon=False)
    right.legend(fontsize=7, frameon=False)
    for panel in (left, right):
        _plain(panel)
    return _svg(figure)


def _plain(axes):
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _svg(figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)


STYLE = """
:root{--ok:#1d7a46;--bad:#b3261e;--line:#dfe3e8;--soft:#f5f7f9;--text:#1c2733;--dim:#5d6b7a}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--text);margin:0 auto;
max-width:1240px;padding:24px}
h1{font-size:26px;margin:0}h2{font-size:19px;margin:36px 0 8px}p{margin:6px 0;max-width:75ch}
.verdict{border-left:8px solid var(--ok);background:#eef7f1;padding:16px 20px;border-radius:4px}
.verdict.bad{border-color:var(--bad);background:#fdf0ef}
.dim{color:var(--dim)}
table{border-collapse:collapse;font-size:13px;margin:8px 0;width:100%}
th,td{border:1px solid var(--line);padding:4px 8px;text-align:left;vertical-align:top}
th{background:var(--soft);font-weight:600}
td.k{white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.ok{background:#eef7f1;color:var(--ok)}td.bad{background:#fdf0ef;color:var(--bad);font-weight:600}
td.none{color:#b4bec8;text-align:center}
code{font-size:12.5px;background:var(--soft);padding:1px 4px;border-radius:3px}
.wide{overflow-x:auto}.pictures img{height:88px;border-radius:4px;margin:0 6px 6px 0}
figure{margin:10px 0}figure svg{max-width:100%;height:auto}
details>summary{cursor:pointer;color:var(--dim);margin:6px 0}
"""


def render(
    rows: list[Row], document: dict, figures: dict[str, str], outcomes=(), thumbnails=None, training: dict | None = None
) -> str:
    """The HTML page: verdict first, then the ladder, failures, figures, worst tensors, and how it was done."""
    e = html.escape
    failed = [row for row in rows if not row.passed]
    missed = [o for o in outcomes if not o.caught]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Parity report</title><style>{STYLE}</style>",
    ]
    if not rows:
        verdict, text = "bad", "Nothing was compared"
    elif failed:
        verdict, text = "bad", f"Not faithful: {len(failed)} of {len(rows)} checks failed"
    elif missed:
        verdict, text = "bad", f"The ladder missed {len(missed)} of {len(outcomes)} planted faults"
    else:
        verdict, text = "", f"Faithful: all {len(rows)} checks passed"
    worst = max(
        (r.value for r in rows if r.dtype == "float64" and r.measure.startswith("relative") and r.value is not None),
        default=None,
    )
    parts.append(f"<div class='verdict {verdict}'><h1>{text}</h1>")
    if worst is not None:
        parts.append(f"<p>Largest error in float64: <b>{number(worst)}</b>, relative to the tensor it stands in.</p>")
    if outcomes:
        parts.append(f"<p>Planted faults caught where they were planted: <b>{len(outcomes) - len(missed)} of "
                     f"{len(outcomes)}</b>.</p>")  # fmt: skip
    source = e(str(document["options"].get("images") or "structured pictures made here"))
    parts.append(f"<p class=dim>{document['seconds']:.0f} s, on {source}</p></div>")

    if failed:
        parts.append("<h2>What failed</h2><p>Start at the top: a fault on a low rung shows on those above too.</p>")
        body = "".join(
            f"<tr><td>{e(r.model)} {e(r.size)}<td>{e(r.reference)} ~ {e(r.candidate)}<td>{r.dtype}<td>{r.check}"
            f"<td><code>{e(r.first_divergence or '-')}</code><td class=n>{number(r.value)}"
            f"<td class=n>{number(r.tolerance)}<td>{e(r.message)}"
            for r in failed
        )
        parts.append(_table("model|pair|type|rung|first at|error|allowed|message", body))

    parts.append("<h2>The ladder</h2><p>Each cell is the largest error of a rung: a relative one, the number of "
                 "settings or tensors that differ, or for windows the smallest p of the tests of what both sides draw. "
                 "Hover for the tensor.</p>")  # fmt: skip
    parts.append(_ladder(rows))
    compared = [row for row in rows if row.check == "statistics"]
    if training:
        parts.append("<h2>Training</h2>")
        if "lockstep" in training:
            parts.append("<p>Lockstep: how far two losses are apart, step by step, from equal weights, images, windows "
                         "and drop masks, in float64. Rounding is all that drives them apart.</p>")  # fmt: skip
            parts.append(f"<figure>{training['lockstep']}</figure>")
        if "statistics" in training:
            parts.append("<p>Independent runs, which share nothing but the images. In red the planted "
                         "faults, if they were tried; torch's own initialisers are the early divergence that the paper "
                         "saw.</p>")  # fmt: skip
            parts.append(f"<figure>{training['statistics']}</figure>")
    if compared:
        parts.append(
            "<p>Equivalent means shown to be: the difference lies within a margin that was fixed beforehand, by two "
            "one-sided tests at 5%. Not to find a difference would prove nothing. Losses are logarithms.</p>"
        )
        body = "".join(
            f"<tr><td>{e(row.reference)} ~ {e(row.candidate)}<td>{d['statistic'].replace('_', ' ')}"
            f"<td class=n>{d['reference']:.3f}<td class=n>{d['candidate']:.3f}<td class=n>{d['difference']:+.3f}"
            f"<td class=n>{d['interval'][0]:+.3f} to {d['interval'][1]:+.3f}<td class=n>{d['margin']:.3f}"
            f"<td class=n>{d['p_equivalent']:.4f}<td class=n>{d['p_different']:.3f}"
            f"<td class={'ok' if d['verdict'] == 'equivalent' else 'bad'}>{d['verdict']}"
            for row in compared
            for d in row.details["differences"]
        )
        parts.append(_table("pair|statistic|reference|candidate|difference|95% interval|margin|p equivalent|"
                            "p different|verdict", body))  # fmt: skip
    if figures:
        parts.append("<h2>Error along the depth</h2><p>Every layer's output at inference, in the order of execution. "
                     "Dotted: what is allowed.</p>")  # fmt: skip
        parts += [f"<figure>{svg}</figure>" for svg in figures.values()]
    parts.append("<h2>Worst tensors</h2>" + _worst(rows))
    if outcomes:
        parts.append(
            "<h2>Can it fail?</h2><p>Ports broken on purpose. Each must be caught on its rung, at its layer.</p>"
        )
        body = "".join(
            f"<tr><td>{e(o.mutation.name)}<td>{o.mutation.rung}<td><code>{e(o.mutation.layer)}</code>"
            f"<td class={'ok' if o.caught else 'bad'}>{'caught' if o.caught else 'missed'}"
            f"<td class=n>{number(o.value)}<td>{', '.join(o.failed) or 'none'}"
            for o in outcomes
        )
        parts.append(_table("fault|lowest rung|named layer|verdict|error|rungs that failed", body))
    parts.append("<h2>What was compared</h2>")
    if thumbnails is not None:
        parts.append("<p class=pictures>" + "".join(_image(t) for t in thumbnails) + "</p>")
    facts = document["environment"] | {k: v for k, v in document["options"].items() if v is not None}
    body = "".join(
        f"<tr><td>{e(k)}<td>{e(', '.join(v) if isinstance(v, list | tuple) else str(v))}" for k, v in facts.items()
    )
    parts.append(_table("what|value", body))
    parts.append("<p>float64: the candidate may differ from the reference by 1e-10 of a tensor's norm. float32: its "
                 "distance from the float64 result may be 8 times the reference's own. Lockstep: 1e-8 of a loss. "
                 "Statistics: p below 0.05 in every test for equivalence.</p></html>")  # fmt: skip
    return "\n".join(parts)


def _table(header: str, body: str) -> str:
    head = "".join(f"<th>{title}" for title in header.split("|"))
    return f"<div class=wide><table><thead><tr>{head}</thead><tbody>{body}</tbody></table></div>"


APART = (
    "optimizer",
    "lockstep",
    "statistics",
    "backends",
)  # rungs that are not asked of every pair, in a table of their own


def _ladder(rows: list[Row]) -> str:
    checks = [check for check in dict.fromkeys(row.check for row in rows) if check not in APART]
    groups = {}
    for row in rows:
        if row.check not in APART:
            key = (row.model, row.size, f"{row.reference} ~ {row.candidate}", row.dtype)
            groups.setdefault(key, {})[row.check] = row
    body = []
    for key, found in groups.items():
        cells = [_cell(found[check]) if check in found else "<td class=none>&middot;" for check in checks]
        body.append("<tr>" + "".join(f"<td class=k>{html.escape(part)}" for part in key) + "".join(cells))
    tables = ""
    if body:
        header = ["model", "size", "pair", "type", *(check.replace("_", " ") for check in checks)]
        tables = _table("|".join(header), "".join(body))
    apart = "".join(
        f"<tr><td>{row.check}<td>{html.escape(row.model)} {html.escape(row.size)}"
        f"<td>{html.escape(row.reference)} ~ {html.escape(row.candidate)}<td>{row.dtype}{_cell(row)}"
        f"<td class=n>{number(row.tolerance)}"
        for row in rows
        if row.check in APART
    )
    return tables + (_table("rung|what|pair|type|error|allowed", apart) if apart else "")


def _cell(row: Row) -> str:
    title = html.escape(f"allowed {number(row.tolerance)}, worst {row.worst}, {row.seconds:.1f} s", quote=True)
    mark = "" if row.passed else "&#10007; "
    return f"<td class='n {'ok' if row.passed else 'bad'}' title='{title}'>{mark}{number(row.value)}"


def _worst(rows: list[Row], count: int = 15) -> str:
    found = []
    for row in rows:
        for name, value, allowed, max_abs in row.details.get("errors", ()):
            share = float("inf") if not isinstance(value, float) or math.isnan(value) else value / allowed
            found.append((share, row, name, value, allowed, max_abs))
    found.sort(key=lambda item: -item[0])
    body = "".join(
        f"<tr><td><code>{html.escape(name)}</code><td>{html.escape(row.model)} {html.escape(row.size)}"
        f"<td>{html.escape(row.reference)} ~ {html.escape(row.candidate)}<td>{row.check}<td>{row.dtype}"
        f"<td class=n>{number(value)}<td class=n>{number(allowed)}<td class=n>{share:.2f}<td class=n>{number(max_abs)}"
        for share, row, name, value, allowed, max_abs in found[:count]
    )
    return _table("tensor|model|pair|rung|type|error|allowed|share|largest difference", body)


def _image(pixels: np.ndarray) -> str:
    import base64

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.uint8(np.clip(pixels, 0, 255))).save(buffer, "JPEG", quality=80)
    return f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
