"""What `compare` writes for a person: the page of a failed, a right and an undecided comparison, and its JSON."""

import html
import json
import re

import keras
import numpy as np
import pytest
from torch import nn

import parity
from parity.__main__ import main
from tests.parity.strangers.models import L, TorchDense, keras_dense, keras_image, random, torch_image

PIXELS = np.random.default_rng(0).uniform(size=(2, 8, 8, 3))


def written(report, folder, command=""):
    page = report.write(folder, command).read_text()
    assert not re.search(r"(src|href)=[\"']?http|@import|url\(http", page)  # self-contained
    return html.unescape(page), json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def failed():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            return nn.functional.leaky_relu(self.norm(self.conv(x)), 0.2)  # <the line>

    inputs = keras.Input((8, 8, 3))
    x = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, name="conv")(inputs))
    port = keras.Model(inputs, L.LeakyReLU(negative_slope=0.3, name="act")(x), name="port")
    return parity.compare(Net(), port, PIXELS, transfer=True)


def test_a_failed_comparison_shows_place_cause_and_both_sides(failed, tmp_path):
    page, document = written(failed, tmp_path, "python -m parity compare <a> b")
    assert "They part on the rung “configuration” at norm" in page
    assert "Outputs differ by" in page
    causes = {cause["name"]: cause for cause in document["causes"]}
    assert "slope 0.2" in causes["act"]["says"]
    assert "slope 0.3" in causes["act"]["says"]
    assert "nn.functional.leaky_relu(self.norm(self.conv(x)), 0.2)  # <the line>" in page  # torch's source
    assert "negative_slope=0.3" in page  # how the Keras layer was made
    assert "BatchNorm2d(4, eps=1e-05" in page
    assert "6 of 6" in page  # weights
    assert "python -m parity compare <a> b" in page
    assert document["command"] == "python -m parity compare <a> b"
    assert not document["passed"]
    assert document["environment"]["torch"]
    marked = [here for _, _, _, here in document["scope"]["depth"] if here]
    assert marked == ["norm", "act"]
    assert "<svg" in (tmp_path / "depth.svg").read_text()


def test_nothing_in_a_page_is_taken_for_markup(failed, tmp_path):
    raw = failed.write(tmp_path).read_text()
    assert "<the line>" not in raw
    assert "&lt;the line&gt;" in raw


def test_depth_goes_from_equal_to_apart(failed):
    values = [(point.name, point.value) for point in failed.scope.depth]
    place = next(n for n, point in enumerate(failed.scope.depth) if point.here)
    assert place > 0
    assert all(value is not None and value < 1e-10 for _, value in values[:place])
    assert values[-1][0] == "output"
    assert values[-1][1] > 1e-3


@pytest.mark.slow
def test_a_right_comparison_says_what_was_compared(tmp_path):
    report = parity.compare(torch_image(nn.ReLU()), keras_image(L.ReLU()), PIXELS, transfer=True)
    page, document = written(report, tmp_path)
    assert report.passed, report
    assert "Equal on every rung" in page
    assert document["causes"] == []
    assert report.scope.share == 1.0
    for side in report.scope.sides:
        assert side.paired == side.operations > 0
        assert (side.tensors, side.parameters) == (2, 112)
    assert "100% of the parameters" in str(report)
    assert "0.weight" in page  # the partners, by their own names


def test_weights_without_a_partner_lessen_the_share():
    report = parity.compare(TorchDense(), keras_dense(L.Dense(8, name="extra")), random(4, 6), transfer=True)
    assert 0 < report.scope.share < 1
    assert f"{100 * report.scope.share:.3g}% of the parameters" in str(report)


def test_no_verdict_is_neither_green_nor_red(tmp_path):
    port = keras_dense()
    for layer in port.layers:
        layer.name = f"other_{layer.name}"
    page, document = written(parity.compare(TorchDense(), port, random(4, 6)), tmp_path)
    assert document["status"] == "not compared"
    assert "No verdict" in page
    assert "<div class='verdict maybe'>" in page


def test_a_model_that_answers_differently_every_time_has_a_page_too(tmp_path):
    noisy = TorchDense(lambda x: nn.functional.dropout(x, 0.5))
    report = parity.compare(noisy, keras_dense("linear"), random(4, 6), transfer=True)
    page, document = written(report, tmp_path)
    assert document["scope"] is None
    assert "They part on the rung “determinism”" in page
    assert "gives another answer every time" in page


PAIR = """
import keras
from torch import nn

def make_torch():
    return nn.Sequential(nn.Linear(6, 3), nn.ReLU())

def make_keras():
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.Activation("gelu", name="1")(keras.layers.Dense(3, name="0")(inputs)))
"""


def test_out_writes_the_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "page_models.py").write_text(PAIR)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "page_models:make_torch", "page_models:make_keras", "--input", "2,6", "--transfer",
                 "--out", "build/page"]) == 1  # fmt: skip
    assert "build/page/report.html" in capsys.readouterr().out
    assert "They part on the rung" in (tmp_path / "build/page/report.html").read_text()
