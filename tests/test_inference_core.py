"""Derivatives behind the degrees of freedom and the profiles, tier by tier, against differences."""

import numpy as np
import pandas as pd
import pytest
from inference_models import unbalanced
from scipy import optimize

import mvmise_sm as ms
from mvmise_sm.core.criteria.batched import BatchDesign, supports
from mvmise_sm.core.elimination import layout, pair_sums
from mvmise_sm.core.uncertainty.profile_target import LinearTarget
from mvmise_sm.core.uncertainty.second_order import gram_slopes
from mvmise_sm.inference.profile import _inner_maker

TIERS = {
    "dense": ("y ~ x + (x | g) + (1 | h)", None),
    "single, classes": ("y ~ 1 + (1 | g)", 0),
    "single": ("y ~ x + (x | g)", 0),
    "chain": ("y ~ x + (x | h/g)", 0),
    "chain and remainder": ("y ~ x + (x || g) + (1 | f)", 0),
}


def frame():
    data = unbalanced(8, 14)
    data["h"] = data["g"] // 3
    data["y"] += np.random.default_rng(1).normal(size=5)[data["h"]]
    return data


@pytest.fixture(params=TIERS)
def criterion(request, monkeypatch):
    formula, limit = TIERS[request.param]
    if limit is not None:
        monkeypatch.setattr(layout, "DENSE_LIMIT", limit)
    return ms.lmer(formula, frame()).criterion(reml=True)


def inside(criterion):
    """A theta off the boundary."""
    return np.where(criterion.lower == 0.0, 0.6, 0.2)


def test_slopes_of_the_gram_matrix(criterion):
    theta = inside(criterion)
    slopes = gram_slopes(criterion, theta)
    for i in range(theta.size):
        step = np.zeros(theta.size)
        step[i] = 1e-5
        above, below = (criterion.eliminated(theta + s * step)[0].gram for s in (1.0, -1.0))
        scale = np.abs(slopes[i]).max()
        np.testing.assert_allclose(slopes[i], (above - below) / 2e-5, rtol=1e-5, atol=1e-7 * scale)


def test_second_order_shape(criterion):
    theta = inside(criterion)
    shape = criterion.second_order(theta)
    k = theta.size

    def covariance(at):
        stage = criterion.eliminated(at)[1]
        a = criterion.basis.a
        # at a held sigma2, whose own slope is the covariance itself
        return criterion.eliminated(theta)[1].sigma2 * a @ stage.cov_beta @ a.T

    for i in range(k):
        step = np.zeros(k)
        step[i] = 1e-5
        numeric = (covariance(theta + step) - covariance(theta - step)) / 2e-5
        np.testing.assert_allclose(shape.slopes[i], numeric, rtol=1e-5, atol=1e-8 * np.abs(numeric).max())
    np.testing.assert_allclose(shape.slopes[k], covariance(theta), rtol=1e-10)
    hessian = np.atleast_2d(optimize.approx_fprime(theta, lambda t: criterion.evaluate(t).gradient, 1e-6))
    np.testing.assert_allclose(shape.hessian, hessian, rtol=1e-3, atol=1e-3 * np.abs(hessian).max())


def test_cov_is_the_inverse_hessian_in_theta_and_log_sigma2():
    data = frame()
    result = ms.lmer("y ~ x + (x | g)", data).fit()
    criterion = result.deviance_function()
    target = LinearTarget(criterion)
    x = target.start(result.theta, result.scale)
    hessian = np.array(
        [optimize.approx_fprime(x, lambda z, i=i: target.evaluate(z)[1][i], 1e-6) for i in range(x.size)]
    )
    shape = criterion.second_order(x[:-1])
    np.testing.assert_allclose(shape.cov, 2.0 * np.linalg.inv(0.5 * (hessian + hessian.T)), rtol=2e-3, atol=1e-4)


PRIORS = {
    "none": {},
    "covariance": {"cov_prior": "wishart"},
    "absolute": {"cov_prior": ms.priors.InverseWishart(df=5.0, scale=2.0, common_scale=False)},
    "normal": {"fixef_prior": ms.priors.Normal(sd=[2.0, 0.5], common_scale=False)},
    "common": {"fixef_prior": ms.priors.Normal(sd=[2.0, 0.5])},
    "t": {"fixef_prior": ms.priors.StudentT(df=3.0, scale=1.0)},
    "residual": {"resid_prior": ms.priors.InverseGamma(shape=3.0, scale=2.0)},
}


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("held", [False, True])
def test_gradient_of_the_profiled_objective(name, held):
    model = ms.lmer("y ~ x + (x | g)", frame(), **PRIORS[name])
    criterion = model.criterion(reml=False)
    target = LinearTarget(criterion, _inner_maker(model.priors, False))
    if held:
        target = target.hold(np.array([0.0, 1.0]), 0.7)
    x = np.append(inside(criterion), 0.3)
    value, gradient, information = target.evaluate(x)
    numeric = optimize.approx_fprime(x, lambda z: target.evaluate(z)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-3)
    assert np.isfinite(value)
    assert np.linalg.eigvalsh(information)[0] > -1e-6 * np.linalg.eigvalsh(information)[-1]


