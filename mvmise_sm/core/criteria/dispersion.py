"""The linear mixed model whose residual standard deviation has a predictor, by ML or REML.

The Laplace approximation is exact for a normal response. REML adds log|X'V^-1X|, V = diag(sd_i^2) + Z Sigma Z', which
does not depend on beta: the joint minimum in (theta, beta, delta) is the REML estimate.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.core.criteria.parts import PartsDeviance
from mvmise_sm.core.criteria.pirls import inner

__all__ = ["DispersionDeviance"]

_LOG_2PI = float(np.log(2.0 * np.pi))


class DispersionDeviance(PartsDeviance):
    """-2 log L, or the REML criterion, in theta, beta and the coefficients of log sd.

    Parameters
    ----------
    *given
        As in `PartsDeviance`; the family is the normal one with the identity link.
    reml : bool
    """

    def __init__(self, *given: Any, reml: bool = True, **options: Any):
        super().__init__(*given, **options)
        self.reml = reml

    def _restricted(self, mode: Any) -> tuple[np.ndarray, Any, Any]:
        """X'V^-1X (p, p), Z'V^-1X by factor, and rows of X less their prediction from Z (nobs, p); working columns."""
        X, w = self.design.columns[0][0], mode.terms.observed
        scaled = X * w[:, None]
        zx = self.incidence.transposed_many(np.ascontiguousarray(scaled.T))
        coef, score = mode.weighted.solve_blocks(zx)
        rest = X.copy()
        for j in range(X.shape[1]):
            rest[:, j] -= self.incidence.times([c[:, :, j] for c in coef])
        return X.T @ scaled - inner(zx, coef), score, rest

    def _integral(self, mode: Any, merged: Any) -> float:
        value = super()._integral(mode, merged)
        if not self.reml:
            return value
        information = self._restricted(mode)[0]
        p = information.shape[0]
        # log|X'V^-1X| of the user's columns: X = X_w A^-1
        scale = float(np.linalg.slogdet(self.design.user_map[:p, :p])[1]) if p else 0.0
        return value + float(np.linalg.slogdet(information)[1]) - 2.0 * scale - p * _LOG_2PI

    def _gradients(self, mode: Any, merged: Any) -> tuple:
        slopes, beta, shape = super()._gradients(mode, merged)
        if not self.reml:
            return slopes, beta, shape
        information, score, rest = self._restricted(mode)
        cov = np.linalg.inv(information)
        for k, g in enumerate(score):
            slopes[k] = slopes[k] - np.einsum("ajc,cd,bjd->ab", g, cov, g)
        pull = np.zeros((self.response.n_parts, self.nobs))
        pull[-1] = -2.0 * mode.terms.observed * ((rest @ cov) * rest).sum(axis=1)
        extra = self.design.adjoint(pull)
        return slopes, beta + extra[: self.k_fe], shape + extra[self.k_fe :]
