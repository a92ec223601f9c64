"""statsmodels' own generic tests on the generalised linear mixed model, and its storage."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.base.tests.test_generic_methods import CheckGenericMixin
from statsmodels.base.tests.test_shrink_pickle import RemoveDataPickle

import mvmise_sm as ms
from mvmise_sm.models.generalized import GeneralizedLinearMixedModel


class PoissonModel(GeneralizedLinearMixedModel):
    """The generic tests build models from data alone."""

    def __init__(self, endog, exog, random_effects=None, *, family="poisson", **kwargs):
        super().__init__(endog, exog, random_effects, family=family, **kwargs)


def simulated(x, kind, seed=987689):
    """Response (nobs,) and groups for a design with a constant first."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 25, len(x))
    eta = 0.3 * x.sum(axis=1) + 0.5 * rng.standard_normal(25)[group]
    if kind == "poisson":
        return rng.poisson(np.exp(eta)).astype(float), group
    return (rng.random(len(x)) < 1.0 / (1.0 + np.exp(-eta))).astype(float), group


class _Generic(CheckGenericMixin):
    def test_zero_collinear(self):
        pytest.skip("asks for cov_type='HC0', which needs score_obs")


class TestPoisson(_Generic):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, "poisson")
        self.results = GeneralizedLinearMixedModel(y, self.exog, group, family=sm.families.Poisson()).fit()


class TestBernoulliRX(_Generic):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, "bernoulli")
        model = GeneralizedLinearMixedModel(y, self.exog, group, family="binomial")
        self.results = model.fit(nagq=5, cov_type="rx", use_t=True)


class TestNegativeBinomial(_Generic):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, "poisson")
        y += np.random.default_rng(3).poisson(2.0 * y)
        self.results = GeneralizedLinearMixedModel(y, self.exog, group, family="negativebinomial").fit()


class TestRemoveData(RemoveDataPickle):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, "poisson")
        self.model_class, self.model_args = PoissonModel, (y, self.exog, group)
        self.results = self.estimate_model()


class TestRemoveDataFormula(RemoveDataPickle):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, "poisson")
        x1, x2, x3 = self.exog.T[1:]
        self.data = pd.DataFrame({"y": y, "x1": x1, "x2": x2, "x3": x3, "g": group})
        self.formula, self.reduction_factor = "y ~ x1 + center(x2) + np.abs(x3) + (1 | g)", 0.666
        self.model_class = PoissonModel
        self.xf = self.data.iloc[[0, 500]].assign(x1=0.25)
        self.results = self.estimate_model()


FITS = {
    "counts": ("cbind(incidence, size - incidence) ~ period + (1 | herd)", {"family": "binomial"}, {"nagq": 5}),
    "rx": ("prop ~ period + (1 | herd)", {"family": "binomial(probit)", "weights": "size"}, {"cov_type": "rx"}),
    "joint": ("prop ~ period + (1 | herd)", {"family": "binomial", "weights": "size"}, {"nagq": 0}),
    "crossed": ("prop ~ period + (1 | herd) + (1 | obs)", {"family": "binomial", "weights": "size"}, {}),
    "negative binomial": ("size ~ 1 + (1 | herd)", {"family": "negativebinomial"}, {}),
    "prior": ("prop ~ period + (1 | herd)", {"family": "binomial", "weights": "size", "cov_prior": "wishart"}, {}),
}


@pytest.fixture(params=FITS)
def result(request, frames):
    formula, model, fit = FITS[request.param]
    return ms.glmer(formula, frames("cbpp"), **model).fit(**fit)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))], ids=["copy", "pickle"])
def test_copies_keep_everything(result, copied, frames):
    other, frame = copied(result), frames("cbpp")
    pd.testing.assert_series_equal(other.params, result.params)
    pd.testing.assert_series_equal(other.bse, result.bse)
    pd.testing.assert_series_equal(other.predict(frame), result.predict(frame))
    pd.testing.assert_series_equal(other.resid_deviance, result.resid_deviance)
    pd.testing.assert_frame_equal(other.varcorr, result.varcorr)
    pd.testing.assert_frame_equal(other.wald_test_terms().table, result.wald_test_terms().table)
    ours, theirs = (r.get_prediction(frame).summary_frame() for r in (result, other))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-6)
    for name, blocks in result.random_effects_cov.items():
        np.testing.assert_allclose(other.random_effects_cov[name], blocks, rtol=1e-6)


def test_summary_after_data_are_removed(result):
    before = result.summary().as_text().split("No. Observations")[1]
    result.remove_data()
    assert result.summary().as_text().split("No. Observations")[1] == before
    for export in ("as_html", "as_latex", "as_csv"):
        assert getattr(result.summary(), export)()


def test_fits_leave_the_model_as_it_was(frames):
    model = ms.glmer("prop ~ period + (1 | herd)", frames("cbpp"), family="binomial", weights="size")
    first = model.fit()
    model.fit(nagq=9)
    model.fit(nagq=0)
    again = model.fit()
    np.testing.assert_array_equal(again.params, first.params)
    assert again.criterion == first.criterion


def test_refit_of_own_response_and_of_a_simulated_one(result):
    same = result.refit(result.model.endog)
    np.testing.assert_allclose(same.params, result.params, rtol=0, atol=1e-5 * np.asarray(result.bse).max())
    simulated = np.asarray(result.simulate(1, rng=5))[:, 0]
    other = result.refit(simulated)
    fresh = result.model.with_endog(simulated).fit(**{k: result.mle_settings[k] for k in ("nagq",)})
    np.testing.assert_allclose(other.criterion + other.penalty, fresh.criterion + fresh.penalty, atol=1e-6)
