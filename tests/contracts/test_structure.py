"""Every covariance structure answers what its contract says, and one's own needs a class and a registration only."""

import pickle

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.core.covariance import registry
from mvmise_sm.core.covariance.base import CovarianceStructure, Parameter

STEP = 1e-6
NAMES = ["a", "b", "c", "d"]
POSITIONS = np.array([[0.0], [1.0], [2.5], [4.0]])


class Exchangeable(CovarianceStructure):
    """A compound-symmetric structure as a user would write it: t^2 (I + c^2 J)."""

    described = "exchangeable"
    k_theta = 2
    lower = np.array([0.0, -np.inf])

    def __init__(self, q):
        self.q = q

    def factor(self, theta):
        t, c = theta
        q = self.q
        return t * (np.eye(q) + (np.sqrt(1.0 + q * c * c) - 1.0) * np.full((q, q), 1.0 / q))

    def theta_from(self, sigma):
        off = (sigma.sum() - np.trace(sigma)) / (self.q * (self.q - 1.0))
        own = max(np.trace(sigma) / self.q - off, 0.0)
        return np.array([np.sqrt(own), np.sqrt(max(off, 0.0) / own) if own > 0.0 else 0.0])

    def start(self, variances):
        return np.array([np.sqrt(np.mean(variances)), 0.5])

    def parameters(self, theta, names, a=None):
        t, c = theta
        size = np.sqrt(1.0 + c * c)
        sd = Parameter("sd", "sd", (), t * size, np.array([size, t * c / size]))
        return [sd, Parameter("cor", "rho", (), c * c / size**2, np.array([0.0, 2.0 * c / size**4]), 0.0)]


@pytest.fixture(autouse=True)
def registered():
    registry.register("exchangeable", Exchangeable)


def make(name):
    return registry.make_structure(name, NAMES, POSITIONS, {})


def point(structure, seed=0):
    rng = np.random.default_rng(seed)
    bounded = structure.lower == 0.0
    return np.where(bounded, rng.uniform(0.5, 1.5, bounded.size), rng.uniform(0.1, 0.9, bounded.size))


def differences(function, theta):
    return np.array([(function(theta + h) - function(theta - h)) / (2 * STEP) for h in STEP * np.eye(theta.size)])


ALL = [*registry.names(), "exchangeable"]


