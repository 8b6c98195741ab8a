"""The court's page: verdict, contents, failures, ladder, tests, training, figures, worst tensors, faults, and how."""

import html
import math

from parity.errors import Row
from parity.report.html import cards, head, ladder, number, table, thumbnail, worst_tensors

e = html.escape
# Rungs that are not asked of every pair, in a table of their own; those of tests in another, for a p is no error.
APART = ("optimizer", "lockstep", "backends")
TESTS = ("windows", "statistics")


def render(findings, document: dict, figures: dict[str, str], thumbnails, training: dict) -> str:
    """The whole page.

    Args:
        findings: `session.Findings`.
        document: what stands in report.json.
        figures: error along the depth by name, as SVG.
        thumbnails: pictures that were used, or None.
        training: figures of training by name, as SVG.
    """
    rows, outcomes = findings.rows, findings.outcomes
    failed = [row for row in rows if not row.passed]
    sections = []
    if failed:
        sections.append(("failed", "What failed", _failed(failed)))
    if rows:
        sections.append(("ladder", "The ladder", _ladder(rows)))
    tests = _tests(rows)
    if tests:
        sections.append(("tests", "Tests of draws and of runs", tests))
    if training:
        sections.append(("training", "Training", _training(training)))
    if figures:
        sections.append(("depth", "Error along the depth", _depth(rows, figures)))
    if any(row.details.get("errors") for row in rows):
        sections.append(("worst", "Worst tensors", worst_tensors(rows)))
    if outcomes:
        sections.append(("faults", "Can it fail?", _faults(outcomes)))
    sections.append(("how", "What was compared, and how", _how(document, thumbnails)))
    contents = " \u00b7 ".join(f"<a href='#{key}'>{e(title)}</a>" for key, title, _ in sections)
    parts = [head("Parity report"), _verdict(findings, document, failed), f"<nav class=dim>{contents}</nav>"]
    parts += [f"<h2 id={key}>{e(title)}</h2>{body}" for key, title, body in sections]
    return "\n".join([*parts, "</html>"])


def _verdict(findings, document: dict, failed: list[Row]) -> str:
    rows, outcomes, acquittals = findings.rows, findings.outcomes, findings.acquittals
    missed = [o for o in outcomes if not o.caught]
    accused = [a for a in acquittals if a.failed]
    kind = "bad"
    if not findings.complete:
        done = f"{len(rows)} checks were made, {len(failed)} of them failed" if rows else "nothing was compared"
        text = f"Incomplete: interrupted; {done}"
    elif not rows and not outcomes and not acquittals:
        text = "Nothing was compared"
    elif failed:
        text = f"Not faithful: {len(failed)} of {len(rows)} checks failed"
    elif missed:
        text = f"The ladder missed {len(missed)} of {len(outcomes)} planted faults"
    elif accused:
        text = f"{len(accused)} of {len(acquittals)} correct ports were accused"
    else:
        kind, text = "", f"Faithful: all {len(rows)} checks passed"
    parts = [f"<div class='verdict {kind}'><h1>{text}</h1>"]
    if failed:
        first = failed[0]
        where = f" at <code>{e(first.first_divergence)}</code>" if first.first_divergence else ""
        sides = f"{e(first.reference)} ~ {e(first.candidate)}"
        parts.append(
            f"<p>First: {e(first.model)} {e(first.size)}, {sides}, on the rung <b>{first.check}</b>{where}.</p>"
        )
    relative = [r.value for r in rows if r.dtype == "float64" and r.measure.startswith("relative")]
    worst = max((value for value in relative if value is not None and not math.isnan(value)), default=None)
    if worst is not None:
        parts.append(f"<p>Largest error in float64: <b>{number(worst)}</b>, relative to the tensor it stands in.</p>")
    if outcomes:
        parts.append(f"<p>Planted faults caught where they were planted: <b>{len(outcomes) - len(missed)} of "
                     f"{len(outcomes)}</b>.</p>")  # fmt: skip
    if acquittals:
        parts.append(f"<p>False alarms in {len(acquittals)} correct ports: <b>{len(accused)}</b>.</p>")
    if left_out := document["options"].get("left_out"):
        parts.append(f"<p>{e(left_out)}</p>")
    if findings.unfinished:
        parts.append(f"<p>Not done: {e(', '.join(findings.unfinished))}.</p>")
    source = document["options"].get("images") or "structured pictures made here"
    commit = f"commit {document['commit']}" if document.get("commit") else ""
    facts = filter(None, (document.get("date"), commit, _time(document["seconds"]), f"on {source}"))
    parts.append(f"<p class=dim>{e(', '.join(facts))}</p>")
    if document.get("command"):
        parts.append(f"<p class=dim><code>{e(document['command'])}</code></p>")
    return "".join([*parts, "</div>"])


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _failed(failed: list[Row]) -> str:
    """A block for each, that fits any width; what was said of one is not said of the next again."""
    found, before = [], ""
    for r in failed:
        allowed = "" if r.tolerance is None else f" of {number(r.tolerance)}"
        lines = [f"<b>{r.check}</b> at <code>{e(r.first_divergence or '-')}</code>: {number(r.value)}{allowed}"]
        if r.message and r.message != before:
            lines.append(e(r.message))
        before = r.message
        found.append((f"{r.model} {r.size}", f"{r.reference} ~ {r.candidate}, {r.dtype}", "bad", lines))
    return "<p>Start at the top: a fault on a low rung shows on those above too.</p>" + cards(found)


