"""Fits of the selection models on arrays: maxima, EM, priors, lasso, mechanism, predictions, permutations."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import dblquad
from selection_oracle import data_of, dense_parts, simulated

from mvmise_sm.priors import Gamma, InverseGamma, Normal, StudentT, TermShape, Wishart, resolve_priors
from mvmise_sm.selection.build import ModelSpec
from mvmise_sm.selection.covariance import SparsePrecision
from mvmise_sm.selection.data import selection_data
from mvmise_sm.selection.glasso import lasso_precision
from mvmise_sm.selection.information import covariance
from mvmise_sm.selection.integration import quasi_monte_carlo_llf
from mvmise_sm.selection.maximise import maximise
from mvmise_sm.selection.mvmise.error import fit_mvmise_e
from mvmise_sm.selection.mvmise.factor import fit_mvmise_b
from mvmise_sm.selection.objective import MechanismPrior
from mvmise_sm.selection.permutation import permutation_pvalues, permuted_design, permuted_fit, row_permutation
from mvmise_sm.selection.prediction import posterior_moments
from mvmise_sm.selection.priors import PriorPenalty
from mvmise_sm.selection.profile import MechanismProfile
from mvmise_sm.selection.solve import PseudoSamples, solve
from mvmise_sm.selection.sparse import _precision_slope, error_spread, fit_sparse, penalty_path
from mvmise_sm.selection.status import Status

KINDS = ["b", "e"]


def fitted(kind, data, **options):
    """Objective, maximum and natural parameters of a fit."""
    spec = ModelSpec(kind, **options)
    solution = solve(spec.objective(data))
    assert solution.maximum.converged, solution.maximum.message
    return solution.objective, solution.maximum, solution.objective.likelihood.params(solution.maximum.theta)


@pytest.mark.parametrize(("kind", "phi1", "above"), [("b", -0.134, 1.1), ("e", -0.166, 1.2)])
def test_demonstration_data(kind, phi1, above):
    data = data_of("sim_dat")
    objective, maximum, params = fitted(kind, data)
    assert params.phi[1] == pytest.approx(phi1, abs=5e-4)
    # R's point, the scale of Sigma (x) sigma2 moved into Sigma
    r = fit_mvmise_b(data).params if kind == "b" else fit_mvmise_e(data, penalty=0.0).params
    if kind == "e":
        r = replace(r, error_cov=r.error_cov * r.sigma2[0], sigma2=np.ones(1))
    there = objective.likelihood.value_and_score(objective.likelihood.theta(r))[0]
    assert maximum.value - there == pytest.approx(above, abs=0.06)


@pytest.mark.parametrize("name", ["sim_dat", "refdiff", "sporadic", "unbal_str", "allmiss", "zidx2"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_maximum_has_no_slope_and_no_higher_point_near(kind, name):
    data = data_of(name, random_columns=(0, 1) if name == "zidx2" else (0,))
    objective, maximum, _ = fitted(kind, data, first_sample_variance=name == "refdiff")
    se = np.sqrt(np.diag(np.linalg.inv(maximum.information)))
    assert np.abs(maximum.score * se).max() < 1e-4
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert objective(maximum.theta + 0.3 * se * rng.normal(size=se.size))[0] < maximum.value


@pytest.mark.parametrize("mechanism", ["capped", "log"])
@pytest.mark.parametrize("kind", KINDS)
def test_em_never_decreases_and_ends_at_the_same_point(kind, mechanism):
    data = data_of("k5_mnar30")
    spec = ModelSpec(kind, mechanism)
    direct = solve(spec.objective(data)).maximum
    em = solve(spec.objective(data), method="em").maximum
    assert direct.converged
    assert em.converged
    assert np.diff(em.history).min() > -1e-9
    assert em.value == pytest.approx(direct.value, abs=1e-7)
    se = np.sqrt(np.diag(np.linalg.inv(direct.information)))
    assert np.abs((em.theta - direct.theta) / se).max() < 1e-3
    assert em.information == pytest.approx(direct.information, rel=1e-2, abs=1e-2 * np.abs(direct.information).max())


@pytest.mark.parametrize("kind", KINDS)
def test_one_em_iteration_with_a_variance_of_the_first_sample_and_sporadic_values_is_monotone(kind):
    objective = ModelSpec(kind, first_sample_variance=True).objective(data_of("sporadic"))
    em = solve(objective, method="em", maxiter=6).maximum
    assert (np.diff(em.history) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_em_with_priors_ends_at_the_same_mode(kind):
    data = data_of("k5_mnar30")
    priors = resolve_priors(
        Gamma(shape=2.5, rate=0.5),
        Normal(sd=2.0),
        InverseGamma(shape=3.0, scale=2.0),
        terms=[TermShape("id", 1, data.n_clusters)],
        nobs=100,
        fixef_names=["x1", "x2"],
    )
    spec = ModelSpec(kind, penalties=(PriorPenalty(priors), MechanismPrior.for_data(data)))
    direct = solve(spec.objective(data)).maximum
    em = solve(spec.objective(data), method="em").maximum
    assert direct.converged
    assert em.converged
    assert np.diff(em.history).min() > -1e-9
    assert em.value == pytest.approx(direct.value, abs=1e-7)


PRIORS = {
    "wishart": (Wishart(), None, None),
    "gamma": (Gamma(shape=2.0, rate=0.3, common_scale=False), None, None),
    "t": (None, StudentT(df=3, scale=1.5), None),
    "normal": (None, Normal(sd=(10, 2.5), common_scale=False), None),
    "residual": (None, None, InverseGamma(shape=3.0, scale=2.0)),
    "all": (InverseGamma(shape=1.5, scale=1.0), Normal(sd=1.0), Gamma(shape=2.0, rate=1.0)),
}


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_priors_equal_differences(kind, name):
    data = simulated(2, K=3)
    cov, fixef, resid = PRIORS[name]
    shape = TermShape("g", 2 if kind == "e" else 1, data.n_clusters, independent=kind == "e")
    priors = resolve_priors(cov, fixef, resid, terms=[shape], nobs=50, fixef_names=["a", "b"])
    objective = ModelSpec(kind, penalties=(PriorPenalty(priors), MechanismPrior.for_data(data))).objective(data)
    theta = objective.likelihood.start() + 0.1
    theta[-2:] = [-1.5, -0.1]
    numeric = [
        (objective.penalty(theta + h)[0] - objective.penalty(theta - h)[0]) / 2e-6 for h in 1e-6 * np.eye(theta.size)
    ]
    assert objective.penalty(theta)[1] == pytest.approx(np.array(numeric), rel=1e-5, abs=1e-6)


def test_pseudo_samples_have_the_gradient_they_say():
    params = ModelSpec("e").likelihood(simulated()).params(ModelSpec("e").likelihood(simulated()).start())
    factor = np.array([[1.0, 0, 0], [0.3, 0.8, 0], [-0.2, 0.1, 1.2]])
    prior, Sigma = PseudoSamples(np.array([1.0, 2.0, 0.5]), 1.5), factor @ factor.T
    slope = prior(replace(params, error_cov=Sigma))[1].error_cov
    for i, j in [(0, 0), (1, 0), (2, 1)]:
        step = np.zeros((3, 3))
        step[i, j] = step[j, i] = 1e-6
        values = [prior(replace(params, error_cov=Sigma + s * step))[0] for s in (1, -1)]
        assert (slope * step).sum() == pytest.approx((values[0] - values[1]) / 2, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_units_of_the_outcomes_do_not_matter(kind):
    data = data_of("outx_cov")
    _, maximum, params = fitted(kind, data)
    other = replace(data, Y=250.0 * data.Y)
    _, scaled_maximum, scaled = fitted(kind, other)
    assert scaled.beta == pytest.approx(250 * params.beta, rel=1e-6)
    assert scaled.phi * [1, 250, 1] == pytest.approx(params.phi, rel=1e-5)
    if kind == "b":
        assert np.abs(scaled.tau) == pytest.approx(250 * np.abs(params.tau), rel=1e-6)
    else:
        assert scaled.error_cov == pytest.approx(250**2 * params.error_cov, rel=1e-5)
    shift = np.log(250.0) * data.observed.sum()
    assert scaled_maximum.value + shift == pytest.approx(maximum.value, abs=1e-7)


def test_observed_information_gives_the_standard_errors_of_natural_parameters():
    data = data_of("k5_mnar30")
    objective, maximum, _params = fitted("e", data)
    cov = covariance(objective.likelihood, maximum.theta, maximum.information)
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(maximum.theta, cov.theta * 1e-6, size=4000)
    natural = [objective.likelihood.params(theta) for theta in draws]
    spread = np.std([p.error_cov for p in natural], axis=0) * 1e3
    assert cov.se.error_cov == pytest.approx(spread, rel=0.06)
    assert pytest.approx(np.std([p.D for p in natural], axis=0) * 1e3, rel=0.06) == cov.se.D
    assert np.sqrt(np.diag(cov.beta)) == pytest.approx(cov.se.beta)


def test_correction_is_the_curvature_of_the_known_covariance():
    """On average over data it is ``-1/2 sum W_ij d2Phi`` in coordinates in which the covariance is linear."""
    rng, cluster = np.random.default_rng(1), np.repeat(np.arange(25), [1, 2, 3, 2, 2] * 5)
    rows, columns = np.tril_indices(3)
    added, curvature = [], []
    for _ in range(40):
        x = rng.normal(size=cluster.size)
        Y = x[:, None] + rng.normal(size=25)[cluster][:, None] + rng.normal(size=(cluster.size, 3))
        objective = ModelSpec("e", missing_y=False).objective(
            selection_data(Y, np.column_stack([np.ones(x.size), x]), cluster)
        )
        likelihood, maximum = objective.likelihood, solve(objective).maximum
        cov = covariance(likelihood, maximum.theta, maximum.information)
        params, cut = likelihood.params(maximum.theta), likelihood.slices["beta"]

        def natural(theta, likelihood=likelihood):
            p = likelihood.params(theta)
            return np.concatenate([p.D, p.error_cov[rows, columns]])

        def known(vector, likelihood=likelihood, params=params, cut=cut):
            Sigma = np.zeros((3, 3))
            Sigma[rows, columns] = Sigma[columns, rows] = vector[1:]
            theta = likelihood.theta(replace(params, D=vector[:1], error_cov=Sigma))
            return np.linalg.inv(likelihood.metric(theta)[cut, cut])

        steps = 1e-5 * np.eye(likelihood.size)
        J = np.array([natural(maximum.theta + e) - natural(maximum.theta - e) for e in steps]).T / 2e-5
        values, vectors = np.linalg.eigh(J @ cov.theta @ J.T)
        base, total = natural(maximum.theta), np.zeros((2, 2))
        for move in (vectors * np.sqrt(np.maximum(values, 0.0))).T * 0.02:
            total -= 0.5 * (known(base + move) - 2.0 * known(base) + known(base - move)) / 0.02**2
        added.append((cov.beta_small_sample - cov.beta)[1, 1] / cov.beta[1, 1])
        curvature.append(total[1, 1] / cov.beta[1, 1])
    assert np.mean(added) > 0.02
    assert np.mean(added) == pytest.approx(np.mean(curvature), rel=0.25)


# --- degenerate likelihoods


def test_uncapped_mechanism_says_that_it_diverges():
    solution = solve(ModelSpec("b", "log").objective(data_of("uni_mnar")))
    assert not solution.maximum.converged
    assert "diverges" in solution.maximum.message


def censored(seed):
    """One outcome, the low blocks missing nearly always and the high ones nearly never."""
    rng = np.random.default_rng(seed)
    cluster, x = np.repeat(np.arange(25), 3), rng.normal(size=75)
    y = 10 + x + rng.normal(size=25)[cluster] + rng.normal(size=75)
    mean = np.array([y[cluster == i].mean() for i in range(25)])
    y[(rng.random(25) < np.exp(-0.9 * np.maximum(mean - 9.2, 0)))[cluster]] = np.nan
    return selection_data(y, np.column_stack([np.ones(75), x]), cluster)


def test_a_threshold_mechanism_gets_the_weak_prior():
    plain = ModelSpec("b").objective(censored(2))
    likelihood = plain.likelihood
    run = maximise(plain, likelihood.start(), likelihood.metric(likelihood.start()), diverged=likelihood.diverged)
    assert run.status is Status.THRESHOLD
    assert not run.converged
    solution = solve(plain)
    assert solution.reasons == (Status.THRESHOLD,)
    assert solution.maximum.converged
    assert -5 < solution.maximum.theta[-1] < 0


def test_one_outcome_is_started_from_both_signs_of_the_slope():
    data = data_of("uni_mnar")
    objective = ModelSpec("b").objective(data)
    best = solve(objective).maximum
    values = []
    for index, slope in objective.likelihood.part.slopes():
        start = objective.likelihood.start()
        start[-2:] = objective.likelihood.part.feasible(start[-2:], slope, index)
        values.append(solve(objective, start=start, information=False).maximum.value)
    assert best.value >= max(values) - 1e-6


def test_a_saturated_mechanism_of_model_e_gets_the_weak_prior():
    # the marginal product would run to a likelihood of any size here
    rng = np.random.default_rng(23)
    n = int(rng.integers(10, 40))
    cluster = np.repeat(np.arange(n), rng.integers(1, 5, n))
    Y = 5 + 0.5 * rng.normal(size=n)[cluster][:, None] + rng.normal(size=(cluster.size, 3))
    Y[(rng.random((n, 3)) < 0.25)[cluster]] = np.nan
    data = selection_data(Y, np.column_stack([np.ones(cluster.size), rng.normal(size=cluster.size)]), cluster)
    solution = solve(ModelSpec("e").objective(data))
    assert solution.reasons == (Status.SATURATED,)
    assert solution.maximum.converged
    exact = quasi_monte_carlo_llf(solution.objective.likelihood, solution.maximum.theta, n_points=1024, rng=0)
    assert solution.objective.likelihood.value_and_score(solution.maximum.theta)[0] == pytest.approx(exact, abs=0.1)


def test_a_singular_error_covariance_gets_one_pseudo_sample():
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(12), 2)
    Y = rng.normal(size=(24, 4))
    for i in range(12):
        # no more than one cluster with all outcomes
        if i:
            Y[np.ix_(cluster == i, [i % 4, (i + 1) % 4])] = np.nan
    solution = solve(ModelSpec("e", missing_y=False).objective(selection_data(Y, np.ones(24), cluster)))
    assert solution.reasons == (Status.SINGULAR_ERRORS,)
    assert solution.maximum.converged


# --- lasso


def test_lasso_precision_satisfies_its_optimality_conditions():
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(60, 6)) * np.array([1, 5, 0.2, 1, 1, 3])
    S = np.cov(sample.T)
    bound = 0.1 * np.outer(np.sqrt(np.diag(S)), np.sqrt(np.diag(S)))
    theta = lasso_precision(S, bound, tol=1e-10)
    slack = (S - np.linalg.inv(theta)) / bound
    off = ~np.eye(6, dtype=bool)
    assert np.diag(S - np.linalg.inv(theta)) == pytest.approx(0.0, abs=1e-6)
    free = off & (theta != 0)
    assert 0 < free.sum() < 30
    assert slack[free] == pytest.approx(-np.sign(theta[free]), abs=1e-5)
    assert np.abs(slack[off & (theta == 0)]).max() <= 1 + 1e-6


@pytest.mark.parametrize("penalty", [0.05, 0.15])
def test_penalised_fit_satisfies_its_optimality_conditions(penalty):
    data = data_of("outx_cov")
    spec = ModelSpec("e")
    fit = fit_sparse(lambda c: spec.likelihood(data, c), data.n_outcomes, penalty)
    assert fit.maximum.converged
    likelihood, theta = fit.likelihood, fit.maximum.theta
    precision = likelihood.coordinates.precision(theta[likelihood.slices["error_cov"]])
    slope = _precision_slope(likelihood, theta)
    spread = error_spread(data)
    bound = penalty * data.n_rows * np.outer(spread, spread)
    off = ~np.eye(data.n_outcomes, dtype=bool)
    free = off & (precision != 0)
    assert free.any()
    assert slope[free] == pytest.approx((np.sign(precision) * bound)[free], rel=1e-4)
    assert (np.abs(slope)[off & ~free] <= bound[off & ~free] * 1.001).all()
    assert likelihood.size == fit.n_params


def test_no_penalty_is_the_unpenalised_fit_and_a_large_one_is_diagonal():
    data = data_of("outx_cov")
    spec = ModelSpec("e")
    _, maximum, params = fitted("e", data)
    fit = fit_sparse(lambda c: spec.likelihood(data, c), data.n_outcomes, 0.0)
    assert fit.llf == pytest.approx(maximum.value, abs=1e-6)
    assert fit.params.error_cov == pytest.approx(params.error_cov, rel=1e-3, abs=1e-4)
    diagonal = fit_sparse(lambda c: spec.likelihood(data, c), data.n_outcomes, 5.0)
    assert diagonal.n_edges == 0
    assert np.array_equal(diagonal.params.error_cov, np.diag(np.diag(diagonal.params.error_cov)))


def test_penalty_path_starts_without_edges_and_gains_them():
    data = data_of("k20_mnar")
    spec = ModelSpec("e")
    fits = penalty_path(lambda c: spec.likelihood(data, c), 20, n_penalties=6, information=False)
    assert fits[0].n_edges == 0 < fits[1].n_edges <= fits[-1].n_edges
    assert (np.diff([fit.llf for fit in fits]) > 0).all()
    fit = fits[2]
    assert fit.criterion("aic") == pytest.approx(-2 * fit.llf + 2 * fit.n_params)
    assert fit.criterion("ebic") - fit.criterion("bic") == pytest.approx(2 * fit.n_edges * np.log(20))
    with pytest.raises(ValueError, match="'aic', 'bic' and 'ebic'"):
        fit.criterion("cv")


def test_a_penalty_means_the_same_in_other_units():
    data = data_of("outx_cov")
    spec = ModelSpec("e", missing_y=False)
    scale = np.array([1.0, 100.0, 0.01, 7.0])
    # a design with own coefficients absorbs the change of units
    X = np.kron(np.eye(4), np.column_stack([np.ones(data.n_rows), data.X[:, 0, 1]]))
    base = selection_data(data.Y, X, data.cluster, Z=np.zeros((data.n_rows, 1)))
    fits = [fit_sparse(lambda c, d=d: spec.likelihood(d, c), 4, 0.08) for d in (base, replace(base, Y=base.Y * scale))]
    assert fits[0].n_edges == fits[1].n_edges
    corr = [f.params.error_cov / np.sqrt(np.outer(*2 * [np.diag(f.params.error_cov)])) for f in fits]
    assert corr[0] == pytest.approx(corr[1], abs=1e-4)


# --- the mechanism


@pytest.mark.parametrize("kind", KINDS)
def test_profile_of_the_mechanism(kind):
    data = data_of("unbal_str")
    objective, maximum, params = fitted(kind, data)
    profile = MechanismProfile(objective, maximum)
    test = profile.test(0.0)
    without = solve(ModelSpec(kind, missing_y=False).objective(data)).maximum
    assert test.statistic == pytest.approx(2 * (maximum.value - without.value), abs=1e-6)
    se = covariance(objective.likelihood, maximum.theta, maximum.information).se.phi[1]
    low, high = profile.interval(0.05, se=se)
    assert low < params.phi[1] < high < 0
    for end in (low, high):
        assert 2 * (maximum.value - profile.restricted(end).value) == pytest.approx(3.8415, abs=1e-3)
    path = profile.path(np.array([params.phi[1], -0.2, 0.0]))
    assert path[0].value == pytest.approx(maximum.value, abs=1e-8)
    assert path[0].value > path[1].value > path[2].value


def test_without_dependence_on_the_outcome_there_is_no_profile():
    objective, maximum, _ = fitted("b", data_of("unbal_str"), missing_y=False)
    with pytest.raises(ValueError, match="no phi1"):
        MechanismProfile(objective, maximum)


# --- predictions


def test_posterior_moments_of_one_missing_value_by_integration():
    # one cluster with one sample and a missing outcome: the posterior is a two-dimensional density in (b, y)
    data = selection_data(np.array([[0.4, np.nan], [1.0, 0.3], [0.2, 0.9]]), np.ones(3), [0, 1, 1], Z=np.ones((3, 1)))
    for kind in KINDS:
        likelihood = ModelSpec(kind).likelihood(data)
        theta = likelihood.start()
        theta[likelihood.slices["phi"]] = [-0.6, -0.9]
        params = likelihood.params(theta)
        mean, V, _seen, _, Y = dense_parts(data, params, 0)
        gain = V[1, 0] / V[0, 0]
        m, v = mean[1] + gain * (Y[0, 0] - mean[0]), V[1, 1] - gain * V[0, 1]

        def moment(power, m=m, v=v, phi=params.phi):
            def density(_, y):
                return y**power * min(1.0, np.exp(phi[0] + phi[1] * y)) * np.exp(-0.5 * (y - m) ** 2 / v)

            return dblquad(density, m - 12 * np.sqrt(v), m + 12 * np.sqrt(v), 0, 1, epsabs=1e-12)[0]

        total, first, second = (moment(power) for power in range(3))
        moments = posterior_moments(likelihood, theta)
        assert moments.mean[0, 1] == pytest.approx(first / total, rel=1e-7)
        assert moments.sd[0, 1] == pytest.approx(np.sqrt(second / total - (first / total) ** 2), rel=1e-6)
        assert moments.mean[0, 0] == 0.4
        assert moments.sd[0, 0] == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_uncapped_posterior_moments_equal_the_tilted_normal(kind):
    data = simulated(5, K=4, sporadic=True, all_missing=True)
    likelihood = ModelSpec(kind, "log").likelihood(data)
    theta = likelihood.start()
    theta[likelihood.slices["phi"]] = [-1.5, -0.3]
    params = likelihood.params(theta)
    moments = posterior_moments(likelihood, theta)
    for cluster in range(data.n_clusters):
        mean, V, seen, missing, Y = dense_parts(data, params, cluster)
        n = len(Y)
        y = np.where(seen, Y.T.ravel(), 0.0)
        gain = V[:, seen] @ np.linalg.inv(V[np.ix_(seen, seen)])
        centre = mean + gain @ (y[seen] - mean[seen])
        C = V - gain @ V[seen]
        tilt = params.phi[1] / n * np.repeat(missing, n)
        rows = slice(data.starts[cluster], data.starts[cluster] + n)
        assert moments.mean[rows].T.ravel() == pytest.approx(np.where(seen, y, centre + C @ tilt), rel=1e-9)
        variance = np.where(seen, 0.0, np.diag(C))
        assert moments.sd[rows].T.ravel() ** 2 == pytest.approx(variance, rel=1e-8, abs=1e-12)


# --- permutations


def test_permutations_keep_everything_but_the_tested_columns():
    data = simulated(1, n_clusters=10)
    rng = np.random.default_rng(0)
    rows = row_permutation(data, rng, None)
    moved = permuted_design(data, np.array([1]), rows)
    assert np.array_equal(moved.X[:, :, 1], data.X[rows][:, :, 1])
    assert np.array_equal(moved.X[:, :, 0], data.X[:, :, 0])
    within = row_permutation(data, rng, data.cluster)
    assert np.array_equal(data.cluster[within], data.cluster)
    assert not np.array_equal(within, np.arange(data.n_rows))


def test_permutation_pvalues():
    observed, permuted = np.array([2.0]), np.array([[1.0], [-3.0], [0.5], [np.nan]])
    assert permutation_pvalues(observed, permuted) == pytest.approx([3 / 5])
    assert permutation_pvalues(observed, permuted, mvmise_compat=True) == pytest.approx([2 / 4])


@pytest.mark.parametrize("kind", KINDS)
def test_a_permuted_refit_is_a_fit_of_the_permuted_data(kind):
    data = data_of("k5_mnar30")
    _objective, maximum, _ = fitted(kind, data)
    job = permuted_fit(ModelSpec(kind).objective, data, maximum, np.array([1]))
    rows = row_permutation(data, np.random.default_rng(1), None)
    cold = fitted(kind, permuted_design(data, np.array([1]), rows))
    likelihood, theta = cold[0].likelihood, cold[1].theta
    # with all other parameters known, the information of the fixed effects is a block
    block = cold[1].information[:2, :2]
    expected = theta[1] / np.sqrt(np.linalg.inv(block)[1, 1])
    assert likelihood.params(theta).beta[1] == theta[1]
    assert job(rows) == pytest.approx([expected], rel=1e-4)


def test_sparse_coordinates_drop_elements_outside_the_pattern():
    coordinates = SparsePrecision(np.zeros((3, 3), bool))
    assert coordinates.size == 3
    assert coordinates.covariance(np.array([1.0, 2.0, 4.0])) == pytest.approx(np.diag([1.0, 0.5, 0.25]))
    assert coordinates.covariance(np.array([1.0, -2.0, 4.0])) is None
