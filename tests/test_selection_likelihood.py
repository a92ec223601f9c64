"""Exact likelihoods of the selection models against dense and brute-force ones, scores against differences."""

from functools import partial

import numpy as np
import pytest
from selection_oracle import (
    data_of,
    dense_llf,
    differences,
    log_missing,
    simulated,
    two_missing_by_dblquad,
)

from mvmise_sm.selection.build import ModelSpec
from mvmise_sm.selection.covariance import LogCholesky, SparsePrecision
from mvmise_sm.selection.data import selection_data
from mvmise_sm.selection.error import ErrorLikelihood
from mvmise_sm.selection.factor import FactorLikelihood
from mvmise_sm.selection.integration import quasi_monte_carlo_llf
from mvmise_sm.selection.mechanism import Capped, LogLinear

CAPPED = ModelSpec("b").slots


def likelihood_of(kind, data, *options):
    """The likelihood of a model with a mechanism, dependence on the outcome, and a variance of the first sample."""
    return ModelSpec(kind, *options).likelihood(data)


MODELS = {kind: partial(likelihood_of, kind) for kind in ("b", "e")}
# data with every complication that the formulas treat apart
CASES = {
    "plain": {},
    "sporadic": {"sporadic": True},
    "all missing": {"all_missing": True},
    "covariate": {"cov": True},
    "one outcome": {"K": 1, "n_clusters": 14},
    "five outcomes": {"K": 5, "n_clusters": 12},
}


def off_centre(likelihood, phi1=-0.15, seed=5):
    """A feasible point away from the start and from any maximum."""
    rng = np.random.default_rng(seed)
    theta = likelihood.start() + 0.1 * rng.normal(size=likelihood.size)
    phi = likelihood.slices["phi"]
    if phi.stop > phi.start:
        theta[phi] = np.array([-0.9, phi1, 0.2])[likelihood.part.free]
    return theta


def near_the_cap(likelihood, phi1):
    """A point where the likeliest observed block is missing with probability 0.95, so that the cap matters."""
    theta = off_centre(likelihood)
    free = likelihood.part.free
    phi = np.array([0.0, phi1, 0.2])[free]
    phi[0] = -0.05 - (likelihood.part.seen[0][:, free] @ phi).max()
    theta[likelihood.slices["phi"]] = phi
    return theta


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_log_mechanism_equals_the_dense_likelihood(model, first, case):
    data = simulated(**CASES[case])
    likelihood = MODELS[model](data, "log", True, first)
    theta = off_centre(likelihood)
    expected = dense_llf(data, likelihood.params(theta), "log")
    assert likelihood.value_and_score(theta)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("phi1", [-0.6, -0.1, 0.25])
@pytest.mark.parametrize("seed", [1, 2])
def test_capped_model_b_equals_brute_force_integration(seed, phi1):
    data = simulated(seed, max_missing=2, cov=True, n_clusters=6)
    likelihood = FactorLikelihood(data, CAPPED, True)
    theta = near_the_cap(likelihood, phi1)
    expected = dense_llf(data, likelihood.params(theta), "capped")
    assert likelihood.value_and_score(theta)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("phi1", [-0.6, -0.1, 0.25])
def test_capped_model_e_equals_brute_force_with_one_missing_block_per_cluster(phi1):
    data = simulated(3, max_missing=1)
    likelihood = ErrorLikelihood(data, CAPPED, True)
    theta = near_the_cap(likelihood, phi1)
    expected = dense_llf(data, likelihood.params(theta), "capped")
    assert likelihood.value_and_score(theta)[0] == pytest.approx(expected, rel=1e-9)


def test_quasi_monte_carlo_equals_brute_force_with_two_missing_blocks_per_cluster():
    data = simulated(4, max_missing=2, n_clusters=6)
    likelihood = ErrorLikelihood(data, CAPPED)
    theta = near_the_cap(likelihood, -0.5)
    expected = dense_llf(data, likelihood.params(theta), "capped")
    assert quasi_monte_carlo_llf(likelihood, theta, n_points=4096, rng=1) == pytest.approx(expected, abs=2e-5)
    # the marginal product is an approximation here, and a close one
    assert likelihood.value_and_score(theta)[0] == pytest.approx(expected, abs=0.05)
    assert likelihood.value_and_score(theta)[0] != pytest.approx(expected, abs=1e-7)


