"""lme4's way with families that have a dispersion."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.core.criteria.laplace import LaplaceDeviance

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.random_effects import RandomEffects
    from mvmise_sm.core.criteria.pirls import Mode
    from mvmise_sm.core.criteria.solution import GeneralizedSolution
    from mvmise_sm.core.families.response import FamilyResponse, RowTerms

__all__ = ["ClassicDispersion"]


class ClassicDispersion(LaplaceDeviance):
    """lme4's criterion for families with a dispersion: A(D) + u'u + log|M| with everything else at dispersion 1.

    D is the deviance at the mode and A(D) = -2 log f at the dispersion D / n, plus 2. It is not a likelihood: the
    random effects are weighed as if the dispersion were 1. The reported dispersion is (Pearson statistic + u'u) / n.
    """

    def __init__(
        self,
        response: FamilyResponse,
        X: np.ndarray,
        random: RandomEffects,
        *,
        priors: Any | None = None,
        offset: np.ndarray | None = None,
    ) -> None:
        response.set_shape(0.0)
        response.estimates_shape = False
        super().__init__(response, X, random, priors=priors, offset=offset)

    def _integral(self, mode: Mode, merged: list[np.ndarray]) -> float:
        profile, _ = self.response.distribution.profile(self._deviance(mode.terms))
        return profile + mode.square + mode.weighted.logdet

    def _pull(self, rows: RowTerms) -> np.ndarray:
        return -2.0 * (self.response.distribution.profile(self._deviance(rows))[1] - 1.0) * rows.score

    def _deviance(self, rows: RowTerms) -> float:
        return float(self.response.deviance_rows(rows.mean).sum())

    def solve(self, x: np.ndarray) -> GeneralizedSolution:
        mode = self.mode(x)
        pearson = float((mode.terms.weight * (mode.terms.score / mode.terms.weight) ** 2).sum())
        sigma2 = (pearson + mode.square) / self.nobs
        # theta is relative already, unlike in the likelihood
        return replace(super().solve(x), sigma2=sigma2)
