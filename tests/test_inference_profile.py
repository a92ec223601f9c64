"""Profile likelihood against lme4, and what a profile must be."""

import numpy as np
import pytest
from conftest import reference_cases
from inference_models import fitted, fitted_case, r_name, sleepstudy, unbalanced
from scipy import optimize, stats

import mvmise_sm as ms
from mvmise_sm.core.optimise.constrained import Correlation, StandardDeviation
from mvmise_sm.exceptions import OptionError

# lme4 interpolates its end points by splines
WIDTH_SHARE = 1e-3
# R's profile of this model stops at once: the intervals of its variances are a thousandth of a unit wide
R_FAILS = {"profile_penicillin"}


def row_key(name):
    """Names of correlations without regard to the order of the two columns."""
    name = r_name(name)
    if not name.startswith("cor_"):
        return name.replace("period", "period[T.") + "]" if name.startswith("period") and "[" not in name else name
    pair, group = name.removeprefix("cor_").split("|")
    return frozenset(pair.split(".")), group


CASES = [pytest.param(c, id=c["id"]) for c in reference_cases("inference") if c["kind"] == "profile_ci"]


@pytest.mark.parametrize("case", CASES)
def test_against_lme4(case):
    ours = fitted_case(case["model"]).conf_int(1.0 - case["level"], method="profile")
    rows = {row_key(name): row for name, row in zip(ours.index, ours.to_numpy(), strict=True)}
    assert len(rows) == len(case["expected"])
    for expected in case["expected"]:
        if case["id"] in R_FAILS and expected["term"] != "(Intercept)":
            continue
        ends = np.array([expected["lower"], expected["upper"]])
        gap = np.abs(rows[row_key(expected["term"])] - ends)
        assert gap.max() < WIDTH_SHARE * (ends[1] - ends[0]), expected["term"]


def minimum_at(result, name, value):
    """-2 log L minimised with one standard deviation or sigma held, by scipy on the dense criterion."""
    criterion = result.model.criterion(reml=False)
    beta = np.asarray(result.params)

    def objective(free):
        if name == "sigma":
            theta, sigma = free[: criterion.k_theta], value
        else:
            theta, sigma = free[: criterion.k_theta].copy(), np.exp(free[-1])
            k = 0 if name.endswith("plate") else 1
            theta[k] = value / sigma
        coef = free[criterion.k_theta : criterion.k_theta + beta.size]
        return criterion.evaluate_at(np.abs(theta), coef, sigma**2)[0]

    start = np.concatenate([result.theta, beta, [np.log(result.scale) / 2.0]])
    out = optimize.minimize(
        objective, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9, "maxiter": 20000}
    )
    return out.fun


def test_where_lme4_fails_the_end_points_have_the_right_deviance():
    result = fitted("Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", False)
    intervals = result.conf_int(method="profile")
    target = result.criterion + stats.chi2.ppf(0.95, 1)
    for name in ("sd_Intercept|plate", "sigma"):
        for end in intervals.loc[name]:
            np.testing.assert_allclose(minimum_at(result, name, end), target, atol=1e-4)


def test_rows_and_columns():
    intervals = sleepstudy().conf_int(method="profile")
    assert list(intervals.index) == [
        "Intercept",
        "Days",
        "sd_Intercept|Subject",
        "sd_Days|Subject",
        "cor_Intercept.Days|Subject",
        "sigma",
    ]
    assert list(intervals.columns) == [0, 1]


def test_reml_fits_are_profiled_by_maximum_likelihood():
    ml = fitted("sleepstudy", "Reaction ~ Days + (Days | Subject)", False)
    np.testing.assert_allclose(sleepstudy().conf_int(method="profile"), ml.conf_int(method="profile"), rtol=1e-6)


