"""Results of linear mixed models with a formula for the residual standard deviation."""

from __future__ import annotations

import numpy as np

from mvmise_sm.options import strict_options
from mvmise_sm.results.multipart import MultiPartResults, MultiPartResultsWrapper

__all__ = ["LinearDispersionResults", "LinearDispersionResultsWrapper"]


@strict_options
class LinearDispersionResults(MultiPartResults):
    """Results of a `LinearDispersionModel`; ``dispersion`` is the residual standard deviation by row.

    Attributes
    ----------
    reml : bool
        Whether the fit is by REML.
    """

    def __init__(self, model, *args, reml, **kwargs):
        self.reml = reml
        super().__init__(model, *args, **kwargs)
        self._estimator = "REML" if reml else "ML"
        self._criterion_name = "REML criterion" if reml else "-2 Log-Likelihood"

    @property
    def restricted(self):
        """Whether the likelihood is the restricted one (REML)."""
        return self.reml

    @property
    def cov_params_default(self):
        """Covariance of all coefficients; after REML that of beta is (X'V^-1X)^-1."""
        cov = super().cov_params_default
        if self.reml and self.cov_type != "rx":
            cov = np.array(cov)
            cov[: self.k_fe, : self.k_fe] = np.asarray(self.cov_rx)[: self.k_fe, : self.k_fe]
        return cov

    @cov_params_default.setter
    def cov_params_default(self, value):
        self.cov_rx = value

    def _header_rows(self):
        return []


class LinearDispersionResultsWrapper(MultiPartResultsWrapper):
    """Attach pandas labels to the arrays of a `LinearDispersionResults`."""
