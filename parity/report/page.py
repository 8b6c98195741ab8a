"""The page, figure and JSON of one comparison of two models, for `ComparisonReport.write`."""

import html
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from parity.environment import versions
from parity.errors import FAIL, NOT_COMPARED, OK
from parity.report.figures import COLOURS, plain, svg
from parity.report.files import finite, write_whole
from parity.report.html import cards, head, table
from parity.report.terminal import number

FLOOR = 1e-17  # where equal bit for bit is drawn
CLASSES = {OK: "ok", FAIL: "bad", NOT_COMPARED: "maybe"}
ALONG = (
    "Every operation of the candidate at inference, in order, against the value on the other side that it faces. Lines "
    "mark where they part."
)
RUNGS = {
    "determinism": "the same answer twice",
    "configuration": "settings of every layer",
    "structure": "every weight has a partner of its shape",
    "weights": "the same numbers in them",
    "forward": "every tensor at inference",
    "isolated": "every layer by itself, on a wide range too",
    "batch_norm": "training mode, moving averages",
    "gradients": "gradients of every weight",
}


def write(report, folder, command: str = "") -> Path:
    """Writes report.html, report.json and depth.svg of a `comparison.ComparisonReport`, each whole or not at all.

    Args:
        report: of `compare`.
        folder: where to; made if need be.
        command: what was asked for, for the record.

    Returns:
        The path of report.html.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document = to_dict(report, command)
    figure = depth_figure(report.scope.depth) if report.scope is not None and report.scope.depth else ""
    write_whole(folder / "report.json", json.dumps(finite(document), indent=1, default=str))
    if figure:
        write_whole(folder / "depth.svg", figure)
    write_whole(folder / "report.html", render(report, document, figure))
    return folder / "report.html"


def to_dict(report, command: str = "") -> dict:
    """All that a report holds, as JSON has it."""
    scope = report.scope
    return {
        "status": report.status,
        "passed": report.passed,
        "headline": str(report).partition("\n")[0],
        "command": command,
        "environment": versions(),
        "checks": [row.asdict() for row in report.rows],
        "causes": [
            {
                "name": finding.name,
                "says": finding.says,
                "place": None if finding.place is None else str(finding.place),
                "reference": _line(finding, "reference"),
                "candidate": _line(finding, "candidate"),
                "keras": finding.cause.keras if finding.cause else "",
                "torch": finding.cause.torch if finding.cause else "",
                "before": finding.cause.before if finding.cause else None,
                "after": finding.cause.after if finding.cause else None,
            }
            for finding in report.causes
        ],
        "pairs": [list(pair) for pair in report.pairs],
        "notes": report.notes,
        "scope": None
        if scope is None
        else {
            "sides": [vars(side) for side in scope.sides],
            "matched": scope.matched,
            "share": scope.share,
            "depth": [[p.name, p.value, p.allowed, p.here] for p in scope.depth],
        },
    }


def _line(finding, role: str) -> str | None:
    node = getattr(finding.place, role, None)
    return None if node is None else str(node)


def depth_figure(points) -> str:
    """The error along the depth as SVG: a dot an operation, crosses where it is too large or nothing faces it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.0), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(points))
    values = np.array([np.nan if p.value is None else min(max(p.value, FLOOR), 1e6) for p in points])
    allowed = np.array([p.allowed for p in points])
    good = np.array([p.value is not None and p.value <= p.allowed for p in points], bool)
    lonely = np.array([p.value is None for p in points], bool)
    wrong = ~good & ~lonely
    top = 10 ** math.ceil(math.log10(max(1.0, np.nanmax(values, initial=1.0)) * 1.5))
    axes.plot(places, allowed, color=COLOURS["float64"], lw=1, ls=":", label="allowed")
    axes.plot(places[good], values[good], ".", color=COLOURS["float64"], ms=5, label="equal on both sides")
    if wrong.any():
        axes.plot(places[wrong], values[wrong], "x", color=COLOURS["fault"], ms=5, label="apart")
    if lonely.any():
        axes.plot(places[lonely], np.full(lonely.sum(), top), "|", color="#8a97a5", ms=7,
                  label="no such value on the other side")  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(FLOOR / 2, top * 4)
    axes.set_yticks([FLOOR, 1e-12, 1e-8, 1e-4, 1], ["equal", "1e-12", "1e-08", "1e-04", "1"])
    axes.set_xlim(-0.7, len(points) - 0.3)
    for place, point in enumerate(points):
        if point.here:
            axes.axvline(place, color=COLOURS["fault"], lw=1.2)
            right = place > len(points) / 2
            axes.annotate(f"{point.here} " if right else f" {point.here}", (place, 1e-6), fontsize=8,
                          color=COLOURS["fault"], ha="right" if right else "left")  # fmt: skip
    step = max(1, math.ceil(len(points) / 40))
    axes.set_xticks(places[::step], [_short(p.name) for p in points[::step]], rotation=45, ha="right", fontsize=7)
    axes.set_ylabel("relative L2 error", fontsize=8)
    plain(axes)
    axes.legend(fontsize=7, ncols=4, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return svg(figure)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:11]}..{name[-11:]}"


