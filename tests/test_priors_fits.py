"""Fits with priors through the public interface: invariances, own priors, and what each prior is for."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm import priors

FORMULA = "Reaction ~ Days + (Days | Subject)"


def objective(result):
    return result.criterion + result.penalty


class HalfNormal(priors.CovariancePrior):
    """A half-normal penalty on the standard deviation of a random intercept, value only."""

    name = "halfnormal"
    scalar = True

    def __init__(self, scale):
        self.scale = scale

    def value(self, s):
        return float(s[0, 0]) / self.scale**2


def test_a_prior_of_ones_own_needs_a_value_only(frames):
    data = frames("sleepstudy")
    own = ms.lmer("Reaction ~ Days + (1 | Subject)", data, cov_prior=HalfNormal(0.5)).fit()
    same = ms.lmer(
        "Reaction ~ Days + (1 | Subject)", data, cov_prior=priors.Wishart(df=2, scale=0.25)
    ).fit()  # exp(-v / (2 scale)) up to its constant
    np.testing.assert_allclose(own.theta, same.theta, rtol=1e-6)
    assert "halfnormal(common.scale = TRUE)" in own.summary().as_text()
    with pytest.raises(ValueError, match="halfnormal is a prior for terms with one column"):
        ms.lmer(FORMULA, data, cov_prior=HalfNormal(0.5))


@pytest.mark.parametrize("reml", [True, False])
def test_flat_prior_is_no_prior_exactly(frames, reml):
    data = frames("sleepstudy")
    without = ms.lmer(FORMULA, data).fit(reml=reml)
    flat = ms.blmer(FORMULA, data, cov_prior="flat", fixef_prior="NULL", resid_prior=None).fit(reml=reml)
    assert flat.penalty == 0.0
    assert flat.llf == without.llf
    np.testing.assert_array_equal(flat.theta, without.theta)
    np.testing.assert_array_equal(flat.params, without.params)


@pytest.mark.parametrize(
    "keywords",
    [
        {"cov_prior": "wishart(df = 5, scale = 0.5)", "fixef_prior": "normal(sd = c(10, 0.5))"},
        {"cov_prior": "invwishart(df = 4, scale = 1)"},
    ],
)
def test_common_scale_priors_follow_the_unit_of_the_response(frames, keywords):
    data = frames("sleepstudy")
    scaled = data.assign(Reaction=data["Reaction"] / 10.0)
    one, other = ms.lmer(FORMULA, data, **keywords).fit(), ms.lmer(FORMULA, scaled, **keywords).fit()
    np.testing.assert_allclose(other.theta, one.theta, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(10.0 * other.params, one.params, rtol=1e-6)


def test_absolute_priors_need_their_scale_changed_with_the_unit(frames):
    data = frames("sleepstudy")
    scaled = data.assign(Reaction=data["Reaction"] / 10.0)
    keywords = [
        {
            "cov_prior": priors.Wishart(df=6, scale=100.0 / c**2, common_scale=False),
            "fixef_prior": priors.Normal(sd=50.0 / c, common_scale=False),
            "resid_prior": priors.InverseGamma(2.0, 300.0 / c**2),
        }
        for c in (1.0, 10.0)
    ]
    one = ms.lmer(FORMULA, data, **keywords[0]).fit()
    other = ms.lmer(FORMULA, scaled, **keywords[1]).fit()
    np.testing.assert_allclose(other.theta, one.theta, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(10.0 * other.params, one.params, rtol=1e-6)
    np.testing.assert_allclose(100.0 * other.scale, one.scale, rtol=1e-6)


def test_order_of_rows_and_levels_is_irrelevant(frames):
    data = frames("blme_lmm")
    keywords = {
        "cov_prior": ["g.1 ~ wishart(scale = 2)", "g.2 ~ invgamma(1, 1, FALSE)"],
        "fixef_prior": "t(df = 3, scale = 4)",
    }
    formula = "y ~ x.1 + x.2 + (1 + x.1 | g.1) + (1 | g.2)"
    one = ms.lmer(formula, data, **keywords).fit(reml=False)
    shuffled = data.sample(frac=1.0, random_state=3)
    shuffled["g.1"] = shuffled["g.1"].astype(str).map(lambda s: s[::-1] + "!")
    other = ms.lmer(formula, shuffled, **keywords).fit(reml=False)
    np.testing.assert_allclose(objective(other), objective(one), rtol=1e-11)
    np.testing.assert_allclose(other.params, one.params, rtol=1e-6)


def test_the_normal_prior_is_ridge_regression(frames):
    data = frames("sleepstudy")
    penalty = 0.3
    result = ms.lmer(
        "Reaction ~ Days + (1 | Subject)", data, fixef_prior=f"normal(sd = c(Inf, 1 / sqrt({penalty})))"
    ).fit(reml=False)
    x = np.column_stack([np.ones(len(data)), data["Days"]])
    groups = pd.get_dummies(data["Subject"]).to_numpy(dtype=float)
    v = np.eye(len(data)) + result.theta[0] ** 2 * groups @ groups.T
    left = x.T @ np.linalg.solve(v, x) + np.diag([0.0, penalty])
    ridge = np.linalg.solve(left, x.T @ np.linalg.solve(v, data["Reaction"].to_numpy()))
    np.testing.assert_allclose(result.params, ridge, rtol=1e-8)


def test_coefficients_by_name(frames):
    data = frames("blme_lmm")
    formula = "y ~ x.1 + x.2 + (1 | g.1)"
    named = ms.blmer(formula, data, fixef_prior={"x.2": priors.Normal(sd=0.3)}).fit()
    position = ms.blmer(formula, data, fixef_prior="normal(sd = c(Inf, Inf, 0.3))").fit()
    np.testing.assert_allclose(objective(named), objective(position), rtol=1e-12)
    assert "x.2 ~ normal(sd = 0.3, common.scale = TRUE)" in named.summary().as_text()
    assert abs(named.params["x.2"]) < abs(ms.blmer(formula, data).fit().params["x.2"])


def test_a_covariance_prior_avoids_a_zero_variance(frames):
    data = frames("Dyestuff2")
    with pytest.warns(Warning, match="singular"):
        flat = ms.lmer("Yield ~ 1 + (1 | Batch)", data).fit()
    held = ms.blmer("Yield ~ 1 + (1 | Batch)", data).fit()
    assert flat.theta[0] == 0.0
    assert held.theta[0] > 0.1
    assert not held.singular


def test_known_variances_of_a_meta_analysis(frames):
    data = frames("eight_schools")
    result = ms.lmer("y ~ 1 + (1 | g)", data, weights="w", resid_prior="point", cov_prior="gamma").fit(reml=False)
    tau2 = result.cov_re["g"].to_numpy()[0, 0]
    precision = 1.0 / (tau2 + data["sigma"] ** 2)
    np.testing.assert_allclose(result.scale, 1.0, rtol=1e-14)
    np.testing.assert_allclose(result.params.iloc[0], (precision * data["y"]).sum() / precision.sum(), rtol=1e-8)
    np.testing.assert_allclose(result.bse.iloc[0], precision.sum() ** -0.5, rtol=1e-8)


def test_a_strong_wishart_keeps_the_correlation_inside(frames):
    data = frames("blme_lmm")
    formula = "y ~ x.1 + x.2 + (1 + x.1 + x.2 | g.2)"
    held = ms.lmer(formula, data, cov_prior=priors.Wishart(df=10, scale=0.2)).fit()
    correlation = np.corrcoef(np.linalg.cholesky(held.cov_re["g.2"].to_numpy()))
    assert not held.singular
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 1.0


def test_results_carry_the_priors_through_a_pickle(frames):
    result = ms.blmer(FORMULA, frames("sleepstudy"), fixef_prior="normal(sd = n.obs / 60)").fit()
    again = pickle.loads(pickle.dumps(result))
    assert repr(again.priors) == repr(result.priors)
    assert again.penalty == result.penalty
    assert result.priors.cov[0].describe().startswith("wishart(df = 4.5")


def test_the_prior_moves_the_fit_downhill_only(frames):
    """The objective at the mode is below the objective at the likelihood's optimum."""
    data = frames("blme_lmm")
    formula = "y ~ x.1 + x.2 + (1 | g.1) + (1 | g.2)"
    model = ms.lmer(formula, data, cov_prior="gamma(shape = 3, rate = 1, posterior.scale = 'var')")
    likelihood = ms.lmer(formula, data).fit()
    assert objective(model.fit()) <= model.criterion()(likelihood.theta) + 1e-8


