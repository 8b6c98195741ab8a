"""The court's report: a terminal table that grows, report.json, and one self-contained HTML page."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from parity.court import page
from parity.court.figures import training_figures
from parity.court.trials import Acquittal, Outcome
from parity.environment import versions
from parity.errors import Row
from parity.report.figures import depth_figures
from parity.report.files import finite, write_whole
from parity.report.terminal import number

LANDMARKS = r"(detail_)?(stem_conv|block\d+a|top_conv|predictions)"


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
        if outcome.cause:
            place = f"{place}  why: {outcome.cause[:200]}"
        self.write(f"{verdict:5}{'fault':10} {m.name:59} {m.rung:14} {outcome.margin:>8}  {'':8}  {place}")

    def _acquittal(self, acquittal):
        verdict = f"FAIL {acquittal.failed}" if acquittal.failed else "ok"
        self.write(f"{verdict:5}{'port':10} correct, seed {acquittal.seed}")


def _commit() -> str:
    """The commit of the working directory, with a plus where it was changed; "" outside of a repository."""
    try:
        git = ("git", "describe", "--always", "--dirty=+", "--exclude=*")
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


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
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
        "commit": _commit(),
        "command": shlex.join(["python", "-m", "parity", *sys.argv[1:]]),
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
                "explained": o.explained,
                "causes": o.causes,
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
    write_whole(folder / "report.html", page.render(findings, document, figures, thumbnails, training))
    return folder / "report.html"
