"""R's algorithm for model e (``mvMISE_e``), batched over clusters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.glasso import admm_precision
from mvmise_sm.selection.likelihood import ErrorParams, variance_groups
from mvmise_sm.selection.mvmise.algorithm import Expectation, MvmiseFit, random_intercept, run_mvmise

LARGE = 1e5
ICC_LIMIT = 0.05


@dataclass(frozen=True)
class ErrorLaw:
    """Law of model e's missing values given the observed ones: ``C = F P F' + blockdiag(s_j C_j)``.

    Attributes
    ----------
    s : ndarray, (N,)
    P : ndarray, (n_clusters, q, q)
        Covariance of b given the observed values.
    loading : ndarray, (N, K, q)
        F, zero for observed values.
    cov : ndarray, (n_clusters, K, K)
        C_j of every row of a cluster, zero for observed values.
    """

    s: np.ndarray
    P: np.ndarray
    loading: np.ndarray
    cov: np.ndarray


def impute_sporadic(data: SelectionData) -> SelectionData:
    """Replace sporadic missing values by the mean of their block, as ``mvMISE_e`` does before anything else."""
    seen = data.observed
    counts = data.cluster_sum(seen.astype(float))
    means = data.cluster_sum(np.where(seen, data.Y, 0.0)) / np.where(counts > 0, counts, np.nan)
    return replace(data, Y=np.where(seen, data.Y, means[data.cluster]))


class ErrorSteps:
    """E- and M-step of ``mvMISE_e`` on one data set without sporadic missing values.

    Parameters
    ----------
    data : SelectionData
    first_sample_variance : bool
    penalty : float
        Lasso penalty; zero for the unstructured covariance.
    no_intercept : bool
        R's hidden rule: the random effects are taken out when the median intraclass correlation is below 0.05.
    """

    def __init__(self, data: SelectionData, first_sample_variance: bool, penalty: float, no_intercept: bool) -> None:
        self.data = data
        self.group, self.indicator = variance_groups(data, first_sample_variance)
        self.penalty = penalty
        self.no_intercept = no_intercept
        self.y = np.where(data.observed, data.Y, 0.0)
        self.seen = (~data.block_missing).astype(float)
        self.both = self.seen[:, :, None] * self.seen[:, None, :]
        self.absent = 1.0 - self.seen
        self.empty_diagonal = np.eye(data.n_outcomes) * self.absent[:, :, None]

    def start(self) -> ErrorParams:
        """The REML random-intercept model of the stacked outcomes, and uncorrelated errors."""
        data = self.data
        fit = random_intercept(data, data.observed, reml=True)
        D = 0.0 if self.no_intercept else fit.D
        return ErrorParams(
            beta=fit.beta,
            sigma2=np.full(self.indicator.shape[1], fit.sigma2),
            phi=np.zeros(3),
            D=np.full(data.Z.shape[2], D),
            error_cov=np.eye(data.n_outcomes),
        )

    def e_step(self, params: ErrorParams) -> Expectation[ErrorLaw]:
        """Expectations of the missing values."""
        data, cluster, Sigma, Z = self.data, self.data.cluster, params.error_cov, self.data.Z
        s = params.sigma2[self.group]
        block = Sigma * self.both + self.empty_diagonal
        A = np.linalg.inv(block) * self.both
        rows = A[cluster] / s[:, None, None]
        mean = data.X @ params.beta
        resid = (self.y - mean) * self.seen[cluster]
        scaled = _times(rows, resid)
        WZ = rows @ Z
        ZWZ = data.cluster_sum(_transposed(Z) @ WZ)
        inner = np.eye(Z.shape[2]) + ZWZ * params.D
        P = params.D[:, None] * np.linalg.inv(inner)
        score = data.cluster_sum(_times(_transposed(Z), scaled))
        b = _times(P, score)
        unit = (np.eye(len(Sigma)) - A @ Sigma) * self.absent[:, None, :]
        cov = (Sigma @ unit) * self.absent[:, :, None]
        loading = _transposed(unit)[cluster] @ Z
        imputed = _times(_transposed((A @ Sigma) * self.absent[:, None, :])[cluster], resid)
        # C 1 / n of the missing entries moves their means
        reach = _times(P, data.cluster_sum(loading.sum(axis=1)))
        shift = _times(loading, reach[cluster]) + s[:, None] * cov.sum(axis=2)[cluster]
        shift *= params.phi[1] / data.sizes[cluster][:, None]
        expected = mean + imputed + _times(loading, b[cluster]) + shift
        y = np.where(self.seen[cluster] > 0, self.y, expected)
        WX = (rows @ data.X).reshape(-1, data.X.shape[2])
        ZWX = data.cluster_sum(_transposed(WZ) @ data.X)
        information = data.X.reshape(-1, data.X.shape[2]).T @ WX - np.einsum("iqa,iqr,irb->ab", ZWX, P, ZWX)
        density = -0.5 * (
            np.linalg.slogdet(inner)[1].sum()
            + data.sizes @ np.linalg.slogdet(block)[1]
            + self.seen[cluster].sum(axis=1) @ np.log(s)
            + (scaled * resid).sum()
            - (score * b).sum()
        )
        total = data.cluster_sum(loading.sum(axis=1))
        cov_sum = (total * _times(P, total)).sum(axis=1) + data.cluster_sum(s) * cov.sum(axis=(1, 2))
        return Expectation(y, cov_sum, float(density), information, ErrorLaw(s, P, loading, cov))

    def m_step(self, params: ErrorParams, expectation: Expectation[ErrorLaw]) -> ErrorParams:
        """Update everything but the mechanism from the old parameters."""
        data, cluster, Z, K = self.data, self.data.cluster, self.data.Z, self.data.n_outcomes
        law, y = expectation.law, expectation.y
        precision = np.linalg.inv(params.error_cov)
        weight = 1.0 / law.s
        RZ = (precision @ Z) * weight[:, None, None]
        ZRZ = data.cluster_sum(_transposed(Z) @ RZ)
        if self.no_intercept:
            full = np.zeros_like(ZRZ)
            b = np.zeros(ZRZ.shape[:2])
        else:
            full = _posterior_covariances(params.D, ZRZ)
            b = _times(full, data.cluster_sum(_times(_transposed(RZ), y - data.X @ params.beta)))
        fitted = _times(Z, b[cluster])
        error = y - data.X @ params.beta - fitted
        blocks, spread_b = self._conditional_blocks(law, precision, RZ, full)
        D = params.D
        if not self.no_intercept:
            proposed = (b**2 + np.diagonal(full + spread_b, axis1=1, axis2=2)).mean(axis=0)
            D = np.where(proposed > LARGE, D, proposed)
        RX = ((precision @ data.X) * weight[:, None, None]).reshape(-1, data.X.shape[2])
        beta = np.linalg.solve(RX.T @ data.X.reshape(-1, data.X.shape[2]), RX.T @ (y - fitted).ravel())
        second = Z @ full[cluster] @ _transposed(Z) + blocks + error[:, :, None] * error[:, None, :]
        scatter = np.tensordot(weight, second, axes=1)
        if self.penalty > 0.0:
            theta = admm_precision(scatter, data.n_rows, data.n_clusters, self.penalty)
            Sigma = np.linalg.inv(theta)
        else:
            Sigma = scatter / data.n_rows
        traces = np.tensordot(second, precision, axes=([1, 2], [0, 1]))
        sigma2 = (traces @ self.indicator) / (self.indicator.sum(axis=0) * K)
        if sigma2.size == 2:
            ratio = sigma2[1] / sigma2[0]
            sigma2 = np.array([1.0, params.sigma2[1] if ratio > LARGE else ratio])
        return ErrorParams(beta, sigma2, params.phi, D=D, error_cov=Sigma)

    def _conditional_blocks(
        self, law: ErrorLaw, precision: np.ndarray, RZ: np.ndarray, full: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row blocks of ``B C B'`` with ``B = I - Z full Z'R^-1``, (N, K, K), and ``full Z'R^-1 C R^-1 Z full``."""
        data, cluster, Z = self.data, self.data.cluster, self.data.Z
        hold = full @ data.cluster_sum(_transposed(RZ) @ law.loading)
        kept = law.loading - Z @ hold[cluster]
        CRZ = law.s[:, None, None] * (law.cov[cluster] @ RZ)
        inner = data.cluster_sum(_transposed(RZ) @ CRZ)
        cross = CRZ @ full[cluster] @ _transposed(Z)
        middle = full @ inner @ full
        blocks = kept @ law.P[cluster] @ _transposed(kept) + law.s[:, None, None] * law.cov[cluster]
        blocks += Z @ middle[cluster] @ _transposed(Z) - cross - _transposed(cross)
        return blocks, hold @ law.P @ _transposed(hold) + middle


