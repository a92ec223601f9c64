"""Questions that only generalised models are asked: error of the approximation, intervals of responses, dispersion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.exceptions import OptionError

__all__ = ["GeneralizedQuestions"]


class GeneralizedQuestions:
    """What only generalised models are asked; see `GeneralizedLinearMixedModelResults`."""

    # what the results that this serves have
    family: Any
    nobs: int
    k_params: int
    k_scale: int
    resid_pearson: np.ndarray

    def overdispersion(self):
        """Compare the Pearson residuals with what the family allows.

        Returns
        -------
        Series
            ``chisq``, the sum of squared Pearson residuals; ``df``, residual degrees of freedom (rows less estimated
            parameters); ``ratio`` and the upper-tail ``p_value``. A ratio well above 1 says that the counts vary more
            than the model.

        Raises
        ------
        OptionError
            For families that estimate their dispersion.
        """
        if self.k_scale:
            raise OptionError(f"the {self.family.shown()} family estimates its dispersion: see scale")
        chisq = float(np.square(self.resid_pearson).sum())
        df = self.nobs - self.k_params
        return pd.Series({"chisq": chisq, "df": df, "ratio": chisq / df, "p_value": stats.chi2.sf(chisq, df)})

    def laplace_error(self):
        """Say how far the Laplace approximation is from the exact integral over the random effects.

        Returns
        -------
        DataFrame
            ``estimate, shift, shift_se`` by parameter: the expected change of the estimate if the integral were exact,
            and the same in standard errors; attribute ``llf``, the log-likelihood with the next term of the expansion.
            It is no criterion to fit by; where shifts matter, fit with ``nagq``.

        References
        ----------
        Shun and McCullagh (1995). Laplace approximation of high dimensional integrals. Journal of the Royal Statistical
        Society B 57. Raudenbush, Yang and Yosef (2000). Maximum likelihood for generalized linear models with nested
        random effects via high-order, multivariate Laplace approximation. Journal of Computational and Graphical
        Statistics 9.
        """
        from mvmise_sm.inference.laplace_error import laplace_error

        return laplace_error(self)

    def resid_quantile(self, rng=None):
        """Randomised quantile residuals given the random effects (nobs,), standard normal if the model holds.

        Parameters
        ----------
        rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
            Where the distribution function jumps, a uniform point of the jump is taken.
        """
        from mvmise_sm.inference.simulated import quantile_residuals

        return quantile_residuals(self, rng)

    def prediction_interval(self, frame=None, alpha=0.05, random="all", n=2000, rng=None, *, allow_new_levels=False):
        """Intervals of responses by simulation.

        Parameters
        ----------
        frame : DataFrame, optional
            New rows; the model's own by default.
        alpha : float, optional
            One minus the coverage.
        random : {"all", "none"} or list of str, optional
            Random effects to take from the fit; the others are drawn anew.
        n : int, optional
            Draws for each row: of the linear predictor with its uncertainty, then of the response.
        rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
        allow_new_levels : bool, optional
            Whether an unknown level has a new random effect; otherwise it is an error.

        Returns
        -------
        DataFrame
            ``mean, pi_low, pi_high``.
        """
        from mvmise_sm.inference.simulated import prediction_interval

        return prediction_interval(self, frame, alpha, random, n, rng, allow_new_levels)
