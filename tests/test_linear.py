"""The linear mixed model through its public interface: oracle, invariances, interfaces, refusals."""

import warnings

import numpy as np
import oracle
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.core.threads import blas_threads
from mvmise_sm.exceptions import (
    DataError,
    FormulaError,
    MissingDataError,
    OptionError,
    RandomEffectsError,
    RankWarning,
    SingularFitWarning,
    UnknownColumnError,
)

SLOPES = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep(frames):
    return frames("sleepstudy")


@pytest.fixture(scope="module")
def slopes(sleep):
    return ms.lmer(SLOPES, sleep).fit()


@pytest.fixture(scope="module")
def crossed(frames):
    frame = frames("crossed3").iloc[:200]
    return ms.lmer("y ~ x + (x | a) + (1 | b)", frame, weights=np.linspace(0.5, 2, 200), offset="x").fit(), frame


# --- the oracle


@pytest.mark.parametrize("reml", [True, False])
def test_everything_at_the_optimum_is_what_dense_algebra_gives(crossed, reml):
    fit = crossed[0].model.fit(reml=reml)
    model = fit.model
    dense = oracle.DenseDeviance(
        model.endog, model.exog, model.random_effects, reml=reml, weights=model.weights, offset=model.offset
    )
    at = dense.solve(fit.theta)
    np.testing.assert_allclose(fit.criterion, at.criterion, rtol=1e-10)
    np.testing.assert_allclose(fit.params, at.beta, rtol=1e-8)
    np.testing.assert_allclose(fit.cov_params(), at.sigma2 * at.cov_beta, rtol=1e-7)
    np.testing.assert_allclose(fit.scale, at.sigma2, rtol=1e-9)
    np.testing.assert_allclose(fit.random_effects["a"], at.b[0], atol=1e-8)
    np.testing.assert_allclose(fit.random_effects["b"], at.b[1], atol=1e-8)
    fitted = model.exog @ at.beta + model.random_effects.linear(at.b) + model.offset
    np.testing.assert_allclose(fit.fittedvalues, fitted, rtol=1e-9)
    for name, block in zip("ab", dense.conditional_cov(fit.theta), strict=True):
        np.testing.assert_allclose(fit.random_effects_cov[name], at.sigma2 * block, rtol=1e-6, atol=1e-10)


def test_no_better_optimum_is_found_by_scipy(frames):
    model = ms.lmer("strength ~ 1 + (1 | batch/cask)", frames("Pastes"))
    found = oracle.minimize(oracle.DenseDeviance(model.endog, model.exog, model.random_effects))
    fit = model.fit()
    assert fit.criterion < found.value + 1e-7
    np.testing.assert_allclose(fit.theta, found.theta, atol=1e-3)


def test_balanced_random_intercept_has_the_closed_form_of_anova(frames):
    frame = frames("Dyestuff")
    fit = ms.lmer("Yield ~ 1 + (1 | Batch)", frame).fit()
    groups = frame.groupby("Batch", observed=True)["Yield"]
    within = ((frame["Yield"] - groups.transform("mean")) ** 2).sum() / (30 - 6)
    between = 5 * groups.mean().var(ddof=1)
    np.testing.assert_allclose(fit.scale, within, rtol=1e-6)
    np.testing.assert_allclose(fit.varcorr["vcov"][0], (between - within) / 5, rtol=1e-6)
    np.testing.assert_allclose(fit.bse, np.sqrt(between / 30), rtol=1e-6)


@pytest.mark.parametrize("method", ["lbfgs", "nm", "powell", "bobyqa"])
def test_other_optimisers_reach_the_same_point(slopes, method):
    other = slopes.model.fit(method=method, maxiter=500)
    np.testing.assert_allclose(other.criterion, slopes.criterion, atol=1e-6)
    np.testing.assert_allclose(other.params, slopes.params, rtol=1e-5)
    assert other.mle_settings["optimizer"] == method


# --- invariances


