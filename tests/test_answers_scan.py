"""What scans, contrasts, transforms and verbs say to arguments that they cannot take, and what the rarer ones give."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, FormulaError, OptionError
from mvmise_sm.scanning.content import digest

N = 24
ONES = pd.DataFrame(1.0, index=range(N), columns=["p0", "p1", "p2"])


@pytest.fixture(scope="module")
def samples():
    return pd.DataFrame({"batch": np.repeat(list("abcdef"), 4), "dose": np.tile([0.0, 0.0, 1.0, 1.0], 6)})


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(5)
    shared = rng.normal(size=(6, 3)).repeat(4, axis=0)
    return pd.DataFrame(10.0 + shared + 0.5 * rng.normal(size=(N, 3)), columns=["p0", "p1", "p2"])


FORMULA = "~ dose + (1 | batch)"
KEYS = {"by": "protein", "outcome": "value", "sample": ["batch", "run"]}


def table(samples, values):
    wide = samples.assign(run=np.arange(N)).join(values)
    return wide.melt(["batch", "dose", "run"], var_name="protein", value_name="value")


@pytest.mark.parametrize(
    ("given", "options", "error", "sentence"),
    [
        (lambda v: v.iloc[:5], {}, DataError, "features has 5 rows and data has 24"),
        (lambda v: v.set_axis(range(7, 31)), {}, DataError, "features is a frame whose index differs"),
        (lambda v: v[[]], {}, OptionError, "features is empty"),
        (lambda v: 3, {}, OptionError, "features must be a list, a mapping or a frame, got int"),
        (lambda v: {"a": ["p0", "p0"]}, {}, OptionError, "features: 'a' has the column 'p0' twice"),
        (lambda v: v, {"weights": np.ones((N, 7))}, DataError, r"weights has shape \(24, 7\)"),
        (
            lambda v: v,
            {"weights": pd.DataFrame({"p0": np.ones(N)})},
            DataError,
            "weights has no column for feature 'p1'",
        ),
        (lambda v: v, {"weights": ONES.set_axis(range(7, 31))}, DataError, "weights is a frame whose index"),
        (lambda v: v, {"weights": ONES.astype(str) + "a"}, DataError, "weights must be numeric"),
        (lambda v: v, {"weights": ["a"] * N}, DataError, "weights must be numeric"),
        (lambda v: v, {"weights": -np.ones(N)}, DataError, "weights must not be negative"),
        (
            lambda v: v,
            {"weights": ONES.mask(ONES.index.to_numpy()[:, None] == np.zeros((1, 3)))},
            DataError,
            "weights are missing where feature 'p0' has values",
        ),
        (lambda v: v, {"q_method": "bonferroni"}, OptionError, "q_method must be 'bh' or 'storey', got 'bonferroni'"),
        (lambda v: v, {"contrasts": "trend"}, OptionError, "a dict of names and combinations, or 'pairwise:f', got"),
        (lambda v: v, {"contrasts": {}}, OptionError, "a dict of names and combinations"),
        (lambda v: v, {"contrasts": {1: "dose", "1": "dose"}}, OptionError, "contrasts: two are called '1'"),
        (lambda v: v, {"contrasts": {"a": ["x", "y"]}}, OptionError, "'a' must be a text or numbers"),
        (lambda v: v, {"contrasts": {"a": [0.0, 0.0]}}, OptionError, "finite numbers that are not all zero"),
    ],
)
def test_features_weights_and_contrasts_that_are_none(samples, values, given, options, error, sentence):
    with pytest.raises(error, match=sentence):
        ms.scan(
            FORMULA,
            samples.join(values) if sentence.startswith("features:") else samples,
            given(values),
            "lmer",
            **options,
        )


def test_a_single_feature_is_a_name(samples, values):
    whole = ms.scan(FORMULA, samples, values, "lmer")
    alone = ms.scan(FORMULA, samples.join(values), "p1", "lmer")
    expected = whole[whole["feature"] == "p1"]["estimate"].to_numpy()
    np.testing.assert_allclose(alone["estimate"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"weights": "w"}, OptionError, "weights: 'w' is not a column of the data"),
        ({"weights": np.ones((72, 2))}, OptionError, "a column of it, or one number per row"),
        ({"weights": np.ones(5)}, DataError, "weights has 5 rows and data has 72"),
        ({"weights": -np.ones(72)}, DataError, "weights must not be negative"),
    ],
)
def test_weights_of_long_tables(samples, values, options, error, sentence):
    with pytest.raises(error, match=sentence):
        ms.scan(FORMULA, table(samples, values), model="lmer", **KEYS, **options)


def test_weights_of_rows_are_those_of_cells(samples, values):
    rng = np.random.default_rng(1)
    weights = pd.DataFrame(rng.uniform(0.5, 2.0, values.shape), columns=values.columns)
    long = table(samples, values)
    long["w"] = table(samples, weights)["value"]
    wide = ms.scan(FORMULA, samples, values, "lmer", weights=weights)
    for given in ("w", long["w"].to_numpy()):
        found = ms.scan(FORMULA, long, model="lmer", weights=given, **KEYS)
        np.testing.assert_allclose(found["estimate"], wide["estimate"], rtol=1e-5, atol=1e-7)
    array = ms.scan(FORMULA, samples, values, "lmer", weights=weights.to_numpy())
    np.testing.assert_allclose(array["estimate"], wide["estimate"], rtol=1e-9)


def test_least_squares_say_what_they_lack_and_test_terms(samples, values):
    changed = values.assign(p0=7.0)
    changed.loc[2:, "p1"] = np.nan
    data = samples.assign(arm=np.tile(["a", "b", "c"], 8))
    found = ms.scan("~ dose + arm", data, changed, "ols", tests=["arm"])
    notes = dict(zip(found["feature"], found["message"], strict=True))
    assert "is constant (7 in all 24 rows)" in notes["p0"]
    assert "independent columns for 2 rows" in notes["p1"]
    tests = found.tests if hasattr(found, "tests") else found[found["term"] == "arm"]
    row = tests[tests["feature"] == "p2"].iloc[0]
    X = np.column_stack([np.ones(N), data["dose"], data["arm"] == "b", data["arm"] == "c"]).astype(float)
    rss = [float(np.linalg.lstsq(x, values["p2"], rcond=None)[1][0]) for x in (X, X[:, :2])]
    f = (rss[1] - rss[0]) / 2.0 / (rss[0] / 20.0)
    assert row["p_value" if "p_value" in row else "p"] == pytest.approx(stats.f.sf(f, 2, 20), rel=1e-7)


def test_moderation_of_the_residual_variance(samples):
    rng = np.random.default_rng(9)
    many = pd.DataFrame(
        10.0 + rng.normal(size=(N, 20)) * rng.uniform(0.5, 1.5, 20), columns=[f"f{i}" for i in range(20)]
    )
    plain = ms.scan("~ dose", samples, many, "ols")
    shrunk = ms.scan("~ dose", samples, many, "ols", moderate="residual")
    # the same estimates; standard errors drawn together, with more degrees of freedom
    np.testing.assert_allclose(shrunk["estimate"], plain["estimate"])
    assert np.log(shrunk["se"]).std() < np.log(plain["se"]).std()
    assert (shrunk["df"] > plain["df"]).all()
    own, other = (t.loc[t["term"] == "dose", "se"].to_numpy() for t in (plain, shrunk))
    assert (np.diff((other / own)[np.argsort(own)]) < 1e-12).all()


# --- contents that are compared between runs


def test_contents_are_told_apart():
    class Plain:
        pass

    assert digest({3, 1, 2}) == digest({2, 3, 1}) != digest({1, 2})
    assert digest("a".upper) != digest("b".upper)
    assert digest(np.exp) != digest(np.log)
    assert digest(int) != digest(float)
    assert digest(np.array(["a", None], dtype=object)) != digest(np.array(["a", "b"], dtype=object))
    assert digest(1 + 2j) != digest(2 + 1j)
    assert digest(Plain()) == digest(Plain())

    class Shown(Plain):
        def __repr__(self):
            return "<Shown at 0x1234>"

    with pytest.raises(OptionError, match="cannot be compared between runs"):
        digest(Shown())


# --- transforms of formulas


def columns(formula, data):
    return ms.lmer(formula, data).exog


@pytest.mark.parametrize(
    ("term", "sentence"),
    [
        ("scale(one)", "the column is constant and cannot be divided"),
        ("cut(x, 1)", "the number of intervals must be at least 2, got 1"),
        ("cut(x, [0, 1, 2], labels=['a'])", "1 labels for 2 intervals"),
    ],
)
def test_transforms_that_are_none(term, sentence):
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {"g": np.repeat(list("abcdef"), 5), "x": rng.uniform(0, 2, 30), "y": rng.normal(size=30), "one": 1.0}
    )
    with pytest.raises(FormulaError, match=sentence):
        columns(f"y ~ {term} + (1 | g)", data)


def test_log_odds_cuts_and_ranks_of_columns():
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(list("abcdef"), 5), "p": rng.uniform(0.1, 0.9, 30), "y": rng.normal(size=30)})
    found = columns("y ~ logit(p) + (1 | g)", data)
    np.testing.assert_allclose(found[:, 1], np.log(data["p"] / (1.0 - data["p"])))
    edges = [float(data["p"].min()), 0.5, 1.0]
    cut = columns(f"y ~ cut(p, {edges}, include_lowest=True) + (1 | g)", data)
    assert cut.shape == (30, 2)
    np.testing.assert_array_equal(cut[:, 1], data["p"] > 0.5)


# --- verbs


@pytest.fixture(scope="module")
def fit(samples, values):
    return ms.lmer("y ~ dose + (1 | batch)", samples.assign(y=values["p0"])).fit()


@pytest.mark.parametrize(
    ("ask", "error", "sentence"),
    [
        (lambda r: r.padded("colour"), OptionError, "'colour' is not an attribute with one value per row"),
        (lambda r: r.padded(np.ones(3)), DataError, r"one value for each of the 24 rows, found shape \(3,\)"),
        (lambda r: r.step(direction="up"), OptionError, "direction must be 'backward', 'forward' or 'both', got 'up'"),
        (lambda r: r.step(criterion="cp"), OptionError, "criterion must be 'aic' or 'bic', got 'cp'"),
        (lambda r: r.marginal_means("dose").test(joint=True, side="greater"), OptionError, "a joint test is two-sided"),
        (
            lambda r: r.marginal_means("dose", at={"dose": [0, 1]}).contrast("pairwise", ref=0),
            OptionError,
            "ref names the",
        ),
        (
            lambda r: r.marginal_means("dose", at={"dose": [0, 1]}).contrast({"a": ["x", "y"]}),
            OptionError,
            "be numbers",
        ),
        (
            lambda r: r.marginal_means("dose", at={"dose": [0, 1]}).contrast({"a": [np.inf, 1]}),
            OptionError,
            "be finite",
        ),
    ],
)
def test_verbs_that_have_no_answer(fit, ask, error, sentence):
    with pytest.raises(error, match=sentence):
        ask(fit)


def test_models_of_arrays_have_no_formula_to_update(samples, values):
    X = np.column_stack([np.ones(N), samples["dose"]])
    result = ms.LinearMixedModel(values["p0"], X, groups=samples["batch"]).fit()
    with pytest.raises(OptionError, match="update needs a model from a formula"):
        result.update("~ . - x")
    ends = result.bootstrap(20, rng=1).conf_int()
    chosen = result.conf_int(method="bootstrap", parm="theta_", n=20, rng=1)
    np.testing.assert_allclose(chosen, ends.iloc[2:], rtol=1e-12)
