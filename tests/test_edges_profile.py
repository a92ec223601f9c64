"""At every end of a profile interval the likelihood ratio is the quantile, also where a variance is zero."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import mvmise_sm as ms
from mvmise_sm.exceptions import SingularFitWarning

QUANTILE = float(stats.chi2.ppf(0.95, 1))


def grouped(seed, spread, groups=10, size=5, slope=0.0):
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    x = np.repeat(rng.normal(size=groups), size)
    z = rng.normal(size=g.size)
    eta = 0.3 + 0.8 * x + spread * rng.normal(size=groups)[g] + slope * z * rng.normal(size=groups)[g]
    return pd.DataFrame({"x": x, "z": z, "g": g, "eta": eta, "y": eta + rng.normal(size=g.size)})


def dense_deviance(data, beta, formula):
    """-2 log L of a linear model with the fixed effects held, minimised over the variances from several starts."""
    g = data["g"].to_numpy()
    same = (g[:, None] == g[None, :]).astype(float)
    z = data["z"].to_numpy()
    parts = [same] if "z" not in formula else [same, same * np.outer(z, z)]
    r = data["y"].to_numpy() - beta[0] - beta[1] * data["x"].to_numpy()

    def value(at):
        v = np.exp(at[0]) * np.eye(r.size) + sum(s**2 * p for s, p in zip(at[1:], parts, strict=True))
        chol = np.linalg.cholesky(v)
        w = np.linalg.solve(chol, r)
        return r.size * np.log(2 * np.pi) + 2 * np.log(np.diag(chol)).sum() + w @ w

    starts = [[np.log(r.var() * 0.5)] + [s] * len(parts) for s in (0.02, 0.5, 1.0)]
    return min(optimize.minimize(value, s, method="BFGS").fun for s in starts)


def held_deviance(data, name, at, formula):
    """The same with one coefficient held and the other one free."""
    other = 1 - ["Intercept", "x"].index(name)

    def value(free):
        beta = np.empty(2)
        beta[1 - other], beta[other] = at, free
        return dense_deviance(data, beta, formula)

    return optimize.minimize_scalar(value, bracket=(0.0, 1.0), tol=1e-7).fun


def fitted(entry, *args, fit=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularFitWarning)
        return entry(*args, **options).fit(**(fit or {}))


def test_profile_of_the_singular_fit_that_lme4_widens():
    rng = np.random.default_rng(3)
    x = np.repeat(rng.normal(size=10), 5)
    data = pd.DataFrame({"y": 0.3 + 0.8 * x + rng.normal(size=50), "x": x, "g": np.repeat(np.arange(10), 5)})
    interval = fitted(ms.lmer, "y ~ x + (1 | g)", data).conf_int(method="profile").loc["x"]
    np.testing.assert_allclose(interval, [0.5451, 0.8771], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_profile_ends_of_fixed_effects_are_at_the_quantile(seed, spread):
    data, formula = grouped(seed, spread), "y ~ x + (1 | g)"
    result = fitted(ms.lmer, formula, data, fit={"reml": False})
    intervals = result.conf_int(method="profile")
    for name in ("x",) if seed else ("Intercept", "x"):
        for end in intervals.loc[name]:
            ratio = held_deviance(data, name, end, formula) + 2.0 * result.llf
            np.testing.assert_allclose(ratio, QUANTILE, atol=1e-3)


def deviance_of(fit, keep):
    """Minimum over everything but one working coordinate, from starts on both sides of the boundary."""
    criterion = fit.deviance_function()
    k = criterion.k_theta
    x = np.array(fit.optimum, dtype=float)
    free = np.delete(np.arange(x.size), keep)

    def at(c):
        def value(part):
            full = np.array(x)
            full[keep], full[free] = c, part
            return criterion.value(full)

        best = np.inf
        for start in (0.02, 0.3, 1.0):
            part = np.array(x)
            part[:k] = np.where(criterion.lower[:k] == 0.0, start, part[:k])
            best = min(best, optimize.minimize(value, part[free], method="BFGS", options={"gtol": 1e-7}).fun)
        return best

    return at


@pytest.mark.parametrize("family", ["poisson", "binomial"])
@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_profile_ends_of_generalized_models_are_at_the_quantile(family, spread):
    for seed in range(2):
        data = grouped(seed, spread, groups=12)
        rng = np.random.default_rng(seed)
        mean = np.exp(data["eta"]) if family == "poisson" else 1.0 / (1.0 + np.exp(-data["eta"]))
        data["c"] = rng.poisson(mean) if family == "poisson" else rng.binomial(1, mean)
        fit = fitted(ms.glmer, "c ~ 1 + x + (1 | g)", data, family=family)
        interval = fit.conf_int(method="profile").loc["x"]
        criterion = fit.deviance_function()
        weights = criterion.basis.a[1]
        if np.count_nonzero(weights) > 1:
            pytest.skip("the working coordinates mix the fixed effects")
        column = criterion.k_theta + int(np.flatnonzero(weights)[0])
        profile = deviance_of(fit, column)
        low = criterion.value(np.array(fit.optimum))
        for end in interval:
            ratio = profile(end / weights[column - criterion.k_theta]) - low
            np.testing.assert_allclose(ratio, QUANTILE, atol=2e-3)


def test_profile_of_one_variance_frees_another_that_is_zero():
    """With the slope's variance at zero, the intercept's end may need it positive, and the other way round."""
    for seed in (1, 4):
        data = grouped(seed, 0.5, groups=8, size=4)
        formula = "y ~ x + (1 | g) + (0 + z | g)"
        result = fitted(ms.lmer, formula, data, fit={"reml": False})
        interval = result.conf_int(method="profile").loc["x"]
        for end in interval:
            ratio = held_deviance(data, "x", end, formula) + 2.0 * result.llf
            np.testing.assert_allclose(ratio, QUANTILE, atol=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_profile_of_a_variance_that_nothing_bounds_has_no_upper_end():
    """Complete separation: the likelihood is as high at any standard deviation (0.1.0 gave no number, or 1e6)."""
    g, x = np.repeat(np.arange(12), 5), np.tile([0, 0, 0, 1, 1], 12)
    data = pd.DataFrame({"y": x, "x": x, "g": g, "of_groups": g % 2})
    for formula in ("y ~ x + (1 | g)", "of_groups ~ 1 + (1 | g)"):
        table = ms.glmer(formula, data, family="binomial").fit().conf_int(method="profile")
        assert table.loc["sd_Intercept|g", 1] == np.inf
        assert np.isfinite(table.loc["sd_Intercept|g", 0])