@pytest.mark.parametrize("prior", ["gamma(0.5, 0.1)", "wishart(df = 1.5)", "invgamma(0, 0)", "gamma(0, 0, FALSE)"])
def test_a_density_with_a_pole_gives_its_inner_mode_or_an_error(frames, prior):
    """R runs towards the pole and reports where it stopped."""
    inner = ms.lmer("Reaction ~ Days + (1 | Subject)", frames("sleepstudy"), cov_prior=prior).fit()
    assert inner.converged
    assert inner.theta[0] > 1.0
    with pytest.raises(ValueError, match="is infinite at a singular covariance and the data have no mode away from it"):
        ms.lmer("Yield ~ 1 + (1 | Batch)", frames("Dyestuff2"), cov_prior=prior).fit()


@pytest.mark.parametrize("prior", ["wishart(df = 2, scale = 1)", "gamma(1, 5)"])
def test_a_prior_that_does_not_repel_leaves_the_boundary_open(frames, prior):
    with pytest.warns(Warning, match="singular"):
        result = ms.lmer("Yield ~ 1 + (1 | Batch)", frames("Dyestuff2"), cov_prior=prior).fit()
    assert result.theta[0] == 0.0
    assert result.converged


class SoftLasso(priors.Mixing):
    """phi(x) = 2 (sqrt(0.01 + x) - 0.1): a lasso with a rounded tip."""

    def phi(self, x):
        root = np.sqrt(0.01 + x)
        return 2.0 * (root - 0.1), 1.0 / root, -0.5 / root**3


