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
            value, slope, along = _fixef_term(block, params.beta, s2)
            total, beta, in_s2 = total + value, beta + slope, in_s2 + along
        loadings = np.zeros_like(params.tau) if params.tau is not None else None
        variances = np.zeros_like(params.D) if params.D is not None else None
        prior = self.priors.cov[0] if self.priors.cov else None
        if prior is not None and loadings is not None:
            for k, tau in enumerate(params.tau):
                value, slope, along = _covariance_term(prior, np.array([[tau**2]]), s2)
                total, in_s2 = total + value, in_s2 + along
                loadings[k] = 2.0 * tau * slope[0, 0]
        elif prior is not None:
            value, slope, in_more = _covariance_term(prior, np.diag(params.D), s2)
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


def _fixef_term(block, beta: np.ndarray, s2: float) -> tuple[float, np.ndarray, float]:
    """-2 log density of one quadratic penalty, its gradient in beta and its derivative in s2."""
    away = beta - block.mean
    turned = block.precision @ away
    power = s2 if block.common_scale else 1.0
    x = float(away @ turned) / power
    value, slope, _ = block.mixing.phi(x)
    value += block.constant + (block.rank * np.log(s2) if block.common_scale else 0.0)
    along = (block.rank - slope * x) / s2 if block.common_scale else 0.0
    return float(value), 2.0 * slope * turned / power, along


def _covariance_term(prior, S: np.ndarray, s2: float) -> tuple[float, np.ndarray, float]:
    """-2 log density at a covariance, its gradient in the covariance and its derivative in s2."""
    if not prior.common_scale:
        value, slope = prior.evaluate(S)
        return float(value), slope, 0.0
    value, slope = prior.evaluate(S / s2)
    return float(value), slope / s2, -float((slope * S).sum()) / s2**2
