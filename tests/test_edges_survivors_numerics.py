"""Lines of the numerical rings that changed without a test noticing, against formulas, quadrature and differences."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, linalg, optimize, stats
from scipy.special import gammaln

import mvmise_sm as ms
from mvmise_sm.core.covariance import registry
from mvmise_sm.core.covariance.reported import to_line
from mvmise_sm.core.covariance.theta import _has_extreme_correlation
from mvmise_sm.core.criteria.stacked import _block_diagonal
from mvmise_sm.core.elimination.sums import PairTable
from mvmise_sm.core.families import distributions
from mvmise_sm.core.families.counts import GeneralizedPoisson
from mvmise_sm.core.families.negative_binomial import nb_derivatives
from mvmise_sm.core.uncertainty.profile_search import ProfiledParameter, trace
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.means.contrasts import contrast_set
from mvmise_sm.inference.means.scales import response_scale
from mvmise_sm.inference.pooling import PooledLaw
from mvmise_sm.priors.scale import ScaleProfile


def test_one_standard_deviation_of_several_columns_is_named_by_none():
    one, three = (registry.make_structure("homdiag", list("abc")[:q], np.arange(float(q))[:, None], {}) for q in (1, 3))
    assert one.parameters(np.ones(1), ["a"])[0].levels == ("a",)
    assert three.parameters(np.ones(1), list("abc"))[0].levels == ()


@pytest.mark.parametrize("kind", ["cor", "share"])
def test_parameters_at_their_ends_stay_finite_on_the_line(kind):
    ends = [to_line(kind, end)[0] for end in ((-1.0, 1.0) if kind == "cor" else (0.0, 1.0))]
    assert np.isfinite(ends).all()
    assert ends[0] == pytest.approx(-ends[1], rel=1e-3)


@pytest.mark.parametrize(("nu", "polynomial"), [(1.5, [1.0, 1.0]), (2.5, [1.0, 1.0, 1.0 / 3.0])])
def test_matern_correlations_of_random_effects_are_closed_forms(nu, polynomial):
    positions = np.array([[0.0], [0.7], [2.0]])
    structure = registry.make_structure("mat", list("abc"), positions, {"nu": nu})
    theta = structure.start(np.ones(3))
    lam = structure.factor(theta)
    found = lam @ lam.T / (lam @ lam.T)[0, 0]
    # the range is what makes the first neighbours right; the others follow from it
    distance = np.abs(positions - positions.T)

    def correlation(reach):
        z = np.sqrt(2.0 * nu) * distance / reach
        return np.polynomial.polynomial.polyval(z, polynomial) * np.exp(-z)

    reach = optimize.brentq(lambda r: correlation(r)[0, 1] - found[0, 1], 1e-3, 1e3)
    np.testing.assert_allclose(found, correlation(reach), atol=1e-9)


def test_scale_profile_is_the_integral_of_its_slope():
    profile = ScaleProfile(0.7, [0.3, 1.1, 0.0, 0.9, 0.2], [lambda rho: (np.sin(rho), np.cos(rho), -np.sin(rho))])
    area = integrate.quad(lambda rho: profile.derivatives(rho)[0], -0.8, 1.3, epsabs=1e-12)[0]
    assert profile.value(1.3) - profile.value(-0.8) == pytest.approx(area, rel=1e-10)
    bend = integrate.quad(lambda rho: profile.derivatives(rho)[1], -0.8, 1.3, epsabs=1e-12)[0]
    assert profile.derivatives(1.3)[0] - profile.derivatives(-0.8)[0] == pytest.approx(bend, rel=1e-10)
    at, curvature = profile.minimise()
    assert profile.derivatives(at)[0] == pytest.approx(0.0, abs=1e-8)
    assert curvature == pytest.approx(profile.derivatives(at)[1])


def test_deviance_of_the_negative_binomial_at_its_poisson_limit():
    y, mu = np.array([0.0, 1.0, 4.0, 9.0]), np.array([0.5, 2.0, 3.0, 9.5])
    limit = distributions.NegativeBinomial(y, None, alpha=0.0).unit_deviance(mu)
    own = -2.0 * (stats.poisson.logpmf(y, mu) - stats.poisson.logpmf(y, np.maximum(y, 1e-300)))
    np.testing.assert_allclose(limit, own, rtol=1e-12)
    near = distributions.NegativeBinomial(y, None, alpha=1e-7).unit_deviance(mu)
    np.testing.assert_allclose(near, limit, rtol=1e-5)


def test_generalised_poisson_has_no_probability_beyond_its_range():
    """Underdispersed, the rate mean / sqrt(d) + (1 - 1 / sqrt(d)) y is negative for large counts."""
    family, d = GeneralizedPoisson(), 0.25
    mass = family._log_mass(np.arange(8.0), np.full(8, 3.0), d)
    rate = 6.0 - np.arange(8.0)
    inside = np.log(6.0) + (np.arange(6) - 1.0) * np.log(rate[:6]) - rate[:6] - gammaln(np.arange(6) + 1.0)
    np.testing.assert_allclose(mass[:6], inside)
    np.testing.assert_array_equal(mass[6:], -np.inf)


@pytest.mark.parametrize("size", [120.0, 3000.0])
def test_slopes_of_the_negative_binomial_in_a_large_size_are_sums_over_the_counts(size):
    """psi(y + k) - psi(k) is a sum of y reciprocals, which no cancellation touches."""
    y, one = np.array([1.0, 4.0, 30.0]), np.ones(3)
    log_k = np.log(size) * one
    k = np.exp(log_k[0])
    terms = [k + np.arange(n) for n in y]
    found = nb_derivatives(y, y, log_k, full=True, cubic=True)
    first = np.array([(1.0 / t).sum() for t in terms]) - np.log1p(y / k)
    second = 1.0 / k - 1.0 / (k + y) - np.array([(1.0 / t**2).sum() for t in terms])
    third = np.array([(2.0 / t**3).sum() for t in terms]) - 1.0 / k**2 + 1.0 / (k + y) ** 2
    # rounding of the sums in units of what is left of them
    np.testing.assert_allclose(found["k"], k * first, rtol=1e-9, atol=1e-15 * k)
    np.testing.assert_allclose(found["kk"], k * first + k * k * second, rtol=1e-9, atol=1e-15 * k)
    kkk = k * first + 3.0 * k * k * second + k**3 * third
    np.testing.assert_allclose(found["kkk"], kkk, rtol=1e-9, atol=1e-14 * k)


def test_a_table_of_pairs_without_rows_is_empty():
    for shape in ((3, 2), (100_000, 100_000)):
        keys, sums = PairTable(shape, 2).result()
        assert keys.shape == (0,)
        assert sums.shape == (2, 0)


def test_pairs_sum_alike_in_a_table_and_by_sorted_keys(monkeypatch):
    rng = np.random.default_rng(3)
    blocks = [(rng.integers(0, 30, 200), rng.integers(0, 7, 200), rng.normal(size=(2, 200))) for _ in range(6)]
    # a pair whose numbers are all zero still occurs
    blocks.append((np.array([30]), np.array([6]), np.zeros((2, 1))))
    tables = [PairTable((31, 7), 2)]
    monkeypatch.setattr("mvmise_sm.core.elimination.sums._TABLE_CELLS", 0)
    tables.append(PairTable((31, 7), 2))
    for first, second, values in blocks[:4]:
        for table in tables:
            table.add(first, second, values)
    for table in tables:
        # what has been read out goes on adding, and takes sums of others
        table.result()
        for first, second, values in blocks[4:]:
            table.add(first, second, values)
    tables[0].add_sums(*tables[1].result())
    dense = np.zeros((2, 31 * 7))
    for first, second, values in blocks:
        np.add.at(dense, (slice(None), first * 7 + second), values)
    seen = np.unique(np.concatenate([first * 7 + second for first, second, _ in blocks]))
    for table, times in zip(tables, (2.0, 1.0), strict=True):
        keys, sums = table.result()
        np.testing.assert_array_equal(keys, seen)
        np.testing.assert_allclose(sums, times * dense[:, seen], rtol=0, atol=1e-13)


def test_a_profile_goes_halfway_to_the_end_of_its_range():
    seen = []

    def nowhere(target, start):
        seen.append(target)
        raise np.linalg.LinAlgError

    bounded = ProfiledParameter("c", "own", nowhere, 3.0, 4.0, 2.0, 4.5, origin=np.array([3.0]), minimum=0.0)
    assert trace(bounded, 4.0) == [(3.0, 0.0)]
    assert seen == [2.5, 3.75]


def test_blocks_of_one_coefficient_have_their_place_in_a_map():
    blocks = [np.array([[2.0]]), np.array([[1.0, 3.0], [4.0, 5.0]]), np.array([[7.0]])]
    np.testing.assert_array_equal(_block_diagonal(blocks), linalg.block_diag(*blocks))


def test_a_covariance_is_extreme_where_two_columns_are_one():
    assert not _has_extreme_correlation(np.array([[1.0, 0.0], [0.5, 1.0]]))
    assert not _has_extreme_correlation(np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert not _has_extreme_correlation(np.zeros((2, 2)))
    assert _has_extreme_correlation(np.array([[1.0, 0.0], [-2.0, 0.0]]))


@pytest.mark.parametrize(("k", "r", "m", "n"), [(3, 0.3, 5, 40.0), (2, 1.2, 20, 90.0), (5, 0.05, 3, 400.0)])
def test_joint_df_of_pooled_fits_are_reiters(k, r, m, n):
    """Reiter (2007), equation of section 2, its sum over one denominator."""
    t = k * (m - 1.0)
    a = r * t / (t - 2.0)
    complete = n * (n + 1.0) / (n + 3.0)
    u, v = complete - 2.0 * (1.0 + a), complete - 4.0 * (1.0 + a)
    b = a / (1.0 + a)
    inner = (b * b * u * u * v * v + 8.0 * a * b * u * u * v + 4.0 * a * b * u * v * v + 4.0 * a * a * v * v) / u
    inner = (inner + 16.0 * a * a * u + 8.0 * a * a * v) / v**3
    law = PooledLaw(np.eye(k), np.eye(k) * r / (1.0 + 1.0 / m), m, n)
    f, q, df = law.f_test(np.eye(k), np.ones(k))
    assert (f, q) == (pytest.approx(1.0 / (1.0 + r)), k)
    assert df == pytest.approx(4.0 + 1.0 / (1.0 / v + inner / (t - 4.0)))


def test_polynomial_contrasts_are_those_of_the_tables():
    """Fisher and Yates, table XXIII."""
    tables = {
        3: [[-1, 0, 1], [1, -2, 1]],
        4: [[-3, -1, 1, 3], [1, -1, -1, 1], [-1, 3, -3, 1]],
        6: [[-5, -3, -1, 1, 3, 5], [5, -1, -4, -4, -1, 5], [-5, 7, 4, -4, -7, 5], [1, -3, 2, 2, -3, 1]],
        7: [[-3, -2, -1, 0, 1, 2, 3], [5, 0, -3, -4, -3, 0, 5], [-1, 1, 1, 0, -1, -1, 1], [3, -7, 1, 6, 1, -7, 3]],
    }
    for k, rows in tables.items():
        _, (names, found) = contrast_set("poly", [str(i) for i in range(k)])
        np.testing.assert_array_equal(found[: len(rows)], rows)
        assert names[: len(rows)] == ["linear", "quadratic", "cubic", "quartic"][: len(rows)]


@pytest.mark.parametrize(
    ("response", "back"),
    [
        ("log(y + 2)", lambda eta: np.exp(eta) - 2.0),
        ("log(2 + y)", lambda eta: np.exp(eta) - 2.0),
        ("log(y - 0.5)", lambda eta: np.exp(eta) + 0.5),
        ("log2(1 + y)", lambda eta: 2.0**eta - 1.0),
    ],
)
def test_responses_with_a_constant_go_back(response, back):
    eta = np.array([-0.3, 0.4, 2.0])
    scale = response_scale(response)
    np.testing.assert_allclose(scale.inverse(eta), back(eta))
    np.testing.assert_allclose(scale.slope(eta), (back(eta + 1e-6) - back(eta - 1e-6)) / 2e-6, rtol=1e-8)


def test_responses_that_have_no_way_back_are_refused():
    """0.1.0 took all of these back by the exponential."""
    for response in ("log(30 - y)", "log(2 * y)", "log1p(y + 1)", "log(y + 1 + 1)", "log10(y / 100)"):
        with pytest.raises(OptionError, match="cannot be taken back"):
            response_scale(response)
    np.testing.assert_allclose(response_scale("log(y / z)").inverse(np.array([2.0])), np.exp(2.0))


def test_residual_variance_on_the_link_by_the_delta_method():
    """The square root of a Poisson variable has variance 1 / 4, whatever its mean."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(10), 8), rng.normal(size=80)
    y = rng.poisson((2.0 + 0.3 * x + 0.4 * rng.normal(size=10)[g]) ** 2)
    data = pd.DataFrame({"y": y, "x": x, "g": g})
    result = ms.glmer("y ~ x + (1 | g)", data, family=ms.families.Poisson(link="sqrt")).fit()
    random = float(result.theta[0] ** 2)
    np.testing.assert_allclose(result.icc(), random / (random + 0.25), rtol=1e-6)
