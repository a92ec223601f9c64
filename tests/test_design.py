"""Formula parts and frames to arrays, against patsy and against what R counts."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import patsy
import pytest
from conftest import reference_cases

from mvmise_sm.core.covariance.structures import Diagonal, Unstructured
from mvmise_sm.design.build import build_design, caller_environment
from mvmise_sm.design.new_data import new_exog, new_offset, new_random_rows
from mvmise_sm.exceptions import (
    DataError,
    FormulaError,
    MissingDataError,
    NewLevelError,
    OptionError,
    UnknownColumnError,
)
from mvmise_sm.formula.parts import parse_formula


def design(text, data, **options):
    return build_design(parse_formula(text), data, namespace=options.pop("namespace", {"np": np}), **options)


@pytest.fixture
def toy():
    """Every column type, 60 rows, a string index."""
    rng = np.random.default_rng(3)
    n = 60
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n) + 5,
            "k": rng.integers(1, 5, n),
            "f": pd.Categorical(np.array(["lo", "mid", "hi"])[rng.integers(0, 3, n)], categories=["lo", "mid", "hi"]),
            "t": np.array(["c", "a", "b"])[np.arange(n) % 3],
            "flag": np.arange(n) % 2 == 0,
            "g": np.arange(n) % 10,
            "h": np.array(list("pqrst"))[np.arange(n) // 12],
            "x.1": rng.normal(size=n),
            "total.n": rng.integers(5, 9, n).astype(float),
        },
        index=[f"r{i}" for i in range(n)],
    )


FIXED = [
    "x",
    "1",
    "0 + x",
    "f",
    "0 + f",
    "t",
    "flag",
    "x * f",
    "f * t",
    "0 + f:t",
    "f:x",
    "x:f + t",
    "f/x",
    "(x + f + t)**2",
    "t + x - 1",
    "C(k)",
    "C(f, Sum)",
    "C(t, Treatment('b')) * x",
    "C(k, Poly):x",
    "I(x ** 2) + np.log(x)",
    "standardize(x) * f",  # scale is R's, with n - 1
    "center(x):C(t)",
    "bs(x, df=4)",
    "0 + cr(x, df=4)",
    "x > 5",
]


@pytest.mark.parametrize("rhs", FIXED)
def test_fixed_part_is_patsys(toy, rhs):
    ours = design(f"y ~ {rhs} + (1 | g)", toy)
    theirs = patsy.dmatrix(rhs, toy.assign(t=toy["t"].astype(object)), return_type="dataframe")
    assert ours.dropped_columns == ()
    pd.testing.assert_frame_equal(ours.exog, theirs, check_names=False)
    assert ours.model_spec.term_names == theirs.design_info.term_names
    assert ours.model_spec.term_name_slices == theirs.design_info.term_name_slices
    (again,) = patsy.build_design_matrices([ours.model_spec], toy.assign(t=toy["t"].astype(object)))
    np.testing.assert_array_equal(np.asarray(again), ours.exog)


def test_patsy_functions_reach_new_data(toy):
    for rhs in ["scale(x)", "center(x)", "standardize(x)", "bs(x, df=4)", "cr(x, df=4)", "poly(x, 3)", "C(k) * f", "t"]:
        built = design(f"y ~ {rhs} + ({rhs} | g)", toy)
        part = toy.iloc[5:17]
        np.testing.assert_allclose(new_exog(built, part), built.exog.iloc[5:17], rtol=1e-12)
        ((codes, columns),) = new_random_rows(built, part)
        term = built.random.terms[0]
        whole = np.column_stack([np.ones(60) if c is None else c for c in term.columns])
        np.testing.assert_allclose(columns, whole[5:17], rtol=1e-12)
        np.testing.assert_array_equal(codes, term.factor.codes[5:17])


def test_poly_is_orthonormal_and_spans_the_powers(toy):
    built = design("y ~ poly(x, 3) + (1 | g)", toy).exog.to_numpy()
    np.testing.assert_allclose(built[:, 1:].T @ built, np.eye(4)[1:], atol=1e-12)
    powers = np.vander(toy["x"], 4)
    np.testing.assert_allclose(powers, built @ np.linalg.lstsq(built, powers, rcond=None)[0], rtol=1e-9)


def test_r_spellings(toy):
    namespace = {"log": "not a function", "np": np}
    built = design("log(total.n) ~ x.1 + I(x^2) + sqrt(x) + (x.1 | g)", toy, namespace=namespace)
    np.testing.assert_allclose(built.endog, np.log(toy["total.n"]))
    assert built.endog.name == "log(total.n)"
    assert list(built.exog.columns) == ["Intercept", "x.1", "I(x ** 2)", "sqrt(x)"]
    np.testing.assert_array_equal(built.exog["x.1"], toy["x.1"])
    np.testing.assert_array_equal(built.exog["I(x ** 2)"], toy["x"] ** 2)
    assert built.random.terms[0].names == ("Intercept", "x.1")
    assert list(design("y ~ as.factor(k) + (1 | g)", toy).exog.columns)[1] == "factor(k)[T.2]"
    assert list(design("y ~ `total.n` + (1 | g)", toy).exog.columns)[1] == "total.n"


def test_dotted_names_inside_expressions_are_columns_only_if_they_exist(toy):
    built = design("y ~ np.log(total.n) + total.n:x.1 + (1 | g)", toy)
    assert list(built.exog.columns) == ["Intercept", "np.log(total.n)", "total.n:x.1"]
    np.testing.assert_allclose(built.exog["total.n:x.1"], toy["total.n"] * toy["x.1"])


class TestReference:
    """Counts of R over every reference model."""

    @pytest.mark.parametrize("name", ["lmm", "glmm", "blme_lmm", "blme_glmm"])
    def test_counts(self, frames, name):
        seen = set()
        for case in reference_cases(name):
            key = (case["formula"], case["dataset"], case.get("weights"))
            expected = case.get("expected") or case.get("expected_paper") or {}
            if key in seen or "theta" not in expected:
                continue
            seen.add(key)
            options = {k: case.get(k) for k in ("weights", "offset")}
            built = design(case["formula"], frames(case["dataset"]), categorical_response=True, **options)
            assert built.exog.shape[1] == len(expected["fixef"]), case["id"]
            assert built.exog.shape[0] == expected.get("nobs", built.exog.shape[0]), case["id"]
            assert built.random.k_theta == len(expected["theta"]), case["id"]
            for group in expected.get("ranef", []):
                parts = set(group["group"].split(":"))
                (count,) = (c for g, c in built.random.n_groups.items() if set(g.split(":")) == parts)
                assert count == group["n_levels"], case["id"]
        assert len(seen) > 5


# --- random effects


def test_structures_and_shared_factors(toy):
    built = design("y ~ x + (x | g) + (0 + f || g) + diag(1 + x | h)", toy)
    kinds = [type(term.structure) for term in built.random.terms]
    assert kinds == [Unstructured, Unstructured, Diagonal]
    first, second, third = built.random.terms
    assert first.factor is second.factor
    assert second.names == ("f[lo]", "f[mid]", "f[hi]")
    assert third.q == 2
    assert first.columns[0] is None
    assert list(built.random.n_groups.items()) == [("g", 10), ("h", 5)]


def test_double_bar_splits_terms_and_keeps_a_factor_together(toy):
    built = design("y ~ x + (x + f || g)", toy)
    assert [term.names for term in built.random.terms] == [
        ("Intercept",),
        ("x",),
        ("f[lo]", "f[mid]", "f[hi]"),
    ]


def test_interaction_groups_hold_observed_combinations_only(toy):
    toy = toy[(toy["h"] != "q") | (toy["t"] != "a")]
    built = design("y ~ 1 + (1 | h/t)", toy)
    nested = built.random.terms[1].factor
    labels = toy["h"] + ":" + toy["t"]
    assert nested.name == "h:t"
    assert list(nested.levels) == sorted(labels.unique())
    np.testing.assert_array_equal(np.asarray(nested.levels)[nested.codes], labels)


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(60) % 7,
        (np.arange(60) % 7) * 1000 - 3000,
        (np.arange(60) % 7) * 10**12,
        (np.arange(60) % 7) / 4,
        np.array(list("gfedcba"))[np.arange(60) % 7],
        pd.Categorical(np.array(list("gfedcba"))[np.arange(60) % 7], categories=list("xabcdefgz")),
        pd.Series(np.arange(60) % 7, dtype="Int64").array,
        np.arange(60) % 2 == 0,
        pd.date_range("2024-01-01", periods=7).to_numpy()[np.arange(60) % 7],
    ],
    ids=["codes", "shifted", "wide", "float", "text", "categorical", "nullable", "bool", "dates"],
)
def test_any_column_can_group(toy, labels):
    toy["g"] = labels
    factor = design("y ~ 1 + (1 | g)", toy).random.terms[0].factor
    assert factor.n_levels == toy["g"].nunique()
    assert (np.asarray(factor.levels)[factor.codes] == np.asarray(toy["g"])).all()
    assert list(factor.levels) == sorted(toy["g"].unique())


def test_grouping_expressions(toy):
    built = design("y ~ 1 + (1 | k > 2) + (1 | factor(k):h)", toy)
    assert built.random.n_groups == {"k > 2": 2, "factor(k):h": len((toy["k"].astype(str) + toy["h"]).unique())}


# --- missing values, subset, weights, offset


def test_missing_rows_drop_together(toy):
    toy.loc["r1", "y"] = np.nan
    toy.loc["r2", "x"] = np.nan
    toy["f"] = toy["f"].where(toy.index != "r3")
    toy["t"] = toy["t"].where(toy.index != "r4")
    toy["h"] = toy["h"].where(toy.index != "r5")
    toy["w"] = np.where(toy.index == "r6", np.nan, 1.0)
    offset = np.where(toy.index == "r7", np.nan, 2.0)
    built = design("y ~ f + t + scale(x) + (x | h)", toy, weights="w", offset=offset)
    kept = toy.index[[0, *range(8, 60)]]
    assert list(built.exog.index) == list(kept)
    assert list(built.endog.index) == list(kept)
    assert list(built.frame.index) == list(kept)
    assert np.flatnonzero(built.missing_mask).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert built.random.nobs == built.weights.size == built.offset.size == 53
    np.testing.assert_allclose(built.exog["scale(x)"].mean(), 0.0, atol=1e-12)
    pd.testing.assert_frame_equal(
        built.exog, design("y ~ f + t + scale(x) + (x | h)", toy.loc[kept]).exog, check_exact=True
    )


def test_expressions_that_make_values_missing(toy):
    with np.errstate(invalid="ignore"):
        built = design("y ~ np.log(x - 5) + (1 | g)", toy)
    assert len(built.exog) == (toy["x"] > 5).sum()
    toy.loc["r2", "x"] = np.nan
    assert len(design("y ~ x.fillna(0) + (1 | g)", toy).exog) == 60


def test_missing_raise_names_the_columns(toy):
    toy.loc["r1", "x"] = np.nan
    with pytest.raises(MissingDataError, match=r"x \(1 of 60 rows\)"):
        design("y ~ x + (1 | g)", toy, missing="raise")
    toy["x"] = np.nan
    with pytest.raises(MissingDataError, match=r"no complete rows are left; .* x \(60 of 60 rows\)"):
        design("y ~ x + (1 | g)", toy)
    with pytest.raises(OptionError, match="'drop' or 'raise'"):
        design("y ~ 1 + (1 | g)", toy, missing="maybe")


def test_missing_outcomes_can_stay(toy):
    toy.loc["r1", "y"] = np.nan
    toy.loc["r2", "x.1"] = np.nan
    toy.loc["r3", "x"] = np.nan
    built = design("y + x.1 ~ x + (1 + x || g)", toy, keep_missing_endog=True)
    assert list(built.endog.columns) == ["y", "x.1"]
    assert built.endog.shape == (59, 2)
    assert built.endog.isna().to_numpy().sum() == 2
    assert [term.names for term in built.random.terms] == [("Intercept",), ("x",)]


def test_unused_levels_disappear(toy):
    part = toy[toy["f"] != "lo"]
    built = design("y ~ f + (f | g)", part)
    assert list(built.exog.columns) == ["Intercept", "f[T.hi]"]
    assert built.random.terms[0].names == ("Intercept", "f[T.hi]")
    with pytest.raises(DataError, match="f has a single level"):
        design("y ~ f + (1 | g)", toy[toy["f"] == "lo"])


@pytest.mark.parametrize(
    "subset", ["x > 5", lambda d: d["x"] > 5, lambda d: (d["x"] > 5).to_numpy(), lambda d: list(d.index[d["x"] > 5])]
)
def test_subset_cuts_arrays_too(toy, subset):
    rows = (toy["x"] > 5).to_numpy()
    weights = np.arange(60.0) + 1
    chosen = subset if isinstance(subset, str) else subset(toy)
    built = design("y ~ x + (1 | g)", toy, subset=chosen, weights=weights)
    np.testing.assert_array_equal(built.weights, weights[rows])
    assert list(built.endog.index) == list(toy.index[rows])


def test_offsets_add_up(toy):
    built = design("y ~ f + offset(log(total.n)) + offset(x) + (1 | g)", toy, offset="x.1")
    np.testing.assert_allclose(built.offset, np.log(toy["total.n"]) + toy["x"] + toy["x.1"])
    np.testing.assert_allclose(new_offset(built, toy.iloc[3:9]), built.offset[3:9])
    fixed = design("y ~ f + (1 | g)", toy, offset=np.ones(60))
    with pytest.raises(DataError, match="pass offset="):
        new_offset(fixed, toy)
    assert new_offset(design("y ~ f + (1 | g)", toy), toy) is None


def test_weights_may_be_an_expression(toy):
    np.testing.assert_allclose(design("y ~ 1 + (1 | g)", toy, weights="1 / x**2").weights, 1 / toy["x"] ** 2)
    np.testing.assert_allclose(design("y ~ 1 + (1 | g)", toy, weights="total.n").weights, toy["total.n"])


# --- response


def test_responses(toy):
    toy["n"] = 9
    pair = design("cbind(k, n - k) ~ x + (1 | g)", toy).endog
    assert list(pair.columns) == ["k", "n - k"]
    np.testing.assert_array_equal(pair.sum(axis=1), 9)
    np.testing.assert_allclose(design("k / n ~ x + (1 | g)", toy).endog, toy["k"] / 9)
    flag = design("flag ~ x + (1 | g)", toy).endog
    np.testing.assert_array_equal(flag, toy["flag"].astype(float))


def test_two_level_responses_are_coded_by_level_order(toy):
    toy["answer"] = pd.Categorical(np.where(toy["flag"], "no", "yes"), categories=["yes", "no"])
    built = design("answer ~ x + (1 | g)", toy, categorical_response=True)
    np.testing.assert_array_equal(built.endog, toy["flag"].astype(float))
    assert list(built.endog_levels) == ["yes", "no"]
    with pytest.raises(DataError, match="has 3 levels; a categorical response needs two"):
        design("t ~ x + (1 | g)", toy, categorical_response=True)


# --- rank


def test_dependent_columns_leave_terms_and_predictions_consistent(toy):
    toy["twice"] = 2 * toy["x"] + 1e6
    toy["big"] = 1e6 * toy["x.1"] - 3e6
    built = design("y ~ x + twice + f + big + x.1 + (1 | g)", toy)
    assert built.dropped_columns == ("twice", "x.1")
    assert list(built.exog.columns) == ["Intercept", "f[T.mid]", "f[T.hi]", "x", "big"]
    assert built.model_spec.term_names == ["Intercept", "f", "x", "big"]
    assert built.model_spec.slice("f") == slice(1, 3)
    np.testing.assert_array_equal(patsy.build_design_matrices([built.model_spec], toy)[0], built.exog)
    pd.testing.assert_frame_equal(new_exog(built, toy.iloc[4:8]), built.exog.iloc[4:8], check_names=False)


def test_empty_cells_of_an_interaction_are_dropped(toy):
    toy = toy[(toy["f"] != "hi") | (toy["t"] != "b")]
    built = design("y ~ f * t + x + (1 | g)", toy)
    assert built.dropped_columns == ("f[T.hi]:t[T.b]",)
    assert built.model_spec.slice("f:t") == slice(5, 8)
    assert built.model_spec.column_names[5:8] == ["f[T.mid]:t[T.b]", "f[T.mid]:t[T.c]", "f[T.hi]:t[T.c]"]
    again = patsy.build_design_matrices([built.model_spec], toy.assign(t=toy["t"].astype(object)))[0]
    np.testing.assert_array_equal(again, built.exog)
    np.testing.assert_array_equal(new_exog(built, toy.iloc[:9]), built.exog.iloc[:9])


def test_spline_columns_that_repeat_earlier_ones(toy):
    built = design("y ~ x + bs(x, df=4, degree=1) + (1 | g)", toy)
    assert built.dropped_columns == ("bs(x, df=4, degree=1)[3]",)
    assert built.model_spec.slice("bs(x, df=4, degree=1)") == slice(2, 5)
    np.testing.assert_allclose(patsy.build_design_matrices([built.model_spec], toy)[0], built.exog)
    np.testing.assert_allclose(new_exog(built, toy.iloc[:9]), built.exog.iloc[:9])


# --- new data


def test_new_levels_and_missing_values(toy):
    built = design("y ~ x + f + (1 + x | h/t)", toy)
    new = toy.iloc[:4].copy()
    new["h"] = ["p", "Z", "p", None]
    new["x"] = [1.0, 2.0, np.nan, 3.0]
    with pytest.raises(NewLevelError, match="grouping factor 'h': level 'Z'"):
        new_random_rows(built, new)
    (outer, columns), (inner, _) = new_random_rows(built, new, allow_new_levels=True)
    assert outer.tolist() == [0, -1, 0, -1]
    assert inner.tolist()[1] == -1
    np.testing.assert_array_equal(np.isnan(columns), [[False] * 2, [False] * 2, [False, True], [True, True]])
    exog = new_exog(built, new)
    np.testing.assert_array_equal(np.isnan(exog["x"]), [False, False, True, False])
    new["f"] = ["lo", "odd", "mid", "hi"]
    with pytest.raises(NewLevelError, match=r"f holds the level 'odd'.*known levels: 'lo', 'mid', 'hi'"):
        new_exog(built, new)
    with pytest.raises(UnknownColumnError, match="'x' is not a column"):
        new_exog(built, new.drop(columns="x"))


def test_new_labels_match_by_value(toy):
    toy["g"] = toy["g"] + 300
    built = design("y ~ f + (1 | g)", toy)
    for labels in (toy["g"].astype(float), toy["g"].astype(str), toy["g"].astype("category")):
        ((codes, _),) = new_random_rows(built, toy.assign(g=labels).iloc[20:30])
        np.testing.assert_array_equal(codes, built.random.terms[0].factor.codes[20:30])
    one = new_exog(built, {"f": "mid"})
    assert one.to_numpy().tolist() == [[1.0, 1.0, 0.0]]


def test_one_row_as_a_series(toy):
    built = design("y ~ x * f + (x | g)", toy)
    np.testing.assert_allclose(new_exog(built, toy.loc["r7"]), built.exog.loc[["r7"]])
    ((codes, columns),) = new_random_rows(built, toy.loc["r7"])
    assert codes.tolist() == [7]
    np.testing.assert_allclose(columns, [[1.0, toy.loc["r7", "x"]]])
    only = design("y ~ x + (1 | g)", toy)
    np.testing.assert_array_equal(new_exog(only, toy["x"].reset_index(drop=True))["x"], toy["x"])


def test_nothing_fixed(toy):
    built = design("y ~ 0 + (1 | g)", toy)
    assert built.exog.shape == (60, 0)
    assert new_exog(built, toy.iloc[:3]).shape == (3, 0)


@pytest.mark.parametrize("seed", range(3))
def test_row_order_and_labels_do_not_matter(toy, seed):
    text = "y ~ scale(x) * f + C(t, Sum) + (poly(x, 2) | h/t) + (1 | g)"
    built = design(text, toy)
    order = np.random.default_rng(seed).permutation(60)
    moved = design(text, toy.iloc[order].assign(g=lambda d: "g" + d["g"].astype(str)))
    np.testing.assert_allclose(moved.exog, built.exog.iloc[order], rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(moved.random.terms, built.random.terms, strict=True):
        np.testing.assert_array_equal(ours.factor.codes, theirs.factor.codes[order])
        for a, b in zip(ours.columns[1:], theirs.columns[1:], strict=True):
            np.testing.assert_allclose(a, b[order], rtol=1e-12, atol=1e-12)


def test_design_does_not_follow_later_changes_of_the_frame(toy):
    built = design("y ~ x + (x | g)", toy)
    before = built.endog.to_numpy().copy(), built.random.terms[0].columns[1].copy()
    toy.loc[:, "y"] = 0.0
    toy.loc["r0", "x"] = 99.0
    np.testing.assert_array_equal(built.endog, before[0])
    np.testing.assert_array_equal(built.random.terms[0].columns[1], before[1])


# --- environment and pickling


def test_variables_of_the_caller(toy):
    z = np.linspace(0, 1, 60)
    shift = 3.0

    def half(v):
        return v / 2

    parts = parse_formula("y ~ z + half(x) + I(k - shift) + (z | g)")
    toy.loc["r1", "x"] = np.nan
    built = build_design(parts, toy, namespace=caller_environment())
    np.testing.assert_array_equal(built.exog["z"], np.delete(z, 1))
    np.testing.assert_allclose(built.exog["half(x)"], toy["x"].dropna() / 2)
    assert set(built.namespace) == {"half", "shift"}
    new = toy.iloc[10:13].assign(z=[5.0, 6.0, 7.0])
    np.testing.assert_allclose(new_exog(built, new)["I(k - shift)"], new["k"] - shift)


def test_pickle_and_copy(toy):
    toy.loc["r1", "x"] = np.nan
    text = "y ~ bs(x, df=4) + np.sqrt(x) + x.1 + offset(total.n) + (scale(x) | h/t)"
    built = design(text, toy, weights="total.n", offset="k", namespace={"np": np})
    for again in (pickle.loads(pickle.dumps(built)), copy.deepcopy(built)):
        pd.testing.assert_frame_equal(again.exog, built.exog)
        pd.testing.assert_series_equal(again.endog, built.endog)
        np.testing.assert_array_equal(again.weights, built.weights)
        np.testing.assert_array_equal(again.offset, built.offset)
        np.testing.assert_allclose(new_exog(again, toy.iloc[5:8]), new_exog(built, toy.iloc[5:8]))
        assert again.random.n_groups == built.random.n_groups
        assert "flag" not in again.frame


def test_pickle_loads_in_a_fresh_process(toy, tmp_path):
    built = design("np.exp(y) ~ np.log(x) + (1 | g)", toy, namespace={"np": np})
    path = tmp_path / "design.pkl"
    path.write_bytes(pickle.dumps(built))
    code = f"import pickle; d = pickle.load(open({str(path)!r}, 'rb')); print(d.exog.to_numpy().sum().hex())"
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == built.exog.to_numpy().sum().hex()


# --- bad input


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("y ~ Nope + (1 | g)", UnknownColumnError, "'Nope' is not a column of the data; they are y, x, k"),
        ("y ~ X + (1 | g)", UnknownColumnError, "'X' is not a column of the data; did you mean 'x'"),
        ("y ~ x + (1 | gg)", UnknownColumnError, "'gg' is not a column"),
        ("y ~ x + (1 | g:Nope)", UnknownColumnError, "'Nope' is not a column"),
        ("y ~ x + (totl | g)", UnknownColumnError, "did you mean"),
        ("total_n ~ x + (1 | g)", UnknownColumnError, "did you mean 'total.n'"),
        ("y ~ x.2 + (1 | g)", UnknownColumnError, "'x.2' is not a column of the data; did you mean 'x.1'"),
        ("h ~ x + (1 | g)", DataError, "the response 'h' must be numeric, found labels; known levels: 'p'"),
        ("f ~ x + (1 | g)", DataError, "the response 'f' must be numeric"),
        ("y ~ np.nope(x) + (1 | g)", FormulaError, r"np.nope\(x\) cannot be evaluated"),
        ("y ~ log(h) + (1 | g)", FormulaError, r"log\(h\) cannot be evaluated"),
        ("y ~ x @@ k + (1 | g)", FormulaError, "not a valid expression"),
        ("y ~ x = 2 + (1 | g)", FormulaError, "not a valid expression"),
        ("y ~ np.mean(x) + (1 | g)", DataError, "gives a single value where 60 rows"),
        ("y ~ x[:5] + (1 | g)", DataError, "gives 5 values where 60 rows"),
        ("1 / (x - x) ~ 1 + (1 | g)", DataError, "the response .* holds infinite values in 60 rows"),
        ("y ~ I(1 / (k - 1)) + (1 | g)", DataError, "holds infinite values"),
        ("y ~ 1 + (I(1 / (k - 1)) | g)", DataError, r"of \(I\(1 / \(k - 1\)\) \| g\) holds infinite values"),
        ("y ~ C(f, Treatment('nope')) + (1 | g)", FormulaError, "specified level 'nope' not found"),
        ("y ~ bs(x, df=1) + (1 | g)", FormulaError, "bs"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_formulas(toy, text, error, message):
    with pytest.raises(error, match=message):
        design(text, toy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "x.1"}, "weights must not be negative, found -"),
        ({"weights": -np.ones(60)}, "weights must not be negative"),
        ({"weights": np.full(60, np.inf)}, "weights holds infinite values"),
        ({"weights": np.ones(5)}, r"weights has shape \(5,\), but the data have 60 rows"),
        ({"weights": "h"}, "weights 'h' must be one numeric column"),
        ({"weights": pd.Series(np.ones(60))}, "index differs"),
        ({"offset": "h"}, "offset 'h' must be one numeric column"),
        ({"offset": ["a"] * 60}, "offset must be numeric"),
        ({"subset": "x"}, "true or false"),
        ({"subset": ["nope"]}, "subset does not fit the rows"),
    ],
)
def test_bad_arguments(toy, options, message):
    with pytest.raises(DataError, match=message):
        design("y ~ x + (1 | g)", toy, **options)


def test_bad_frames():
    with pytest.raises(DataError, match="data must be a DataFrame"):
        design("y ~ x + (1 | g)", 3)
    with pytest.raises(MissingDataError, match="no rows"):
        design("y ~ x + (1 | g)", pd.DataFrame({"y": [], "x": [], "g": []}))
    doubled = pd.DataFrame(np.ones((4, 3)), columns=["y", "x", "x"])
    with pytest.raises(DataError, match="several columns called 'x'"):
        design("y ~ x + (1 | y)", doubled)


@pytest.mark.parametrize("bar", ["|", "||"])
def test_column_names_that_need_backticks_stand_anywhere(toy, bar):
    odd = toy.rename(columns={"x.1": "a col", "g": "a:b"})
    plain = build_design(parse_formula(f"y ~ `x.1` + (np.exp(x.1) {bar} h/g)"), toy)
    design = build_design(parse_formula(f"y ~ `a col` + (np.exp(`a col`) {bar} h/`a:b`)"), odd)
    assert design.exog_names == ["Intercept", "a col"]
    assert design.random.n_groups.keys() == {"h", "h:a:b"}
    assert {name for term in design.random.terms for name in term.names} == {"Intercept", "np.exp(a col)"}
    for mine, reference in zip(design.random.terms, plain.random.terms, strict=True):
        np.testing.assert_array_equal(mine.factor.codes, reference.factor.codes)
        for a, b in zip(mine.columns, reference.columns, strict=True):
            np.testing.assert_array_equal(a, b)
    for (codes, columns), (codes2, columns2) in zip(
        new_random_rows(design, odd.head()), new_random_rows(plain, toy.head()), strict=True
    ):
        np.testing.assert_array_equal(codes, codes2)
        np.testing.assert_array_equal(columns, columns2)
