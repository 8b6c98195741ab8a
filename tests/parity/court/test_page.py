"""The court's page of a failed and of a green run: contents, failures, what needs no hovering, folded figures."""

import re
from types import SimpleNamespace

import pytest

from parity.court import page
from parity.court.cases import Options
from parity.errors import Row
from parity.report.figures import depth_figures

PAIRS = (("official", "keras_stoch"), ("official", "torch_ref"))
DOCUMENT = {
    "options": {"images": None, "seed": 3},
    "environment": {"torch": "2.13.0"},
    "seconds": 840,
    "date": "2026-11-26 02:11 UTC",
    "commit": "d0c2c37+",
    "command": "python -m parity run --models b0",
}


def rendered(wrong: bool, complete=True) -> str:
    rows = []
    for reference, candidate in PAIRS:
        for check, measure, value in (
            ("forward", "relative L2", 2e-13),
            ("gradients", "relative L2", 5e-12),
            ("windows", "smallest p of chi-square tests", 0.25),
            ("lockstep", "absolute difference of losses", 1e-12),
        ):
            errors = [["stem", 1e-16, 1e-10, 1e-15], ["block3a_bn", value, 1e-10, 1e-9]]
            rows.append(Row("b0", reference, candidate, check, "float64", True, measure, value, 1e-10,
                            worst="block3a_bn", details={"errors": errors}, size="96"))  # fmt: skip
    if wrong:
        for row in rows[4:6]:  # official ~ torch_ref
            row.passed, row.status, row.first_divergence, row.message = False, "FAIL", "block3a_bn", "they <part>"
    findings = SimpleNamespace(
        rows=rows, outcomes=[], acquittals=[], complete=complete, unfinished=[] if complete else ["b4 at 64"]
    )
    return page.render(findings, DOCUMENT, depth_figures(rows), None, {})


def test_a_look_says_what_it_left_out(monkeypatch):
    assert "A look" not in rendered(wrong=False)
    monkeypatch.setitem(DOCUMENT, "options", {**DOCUMENT["options"], "left_out": Options(("b0",), look=True).left_out})
    assert "A look at the rungs of b0: B0 trains in lockstep for 4 steps of 20" in rendered(wrong=False)


def test_a_failed_run():
    text = rendered(wrong=True)
    assert "Not faithful: 2 of 8 checks failed" in text
    assert "First: b0 96, official ~ torch_ref, on the rung <b>forward</b> at <code>block3a_bn</code>" in text
    assert text.count("they &lt;part&gt;") == 1  # the second says the same
    assert len(re.findall("<div class='card bad'>", text)) == 2
    # Of two figures the one of the failed pair is open.
    assert text.count("<details open><summary>b0 96: official ~ torch_ref") == 1
    assert text.count("<details><summary>b0 96: official ~ keras_stoch") == 1
    for fact in ("2026-11-26 02:11 UTC", "commit d0c2c37+", "14 minutes", "python -m parity run --models b0"):
        assert fact in text


def test_a_green_run():
    text = rendered(wrong=False)
    assert "Faithful: all 8 checks passed" in text
    assert "What failed" not in text
    assert "card bad" not in text.partition("</style>")[2]


@pytest.mark.parametrize("wrong", [False, True])
def test_contents_lead_somewhere(wrong):
    text = rendered(wrong)
    links = re.findall(r"<a href='#(\w+)'>", text)
    assert len(links) >= 5
    for link in links:
        assert text.count(f"<h2 id={link}>") == 1


def test_the_nearest_tensor_is_read_without_hovering_and_a_p_is_no_error():
    text = rendered(wrong=False)
    ladder = text[text.index("<table class=ladder>") :].partition("</table>")[0]
    assert ladder.count("<code>block3a_bn</code> gradients") == 2
    assert "windows" not in ladder
    assert "lockstep" not in ladder
    tests = text[text.index("<h2 id=tests>") :].partition("</table>")[0]
    assert tests.count(">0.25<") == 2
    assert "smallest p" in tests
    assert "data-rung='gradients'" in ladder  # what a phone shows beside the number


def test_an_interrupted_run_says_so():
    text = rendered(wrong=True, complete=False)
    assert "Incomplete: interrupted; 8 checks were made, 2 of them failed" in text
    assert "Not done: b4 at 64" in text
