"""Priors as functions: densities, derivatives, scale parts, binding to dimensions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, linalg, stats

from mvmise_sm import priors
from mvmise_sm.priors import Dimensions
from mvmise_sm.priors.custom import Independent

ONE = Dimensions(100, 2, level_dim=1, n_groups=10)
TWO = Dimensions(100, 2, level_dim=2, n_groups=10)
THREE = Dimensions(100, 3, level_dim=3, n_groups=10, fixef_names=("Intercept", "x", "z"))
PSI = np.array([[2.0, 0.5], [0.5, 1.0]])
PSI3 = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, -0.2], [0.1, -0.2, 1.5]])

VARIANCE = [
    priors.Gamma(3, 1.5, posterior_scale="sd"),
    priors.Gamma(3, 1.5, posterior_scale="var"),
    priors.Gamma(0.7, 0.2, posterior_scale="var"),
    priors.InverseGamma(1.5, 0.8, posterior_scale="sd"),
    priors.InverseGamma(1.5, 0.8, posterior_scale="var"),
]
MATRIX = [
    priors.Wishart(5, PSI),
    priors.Wishart(5, PSI, posterior_scale="sqrt"),
    priors.Wishart(3, 2.0),
    priors.Wishart(5),
    priors.Wishart(5, posterior_scale="sqrt"),
    priors.InverseWishart(4, PSI),
    priors.InverseWishart(4, PSI, posterior_scale="sqrt"),
    priors.InverseWishart(4, 0.0),
    priors.InverseWishart(1, PSI),
]


def random_covariance(q, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(q, q + 1))
    return root @ root.T / q


def numerical_gradient(f, s, h=1e-5):
    q = s.shape[0]
    out = np.empty((q, q))
    for i in range(q):
        for j in range(q):
            e = np.zeros((q, q))
            e[i, j] += 0.5
            e[j, i] += 0.5
            out[i, j] = (f(s + h * e) - f(s - h * e)) / (2 * h)
    return out


@pytest.mark.parametrize("prior", VARIANCE, ids=repr)
def test_proper_variance_priors_integrate_to_one(prior):
    bound = prior.covariance(ONE)
    power = 2.0 if prior.arguments["posterior_scale"] == "sd" else 1.0

    def density(v):
        return math.exp(-0.5 * bound.value(np.array([[v**power]])))

    pieces = [(0.0, 0.01), (0.01, 1.0), (1.0, 30.0), (30.0, np.inf)]
    total = sum(integrate.quad(density, *piece, epsabs=1e-12)[0] for piece in pieces)
    assert abs(total - 1.0) < 1e-6


@pytest.mark.parametrize("df", [2.5, 5.0])
@pytest.mark.parametrize("scale", [0.7, (2.0, 0.7), PSI])
def test_wishart_family_has_scipy_densities(df, scale):
    psi = np.diag(np.broadcast_to(scale, 2)) if np.ndim(scale) < 2 else scale
    s = random_covariance(2)
    root = linalg.sqrtm(s).real
    for cls, law in ((priors.Wishart, stats.wishart), (priors.InverseWishart, stats.invwishart)):
        for posterior, at in (("cov", s), ("sqrt", root)):
            bound = cls(df, scale, posterior_scale=posterior).covariance(TWO)
            np.testing.assert_allclose(bound.value(s), -2.0 * law.logpdf(at, df, psi), rtol=1e-12)


def test_univariate_wishart_is_a_gamma():
    s = np.array([[0.8]])
    wishart = priors.Wishart(3.0, 0.5).covariance(ONE)
    gamma = priors.Gamma(1.5, 1.0, posterior_scale="var").covariance(ONE)
    np.testing.assert_allclose(wishart.value(s), gamma.value(s), rtol=1e-14)


@pytest.mark.parametrize(
    ("prior", "kernel"),
    [
        (priors.Gamma(2.5, 0), lambda v: -3.0 * math.log(math.sqrt(v))),
        (priors.Gamma(0, 2.0, posterior_scale="var"), lambda v: 2.0 * math.log(v) + 4.0 * v),
        (priors.InverseGamma(0, 0), lambda v: 2.0 * math.log(v)),
        (priors.Wishart(), lambda v: -1.5 * math.log(v)),
        (priors.InverseWishart(2, 0.0), lambda v: 4.0 * math.log(v)),
    ],
    ids=lambda value: repr(value) if isinstance(value, priors.Prior) else "kernel",
)
def test_improper_limits_have_no_constant(prior, kernel):
    bound = prior.covariance(ONE)
    np.testing.assert_allclose(bound.value(np.array([[0.6]])), kernel(0.6), rtol=1e-13)


def test_lower_bound_of_df_is_improper():
    s = random_covariance(2)
    bound = priors.InverseWishart(1, PSI).covariance(TWO)
    kernel = 4.0 * np.linalg.slogdet(s)[1] + np.trace(PSI @ np.linalg.inv(s))
    np.testing.assert_allclose(bound.value(s), kernel, rtol=1e-13)


def test_infinite_scale_is_the_limit_of_a_large_one():
    s = random_covariance(2)
    limit = priors.Wishart(5).covariance(TWO).gradient(s)
    np.testing.assert_allclose(priors.Wishart(5, 1e9).covariance(TWO).gradient(s), limit, rtol=1e-7)
    limit = priors.InverseWishart(4, 0).covariance(TWO).gradient(s)
    np.testing.assert_allclose(priors.InverseWishart(4, 1e-9).covariance(TWO).gradient(s), limit, rtol=1e-7)


def name_of(value):
    """The name of a parameter in a test's id: without addresses, which differ between the workers of a parallel run."""
    return "Custom" if isinstance(value, priors.Custom) else repr(value)


