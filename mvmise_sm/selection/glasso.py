"""Graphical lasso: a sparse precision matrix from a scatter matrix."""

from __future__ import annotations

import numpy as np
from scipy import linalg


def admm_precision(
    scatter: np.ndarray, n_rows: int, n_clusters: int, penalty: float, *, rho: float = 1.0, tol: float = 1e-5,
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
