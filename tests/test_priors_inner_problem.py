"""The (beta, sigma2) problem with priors: against the posterior written out naively, and its derivatives."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from mvmise_sm import priors
from mvmise_sm.core.criteria.inner_problem import FlatInnerProblem
from mvmise_sm.priors import TermShape, resolve_priors
from mvmise_sm.priors.scale import ScaleProfile, find_minimum

N, P = 40, 3
TERMS = [TermShape("g", 2, 8), TermShape("h", 1, 5)]
PSI = np.array([[2.0, 0.5], [0.5, 1.0]])

COV = {
    "flat": None,
    "wishart": "wishart",
    "wishart-abs": "list(g ~ wishart(5, 2, FALSE), h ~ gamma(2, 1, FALSE, 'var'))",
    "invwishart-abs": "list(g ~ invwishart(4, 1, FALSE), h ~ invgamma(1, 0.5, FALSE))",
    "sqrt-abs": "list(g ~ invwishart(4, 1, FALSE, 'sqrt'), h ~ gamma(2, 1, FALSE))",
    "sqrt": "list(g ~ wishart(5, 2, posterior.scale = 'sqrt'), h ~ invgamma(1, 1, posterior.scale = 'sd'))",
    "custom-abs": {
        "g": priors.Custom(lambda s: np.trace(s) - 0.5 * np.log(np.linalg.det(s)), scale="dev", common_scale=False),
        "h": "gamma(2, 1, FALSE)",
    },
}
FIXEF = {
    "flat": None,
    "normal": "normal(sd = c(5, 1, 2))",
    "normal-partial": {"x": priors.Normal(sd=0.5), "z": priors.Normal(sd=0.3, mean=1.0)},
    "normal-abs": "normal(sd = c(0.5, 1), common.scale = FALSE)",
    "normal-both": {"x": priors.Normal(sd=0.5), "z": priors.Normal(sd=0.3, common_scale=False)},
    "t": "t(df = 2, scale = c(1, 0.2))",
    "t-abs": "t(df = 1, scale = 0.2, common.scale = FALSE)",
    "t-dict": {"Intercept": priors.StudentT(3, 1.0), "z": priors.Normal(sd=0.4)},
    "horseshoe": "horseshoe(global.shrinkage = 0.3)",
}
RESID = {
    "flat": None,
    "gamma": "gamma(3, 2)",
    "gamma-sd": "gamma(3, 2, 'sd')",
    "invgamma": "invgamma(3, 2)",
    "invgamma-sd": "invgamma(3, 2, 'sd')",
    "point": "point(1.3)",
}
COMBINATIONS = [
    *[(c, f, "flat") for c, f in itertools.product(COV, FIXEF)],
    *[("invwishart-abs", f, r) for f, r in itertools.product(FIXEF, RESID)],
    *[("wishart-abs", "normal", r) for r in RESID],
]


def problem(seed=0):
    """A gram matrix K (p + 1, p + 1), relative covariances, and a change of coordinates."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(N), rng.normal(size=(N, P - 1))])
    y = x @ [1.0, 0.4, -0.2] + rng.normal(size=N)
    both = np.column_stack([x, y])
    scaling = np.diag(rng.uniform(0.3, 1.0, N))
    gram = both.T @ scaling @ both
    root = rng.normal(size=(2, 3))
    return gram, [0.4 * root @ root.T, np.array([[0.7]])]


def bind(cov, fixef, resid):
    return resolve_priors(
        COV[cov], FIXEF[fixef], RESID[resid], terms=TERMS, nobs=N, fixef_names=["Intercept", "x", "z"]
    )