@pytest.mark.parametrize("name", ["none", "normal", "t"])
def test_slope_in_the_held_value(name):
    model = ms.lmer("y ~ x + (x | g)", frame(), **PRIORS[name])
    criterion = model.criterion(reml=False)
    target = LinearTarget(criterion, _inner_maker(model.priors, False))
    x, contrast = np.append(inside(criterion), 0.3), np.array([1.0, -0.5])
    values = [target.hold(contrast, 0.4 + s).evaluate(x)[0] for s in (1e-5, -1e-5)]
    slope = target.hold(contrast, 0.4).held_slope(x)
    np.testing.assert_allclose(slope, (values[0] - values[1]) / 2e-5, rtol=1e-4)


def test_holding_the_estimate_changes_nothing():
    result = ms.lmer("y ~ x + (x | g)", frame()).fit(reml=False)
    target = LinearTarget(result.deviance_function())
    x = target.start(result.theta, result.scale)
    held = target.hold(np.array([0.0, 1.0]), result.params["x"])
    np.testing.assert_allclose(held.evaluate(x)[0], target.evaluate(x)[0], rtol=1e-12)
    np.testing.assert_allclose(target.evaluate(x)[0], result.criterion, rtol=1e-10)


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ 1 + (1 | g)", "y ~ x + (1 | g) + (0 + x | g)"])
@pytest.mark.parametrize("reml", [True, False])
def test_batched_objective_is_the_criterion(formula, reml):
    data = frame()
    model = ms.lmer(formula, data)
    criterion = model.criterion(reml=reml)
    assert supports(criterion)
    design = BatchDesign(np.asarray(model.exog), model.random_effects, reml)
    theta = criterion.user_theta(inside(criterion))
    responses = np.column_stack([data["y"], data["y"] ** 2])
    moments = design.moments(responses)
    at = design.evaluate(np.tile(design.working_theta(theta), (2, 1)), moments)
    values = []
    for i in range(2):
        one = criterion.refitted(responses[:, i])
        values.append(one(theta))
        np.testing.assert_allclose(at.gradient[i] * design.scale, one.gradient(theta), rtol=1e-6, atol=1e-7)
        solution = one.solve(theta)
        np.testing.assert_allclose(at.sigma2[i], solution.sigma2, rtol=1e-8)
        beta = (moments.origin[i] + at.beta[i]) @ design.basis.T
        np.testing.assert_allclose(beta, solution.beta, rtol=1e-7, atol=1e-10)
        hessian = np.atleast_2d(optimize.approx_fprime(theta, one.gradient, 1e-6))
        scaled = at.hessian[i] * design.scale[:, None] * design.scale
        np.testing.assert_allclose(scaled, hessian, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(at.value[1] - at.value[0], values[1] - values[0], rtol=1e-8)


def test_no_batches_for_crossed_factors_and_priors():
    data = frame()
    assert not supports(ms.lmer("y ~ x + (1 | g) + (1 | f)", data).criterion())
    assert not supports(ms.blmer("y ~ x + (1 | g)", data).criterion())


def test_kenward_roger_of_many_panels(monkeypatch):
    """Columns of Z'V^-1Z a few levels at a time give what they give at once."""
    from mvmise_sm.core.uncertainty import kenward_roger as module

    monkeypatch.setattr(layout, "DENSE_LIMIT", 0)
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 12, 150), rng.integers(0, 9, 150)
    y = rng.normal(size=12)[a] + rng.normal(size=9)[b] + rng.normal(size=150)
    data = pd.DataFrame({"y": y, "x": rng.normal(size=150), "a": a, "b": b})
    criterion = ms.lmer("y ~ x + (1 | a) + (1 | b)", data).criterion()
    theta = np.array([0.8, 0.7])
    whole = module.kenward_roger(criterion, theta)
    monkeypatch.setattr(pair_sums, "_PANEL_CELLS", 60)
    parts = module.kenward_roger(criterion, theta)
    np.testing.assert_allclose(parts.phi_adjusted, whole.phi_adjusted, rtol=1e-10)
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-8)
