"""Which values of two graphs are equal, also where one of them changes a little and most is known already."""

from dataclasses import replace

import numpy as np
import pytest

from parity.graph import Graph
from parity.values import Partners


def graphs():
    """A graph channels last, and one channels first that has two of its values, one of them twice, and one more."""
    rng = np.random.default_rng(0)
    first = [rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(2, 7)), rng.normal(size=(2, 5, 6, 3))]
    second = [np.moveaxis(first[0], -1, 1), rng.normal(size=(2, 7)), first[1] * 1, first[1] * 1]
    return Graph("keras", values=first), Graph("torch", values=second)


def numbers(partners):
    return [{number: other for number, (other, _) in side.items()} for side in partners.of]


def test_equal_values_are_partners_in_any_lawful_order():
    partners = Partners(*graphs(), 1e-10)
    assert numbers(partners) == [{0: 0, 1: 2}, {0: 0, 2: 1, 3: 1}]
    for side in (0, 1):
        for number, (other, order) in partners.of[side].items():
            ours, theirs = partners.graphs[side].values[number], partners.graphs[1 - side].values[other]
            np.testing.assert_array_equal(order(ours), theirs)


@pytest.mark.parametrize("changed", [{0: "first"}, {2: "first"}, {1: "second"}, {0: "none", 3: "none"}, {}])
def test_partners_of_a_changed_graph_are_those_that_a_new_look_finds(changed):
    first, second = graphs()
    before = Partners(first, second, 1e-10)
    values = list(second.values)
    for number, kind in changed.items():
        shape = values[number].shape
        new = {"first": first.values[0], "second": first.values[1], "none": np.full(values[number].size, 0.5)}[kind]
        values[number] = np.resize(new, shape) if new.size != values[number].size else new.reshape(shape)
    changed_graph = replace(second, values=values, prints=dict(second.prints))
    fresh = Partners(Graph("keras", values=first.values), Graph("torch", values=values), 1e-10)
    assert numbers(Partners(first, changed_graph, 1e-10, before)) == numbers(fresh)
    assert numbers(before) == [{0: 0, 1: 2}, {0: 0, 2: 1, 3: 1}]


def test_a_value_that_is_exchanged_has_a_fingerprint_of_its_own():
    first, second = graphs()
    Partners(first, second, 1e-10)
    second.values[1] = first.values[1] * 1
    assert numbers(Partners(first, second, 1e-10))[1] == {0: 0, 1: 1, 2: 1, 3: 1}
