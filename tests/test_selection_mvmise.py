"""R's algorithm against every fit of the mvMISE reference, from starting values of our own."""

import numpy as np
import pytest
from conftest import _json
from selection_oracle import frame_of

from mvmise_sm.selection.data import selection_data
from mvmise_sm.selection.mvmise.algorithm import name_order, poisson_regression, random_intercept
from mvmise_sm.selection.mvmise.error import fit_mvmise_e
from mvmise_sm.selection.mvmise.factor import fit_mvmise_b

SETS = _json("mvmise")["sets"]
# hundreds of iterations repeat what tens of them show
FITS = [
    pytest.param(name, fit, id=f"{name}-{fit['call']['model']}-{fit['call']['tag']}")
    for name, entry in SETS.items()
    for fit in entry["fits"]
    if not {"error", "timeout"} & set(fit["result"])
    and fit["result"]["iter"] <= 120
    and not (name == "k50_mnar" and fit["result"]["iter"] > 50)
]


def arrays(name, call):
    """Data and arguments of one call."""
    frame = frame_of(name)
    outcomes = [c for c in frame if c[0] == "y"]
    if "ycols" in call:
        outcomes = [outcomes[call["ycols"] - 1]]
    Y, X, K = frame[outcomes].to_numpy(), frame[[c for c in frame if c[0] == "x"]].to_numpy(), len(outcomes)
    if call.get("xmode", "common") != "common":
        own = np.kron(np.eye(K), frame[["x2"]].to_numpy())
        X = np.column_stack([np.ones(len(own)), own if call["xmode"] == "outcome" else own[:, :1]])
    kind = call.get("cov", "none")
    cov = None if kind == "none" else frame[[c for c in frame if c[0] == "c"]] if kind == "ck" else frame[kind]
    arguments = dict(call["args"]) if isinstance(call["args"], dict) else {}
    columns = np.atleast_1d(arguments.get("Zidx", 1)) - 1
    return selection_data(Y, X, frame["id"], random_columns=columns, cov_miss=cov), arguments


def returned(model, data, arguments):
    """What R returns, from our functions."""
    options = {
        "first_sample_variance": arguments.get("sigma_diff", False),
        "maxiter": arguments.get("maxIter", 100),
        "tol": arguments.get("tol", 1e-3),
    }
    if model == "b":
        fit = fit_mvmise_b(data, missing_y=arguments.get("miss_y", True), **options)
        own = {"tau": fit.params.tau, "var": fit.cov_beta}
    else:
        penalty = arguments.get("lambda") if arguments.get("ADMM", True) else 0.0
        fit = fit_mvmise_e(data, missing_y=arguments.get("miss_y"), penalty=penalty, **options)
        stat = fit.params.beta / np.sqrt(np.diag(fit.cov_beta))
        own = {"Sigma": fit.params.error_cov, "D": fit.params.D, "AIC": fit.aic, "stat": stat}
    common = {"beta": fit.params.beta, "sigma2": fit.params.sigma2, "phi": fit.params.phi, "iter": fit.n_iter}
    return {**common, **own, "loglikelihood": fit.loglikelihood}


@pytest.mark.parametrize(("name", "fit"), FITS)
def test_every_value_that_r_returns(name, fit):
    data, arguments = arrays(name, fit["call"])
    ours = returned(fit["call"]["model"], data, arguments)
    for key, value in ours.items():
        reference = np.asarray(fit["result"][key], dtype=float).ravel()
        error = np.abs(np.ravel(value) - reference) / (0.01 + np.abs(reference))
        assert error.max() < 1e-6, key


@pytest.mark.parametrize("kind", ["ml", "reml"])
@pytest.mark.parametrize("name", SETS)
def test_starting_values_are_those_of_lme4(name, kind):
    data, _ = arrays(name, {"args": []})
    fit = random_intercept(data, data.observed, reml=kind == "reml")
    reference = SETS[name]["lmer_start"]["common"][kind]
    # lme4's own optimiser stops at about 1e-7 in the variance
    assert fit.beta == pytest.approx(reference["beta"], rel=1e-7)
    assert pytest.approx(reference["D"], rel=2e-6) == fit.D
    assert fit.sigma2 == pytest.approx(reference["sigma2"], rel=1e-6)


def test_a_boundary_start_has_no_variance():
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(10), 2)
    y = np.tile([1.0, -1.0], 10) + 0.01 * rng.normal(size=20)
    data = selection_data(y, np.ones((20, 1)), cluster)
    assert random_intercept(data, data.observed, reml=False).D == 0.0


def test_model_b_has_no_fixed_point():
    data, _ = arrays("sim_dat", {"args": []})
    lengths = [np.linalg.norm(fit_mvmise_b(data, maxiter=n, tol=0.0).params.tau) for n in (100, 200, 400)]
    # the loadings keep growing, faster than the logarithm of the iterations
    assert lengths[2] - lengths[1] > lengths[1] - lengths[0] > 1.0


def test_cluster_names_sort_as_text():
    assert list(name_order((1, 2, 10))) == [0, 2, 1]
    assert list(name_order((1.0, 2.0, 10.0))) == [0, 2, 1]
    assert list(name_order(("b", "a"))) == [1, 0]


def test_poisson_regression_solves_the_score_equations_or_says_that_it_does_not():
    x = np.arange(10.0)
    X = np.column_stack([np.ones(10), x])
    y = (x % 3 == 0).astype(float)
    assert poisson_regression(y, X, maxiter=2) is None
    beta = poisson_regression(y, X)
    assert X.T @ (y - np.exp(X @ beta)) == pytest.approx(0.0, abs=1e-6)


def test_a_variance_that_starts_at_zero_is_left():
    # the outcomes' batch effects cancel, so that the stacked model has none, and each outcome has its own
    rng = np.random.default_rng(4)
    cluster, x = np.repeat(np.arange(30), 3), rng.integers(0, 2, 90).astype(float)
    b = rng.normal(size=30)[cluster]
    Y = 5.0 + 0.5 * x[:, None] + np.column_stack([b, -b]) + 0.8 * rng.normal(size=(90, 2))
    from mvmise_sm.selection.mvmise.error import ErrorSteps

    data = selection_data(Y, np.column_stack([np.ones(90), x]), cluster)
    steps = ErrorSteps(data, False, 0.0, False)
    start = steps.start()
    assert start.D[0] == 0.0
    after = steps.m_step(start, steps.e_step(start))
    # without prior precision the effects are the clusters' means, with the errors' variance over their values
    s = float(start.sigma2[0])
    resid = Y - (start.beta[0] + start.beta[1] * x)[:, None]
    means = np.array([resid[cluster == i].mean() for i in range(30)])
    assert after.D[0] == pytest.approx(np.mean(means**2) + s / 6.0, rel=1e-10)
    # the errors' covariance takes over what outcomes do not share, and D stays positive
    assert fit_mvmise_e(data, penalty=0.0).params.D[0] > 0.0
