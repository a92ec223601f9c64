"""The integrals of generalised models against brute force, and special cases with a known answer."""

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import integrate, stats

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError, SingularFitWarning


def frame_of(family, columns, seed=4, groups=6, rows=5):
    """A small data set with a random intercept and `columns` - 1 random slopes."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    z = np.column_stack([np.ones(len(g)), rng.uniform(-1, 1, (len(g), 2))])
    b = rng.normal(size=(groups, columns)) * [0.8, 0.6, 0.5][:columns]
    eta = 0.4 + 0.5 * z[:, 1] + (z[:, :columns] * b[g]).sum(axis=1)
    y = {
        "binomial": lambda: (rng.random(len(g)) < 1 / (1 + np.exp(-eta))).astype(float),
        "binomial(probit)": lambda: (rng.random(len(g)) < stats.norm.cdf(eta)).astype(float),
        "poisson": lambda: rng.poisson(np.exp(eta)).astype(float),
        "gamma(log)": lambda: rng.gamma(4.0, np.exp(eta) / 4.0),
    }[family]()
    return pd.DataFrame({"y": y, "g": g, "x1": z[:, 1], "x2": z[:, 2]})


def log_density(family, y, eta, phi):
    if family == "binomial":
        return stats.bernoulli.logpmf(y.astype(int)[:, None], 1 / (1 + np.exp(-eta)))
    if family == "binomial(probit)":
        return stats.bernoulli.logpmf(y.astype(int)[:, None], stats.norm.cdf(eta))
    if family == "poisson":
        return stats.poisson.logpmf(y[:, None], np.exp(eta))
    return stats.gamma.logpdf(y[:, None], 1 / phi, scale=np.exp(eta) * phi)


def by_grid(family, frame, columns, theta, beta, phi=1.0):
    """-2 log L with the integral of every group as a sum over a wide and fine grid."""
    q = len(columns)
    lam = np.zeros((q, q))
    lam[np.triu_indices(q)[::-1]] = theta
    axis = np.linspace(-7.5, 7.5, {1: 2001, 2: 161, 3: 49}[q])
    u = np.stack(np.meshgrid(*[axis] * q, indexing="ij")).reshape(q, -1)
    weight = stats.norm.pdf(u).prod(axis=0) * (axis[1] - axis[0]) ** q
    total = 0.0
    for _, part in frame.groupby("g"):
        z = np.column_stack([np.ones(len(part)) if c is None else part[c] for c in columns])
        eta = (beta[0] + beta[1] * part["x1"].to_numpy())[:, None] + z @ lam @ u
        total -= 2.0 * np.log(np.exp(log_density(family, part["y"].to_numpy(), eta, phi).sum(axis=0)) @ weight)
    return total


@pytest.mark.parametrize("family", ["binomial", "binomial(probit)", "poisson", "gamma(log)"])
def test_scalar_quadrature_is_the_integral(family):
    frame = frame_of(family, 1)
    criterion = ms.glmer("y ~ x1 + (1 | g)", frame, family=family).criterion(nagq=41)
    phi = 0.3 if criterion.k_shape else 1.0
    x = np.array([0.9, 0.2, -0.4] + [np.log(phi)] * criterion.k_shape)
    np.testing.assert_allclose(criterion(x), by_grid(family, frame, [None], x[:1], x[1:3], phi), rtol=1e-9)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_quadrature_of_two_columns_is_the_integral(family):
    frame = frame_of(family, 2)
    criterion = ms.glmer("y ~ x1 + (1 + x1 | g)", frame, family=family).criterion(nagq=25)
    x = np.array([0.9, -0.4, 0.6, 0.2, 0.5])
    np.testing.assert_allclose(criterion(x), by_grid(family, frame, [None, "x1"], x[:3], x[3:]), rtol=1e-8)


def test_quadrature_of_three_columns_is_the_integral():
    frame = frame_of("poisson", 3)
    criterion = ms.glmer("y ~ x1 + (1 + x1 + x2 | g)", frame, family="poisson").criterion(nagq=15)
    x = np.array([0.7, -0.3, 0.1, 0.5, 0.2, 0.4, 0.2, 0.5])
    np.testing.assert_allclose(criterion(x), by_grid("poisson", frame, [None, "x1", "x2"], x[:6], x[6:]), rtol=1e-6)


@pytest.mark.parametrize("text", ["(1 | g)", "(1 + x1 | g)", "(x1 || g)"])
def test_more_nodes_converge(text):
    frame = frame_of("binomial", 2, groups=20)
    model = ms.glmer(f"y ~ x1 + {text}", frame, family="binomial")
    x = np.array([0.8, *([0.3, 0.5] if text == "(1 + x1 | g)" else [0.5] if "||" in text else []), 0.1, 0.3])
    best = model.criterion(nagq=31)(x)
    gaps = [abs(model.criterion(nagq=k)(x) - best) for k in (1, 3, 7, 15)]
    assert all(later < earlier for earlier, later in pairwise(gaps))
    assert gaps[-1] < 1e-6


def test_one_node_is_laplace():
    frame = frame_of("binomial", 2)
    model = ms.glmer("y ~ x1 + (1 + x1 | g)", frame, family="binomial")
    x = np.array([0.8, 0.3, 0.5, 0.1, 0.3])
    from mvmise_sm.core.criteria.quadrature import QuadratureDeviance
    from mvmise_sm.core.families.response import make_response

    one = QuadratureDeviance(make_response(model.family, model.endog), model.exog, model.random_effects, nodes=1)
    np.testing.assert_allclose(one(x), model.criterion(1)(x), rtol=1e-13)
    np.testing.assert_allclose(one.gradient(x), model.criterion(1).gradient(x), rtol=1e-9)


def test_quadrature_against_scipy():
    """One group at a time by scipy's adaptive quadrature, at the optimum."""
    frame = frame_of("binomial", 1, groups=25)
    result = ms.glmer("y ~ x1 + (1 | g)", frame, family="binomial").fit(nagq=31)
    sd, (b0, b1) = result.theta[0], result.params
    total = 0.0
    for _, part in frame.groupby("g"):

        def integrand(u, part=part):
            p = 1 / (1 + np.exp(-(b0 + b1 * part["x1"] + sd * u)))
            return float(np.prod(np.where(part["y"] == 1, p, 1 - p)) * stats.norm.pdf(u))

        total -= 2.0 * np.log(integrate.quad(integrand, -9, 9, epsabs=1e-13)[0])
    np.testing.assert_allclose(result.criterion, total, rtol=1e-9)


