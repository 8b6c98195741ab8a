"""Parts of an HTML page that tells verdicts: style, tables, the ladder, the worst tensors, thumbnails."""

import html
import io
import math

import numpy as np

from parity.errors import Row
from parity.report.terminal import number

STYLE = """
:root{--ok:#1d7a46;--bad:#b3261e;--line:#dfe3e8;--soft:#f5f7f9;--text:#1c2733;--dim:#5d6b7a}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--text);margin:0 auto;
max-width:1240px;padding:24px}
h1{font-size:26px;margin:0}h2{font-size:19px;margin:36px 0 8px}p{margin:6px 0;max-width:75ch}
.verdict{border-left:8px solid var(--ok);background:#eef7f1;padding:16px 20px;border-radius:4px}
.verdict.bad{border-color:var(--bad);background:#fdf0ef}
.verdict.maybe{border-color:#9a6b00;background:#fdf7e8}
.dim{color:var(--dim)}
table{border-collapse:collapse;font-size:13px;margin:8px 0;width:100%}
th,td{border:1px solid var(--line);padding:4px 8px;text-align:left;vertical-align:top}
th{background:var(--soft);font-weight:600}
td.k{white-space:nowrap}td.wrap{overflow-wrap:anywhere;min-width:9em}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.ok{background:#eef7f1;color:var(--ok)}td.bad{background:#fdf0ef;color:var(--bad);font-weight:600}
td.maybe{background:#fdf7e8;color:#7a5500}
td.none{color:#b4bec8;text-align:center}
.card{display:grid;grid-template-columns:11em 1fr;gap:2px 12px;border-left:6px solid var(--ok);background:var(--soft);
padding:8px 12px;margin:6px 0;border-radius:4px;overflow-wrap:anywhere;font-size:14px}
.card.bad{border-color:var(--bad);background:#fdf0ef}.card.maybe{border-color:#9a6b00;background:#fdf7e8}
.card>div:first-child{font-weight:600}.card>div:first-child span{display:block;font-weight:400;font-size:12.5px}
.cause{border-top:1px solid var(--line);padding:4px 0 8px}.cause h3{margin:10px 0 0;font-size:16px}
.mend{max-width:none;overflow-wrap:anywhere}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:12px}.sides>div{min-width:0}
pre{font-size:12.5px;background:var(--soft);padding:8px 10px;border-radius:4px;overflow-x:auto;margin:4px 0;
white-space:pre-wrap;overflow-wrap:anywhere}
nav{margin:12px 0}nav a{color:inherit;white-space:nowrap}
@media(max-width:700px){.ladder thead{display:none}.ladder tr{display:block;border:1px solid var(--line);margin:6px 0;
padding:4px}.ladder td{display:inline-block;border:0;padding:1px 6px;white-space:normal}
.ladder td.n::before{content:attr(data-rung) " ";color:var(--dim);font-weight:400}
.ladder td.none,.ladder td:empty{display:none}
body{padding:14px}.sides,.card{grid-template-columns:1fr}figure{overflow-x:auto}
figure svg{min-width:720px}}
code{font-size:12.5px;background:var(--soft);padding:1px 4px;border-radius:3px}
.wide{overflow-x:auto}.pictures img{height:88px;border-radius:4px;margin:0 6px 6px 0}
figure{margin:10px 0}figure svg{width:100%;height:auto}
details>summary{cursor:pointer;color:var(--dim);margin:6px 0}
"""