def _ladder(rows: list[Row]) -> str:
    return (
        "<p>Each cell is the largest error of a rung: a relative one, or the number of settings or tensors that "
        "differ. The last column names the tensor that is nearest to what is allowed, or furthest beyond.</p>"
        + ladder([row for row in rows if row.check not in TESTS], APART)
    )


def _tests(rows: list[Row]) -> str:
    found = [row for row in rows if row.check == "windows" and row.value is not None]
    parts = []
    if found:
        body = "".join(
            f"<tr><td>{e(row.model)} {e(row.size)}<td>{e(row.reference)} ~ {e(row.candidate)}<td>{row.dtype}"
            f"<td class='n {'ok' if row.passed else 'bad'}'>{row.value:.2g}<td class=n>{number(row.tolerance)}"
            for row in found
        )
        parts.append(
            "<p>Windows as each side draws them itself, put to chi-square tests of their range and independence: the "
            "smallest p must not be tiny.</p>" + table("model|pair|type|smallest p|fails below", body)
        )
    compared = [row for row in rows if row.check == "statistics"]
    if compared:
        body = "".join(
            f"<tr><td>{e(row.reference)} ~ {e(row.candidate)}<td>{d['statistic'].replace('_', ' ')}"
            f"<td class=n>{d['reference']:.3f}<td class=n>{d['candidate']:.3f}<td class=n>{d['difference']:+.3f}"
            f"<td class=n>{d['interval'][0]:+.3f} to {d['interval'][1]:+.3f}<td class=n>{d['margin']:.3f}"
            f"<td class=n>{d['p_equivalent']:.4f}<td class=n>{d['p_different']:.3f}"
            f"<td class={'ok' if d['verdict'] == 'equivalent' else 'bad'}>{d['verdict']}"
            for row in compared
            for d in row.details["differences"]
        )
        parts.append(
            "<p>Means of independent runs shown to be equivalent: the difference lies within a margin that was fixed "
            "beforehand, by two one-sided tests at 5%. Not to find a difference would prove nothing. Losses are "
            "logarithms.</p>"
            + table(
                "pair|statistic|reference|candidate|difference|95% interval|margin|p equivalent|p different|verdict",
                body,
            )
        )
    return "".join(parts)


def _training(training: dict) -> str:
    parts = []
    if "lockstep" in training:
        parts.append("<p>Lockstep: how far two losses are apart, step by step, from equal weights, images, windows "
                     "and drop masks, in float64. Rounding is all that drives them apart.</p>"
                     f"<figure>{training['lockstep']}</figure>")  # fmt: skip
    if "statistics" in training:
        parts.append("<p>Independent runs, which share nothing but the images. In red the planted faults, if they were "
                     "tried; torch's own initialisers are the early divergence that the paper saw.</p>"
                     f"<figure>{training['statistics']}</figure>")  # fmt: skip
    return "".join(parts)


def _depth(rows: list[Row], figures: dict[str, str]) -> str:
    """Each figure folded under what it shows and its largest share of what is allowed; those that failed are open."""
    parts = ["<p>Every layer's output at inference, in the order of execution. Dotted: what is allowed.</p>"]
    wrong = {(row.model, row.size, row.reference, row.candidate) for row in rows if not row.passed}
    shown = {}
    for row in rows:
        if row.check == "forward" and row.details.get("errors"):
            shown.setdefault((row.model, row.size, row.reference, row.candidate), []).append(row)
    for (key, group), svg in zip(shown.items(), figures.values(), strict=True):
        model, size, reference, candidate = key
        told = ", ".join(f"{row.dtype} {number(row.value)}" for row in group)
        summary = f"{e(model)} {e(size)}: {e(reference)} ~ {e(candidate)}, largest error {told}"
        folded = f"<summary>{summary}</summary><figure>{svg}</figure>"
        parts.append(f"<details{' open' if key in wrong else ''}>{folded}</details>")
    return "".join(parts)


def _faults(outcomes) -> str:
    missed = [o for o in outcomes if not o.caught]
    body = "".join(
        f"<tr><td>{e(o.mutation.name)}<td>{o.mutation.rung}<td><code>{e(o.mutation.layer)}</code>"
        f"<td class={'ok' if o.caught else 'bad'}>{'caught' if o.caught else 'missed'}"
        f"<td class=n>{number(o.value)}<td>{e('; '.join(f'{k} at {v}' for k, v in o.failed.items())) or 'nothing'}"
        for o in sorted(outcomes, key=lambda o: o.caught)
    )
    return (
        "<p>Ports broken on purpose. Each must be caught on its rung, at its layer.</p>"
        f"<details{' open' if missed else ''}><summary>{len(outcomes)} faults, {len(missed)} missed</summary>"
        + table("fault|lowest rung|named layer|verdict|error|found", body)
        + "</details>"
    )


def _how(document: dict, thumbnails) -> str:
    parts = []
    if thumbnails is not None:
        parts.append("<p class=pictures>" + "".join(thumbnail(t) for t in thumbnails) + "</p>")
    facts = document["environment"] | {k: v for k, v in document["options"].items() if v is not None}
    body = "".join(
        f"<tr><td>{e(k)}<td>{e(', '.join(v) if isinstance(v, list | tuple) else str(v))}" for k, v in facts.items()
    )
    parts.append(table("what|value", body))
    parts.append("<p>float64: the candidate may differ from the reference by 1e-10 of a tensor's norm. float32: its "
                 "distance from the float64 result may be 8 times the reference's own. Lockstep: 1e-8 of a loss. "
                 "Statistics: p below 0.05 in every test for equivalence.</p>")  # fmt: skip
    return "".join(parts)