@pytest.mark.parametrize("nagq", [0, 1, 5])
def test_normal_response_is_the_linear_mixed_model(frames, nagq):
    frame = frames("sleepstudy")
    linear = ms.lmer("Reaction ~ Days + (Days | Subject)", frame).fit(reml=False)
    result = ms.glmer("Reaction ~ Days + (Days | Subject)", frame, family=sm.families.Gaussian()).fit(nagq=nagq)
    np.testing.assert_allclose(result.criterion, linear.criterion, rtol=0, atol=1e-7)
    np.testing.assert_allclose(result.params, linear.params, rtol=1e-8)
    np.testing.assert_allclose(result.scale, linear.scale, rtol=1e-5)
    np.testing.assert_allclose(result.theta, linear.theta, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.varcorr["vcov"], linear.varcorr["vcov"], rtol=1e-4, atol=1e-2)
    assert result.k_params == linear.k_params


def test_quadrature_needs_one_small_factor(frames):
    model = ms.glmer("prop ~ period + (1 | herd) + (1 | obs)", frames("cbpp"), family="binomial", weights="size")
    with pytest.raises(OptionError, match="single grouping factor"):
        model.fit(nagq=5)
    frame = frame_of("binomial", 3).assign(x3=lambda d: d.x1**2)
    with pytest.raises(OptionError, match="at most 3"):
        ms.glmer("y ~ x1 + (1 + x1 + x2 + x3 | g)", frame, family="binomial").fit(nagq=3)
    with pytest.raises(OptionError, match="64,000 nodes"):
        ms.glmer("y ~ x1 + (1 + x1 + x2 | g)", frame, family="binomial").fit(nagq=40)
    with pytest.raises(OptionError, match="from 0 to 100"):
        ms.glmer("y ~ x1 + (1 | g)", frame, family="binomial").fit(nagq=101)


def test_log_likelihoods_of_all_integrations_compare(frames):
    """The constant is the same for every nagq, so better integration changes the value by little."""
    model = ms.glmer("prop ~ period + (1 | herd)", frames("cbpp"), family="binomial", weights="size")
    values = [model.fit(nagq=k).llf for k in (1, 5, 25)]
    assert np.ptp(values) < 0.1


def test_vector_valued_fit_by_quadrature(frames):
    model = ms.glmer(
        "use ~ age + I(age**2) + urban + livch + (urban | district)", frames("Contraception"), family="binomial"
    )
    laplace, quadrature = model.fit(), model.fit(nagq=7)
    finer = model.fit(nagq=11)
    assert quadrature.converged
    np.testing.assert_allclose(quadrature.criterion, finer.criterion, atol=2e-3)
    assert abs(quadrature.criterion - laplace.criterion) < 1.0
    assert np.abs((quadrature.params - laplace.params) / laplace.bse).max() < 0.1


@pytest.mark.parametrize("nagq", [0, 1, 5])
def test_zero_variance_is_the_generalised_linear_model(nagq):
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({"x": rng.normal(size=60), "g": np.tile(np.arange(6), 10)})
    # residuals of every group cancel, which leaves nothing for a random effect
    frame["y"] = np.tile(np.repeat([2.0, 5.0], 6), 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularFitWarning)
        result = ms.glmer("y ~ 1 + (1 | g)", frame, family="poisson").fit(nagq=nagq)
    plain = sm.GLM(frame["y"], np.ones(60), family=sm.families.Poisson()).fit()
    assert result.singular
    assert result.converged
    np.testing.assert_allclose(result.params, plain.params, rtol=1e-8)
    np.testing.assert_allclose(result.llf, plain.llf, rtol=1e-10)
    np.testing.assert_allclose(result.bse, plain.bse, rtol=1e-6)
