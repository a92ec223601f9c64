"""What models of several parts, and families whose mean is no inverse link, answer after the fit."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import mvmise_sm as ms
from mvmise_sm.core.families.registry import FAMILIES
from mvmise_sm.exceptions import NotAvailableError, OptionError


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    n = 240
    g = np.repeat(np.arange(16), 15)
    x, b = rng.normal(size=n), 0.5 * rng.normal(size=16)[g]
    mean = np.exp(0.7 + 0.4 * x + b)
    frame = pd.DataFrame({"x": x, "f": np.tile(list("abc"), 80), "g": [f"g{i}" for i in g]})
    frame["positive"] = FAMILIES["truncated_poisson"]().simulate(rng, mean)
    frame["dispersed"] = FAMILIES["truncated_nb2"]().simulate(rng, mean, None, np.exp(0.8 + 0.3 * x))
    frame["size"] = np.exp(0.2 + 0.4 * x + b + 0.5 * rng.normal(size=n))
    zero = rng.random(n) < expit(-1.0 + 0.6 * x + 1.4 * rng.normal(size=16)[g])
    frame["zeros"] = np.where(zero, 0, rng.poisson(mean))
    frame["y"] = 1.0 + 0.5 * x + b + np.exp(0.1 + 0.3 * x) * rng.normal(size=n)
    frame["rating"] = pd.Categorical(np.digitize(0.6 * x + b + rng.logistic(size=n), [-1.0, 0.5]), ordered=True)
    return frame


OWN_MEANS = {
    "truncated_poisson": ("positive ~ x + f + (1 | g)", {"family": "truncated_poisson"}),
    "truncated_nb2": ("dispersed ~ x + f + (1 | g)", {"family": "truncated_nb2", "dispersion": "~ x"}),
    "hurdle": ("zeros ~ x + f + (1 | g)", {"family": "truncated_poisson", "zero_inflation": "~ x"}),
    "lognormal": ("size ~ x + f + (1 | g)", {"family": "lognormal"}),
}


def mean_of(name, fit, eta, rows=None):
    """The conditional mean by its own formula."""
    if name == "lognormal":
        return np.exp(eta + 0.5 * fit.dispersion**2)
    m = np.exp(eta)
    if name != "truncated_nb2":
        return m / -np.expm1(-m)
    d = fit.dispersion[rows]
    return m / (1.0 - (d / (d + m)) ** d)


@pytest.mark.parametrize("name", OWN_MEANS)
def test_predicted_means_are_those_of_the_family(name, data):
    formula, options = OWN_MEANS[name]
    fit = ms.glmer(formula, data, **options).fit()
    rows = slice(0, 6)
    new = data.iloc[rows]
    linear = fit.get_prediction(new, which="linear").summary_frame()
    mean = fit.get_prediction(new, which="conditional").summary_frame()
    eta = linear["predicted"].to_numpy()
    np.testing.assert_allclose(mean["mean"], mean_of(name, fit, eta, rows), rtol=1e-12)
    np.testing.assert_allclose(mean["mean"], fit.predict(new, which="conditional"), rtol=1e-12)
    slope = (mean_of(name, fit, eta + 1e-4, rows) - mean_of(name, fit, eta - 1e-4, rows)) / 2e-4
    np.testing.assert_allclose(mean["mean_se"], slope * linear["se"], rtol=1e-6)
    for end in ("lower", "upper"):
        right = mean_of(name, fit, linear[f"ci_{end}"].to_numpy(), rows)
        np.testing.assert_allclose(mean[f"mean_ci_{end}"], right, rtol=1e-12)
    if name == "truncated_nb2":
        with pytest.raises(OptionError, match="depends on the dispersion, which has a formula"):
            fit.marginal_means("f", which="mean")
        return
    linear_means, means = fit.marginal_means("f"), fit.marginal_means("f", which="mean")
    np.testing.assert_allclose(means["estimate"], mean_of(name, fit, linear_means["estimate"].to_numpy()), rtol=1e-9)
    if name == "hurdle":
        with pytest.raises(OptionError, match="kind='prediction' knows no zero part"):
            fit.get_prediction(new, kind="prediction")
        return
    # intervals of responses: the quantiles of what the model simulates
    found = fit.get_prediction(new, kind="prediction").summary_frame()
    np.testing.assert_allclose(found["mean"], mean["mean"], rtol=1e-12)
    drawn = fit.prediction_interval(new, n=2000, rng=1)
    wide = drawn["pi_high"] - drawn["pi_low"]
    np.testing.assert_allclose(found["obs_ci_lower"], drawn["pi_low"], atol=0.25 * wide.max())
    np.testing.assert_allclose(found["obs_ci_upper"], drawn["pi_high"], rtol=0.25)
    assert (found["obs_ci_lower"] >= (1.0 if name == "truncated_poisson" else 0.0)).all()
    if name == "lognormal":
        # ratios of means are exponentials of differences
        pairs = fit.marginal_means("f", which="mean").pairs()
        difference = linear_means["estimate"].to_numpy()
        np.testing.assert_allclose(pairs.iloc[0, 1], np.exp(difference[0] - difference[1]), rtol=1e-9)
        with pytest.raises(OptionError, match="depends on its dispersion"):
            fit.model.predict(fit.params)


def test_shares_of_variance_are_those_of_the_conditional_part(data):
    fit = ms.glmer("zeros ~ x + (1 | g)", data, family="poisson", zero_inflation="~ x + (1 | g)").fit()
    own = fit.varcorr.set_index("grp")["vcov"]
    assert own["zi:g"] > 0.05  # a share that must not count
    mean = fit.predict(which="conditional").mean()
    rest = np.log1p(1.0 / mean)
    np.testing.assert_allclose(fit.icc()["g"], own["g"] / (own["g"] + rest), rtol=1e-10)
    fixed = np.var(fit.model.exog @ fit.fe_params.to_numpy(), ddof=1)
    np.testing.assert_allclose(fit.r2()["marginal"], fixed / (fixed + own["g"] + rest), rtol=1e-10)
    note = str(fit.marginal_means("x", at={"x": [0.0, 1.0]}, which="mean", bias_adjust=True))
    assert f"sigma = {np.sqrt(own['g']):.4g}" in note
    size = ms.glmer("size ~ x + (1 | g)", data, family="lognormal").fit()
    between = size.varcorr["vcov"][0]
    np.testing.assert_allclose(size.icc()["g"], between / (between + size.dispersion**2), rtol=1e-10)


def test_fits_by_reml_with_a_dispersion_formula_are_compared_by_maximum_likelihood(data):
    models = [ms.lmer(f, data, dispersion="~ x") for f in ("y ~ x + f + (1 | g)", "y ~ x + (1 | g)")]
    large, small = (m.fit() for m in models)
    by_ml = [m.fit(reml=False) for m in models]
    chisq = 2.0 * (by_ml[0].llf - by_ml[1].llf)
    np.testing.assert_allclose(ms.anova(small, large)["chisq"].iloc[1], chisq, rtol=1e-6)
    for fit in (large, by_ml[0]):
        np.testing.assert_allclose(fit.drop1().loc["f", "chisq"], chisq, rtol=1e-6)
    np.testing.assert_allclose(small.add1(["f"]).loc["f", "chisq"], chisq, rtol=1e-6)
    assert ms.compare(large, small).shape[0] == 2
    # what is fitted again is fitted as before
    assert [f.update(". ~ . - f").reml for f in (large, by_ml[0])] == [True, False]
    np.testing.assert_allclose(by_ml[0].update(". ~ . - f").llf, by_ml[1].llf, rtol=1e-9)
    assert not by_ml[0].refit(data["y"]).reml


def test_ordered_categories_have_errors_on_the_latent_scale_only(data):
    fit = ms.clmm("rating ~ x + (1 | g)", data).fit()
    new = data.iloc[:3]
    linear = fit.get_prediction(new).summary_frame()
    np.testing.assert_allclose(linear["predicted"], fit.predict(new, which="linear"), rtol=1e-12)
    for options in ({"which": "mean"}, {"kind": "prediction"}):
        with pytest.raises(OptionError, match="predict\\(which='prob'\\) has the probabilities"):
            fit.get_prediction(new, **options)


@pytest.mark.parametrize("name", ["loglike", "score", "hessian", "information"])
def test_functions_of_the_coefficients_alone_are_refused(name, data):
    for model in (ms.lmer("y ~ x + (1 | g)", data), ms.glmer("zeros ~ x + (1 | g)", data, family="poisson")):
        with pytest.raises(NotAvailableError, match="depends on the variances too"):
            getattr(model, name)([1.0, 0.5])


def test_random_terms_of_all_parts_are_tested(data):
    formula, options = "zeros ~ x + (1 | g)", {"family": "poisson", "zero_inflation": "~ x + (1 | g)"}
    fit = ms.glmer(formula, data, **options).fit()
    found = fit.anova_random()
    assert list(found.index) == ["<none>", "(1 | g)", "zi:(1 | g)"]
    without = ms.glmer(formula, data, family="poisson", zero_inflation="~ x").fit()
    np.testing.assert_allclose(found.loc["zi:(1 | g)", "llf"], without.llf, atol=1e-6)
    # labels of one part, where `params` has those of all
    assert list(fit.fe_params.index) == list(fit.bse_fe.index) == ["Intercept", "x"]
    np.testing.assert_array_equal(fit.bse_fe, fit.bse[:2])


def test_random_terms_beside_a_dispersion_formula_are_tested(data):
    data = data.assign(h=np.tile(np.arange(10), 24))
    fit = ms.lmer("y ~ x + (1 | g) + (1 | h)", data, dispersion="~ x").fit()
    small = ms.lmer("y ~ x + (1 | g)", data, dispersion="~ x").fit()
    np.testing.assert_allclose(fit.anova_random().loc["(1 | h)", "llf"], small.llf, atol=1e-6)


def test_intervals_know_how_uncertain_the_random_effects_of_the_zero_part_are(data):
    fit = ms.glmer("zeros ~ x + (1 | g)", data, family="poisson", zero_inflation="~ x + (1 | g)").fit()
    new = data.iloc[:4].assign(g=["g0", "g1", "g2", "another"])
    sd = fit.predictor_law(new, "all", True)[1][1]
    names = ["zi_Intercept", "zi_x"]
    cov = fit.cov_params().loc[names, names].to_numpy()
    exog = np.column_stack([np.ones(4), new["x"]])
    levels = list(fit.random_effects["zi:g"].index)
    own = [fit.random_effects_cov["zi:g"][levels.index(g), 0, 0] for g in new["g"][:3]]
    marginal = fit.varcorr.set_index("grp").loc["zi:g", "vcov"]
    fixed = np.einsum("ij,jk,ik->i", exog, cov, exog)
    np.testing.assert_allclose(sd**2, fixed + np.array([*own, marginal]), rtol=1e-10)
    assert (np.array(own) > 0.05).all()