def posterior(bound, gram, sigmas, beta, s2, mixing=lambda m: m):
    """-2 log of likelihood times priors at given parameters, without log|M|."""
    xi = np.append(-beta, 1.0)
    out = N * math.log(2 * math.pi * s2) + xi @ gram @ xi / s2
    for block in bound.fixef:
        x = (beta - block.mean) @ block.precision @ (beta - block.mean)
        out += block.constant + mixing(block.mixing).phi(x / s2 if block.common_scale else x)[0]
        out += block.rank * math.log(s2) if block.common_scale else 0.0
    for prior, sigma in zip(bound.cov, sigmas, strict=True):
        if prior is not None:
            out += prior.value(sigma if prior.common_scale else s2 * sigma)
    if bound.resid is not None:
        out += bound.resid.value(np.array([[s2]]))
    return out


def reml_posterior(bound, gram, sigmas, s2):
    """The same with beta integrated out: minus twice the log of a Gaussian integral."""
    beta = np.zeros(P)
    weight = gram[:P, :P] / s2
    right = gram[:P, P] / s2
    for block in bound.fixef:
        scale = s2 if block.common_scale else 1.0
        weight = weight + block.precision / scale
        right = right + block.precision @ block.mean / scale
    beta = np.linalg.solve(weight, right)
    return posterior(bound, gram, sigmas, beta, s2) + np.linalg.slogdet(weight)[1] - P * math.log(2 * math.pi), beta


@pytest.mark.parametrize(("cov", "fixef", "resid"), COMBINATIONS)
def test_solution_is_the_mode(cov, fixef, resid):
    gram, sigmas = problem()
    bound = bind(cov, fixef, resid)
    solution = bound(N, P, False, np.eye(P), np.zeros(P)).solve(gram, sigmas)
    np.testing.assert_allclose(
        solution.value, posterior(bound, gram, sigmas, solution.beta, solution.sigma2), rtol=1e-12
    )
    np.testing.assert_allclose(
        solution.penalty,
        solution.value
        - N * math.log(2 * math.pi * solution.sigma2)
        - np.append(-solution.beta, 1) @ gram @ np.append(-solution.beta, 1) / solution.sigma2,
        atol=1e-9,
    )

    def objective(z):
        return posterior(bound, gram, sigmas, z[:P], math.exp(z[P]) if resid != "point" else 1.3**2)

    rng = np.random.default_rng(1)
    mode = np.append(solution.beta, math.log(solution.sigma2))
    least_squares = np.linalg.solve(gram[:P, :P], gram[:P, P])
    starts = [mode + 0.01 * rng.normal(size=P + 1), np.append(least_squares, 0.0), np.zeros(P + 1)]
    best = min(optimize.minimize(objective, z, method="BFGS", options={"gtol": 1e-7}).fun for z in starts)
    assert solution.value <= best + 1e-7


@pytest.mark.parametrize(("cov", "fixef", "resid"), [c for c in COMBINATIONS if not c[1].startswith(("t", "horse"))])
def test_reml_solution_is_the_mode_of_the_integral(cov, fixef, resid):
    gram, sigmas = problem()
    bound = bind(cov, fixef, resid)
    solution = bound(N, P, True, np.eye(P), np.zeros(P)).solve(gram, sigmas)
    value, beta = reml_posterior(bound, gram, sigmas, solution.sigma2)
    np.testing.assert_allclose(solution.value, value, rtol=1e-12)
    np.testing.assert_allclose(solution.beta, beta, rtol=1e-9)
    if resid != "point":
        found = optimize.minimize_scalar(
            lambda rho: reml_posterior(bound, gram, sigmas, math.exp(rho))[0], bracket=(-1.0, 0.5), tol=1e-12
        )
        assert solution.value <= found.fun + 1e-9


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("cov", "fixef", "resid"), COMBINATIONS)
def test_envelope_derivatives(cov, fixef, resid, reml):
    if reml and fixef.startswith(("t", "horse")):
        pytest.skip("refused with REML")
    gram, sigmas = problem(2)
    stage = bind(cov, fixef, resid)(N, P, reml, np.eye(P), np.zeros(P))
    solution = stage.solve(gram, sigmas)
    rng = np.random.default_rng(3)

    direction = rng.normal(size=(P + 1, P + 1))
    direction = direction + direction.T
    h = 1e-5
    up, down = (stage.solve(gram + s * direction, sigmas).value for s in (h, -h))
    np.testing.assert_allclose((solution.gram_weights * direction).sum(), (up - down) / (2 * h), rtol=2e-6, atol=1e-6)
    if solution.sigma_gradients is not None:
        moved = [np.array([[0.3, 0.1], [0.1, -0.2]]), np.array([[0.25]])]
        up, down = (stage.solve(gram, [s + t * m for s, m in zip(sigmas, moved, strict=True)]).value for t in (h, -h))
        slope = sum((g * m).sum() for g, m in zip(solution.sigma_gradients, moved, strict=True) if g is not None)
        np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("fixef", [f for f in FIXEF if f != "flat"])
