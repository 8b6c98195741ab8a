"""The court's report: a terminal table that grows, report.json, and one self-contained HTML page."""

import html
import json
from pathlib import Path

from parity.court.figures import training_figures
from parity.court.trials import Acquittal, Outcome
from parity.environment import versions
from parity.errors import Row
from parity.report.figures import depth_figures
from parity.report.files import finite, write_whole
from parity.report.html import STYLE, ladder, table, thumbnail, worst_tensors
from parity.report.terminal import number

LANDMARKS = r"(detail_)?(stem_conv|block\d+a|top_conv|predictions)"
# Rungs that are not asked of every pair, in a table of their own.
APART = (
    "optimizer",
    "lockstep",
    "statistics",
    "backends",
)


class Terminal:
    """Prints verdicts line by line as they are reached: of the ladder, of planted faults, of correct ports."""

    HEADER = (
        f"{'':5}{'model':10} {'size':13} {'dtype':8} {'reference ~ candidate':36} {'check':14}"
        f" {'error':>8}  {'allowed':>8}  worst"
    )

    def __init__(self, write=print):
        self.write = write
        self.write(self.HEADER)

    def tell(self, found) -> None:
        """Prints a `Row`, `Outcome` or `Acquittal`."""
        {Row: self._row, Outcome: self._outcome, Acquittal: self._acquittal}[type(found)](found)

    def _row(self, row):
        sides = f"{row.reference} ~ {row.candidate}"
        verdict = "ok" if row.passed else "FAIL"
        where = (row.worst or "") if row.passed else f"first: {row.first_divergence or '-'}; {row.message[:200]}"
        self.write(
            f"{verdict:5}{row.model:10} {row.size:13} {row.dtype:8} {sides:36} {row.check:14}"
            f" {number(row.value):>8}  {number(row.tolerance):>8}  {where}"
        )

    def _outcome(self, outcome):
        m = outcome.mutation
        verdict = "ok" if outcome.caught else "MISS"
        place = m.layer if outcome.caught else f"expected at {m.layer}; found {outcome.failed or 'nothing'}"
        self.write(f"{verdict:5}{'fault':10} {m.name:59} {m.rung:14} {outcome.margin:>8}  {'':8}  {place}")

    def _acquittal(self, acquittal):
        verdict = f"FAIL {acquittal.failed}" if acquittal.failed else "ok"
        self.write(f"{verdict:5}{'port':10} correct, seed {acquittal.seed}")


def all_well(findings) -> bool:
    """Whether all was done, something was, no check failed, every fault was caught and no correct port accused."""
    return (
        findings.complete
        and bool(findings.rows or findings.outcomes or findings.acquittals)
        and all(row.passed for row in findings.rows)
        and all(outcome.caught for outcome in findings.outcomes)
        and not any(acquittal.failed for acquittal in findings.acquittals)
    )


