"""evaluation.html: an evaluation as one page that needs nothing beside it."""

import base64
import html
import io
import math
from pathlib import Path

import numpy as np

from keras_stoch.evaluation import charts
from keras_stoch.evaluation.metrics import CALIBRATED, TITLES
from keras_stoch.evaluation.subgroups import told_uncertainty
from keras_stoch.files import versions, write_atomically

WORST = 12  # pictures of errors
STYLE = """
:root{--line:#dfe3e8;--soft:#f5f7f9;--text:#1c2733;--dim:#5d6b7a;--bad:#b3261e}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--text);margin:0 auto;
max-width:1240px;padding:20px;overflow-wrap:break-word}
h1{font-size:25px;margin:0 0 4px}h2{font-size:19px;margin:34px 0 8px}p{margin:6px 0;max-width:78ch}
.dim{color:var(--dim)}.note{border-left:5px solid #d9a300;background:#fdf8e7;padding:6px 12px;margin:8px 0}
.big{display:flex;flex-wrap:wrap;gap:12px;margin:14px 0}
.big div{border:1px solid var(--line);border-radius:6px;padding:8px 14px;flex:1 1 150px}
.big b{display:block;font-size:24px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr));gap:14px}
figure{margin:0;min-width:0}figure svg{width:100%;height:auto;display:block}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;margin:8px 0}
th,td{border:1px solid var(--line);padding:4px 9px;text-align:left;white-space:nowrap}
th{background:var(--soft);font-weight:600}
td:first-child{white-space:normal;min-width:80px}td.n{text-align:right;font-variant-numeric:tabular-nums}td.bad{color:var(--bad)}
@media(max-width:600px){body{padding:12px}th,td{padding:3px 5px;font-size:12px}}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px}
.pictures figcaption{font-size:12px;line-height:1.35;margin-top:3px}
.pictures img{width:100%;height:auto;border-radius:4px;display:block}
"""


def write_page(evaluation, path) -> Path:
    """Writes an `Evaluation` as a page of HTML: figures, tables, and the worst errors as pictures."""
    images = evaluation.images
    few = "" if len(evaluation.names) < 2 else f", an ensemble of {len(evaluation.names)} runs"
    figures = [charts.roc_chart, charts.precision_recall_chart, charts.reliability_chart, charts.histogram_chart]
    if evaluation.uncertainty is not None:
        figures.append(charts.uncertainty_chart)
    drawn = "".join(f"<figure>{charts.to_svg(make(evaluation))}</figure>" for make in figures)
    body = [
        f"<h1>Evaluation of {html.escape(Path(evaluation.names[0]).name)}{few}</h1>",
        f"<p class=dim>{html.escape(', '.join(evaluation.names))}<br>on {html.escape(evaluation.data)}, split "
        f"{html.escape(evaluation.split)}: {len(images)} images, {int(images['target'].sum())} malignant; "
        f"{evaluation.passes} draw{'s' * (evaluation.passes > 1)}</p>",
        *(f"<p class=note>{html.escape(note)}</p>" for note in evaluation.notes),
        _big(evaluation),
        f"<div class=charts>{drawn}</div>",
        "<h2>Measures</h2>",
        "<p>Intervals are 95%, by bootstrap; lesions and patients are drawn whole.</p>",
        _measures(evaluation),
        *_members(evaluation),
        *_calibration(evaluation),
        *_change(evaluation),
        *_subgroups(evaluation),
        *_uncertainty(evaluation),
        *_worst(evaluation),
        f"<p class=dim>keras-stoch {versions('keras-stoch')['keras-stoch']}. Nothing here is a medical device.</p>",
    ]
    page = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1"><title>Evaluation</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
    return write_atomically(path, page)


def _big(evaluation):
    rows = evaluation.measures
    names = [n for n in ("auc", "average_precision", "ece", "sensitivity", "specificity") if n in rows.index]
    short = {"ece": "calibration error", "sensitivity": "sensitivity", "specificity": "specificity"}
    cells = "".join(
        f"<div>{html.escape(short.get(n, TITLES[n]))}<b>{_number(rows.loc[n, 'value'])}</b>"
        f"<span class=dim>{_range(rows.loc[n])}</span></div>"
        for n in names
    )
    return f"<div class=big>{cells}</div>"


def _measures(evaluation):
    before = evaluation.uncalibrated
    header = ["measure", "value", "95% interval", *(["uncalibrated"] if before is not None else [])]
    body = []
    for name, row in evaluation.measures.iterrows():
        cells = [html.escape(TITLES[name]), _number(row["value"]), _range(row)]
        if before is not None:
            cells.append(_number(before.loc[name, "value"]) if name in CALIBRATED else "")
        body.append(cells)
    body += [
        [f"sensitivity at specificity {at:.0%}", _number(value), *[""] * (len(header) - 2)]
        for at, value in evaluation.sensitivity.items()
    ]
    return _table(header, body)


def _members(evaluation):
    table = evaluation.members
    if len(table) < 2:
        return []
    names = [n for n in ("auc", "partial_auc", "average_precision", "brier", "ece") if n in table]
    header = ["run", "images", "malignant", *(n.replace("_", " ").replace("ece", "calib. error") for n in names)]
    body = [
        [html.escape(str(row["model"])), row["images"], row["malignant"], *(_number(row[n]) for n in names)]
        for row in table.to_dict("records")
    ]
    body.append(["mean", "", "", *(_number(table[n].mean()) for n in names)])
    body.append(["standard deviation", "", "", *(_number(table[n].std()) for n in names)])
    apart = "fold" in table and table["fold"].nunique() > 1
    told = "Each on its own fold, which it was not trained on." if apart else "Each by itself; above, their ensemble."
    return ["<h2>The runs</h2>", f"<p>{told}</p>", _table(header, body)]