def test_reml_profiles_of_a_balanced_layout_are_exact():
    """In a balanced one-way layout the restricted likelihood is that of two independent sums of squares."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(8), 5)
    data = unbalanced().iloc[:0].reindex(range(40)).assign(y=rng.normal(size=8)[g] + rng.normal(size=40), g=g)
    result = ms.lmer("y ~ 1 + (1 | g)", data).fit()
    within = float(((data["y"] - data.groupby("g")["y"].transform("mean")) ** 2).sum())
    between = 5.0 * float(((data.groupby("g")["y"].mean() - data["y"].mean()) ** 2).sum())

    # -2 log restricted likelihood of the two independent sums of squares
    def deviance(sigma2, tau2):
        total = sigma2 + 5.0 * tau2
        return 32.0 * np.log(sigma2) + within / sigma2 + 7.0 * np.log(total) + between / total

    at = deviance(result.scale, result.varcorr["vcov"].iloc[0])
    low, high = result.conf_int(method="profile", reml=True).loc["sigma"]
    for end in (low, high):
        least = optimize.minimize_scalar(lambda t, e=end: deviance(e * e, t), bounds=(0.0, 20.0), method="bounded")
        np.testing.assert_allclose(least.fun - at, stats.chi2.ppf(0.95, 1), atol=1e-5)
    sd = result.conf_int(method="profile", reml=True).loc["sd_Intercept|g"]
    for end in sd:
        least = optimize.minimize_scalar(lambda s, e=end: deviance(s, e * e), bounds=(0.1, 10.0), method="bounded")
        np.testing.assert_allclose(least.fun - at, stats.chi2.ppf(0.95, 1), atol=1e-5)


def test_reml_profiles_are_wider_and_only_for_linear_models():
    ml, reml = sleepstudy().conf_int(method="profile"), sleepstudy().conf_int(method="profile", reml=True)
    np.testing.assert_allclose(ml.iloc[:2], reml.iloc[:2])
    assert reml.loc["sd_Intercept|Subject", 1] > ml.loc["sd_Intercept|Subject", 1]
    assert sleepstudy().profile("sigma", reml=True).estimates["sigma"] == pytest.approx(np.sqrt(sleepstudy().scale))
    glmm = fitted("cbpp", "prop ~ period + (1 | herd)", family="binomial", weights="size")
    with pytest.raises(OptionError, match="REML criterion"):
        glmm.profile(reml=True)


def test_profile_is_monotone_and_crosses_zero_at_the_estimate():
    profile = sleepstudy().profile()
    assert list(profile.frame.columns) == ["parameter", "value", "zeta"]
    for name, part in profile.frame.groupby("parameter"):
        assert (np.diff(part["value"]) > 0.0).all()
        assert (np.diff(part["zeta"]) > 0.0).all(), name
        at = part.loc[part["zeta"] == 0.0, "value"].iloc[0]
        np.testing.assert_allclose(at, profile.estimates[name])
        assert part["zeta"].max() > 2.5
    np.testing.assert_allclose(profile.conf_int(0.05), sleepstudy().conf_int(method="profile"), rtol=1e-8)


def test_profile_of_chosen_parameters():
    profile = sleepstudy().profile(["Days", "sigma"])
    assert list(profile.estimates.index) == ["Days", "sigma"]
    with pytest.raises(OptionError, match="unknown parameter 'x'"):
        sleepstudy().profile("x")


def test_units_do_not_matter():
    data = unbalanced(8, 14)
    other = data.assign(x=1e3 * data["x"], y=0.1 * data["y"])
    first = ms.lmer("y ~ x + (x | g)", data).fit().conf_int(method="profile")
    second = ms.lmer("y ~ x + (x | g)", other).fit().conf_int(method="profile")
    scale = np.array([0.1, 1e-4, 0.1, 1e-4, 1.0, 0.1])[:, None]
    np.testing.assert_allclose(second, first * scale, rtol=1e-5)


def test_a_variance_of_zero_has_a_lower_end_of_zero():
    result = fitted("Dyestuff2", "Yield ~ 1 + (1 | Batch)")
    lower, upper = result.conf_int(method="profile").loc["sd_Intercept|Batch"]
    assert lower == 0.0
    # a variance of zero raises the deviance by the chi-squared quantile at the upper end
    criterion = result.model.criterion(reml=False)

    def deviance(log_sigma):
        theta = np.array([upper / np.exp(log_sigma)])
        return criterion.evaluate_at(theta, criterion.solve(theta).beta, np.exp(2.0 * log_sigma))[0]

    least = optimize.minimize_scalar(deviance, bounds=(-2.0, 4.0), method="bounded", options={"xatol": 1e-10}).fun
    ml = result.model.fit(reml=False) if not result.singular else criterion(np.zeros(1))
    np.testing.assert_allclose(least - ml, stats.chi2.ppf(0.95, 1), atol=1e-5)


def test_priors_shorten_intervals():
    data = sleepstudy().model.data.frame
    flat = fitted("sleepstudy", "Reaction ~ Days + (Days | Subject)", False).conf_int(method="profile")
    tight = ms.lmer(
        "Reaction ~ Days + (Days | Subject)",
        data,
        fixef_prior=ms.priors.Normal(sd=[1e4, 1.0], mean=[0.0, 10.5], common_scale=False),
    ).fit(reml=False)
    narrow = tight.conf_int(method="profile")
    assert narrow.loc["Days", 1] - narrow.loc["Days", 0] < flat.loc["Days", 1] - flat.loc["Days", 0]
    # the end point of a profile with priors has the objective of the fit plus the quantile
    assert ((narrow[0] < tight.profile().estimates) & (tight.profile().estimates < narrow[1])).all()


def test_flat_priors_change_nothing():
    data = sleepstudy().model.data.frame
    # on the common scale the prior would depend on sigma however wide it is
    prior = ms.priors.Normal(sd=1e7, common_scale=False)
    wide = ms.lmer("Reaction ~ Days + (Days | Subject)", data, fixef_prior=prior).fit(reml=False)
    flat = fitted("sleepstudy", "Reaction ~ Days + (Days | Subject)", False)
    np.testing.assert_allclose(wide.conf_int(method="profile"), flat.conf_int(method="profile"), rtol=1e-4)


def test_generalized_model_with_dispersion_shape():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(15), 8)
    mean = np.exp(0.5 + 0.4 * rng.normal(size=15)[g])
    data = unbalanced().iloc[:0].reindex(range(120)).assign(y=rng.gamma(4.0, mean / 4.0), g=g)
    intervals = ms.glmer("y ~ 1 + (1 | g)", data, family="gamma(log)").fit().conf_int(method="profile")
    assert list(intervals.index) == ["Intercept", "sd_Intercept|g", "sigma"]
    assert (intervals[0] < intervals[1]).all()
    assert intervals.loc["sigma", 0] < 0.5 < intervals.loc["sigma", 1]


def test_joint_modes_have_no_profile():
    result = fitted("cbpp", "prop ~ period + (1 | herd)", family="binomial", weights="size", nagq=0)
    with pytest.raises(OptionError, match="nagq=1"):
        result.profile()


@pytest.mark.parametrize("rho", [None, 3])
def test_derivatives_of_the_constraints(rho):
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(2, 2, 3))
    functions = [StandardDeviation(rows[0], slice(0, 3), rho), Correlation(rows[0], rows[1], slice(0, 3))]
    x = rng.normal(size=4)
    for function in functions:
        _, gradient, hessian = function(x)
        numeric = optimize.approx_fprime(x, lambda z, f=function: f(z)[0], 1e-7)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6)
        second = np.array([optimize.approx_fprime(x, lambda z, f=function, i=i: f(z)[1][i], 1e-7) for i in range(4)])
        np.testing.assert_allclose(hessian, second, rtol=1e-4, atol=1e-5)