def write(findings, folder, options: dict, seconds: float, thumbnails=None) -> Path:
    """Writes report.json, report.html and figures/*.svg, each whole or not at all.

    Args:
        findings: `session.Findings`.
        folder: where to; made if need be.
        options: what was asked for, for the record.
        seconds: the whole run took.
        thumbnails: (n, height, width, 3) pictures of the images that were used, 0-255.

    Returns:
        The path of report.html.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    rows, outcomes = findings.rows, findings.outcomes
    document = {
        "passed": all_well(findings),
        "complete": findings.complete,
        "unfinished": findings.unfinished,
        "seconds": round(seconds, 1),
        "options": options,
        "environment": versions(),
        "checks": [row.asdict() for row in rows],
        "mutations": [
            {
                "name": o.name,
                "rung": o.mutation.rung,
                "layer": o.mutation.layer,
                "caught": o.caught,
                "failed": o.failed,
                "value": o.value,
            }
            for o in outcomes
        ],
        "correct_ports": [{"seed": a.seed, "failed": a.failed} for a in findings.acquittals],
    }
    write_whole(folder / "report.json", json.dumps(finite(document), indent=1))
    figures = depth_figures(rows, LANDMARKS)
    training = training_figures(rows, outcomes)
    for name, svg in (training | figures).items():
        write_whole(folder / "figures" / f"{name}.svg", svg)
    write_whole(folder / "report.html", _render(findings, document, figures, thumbnails, training))
    return folder / "report.html"


def _render(findings, document: dict, figures: dict[str, str], thumbnails, training: dict) -> str:
    """The HTML page: verdict first, then the ladder, failures, figures, worst tensors, and how it was done."""
    rows, outcomes = findings.rows, findings.outcomes
    accused = [a for a in findings.acquittals if a.failed]
    e = html.escape
    failed = [row for row in rows if not row.passed]
    missed = [o for o in outcomes if not o.caught]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Parity report</title><style>{STYLE}</style>",
    ]
    if not findings.complete:
        done = f"{len(rows)} checks were made, {len(failed)} of them failed" if rows else "nothing was compared"
        verdict, text = "bad", f"Incomplete: interrupted; {done}"
    elif not rows:
        verdict, text = "bad", "Nothing was compared"
    elif failed:
        verdict, text = "bad", f"Not faithful: {len(failed)} of {len(rows)} checks failed"
    elif missed:
        verdict, text = "bad", f"The ladder missed {len(missed)} of {len(outcomes)} planted faults"
    elif accused:
        verdict, text = "bad", f"{len(accused)} of {len(findings.acquittals)} correct ports were accused"
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
    if findings.acquittals:
        parts.append(f"<p>False alarms in {len(findings.acquittals)} correct ports: <b>{len(accused)}</b>.</p>")
    if findings.unfinished:
        parts.append(f"<p>Not done: {e(', '.join(findings.unfinished))}.</p>")
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
        parts.append(table("model|pair|type|rung|first at|error|allowed|message", body))

    parts.append("<h2>The ladder</h2><p>Each cell is the largest error of a rung: a relative one, the number of "
                 "settings or tensors that differ, or for windows the smallest p of the tests of what both sides draw. "
                 "Hover for the tensor.</p>")  # fmt: skip
    parts.append(ladder(rows, APART))
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
        parts.append(table("pair|statistic|reference|candidate|difference|95% interval|margin|p equivalent|"
                            "p different|verdict", body))  # fmt: skip
    if figures:
        parts.append("<h2>Error along the depth</h2><p>Every layer's output at inference, in the order of execution. "
                     "Dotted: what is allowed.</p>")  # fmt: skip
        parts += [f"<figure>{svg}</figure>" for svg in figures.values()]
    parts.append("<h2>Worst tensors</h2>" + worst_tensors(rows))
    if outcomes:
        parts.append(
            "<h2>Can it fail?</h2><p>Ports broken on purpose. Each must be caught on its rung, at its layer.</p>"
        )
        body = "".join(
            f"<tr><td>{e(o.mutation.name)}<td>{o.mutation.rung}<td><code>{e(o.mutation.layer)}</code>"
            f"<td class={'ok' if o.caught else 'bad'}>{'caught' if o.caught else 'missed'}"
            f"<td class=n>{number(o.value)}<td>{e('; '.join(f'{k} at {v}' for k, v in o.failed.items())) or 'nothing'}"
            for o in outcomes
        )
        parts.append(table("fault|lowest rung|named layer|verdict|error|found", body))
    parts.append("<h2>What was compared</h2>")
    if thumbnails is not None:
        parts.append("<p class=pictures>" + "".join(thumbnail(t) for t in thumbnails) + "</p>")
    facts = document["environment"] | {k: v for k, v in document["options"].items() if v is not None}
    body = "".join(
        f"<tr><td>{e(k)}<td>{e(', '.join(v) if isinstance(v, list | tuple) else str(v))}" for k, v in facts.items()
    )
    parts.append(table("what|value", body))
    parts.append("<p>float64: the candidate may differ from the reference by 1e-10 of a tensor's norm. float32: its "
                 "distance from the float64 result may be 8 times the reference's own. Lockstep: 1e-8 of a loss. "
                 "Statistics: p below 0.05 in every test for equivalence.</p></html>")  # fmt: skip
    return "\n".join(parts)