def bound_priors():
    out = [(p.covariance(ONE), 1) for p in VARIANCE] + [(p.covariance(TWO), 2) for p in MATRIX]
    out += [(priors.Wishart(6, PSI3, posterior_scale=scale).covariance(THREE), 3) for scale in ("cov", "sqrt")]
    out += [(priors.InverseWishart(4.5, PSI3, posterior_scale=scale).covariance(THREE), 3) for scale in ("cov", "sqrt")]
    out.append((Independent([p.covariance(ONE) for p in VARIANCE[:2]]), 2))
    out.append((priors.Custom(lambda s: np.trace(s) - np.log(np.linalg.det(s)), scale="dev"), 2))
    return out


@pytest.mark.parametrize(("bound", "q"), bound_priors(), ids=name_of)
def test_derivatives_equal_differences(bound, q):
    s = random_covariance(q, seed=3)
    if isinstance(bound, Independent):
        s = np.diag(np.diag(s))
    gradient = bound.gradient(s)
    wanted = numerical_gradient(bound.value, s)
    mask = np.eye(q, dtype=bool) if isinstance(bound, Independent) else np.ones((q, q), dtype=bool)
    np.testing.assert_allclose(gradient[mask], wanted[mask], rtol=1e-6, atol=1e-7)
    assert bound.evaluate(s)[0] == bound.value(s)

    direction = random_covariance(q, seed=4) * mask
    h = 1e-5
    change = (bound.gradient(s + h * direction) - bound.gradient(s - h * direction)) / (2 * h)
    second = (bound.hessian(s) @ direction.ravel()).reshape(q, q)
    np.testing.assert_allclose(second[mask], change[mask], rtol=2e-5, atol=1e-5)

    def scaled(rho):
        return math.exp(rho) * bound.gradient(math.exp(rho) * s)

    np.testing.assert_allclose(bound.radial(s), (scaled(1e-5) - scaled(-1e-5)) / 2e-5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("bound", "q"), bound_priors()[:-2], ids=name_of)
def test_scale_part_says_how_the_penalty_depends_on_sigma(bound, q):
    s = random_covariance(q, seed=5)
    part = bound.scale_part(s)

    def along(s2):
        return part.log * math.log(s2) + part.coefficient * (s2 ** (part.power / 2) if part.power else 0.0)

    for s2 in (0.3, 2.0, 7.0):
        np.testing.assert_allclose(bound.value(s2 * s) - bound.value(s), along(s2) - along(1.0), rtol=1e-11)


@pytest.mark.parametrize("prior", [priors.Wishart(), priors.InverseWishart(4, 1.0), priors.Wishart(5, 2.0)], ids=repr)
def test_a_repelling_prior_is_infinite_at_a_singular_covariance(prior):
    bound = prior.covariance(TWO)
    assert bound.repels
    assert bound.value(np.ones((2, 2))) == math.inf
    assert bound.value(np.zeros((2, 2))) == math.inf


def test_prior_without_barrier_is_finite_at_zero():
    bound = priors.Wishart(3, 2.0).covariance(TWO)
    assert not bound.repels
    value, gradient = bound.evaluate(np.zeros((2, 2)))
    assert math.isfinite(value)
    np.testing.assert_allclose(gradient, 0.5 * np.eye(2))


