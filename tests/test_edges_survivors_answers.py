"""Answers to users that changed without a test noticing: tests, intervals, checks, defaults of families and priors."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import gammaln

import mvmise_sm as ms
from mvmise_sm.core.covariance.base import Parameter
from mvmise_sm.core.covariance.correlations import Antedependence, Compound
from mvmise_sm.core.covariance.reported import ReportedParameter, to_line
from mvmise_sm.core.criteria.residual_base import ResidualCriterion
from mvmise_sm.core.families.counts import TruncatedPoisson
from mvmise_sm.core.families.negative_binomial import CountTables
from mvmise_sm.core.families.ordinal import Cumulative
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.inference.comparison import kenward_roger_test
from mvmise_sm.inference.prediction import FamilyObservation
from mvmise_sm.priors.coefficient import DensityMixing, of_coefficients


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(12), 5)
    x, z = rng.normal(size=60), rng.normal(size=60)
    y = 1.0 + 0.5 * x + rng.normal(size=12)[g] + rng.normal(size=60)
    return pd.DataFrame({"y": y, "x": x, "z": z, "g": g, "f": np.tile(list("abc"), 20)})


def test_kenward_roger_of_two_fits_is_that_of_the_term_between_them(frame):
    large = ms.lmer("y ~ x + f + (1 | g)", frame).fit()
    small = ms.lmer("y ~ x + (1 | g)", frame).fit()
    found = kenward_roger_test(small, large).iloc[0]
    term = large.anova(ddf="kenward-roger").loc["f"]
    assert found["df_num"] == 2
    for ours, name in (("F", "F"), ("df_denom", "df_denom"), ("p_value", "p_value")):
        assert found[ours] == pytest.approx(term[name], rel=1e-8)


def test_update_without_rows_needs_data(frame):
    result = ms.lmer("y ~ x + (1 | g)", frame).fit()
    llf = result.llf
    result.remove_data()
    with pytest.raises((OptionError, DataError)):
        result.update(". ~ . + z")
    assert result.update(". ~ .", data=frame).llf == pytest.approx(llf, rel=1e-10)


def test_check_names_a_correlation_of_one(frame):
    rng = np.random.default_rng(1)
    effect = rng.normal(size=12)[frame["g"]]
    data = frame.assign(y=frame["y"] + 2.0 * effect + 3.0 * effect * frame["x"])
    with pytest.warns(ms.exceptions.SingularFitWarning):
        result = ms.lmer("y ~ x + (x | g)", data.assign(y=data["y"] - frame["y"] + 0.1 * frame["z"])).fit()
    assert "The correlation of Intercept and x in (x | g) is estimated as 1" in str(result.check())


def test_intervals_of_observations_are_quantiles_of_their_draws():
    draws = np.random.default_rng(2).poisson(4.0, (3, 5000)).astype(float)
    found = FamilyObservation(np.full(3, 4.0), draws, ["a", "b", "c"])
    for alpha in (0.05, 0.3):
        ends = np.sort(draws, axis=1)[:, [round(5000 * p) - 1 for p in (0.5 * alpha, 1.0 - 0.5 * alpha)]]
        np.testing.assert_array_equal(found.conf_int(alpha), ends)
    np.testing.assert_array_equal(found.summary_frame()["obs_ci_upper"], found.conf_int()[:, 1])


def test_truncated_counts_are_checked():
    family = TruncatedPoisson()
    assert family.check(np.array([1.0, 4.0])) is None
    assert "has no zeros, found 1" in family.check(np.array([0.0, 4.0]))
    assert "has no zeros" not in family.check(np.array([1.0, 1.5]))


def test_sums_of_log_gammas_of_numbers_that_are_not_whole():
    y, alpha = np.array([0.5, 1.25, 3.75]), 0.4
    mass = gammaln(y + 1.0 / alpha) - gammaln(1.0 / alpha) - gammaln(y + 1.0) + y * np.log(alpha)
    np.testing.assert_allclose(CountTables(y).density(alpha), mass, rtol=1e-12, atol=1e-15)
    whole = np.array([0.0, 1.0, 4.0])
    mass = gammaln(whole + 1.0 / alpha) - gammaln(1.0 / alpha) - gammaln(whole + 1.0) + whole * np.log(alpha)
    np.testing.assert_allclose(CountTables(whole).density(alpha), mass, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("link", "law"),
    [("logit", stats.logistic), ("probit", stats.norm), ("cloglog", stats.gumbel_l), ("loglog", stats.gumbel_r)],
)
def test_log_probabilities_of_ordered_categories_and_their_slopes(link, law):
    family = Cumulative(link, 3)
    y, eta = np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.3, -0.4, 2.5, 0.1])
    upper, lower = np.full(4, 1.2), np.full(4, -0.6)

    def own(eta, upper, lower):
        above = np.where(y == 2.0, 1.0, law.cdf(upper - eta))
        return np.log(above - np.where(y == 0.0, 0.0, law.cdf(lower - eta)))

    found = family.expand(y, None, (eta, upper, lower), True)
    np.testing.assert_allclose(found[()], own(eta, upper, lower), rtol=1e-10)
    h, point = 1e-4, (eta, upper, lower)
    for i in range(3):
        up, down = ([v + s * h * (k == i) for k, v in enumerate(point)] for s in (1.0, -1.0))
        np.testing.assert_allclose(found[(i,)], (own(*up) - own(*down)) / (2 * h), rtol=1e-6, atol=1e-7)
        slope = [family.expand(y, None, tuple(p), True) for p in (up, down)]
        for j in range(i + 1):
            numeric = (slope[0][(j,)] - slope[1][(j,)]) / (2 * h)
            np.testing.assert_allclose(found[(j, i)], numeric, rtol=1e-6, atol=1e-7)


def test_antedependence_multiplies_the_correlations_of_neighbours():
    structure = Antedependence(4)
    x = np.array([0.3, -0.7, 1.1])
    assert structure.size == 3
    root = structure.root(x)
    near = np.sin(x)
    expected = np.eye(4)
    for i in range(4):
        for j in range(i):
            expected[i, j] = expected[j, i] = near[j:i].prod()
    np.testing.assert_allclose(root @ root.T, expected, atol=1e-12)
    np.testing.assert_allclose(structure.nearest(expected), x)


@pytest.mark.parametrize("m", [2, 3, 6])
def test_the_least_compound_correlation_is_where_the_matrix_is_singular(m):
    least = Compound(m).least
    matrix = np.full((m, m), least) + (1.0 - least) * np.eye(m)
    assert np.linalg.eigvalsh(matrix)[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("value", [0.999, -0.9999])
def test_correlations_near_one_keep_their_place_on_the_line(value):
    place, slope = to_line("cor", value)
    assert place == pytest.approx(np.arctanh(value))
    assert slope == pytest.approx(1.0 / (1.0 - value**2))


def test_defaults_of_priors_of_correlations_are_those_documented():
    assert ms.priors.LKJ().eta == 2.0


class Logistic(ms.priors.Prior):
    """A logistic density, known by its value alone."""

    mean = 0.0

    def value(self, b):
        return 2.0 * abs(b) + 4.0 * np.log1p(np.exp(-abs(b))) if abs(b) < 1e300 else np.inf


def test_a_density_of_coefficients_has_its_own_slope(frame):
    """The mode under a density known by its value alone, against a search of the dense objective."""
    prior = of_coefficients(Logistic())
    assert prior is not None
    model = ms.blmer("y ~ x + (1 | g)", frame, cov_prior=None, fixef_prior=Logistic())
    result = model.fit(reml=False)
    best = result.mle_retvals["fopt"]
    z = np.equal.outer(frame["g"].to_numpy(), np.arange(12)).astype(float)
    X, y = np.column_stack([np.ones(60), frame["x"]]), frame["y"].to_numpy()

    def objective(beta, theta, s2):
        v = s2 * (np.eye(60) + theta**2 * z @ z.T)
        r = y - X @ beta
        return np.linalg.slogdet(v)[1] + r @ np.linalg.solve(v, r) + 60 * np.log(2 * np.pi)

    penalty = sum(Logistic().value(b) for b in result.params)
    at = objective(np.asarray(result.params), result.theta[0], result.scale)
    assert -2.0 * result.llf == pytest.approx(at, rel=1e-9)
    for step in (np.array([0.02, 0.0]), np.array([0.0, 0.02])):
        for side in (step, -step):
            beta = np.asarray(result.params) + side
            moved = objective(beta, result.theta[0], result.scale) + sum(Logistic().value(b) for b in beta)
            assert moved > at + penalty
    assert np.isfinite(best)


@pytest.mark.parametrize(("lowest", "refused"), [(-1e-6, True), (-1e-10, False)])
def test_relationships_with_a_negative_eigenvalue_are_refused(frame, lowest, refused):
    rng = np.random.default_rng(3)
    vectors = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    values = np.r_[lowest, np.linspace(0.5, 1.5, 11)]
    matrix = (vectors * values) @ vectors.T
    labels = np.arange(12)
    related = pd.DataFrame(0.5 * (matrix + matrix.T), index=labels, columns=labels)
    if refused:
        with pytest.raises(DataError, match="negative eigenvalue"):
            ms.lmer("y ~ x + (1 | g)", frame, cov={"g": related})
    else:
        assert ms.lmer("y ~ x + (1 | g)", frame, cov={"g": related}).nobs == 60


class Curved:
    """A correlation that is a known function of its two parameters."""

    def parameters(self, theta, names, a=None):
        value = np.tanh(np.sin(theta[0]) * theta[1])
        slope = (1.0 - value**2) * np.array([np.cos(theta[0]) * theta[1], np.sin(theta[0])])
        return [Parameter("cor", "cor", (), value, slope)]


def test_curvature_of_a_reported_correlation_on_the_line_is_exact():
    """Its inverse hyperbolic tangent is sin(x) y."""
    reported = ReportedParameter(Curved(), 0, (), None, slice(0, 2), None)
    x = np.array([0.7, 1.3])
    value, gradient, hessian = reported(x)
    assert value == pytest.approx(np.sin(0.7) * 1.3)
    np.testing.assert_allclose(gradient, [np.cos(0.7) * 1.3, np.sin(0.7)])
    mixed = np.cos(0.7)
    np.testing.assert_allclose(hessian, [[-np.sin(0.7) * 1.3, mixed], [mixed, 0.0]], atol=1e-8)


def test_residual_structures_beside_random_effects_are_searched_from_all_their_starts():
    structure = SimpleNamespace(multimodal=False, other_starts=lambda: [np.array([0.4]), np.array([-0.2])])
    space = SimpleNamespace(other_starts=lambda g: [])
    for count in (0, 1):
        criterion = SimpleNamespace(k_g=count, space=space, residual=SimpleNamespace(structure=structure))
        starts = ResidualCriterion.other_starts(criterion, np.r_[np.full(count, 0.9), 0.1])
        assert [list(s) for s in starts] == ([[0.9, 0.4], [0.9, -0.2]] if count else [])


@pytest.mark.parametrize("s", [0.02, 0.4, 3.0])
def test_differences_of_a_density_are_its_derivatives_in_the_squared_distance(s):
    """Those of 2 s + 4 log(1 + exp(-s)) in x = s^2: tanh(s / 2) / s, and what follows."""
    value, first, second = DensityMixing(Logistic(), Logistic().value(0.0), 1.0).phi(s**2)
    assert value == pytest.approx(Logistic().value(s) - 4.0 * np.log(2.0))
    assert first == pytest.approx(np.tanh(0.5 * s) / s, rel=1e-6)
    bend = (0.5 / np.cosh(0.5 * s) ** 2 / s - np.tanh(0.5 * s) / s**2) / (2.0 * s)
    assert second == pytest.approx(bend, rel=1e-4)
