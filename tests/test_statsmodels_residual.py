"""statsmodels' own generic tests on a linear model with structured residuals and no random effects."""

import numpy as np
import pytest
from statsmodels.base.tests.test_generic_methods import CheckGenericMixin
from statsmodels.base.tests.test_shrink_pickle import RemoveDataPickle

from mvmise_sm.core.covariance.patterns import subject_rows
from mvmise_sm.core.covariance.registry import make_residual
from mvmise_sm.core.covariance.residual import ResidualTerm
from mvmise_sm.models.linear import LinearMixedModel


def repeated(x, seed=3):
    """Response (nobs,) and an autoregression over four visits of each subject."""
    rng = np.random.default_rng(seed)
    nobs = len(x)
    subject, visit = np.arange(nobs) // 4, np.arange(nobs) % 4
    y = x.sum(axis=1) + 0.8 * rng.standard_normal(nobs // 4 + 1)[subject] + rng.standard_normal(nobs)
    structure = make_residual("ar1h", list("abcd"))
    return y, ResidualTerm(
        structure, subject_rows(subject, visit), "ar1h(visit | id)", "visit", "id", np.unique(subject)
    )


class TestRepeated(CheckGenericMixin):
    def setup_method(self):
        super().setup_method()
        y, term = repeated(self.exog)
        self.results = LinearMixedModel(y, self.exog, residual=term).fit()

    def test_zero_collinear(self):
        pytest.skip("asks for cov_type='HC0', which needs score_obs")


class TestRemoveDataRepeated(RemoveDataPickle):
    def setup_method(self):
        super().setup_method()
        y, term = repeated(self.exog)
        self.model_class = LinearMixedModel
        self.results = LinearMixedModel(y, self.exog, residual=term).fit()
        self.model_args = (y, self.exog)

    def test_remove_data_pickle(self):
        before = self.results.predict(self.xf)
        self.results.remove_data()
        np.testing.assert_allclose(self.results.predict(self.xf), before)
        assert "a variance per level" in str(self.results.summary())