class TestCustom:
    def test_three_scales_agree(self):
        s = random_covariance(2)
        functions = {
            "none": lambda s: math.exp(-np.trace(s)),
            "log": lambda s: -np.trace(s),
            "dev": lambda s: 2.0 * np.trace(s),
        }
        for scale, fn in functions.items():
            bound = priors.Custom(fn, scale=scale)
            np.testing.assert_allclose(bound.value(s), 2.0 * np.trace(s))
            np.testing.assert_allclose(bound.gradient(s), 2.0 * np.eye(2), atol=1e-8)

    @pytest.mark.parametrize("scale", ["none", "log", "dev"])
    @pytest.mark.parametrize("chol", [False, True])
    def test_given_and_numerical_gradients_agree(self, scale, chol):
        weight = np.array([[1.0, 0.3], [0.0, 2.0]]) if chol else PSI

        def fn(m):
            return 0.2 + np.sum(weight * m) ** 2

        def gradient(m):
            return 2.0 * np.sum(weight * m) * weight

        s = random_covariance(2, seed=8)
        given = priors.Custom(fn, chol=chol, scale=scale, gradient=gradient)
        numerical = priors.Custom(fn, chol=chol, scale=scale)
        np.testing.assert_allclose(given.gradient(s), numerical.gradient(s), rtol=1e-7, atol=1e-8)

    def test_right_cholesky_factor_is_upper_triangular(self):
        seen = []
        priors.Custom(lambda r: seen.append(r) or 0.0, chol=True, scale="dev").value(PSI)
        np.testing.assert_allclose(seen[0].T @ seen[0], PSI)
        assert seen[0][1, 0] == 0.0

    def test_finite_at_a_zero_standard_deviation(self):
        bound = priors.Custom(lambda sd: -np.log1p(sd**2), chol=True, scale="log")
        value, gradient = bound.evaluate(np.zeros((1, 1)))
        assert value == 0.0
        np.testing.assert_allclose(gradient, [[2.0]], rtol=1e-4)

    def test_bad_functions_are_refused(self):
        with pytest.raises(ValueError, match="must be a function"):
            priors.Custom(3.0)
        with pytest.raises(ValueError, match="scale must be 'none', 'log' or 'dev'"):
            priors.Custom(np.trace, scale="deviance")
        with pytest.raises(ValueError, match="must return one number"):
            priors.Custom(lambda s: s).value(PSI)
        with pytest.raises(ValueError, match="negative density"):
            priors.Custom(lambda s: -1.0).value(PSI)