class Lasso(priors.Prior):
    """An own prior of every fixed effect but the intercept, on the absolute scale."""

    name = "lasso"

    def __init__(self, rate):
        self.rate = rate

    def fixef(self, dims):
        penalties = []
        for j in range(1, dims.n_fixef):
            precision = np.zeros((dims.n_fixef, dims.n_fixef))
            precision[j, j] = self.rate**2
            penalty = priors.QuadraticPenalty(
                precision, np.zeros(dims.n_fixef), 1, 0.0, False, SoftLasso(), f"lasso(rate = {self.rate})"
            )
            penalties.append(penalty)
        return tuple(penalties)


def test_a_fixed_effect_prior_of_ones_own(frames):
    data = frames("blme_lmm")
    formula = "y ~ x.1 + x.2 + (1 | g.1)"
    flat = ms.blmer(formula, data).fit(reml=False)
    weak, strong = (ms.blmer(formula, data, fixef_prior=Lasso(rate)).fit(reml=False) for rate in (1.0, 400.0))
    assert abs(strong.params["x.1"]) < abs(weak.params["x.1"]) < abs(flat.params["x.1"])
    assert abs(strong.params["x.1"]) < 0.01
    assert "lasso(rate = 400.0)" in strong.summary().as_text()
    criterion = ms.blmer(formula, data, fixef_prior=Lasso(20.0)).criterion(reml=False)
    solution = criterion.solve([0.6])
    for j in range(3):
        for step in (-1e-3, 1e-3):
            beta = solution.beta.copy()
            beta[j] += step
            assert sum(criterion.evaluate_at([0.6], beta)[:2]) > solution.objective


def test_models_without_fixed_effects(frames):
    data = frames("sleepstudy")
    centred = data.assign(Reaction=data["Reaction"] - data["Reaction"].mean())
    formula = "Reaction ~ 0 + (1 | Subject)"
    without = ms.blmer(formula, centred).fit()
    for prior in ("normal", "t"):
        assert objective(ms.blmer(formula, centred, fixef_prior=prior).fit()) == objective(without)


def test_the_better_of_two_modes_is_found(frames):
    """Priors in the unit of the data that contradict the data leave two modes: small variances, or a small sigma."""
    data = frames("blme_lmm")
    model = ms.lmer(
        "y ~ x.1 + x.2 + (1 + x.1 | g.1)",
        data.assign(y=50.0 * data["y"]),
        cov_prior="invwishart(4, 1, FALSE)",
        resid_prior="gamma(3, 1, 'sd')",
    )
    near_data = model.criterion(reml=False)([0.00705, 0.3566, 0.7455])
    assert objective(model.fit(reml=False)) < near_data - 20.0
