"""Bound priors as a penalty on the natural parameters of a selection model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mvmise_sm.priors.resolve import PriorSet
from mvmise_sm.selection.likelihood import P, SelectionParams


@dataclass(frozen=True)
class PriorPenalty:
    """Negative log density of the priors on fixed effects, random-effect variances and residual variance.

    In model b the covariance prior applies to every squared loading, a 1 x 1 covariance; in model e to every element of
    D. The residual variance is sigma2 in model b (that of all but the first samples where these have their own) and the
    mean of the diagonal of Sigma in model e; priors on the common scale refer to it.

    Attributes
    ----------
    priors : PriorSet
        Bound to one random-effects term, with independent columns.
    """

    priors: PriorSet

    def __call__(self, params: P) -> tuple[float, P]:
        """Value and gradient over the natural parameters."""
        s2 = residual_variance(params)
        total, in_s2 = 0.0, 0.0
        beta = np.zeros_like(params.beta)
        for block in self.priors.fixef:
            at = block.evaluate(params.beta, s2)
            total, beta, in_s2 = total + at.value, beta + at.gradient, in_s2 + at.in_s2
        gradient = replace(params.zeros(), beta=0.5 * beta)
        prior = self.priors.cov[0] if self.priors.cov else None
        if prior is not None and params.tau is not None:
            loadings = np.zeros_like(params.tau)
            for k, tau in enumerate(params.tau):
                value, slope, along = prior.relative(np.array([[tau**2]]), s2)
                total, in_s2 = total + value, in_s2 + along
                loadings[k] = tau * slope[0, 0]
            gradient = replace(gradient, tau=loadings)
        elif prior is not None and params.D is not None:
            value, slope, along = prior.relative(np.diag(params.D), s2)
            total, in_s2 = total + value, in_s2 + along
            gradient = replace(gradient, D=0.5 * np.diag(slope))
        if self.priors.resid is not None:
            value, slope = self.priors.resid.evaluate(np.array([[s2]]))
            total, in_s2 = total + value, in_s2 + float(slope[0, 0])
        if params.error_cov is None:
            sigma2 = np.zeros_like(params.sigma2)
            sigma2[-1] = 0.5 * in_s2
            return 0.5 * total, replace(gradient, sigma2=sigma2)
        K = len(params.error_cov)
        return 0.5 * total, replace(gradient, error_cov=0.5 * in_s2 / K * np.eye(K))


def residual_variance(params: SelectionParams) -> float:
    """The variance that priors on the common scale refer to."""
    if params.error_cov is None:
        return float(params.sigma2[-1])
    return float(np.diag(params.error_cov).mean())
