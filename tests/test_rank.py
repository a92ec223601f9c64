"""Dependent columns are found whatever the units."""

import numpy as np
import pytest

from mvmise_sm.design.rank import independent_columns


@pytest.fixture(params=[50, 200_000], ids=["small", "many rows"])
def columns(request):
    rng = np.random.default_rng(5)
    n = request.param
    return np.column_stack([np.ones(n), rng.normal(size=(n, 3)), rng.integers(0, 2, n)])


@pytest.mark.parametrize("shift", [0.0, 1e6])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_units_do_not_matter(columns, shift, scale):
    moved = columns.copy()
    moved[:, 1:] = moved[:, 1:] * scale + shift * scale
    assert independent_columns(moved).tolist() == [0, 1, 2, 3, 4]
    dependent = np.column_stack([moved, moved[:, 1] - 2 * moved[:, 3], moved[:, 2] + 7 * scale])
    assert independent_columns(np.asfortranarray(dependent)).tolist() == [0, 1, 2, 3, 4]


def test_later_columns_go(columns):
    x = columns[:, 1]
    assert independent_columns(np.column_stack([x, 2 * x, columns[:, 0], x - 1, columns[:, 2]])).tolist() == [0, 2, 4]
    assert independent_columns(np.column_stack([columns[:, 0] * 3, columns[:, 0], x])).tolist() == [0, 2]
    assert independent_columns(np.column_stack([np.zeros_like(x), x])).tolist() == [1]


def test_nearly_dependent_columns_stay(columns):
    x, noise = columns[:, 1], columns[:, 2]
    assert independent_columns(np.column_stack([columns[:, 0], x, x + 1e-5 * noise])).tolist() == [0, 1, 2]
    assert independent_columns(np.column_stack([columns[:, 0], x, x + 1e-9 * noise])).tolist() == [0, 1]


def test_a_rare_dummy_is_not_lost():
    x = np.zeros((100_000, 2))
    x[:, 0] = 1.0
    x[77_777, 1] = 1.0
    assert independent_columns(x).tolist() == [0, 1]
    assert independent_columns(np.column_stack([x, x[:, 1]])).tolist() == [0, 1]


def test_more_columns_than_rows():
    x = np.random.default_rng(0).normal(size=(4, 7))
    assert independent_columns(x).tolist() == [0, 1, 2, 3]
    assert independent_columns(np.empty((5, 0))).tolist() == []