def _posterior_covariances(D: np.ndarray, ZRZ: np.ndarray) -> np.ndarray:
    """``(Z'R^-1 Z + D^-1)^-1`` of every cluster, (n_clusters, q, q).

    D^-1 is a generalised inverse: an effect whose variance starts at zero has no prior precision, and the first M-step
    moves it away from there.
    """
    if (D > 0.0).all():
        return D[:, None] * np.linalg.inv(np.eye(D.size) + ZRZ * D)
    return np.linalg.pinv(ZRZ + np.diag(np.where(D > 0.0, 1.0 / np.where(D > 0.0, D, 1.0), 0.0)), hermitian=True)


def median_icc(data: SelectionData) -> float:
    """Median over the outcomes of the ML intraclass correlation."""
    values = []
    for k in range(data.n_outcomes):
        own = data.observed & (np.arange(data.n_outcomes) == k)
        values.append(random_intercept(data, own, reml=False).icc)
    return float(np.median(values))


def fit_mvmise_e(
    data: SelectionData,
    *,
    missing_y: bool | None = None,
    first_sample_variance: bool = False,
    penalty: float | None = None,
    start: ErrorParams | None = None,
    maxiter: int = 100,
    tol: float = 1e-3,
) -> MvmiseFit:
    """Run ``mvMISE_e``.

    Parameters
    ----------
    data : SelectionData
    missing_y : bool, optional
        R's ``miss_y``; by default whether more than 5 % of the values are missing.
    first_sample_variance : bool, optional
        R's ``sigma_diff``.
    penalty : float, optional
        R's ``lambda``; zero is R's ``ADMM = FALSE``. The default is R's, ``sqrt(log(K) / N)``.
    start : ErrorParams, optional
    maxiter, tol : optional
        R's ``maxIter`` and ``tol``.

    Returns
    -------
    MvmiseFit
    """
    if missing_y is None:
        missing_y = bool(1.0 - data.observed.mean() > 0.05)
    data = impute_sporadic(data)
    # the stopping value is penalised by the default lambda even without the lasso
    weight = penalty or float(np.sqrt(np.log(data.n_outcomes) / data.n_rows))
    penalty = weight if penalty is None else penalty
    no_intercept = median_icc(data) < ICC_LIMIT
    if no_intercept:
        weight, penalty = 1.05 * weight, 1.05 * penalty
    steps = ErrorSteps(data, first_sample_variance, penalty, no_intercept)
    start = steps.start() if start is None else start

    def lasso(params: ErrorParams) -> float:
        theta = np.linalg.inv(params.error_cov)
        return 0.5 * weight * data.n_clusters * float(np.abs(theta).sum() - np.abs(np.diag(theta)).sum())

    fit = run_mvmise(
        data, start, steps.e_step, steps.m_step, missing_y=missing_y, maxiter=maxiter, tol=tol, penalty=lasso
    )
    theta = np.linalg.inv(fit.previous.error_cov)
    edges = int((np.abs(np.tril(theta, -1)) > 1e-5).sum())
    unpenalised = fit.loglikelihood + lasso(fit.previous)
    return replace(fit, aic=-2.0 * unpenalised + 2.0 * edges, penalty=penalty)


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (matrices @ vectors[:, :, None])[:, :, 0]


def _transposed(matrices: np.ndarray) -> np.ndarray:
    return matrices.transpose(0, 2, 1)