def test_row_order_and_level_names_do_not_matter(sleep, slopes):
    shuffled = sleep.sample(frac=1, random_state=1)
    shuffled["Subject"] = "s" + (500 - shuffled["Subject"].astype(int)).astype(str)
    fit = ms.lmer(SLOPES, shuffled).fit()
    np.testing.assert_allclose(fit.criterion, slopes.criterion, rtol=1e-12)
    np.testing.assert_allclose(fit.params, slopes.params, rtol=1e-9)
    np.testing.assert_allclose(fit.theta, slopes.theta, rtol=1e-5)
    np.testing.assert_allclose(fit.fittedvalues.sort_index(), slopes.fittedvalues, rtol=1e-7)


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_rescaling_a_covariate(sleep, slopes, factor):
    scaled = sleep.assign(Days=sleep["Days"] * factor)
    ml = ms.lmer(SLOPES, sleep).fit(reml=False), ms.lmer(SLOPES, scaled).fit(reml=False)
    np.testing.assert_allclose(ml[1].criterion, ml[0].criterion, rtol=1e-11)
    fit = ms.lmer(SLOPES, scaled).fit()
    np.testing.assert_allclose(fit.criterion, slopes.criterion + 2 * np.log(factor), rtol=1e-10)
    np.testing.assert_allclose(fit.fittedvalues, slopes.fittedvalues, rtol=1e-6)
    np.testing.assert_allclose(fit.params["Days"] * factor, slopes.params["Days"], rtol=1e-7)
    np.testing.assert_allclose(fit.bse["Days"] * factor, slopes.bse["Days"], rtol=1e-5)


def test_rescaling_the_response(sleep, slopes):
    fit = ms.lmer(SLOPES, sleep.assign(Reaction=sleep["Reaction"] * 1e6)).fit()
    np.testing.assert_allclose(fit.theta, slopes.theta, rtol=1e-5)
    np.testing.assert_allclose(fit.bse, slopes.bse * 1e6, rtol=1e-6)


@pytest.mark.parametrize("column", ["Reaction", "Days"])
def test_a_large_mean_costs_no_accuracy(sleep, slopes, column):
    fit = ms.lmer(SLOPES, sleep.assign(**{column: sleep[column] + 1e6})).fit()
    np.testing.assert_allclose(fit.params["Days"], slopes.params["Days"], rtol=1e-6)
    np.testing.assert_allclose(fit.bse["Days"], slopes.bse["Days"], rtol=1e-5)
    np.testing.assert_allclose(fit.resid, slopes.resid, atol=1e-3)


def test_a_flat_prior_is_no_prior(slopes, sleep):
    fit = ms.lmer(SLOPES, sleep, cov_prior="flat", fixef_prior=None).fit()
    assert fit.priors is None
    assert fit.penalty == 0.0
    np.testing.assert_array_equal(fit.theta, slopes.theta)


def test_equal_weights_change_only_the_scale(slopes, sleep):
    fit = ms.lmer(SLOPES, sleep, weights=np.full(180, 4.0)).fit()
    np.testing.assert_allclose(fit.params, slopes.params, rtol=1e-7)
    np.testing.assert_allclose(fit.bse, slopes.bse, rtol=1e-6)
    np.testing.assert_allclose(fit.scale, 4 * slopes.scale, rtol=1e-6)
    np.testing.assert_allclose(fit.resid_pearson, 2 * fit.resid)


# --- ways to say the same


def test_array_interfaces_agree_with_the_formula(sleep, slopes):
    y, labels = sleep["Reaction"].to_numpy(), sleep["Subject"].astype(str).to_numpy()
    exog = np.column_stack([np.ones(180), sleep["Days"]])
    fits = [
        ms.LinearMixedModel(y, exog, {"Subject": (labels, exog)}).fit(),
        ms.LinearMixedModel(y, exog, groups=labels, exog_re=exog).fit(),
        ms.LinearMixedModel(sleep["Reaction"], pd.DataFrame(exog), sleep["Subject"], exog_re=exog).fit(),
        ms.LinearMixedModel(y, exog, slopes.model.random_effects).fit(),
        ms.LinearMixedModel.from_formula("Reaction ~ Days", sleep, groups="Subject", re_formula="~Days").fit(),
    ]
    for fit in fits:
        np.testing.assert_allclose(fit.criterion, slopes.criterion, rtol=1e-12)
        np.testing.assert_allclose(np.asarray(fit.params), slopes.params, rtol=1e-7)
    assert fits[0].model.exog_names == ["const", "x1"]
    assert isinstance(fits[0].params, np.ndarray)
    assert fits[2].params.index.tolist() == ["0", "1"]


def test_a_dict_of_labels_gives_crossed_intercepts(frames):
    frame = frames("Penicillin")
    formula = ms.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", frame).fit()
    arrays = ms.LinearMixedModel(
        frame["diameter"].to_numpy(), np.ones(144), {"plate": frame["plate"], "sample": frame["sample"]}
    ).fit()
    np.testing.assert_allclose(arrays.theta, formula.theta, rtol=1e-6)
    assert arrays.n_groups == formula.n_groups == {"plate": 24, "sample": 6}


