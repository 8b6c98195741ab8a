"""Right ports that an instrument could take for wrong ones, and models as people have them."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import parity
from tests.parity.strangers.models import (
    DropPath,
    L,
    Subclassed,
    TorchDense,
    first,
    keras_dense,
    keras_image,
    random,
    row,
    torch_image,
)


def test_adapted_normalization_is_in_the_copy():
    norm = L.Normalization(name="norm")
    norm.adapt(random(64, 6, seed=1) * 2 + 3)
    inputs = keras.Input((6,))
    port = keras.Model(inputs, L.Dense(3, name="fc")(norm(inputs)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)
            self.mean, self.std = torch.tensor(np.array(norm.mean)), torch.tensor(np.sqrt(norm.variance))

        def forward(self, x):
            return self.fc((x - self.mean) / self.std)

    report = parity.compare(Net(), port, random(4, 6), transfer=True)
    assert report.passed, report
    assert row(report, "forward").dtype == "float64"
    assert "norm/mean" in row(report, "structure").message
    assert parity.compare(port, port, random(4, 6)).passed


@pytest.mark.parametrize("inside", ["norm", "end"])
def test_float32_inside_a_copy_is_no_fault(inside):
    """As RMSNorm of language models computes."""

    class Net(TorchDense):
        def forward(self, x):
            x = torch.relu(self.a(x))
            if inside == "norm":
                wide = x.float()
                x = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
                return self.b(x)
            return self.b(x).float()

    def norm(x):
        return x * keras.ops.rsqrt(keras.ops.mean(x * x, -1, keepdims=True) + 1e-6)

    inputs = keras.Input((6,))
    x = L.ReLU(name="act")(L.Dense(8, name="a")(inputs))
    port = keras.Model(inputs, L.Dense(3, name="b")(norm(x) if inside == "norm" else x))
    report = parity.compare(Net(), port, random(4, 6), transfer=True, tolerance=1e-10)
    assert report.passed, report
    assert "float32 even in the copies" in str(report)


def test_a_copy_that_is_another_model_is_not_used():
    port = keras_dense()
    port.get_layer("middle").activation = keras.ops.tanh

    class Later(L.Layer):
        gain = 1.0

        def call(self, x):
            return x * self.gain

    inputs = keras.Input((6,))
    later = Later(name="later")
    port = keras.Model(inputs, L.Dense(3, name="b")(later(L.Dense(8, name="a")(inputs))))
    later.gain = 2.0
    original = TorchDense(lambda x: 2 * x)
    report = parity.compare(original, port, random(4, 6), transfer=True)
    assert report.passed, report
    assert row(report, "forward").dtype == "float32"
    assert any("copy in float64 gives another output" in note for note in report.notes), report


def test_functions_without_a_name_are_copied():
    act, half = L.Activation(lambda x: keras.ops.gelu(x, approximate=False)), L.Lambda(lambda x: x / 2)

    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    report = parity.compare(torch_image(nn.GELU(), Half()), keras_image(act, half), random(2, 8, 8, 3), transfer=True)
    assert report.passed, report
    assert row(report, "forward").dtype == "float64"


def test_float64_false_measures_rounding_by_a_copy():
    report = parity.compare(TorchDense(), keras_dense(), random(4, 6), transfer=True, float64=False)
    assert report.passed, report
    assert row(report, "forward").tolerance < 1e-4
    assert any("by its float64 copy" in note for note in report.notes)
    both = parity.compare(Subclassed(), keras_dense(), random(4, 6), transfer=True)
    assert both.passed, both
    assert any("measured on the candidate" in note for note in both.notes)
    guess = parity.compare(Subclassed(), Subclassed(), random(4, 6), transfer=True)
    assert guess.passed, guess
    assert any("a guess" in note for note in guess.notes)


def test_dropout_is_off_in_training_mode_by_class():
    class Functional(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 0.5, self.training)

    original = torch_image(DropPath(0.25), nn.Dropout(0.5), Functional())
    port = keras_image(L.Dropout(0.25, noise_shape=(None, 1, 1, 1)), L.Dropout(0.5), L.Dropout(0.5))
    report = parity.compare(original, port, random(4, 8, 8, 3), transfer=True)
    assert report.passed, report
    assert "the other's dropout is a function" in row(report, "configuration").message  # which tells no rate
    assert parity.compare(original, port, random(4, 8, 8, 3), transfer=True, training=False).passed


def test_random_layers_are_found_by_what_they_do():
    original = torch_image(nn.RReLU(0.1, 0.3))
    port = keras_image(L.LeakyReLU(negative_slope=0.2))
    report = parity.compare(original, port, random(4, 8, 8, 3), transfer=True)
    assert report.passed, report


def test_what_can_not_be_switched_off_is_not_compared():
    class Noisy(TorchDense):
        def forward(self, x):
            x = self.a(x)
            return self.b(x + torch.randn_like(x) if self.training else x)

    report = parity.compare(Noisy(), keras_dense("linear"), random(4, 6), transfer=True)
    assert [r.check for r in report.rows if r.status == "not compared"] == ["batch_norm", "gradients"]
    assert report.status == "not compared"
    assert not report.passed
    assert report.first_failure is None
    assert "draws at random in training mode" in str(report)
    assert "Outputs agree to" in str(report).splitlines()[0]
    assert parity.compare(Noisy(), keras_dense("linear"), random(4, 6), transfer=True, training=False).passed


def test_the_unbiased_variance_is_told():
    def models():
        norm = L.BatchNormalization(epsilon=1e-5, momentum=0.9)
        return torch_image(nn.BatchNorm2d(4)), keras_image(norm)

    batches = [random(2, 8, 8, 3), random(3, 8, 8, 3, seed=1)]  # of unequal sizes
    report = parity.compare(*models(), batches, transfer=True)
    assert report.passed, report
    assert row(report, "batch_norm").details["known"][0][0] == "1/moving_variance"
    assert "unbiased" in row(report, "batch_norm").message
    assert first(parity.compare(*models(), batches, transfer=True, strict=True)) == ("batch_norm", "1")
    wrong = keras_image(L.BatchNormalization(epsilon=1e-5, momentum=0.95))
    report = parity.compare(models()[0], wrong, batches, transfer=True)
    assert [r.check for r in report.rows if not r.passed] == ["configuration", "batch_norm"]


@pytest.mark.parametrize(
    ("module", "layers"),
    [
        (nn.BatchNorm2d(4, momentum=None), [L.BatchNormalization(epsilon=1e-5)]),
        (nn.BatchNorm2d(4, affine=False), [L.BatchNormalization(epsilon=1e-5)]),
        (nn.Conv2d(4, 5, 1, bias=False), [L.Conv2D(5, 1)]),
        (nn.Dropout(0.5), [L.Dropout(0.1)]),
        (nn.Identity(), [L.Dropout(0.1)]),
    ],
    ids=["momentum=None", "no affine", "bias of zeros", "another rate", "no dropout"],
)
def test_what_does_not_matter_at_inference(module, layers):
    original = torch_image(module)
    original[0].requires_grad_(False)
    report = parity.compare(original, keras_image(*layers), random(2, 8, 8, 3), transfer=True, training=False)
    assert report.passed, report


def test_float64_without_a_kernel_falls_back():
    original = nn.Sequential(nn.Conv3d(2, 4, 3), nn.MaxPool3d(2))
    inputs = keras.Input((6, 6, 6, 2))
    port = keras.Model(inputs, L.MaxPooling3D(2, name="1")(L.Conv3D(4, 3, name="0")(inputs)))
    report = parity.compare(original, port, random(2, 6, 6, 6, 2), transfer=True)
    assert report.passed, report
    assert any("no float64" in note for note in report.notes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_originals(dtype):
    original = torch_image(nn.BatchNorm2d(4), nn.ReLU()).to(dtype)
    port = keras_image(L.BatchNormalization(epsilon=1e-5), L.ReLU())
    report = parity.compare(original, port, random(2, 8, 8, 3), transfer=True, training=False)
    assert report.passed, report
    assert any("half precision itself is not looked at" in note for note in report.notes)
    assert parity.compare(original, port, random(2, 8, 8, 3), training=False, float64=False).passed


def test_embeddings_and_tied_weights():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    @keras.saving.register_keras_serializable("strangers")
    class Port(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.embed = L.Embedding(11, 4, name="embed")

        def call(self, ids):
            return keras.ops.matmul(self.embed(ids), keras.ops.transpose(self.embed.embeddings))

    ids = np.random.default_rng(0).integers(0, 11, (3, 5))
    port = Port()
    port(ids)
    report = parity.compare(Net(), port, ids, transfer=True)
    assert report.passed, report
    assert report.transfer.complete
    assert row(report, "gradients").value is not None

    inputs = keras.Input((5,), dtype="int32")
    apart = L.Dense(11, use_bias=False, name="head")
    port = keras.Model(inputs, apart(L.Embedding(11, 4, name="embed")(inputs)))
    report = parity.compare(Net(), port, ids, transfer=True, training=False)
    assert report.passed, report
    assert report.transfer.complete
    report = parity.compare(Net(), port, ids, transfer=True)
    assert first(report)[0] == "gradients"  # two tables that part in training
    original = Net()
    parity.torch_to_keras(original, port)
    apart.kernel.assign(apart.kernel + 1)
    assert first(parity.compare(original, port, ids, training=False)) == ("weights", "head")
    back = parity.keras_to_torch(port, Net(), strict=False)  # one table can't hold two
    assert not back.complete


def test_two_models_of_one_framework_by_order():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return torch.relu(self.conv(x))

    report = parity.compare(torch_image(nn.ReLU()), Other(), random(2, 8, 8, 3), names="order", transfer=True)
    assert report.passed, report
    assert report.transfer.complete


@pytest.mark.parametrize("names", [None, "order", [("^$", "fc")]])
def test_a_model_that_is_one_layer(names):
    port = keras.Sequential([keras.Input((6,)), L.Dense(3, name="fc")])
    report = parity.compare(nn.Linear(6, 3), port, random(4, 6), names=names, transfer=True)
    assert report.passed, report


def test_wrappers_are_taken_off_and_scripts_refused():
    report = parity.compare(nn.DataParallel(TorchDense()), keras_dense(), random(4, 6), transfer=True)
    assert report.passed, report
    with pytest.raises(ValueError, match="TorchScript"):
        parity.compare(torch.jit.trace(TorchDense(), torch.zeros(1, 6)), keras_dense(), random(4, 6))
