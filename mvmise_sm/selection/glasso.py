"""Graphical lasso: a sparse precision matrix from a scatter matrix."""

from __future__ import annotations

import numpy as np
from scipy import linalg


def admm_precision(
    scatter: np.ndarray,
    n_rows: int,
    n_clusters: int,
    penalty: float,
    *,
    rho: float = 1.0,
    tol: float = 1e-5,
    maxiter: int = 500,
) -> np.ndarray:
    """The precision matrix of mvMISE's ADMM, cold start and stopping rule included.

    Parameters
    ----------
    scatter : ndarray, (K, K)
        Expected cross-products of the errors, summed over the rows.
    n_rows, n_clusters : int
    penalty : float
        Weight of the off-diagonal L1 norm; it acts per cluster, not per row.

    Returns
    -------
    ndarray, (K, K)
        R returns this iterate, which is not exactly sparse.
    """
    K = len(scatter)
    theta, split, dual = np.eye(K), np.zeros((K, K)), np.zeros((K, K))
    weight = n_clusters * rho
    for _ in range(maxiter):
        values, vectors = linalg.eigh((weight * (dual - split) + scatter) / n_rows)
        roots = n_rows * (-values + np.sqrt(values**2 + 4.0 * weight / n_rows)) / (2.0 * weight)
        old, theta = theta, (vectors * roots) @ vectors.T
        total = theta + dual
        split = np.sign(total) * np.maximum(np.abs(total) - penalty / rho, 0.0)
        np.fill_diagonal(split, np.diag(total))
        dual = dual + theta - split
        if np.abs(theta - old).sum() < tol * np.abs(old).sum():
            break
    return theta


def lasso_precision(
    covariance: np.ndarray, penalty: np.ndarray, *, tol: float = 1e-7, maxiter: int = 2000
) -> np.ndarray:
    """Minimise ``-log|Theta| + tr(covariance Theta) + sum_kl penalty_kl |Theta_kl|`` over k != l, exactly sparse.

    ADMM on the scale of correlations, with a step that balances the residuals.

    Parameters
    ----------
    covariance : ndarray, (K, K)
    penalty : ndarray, (K, K)
        The diagonal is ignored.

    Returns
    -------
    ndarray, (K, K)
    """
    sd = np.sqrt(np.diag(covariance))
    S = covariance / np.outer(sd, sd)
    bound = penalty / np.outer(sd, sd)
    np.fill_diagonal(bound, 0.0)
    K = len(S)
    split, dual, rho = np.eye(K), np.zeros((K, K)), 1.0
    for _ in range(maxiter):
        values, vectors = linalg.eigh(rho * (split - dual) - S)
        theta = (vectors * ((values + np.sqrt(values**2 + 4.0 * rho)) / (2.0 * rho))) @ vectors.T
        old, total = split, theta + dual
        split = np.sign(total) * np.maximum(np.abs(total) - bound / rho, 0.0)
        dual = total - split
        primal, change = np.linalg.norm(theta - split), rho * np.linalg.norm(split - old)
        if max(primal, change) < tol * K:
            break
        factor = 2.0 if primal > 10.0 * change else 0.5 if change > 10.0 * primal else 1.0
        rho, dual = rho * factor, dual / factor
    return split / np.outer(sd, sd)