def test_missing_rows_are_dropped_jointly(sleep):
    y, x, w, g = (
        sleep[c].astype(object if c == "Subject" else float).copy() for c in ("Reaction", "Days", "w", "Subject")
    )
    y.iloc[0] = x.iloc[1] = w.iloc[2] = np.nan
    g.iloc[3] = None
    exog = np.column_stack([np.ones(180), x])
    whole = ms.LinearMixedModel(
        y.to_numpy()[4:], exog[4:], g.to_numpy()[4:], weights=w[4:], offset=np.r_[[1.0] * 176]
    ).fit()
    offset = np.ones(180)
    dropped = ms.LinearMixedModel(y.to_numpy(), exog, g.to_numpy(), weights=w, offset=offset).fit()
    assert dropped.nobs == 176
    np.testing.assert_allclose(dropped.params, whole.params)
    framed = ms.lmer(
        "Reaction ~ Days + (1 | Subject)", pd.DataFrame({"Reaction": y, "Days": x, "w": w, "Subject": g}), weights="w"
    )
    assert framed.nobs == 176
    for arguments in ((y.to_numpy(), exog, g.to_numpy()), (sleep["Reaction"].to_numpy(), exog, sleep["Subject"])):
        with pytest.raises(MissingDataError, match="rows"):
            ms.LinearMixedModel(*arguments, missing="raise")


# --- the model is not changed


def test_fit_leaves_the_model_alone(sleep):
    model = ms.lmer(SLOPES, sleep)
    before = dict(model.__dict__)
    reml, ml, again = model.fit(), model.fit(reml=False), model.fit()
    assert model.__dict__ == before
    assert reml.criterion == again.criterion
    assert ml.llf > reml.llf - 1000
    assert (reml.reml, ml.reml) == (True, False)
    np.testing.assert_array_equal(reml.theta, again.theta)


def test_repr_says_that_it_is_not_fitted(sleep):
    assert repr(ms.lmer(SLOPES, sleep)) == (
        "<LinearMixedModel: Reaction ~ Days + (Days | Subject); 180 rows; not fitted, .fit() fits it>"
    )


def test_criterion_is_a_function_of_theta(slopes):
    criterion = slopes.model.criterion(reml=True)
    np.testing.assert_allclose(criterion(slopes.theta), slopes.criterion, rtol=1e-12)
    assert np.abs(criterion.gradient(slopes.theta)).max() < 1e-3


# --- counts and likelihood


def test_counts(slopes):
    assert (slopes.nobs, slopes.df_model, slopes.df_resid, slopes.k_params) == (180, 1.0, 178.0, 6)
    assert slopes.n_groups == {"Subject": 18}
    assert slopes.llf == -0.5 * slopes.criterion
    assert slopes.deviance == slopes.criterion
    np.testing.assert_allclose(slopes.bic - slopes.aic, 6 * (np.log(180) - 2))
    assert {"n_evaluations", "n_iterations", "converged"} <= set(slopes.mle_retvals)


def test_names_of_mixedlm(slopes):
    pd.testing.assert_series_equal(slopes.fe_params, slopes.params)
    pd.testing.assert_series_equal(slopes.bse_fe, slopes.bse)


def test_no_fixed_effects(sleep):
    fit = ms.lmer("Reaction ~ 0 + (1 | Subject)", sleep).fit()
    dense = oracle.DenseDeviance(fit.model.endog, fit.model.exog, fit.model.random_effects)
    np.testing.assert_allclose(fit.criterion, dense.solve(fit.theta).criterion, rtol=1e-10)
    assert len(fit.params) == 0
    assert "No Model Parameters" in str(fit.summary())
    assert "Subject" in str(fit.summary2())
    np.testing.assert_allclose(fit.get_prediction(sleep.head(2)).summary_frame()["mean"], fit.fittedvalues[:2])


def test_implicit_constant_counts(frames):
    fit = ms.lmer("score ~ 0 + Machine + (1 | Worker)", frames("Machines")).fit()
    assert fit.df_model == 2.0


# --- tests that statsmodels brings


def test_wald_tests(frames):
    fit = ms.lmer("score ~ Machine + (1 | Worker)", frames("Machines")).fit()
    by_name = fit.t_test("Machine[T.B] = Machine[T.C]")
    difference = fit.params["Machine[T.B]"] - fit.params["Machine[T.C]"]
    cov = fit.cov_params()
    se = np.sqrt(cov.iloc[1, 1] + cov.iloc[2, 2] - 2 * cov.iloc[1, 2])
    np.testing.assert_allclose(by_name.tvalue.item(), difference / se)
    joint = fit.wald_test("Machine[T.B] = 0, Machine[T.C] = 0", scalar=True)
    b, v = fit.params.to_numpy()[1:], cov.to_numpy()[1:, 1:]
    np.testing.assert_allclose(joint.statistic, b @ np.linalg.solve(v, b))
    assert fit.wald_test_terms().table.loc["Machine", "df_constraint"] == 2
    assert len(fit.t_test_pairwise("Machine").result_frame) == 3


