"""Recipes by name, their fields and schedules, and what of them binds a run that goes on."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_stoch
import torch_ref.training.recipe
from keras_stoch.training.holds import differences
from keras_stoch.training.own import split_own
from keras_stoch.training.recipe import RECIPES, Recipe, make_recipe

FINE_TUNE = RECIPES["fine-tune"].recipe


def test_the_paper_is_the_default_and_asks_for_nothing_new():
    """All that the paper does not have does nothing."""
    recipe = make_recipe({})
    assert recipe == Recipe() == RECIPES["paper"].recipe
    off = {
        "optimizer": "rmsprop", "schedule": "exponential", "warmup_epochs": 0, "weight_decay": 0, "label_smoothing": 0,
        "pos_weight": 1, "balanced": False, "average": 0, "patience": None, "freeze": None,
    }  # fmt: skip
    assert {name: getattr(recipe, name) for name in off} == off
    assert not recipe.by_step
    assert [recipe.rate(e, 3, 7) for e in range(60)] == [1e-3 * 0.9 ** max(0, e - 14) for e in range(60)]


def test_records_say_where_they_come_from():
    assert set(RECIPES) == {"paper", "fine-tune"}
    assert all(record.source.endswith(".") and len(record.source) > 50 for record in RECIPES.values())
    assert keras_stoch.RECIPES is RECIPES
    theirs = torch_ref.training.recipe.RECIPES
    assert {name: record.source for name, record in theirs.items()} == {n: r.source for n, r in RECIPES.items()}
    for name, record in RECIPES.items():
        ours = dataclasses.asdict(record.recipe)
        assert ours.pop("jit_compile") is False
        assert ours == dataclasses.asdict(theirs[name].recipe)


def test_every_field_can_be_changed():
    other = {
        str: {"optimizer": "rmsprop", "schedule": "exponential", "window_sharing": "image"},
        bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: 0.9 if value < 0.5 else 0.3,
    }  # fmt: skip
    none = {"low_res": 64, "high_res": 64, "patience": 2, "freeze": "stem", "mixed_precision": "mixed_float16"}
    for field in dataclasses.fields(Recipe):
        value = getattr(FINE_TUNE, field.name)
        if value is None:
            new = none[field.name]
        else:
            new = other[str][field.name] if isinstance(value, str) else other[type(value)](value)
        changed = make_recipe({field.name: new}, "fine-tune")
        assert getattr(changed, field.name) == new != value
        assert dataclasses.replace(changed, **{field.name: value}) == FINE_TUNE
    assert make_recipe({"epochs": 2}, FINE_TUNE) == make_recipe({"epochs": 2}, "fine-tune")


@pytest.mark.parametrize(
    ("options", "base", "message"),
    [
        ({}, "finetune", "recipe must be one of paper, fine-tune. Received: 'finetune'. Did you mean fine-tune?"),
        ({}, 3, "recipe must be a name or a Recipe. Received: 3"),
        ({"pos_wieght": 3}, "fine-tune", "Unknown options: pos_wieght. .* Did you mean pos_weight?"),
        ({"warm_up_epochs": 3}, "paper", "Did you mean warmup_epochs?"),
        ({"pos_weight": 0}, "paper", "pos_weight must be a positive number. Received: pos_weight=0"),
        ({"pos_weight": float("inf")}, "paper", "pos_weight=inf"),
        ({"patience": 0}, "paper", "patience must be None or an integer of at least 1. Received: patience=0"),
        ({"patience": 2.0}, "paper", "patience=2.0"),
        ({"optimizer": "adam"}, "paper", "optimizer must be one of .*'adamw'.* Received: optimizer='adam'"),
        ({"schedule": "linear"}, "paper", "schedule must be one of"),
        ({"average": 1}, "paper", r"average must be a number in \[0, 1\)"),
        ({"label_smoothing": -0.1}, "paper", "label_smoothing=-0.1"),
        ({"weight_decay": True}, "paper", "weight_decay=True"),
        ({"warmup_epochs": -1}, "paper", "warmup_epochs must be a number of at least 0"),
        ({"balanced": "yes"}, "paper", "balanced must be True or False"),
        ({"freeze": ""}, "paper", "freeze must be None or the name of a place"),
        ({"freeze": 3}, "paper", "freeze=3"),
        ({"freeze_epochs": 0}, "paper", "freeze_epochs must be an integer of at least 1"),
        ({"thaw_factor": float("nan")}, "paper", "thaw_factor=nan"),
        ({"learning_rate": None}, "paper", "learning_rate=None"),
    ],
)
def test_what_is_refused(options, base, message):
    with pytest.raises(ValueError, match=message):
        split_own(options, base)


def test_the_cosine_is_that_of_keras():
    recipe = Recipe(schedule="cosine", epochs=7, warmup_epochs=1.5, learning_rate=0.02)
    steps, warm = 11, 16  # 1.5 x 11, rounded to even
    theirs = keras.optimizers.schedules.CosineDecay(0.0, 7 * steps - warm, warmup_target=0.02, warmup_steps=warm)
    rates = [recipe.rate(e, b, steps) for e in range(7) for b in range(steps)]
    # Theirs begins with a step of rate 0.
    np.testing.assert_allclose(rates[:warm], [theirs(step + 1) for step in range(warm)], rtol=1e-5)
    np.testing.assert_allclose(rates[warm:], [theirs(step) for step in range(warm, 77)], rtol=1e-4, atol=1e-8)
    assert rates[warm - 1] == rates[warm] == 0.02
    assert 0 < rates[-1] < 1e-4


def test_the_second_stage_begins_anew_at_a_lower_rate():
    recipe = Recipe(schedule="cosine", epochs=10, freeze="top", freeze_epochs=4, warmup_epochs=1, thaw_factor=0.5)
    alone = [Recipe(schedule="cosine", epochs=epochs, warmup_epochs=1) for epochs in (4, 6)]
    rates = [recipe.rate(e, b, 5) for e in range(10) for b in range(5)]
    assert rates[:20] == [alone[0].rate(e, b, 5) for e in range(4) for b in range(5)]
    np.testing.assert_allclose(rates[20:], [alone[1].rate(e, b, 5) / 2 for e in range(6) for b in range(5)], rtol=1e-12)
    assert [recipe.frozen(epoch) for epoch in (0, 3, 4)] == [True, True, False]
    # Nothing is thawed where the first stage is all there is.
    assert Recipe(schedule="cosine", epochs=3, freeze="top").rate(2, 4, 5) < 1e-4
    held = Recipe(freeze="top", freeze_epochs=3, hold_epochs=2, thaw_factor=1.0)
    np.testing.assert_allclose([held.rate(e) for e in range(6)], np.array([1, 1, 0.9] * 2) * 1e-3)


def test_patience_counts_epochs_since_the_best():
    recipe = Recipe(patience=2)
    assert [recipe.stale(epochs, best) for epochs, best in ((0, -1), (1, -1), (2, -1), (3, 0), (3, 1), (4, 1))] == [
        False, False, True, True, False, True,
    ]  # fmt: skip
    # What did not become better in the first stage may do so in the second.
    staged = dataclasses.replace(recipe, freeze="stem", freeze_epochs=5)
    assert [staged.stale(epochs, 0) for epochs in (4, 5, 6, 7)] == [False, False, False, True]
    assert not Recipe().stale(1000, 0)


def test_a_run_of_before_these_fields_goes_on():
    new = {"recipe": dataclasses.asdict(Recipe()), "seed": 0}
    names = ("epochs", "batch_size", "learning_rate", "hold_epochs", "decay", "rho", "momentum", "epsilon", "dropout")
    old = {"recipe": {name: new["recipe"][name] for name in names}, "seed": 0}
    assert differences(old, new) == []
    changed = {"recipe": dataclasses.asdict(Recipe(pos_weight=2.0)), "seed": 0}
    assert differences(old, changed) == ["recipe.pos_weight: 1.0 there, 2.0 now"]


def test_more_epochs_are_another_cosine():
    """The paper's rates do not depend on how many epochs follow; a cosine's do."""

    def found(**fields):
        before, now = (make_recipe(fields | {"epochs": epochs}) for epochs in (2, 3))
        return differences({"recipe": dataclasses.asdict(before)}, {"recipe": dataclasses.asdict(now)})

    assert found() == []
    assert found(schedule="cosine") == ["recipe.epochs: 2 there, 3 now"]
