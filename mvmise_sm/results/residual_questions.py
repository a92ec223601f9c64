"""What a linear mixed model answers about its residuals: their structure, their covariance, draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.tools._decorators import cache_readonly

from mvmise_sm.results import residual

__all__ = ["ResidualQuestions"]


class ResidualQuestions:
    """Covariance, parameters and draws of the residuals; see `LinearMixedModelResults`."""

    # what the results that this serves have
    model: Any
    nobs: int
    theta: np.ndarray
    scale: float
    require_rows: Callable[[], None]

    @cache_readonly
    def residual_cov(self):
        """Covariance of the residuals of one subject at weight 1, DataFrame levels x levels.

        A dict of them by group for ``type(level | group/subject)``; None for correlations of distance and without a
        residual structure.
        """
        structure = self.model.residual_structure
        return None if structure is None else residual.residual_frames(structure, self.theta, self.scale)

    @cache_readonly
    def residual_corr(self):
        """Correlation of the residuals of one subject, like `residual_cov`."""
        structure = self.model.residual_structure
        return None if structure is None else residual.residual_frames(structure, self.theta, self.scale, True)

    @cache_readonly
    def residual_params(self):
        """Parameters of the residual structure, a Series: ``sd`` or ``sd[level]``, ``rho``, ``cor[a,b]``, ``range``."""
        structure = self.model.residual_structure
        if structure is None:
            return pd.Series({"sd": float(np.sqrt(self.scale))}, name="residual_params")
        return residual.residual_series(structure, self.theta, self.scale)

    def residual_variances(self):
        """Residual variance of every row over `scale`, at weight 1 (nobs,)."""
        self.require_rows()
        if self.model.residual is None:
            return np.ones(self.nobs)
        return residual.row_variances(self.model.residual_structure, self.model.residual.rows, self.theta)

    def residual_blocks(self):
        """Residual covariance over `scale` at weight 1 by subject; None without a residual structure.

        Pairs of rows (s, m) and matrices (s, m, m), one pair for every number of rows m.
        """
        self.require_rows()
        if self.model.residual is None:
            return None
        return residual.residual_blocks(self.model.residual_structure, self.model.residual.rows, self.theta)

    def residual_noise(self, rng, theta=None, scale=None):
        """Residuals (nobs,) drawn from the fit, or from its model at other variance parameters."""
        model = self.model
        if model.residual is None:
            noise = rng.standard_normal(model.nobs)
        else:
            at = self.theta if theta is None else theta
            noise = residual.draw_residuals(model.residual_structure, model.residual.rows, at, rng)
        size = np.sqrt(self.scale if scale is None else scale)
        return noise * (size if model.weights is None else size / np.sqrt(model.weights))

    def response_cov(self, rows):
        """Covariance of the response given the fixed effects, within blocks of rows.

        Parameters
        ----------
        rows : ndarray
            Positions of rows (m, n): m blocks of n rows.

        Returns
        -------
        ndarray
            (m, n, n).
        """
        self.require_rows()
        model, n = self.model, rows.shape[1]
        out = np.zeros((*rows.shape, n))
        weights = np.ones(rows.shape) if model.weights is None else model.weights[rows]
        if model.residual is None:
            out[:, np.arange(n), np.arange(n)] = self.scale / weights
        else:
            residual.add_blocks(out, rows, self.residual_blocks())
            root = np.sqrt(self.scale / weights)
            out *= root[:, :, None] * root[:, None, :]
        random = model.random_effects
        for term, lam in zip(random.terms, random.lambdas(self.theta), strict=True):
            columns = [np.ones(self.nobs) if c is None else c for c in term.columns]
            half = (np.column_stack(columns) @ lam)[rows]
            if term.factor.loaded:
                # levels with known relationships, or rows that belong to several levels
                loads = term.factor.incidence()[rows]
                shared = loads @ loads.transpose(0, 2, 1)
            else:
                codes = term.factor.codes[rows]
                shared = codes[:, :, None] == codes[:, None, :]
            out += self.scale * shared * (half @ half.transpose(0, 2, 1))
        return out