@pytest.mark.parametrize("name", ALL)
def test_sigma_and_theta_go_back_and_forth(name):
    structure = make(name)
    lam = structure.factor(point(structure))
    again = structure.factor(structure.theta_from(lam @ lam.T))
    np.testing.assert_allclose(again @ again.T, lam @ lam.T, rtol=1e-9, atol=1e-9)
    start = structure.start(np.full(4, 0.25))
    assert start.shape == structure.lower.shape == (structure.k_theta,)
    assert np.trace(structure.factor(start) @ structure.factor(start).T) > 0.0
    zero = structure.factor(structure.start(np.zeros(4)))
    np.testing.assert_allclose(zero, 0.0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_derivatives_are_those_of_the_factor(name):
    structure = make(name)
    theta = point(structure, 1)
    np.testing.assert_allclose(structure.tangents(theta), differences(structure.factor, theta), atol=1e-7)
    sigma = differences(lambda t: structure.factor(t) @ structure.factor(t).T, theta)
    np.testing.assert_allclose(structure.sigma_tangents(theta), sigma, atol=1e-7)
    weights = np.random.default_rng(2).normal(size=(4, 4))
    np.testing.assert_allclose(
        structure.pullback(theta, weights), np.tensordot(structure.tangents(theta), weights, axes=2), atol=1e-10
    )
    curvature = differences(lambda t: structure.pullback(t, weights), theta)
    # a structure without derivatives of its own differences twice
    np.testing.assert_allclose(structure.curvature(theta, weights), curvature, atol=2e-4)


@pytest.mark.parametrize("name", ALL)
def test_reported_parameters_are_those_of_sigma(name):
    structure = make(name)
    theta = point(structure, 3)
    reported = structure.parameters(theta, NAMES)
    for i, parameter in enumerate(reported):
        slopes = differences(lambda t, i=i: structure.parameters(t, NAMES)[i].value, theta)
        np.testing.assert_allclose(parameter.gradient, slopes, atol=1e-7)
    sigma = structure.factor(theta) @ structure.factor(theta).T
    found = [p.value for p in reported if p.kind == "sd"]
    np.testing.assert_allclose(found, np.sqrt(np.diag(sigma))[: len(found)], rtol=1e-12)
    assert len(structure.theta_names(NAMES)) == structure.k_theta
    if structure.invariance != "none":
        a = np.diag([2.0, 0.5, 1.0, 3.0])
        lam = structure.factor(structure.rescaled(theta, a))
        np.testing.assert_allclose(lam @ lam.T, a @ sigma @ a, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_boundaries_have_ways_off(name):
    structure = make(name)
    theta = point(structure)
    assert not structure.on_boundary(theta)
    theta[structure.lower == 0.0] = 0.0
    assert structure.on_boundary(theta)
    moves = structure.bound_moves(theta, -np.eye(4))
    assert moves
    assert min(move.slope for move in moves) < 0.0
    best = min(moves, key=lambda move: move.slope)
    assert np.trace(structure.factor(best.at(0.1)) @ structure.factor(best.at(0.1)).T) > 0.0


@pytest.mark.parametrize("name", ["cs", "homcs", "ar1", "toep"])
def test_a_correlation_of_one_is_a_boundary(name):
    structure = make(name)
    lam = structure.factor(structure.theta_from(np.ones((4, 4))))
    np.testing.assert_allclose(lam @ lam.T, np.ones((4, 4)), atol=1e-7)
    theta = structure.theta_from(np.ones((4, 4)))
    assert structure.on_boundary(theta)
    # an objective that falls with independent variation is left behind, one that rises with it is not
    assert min(m.slope for m in structure.bound_moves(theta, np.full((4, 4), 0.25) - np.eye(4))) < -0.1
    assert min(m.slope for m in structure.bound_moves(theta, np.eye(4) - np.full((4, 4), 0.25))) > -1e-6


@pytest.mark.parametrize("name", ALL)
def test_what_is_left_without_a_column_is_nested(name):
    structure = make(name)
    smaller = structure.without(1)
    if smaller is not None:
        assert smaller.q == 3
        assert smaller.k_theta < structure.k_theta


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(11)
    g = np.repeat(np.arange(40), 8)
    f = np.tile(np.repeat(np.arange(4), 2), 40)
    effects = rng.normal(size=(40, 1)) + 0.8 * rng.normal(size=(40, 4))
    x = rng.normal(size=g.size)
    y = 1.0 + 0.5 * x + effects[g, f] + rng.normal(size=g.size)
    return pd.DataFrame({"y": y, "x": x, "f": np.array(list("abcd"))[f], "g": g})


@pytest.fixture(scope="module")
def fits(frame):
    registry.register("exchangeable", Exchangeable)
    return tuple(ms.lmer(f"y ~ x + f + {name}(0 + f | g)", frame).fit() for name in ("exchangeable", "homcs"))


def test_the_toy_fits_as_the_built_in_one(fits):
    toy, own = fits
    assert toy.converged
    assert toy.llf == pytest.approx(own.llf, abs=1e-8)
    assert toy.k_params == own.k_params
    np.testing.assert_allclose(toy.params, own.params, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(toy.bse, own.bse, rtol=1e-6)
    np.testing.assert_allclose(toy.cov_re["g"], own.cov_re["g"], rtol=1e-5)
    np.testing.assert_allclose(toy.varcorr.sdcor, own.varcorr.sdcor, rtol=1e-5)
    np.testing.assert_allclose(toy.random_effects["g"], own.random_effects["g"], atol=1e-5)
    criterion = toy.model.criterion()
    theta = toy.theta * 1.1
    slopes = differences(criterion, theta)
    np.testing.assert_allclose(criterion.gradient(theta), slopes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_the_toy_tests_as_the_built_in_one(fits, ddf):
    toy, own = (fit.tidy(ddf=ddf)[["std_error", "df", "p_value"]] for fit in fits)
    np.testing.assert_allclose(toy, own, rtol=1e-4)
    toy, own = (fit.anova(ddf=ddf)[["F", "df_denom"]] for fit in fits)
    np.testing.assert_allclose(toy, own, rtol=1e-4)


def test_random_effects_of_the_toy_are_tested(fits):
    toy, own = (fit.anova_random() for fit in fits)
    np.testing.assert_allclose(toy[["n_params", "df", "chisq"]], own[["n_params", "df", "chisq"]], rtol=1e-6, atol=1e-6)
    assert toy.p_value.iloc[1] < 1e-6


def test_the_toy_profiles_as_the_built_in_one(fits):
    toy, own = (fit.profile(["sd|g", "rho|g", "sigma"]).conf_int() for fit in fits)
    np.testing.assert_allclose(toy, own, rtol=2e-4)


def test_the_toy_simulates_and_bootstraps(fits):
    toy, own = (fit.simulate(2, rng=3) for fit in fits)
    np.testing.assert_allclose(np.var(toy.to_numpy()), np.var(own.to_numpy()), rtol=0.2)
    samples = fits[0].bootstrap(20, rng=5).samples
    assert {"sd|g", "rho|g", "sigma"} <= set(samples.columns)
    # refits to the same responses give the same estimates
    y = own["sim_1"].to_numpy()
    again = [fit.refit(y) for fit in fits]
    np.testing.assert_allclose(again[0].varcorr.sdcor, again[1].varcorr.sdcor, rtol=1e-4)
    assert samples["rho|g"].std() > 0.0


def test_the_toy_predicts_with_intervals(fits, frame):
    toy, own = (fit.get_prediction(frame.iloc[:6]).summary_frame() for fit in fits)
    np.testing.assert_allclose(toy, own, rtol=1e-5, atol=1e-6)
    toy, own = (fit.get_prediction(frame.iloc[:6], kind="prediction").summary_frame() for fit in fits)
    np.testing.assert_allclose(toy, own, rtol=1e-5, atol=1e-6)


def test_the_toy_pickles(fits, frame):
    toy = pickle.loads(pickle.dumps(fits[0]))
    np.testing.assert_array_equal(toy.predict(frame.iloc[:4]), fits[0].predict(frame.iloc[:4]))
    assert "exchangeable" in str(toy.summary())


def test_the_toy_works_in_a_generalised_model(frame):
    counts = frame.assign(k=np.random.default_rng(1).poisson(np.exp(0.3 * frame.y)))
    toy, own = (
        ms.glmer(f"k ~ x + {name}(0 + f | g)", counts, family="poisson").fit() for name in ("exchangeable", "homcs")
    )
    assert toy.llf == pytest.approx(own.llf, abs=1e-6)
    np.testing.assert_allclose(toy.bse, own.bse, rtol=1e-3)