def test_marginal_product_is_close_to_quasi_monte_carlo_at_its_maximum_on_the_demonstration_data():
    from mvmise_sm.selection.objective import PenalisedObjective
    from mvmise_sm.selection.solve import solve

    likelihood = ErrorLikelihood(data_of("sim_dat"), CAPPED)
    maximum = solve(PenalisedObjective(likelihood), information=False).maximum
    exact = quasi_monte_carlo_llf(likelihood, maximum.theta, n_points=1024, rng=2)
    assert abs(maximum.value - exact) < 0.03


def test_brute_force_integration_agrees_with_a_plain_double_integral():
    mean, cov = np.array([-0.3, 0.2]), np.array([[0.5, 0.2], [0.2, 0.4]])
    assert log_missing(mean, cov, "capped") == pytest.approx(two_missing_by_dblquad(mean, cov), abs=1e-6)


@pytest.mark.parametrize("mechanism", ["capped", "log"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", MODELS)
def test_scores_equal_differences(model, case, mechanism):
    likelihood = MODELS[model](simulated(**CASES[case]), mechanism, True, case == "plain")
    theta = off_centre(likelihood)
    numeric = differences(lambda t: likelihood.value_and_score(t)[0], theta, 1e-4)
    assert likelihood.value_and_score(theta)[1] == pytest.approx(numeric, rel=1e-6, abs=1e-6)


def test_scores_of_a_sparse_precision_equal_differences():
    pattern = np.zeros((4, 4), bool)
    pattern[[1, 3], [0, 2]] = True
    likelihood = ErrorLikelihood(simulated(K=4), CAPPED, coordinates=SparsePrecision(pattern | pattern.T))
    theta = off_centre(likelihood)
    numeric = differences(lambda t: likelihood.value_and_score(t)[0], theta, 1e-4)
    assert likelihood.value_and_score(theta)[1] == pytest.approx(numeric, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("coordinates", [LogCholesky(3), SparsePrecision(np.ones((3, 3), bool))])
def test_covariance_coordinates(coordinates):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(3, 3))
    Sigma = factor @ factor.T + np.eye(3)
    vector = coordinates.vector(Sigma)
    assert coordinates.covariance(vector) == pytest.approx(Sigma)
    slope = np.linalg.inv(Sigma)
    numeric = differences(lambda v: np.linalg.slogdet(coordinates.covariance(v))[1], vector)
    assert coordinates.gradient(vector, slope) == pytest.approx(numeric, rel=1e-7, abs=1e-8)

    # the information of n normal errors is minus the expected second derivative of their log-density
    def log_density_slope(v):
        inverse = np.linalg.inv(coordinates.covariance(v))
        return coordinates.gradient(v, 0.5 * (inverse @ Sigma @ inverse - inverse))

    hessian = np.array(
        [
            (log_density_slope(vector + h) - log_density_slope(vector - h)) / 2e-5
            for h in 1e-5 * np.eye(coordinates.size)
        ]
    )
    assert coordinates.metric(vector, 1.0) == pytest.approx(-hessian, abs=1e-7)


@pytest.mark.parametrize(("mean", "var"), [(-2.0, 0.3), (0.4, 1.0), (3.0, 0.01), (-30.0, 4.0), (0.0, 1e-6)])
def test_block_integral_of_the_capped_mechanism(mean, var):
    mean, var = np.array([mean]), np.array([var])
    block = Capped().missing(mean, var)
    assert block.value == pytest.approx(log_missing(mean, var[None], "capped"), rel=1e-9, abs=1e-11)
    h = 1e-6 * max(1.0, abs(mean[0]))
    slope = (Capped().missing(mean + h, var).value - Capped().missing(mean - h, var).value) / (2 * h)
    assert block.d_mean == pytest.approx(slope, abs=1e-6)
    h = 1e-4 * var
    slope = (Capped().missing(mean, var + h).value - Capped().missing(mean, var - h).value) / (2 * h)
    assert block.d_var == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_mechanisms_agree_far_below_the_cap():
    mean, var = np.array([-12.0]), np.array([0.5])
    assert Capped().missing(mean, var).value == pytest.approx(LogLinear().missing(mean, var).value, rel=1e-14)


def test_a_seen_block_cannot_have_probability_one_of_being_missing():
    value, slope, _ = Capped().seen(np.array([-0.1, 0.0, 0.3]))
    assert value[0] == pytest.approx(np.log1p(-np.exp(-0.1)))
    assert np.isneginf(value[1:]).all()
    assert (slope[1:] == 0.0).all()


@pytest.mark.parametrize("model", MODELS)
def test_order_of_rows_and_names_of_clusters_do_not_matter(model):
    data = simulated(6, K=4)
    rng = np.random.default_rng(0)
    order = rng.permutation(data.n_rows)
    names = np.array([f"c{rng.integers(1000)}-{i}" for i in range(data.n_clusters)])
    other = selection_data(data.Y[order], data.X[order, 0], names[data.cluster[order]], random_columns=(0, 1))
    theta = off_centre(MODELS[model](data))
    values = [MODELS[model](d).value_and_score(theta) for d in (data, other)]
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-12)
    assert values[0][1] == pytest.approx(values[1][1], rel=1e-9, abs=1e-9)


def test_both_models_are_the_same_with_one_outcome():
    data = simulated(7, K=1, n_clusters=15)
    intercept = selection_data(data.Y, data.X[:, 0], data.cluster)
    b, e = FactorLikelihood(intercept, CAPPED), ErrorLikelihood(intercept, CAPPED)
    theta_b = b.start()
    params = b.params(theta_b)
    theta_e = np.concatenate([params.beta, params.tau, 0.5 * np.log(params.sigma2), theta_b[b.slices["phi"]]])
    assert b.value_and_score(theta_b)[0] == pytest.approx(e.value_and_score(theta_e)[0], rel=1e-12)


def test_stacked_and_common_designs_are_the_same_model():
    data = simulated(8)
    stacked = data.X.transpose(1, 0, 2).reshape(-1, 2)
    assert np.array_equal(selection_data(data.Y, stacked, data.cluster).X, data.X)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda Y, X, g: (np.where(np.arange(Y.shape[1]) == 1, np.nan, Y), X, g),
            "Outcome '1' is missing in every sample",
        ),
        (lambda Y, X, g: (Y, X, np.zeros(len(g))), "one level only"),
        (lambda Y, X, g: (Y, np.column_stack([X, np.full(len(X), 3.0)]), g), "constant or a combination"),
        (lambda Y, X, g: (Y.astype(str), X, g), None),
        (lambda Y, X, g: (np.full(Y.shape, "low"), X, g), "must be numeric"),
        (lambda Y, X, g: (Y, X, np.where(g == 0, np.nan, g)), "missing value in row"),
        (lambda Y, X, g: (Y, X, [None, *g[1:]]), "missing value in row 0"),
        (lambda Y, X, g: (np.where(Y > 0, np.inf, Y), X, g), "infinite values"),
        (lambda Y, X, g: (Y, X[:-1], g), "exog has"),
        (lambda Y, X, g: (Y, np.where(X == 1, np.nan, X), g), "missing or infinite"),
    ],
)
def test_bad_input_gets_a_sentence(change, sentence):
    data = simulated(9)
    Y, X, groups = change(data.Y, data.X[:, 0], data.cluster.astype(float))
    if sentence is None:
        # numbers spelled as text are numbers
        assert np.array_equal(selection_data(Y, X, groups).Y, data.Y, equal_nan=True)
        return
    with pytest.raises(ValueError, match=sentence):
        selection_data(Y, X, groups)
