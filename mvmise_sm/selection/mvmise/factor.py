"""R's algorithm for model b (``mvMISE_b``), in vectors: every conditional covariance is rank one plus diagonal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.likelihood import FactorParams, variance_groups
from mvmise_sm.selection.mvmise.algorithm import Expectation, MvmiseFit, random_intercept, run_mvmise


@dataclass(frozen=True)
class FactorLaw:
    """Law of model b's missing values given the observed ones.

    Attributes
    ----------
    P : ndarray, (n_clusters,)
        Variance of b given the observed values.
    v : ndarray, (n_clusters,)
        Variance of b given all values.
    s : ndarray, (N,)
    """

    P: np.ndarray
    v: np.ndarray
    s: np.ndarray


class FactorSteps:
    """E- and M-step of ``mvMISE_b`` on one data set."""

    def __init__(self, data: SelectionData, first_sample_variance: bool) -> None:
        self.data = data
        self.group, self.indicator = variance_groups(data, first_sample_variance)
        self.seen = data.observed.astype(float)
        self.absent = 1.0 - self.seen
        self.y = np.where(data.observed, data.Y, 0.0)

    def start(self) -> FactorParams:
        """Fixed effects of the ML random-intercept model of the stacked outcomes; unit loadings and variances."""
        data = self.data
        fit = random_intercept(data, data.observed, reml=False)
        return FactorParams(
            beta=fit.beta, sigma2=np.ones(self.indicator.shape[1]), phi=np.zeros(3), tau=np.ones(data.n_outcomes)
        )

    def e_step(self, params: FactorParams) -> Expectation[FactorLaw]:
        """Expectations of the missing values."""
        data, tau, cluster = self.data, params.tau, self.data.cluster
        s = params.sigma2[self.group]
        weight = self.seen / s[:, None]
        mean = data.X @ params.beta
        resid = (self.y - mean) * self.seen
        P = 1.0 / (1.0 + data.cluster_sum(weight) @ tau**2)
        pulled = data.cluster_sum(weight * resid) @ tau
        missing_tau = data.cluster_sum(self.absent) @ tau
        sizes = data.sizes[cluster]
        b = (P * pulled + params.phi[1] * P * missing_tau / data.sizes)[cluster]
        shift = (params.phi[1] * s / sizes)[:, None]
        y = np.where(data.observed, self.y, mean + b[:, None] * tau + shift)
        loaded = data.cluster_sum(np.tensordot(weight[:, :, None] * data.X, tau, axes=(1, 0)))
        p = data.X.shape[2]
        information = (weight[:, :, None] * data.X).reshape(-1, p).T @ data.X.reshape(-1, p)
        information -= (loaded * P[:, None]).T @ loaded
        density = -0.5 * (
            self.seen.sum(axis=1) @ np.log(s) - np.log(P).sum() + (weight * resid**2).sum() - (P * pulled**2).sum()
        )
        cov_sum = P * missing_tau**2 + data.cluster_sum(self.absent * s[:, None]).sum(axis=1)
        v = 1.0 / (1.0 + (tau**2).sum() * data.cluster_sum(1.0 / s))
        return Expectation(y, cov_sum, float(density), information, FactorLaw(P, v, s))

    def m_step(self, params: FactorParams, expectation: Expectation[FactorLaw]) -> FactorParams:
        """Update fixed effects, loadings and error variances from the old parameters."""
        data, tau, cluster = self.data, params.tau, self.data.cluster
        law, y = expectation.law, expectation.y
        weight = 1.0 / law.s
        p = data.X.shape[2]
        resid = y - data.X @ params.beta
        b = law.v * (data.cluster_sum(resid * weight[:, None]) @ tau)
        row_b = b[cluster][:, None]
        weighted_x = (data.X * weight[:, None, None]).reshape(-1, p)
        beta = np.linalg.solve(weighted_x.T @ data.X.reshape(-1, p), weighted_x.T @ (y - row_b * tau).ravel())
        new_tau = (b @ data.cluster_sum(resid * weight[:, None])) / (b**2 @ data.cluster_sum(weight))
        return FactorParams(beta, self._variances(params, law, resid - row_b * tau, weight), params.phi, tau=new_tau)

    def _variances(self, params: FactorParams, law: FactorLaw, error: np.ndarray, weight: np.ndarray) -> np.ndarray:
        data, tau, cluster = self.data, params.tau, self.data.cluster
        loaded = data.cluster_sum(self.absent * weight[:, None]) @ tau**2
        v, vl = law.v[cluster][:, None], (law.v * loaded)[cluster][:, None]
        # diag of (I - vTT'R^-1) C (I - vTT'R^-1)' with C = P Tm Tm' + Sm
        spread = law.P[cluster][:, None] * (tau * (self.absent - vl)) ** 2
        spread += law.s[:, None] * self.absent - 2.0 * v * tau**2 * self.absent + v * vl * tau**2
        square = (error**2 + v * tau**2 + spread).sum(axis=1)
        return (square @ self.indicator) / (self.indicator.sum(axis=0) * data.n_outcomes)


def fit_mvmise_b(
    data: SelectionData,
    *,
    missing_y: bool = True,
    first_sample_variance: bool = False,
    start: FactorParams | None = None,
    maxiter: int = 100,
    tol: float = 1e-3,
) -> MvmiseFit:
    """Run ``mvMISE_b``.

    Parameters
    ----------
    data : SelectionData
    missing_y, first_sample_variance : bool, optional
        R's ``miss_y`` and ``sigma_diff``.
    start : FactorParams, optional
    maxiter, tol : optional
        R's ``maxIter`` and ``tol``.

    Returns
    -------
    MvmiseFit
    """
    steps = FactorSteps(data, first_sample_variance)
    start = steps.start() if start is None else start
    return run_mvmise(data, start, steps.e_step, steps.m_step, missing_y=missing_y, maxiter=maxiter, tol=tol)
