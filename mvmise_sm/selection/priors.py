"""Bound priors as a penalty on the natural parameters of a selection model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mvmise_sm.priors.resolve import PriorSet
from mvmise_sm.selection.likelihood import SelectionParams


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

    def __call__(self, params: SelectionParams) -> tuple[float, SelectionParams]:
        """Value and gradient over the natural parameters."""
        s2 = residual_variance(params)
        total, in_s2 = 0.0, 0.0
        beta = np.zeros_like(params.beta)
        for block in self.priors.fixef:
            at = block.evaluate(params.beta, s2)
            total, beta, in_s2 = total + at.value, beta + at.gradient, in_s2 + at.in_s2
        loadings = np.zeros_like(params.tau) if params.tau is not None else None
        variances = np.zeros_like(params.D) if params.D is not None else None
        prior = self.priors.cov[0] if self.priors.cov else None
        if prior is not None and loadings is not None:
            for k, tau in enumerate(params.tau):
                value, slope, along = prior.relative(np.array([[tau**2]]), s2)
                total, in_s2 = total + value, in_s2 + along
                loadings[k] = 2.0 * tau * slope[0, 0]
        elif prior is not None:
            value, slope, in_more = prior.relative(np.diag(params.D), s2)
            total, in_s2, variances = total + value, in_s2 + in_more, np.diag(slope).copy()
        if self.priors.resid is not None:
            value, slope = self.priors.resid.evaluate(np.array([[s2]]))
            total, in_s2 = total + value, in_s2 + float(slope[0, 0])
        gradient = replace(params.zeros(), beta=0.5 * beta)
        if loadings is not None:
            sigma2 = np.zeros_like(params.sigma2)
            sigma2[-1] = 0.5 * in_s2
            return 0.5 * total, replace(gradient, tau=0.5 * loadings, sigma2=sigma2)
        error_cov = 0.5 * in_s2 / len(params.error_cov) * np.eye(len(params.error_cov))
        return 0.5 * total, replace(gradient, D=0.5 * variances, error_cov=error_cov)


def residual_variance(params: SelectionParams) -> float:
    """The variance that priors on the common scale refer to."""
    if params.error_cov is None:
        return float(params.sigma2[-1])
    return float(np.diag(params.error_cov).mean())
