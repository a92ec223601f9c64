"""The logistic-normal integral and the quadrature over a cluster's effect, against much finer rules."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, log_expit

import mvmise_sm as ms
from mvmise_sm.selection import integrals
from mvmise_sm.selection.logistic_normal import logistic_normal

MEANS = np.array([-3000.0, -300.0, -30.0, -5.0, -1e-9, 0.0, 0.7, 4.0, 40.0])


def fine(mean, var):
    """G and its derivatives by a trapezoidal rule in logarithms, 400 nodes to a standard deviation."""
    sd = np.sqrt(var)
    x = np.arange(-14.0, 14.0 + sd, 1.0 / 400.0)
    eta = mean + sd * x
    logs = log_expit(eta) - 0.5 * x * x
    top = logs.max()
    weight = np.exp(logs - top)
    share, seen = weight / weight.sum(), expit(-eta)
    value = top + np.log(weight.sum() / 400.0) - 0.5 * np.log(2.0 * np.pi)
    first, second = share @ seen, share @ seen**2
    return value, first, second - 0.5 * first


@pytest.mark.parametrize("sd", [1e-6, 0.3, 0.36, 0.8, 1.26, 1.39, 4.0, 7.9, 8.1, 30.0])
def test_rules_equal_a_finer_one(sd):
    found = logistic_normal(MEANS, np.full(MEANS.size, sd**2))
    for k, mean in enumerate(MEANS):
        expected = np.array(fine(mean, sd**2))
        # one step of the rule costs 1e-13 of the integral, a tail of E F rounding of its logarithm
        assert np.allclose(found[:, k], expected, rtol=2e-14, atol=3e-13)


@pytest.mark.parametrize("sd", [1e-6, 0.3, 1.2, 6.0, 20.0])
def test_interpolation_equals_the_rule(sd):
    rng = np.random.default_rng(1)
    mean = rng.uniform(-8.0 * (1.0 + sd), 5.0 * (1.0 + sd), size=(60, 40))
    # two variances, as the first samples of clusters may have their own
    var = np.where(np.arange(60) % 3 == 0, 1.0, 1.7)[:, None] * sd**2
    many = logistic_normal(mean, var)
    each = logistic_normal(mean.ravel(), np.broadcast_to(var, mean.shape).ravel()).reshape(many.shape)
    assert np.abs(many - each).max() < 5e-11 * np.maximum(1.0, np.abs(each[0]).max() / 100.0)


def test_far_means_are_in_closed_form():
    mean = np.linspace(-1e5, 1e5, 300).reshape(10, 30)
    value, first, second = logistic_normal(mean, np.full((10, 1), 4.0))
    low, high = mean < -100.0, mean > 100.0
    assert np.allclose(value[low], mean[low] + 2.0, rtol=1e-14)
    assert (first[low] == 1.0).all()
    assert (second[low] == 0.5).all()
    assert not any(part[high].any() for part in (value, first, second))


@pytest.mark.parametrize(("block", "single"), [("capped", None), (None, "logit"), ("capped", "probit")])
def test_steps_resolve_clusters_with_many_missing_units(block, single, monkeypatch):
    # three outcomes of like levels in batches of six, some never seen: 18 factors bend one integrand at the same place
    rng = np.random.default_rng(5)
    batch, x = np.repeat(np.arange(12), 6), np.tile([0.0, 1.0, 2.0], 24)
    Y = 18.0 + 0.3 * x[:, None] + 1.5 * rng.normal(size=(12, 1))[batch] + 0.3 * rng.normal(size=(72, 3))
    Y[rng.random(Y.shape) < expit(-2.0 * (Y - 17.0))] = np.nan
    Y[batch < 3] = np.nan
    frame = pd.DataFrame(Y, columns=[f"y{k}" for k in range(3)]).assign(batch=batch, x=x)
    model = ms.mvmise_b(
        " + ".join(f"y{k}" for k in range(3)) + " ~ x + (1 | batch)", frame, mechanism=block, value_mechanism=single
    )
    likelihood = model.objective().likelihood
    theta = likelihood.start()
    free = likelihood.slices["phi"]
    for index, _ in likelihood.part.slopes()[::2]:
        theta[free] = likelihood.part.feasible(theta[free], -4.0 if single else -0.7, index)
    value, score = likelihood.value_and_score(theta)
    monkeypatch.setattr(integrals, "quadrature_step", lambda *_: 0.03)
    exact, exact_score = likelihood.value_and_score(theta)
    assert abs(value - exact) < 1e-8
    assert np.abs(score - exact_score).max() < 1e-6 * max(1.0, np.abs(exact_score).max())


@pytest.mark.parametrize(("mean", "var"), [(-5.0, 63.0), (-5.0, 65.0), (3.0, 100.0), (-40.0, 400.0), (-2.0, 1e4)])
def test_the_capped_integral_at_wide_spreads_is_the_integral(mean, var):
    from scipy import integrate, stats

    from mvmise_sm.selection.mechanism import Capped

    law = stats.norm(mean, np.sqrt(var))
    low = integrate.quad(lambda eta: np.exp(eta + law.logpdf(eta)), -60.0, 0.0, epsabs=0.0, epsrel=1e-12, limit=200)[0]
    found = Capped().missing(np.array([mean]), np.array([var]))
    np.testing.assert_allclose(found.value[0], np.log(low + law.sf(0.0)), rtol=1e-11, atol=1e-11)


def test_the_capped_integral_of_a_boundless_spread_is_a_half():
    from mvmise_sm.selection.mechanism import Capped

    # the terms that cancel are 5e22 here: once the log-likelihood of such a point was 1e9
    found = Capped().missing(np.array([-5.0]), np.array([1e23]))
    np.testing.assert_allclose(found.value, np.log(0.5), rtol=1e-10)
