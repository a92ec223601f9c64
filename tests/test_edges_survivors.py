"""Lines that changed without a test noticing: each has one now."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mvmise_sm as ms
from mvmise_sm.inference.ddf import SatterthwaiteDf
from mvmise_sm.inference.means.simultaneous import max_law
from mvmise_sm.priors.base import Dimensions

DIMS = Dimensions(n_obs=30, n_fixef=2, level_dim=1, n_groups=8)


def test_satterthwaite_df_of_several_contrasts_are_fai_and_cornelius():
    slopes = np.zeros((2, 2, 2))
    slopes[0, 0, 0] = slopes[1, 1, 1] = 1.0
    # single degrees of freedom 2 v^2 / var(v) of 6 and 10 at variances 1 and 4
    shape = SimpleNamespace(slopes=slopes, cov=np.diag([2.0 / 6.0, 2.0 * 16.0 / 10.0]))
    method = SatterthwaiteDf(np.diag([1.0, 4.0]), shape)
    np.testing.assert_allclose(method.df(np.eye(2)), [6.0, 10.0])
    f, q, df = method.f_test(np.eye(2), np.array([1.0, 2.0]))
    mean = 6.0 / 4.0 + 10.0 / 8.0
    assert (f, q) == (pytest.approx(1.0), 2)
    np.testing.assert_allclose(df, 2.0 * mean / (mean - 2.0))


def test_satterthwaite_df_of_two_or_less_stay_at_two():
    slopes = np.zeros((2, 2, 2))
    slopes[0, 0, 0] = slopes[1, 1, 1] = 1.0
    shape = SimpleNamespace(slopes=slopes, cov=np.diag([2.0 / 1.5, 2.0 * 16.0 / 10.0]))
    assert SatterthwaiteDf(np.diag([1.0, 4.0]), shape).f_test(np.eye(2), np.ones(2))[2] == 2.0


@pytest.mark.parametrize("role", ["covariance", "residual"])
def test_inverse_gamma_at_a_variance_of_zero(role):
    prior = getattr(ms.priors.InverseGamma(shape=2.0, scale=1.0), role)(DIMS)
    value, slope = prior.evaluate(np.zeros((1, 1)))
    assert value == np.inf
    np.testing.assert_array_equal(slope, 0.0)
    near, steep = prior.evaluate(np.full((1, 1), 1e-4))
    assert np.isfinite(near)
    assert steep[0, 0] < -1e3


def test_priors_with_several_modes_are_searched_in_two_directions():
    """From the best point alone the lower mode of this prior is not found."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(8), 4), rng.normal(size=32)
    y = rng.normal(size=8)[g] * rng.choice([0.1, 3]) + x * rng.normal(size=8)[g] + rng.normal(size=32)
    prior = ms.priors.InverseWishart(common_scale=False, scale=0.01, df=3)
    model = ms.blmer("y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x, "g": g}), cov_prior=prior)
    found = model.fit(reml=False).mle_retvals["fopt"]
    starts = ([1e-2, 0.0, 1e-2], [0.1, 0.0, 0.1], [1.0, 0.0, 1.0], [3.0, 0.0, 1.0], [10.0, 0.0, 10.0])
    others = [model.fit(reml=False, start_theta=s).mle_retvals["fopt"] for s in starts]
    assert found <= min(others) + 1e-5
    assert max(others) > found + 1.0


@pytest.mark.parametrize("two_sided", [True, False])
def test_largest_of_correlated_statistics_is_the_normal_integral(two_sided):
    """Serial correlation is no single factor, so that the law is interpolated."""
    correlation = 0.7 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    bound = np.array([1.8])
    low = -bound * np.ones(4) if two_sided else np.full(4, -np.inf)
    inside = stats.multivariate_normal(cov=correlation, seed=1).cdf(np.full(4, 1.8), lower_limit=low)
    tail = max_law(correlation, two_sided).tail(bound, np.array([np.inf]))
    np.testing.assert_allclose(tail, 1.0 - inside, atol=2e-4)
