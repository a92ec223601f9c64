"""Random effects very much larger than the residuals: fitted from these, refused only where they are rounding."""

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.core.criteria.augmented import residual_based_fit
from mvmise_sm.exceptions import DataError, OptionError


def nearly_perfect(noise, slope=0.0):
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(15), 8)
    x, h = rng.normal(size=120), rng.integers(0, 6, 120)
    u, e, v = rng.normal(size=15), rng.normal(size=120), rng.normal(size=15)
    return pd.DataFrame(
        {"x": x, "g": g, "h": h, "w": rng.uniform(0.5, 2, 120), "y": x + u[g] + slope * v[g] * x + noise * e}
    )


@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("random", ["(1 | g)", "(x | g)", "(x || g)"])
def test_nearly_perfect_path_is_the_engine_at_moderate_ratios(random, reml, weights):
    data = nearly_perfect(0.1, 1.0)
    result = ms.lmer(f"y ~ x + {random}", data, weights=weights).fit(reml=reml)
    model = result.model
    found, _, converged = residual_based_fit(model.random_effects, model.exog, model.endog, model.weights, reml)
    assert converged
    # a sum of nobs logarithms that nearly cancel here; each holds 1e-12
    np.testing.assert_allclose(found.criterion, result.criterion, rtol=1e-11, atol=1e-12 * model.nobs)
    np.testing.assert_allclose(found.theta, result.theta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.beta, result.params, rtol=1e-8)
    np.testing.assert_allclose(found.cov_beta * found.sigma2, result.cov_params(), rtol=1e-5)
    for ours, engine in zip(found.b, result.solution.b, strict=True):
        np.testing.assert_allclose(ours, engine, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("power", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_nearly_perfect_data_scale_with_their_noise(power, slope):
    """The residual variance is that of a moderate fit times the square of the noise, and nothing else moves."""
    random = "(x | g)" if slope else "(1 | g)"
    base = ms.lmer(f"y ~ x + {random}", nearly_perfect(1e-3, slope)).fit()
    result = ms.lmer(f"y ~ x + {random}", nearly_perfect(10.0**-power, slope)).fit()
    assert result.converged
    assert not result.singular
    np.testing.assert_allclose(result.scale**0.5 * 10.0 ** (power - 3), base.scale**0.5, rtol=1e-5)
    np.testing.assert_allclose(result.varcorr["sdcor"][:-1], base.varcorr["sdcor"][:-1], rtol=2e-3)
    if not slope:
        np.testing.assert_allclose(result.bse["x"] * 10.0 ** (power - 3), base.bse["x"], rtol=1e-5)
        # a variance of group effects is that of their least-squares estimates, up to noise over rows
        effects = nearly_perfect(0.0)["y"] - nearly_perfect(0.0)["x"]
        np.testing.assert_allclose(
            result.varcorr["sdcor"][0], effects.groupby(np.repeat(np.arange(15), 8)).mean().std(), rtol=1e-3
        )


def test_nearly_perfect_crossed_factors():
    data = nearly_perfect(1e-6)
    data["y"] += np.random.default_rng(5).normal(size=6)[data["h"]]
    result = ms.lmer("y ~ x + (1 | g) + (1 | h)", data).fit()
    assert result.converged
    assert 0.8e-6 < result.scale**0.5 < 1.3e-6
    np.testing.assert_allclose(result.params["x"], 1.0, atol=1e-6)


def test_nearly_perfect_fits_say_what_they_cannot():
    result = ms.lmer("y ~ x + (1 | g)", nearly_perfect(1e-7)).fit()
    result.summary()
    assert np.isfinite(result.tidy("all")["estimate"]).all()
    assert np.abs(result.resid).max() < 1e-6
    for ask in (lambda: result.anova(), lambda: result.conf_int(method="profile"), lambda: result.bootstrap(3, rng=1)):
        with pytest.raises(OptionError, match="too small beside the response"):
            ask()


def test_nearly_perfect_is_refused_where_residuals_are_rounding():
    for noise in (0.0, 1e-16):
        with pytest.raises(DataError, match="exactly or nearly so"):
            ms.lmer("y ~ x + (1 | g)", nearly_perfect(noise)).fit()
