"""The models against those of keras.applications, and the layers where frameworks differ."""

import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn

import torch_ref
from torch_ref.architectures import ARCHITECTURES
from torch_ref.layers import Conv2d, Dropout
from torch_ref.norms import BatchNorm2d


@pytest.mark.parametrize(("name", "count"), [("b0", 4_008_829), ("b4", 17_550_409)])
def test_trainable_counts_are_the_official_ones(name, count):
    assert sum(p.numel() for p in torch_ref.create_model(name).parameters()) == count


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 9), (7, 12)])
def test_padding_is_tensorflows_same(kernel, stride, size, rng):
    x = rng.normal(size=(2, *size, 3))
    conv = Conv2d(3, 4, kernel, stride).double()
    w = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
    expected = tf.nn.conv2d(x, w, stride, "SAME").numpy()
    actual = conv(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_batch_norm_stores_the_biased_variance(rng):
    x = rng.normal(3, 2, (4, 5, 6, 7))
    ours, theirs = BatchNorm2d(5).double(), nn.BatchNorm2d(5, eps=1e-3, momentum=0.01).double()
    np.testing.assert_array_equal(ours(torch.from_numpy(x)).detach(), theirs(torch.from_numpy(x)).detach())
    np.testing.assert_allclose(ours.running_mean, 0.01 * x.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(ours.running_var, 0.99 + 0.01 * x.var((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(theirs.running_var, 0.99 + 0.01 * x.var((0, 2, 3), ddof=1), rtol=1e-12)


def test_batch_norm_gradient(rng):
    norm = BatchNorm2d(2).double()
    x = torch.from_numpy(rng.normal(size=(3, 2, 2, 2))).requires_grad_()
    assert torch.autograd.gradcheck(norm, (x,))


def test_initialisation_has_the_official_spread():
    import keras

    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    ours = torch_ref.create_model("b0", num_classes=1000)
    official = keras.applications.EfficientNetB0(weights=None)
    for path, layer in [
        ("block6a.expand_conv", "block6a_expand_conv"),
        ("block5b.dwconv", "block5b_dwconv"),
        ("block7a.project_conv", "block7a_project_conv"),
        ("predictions", "predictions"),
    ]:
        a = ours.get_submodule(path).weight.detach().numpy().ravel()
        b = official.get_layer(layer).kernel.numpy().ravel()
        # Same law: the quantiles agree within four standard errors of a quantile estimate.
        for q in (0.01, 0.25, 0.75, 0.99):
            assert abs(np.quantile(a, q) - np.quantile(b, q)) < 6 * b.std() / np.sqrt(len(b)) * 4


def test_drop_masks_are_obeyed_and_scaled(rng):
    drop = Dropout(0.25, "x", per_image=True)
    x = torch.ones(2, 3, 1, 1)
    mask = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    np.testing.assert_allclose(drop(x, {"x": mask}), x * mask / 0.75)
    np.testing.assert_array_equal(drop.eval()(x, {"x": mask}), x)
    drawn = Dropout(0.25, "x", per_image=True)(torch.ones(4000, 2, 1, 1))
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert abs((drawn[:, 0] == 0).float().mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)


def test_state_dict_loads_weights_only(tmp_path, images):
    model = torch_ref.create_model("b0-stem64").eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = torch_ref.create_model("b0-stem64").eval()
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
        assert torch.equal(model(x.byte()), model(x))


def test_tables_of_both_packages_agree():
    from keras_stoch.architectures import ARCHITECTURES as KERAS

    assert ARCHITECTURES.keys() == KERAS.keys()
    for name, ours in ARCHITECTURES.items():
        theirs = KERAS[name]
        assert (ours.stem_filters, ours.top_filters) == (theirs.stem_filters, theirs.top_filters)
        assert [tuple(block) for block in theirs.blocks] == [tuple(vars(block).values()) for block in ours.blocks]


@pytest.mark.slow
def test_packages_do_not_import_each_other():
    import os
    import subprocess
    import sys

    for package, others in (
        ("torch_ref.models, torch_ref.training", ("keras", "tensorflow", "keras_stoch", "parity")),
        ("keras_stoch.models, keras_stoch.layers", ("torch", "torch_ref", "parity")),
    ):
        code = f"import sys, {package}; sys.exit(str([m for m in {others!r} if m in sys.modules] or ''))"
        # With a backend that is loaded in a second; which packages import each other does not depend on it.
        environment = os.environ | {"KERAS_BACKEND": "numpy"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stderr.strip().splitlines()[-1:] in ([], [""]) or "[" not in done.stderr.splitlines()[-1], (
            done.stderr
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "b9"}, "Expected one of b0, b0-stem64, b4, stem-b0.*Received: name='b9'"),
        ({"name": "b0", "low_res": 8}, "low_res must be"),
        ({"name": "b0", "dropout": 2}, "dropout must be"),
        ({"name": "b0", "num_classes": 1.5}, "num_classes must be"),
        ({"name": "b0", "activation": "sigmoid"}, "activation must be callable"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        torch_ref.create_model(**arguments)