def _calibration(evaluation):
    if evaluation.calibration is None:
        return []
    told = "".join(f"<p>{html.escape(_sentence(line.strip()))}</p>" for line in str(evaluation.calibration).split("\n"))
    return ["<h2>Temperature and threshold</h2>", f"<p>Stored with the run and applied as they are.</p>{told}"]


def _change(evaluation):
    if evaluation.change is None:
        return []
    known = evaluation.calibration
    body = [
        [
            html.escape(TITLES[name]),
            _number(row["internal"]),
            _number(row["external"]),
            f"{row['change']:+.4f}",
            _range(row, "+"),
        ]
        for name, row in evaluation.change.iterrows()
    ]
    return [
        "<h2>Against internal validation</h2>",
        f"<p>Internal: {known.images} images of {html.escape(known.data)}, split {html.escape(known.split)}. "
        f"{evaluation.paired} of the {len(evaluation.images)} images here are in both sets, and drawn together.</p>",
        _table(["measure", "internal", "here", "change", "95% interval"], body),
    ]


def _subgroups(evaluation):
    table = evaluation.subgroups
    if table.empty:
        return ["<h2>Subgroups</h2>", "<p>The manifest knows no sex, age, site, year or source that differs.</p>"]
    names = [n for n in ("auc", "average_precision", "brier", "ece", "sensitivity", "specificity") if n in table]
    header = [
        "",
        "",
        "images",
        "malignant",
        "groups",
        *(n.replace("_", " ").replace("ece", "calib. error") for n in names),
    ]
    body, before = [], None
    for row in table.to_dict("records"):
        attribute = row["attribute"] if row["attribute"] != before else ""
        before = row["attribute"]
        cells = [attribute, html.escape(row["value"]), row["images"], row["malignant"], row["groups"]]
        if row["note"]:
            cells.append(("span", html.escape(row["note"]), len(names)))
        else:
            cells += [
                f"{row[n]:.3f}<br><span class=dim>{_short(row[n + '_low'])}&ndash;{_short(row[n + '_high'])}</span>"
                for n in names
            ]
        body.append(cells)
    told = "An image that several years list is in each of them." if "year" in set(table["attribute"]) else ""
    return ["<h2>Subgroups</h2>", f"<p>{told}</p>" if told else "", _table(header, body)]


def _uncertainty(evaluation):
    if evaluation.uncertainty is None:
        return []
    body = [
        [
            f"{n + 1}",
            part["images"],
            part["errors"],
            f"{part['errors'] / part['images']:.1%}",
            f"{part['mean_spread']:.2g}",
        ]
        for n, part in enumerate(evaluation.uncertainty["fifths"])
    ]
    return [
        "<h2>Does the spread over draws tell errors?</h2>",
        f"<p>{html.escape(_sentence(told_uncertainty(evaluation.uncertainty)))} 0.5 would tell nothing.</p>",
        _table(["fifth by spread", "images", "wrong", "share", "mean spread"], body),
    ]


def _worst(evaluation):
    images = evaluation.images
    column = "probability" if evaluation.calibration is None else "calibrated"
    sign = np.where(images["target"] == 1, -1, 1)
    order = np.argsort(-sign * images["logit"].to_numpy(), kind="stable")
    pictures = []
    for n in order[:WORST]:
        row = images.iloc[n]
        name = str(row["image"] if "image" in images else Path(evaluation.files[n]).name)
        kind = "malignant" if row["target"] else "benign"
        spread = f", spread {row['spread']:.2g}" if evaluation.uncertainty is not None else ""
        pictures.append(
            f"<figure>{_thumbnail(evaluation.files[n])}<figcaption>{html.escape(name)}<br>{kind}, probability "
            f"{row[column]:.3f}{spread}</figcaption></figure>"
        )
    return [
        "<h2>Worst errors</h2>",
        f"<p>The {len(pictures)} images whose probability lies farthest on the wrong side, worst first.</p>",
        f"<div class=pictures>{''.join(pictures)}</div>",
    ]


def _thumbnail(file):
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.draft("RGB", (300, 300))
            small = image.convert("RGB")
    except OSError:
        return "<p class=dim>no longer there</p>"
    small.thumbnail((220, 220))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='' width={small.width} height={small.height} src='data:image/jpeg;base64,{encoded}'>"


def _table(header, body):
    """A table that scrolls by itself where it is too wide; ("span", text, columns) is a cell over several columns."""
    head = "".join(f"<th>{title}" for title in header)
    rows = []
    for cells in body:
        row = ""
        for n, cell in enumerate(cells):
            if isinstance(cell, tuple):
                row += f"<td class=dim colspan={cell[2]}>{cell[1]}"
            else:
                row += f"<td{' class=n' if n else ''}>{cell}"
        rows.append(f"<tr>{row}")
    return f"<div class=wide><table><thead><tr>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"


def _sentence(text):
    return f"{text[:1].upper()}{text[1:]}."


def _number(value):
    return "&ndash;" if not math.isfinite(value) else f"{value:.4f}"


def _short(value):
    return "?" if not math.isfinite(value) else f"{value:.2f}"


def _range(row, sign=""):
    if not math.isfinite(row["low"]):
        return "&ndash;"
    return f"{row['low']:{sign}.4f} to {row['high']:{sign}.4f}"
