"""statsmodels' own generic tests on the linear mixed model."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.base.tests.test_generic_methods import CheckGenericMixin
from statsmodels.base.tests.test_shrink_pickle import RemoveDataPickle

from mvmise_sm.models.linear import LinearMixedModel


def simulated(x, slope, seed=987689):
    """Response (nobs,) and groups for a design with a constant first."""
    rng = np.random.default_rng(seed)
    nobs = len(x)
    group = rng.integers(0, 25, nobs)
    y = x.sum(axis=1) + 0.8 * rng.standard_normal(25)[group] + rng.standard_normal(nobs)
    if slope:
        y += 0.6 * rng.standard_normal(25)[group] * x[:, 1]
    return y, group


def frame_of(x, slope):
    y, group = simulated(x, slope)
    return pd.DataFrame({"y": y, "x1": x[:, 1], "x2": x[:, 2], "x3": x[:, 3], "g": group})


class _Generic(CheckGenericMixin):
    def test_zero_collinear(self):
        pytest.skip("asks for cov_type='HC0', which needs score_obs")


class TestRandomIntercept(_Generic):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, False)
        self.results = LinearMixedModel(y, self.exog, group).fit()


class TestRandomInterceptML(_Generic):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, False)
        self.results = LinearMixedModel(y, self.exog, group).fit(reml=False, use_t=True)


class TestRandomSlope(_Generic):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, True)
        terms = {"g": (group, self.exog[:, :2])}
        weights = np.linspace(0.5, 2.0, len(y))
        self.results = LinearMixedModel(y, self.exog, terms, weights=weights).fit()


class TestRemoveDataIntercept(RemoveDataPickle):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, False)
        self.model_class, self.model_args = LinearMixedModel, (y, self.exog, group)
        self.results = self.estimate_model()


class TestRemoveDataSlope(RemoveDataPickle):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, True)
        self.model_class = LinearMixedModel
        self.model_args = (y, self.exog, {"g": (group, self.exog[:, :2])})
        self.results = self.estimate_model()


class TestRemoveDataPandas(RemoveDataPickle):
    def setup_method(self):
        super().setup_method()
        y, group = simulated(self.exog, False)
        exog = pd.DataFrame(self.exog, columns=["const", "a", "b", "c"])
        self.model_class = LinearMixedModel
        self.model_args = (pd.Series(y, name="y"), exog, pd.Series(group, name="g"))
        self.xf = pd.DataFrame(self.xf, columns=exog.columns)
        self.results = self.estimate_model()


class TestRemoveDataFormula(RemoveDataPickle):
    formula = "y ~ x1 + x2 + x3 + (1 | g)"

    def setup_method(self):
        super().setup_method()
        self.formula, self.reduction_factor = type(self).formula, 0.666  # the frame stays, it is needed for loading
        self.model_class, self.data = LinearMixedModel, frame_of(self.exog, True)
        self.xf = self.data.iloc[[0, 500]].assign(x1=0.25)
        self.results = self.estimate_model()


class TestRemoveDataFormulaSlope(TestRemoveDataFormula):
    formula = "np.exp(y / 10) ~ x1 + center(x2) + np.abs(x3) + (x1 | g)"