def head(title: str) -> str:
    """The beginning of a page."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    )


def cards(rows) -> str:
    """Verdicts one below the other, which fit any width: (title, what it is, class, lines of HTML) each."""
    return "".join(
        f"<div class='card {kind}'><div>{html.escape(title)}<span class=dim>{html.escape(what)}</span></div>"
        f"<div>{'<br>'.join(lines)}</div></div>"
        for title, what, kind, lines in rows
    )


def table(header: str, body: str) -> str:
    """A table that scrolls by itself where it is too wide; `header` is separated by bars."""
    head = "".join(f"<th>{title}" for title in header.split("|"))
    return f"<div class=wide><table><thead><tr>{head}</thead><tbody>{body}</tbody></table></div>"


def ladder(rows: list[Row], apart=()) -> str:
    """All verdicts, a row a pair and a column a rung; those of `apart`, not asked of every pair, by themselves.

    On a narrow screen each row is a block of its own, with the rungs' names beside the numbers.
    """
    checks = [check for check in dict.fromkeys(row.check for row in rows) if check not in apart]
    groups = {}
    for row in rows:
        if row.check not in apart:
            key = (row.model, row.size, f"{row.reference} ~ {row.candidate}", row.dtype)
            groups.setdefault(key, {})[row.check] = row
    body = []
    for key, found in groups.items():
        cells = [_cell(found[check]) if check in found else "<td class=none>&middot;" for check in checks]
        name = "".join(f"<td class=k>{html.escape(part)}" for part in key)
        body.append(f"<tr>{name}{''.join(cells)}<td class=wrap>{_nearest(found.values())}")
    tables = ""
    if body:
        header = [
            "model",
            "size",
            "pair",
            "type",
            *(check.replace("_", " ") for check in checks),
            "nearest to its limit",
        ]
        tables = table("|".join(header), "".join(body)).replace("<table>", "<table class=ladder>")
    others = "".join(
        f"<tr><td>{row.check}<td>{html.escape(row.model)} {html.escape(row.size)}"
        f"<td>{html.escape(row.reference)} ~ {html.escape(row.candidate)}<td>{row.dtype}{_cell(row)}"
        f"<td class=n data-rung=allowed>{number(row.tolerance)}<td><code>{html.escape(row.worst or '-')}</code>"
        for row in rows
        if row.check in apart
    )
    if others:
        tables += table("rung|what|pair|type|error|allowed|worst", others).replace("<table>", "<table class=ladder>")
    return tables


def _cell(row: Row) -> str:
    title = html.escape(f"allowed {number(row.tolerance)}, worst {row.worst}, {row.seconds:.1f} s", quote=True)
    mark = "" if row.passed else "&#10007; "
    label = html.escape(row.check.replace("_", " "), quote=True)
    return (
        f"<td class='n {'ok' if row.passed else 'bad'}' data-rung='{label}' title='{title}'>{mark}{number(row.value)}"
    )


def _nearest(rows) -> str:
    """The tensor that uses most of what is allowed, of all rungs of a pair; or the first that failed."""
    failed = next((row for row in rows if not row.passed), None)
    if failed is not None:
        return f"<code>{html.escape(failed.first_divergence or failed.worst or '-')}</code> {failed.check}"
    shares = [(row.value / row.tolerance, row) for row in rows if row.value and row.tolerance and row.worst]
    if not shares:
        return ""
    share, row = max(shares, key=lambda item: item[0])
    return f"<code>{html.escape(row.worst)}</code> {row.check.replace('_', ' ')} {share:.1g}"


def worst_tensors(rows: list[Row], count: int = 15) -> str:
    """The tensors nearest to what is allowed, or beyond."""
    found = []
    for row in rows:
        for name, value, allowed, max_abs in row.details.get("errors", ()):
            share = float("inf") if not isinstance(value, float) or math.isnan(value) else value / allowed
            found.append((share, row, name, value, allowed, max_abs))
    found.sort(key=lambda item: -item[0])
    body = "".join(
        f"<tr><td><code>{html.escape(name)}</code><td>{html.escape(row.model)} {html.escape(row.size)}"
        f"<td>{html.escape(row.reference)} ~ {html.escape(row.candidate)}<td>{row.check}<td>{row.dtype}"
        f"<td class=n>{number(value)}<td class=n>{number(allowed)}"
        f"<td class=n>{f'{share:.2f}' if share < 1000 else number(share)}<td class=n>{number(max_abs)}"
        for share, row, name, value, allowed, max_abs in found[:count]
    )
    return table("tensor|model|pair|rung|type|error|allowed|share|largest difference", body)


def thumbnail(pixels: np.ndarray) -> str:
    """A picture (height, width, 3), 0-255, as an element of the page."""
    import base64

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.uint8(np.clip(pixels, 0, 255))).save(buffer, "JPEG", quality=80)
    return f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
