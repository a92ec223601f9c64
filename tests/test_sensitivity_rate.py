"""Sensitivity to the mechanism's slope with the marginal missing rate held."""

import numpy as np
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError
from mvmise_sm.selection.marginal import marginal_units
from mvmise_sm.selection.profile import MechanismProfile

FORMULA = "P1_a + P1_b + P1_c ~ condition + (1 | batch)"
CASES = {
    "b": ("b", {}),
    "b_probit": ("b", {"mechanism": "probit"}),
    "b_logit": ("b", {"mechanism": "logit"}),
    "e": ("e", {}),
}


@pytest.fixture(scope="module")
def wide():
    return ms.datasets.load_tmt("wide")


@pytest.fixture(scope="module", params=list(CASES))
def fit(request, wide):
    kind, options = CASES[request.param]
    return getattr(ms, f"mvmise_{kind}")(FORMULA, wide, **options).fit()


def test_the_rate_is_that_of_the_fit_at_every_slope(fit):
    outcome = fit._outcome
    likelihood = outcome.objective.likelihood
    profile = MechanismProfile(outcome.objective, outcome.maximum)
    rate = marginal_units(likelihood, outcome.params, 0).expected.mean()
    for factor in (0.0, 0.5, 1.2):
        at = profile.at_rate(factor * fit.phi["y"])
        assert at.converged
        params = likelihood.params(at.theta)
        assert params.phi[1] == pytest.approx(factor * fit.phi["y"])
        assert marginal_units(likelihood, params, 0).expected.mean() == pytest.approx(rate, abs=1e-6)
        # one element less is free
        assert at.value <= profile.restricted(factor * fit.phi["y"]).value + 1e-8


def test_at_the_estimate_it_is_the_fit(fit):
    table = fit.sensitivity([fit.phi["y"]], hold="rate")
    np.testing.assert_allclose(table["estimate"], fit.params, atol=1e-5)
    np.testing.assert_allclose(table["llf"], fit.llf, atol=1e-8)


def test_columns_and_default_grid(wide):
    fit = ms.mvmise_b(FORMULA, wide).fit()
    both = fit.sensitivity([-0.6, 0.0], hold="refit"), fit.sensitivity([-0.6, 0.0], hold="rate")
    assert list(both[0].columns) == list(both[1].columns)
    assert (both[1]["llf"] <= both[0]["llf"] + 1e-8).all()
    assert both[1]["converged"].all()
    # far out the seen blocks have eta above the cap: no number
    far = fit.sensitivity([-40.0], hold="rate")
    assert not far["converged"].any()
    assert far[["estimate", "std_error", "llf"]].isna().all(axis=None)


def test_what_is_refused(wide):
    fit = ms.mvmise_b(FORMULA, wide).fit()
    with pytest.raises(OptionError, match="hold must be 'refit' or 'rate', got 'level'"):
        fit.sensitivity(hold="level")
    held = ms.mvmise_b(FORMULA, wide, mechanism=ms.mechanisms.Logit(Intercept=3.0)).fit()
    with pytest.raises(OptionError, match="which is held in this model"):
        held.sensitivity([-0.4], hold="rate")
    fit.remove_data()
    with pytest.raises(OptionError, match="removed"):
        fit.sensitivity(hold="rate")
