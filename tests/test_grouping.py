"""Labels to codes, random effects from arrays, and what the data can identify."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvmise_sm.core.covariance.structures import Diagonal
from mvmise_sm.design.grouping import (
    check_random_effects,
    encode_labels,
    grouping_factor,
    interact_labels,
    random_effects_from_arrays,
)
from mvmise_sm.exceptions import DataError, MissingDataError, RandomEffectsError


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.lists(st.integers(-5, 5), min_size=1),
        st.lists(st.integers(-(10**15), 10**15), min_size=1),
        st.lists(st.sampled_from(["a", "b", "", "ü"]), min_size=1),
        st.lists(st.booleans(), min_size=1),
    )
)
def test_codes_are_pandas_sorted_factorization(labels):
    codes, levels = encode_labels(np.array(labels, dtype=object if isinstance(labels[0], str) else None))
    expected, uniques = pd.factorize(pd.Series(labels), sort=True)
    np.testing.assert_array_equal(codes, expected)
    assert list(levels) == list(uniques)
    assert codes.dtype == np.intp


def test_ready_made_codes_are_not_copied():
    labels = np.array([2, 0, 1, 1, 2])
    assert encode_labels(labels)[0] is labels


def test_missing_and_mixed_labels():
    codes, levels = encode_labels(np.array(["b", None, "a", 1], dtype=object))
    assert codes[1] == -1
    assert [levels[code] for code in codes[[0, 2, 3]]] == ["b", "a", 1]
    with pytest.raises(MissingDataError, match="'g' has missing labels"):
        grouping_factor(pd.Series([1.0, np.nan]), "g")


@pytest.mark.parametrize("scale", [1, 10**7])
def test_interactions_of_few_and_of_many_possible_cells(scale):
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, 200), rng.integers(0, 7, 200)
    first = encode_labels(a) if scale == 1 else (a * scale, pd.RangeIndex(5 * scale))
    codes, levels = interact_labels([first, encode_labels(b), encode_labels(np.repeat(["u", "v"], 100))])
    expected = pd.Series([f"{i * scale}:{j}:{k}" for i, j, k in zip(a, b, np.repeat(["u", "v"], 100), strict=True)])
    assert (np.asarray(levels)[codes] == expected).all()
    assert len(levels) == expected.nunique()
    with_gap = interact_labels([first, (np.where(np.arange(200) == 3, -1, b), pd.RangeIndex(7))])
    assert np.flatnonzero(with_gap[0] < 0).tolist() == [3]


def test_arrays_like_mixedlm():
    groups = np.array(["u", "v", "u", "v", "u"])
    x = np.arange(5.0)
    random = random_effects_from_arrays(groups, np.column_stack([np.ones(5), x]))
    (term,) = random.terms
    assert (term.factor.name, term.names, term.q) == ("group", ("Intercept", "z2"), 2)
    assert term.columns[0] is None
    np.testing.assert_array_equal(term.columns[1], x)
    crossed = random_effects_from_arrays(
        {"a": groups, "b": [0, 0, 1, 1, 2]}, {"a": pd.DataFrame({"x": x})}, structure="diag"
    )
    assert crossed.n_groups == {"a": 2, "b": 3}
    assert crossed.terms[0].names == ("x",)
    assert isinstance(crossed.terms[0].structure, Diagonal)
    assert random_effects_from_arrays(pd.Series(groups, name="site")).factors[0].name == "site"


@pytest.mark.parametrize(
    ("groups", "exog_re", "message"),
    [
        ([0, 1, 0], np.ones((2, 1)), r"shape \(2, 1\), expected \(3, q\)"),
        ([0, 1, 0], [1.0, np.nan, 2.0], "missing or infinite"),
        ({"a": [0, 1], "b": [0, 1, 1]}, None, "'b' has 3 rows, the first one has 2"),
        ({"a": [0, 1], "b": [0, 1]}, np.ones(2), "must be a dict"),
        ({"a": [0, 1]}, {"z": np.ones(2)}, r"exog_re names \['z'\]"),
        (np.ones((2, 2)), None, "one column"),
        ({}, None, "groups is empty"),
    ],
)
def test_bad_arrays(groups, exog_re, message):
    with pytest.raises(DataError, match=message):
        random_effects_from_arrays(groups, exog_re)


def test_unidentified_random_effects():
    rows = np.arange(6)
    with pytest.raises(RandomEffectsError, match="'group' must have at least 2 levels in the data, found 1"):
        check_random_effects(random_effects_from_arrays(np.zeros(6, dtype=int)), 6)
    single = random_effects_from_arrays(rows)
    with pytest.raises(RandomEffectsError, match="'group' has 6 levels for 6 rows"):
        check_random_effects(single, 6)
    check_random_effects(single, 6, residual="known")
    slopes = random_effects_from_arrays(rows // 2, np.column_stack([np.ones(6), rows]))
    with pytest.raises(RandomEffectsError, match=r"\(Intercept \+ z2 \| group\) has 6 effects for 6 rows"):
        check_random_effects(slopes, 6)
