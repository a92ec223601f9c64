"""What models and results say to arguments that they cannot take, and what seldom-asked members of results give."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, MissingDataError, OptionError, RandomEffectsError
from mvmise_sm.models.multipart import MultiPartMixedModel

N = 120
HELD = {"Intercept": -0.5, "y": -0.9}


@cache
def frame():
    rng = np.random.default_rng(11)
    g = np.repeat(np.arange(12), 10)
    x = rng.normal(size=N)
    eta = 0.3 + 0.5 * x + 0.7 * rng.normal(size=12)[g]
    out = pd.DataFrame({"g": [f"g{i}" for i in g], "h": np.tile(list("abcdef"), 20), "x": x, "w": 1.0})
    out["y"] = eta + rng.normal(size=N)
    out["n"] = np.where(rng.random(N) < 0.3, 0, rng.poisson(np.exp(eta)))
    out["v"] = out["y"].where(rng.random(N) > stats.norm.cdf(HELD["Intercept"] + HELD["y"] * out["y"]))
    out["s"] = np.arange(N)
    return out


def arrays():
    d = frame()
    return d["y"].to_numpy(), np.column_stack([np.ones(N), d["x"]]), d["g"].to_numpy()


def linear(**changes):
    y, X, g = arrays()
    given = {"endog": y, "exog": X, "groups": g, **changes}
    return ms.LinearMixedModel(given.pop("endog"), given.pop("exog"), **given)


def quietly(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


@cache
def zeros():
    return quietly(ms.glmer("n ~ x + (1 | g)", frame(), family="poisson", zero_inflation="~ x + (1 | g)").fit)


@cache
def dispersed():
    return quietly(ms.glmer("n ~ x + (1 | g)", frame(), family="nb2", dispersion="~ x").fit)


@cache
def missing():
    return quietly(mnar(mechanism=ms.mechanisms.Probit(**HELD)).fit)


# --- arrays


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"weights": ["a"] * N}, DataError, "weights must be numeric"),
        ({"endog": pd.DataFrame({"a": [1.0], "b": [2.0]})}, DataError, "endog must be one column, found 2"),
        ({"exog": [["a"]] * N}, DataError, "exog must be numeric"),
        ({"exog": np.zeros((N, 2, 2))}, DataError, "exog must have one or two dimensions, found 3"),
        ({"exog": None}, DataError, "use a column of ones for an intercept alone"),
        ({"missing": "pass"}, OptionError, "missing must be 'drop', 'raise' or 'none', got 'pass'"),
        ({"groups": {"a": arrays()[2], "b": arrays()[2]}, "exog_re": np.ones(N)}, DataError, "exog_re must be a dict"),
        ({"endog": np.full(N, np.nan)}, MissingDataError, "all 120 rows have missing values"),
        ({"exog": arrays()[1][:50]}, DataError, "endog has 120 rows and exog has 50"),
        ({"groups": arrays()[2][:50]}, DataError, "'group' has 50 rows and endog has 120"),
        ({"groups": None}, DataError, "as random_effects or as groups="),
        ({"weights": np.zeros(N)}, DataError, "weights must be positive, the smallest is 0"),
    ],
)
def test_arrays_that_are_no_model(changes, error, sentence):
    with pytest.raises(error, match=sentence):
        linear(**changes)


def test_arrays_of_one_column_are_vectors():
    y, X, _ = arrays()
    expected = linear().fit()
    same = (
        linear(endog=y[:, None], weights=np.ones((N, 1))),
        linear(endog=pd.DataFrame({"y": y}), exog=pd.DataFrame(X, columns=["const", "x"])),
    )
    for model in same:
        assert model.fit().llf == pytest.approx(expected.llf, rel=1e-12)
    alone = linear(exog=pd.Series(np.ones(N), name="const")).fit()
    assert alone.llf == pytest.approx(ms.lmer("y ~ 1 + (1 | g)", frame()).fit().llf, rel=1e-10)
    absent = y.copy()
    absent[:7] = np.nan
    dropped = linear(endog=pd.Series(absent), exog=pd.DataFrame(X)).fit()
    assert dropped.llf == pytest.approx(ms.lmer("y ~ x + (1 | g)", frame().iloc[7:]).fit().llf, rel=1e-10)


def test_a_new_response_is_checked():
    result = linear().fit()
    for bad, sentence in (
        (["a"] * N, "the new response must be numeric"),
        (np.ones(3), "one value for each of the 120 rows"),
        (np.full(N, np.nan), "missing or infinite values"),
    ):
        with pytest.raises(DataError, match=sentence):
            result.refit(bad)
    assert result.refit(arrays()[0][:, None]).llf == pytest.approx(result.llf)


# --- zero parts and dispersion formulas


def parts(formula="n ~ x + (1 | g)", family="nb2", data=None, **options):
    return ms.glmer(formula, frame() if data is None else data, family=family, **options)


def of_arrays(**options):
    d = frame()
    X = pd.DataFrame({"const": 1.0, "x": d["x"]})
    return MultiPartMixedModel(d["n"], X, groups=d["g"], family="nb2", **options)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: parts(zero_inflation=True), OptionError, "zero_inflation must be a one-sided formula"),
        (lambda: parts(zero_inflation="n ~ x"), OptionError, "has a left side; write '~ x'"),
        (lambda: parts(dispersion="~ x + (1 | g)"), OptionError, "has a random term; use fixed effects there"),
        (lambda: parts("n ~ x", zero_inflation="~ x"), RandomEffectsError, "no random-effects term"),
        (
            lambda: parts(zero_inflation="~ 1").fit(dispersion="lme4"),
            OptionError,
            "has no meaning for family 'negativebinomial'; leave it out",
        ),
        (lambda: parts(zero_inflation="~ 1").fit(curvature="expected"), OptionError, "use 'observed'"),
        (lambda: parts(zero_inflation="~ 1").fit(nagq=0), OptionError, "nagq=0 is not available .*; use nagq=1"),
        (
            lambda: parts("n ~ x + (1 | g)", "truncated_poisson", frame().assign(n=0), zero_inflation="~ 1"),
            DataError,
            "all responses are 0, so that no estimate is finite",
        ),
        (
            lambda: parts(
                data=frame().assign(z=frame()["x"].where(frame()["x"] > 0)), zero_inflation="~ z", missing="raise"
            ),
            MissingDataError,
            "rows have missing values in ~ z",
        ),
        (lambda: of_arrays(dispersion="~ x"), OptionError, "is a formula, which needs a model from a formula"),
        (lambda: of_arrays(dispersion=np.ones(7)), DataError, "dispersion has 7 rows and the response 120"),
        (
            lambda: of_arrays(dispersion=np.column_stack([np.ones(N), np.ones(N)])),
            OptionError,
            "two coefficients are called 'disp_const'; rename a column",
        ),
    ],
)
def test_parts_that_are_no_part(make, error, sentence):
    with pytest.raises(error, match=sentence):
        quietly(make)


def test_missing_values_of_a_part_leave_their_rows_out():
    data = frame().assign(z=frame()["x"].where(np.arange(N) >= 20), o=0.1)
    given = {"weights": "w", "offset": "o", "zero_inflation": "~ z"}
    model = ms.glmer("n ~ x + (1 | g)", data, family="nb2", **given)
    whole = ms.glmer("n ~ x + (1 | g)", data.iloc[20:], family="nb2", **given)
    assert model.nobs == 100
    np.testing.assert_array_equal(model.endog, whole.endog)
    np.testing.assert_array_equal(model.parts[0].exog, whole.parts[0].exog)
    np.testing.assert_array_equal(model.offset, whole.offset)


def test_parts_from_arrays_are_those_of_formulas():
    X = np.column_stack([np.ones(N), frame()["x"]])
    for exog in (X, pd.DataFrame(X, columns=["Intercept", "x"])):
        model = of_arrays(dispersion=exog)
        assert quietly(model.fit).llf == pytest.approx(dispersed().llf, rel=1e-7)
    assert model.param_names == ["const", "x", "disp_Intercept", "disp_x"]
    assert "dispersion='~ x'" in repr(dispersed().model)
    with pytest.raises(OptionError, match="new data need a model from a formula"):
        quietly(model.fit).predict(frame())


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: zeros().predict(which="zeros"), "which must be one of"),
        (lambda: zeros().predict(random="k"), r"random must be 'all', 'none' or a list of \['g', 'zi:g'\], got 'k'"),
        (lambda: zeros().predict(frame(), groups=frame()["g"]), "belong to models with one linear predictor"),
        (lambda: dispersed().overdispersion(), "estimates its dispersion: see dispersion"),
        (lambda: dispersed().params_zi, "the model has no zero part"),
        (lambda: zeros().params_disp, "the model has no dispersion formula"),
    ],
)
def test_questions_that_parts_do_not_answer(ask, sentence):
    with pytest.raises(OptionError, match=sentence):
        ask()


def test_predictions_of_parts_with_chosen_and_new_random_effects():
    result, data = zeros(), frame()
    np.testing.assert_allclose(result.predict(random=["g"]), result.predict(), rtol=1e-12)
    fixed = result.predict(random="none", which="linear")
    np.testing.assert_allclose(fixed, result.model.exog @ result.params.iloc[:2], rtol=1e-10)
    np.testing.assert_allclose(result.model.predict(result.params, which="linear"), fixed, rtol=1e-10)
    unknown = result.get_prediction(data.assign(g="new"), random="none", which="linear").summary_frame()
    known = result.get_prediction(data, random="none", which="linear").summary_frame()
    np.testing.assert_allclose(unknown, known)


def test_deviances_and_residuals_of_parts():
    result = zeros()
    assert result.deviance == pytest.approx(-2.0 * result.llf)
    other = dispersed()
    assert other.deviance > 0.0
    mean = np.exp(other.own_predictors()[0])
    np.testing.assert_allclose(other.resid_working, (frame()["n"] - mean) / mean, rtol=1e-9)


# --- ordered responses


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"link": "identity"}, OptionError, "link must be one of 'logit'"),
        ({"threshold": "rising"}, OptionError, "threshold"),
    ],
)
def test_ordinal_options(options, error, sentence):
    data = frame().assign(r=pd.Categorical(np.clip(frame()["n"], 0, 3).astype(int), ordered=True))
    with pytest.raises(error, match=sentence):
        ms.clmm("r ~ x + (1 | g)", data, **options)


def test_an_ordinal_model_of_arrays_needs_no_constant():
    codes = np.clip(frame()["n"], 0, 2).to_numpy(dtype=float)
    data = frame().assign(r=pd.Categorical(codes.astype(int), ordered=True))
    expected = quietly(ms.clmm("r ~ x + (1 | g)", data).fit)
    X = pd.DataFrame({"const": 1.0, "x": data["x"]})
    for exog in (X, X.to_numpy(), X[["x"]]):
        found = quietly(ms.OrdinalMixedModel(codes, exog, groups=data["g"]).fit)
        assert found.llf == pytest.approx(expected.llf, rel=1e-8)
    with pytest.raises(DataError, match="codes from 0 to 2"):
        found.refit(codes + 5.0)


# --- responses that are missing not at random


def mnar(data=None, formula="v ~ x + (1 | g)", **options):
    return ms.lmer_mnar(formula, frame() if data is None else data, **options)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: mnar(weights="w"), OptionError, "lmer_mnar takes no weights"),
        (lambda: mnar(frame().assign(v=-np.inf)), DataError, "v has -inf; write missing values as NaN"),
        (lambda: mnar(frame().assign(v=np.inf)), DataError, "infinite"),
        (lambda: mnar(frame().assign(v="a")), DataError, "numeric"),
        (lambda: mnar().fit(cov_type="HC9"), OptionError, "cov_type must be one of"),
        (lambda: mnar().fit(method="bfgs"), OptionError, "method must be 'newton', got 'bfgs'"),
        (lambda: mnar().fit(reml="yes"), OptionError, "reml must be"),
        (lambda: mnar().fit(maxiter=0), OptionError, "maxiter must be a positive integer, got 0"),
        (lambda: mnar().fit(maxiter="many"), OptionError, "maxiter must be an integer .*, got 'many'"),
        (lambda: mnar().fit(nagq=0), OptionError, "nagq must be 'auto' or a positive integer, got 0"),
        (lambda: mnar(formula="v ~ x + (x | g)").fit(nagq=3), OptionError, "nagq above 1 needs one scalar random term"),
        (lambda: missing().refit(np.ones(3)), DataError, "120"),
        (lambda: missing().simulate(1, random="old"), OptionError, "random must be 'new' or 'conditional', got 'old'"),
        (lambda: missing().simulate(0), OptionError, "n must be a positive integer, got 0"),
        (lambda: missing().profile(reml=True), OptionError, "leave reml out"),
        (lambda: missing().conf_int(alpha=2.0, method="profile"), OptionError, "alpha must lie between 0 and 1, got 2"),
        (lambda: mnar(samples=frame()), OptionError, r"samples= .* and sample= .* go together"),
        (lambda: mnar(samples=frame(), sample="run"), OptionError, "sample 'run' is not a column of data"),
        (lambda: mnar(samples=frame().drop(columns="v"), sample="h"), DataError, "data has sample 'a' twice"),
        (
            lambda: mnar(samples=frame().drop(columns="v").iloc[:50], sample="s"),
            DataError,
            "data has sample .*, which samples has not",
        ),
        (
            lambda: mnar(frame().assign(v=np.where(np.arange(N) < 30, np.nan, 2.0))).fit(),
            DataError,
            "nothing to fit",
        ),
        (lambda: mnar(mechanism=ms.mechanisms.Probit(Intercept=900.0, y=-1.0)).fit(), DataError, "the same scale"),
        (lambda: mnar(mechanism=ms.mechanisms.Probit(Intercept=-900.0, y=-1.0)).fit(), DataError, "the same scale"),
    ],
)
def test_what_lmer_mnar_does_not_take(make, error, sentence):
    with pytest.raises(error, match=sentence):
        quietly(make)


def test_seldom_asked_members_of_lmer_mnar():
    result = missing()
    assert result.deviance == pytest.approx(-2.0 * result.llf)
    row = result.glance().iloc[0]
    assert row["n_missing"] == frame()["v"].isna().sum()
    assert row["phi_y"] == result.phi["y"]
    fitted, residual = result._results.diagnostic_points()
    assert len(fitted) == len(residual) == frame()["v"].notna().sum()
    names = result.parameter_values().index
    chosen = result.conf_int(parm="theta_")
    assert list(chosen.index) == list(names[2:])
    same = ms.ValueSelectionModel(
        pd.DataFrame({"v": frame()["v"]}), np.column_stack([np.ones(N), frame()["x"]]), groups=frame()["g"]
    )
    np.testing.assert_array_equal(same.endog, result.model.endog)
    with pytest.raises(DataError, match="must be one column, found shape"):
        ms.ValueSelectionModel(np.ones((N, 2)), np.ones((N, 1)), groups=frame()["g"])


def test_profiles_of_correlated_slopes_with_missing_values():
    rng = np.random.default_rng(2)
    data = frame().assign(v=frame()["v"] + 0.8 * frame()["x"] * rng.normal(size=12).repeat(10))
    result = quietly(mnar(data, "v ~ x + (x | g)", mechanism=ms.mechanisms.Probit(**HELD)).fit, reml=False)
    ends = result.conf_int(method="profile", parm=["sd_x|g"])
    estimate = result.parameter_values()[ends.index]
    assert ((ends[0] < estimate) & (estimate < ends[1])).all()
    # the sd at its upper end loses what the quantile says, by Laplace's likelihood at the profile's point
    target, parameters = result._results.profile_parameters()
    (sd,) = [target.profiled(p) for p in parameters if p.name == "sd_x|g"]
    loss = sd.at(np.log(ends.loc["sd_x|g", 1]), target.point).value - sd.minimum
    assert loss == pytest.approx(stats.chi2.isf(0.05, 1), abs=1e-3)
