"""Properties of a run's folder: after any kill and any damage, it goes on from a state that it was truly in."""

import json
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_stoch.training.runs import BATCHES, CURVES, RunFolder
from tests.keras_stoch.properties import FEW
from tests.keras_stoch.small import rows

STEPS = 3  # batches of an epoch
CONFIG = {"recipe": {"epochs": 9}, "data": {"kind": "none"}}


def state(epoch, batch):
    """An array that only this position has."""
    return {"v00000": np.full((3, 2), 100 * epoch + batch, np.float32), "v00001": np.arange(batch, dtype=np.int64)}


def row(epoch):
    return {name: epoch if name == "epoch" else 0.25 * epoch for name in CURVES}


def trained(folder, checkpoints, until):
    """Takes steps from where the folder stands until a number of them were taken, with checkpoints at some."""
    found = folder.load()
    step = 0 if found is None else found[1]["epoch"] * STEPS + found[1]["batch"]
    folder.begin(*divmod(step, STEPS))
    while step < until:
        epoch, batch = divmod(step, STEPS)
        folder.add_batch(epoch, batch, step + 0.5)
        step += 1
        if step % STEPS == 0:
            folder.add_epoch(row(epoch))
        if step in checkpoints or step % STEPS == 0:
            position = dict(zip(("epoch", "batch"), divmod(step, STEPS), strict=True))
            folder.save(state(**position), position)
    return step


DAMAGE = st.one_of(
    st.tuples(st.just("cut"), st.integers(1, 200)),
    st.tuples(st.just("turn"), st.integers(0, 10**6)),
    st.tuples(st.just("append"), st.binary(min_size=1, max_size=40)),
)


def damage(path, kind, value):
    content = path.read_bytes()
    if kind == "cut":
        content = content[:-value]
    elif kind == "append":
        content += value
    elif content:
        place = value % len(content)
        content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    path.write_bytes(content)


@settings(FEW, max_examples=40)
@given(data=st.data())
def test_it_goes_on_from_a_state_it_was_in_and_the_tables_agree(tmp_path, data):
    shutil.rmtree(tmp_path, ignore_errors=True)
    path, reached = tmp_path / "run-0", 0
    for _ in range(data.draw(st.integers(1, 4))):
        checkpoints = data.draw(st.sets(st.integers(1, 4 * STEPS)))
        folder = RunFolder(path, CONFIG)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damage, which is told
            reached = trained(folder, checkpoints, max(reached, data.draw(st.integers(0, 4 * STEPS))))
        folder.close()
        newest = sorted((path / "checkpoints").glob("*.npz"))
        if newest and data.draw(st.booleans()):
            damage(newest[-1], *data.draw(DAMAGE))
        for name in ("batches.csv", "curves.csv"):
            if data.draw(st.booleans()):
                (path / name).write_bytes((path / name).read_bytes() + data.draw(st.binary(max_size=30)))
        if data.draw(st.booleans()):
            (path / ".last.weights.h5.1-2.partial").write_bytes(b"half")
    folder = RunFolder(path, CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = folder.load()
    position = {"epoch": 0, "batch": 0} if found is None else found[1]
    if found is not None:
        for name, value in state(**position).items():
            np.testing.assert_array_equal(found[0][name], value)
            assert found[0][name].dtype == value.dtype
    folder.begin(**position)
    step = position["epoch"] * STEPS + position["batch"]
    assert [line | {"loss": float(line["loss"])} for line in rows(path / "batches.csv")] == [
        {"epoch": str(n // STEPS), "batch": str(n % STEPS), "loss": n + 0.5} for n in range(step)
    ]
    assert folder.curves() == [row(epoch) for epoch in range(position["epoch"])]
    assert not list(path.rglob("*.partial*"))
    assert len(list((path / "checkpoints").glob("*.npz"))) <= 2
    folder.close()


@FEW
@given(damaged=DAMAGE)
def test_any_damage_of_a_checkpoint_is_noticed(tmp_path, damaged):
    shutil.rmtree(tmp_path, ignore_errors=True)
    folder = RunFolder(tmp_path / "run-0", CONFIG)
    for batch in (1, 2):
        folder.save(state(0, batch), {"epoch": 0, "batch": batch})
    older, newest = sorted(folder.checkpoints.glob("*.npz"))
    damage(newest, *damaged)
    with pytest.warns(UserWarning, match="is damaged; going on from the one before"):
        arrays, position = folder.load()
    assert position == {"epoch": 0, "batch": 1}
    assert arrays["v00000"][0, 0] == 1
    assert not newest.exists()
    damage(older, *damaged)
    with pytest.warns(UserWarning, match="is damaged"):
        assert folder.load() is None
    folder.close()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["a", "b"]),
    lambda inner: st.dictionaries(st.sampled_from(["x", "y", "folder", "epochs"]), inner, max_size=3),
    max_leaves=6,
)


def without_free(value):
    if not isinstance(value, dict):
        return value
    return {k: without_free(v) for k, v in value.items() if k not in ("folder", "epochs") or isinstance(v, dict)}


def leaves(value, prefix=()):
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, inner in value.items() for k, v in leaves(inner, (*prefix, name)).items()}


@FEW
@given(before=st.dictionaries(st.sampled_from("pq"), PLAIN), now=st.dictionaries(st.sampled_from("pq"), PLAIN))
def test_it_is_refused_exactly_where_something_else_decides(tmp_path, before, now):
    """Where the data are, and how many epochs are asked for, may differ."""
    shutil.rmtree(tmp_path, ignore_errors=True)
    common = {"recipe": {"epochs": 1}}
    folder = RunFolder(tmp_path / "run-0", {"z": before} | common)
    folder.begin(0, 0)
    folder.save(state(0, 1), {"epoch": 0, "batch": 1})
    folder.close()
    # None and nothing are one: an option that is new, and left out, is no other run.
    a, b = (
        {k: v for k, v in leaves(without_free(value)).items() if v is not None and v != {}} for value in (before, now)
    )
    if a == b:
        RunFolder(tmp_path / "run-0", {"z": now} | common).close()
    else:
        with pytest.raises(ValueError, match="holds a run with other settings"):
            RunFolder(tmp_path / "run-0", {"z": now} | common)
        name = ".".join(("z", *next(iter({k for k in {*a, *b} if a.get(k) != b.get(k)}))))
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            RunFolder(tmp_path / "run-0", {"z": now} | common)
    assert json.loads((tmp_path / "run-0" / "config.json").read_text())["z"] == before


def test_tables_have_their_columns_from_the_beginning(tmp_path):
    folder = RunFolder(tmp_path / "run-0", CONFIG)
    folder.begin(0, 0)
    assert (folder.path / "batches.csv").read_text() == ",".join(BATCHES) + "\n"
    assert (folder.path / "curves.csv").read_text() == ",".join(CURVES) + "\n"
    folder.close()