def render(report, document: dict, figure: str) -> str:
    """The page: verdict, causes with both sides' lines, rungs, error along the depth, pairing, what was compared."""
    e = html.escape
    sides = _names(report)
    failure = report.first_failure
    if report.status == OK:
        title = "Equal on every rung"
    elif failure is not None:
        where = f" at {failure.first_divergence}" if failure.first_divergence else ""
        title = f"They part on the rung \u201c{failure.check}\u201d{where}"
    else:
        left = ", ".join(row.check for row in report.rows if not row.passed) or "everything"
        title = f"No verdict: not compared are {left}"
    kind = {OK: "", FAIL: "bad"}.get(report.status, "maybe")
    parts = [
        head(f"{sides[0]} ~ {sides[1]}: {title}"),
        f"<div class='verdict {kind}'><p class=dim>{e(sides[0])} ~ {e(sides[1])}</p><h1>{e(title)}</h1>",
        f"<p>{e(document['headline'])}</p>",
        f"<p>{e(str(report.scope))}</p>" if report.scope is not None else "",
        "</div>",
    ]
    if report.causes:
        parts.append(f"<h2 id=why>{'Why' if any(f.says for f in report.causes) else 'Where'}</h2>")
        parts += [_cause(place, finding, report.scope, sides) for place, finding in enumerate(report.causes, 1)]
    elif failure is not None:
        parts.append(f"<h2 id=why>What failed</h2><p>{e(failure.message or str(failure.worst or ''))}</p>")
    parts.append("<h2 id=rungs>The rungs</h2><p>Cheap and certain first; the first that fails is the one to mend.</p>")
    parts.append(_rungs(report))
    if figure:
        parts.append(f"<h2 id=depth>Error along the depth</h2><p>{ALONG}</p>")
        parts.append(f"<figure>{figure}</figure>")
    worst = _worst(report)
    if worst:
        parts.append(f"<h2 id=worst>Worst tensors</h2>{worst}")
    parts.append("<h2 id=what>What was compared</h2>")
    if report.scope is not None:
        body = "".join(
            f"<tr><td>{role}<td>{e(s.name)}<td>{e(s.framework)}<td>{e(s.dtype)}<td class=n>{s.layers}"
            f"<td class=n>{f'{s.paired} of {s.operations}' if s.operations else 'not recorded'}"
            f"<td class=n>{report.scope.matched} of {s.tensors}<td class=n>{s.parameters:,}"
            for role, s in zip(("reference", "candidate"), report.scope.sides, strict=True)
        )
        parts.append(table("side|model|framework|type|layers|operations paired|weights paired|parameters", body))
    for note in report.notes:
        parts.append(f"<p>{e(note)}</p>")
    parts += _pairing(report)
    facts = {**document["environment"], "command": document["command"]}
    body = "".join(f"<tr><td>{e(k)}<td>{e(v)}" for k, v in facts.items() if v)
    parts.append(f"<details><summary>Versions, machine and command</summary>{table('what|value', body)}</details>")
    return "\n".join([*parts, "</html>"])


def _names(report) -> tuple[str, str]:
    if report.rows:
        return report.rows[0].reference, report.rows[0].candidate
    return "reference", "candidate"


