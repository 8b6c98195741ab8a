"""Weights for the court's models: statistics of a batch from either package, and copies that share nothing."""

import numpy as np
import pytest

from parity.court import exhibits
from tests import tiny


@pytest.fixture(scope="module")
def adapters():
    with tiny.registered():
        yield {name: exhibits.build(name, "tiny", 32, "float64") for name in ("keras_stoch", "torch_ref")}


def pictures():
    return np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)


def test_statistics_of_a_batch_are_those_at_every_norm(adapters):
    """Both packages tell the same; and with them as moving averages a pass at inference is one in training mode."""
    ours, theirs = adapters["keras_stoch"], adapters["torch_ref"]
    arrays = exhibits.randomise(theirs, pictures(), 0)
    ours.assign(arrays)
    found = [exhibits.batch_statistics(adapter, pictures(), {}) for adapter in (ours, theirs)]
    assert found[0].keys() == found[1].keys() == {n for n in arrays if "/moving_" in n}
    for name, array in found[0].items():
        np.testing.assert_allclose(found[1][name], array, rtol=1e-9, atol=1e-12, err_msg=name)
    for adapter in (ours, theirs):
        adapter.assign(found[0])
        with adapter.without_dropout(), adapter.preserved():
            trained = adapter.predict(pictures(), training=True)
        np.testing.assert_allclose(adapter.predict(pictures()), trained, rtol=1e-9)


def test_weights_hide_no_fault(adapters):
    arrays = exhibits.randomise(adapters["torch_ref"], pictures(), 3)
    told = {n: w.array for n, w in adapters["torch_ref"].weights().items() if n.rpartition("/")[2] != "count"}
    assert arrays.keys() == told.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, np.float32(array), err_msg=name)
        np.testing.assert_array_equal(array, told[name], err_msg=name)
        assert array.all(), name
        assert np.ptp(array) > 0 or array.size == 1, name
    other = exhibits.randomise(adapters["torch_ref"], pictures(), 4)
    assert not any(np.array_equal(other[name], array) for name, array in arrays.items())


def test_a_copy_is_broken_by_itself(adapters):
    port = adapters["torch_ref"]
    before = port.predict(pictures())
    copy = exhibits.copied(port)
    np.testing.assert_array_equal(copy.predict(pictures()), before)
    assert copy.dtype == "float64"
    copy.model.stem_conv.weight.data *= 2
    copy.model.top_activation.forward = lambda x: x
    assert not np.array_equal(copy.predict(pictures()), before)
    np.testing.assert_array_equal(port.predict(pictures()), before)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 2])
def test_activations_of_the_deepest_model_are_of_the_size_of_real_ones(seed):
    """What is blown up from block to block, rounding is too: two right ports would part by more than is allowed."""
    import torch

    from parity import images

    port = exhibits.build("torch_ref", "b4", 64, "float64")
    (batch,) = images.make_batches(None, 2, (64, 64), [seed])
    exhibits.randomise(port, batch, seed)
    largest, norms = {}, [m for m in port.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for number, norm in enumerate(norms):
        norm.register_forward_hook(lambda m, i, out, number=number: largest.update({number: float(out.abs().max())}))
    port.predict(batch)
    assert len(largest) == len(norms) == 96
    assert max(largest.values()) < 50