class TestFixedEffects:
    def penalty(self, prior, beta, s2=1.0, dims=THREE):
        out = 0.0
        for block in prior.fixef(dims):
            x = (beta - block.mean) @ block.precision @ (beta - block.mean)
            c = block.common_scale
            out += block.constant + block.mixing.at_finite_bound().phi(x / s2 if c else x)[0]
            out += block.rank * math.log(s2) if c else 0.0
        return out

    @pytest.mark.parametrize("common", [True, False])
    def test_normal_density(self, common):
        beta, s2 = np.array([0.3, -1.0, 2.0]), 1.7
        factor = s2 if common else 1.0
        cases = [
            (priors.Normal(common_scale=common), np.diag([100.0, 6.25, 6.25])),
            (priors.Normal(sd=2.0, common_scale=common), 4.0 * np.eye(3)),
            (priors.Normal(sd=(1, 2, 3), common_scale=common), np.diag([1.0, 4.0, 9.0])),
            (priors.Normal(cov=PSI3, common_scale=common), PSI3),
            (priors.Normal(cov=(1, 2, 3), common_scale=common), np.diag([1.0, 2.0, 3.0])),
        ]
        for prior, cov in cases:
            wanted = -2.0 * stats.multivariate_normal(np.zeros(3), factor * cov).logpdf(beta)
            np.testing.assert_allclose(self.penalty(prior, beta, s2), wanted, rtol=1e-12)

    @pytest.mark.parametrize("common", [True, False])
    def test_t_density(self, common):
        beta, s2, mean = np.array([0.3, -1.0, 2.0]), 1.7, np.array([1.0, 0.0, -1.0])
        factor = s2 if common else 1.0
        cases = [
            (priors.StudentT(common_scale=common), 3.0, np.zeros(3), np.diag([100.0, 6.25, 6.25])),
            (priors.StudentT(1, 6.25, common_scale=common), 1.0, np.zeros(3), 6.25 * np.eye(3)),
            (priors.StudentT(4, PSI3, common_scale=common, mean=mean), 4.0, mean, PSI3),
        ]
        for prior, df, center, scale in cases:
            wanted = -2.0 * stats.multivariate_t(center, factor * scale, df).logpdf(beta)
            np.testing.assert_allclose(self.penalty(prior, beta, s2), wanted, rtol=1e-12)

    def test_horseshoe_density_is_the_scale_mixture(self):
        dims = Dimensions(100, 1)
        prior = priors.Horseshoe(global_shrinkage=1.5, common_scale=False)
        for beta in (0.05, 0.4, 3.0, 25.0):
            mixture = integrate.quad(
                lambda lam, beta=beta: stats.norm.pdf(beta, 0.0, 1.5 * lam) * 2.0 / (math.pi * (1.0 + lam**2)),
                0,
                np.inf,
            )[0]
            np.testing.assert_allclose(
                self.penalty(prior, np.array([beta]), dims=dims), -2.0 * math.log(mixture), rtol=1e-6
            )

    def test_infinite_sd_leaves_a_coefficient_flat(self):
        (block,) = priors.Normal(sd=(np.inf, 2.5, np.inf)).fixef(THREE)
        assert block.rank == 1
        np.testing.assert_allclose(np.diag(block.precision), [0.0, 0.16, 0.0])

    def test_names_instead_of_positions(self):
        (block,) = priors.Normal(sd={"z": 2.0}).fixef(THREE)
        np.testing.assert_allclose(np.diag(block.precision), [0.0, 0.0, 0.25])
        with pytest.raises(ValueError, match="'w', which is not a fixed effect"):
            priors.Normal(sd={"w": 2.0}).fixef(THREE)

    @pytest.mark.parametrize("width", [0.0, 0.01, 1.0])
    def test_mixing_derivatives(self, width):
        from mvmise_sm.priors.quadratic import HorseshoeMixing, Student

        for mixing in (Student(3.0, 2), HorseshoeMixing(width)):
            for x in (0.01, 0.7, 30.0, 99.0, 101.0, 1e4):
                h = 1e-5 * x
                _, d1, d2 = mixing.phi(x)
                up, down = mixing.phi(x + h), mixing.phi(x - h)
                np.testing.assert_allclose(d1, (up[0] - down[0]) / (2 * h), rtol=1e-6)
                np.testing.assert_allclose(d2, (up[1] - down[1]) / (2 * h), rtol=1e-6)
                assert d1 > 0.0 > d2


def test_hyperparameters_may_be_functions_of_the_dimensions():
    prior = priors.Wishart(df=lambda d: d.level_dim + d.j_k / 10, scale=lambda d: d.n / (d.df * d.p))
    bound = prior.covariance(THREE)
    assert bound.describe().startswith("wishart(df = 4, scale = c(8.333, 0, 0,")
    with pytest.raises(ValueError, match="'level_dim' is only known to covariance priors"):
        priors.Normal(sd=lambda d: d.level_dim).fixef(Dimensions(100, 3))
    with pytest.raises(ValueError, match="'nothing' is not a dimension or an argument"):
        priors.Wishart(df=lambda d: d.nothing).covariance(THREE)


def test_defaults_depend_on_role_and_model():
    glmm = Dimensions(100, 2, level_dim=1, n_groups=10, has_scale=False)
    assert priors.Gamma().covariance(ONE).describe() == (
        "gamma(shape = 2.5, rate = 0, posterior.scale = sd, common.scale = TRUE)"
    )
    assert priors.Gamma().residual(ONE).describe() == "gamma(shape = 0, rate = 0, posterior.scale = var)"
    assert priors.InverseGamma().covariance(ONE).describe() == (
        "invgamma(shape = 0.001, scale = 0.051, posterior.scale = var, common.scale = TRUE)"
    )
    assert priors.InverseGamma().covariance(glmm).describe() == (
        "invgamma(shape = 0.5, scale = 100, posterior.scale = sd, common.scale = TRUE)"
    )
    assert priors.InverseWishart().covariance(glmm).describe() == (
        "invwishart(df = 0.5, scale = 40, posterior.scale = cov, common.scale = TRUE)"
    )


def test_specifications_compare_and_print():
    assert priors.Wishart(4) == priors.Wishart(df=4)
    assert priors.Wishart(4) != priors.InverseWishart(4)
    assert repr(priors.Normal(sd=2.0)) == "Normal(sd=2.0)"