def _cause(place: int, finding, scope, sides) -> str:
    e = html.escape
    cause = finding.cause
    # What mends it stands by itself, as the code that it is.
    says = finding.says if cause is None else str(replace(cause, keras="", torch=""))
    says = says[:1].upper() + says[1:] or "No cure that was tried heals it."
    parts = [f"<section class=cause><h3>{place}. <code>{e(finding.name)}</code></h3><p>{e(says)}</p>"]
    for framework, code in (("Keras", cause.keras), ("PyTorch", cause.torch)) if cause is not None else ():
        if code:
            parts.append(f"<p class=mend><span class=dim>In {framework}</span> <code>{e(code)}</code></p>")
    if finding.place is not None:
        told = []
        for number_, role in enumerate(("reference", "candidate")):
            node = getattr(finding.place, role)
            framework = finding.place.frameworks[number_]
            label = framework if framework == role else f"{role}, {framework}"
            if node is None:
                told.append(f"<div><b>{e(label)}</b><pre>does nothing there</pre></div>")
                continue
            made = scope.layers[number_].get(node.layer, "") if scope is not None else ""
            what = f"{node.layer} ({node.title})" if node.layer else node.title
            lines = [what, made, node.source or "(called by the framework itself)"]
            told.append(f"<div><b>{e(label)}</b><pre>{e(chr(10).join(filter(None, lines)))}</pre></div>")
        parts.append(f"<div class=sides>{''.join(told)}</div>")
        apart = "of another shape" if finding.place.outputs is None else f"{number(finding.place.outputs)} apart"
        parts.append(f"<p class=dim>Its inputs agree to {number(finding.place.inputs)}, its outputs are {apart}.</p>")
    return "".join([*parts, "</section>"])


def _rungs(report) -> str:
    e, found = html.escape, []
    for row in report.rows:
        value = "-" if row.value is None else f"{number(row.value)}"
        limit = f" of {number(row.tolerance)}" if row.tolerance and row.value is not None else ""
        lines = [f"<b>{e(row.status)}</b>", f"{value}{limit} <span class=dim>{e(row.measure)}</span>"]
        if row.first_divergence:
            lines.append(f"first at <code>{e(row.first_divergence)}</code>")
        if row.message:
            lines.append(e(row.message))
        found.append((row.check.replace("_", " "), RUNGS.get(row.check, ""), CLASSES[row.status], lines))
    return cards(found)


def _worst(report, count: int = 12) -> str:
    """The tensors nearest to what is allowed, or beyond, of all rungs."""
    found = []
    for row in report.rows:
        for name, value, allowed, far in row.details.get("errors", ()):
            share = float("inf") if math.isnan(value) else value / allowed if allowed else float("inf")
            found.append((share, row.check, name, value, allowed, far))
    found.sort(key=lambda item: -item[0])
    body = "".join(
        f"<tr><td class={'ok' if value <= allowed else 'bad'}><code>{html.escape(name)}</code><td>{check}"
        f"<td class=n>{number(value)}<td class=n>{number(allowed)}<td class=n>{number(far)}"
        for _, check, name, value, allowed, far in found[:count]
    )
    return table("tensor|rung|error|allowed|largest difference", body) if body else ""


def _pairing(report) -> list[str]:
    e, parts = html.escape, []
    if report.pairs:
        body = "".join(f"<tr><td><code>{e(a)}</code><td><code>{e(b)}</code>" for a, b in report.pairs)
        parts.append(f"<details><summary>{len(report.pairs)} layers paired by their numbers, place or order, and not "
                     f"by name</summary>{table('reference|candidate', body)}</details>")  # fmt: skip
    if report.scope is not None and report.scope.names:
        body = "".join(
            f"<tr><td><code>{e(a)}</code><td><code>{e(b)}</code><td class=n>{e(' x '.join(map(str, shape)) or '1')}"
            for a, b, shape in report.scope.names
        )
        parts.append(f"<details><summary>{len(report.scope.names)} weights and their partners</summary>"
                     f"{table('reference|candidate|shape', body)}</details>")  # fmt: skip
    return parts
