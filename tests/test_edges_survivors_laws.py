"""Lines of laws, moments and objectives that changed without a test noticing, against dense matrices and quadrature."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from selection_oracle import dense_parts, simulated

import mvmise_sm as ms
from mvmise_sm.core.families.proportions import Beta
from mvmise_sm.core.uncertainty.robust import Block, cluster_robust
from mvmise_sm.design.grouping import _drop_unused
from mvmise_sm.inference.findings import _relative_errors
from mvmise_sm.inference.means.scales import link_scale
from mvmise_sm.inference.means.simultaneous import max_law
from mvmise_sm.priors.base import CovariancePrior
from mvmise_sm.selection.batch import FeatureBatch
from mvmise_sm.selection.build import ModelSpec
from mvmise_sm.selection.curve import BatchObjective
from mvmise_sm.selection.data import selection_data
from mvmise_sm.selection.integration import _log_cap
from mvmise_sm.selection.marginal import unit_variances
from mvmise_sm.selection.quantiles import seen_quantiles
from mvmise_sm.selection.sparse import error_spread


def robust_case(adjustment):
    """Clusters of three, one covariance, and the joint covariance of their parts of the estimate, written out."""
    rng = np.random.default_rng(4)
    exog = rng.normal(size=(7, 3, 2)) + np.array([1.0, 0.0])
    root = rng.normal(size=(3, 3))
    cov = np.broadcast_to(root @ root.T + np.eye(3), (7, 3, 3))
    weighted = np.linalg.solve(cov, exog)
    bread = np.linalg.inv(np.einsum("mnp,mnq->pq", exog, weighted))
    found = cluster_robust([Block(exog, cov, rng.normal(size=(7, 3)))], bread, adjustment, 21)
    return exog, np.array(cov), weighted, bread, found


def test_satterthwaite_df_of_a_robust_covariance_are_those_of_its_dense_law():
    exog, cov, weighted, bread, found = robust_case("CR0")
    rows = np.array([[0.0, 1.0], [1.0, -0.5]])
    left = np.einsum("sp,pq,mnq->smn", rows, bread, weighted)
    joint = np.empty((2, 2, 7, 7))
    for i in range(7):
        for j in range(7):
            between = (i == j) * cov[i] - exog[i] @ bread @ exog[j].T
            joint[:, :, i, j] = np.einsum("sn,nk,tk->st", left[:, i], between, left[:, j])
    own = [np.trace(joint[s, s]) ** 2 / np.trace(joint[s, s] @ joint[s, s]) for s in range(2)]
    np.testing.assert_allclose(found.df(rows), own, rtol=1e-10)

    # Pustejovsky and Tipton (2018), equations 7 to 10, with the contrasts turned so that the expectation is the unit
    values, vectors = np.linalg.eigh(np.trace(joint, axis1=2, axis2=3))
    turn = (vectors / np.sqrt(values)) @ vectors.T
    joint = np.einsum("as,bt,stij->abij", turn, turn, joint)
    spread = sum(
        np.sum(joint[s, t] * joint[t, s]) + np.sum(joint[s, s] * joint[t, t]) for s in range(2) for t in range(2)
    )
    eta = 2.0 * 3.0 / spread
    beta = np.array([0.4, -0.3])
    wald = beta @ np.linalg.solve(rows @ found.cov @ rows.T, beta)
    np.testing.assert_allclose(found.hotelling(rows, beta), [(eta - 1.0) / (2.0 * eta) * wald, eta - 1.0, eta])


@pytest.mark.parametrize("slope", [0.7, -2.5])
def test_quantile_residuals_of_seen_values_are_those_of_the_tilted_law(slope):
    y, mean, sd = np.array([0.3, -1.2, 2.0, np.nan]), np.array([0.0, -1.0, 1.5, 0.0]), np.array([1.0, 0.5, 2.0, 1.0])
    base = np.array([0.2, -0.4, 1.0, 0.0])
    found = seen_quantiles(y, mean, sd, ms.mechanisms.Logit(), base, slope)
    assert np.isnan(found[3])
    for i in range(3):

        def seen(t, i=i):
            return stats.norm.pdf(t, mean[i], sd[i]) / (1.0 + np.exp(base[i] + slope * t))

        low, high = mean[i] - 9.0 * sd[i], mean[i] + 9.0 * sd[i]
        below, total = (integrate.quad(seen, low, end, epsabs=1e-13, limit=200)[0] for end in (y[i], high))
        assert stats.norm.cdf(found[i]) == pytest.approx(below / total, abs=2e-5)


def test_spread_of_errors_in_clusters_of_one_sample_is_that_of_the_residuals():
    rng = np.random.default_rng(2)
    x, Y = rng.normal(size=30), rng.normal(size=(30, 2)) * np.array([1.0, 3.0])
    X = np.column_stack([np.ones(30), x])
    data = selection_data(Y, X, np.arange(30))
    stacked = np.vstack([X, X])
    resid = Y - X @ np.linalg.lstsq(stacked, Y.T.ravel(), rcond=None)[0][:, None]
    np.testing.assert_allclose(error_spread(data), np.sqrt(np.mean(resid**2, axis=0)))


@pytest.mark.parametrize("kind", ["b", "e"])
def test_variances_of_units_are_those_of_the_dense_covariance(kind):
    data = simulated(3, K=3)
    likelihood = ModelSpec(kind).objective(data).likelihood
    theta = likelihood.start() + 0.1
    params = likelihood.params(theta)
    blocks, values = unit_variances(likelihood, params)
    for cluster in range(data.n_clusters):
        _, V, *_ = dense_parts(data, params, cluster)
        n = data.sizes[cluster]
        rows = np.arange(data.starts[cluster], data.starts[cluster] + n)
        np.testing.assert_allclose(values[rows].T.ravel(), np.diag(V))
        for k in range(3):
            own = V[k * n : (k + 1) * n, k * n : (k + 1) * n]
            assert blocks[cluster, k] == pytest.approx(own.sum() / n**2)


def test_the_cap_of_a_log_linear_mechanism_at_a_variance_near_zero_is_that_of_the_mean():
    rng = np.random.default_rng(0)
    found = _log_cap(np.array([0.5, -0.3, 0.2]), 1e-12 * np.eye(3), 64, rng)
    assert found == pytest.approx(-0.7, abs=1e-5)


def test_every_feature_of_a_batch_is_at_its_own_maximum():
    rng = np.random.default_rng(1)
    Y = rng.normal(18.0, 1.0, (4, 1)).repeat(3, axis=0) + rng.normal(0.0, 0.7, (12, 6))
    Y[rng.random((12, 6)) < 0.15] = np.nan
    batch = FeatureBatch(Y, np.ones((12, 1)), np.repeat(np.arange(4), 3), ms.mechanisms.Probit())
    objective = BatchObjective(batch, adjusted=False)
    common = np.array([12.0, -0.7, 0.1])
    point = objective.solve(common)

    def values(move):
        log_s2 = objective.log_s2 + move
        return batch.evaluate(point.beta, *objective._at(common, log_s2)).value

    assert np.abs(values(1e-4) - values(-1e-4)).max() / 2e-4 < 1e-3
    assert (values(0.2) < values(0.0)).all()
    assert (values(-0.2) < values(0.0)).all()


def test_draws_of_a_beta_have_its_moments():
    rng = np.random.default_rng(0)
    y = Beta().simulate(rng, np.full(40_000, 0.7), None, 5.0)
    assert y.mean() == pytest.approx(0.7, abs=4 * np.sqrt(0.21 / 6.0 / 40_000))
    assert y.var() == pytest.approx(Beta().variance(np.array(0.7), 5.0), rel=0.04)
    assert Beta().variance(np.array(0.7), 5.0) == pytest.approx(0.21 / 6.0)


def test_an_empty_factor_has_no_levels():
    codes, levels = _drop_unused(np.zeros(0, dtype=int), pd.Index(["a", "b"]))
    assert codes.size == 0
    assert list(levels) == []
    codes, levels = _drop_unused(np.array([2, -1, 0]), pd.Index(["a", "b", "c"]))
    assert (codes.tolist(), list(levels)) == ([1, -1, 0], ["a", "c"])


def test_bias_adjusted_ratios_stay_ratios_for_the_logarithm_only():
    import statsmodels.api as sm

    log, logit = (link_scale(link()) for link in (sm.families.links.Log, sm.families.links.Logit))
    assert log.bias_adjusted(0.5, True).log_base == 1.0
    assert logit.bias_adjusted(0.5, True).log_base is None
    eta = np.array([-0.4, 1.0])
    mean = [integrate.quad(lambda z, e=e: stats.norm.pdf(z) / (1.0 + np.exp(-e - 0.5 * z)), -9, 9)[0] for e in eta]
    np.testing.assert_allclose(logit.bias_adjusted(0.5, True).inverse(eta), mean)
    np.testing.assert_allclose(log.bias_adjusted(0.5, True).inverse(eta), np.exp(eta + 0.125))


@pytest.mark.parametrize("rank", [1, 2])
def test_largest_statistic_of_few_dimensions_is_the_normal_integral(rank):
    """Contrasts of two or three means: their statistics span one or two dimensions."""
    if rank == 1:
        correlation = np.array([[1.0, -1.0], [-1.0, 1.0]])
        inside = 1.0 - 2.0 * stats.norm.sf(1.7)
    else:
        rows = np.array([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]) / np.sqrt(2.0)
        correlation = rows @ rows.T

        def both(a):
            # the three contrasts are a, (a + sqrt(3) b) / 2 and (sqrt(3) b - a) / 2 of two independent normals
            reach = (2.0 * 1.7 - abs(a)) / np.sqrt(3.0)
            return stats.norm.pdf(a) * (2.0 * stats.norm.cdf(reach) - 1.0)

        inside = 2.0 * integrate.quad(both, 0.0, 1.7)[0]
    tail = max_law(correlation, True).tail(np.array([1.7]), np.array([np.inf]))
    assert tail[0] == pytest.approx(1.0 - inside, abs=2e-4)


class Quartic(CovariancePrior):
    """A prior known by its value and gradient alone."""

    def value(self, s):
        return float(np.trace(s @ s) ** 2)

    def gradient(self, s):
        return 4.0 * np.trace(s @ s) * s


def test_a_prior_along_the_scale_has_the_derivatives_of_its_value():
    s = np.array([[0.4, 0.1], [0.1, 0.3]])
    function = Quartic().along(s)
    value, first, second = function(0.3)
    assert value == pytest.approx(np.trace(s @ s) ** 2 * np.exp(1.2))
    assert first == pytest.approx(4.0 * value)
    assert second == pytest.approx(16.0 * value, rel=1e-6)


@pytest.mark.parametrize("spread", [0.3, 4.0])
def test_relative_error_of_a_standard_deviation_is_that_of_classical_anova(spread):
    """Balanced one-way REML: mean squares are independent multiples of chi-squared."""
    rng = np.random.default_rng(5)
    a, n = 12, 5
    effects = spread * rng.normal(size=a)
    y = np.repeat(effects, n) + rng.normal(size=a * n)
    data = pd.DataFrame({"y": y, "g": np.repeat(np.arange(a), n)})
    result = ms.lmer("y ~ 1 + (1 | g)", data).fit()
    means = y.reshape(a, n).mean(axis=1)
    between, within = n * means.var(ddof=1), y.reshape(a, n).var(axis=1, ddof=1).mean()
    component = (between - within) / n
    variance = 2.0 * (between**2 / (a - 1) + within**2 / (a * (n - 1))) / n**2
    (share,) = _relative_errors(result).values()
    assert share == pytest.approx(np.sqrt(variance) / (2.0 * component), rel=1e-5)