def test_wald_tests_under_the_other_formula_engine(frames):
    import statsmodels.formula

    fit = ms.lmer("score ~ Machine + (1 | Worker)", frames("Machines")).fit()
    table, pairs = fit.wald_test_terms().table, fit.t_test_pairwise("Machine").result_frame
    statsmodels.formula.options.formula_engine = "formulaic"
    try:
        other = ms.lmer("score ~ Machine + (1 | Worker)", frames("Machines")).fit()
        pd.testing.assert_frame_equal(other.wald_test_terms().table, table)
        pd.testing.assert_frame_equal(other.t_test_pairwise("Machine").result_frame, pairs)
        # one goes through a product with the whole covariance
        tested = other.t_test("Machine[T.B] = 0").tvalue.item()
        assert tested == pytest.approx(fit.tvalues["Machine[T.B]"], rel=1e-13)
        assert statsmodels.formula.options.formula_engine == "formulaic"
    finally:
        statsmodels.formula.options.formula_engine = "patsy"


def test_wald_terms_with_dropped_columns(sleep):
    with pytest.warns(RankWarning):
        model = ms.lmer("Reaction ~ Half + Days + Days2 + Half:Days + (1 | Subject)", sleep)
    fit = model.fit()
    assert fit.dropped == ("Days2",)
    assert list(fit.params.index) == model.exog_names
    assert "Days2" not in fit.params.index
    table = fit.wald_test_terms().table
    np.testing.assert_allclose(table.loc["Half", "statistic"], fit.tvalues["Half[T.late]"] ** 2)
    assert np.isfinite(fit.predict(sleep.head())).all()


# --- refusals


def test_unknown_covariances_are_refused(sleep):
    with pytest.raises(NotImplementedError, match="HC0"):
        ms.lmer(SLOPES, sleep).fit(cov_type="HC0")
    with pytest.raises(OptionError, match="'cluster' needs groups="):
        ms.lmer(SLOPES, sleep).fit(cov_type="cluster")