def test_coordinates_do_not_matter(fixef):
    gram, sigmas = problem()
    bound = bind("wishart-abs", fixef, "gamma")
    plain = bound(N, P, False, np.eye(P), np.zeros(P)).solve(gram, sigmas)
    rng = np.random.default_rng(4)
    a, b0 = np.eye(P) + 0.3 * rng.normal(size=(P, P)), rng.normal(size=P)
    change = np.eye(P + 1)
    change[:P, :P], change[:P, P] = a, -b0
    moved = bound(N, P, False, a, b0).solve(change.T @ gram @ change, sigmas)
    np.testing.assert_allclose(moved.value, plain.value, rtol=1e-11)
    np.testing.assert_allclose(a @ moved.beta + b0, plain.beta, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(a @ moved.cov_beta @ a.T, plain.cov_beta, rtol=1e-8)


@pytest.mark.parametrize("reml", [True, False])
def test_flat_priors_are_no_priors(reml):
    gram, sigmas = problem()
    flat = FlatInnerProblem(N, P, reml, 0.0).solve(gram)
    ours = bind("flat", "flat", "flat")(N, P, reml, np.eye(P), np.zeros(P)).solve(gram, sigmas)
    assert ours.penalty == 0.0
    for name in ("value", "beta", "sigma2", "gram_weights", "cov_beta", "curvature_c", "logdet_x", "nu"):
        np.testing.assert_allclose(getattr(ours, name), getattr(flat, name), rtol=1e-14)


@pytest.mark.parametrize("fixef", ["t", "t-abs", "horseshoe"])
def test_t_and_horseshoe_are_refused_with_reml(fixef):
    with pytest.raises(
        ValueError, match=r"cannot be integrated over the fixed effects as REML does; use fit\(reml=False\)"
    ):
        bind("flat", fixef, "flat")(N, P, True, np.eye(P), np.zeros(P))


def test_horseshoe_shrinks_noise_onto_its_mean_and_keeps_signal():
    gram, sigmas = problem()
    bound = bind("flat", "horseshoe", "flat")
    solution = bound(N, P, False, np.eye(P), np.zeros(P)).solve(gram, sigmas)
    least_squares = np.linalg.solve(gram[:P, :P], gram[:P, P])
    assert abs(solution.beta[2]) < 0.1 * abs(least_squares[2])
    assert abs(solution.beta[0]) > 0.8 * abs(least_squares[0])


def test_evaluation_at_given_parameters():
    gram, sigmas = problem()
    beta, s2 = np.array([0.7, 0.2, -0.4]), 1.2
    for cov, fixef in (("wishart-abs", "horseshoe"), ("invwishart-abs", "t-dict"), ("wishart", "normal-abs")):
        bound = bind(cov, fixef, "invgamma")
        stage = bound(N, P, False, np.eye(P), np.zeros(P))
        criterion, penalty, given = stage.evaluate(gram, sigmas, beta, s2)
        wanted = posterior(bound, gram, sigmas, beta, s2, mixing=lambda m: m.at_finite_bound())
        np.testing.assert_allclose(criterion + penalty, wanted, rtol=1e-12)
        assert given == s2
        criterion, penalty, profiled = stage.evaluate(gram, sigmas, beta)
        for factor in (0.99, 1.01):
            assert criterion + penalty < sum(stage.evaluate(gram, sigmas, beta, factor * profiled)[:2])


def closed_form(log, powers, name):
    return pytest.param(log, powers, id=name)


@pytest.mark.parametrize(
    ("log", "powers"),
    [
        closed_form(10.0, [7.0, 0, 0, 0, 0], "linear"),
        closed_form(10.0, [7.0, 3.0, 0, 0, 0], "quadratic in sigma"),
        closed_form(10.0, [7.0, 0, 0, 0, 4.0], "quadratic in sigma2"),
        closed_form(-3.0, [7.0, 0, 0, 0, 4.0], "quadratic in sigma2, few observations"),
        closed_form(0.0, [7.0, 0, 0, 0, 4.0], "quadratic in sigma2, balanced"),
        closed_form(10.0, [7.0, 3.0, 0, 2.0, 0], "search"),
        closed_form(-3.0, [7.0, 3.0, 0, 2.0, 5.0], "search, few observations"),
        closed_form(1e6, [1e9, 0, 0, 1e-3, 1e-9], "search, wide range"),
        closed_form(20.0, [1.0, 1e30, 0, 2.0, 0], "search, a huge term"),
        closed_form(-20.0, [1e-30, 0, 0, 1e-30, 0], "search, tiny terms"),
    ],
)
def test_scale_profile_is_stationary_and_convex(log, powers):
    profile = ScaleProfile(log, powers)
    rho, curvature = profile.minimise()
    first, second = profile.derivatives(rho)
    assert abs(first) <= 1e-12 * curvature
    np.testing.assert_allclose(second, curvature, rtol=1e-6)
    assert curvature > 0.0
    np.testing.assert_allclose(rho, find_minimum(profile.derivatives, rho + 2.0)[0], atol=1e-8)


def test_priors_without_a_finite_sigma_are_refused():
    with pytest.raises(ValueError, match="without a finite positive estimate"):
        ScaleProfile(-2.0, [3.0, 0, 0, 0, 0]).minimise()


def test_closed_forms_are_those_of_the_paper():
    nu, s2, a, b = 17.0, 5.0, 3.0, 2.0
    linear = ScaleProfile(nu + 2 * (a + 1), [s2 + 2 * b, 0, 0, 0, 0]).minimise()[0]
    np.testing.assert_allclose(math.exp(linear), (s2 / 2 + b) / (nu / 2 + a + 1))
    gamma = ScaleProfile(nu - 2 * (a - 1), [s2, 0, 0, 0, 2 / b]).minimise()[0]
    c = nu / 2 - a + 1
    np.testing.assert_allclose(math.exp(gamma), b / 2 * (math.sqrt(c**2 + 2 * s2 / b) - c))
    inverse_sd = ScaleProfile(nu + a + 1, [s2, 2 * b, 0, 0, 0]).minimise()[0]
    k = nu + a + 1
    np.testing.assert_allclose(math.exp(inverse_sd / 2), (b + math.sqrt(b**2 + 4 * k * s2)) / (2 * k))


def test_log_of_a_normal_with_known_scale_is_the_textbook_posterior():
    """One mean, known variance: the mode is the precision-weighted average."""
    rng = np.random.default_rng(5)
    y = rng.normal(1.0, 2.0, 30)
    gram = np.array([[30.0, y.sum()], [y.sum(), (y**2).sum()]])
    bound = resolve_priors(
        None, "normal(sd = 0.5, common.scale = FALSE)", "point(2)", terms=[], nobs=30, fixef_names=["m"]
    )
    solution = bound(30, 1, False, np.eye(1), np.zeros(1)).solve(gram, [])
    np.testing.assert_allclose(solution.beta[0], (y.sum() / 4.0) / (30 / 4.0 + 1 / 0.25), rtol=1e-12)
    wanted = -2 * stats.norm.logpdf(y, solution.beta[0], 2.0).sum() - 2 * stats.norm.logpdf(solution.beta[0], 0.0, 0.5)
    np.testing.assert_allclose(solution.value, wanted, rtol=1e-12)
