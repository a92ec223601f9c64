"""A residual structure that a stranger registers: everything that a fit answers follows from its five members."""

import pickle

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.core.covariance import registry
from mvmise_sm.core.covariance.base import Parameter
from mvmise_sm.core.covariance.residual import ResidualStructure

# variances of the levels are known up to one factor, as of pooled samples
SIZES = np.array([1.0, 1.5, 0.8])


class Pooled(ResidualStructure):
    """One correlation tanh(phi), with known ratios of the variances."""

    k_phi = 1
    described = "one correlation, known ratios of variances"

    def __init__(self, levels):
        self.levels = tuple(levels)
        self.outer = np.sqrt(np.outer(SIZES, SIZES))

    def start(self):
        return np.zeros(1)

    def _at(self, batch):
        return self.outer[batch.levels[:, :, None], batch.levels[:, None, :]]

    def blocks(self, phi, batch):
        eye = np.eye(batch.size)
        return self._at(batch) * (eye + np.tanh(phi[0]) * (1.0 - eye))

    def block_tangents(self, phi, batch):
        return (self._at(batch) * (1.0 - np.eye(batch.size)) / np.cosh(phi[0]) ** 2)[None]

    def variances(self, phi, codes, groups):
        return SIZES[codes]

    def parameters(self, phi, names=None, a=None):
        rho = float(np.tanh(phi[0]))
        return [
            Parameter("sd", "sd", (), 1.0, np.zeros(1)),
            Parameter("cor", "rho", (), rho, np.array([1.0 - rho**2])),
        ]


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(5)
    subject, visit = np.repeat(np.arange(30), 3), np.tile(np.arange(3), 30)
    x = rng.normal(size=90)
    noise = rng.normal(size=(30, 1)) + rng.normal(size=(30, 3))
    y = 1 + 0.5 * x + 2.0 * rng.normal(size=5)[subject // 6] + (noise * np.sqrt(SIZES)).ravel()
    out = pd.DataFrame({"y": y, "x": x, "visit": visit, "id": subject, "site": subject // 6})
    out["w"] = 1.0 / SIZES[visit]
    return out.iloc[rng.permutation(90)[:80]].reset_index(drop=True)


# the same models by a built-in structure: known ratios of variances are prior weights
@pytest.fixture(scope="module", params=["y ~ x", "y ~ x + (1 | site)"])
def fits(frame, request):
    registry.register_residual("pooled", Pooled)
    toy = ms.lmer(request.param, frame, residual="pooled(visit | id)").fit()
    own = ms.lmer(request.param, frame, residual="cs(visit | id)", weights="w").fit()
    return toy, own


def test_the_toy_fits_as_the_built_in_one(fits):
    toy, own = fits
    assert toy.converged
    assert toy.llf == pytest.approx(own.llf, abs=1e-8)
    assert toy.k_params == own.k_params
    np.testing.assert_allclose(toy.params, own.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(toy.bse, own.bse, rtol=1e-5)
    np.testing.assert_allclose(toy.residual_params, own.residual_params, rtol=1e-4)
    np.testing.assert_allclose(toy.fittedvalues, own.fittedvalues, atol=1e-4)
    assert toy.residual_cov is None
    assert "known ratios" in str(toy.summary())
    assert list(toy.structures[toy.structures.grp == "Residual"].param) == ["sd", "rho"]
    criterion, theta, step = toy.model.criterion(), toy.theta + 0.1, 1e-5
    slopes = [(criterion(theta + h) - criterion(theta - h)) / (2 * step) for h in step * np.eye(len(theta))]
    np.testing.assert_allclose(criterion.gradient(theta), slopes, atol=1e-6)


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_the_toy_tests_as_the_built_in_one(fits, ddf):
    toy, own = (fit.tidy(ddf=ddf)[["std_error", "df", "p_value"]] for fit in fits)
    np.testing.assert_allclose(toy, own, rtol=1e-4)
    toy, own = (fit.anova(ddf=ddf)[["F", "df_denom"]] for fit in fits)
    np.testing.assert_allclose(toy, own, rtol=1e-4)
    toy, own = (fit.get_robustcov_results("CR2").bse for fit in fits)
    np.testing.assert_allclose(toy, own, rtol=1e-4)


def test_the_toy_profiles_as_the_built_in_one(fits):
    toy, own = (fit.profile(["rho|Residual"]).conf_int() for fit in fits)
    np.testing.assert_allclose(toy, own, rtol=2e-4)


def test_the_toy_simulates_and_bootstraps(fits):
    toy, own = fits
    spread = toy.simulate(40, rng=3).to_numpy().var()
    assert spread == pytest.approx(own.simulate(40, rng=3).to_numpy().var(), rel=0.2)
    assert toy.bootstrap(4, rng=5).samples["rho|Residual"].std() > 0.0
    y = own.simulate(1, rng=4)["sim_1"].to_numpy()
    again = [fit.refit(y).residual_params for fit in fits]
    np.testing.assert_allclose(again[0], again[1], rtol=1e-3)


def test_the_toy_predicts_with_intervals(fits, frame):
    toy, own = (fit.get_prediction(frame.iloc[:6]).summary_frame() for fit in fits)
    np.testing.assert_allclose(toy[["mean", "mean_se"]], own[["mean", "mean_se"]], rtol=1e-4, atol=1e-5)
    known = np.sqrt(toy.loc[0, "obs_ci_upper"] - toy.loc[0, "mean"])
    assert known > np.sqrt(toy.loc[0, "mean_ci_upper"] - toy.loc[0, "mean"])
    influence = [fit.get_influence().cooks_distance for fit in fits]
    np.testing.assert_allclose(influence[0], influence[1], rtol=1e-3, atol=1e-6)


def test_the_toy_pickles(fits, frame):
    toy = pickle.loads(pickle.dumps(fits[0]))
    np.testing.assert_array_equal(toy.predict(frame.iloc[:4]), fits[0].predict(frame.iloc[:4]))