@pytest.mark.parametrize(
    ("formula", "change", "options", "error", "message"),
    [
        ("Reaction ~ Days", {}, {}, RandomEffectsError, "no random-effects term"),
        ("Reaction ~ Days + (1 | id)", {"id": range(180)}, {}, RandomEffectsError, "'id'"),
        ("Reaction ~ Days + (Days | two)", {"two": np.arange(180) // 2}, {}, RandomEffectsError, "180 effects"),
        ("Reaction ~ Days + (1 | one)", {"one": 1}, {}, RandomEffectsError, "'one'"),
        ("Reaction ~ Nope + (1 | Subject)", {}, {}, UnknownColumnError, "Nope"),
        ("Reaction ~ Days + (1 | Nope)", {}, {}, UnknownColumnError, "Nope"),
        ("Reaction ~ Days + 1 | Subject", {}, {}, FormulaError, "parentheses"),
        ("Subject ~ Days + (1 | Half)", {}, {}, DataError, "numeric"),
        ("gone ~ Days + (1 | Subject)", {"gone": np.nan}, {}, MissingDataError, "no complete rows"),
        ("inf ~ Days + (1 | Subject)", {"inf": np.r_[np.inf, np.ones(179)]}, {}, DataError, "infinite"),
        (SLOPES, {"neg": -1.0}, {"weights": "neg"}, DataError, "weights"),
        (SLOPES, {"zero": np.r_[0.0, np.ones(179)]}, {"weights": "zero"}, DataError, "weights"),
        (SLOPES, {}, {"missing": "maybe"}, OptionError, "missing"),
        (SLOPES, {}, {"drop_cols": ["Days"]}, OptionError, "drop_cols"),
        (SLOPES, {}, {"nonsense": 1}, ValueError, "nonsense"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(sleep, formula, change, options, error, message):
    with pytest.raises(error, match=message):
        ms.lmer(formula, sleep.assign(**change), **options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"endog": np.full(20, "a")}, DataError, "numeric"),
        ({"endog": np.ones((20, 2))}, DataError, "one-dimensional"),
        ({"exog": np.ones((19, 1))}, DataError, "19"),
        ({"exog": None}, DataError, "exog"),
        ({"exog": np.full((20, 1), np.inf)}, DataError, "infinite"),
        ({"exog": pd.DataFrame({"f": list("ab") * 10})}, DataError, "'f'"),
        ({"random_effects": np.ones(19)}, DataError, "19"),
        ({"random_effects": None}, DataError, "group labels"),
        ({"groups": np.arange(20) // 4}, DataError, "not both"),
        ({"random_effects": np.zeros(20)}, RandomEffectsError, "2"),
        ({"weights": np.zeros(20)}, DataError, "positive"),
        ({"weights": np.ones(3)}, DataError, "weights"),
        ({"offset": np.full(20, np.inf)}, DataError, "offset"),
        ({"missing": "maybe"}, OptionError, "missing"),
        ({"nonsense": 1}, ValueError, "nonsense"),
    ],
)
def test_bad_arrays_are_refused_with_a_sentence(change, error, message):
    rng = np.random.default_rng(0)
    good = {"endog": rng.normal(size=20), "exog": np.ones((20, 1)), "random_effects": np.arange(20) // 4}
    with pytest.raises(error, match=message):
        ms.LinearMixedModel(**(good | change))


def test_fit_options_are_checked(slopes):
    with pytest.raises(OptionError, match="tol"):
        slopes.model.fit(full_output=True)
    with pytest.raises(ValueError, match="method"):
        slopes.model.fit(method="magic")
    with pytest.raises(OptionError, match="start_theta"):
        slopes.model.fit(start_theta=[1.0])
    again = slopes.model.fit(start_theta=slopes.theta)
    np.testing.assert_allclose(again.criterion, slopes.criterion, rtol=1e-12)


def test_one_warning_per_singular_fit_and_none_otherwise(frames, sleep):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ms.lmer("Yield ~ 1 + (1 | Batch)", frames("Dyestuff2")).fit()
        ms.lmer(SLOPES, sleep).fit()
    assert [w.category for w in caught] == [SingularFitWarning]
    assert caught[0].filename == __file__


def test_rank_warning_points_at_the_caller(sleep):
    exog = np.column_stack([np.ones(180), sleep["Days"], sleep["Days2"]])
    with pytest.warns(RankWarning, match="'x2'") as caught:
        model = ms.LinearMixedModel(sleep["Reaction"].to_numpy(), exog, sleep["Subject"])
    assert caught[0].filename == __file__
    assert model.exog.shape == (180, 2)
    with pytest.warns(RankWarning, match="Days2") as caught:
        ms.lmer("Reaction ~ Days + Days2 + (1 | Subject)", sleep)
    assert caught[0].filename == __file__


def test_disp_prints_how_the_optimiser_ended(slopes, capsys):
    slopes.model.fit(disp=True)
    assert "stationary" in capsys.readouterr().out


def test_a_fit_restores_the_number_of_blas_threads(sleep):
    from threadpoolctl import ThreadpoolController

    blas = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
    before = [lib.num_threads for lib in blas]
    inside = []
    try:
        for lib in blas:
            lib.set_num_threads(2)
        with blas_threads(0), blas_threads(0):
            ms.lmer(SLOPES, sleep).fit()
            inside = [lib.num_threads for lib in blas]
        after = [lib.num_threads for lib in blas]
    finally:
        for lib, threads in zip(blas, before, strict=True):
            lib.set_num_threads(threads)
    assert inside == [1] * len(blas)
    assert after == [2] * len(blas)


@pytest.mark.parametrize(
    ("both", "alone"),
    [("(f || a)", "(0 + f | a)"), ("(x | a) + (x + z | a)", "(x + z | a)"), ("(x || a) + (x | a)", "(x | a)")],
)
def test_a_term_that_another_contains_costs_nothing(both, alone):
    """Variance can move between such terms without change; the fit is that of the larger term, and as quick."""
    rng = np.random.default_rng(0)
    n = 60
    frame = pd.DataFrame({"a": np.repeat(np.arange(10), 6), "f": np.tile(list("uvw"), 20), "x": rng.normal(size=n)})
    frame["z"] = rng.normal(size=n)
    frame["y"] = rng.normal(size=10)[frame["a"]] + rng.normal(size=n)
    fits = []
    for terms in (both, alone):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SingularFitWarning)
            fits.append(ms.lmer(f"y ~ x + {terms}", frame).fit())
    np.testing.assert_allclose(fits[0].criterion, fits[1].criterion, rtol=0, atol=1e-7)
    assert fits[0].converged
    assert fits[0].mle_retvals["n_evaluations"] < 200
    np.testing.assert_allclose(fits[0].fittedvalues, fits[1].fittedvalues, atol=1e-4)
