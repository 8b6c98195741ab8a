"""Inputs that nothing can be compared on are refused in one sentence; those of another type are converted."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.__main__ import main
from tests.parity.strangers.models import L, Subclassed, TorchDense, keras_dense, keras_image, random, row, torch_image


@pytest.fixture(scope="module")
def images():
    """A right pair for (B, 8, 8, 3)."""
    return torch_image(nn.ReLU()), keras_image(L.ReLU())


@pytest.fixture(scope="module")
def two():
    """A right pair of two inputs of one shape."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x, y):
            return self.a(x) * self.b(y)

    inputs = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    a, b = (L.Dense(4, name=name)(x) for name, x in zip("ab", inputs, strict=True))
    return Two(), keras.Model(list(inputs), a * b)


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        (None, "Inputs are missing"),
        ([], "at least one"),
        ([1.0, 2.0], "a list of numbers"),
        ("images", "arrays of numbers"),
        (np.full((2, 8, 8, 3), np.inf), "must be finite"),
        (np.full((2, 8, 8, 3), 0.5), "does not vary"),
        (np.zeros((2, 8, 8, 3), np.uint8), "does not vary"),
        (random(8, 8, 3), "batch axis is missing"),
        (random(2, 3, 8, 8), "channels last"),
        (random(2, 8, 8, 4), "number of channels"),
        (random(2, 9, 8, 3), "another shape"),
        (random(0, 8, 8, 3), "is empty"),
        ((random(2, 8, 8, 3), random(2, 8, 8, 3, seed=1)), "takes 1 inputs"),
        ({"pixels": random(2, 8, 8, 3)}, "Received: pixels"),
        ([random(2, 8, 8, 3), (random(2, 8, 8, 3), random(2, 8, 8, 3, seed=1))], "takes 1 inputs"),
    ],
)
def test_refused(images, inputs, word):
    with pytest.raises(ValueError, match=word) as caught:
        parity.compare(*images, inputs)
    assert "\n" not in str(caught.value)


def test_refused_of_several(two):
    x, y = random(2, 3), random(2, 3, seed=1)
    for inputs, word in [
        ([x, y], "go into a tuple"),
        (x, "takes 2 inputs"),
        ((x, x.copy()), "exchange could not be seen"),
        ([(x, y), {"x": x, "y": y}], "of one structure"),
    ]:
        with pytest.raises(ValueError, match=word):
            parity.compare(*two, inputs)
    assert parity.compare(*two, {"x": x, "y": y}, transfer=True).passed


def test_neither_model_runs():
    with pytest.raises(ValueError, match="Neither model runs"):
        parity.compare(torch_image(), torch_image(), random(2, 8, 8, 5))


def test_only_one_model_runs():
    report = parity.compare(torch_image(), nn.Sequential(nn.Conv2d(5, 4, 3)), random(2, 8, 8, 3))
    assert report.first_failure.check == "determinism"
    assert "only the candidate fails" in str(report)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float64"])
def test_pixels_of_any_type(images, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(dtype)
    report = parity.compare(*images, pixels, transfer=True, training=False)
    assert report.passed, report
    assert parity.compare(images[0], images[0], pixels, training=False).passed
    assert parity.compare(*images, torch.from_numpy(pixels), training=False).passed


def test_ids_and_a_mask_stay_integers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc = nn.Embedding(50, 8), nn.Linear(8, 3)

        def forward(self, ids, mask):
            mask = mask.unsqueeze(-1).to(self.embed.weight.dtype)
            return self.fc((self.embed(ids) * mask).sum(1) / mask.sum(1))

    ids, mask = keras.Input((7,), dtype="int32", name="ids"), keras.Input((7,), dtype="int32", name="mask")
    x, m = L.Embedding(50, 8, name="embed")(ids), keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    port = keras.Model([ids, mask], L.Dense(3, name="fc")(keras.ops.sum(x * m, 1) / keras.ops.sum(m, 1)))
    arrays = np.random.default_rng(0).integers(0, 50, (4, 7)), np.ones((4, 7), np.int32)
    report = parity.compare(Net(), port, arrays, transfer=True)
    assert report.passed, report
    assert any("is 1 everywhere" in note for note in report.notes)


def test_equal_examples_are_told(images):
    report = parity.compare(*images, np.repeat(random(1, 8, 8, 3), 2, 0), transfer=True, training=False)
    assert any("All examples of the input are equal" in note for note in report.notes)


def test_channels_first_is_refused_where_it_does_not_run():
    inputs = keras.Input((3, 8, 8))
    port = keras.Model(inputs, L.ReLU()(L.Conv2D(4, 3, data_format="channels_first", name="0")(inputs)))
    with pytest.raises(ValueError, match="lacks operations for channels first"):
        parity.compare(torch_image(nn.ReLU()), port, random(2, 3, 8, 8))


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def models(self, monkeypatch, two, images):
        import sys
        import types

        module = types.ModuleType("pairs_of_strangers")
        module.torch_two, module.keras_two = (lambda: two[0]), (lambda: two[1])
        module.exchanged = lambda: keras.Model(two[1].inputs[::-1], two[1].output)
        module.torch_image, module.keras_image = (lambda: images[0]), (lambda: images[1])
        module.alone, module.noisy = Subclassed, lambda: TorchDense(lambda x: x + torch.randn_like(x))
        monkeypatch.setitem(sys.modules, module.__name__, module)

    @staticmethod
    def run(reference, candidate, *arguments):
        names = (f"pairs_of_strangers:{name}" for name in (reference, candidate))
        return main(["compare", *names, *arguments])

    def test_each_input_is_another(self, capsys):
        shapes = ["--input", "4,3", "--input", "4,3", "--transfer"]
        assert self.run("torch_two", "keras_two", *shapes) == 0
        assert "Outputs agree to" in capsys.readouterr().out.splitlines()[1]
        assert self.run("torch_two", "exchanged", *shapes) == 1
        assert "They part on the rung 'forward'" in capsys.readouterr().out

    def test_inputs_from_a_file(self, tmp_path, capsys):
        named, numbered, one = (tmp_path / f"{name}.npz" for name in ("named", "numbered", "one"))
        x, y = random(4, 3), random(4, 3, seed=1)
        np.savez(named, y=y, x=x)
        np.savez(numbered, x, y)
        np.savez(one, pixels=np.uint8(random(2, 8, 8, 3) * 40 + 128))
        assert self.run("torch_two", "keras_two", "--inputs", str(named), "--transfer") == 0
        assert self.run("torch_two", "keras_two", "--inputs", str(numbered), "--transfer") == 0
        assert self.run("torch_image", "keras_image", "--inputs", str(one), "--transfer") == 0
        assert self.run("torch_image", "keras_image", "--inputs", str(tmp_path / "none.npz")) == 2
        capsys.readouterr()
        assert self.run("torch_image", "keras_image", "--inputs", str(one), "--input", "2,8,8,3") == 2
        assert "Received: both" in capsys.readouterr().err
        assert self.run("torch_image", "keras_image") == 2
        assert "Received: neither" in capsys.readouterr().err

    def test_exit_codes(self, capsys):
        assert self.run("torch_image", "keras_image", "--input", "2,8,8,4") == 2
        assert "number of channels" in capsys.readouterr().err
        assert self.run("noisy", "alone", "--input", "4,6") == 1
        assert "gives another answer every time" in capsys.readouterr().out


def test_types_of_one_layer_are_in_the_report():
    report = parity.compare(TorchDense(), keras_dense(), random(4, 6).astype("float32"), transfer=True)
    assert row(report, "determinism").dtype == "float32"
    assert row(report, "forward").dtype == "float64"
