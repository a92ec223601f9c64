"""The random-intercept model of stacked outcomes, ML or REML: R's starting values and its intraclass correlations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq


@dataclass(frozen=True)
class InterceptFit:
    """Fit of ``y = X beta + b[cluster] + e``.

    Attributes
    ----------
    beta : ndarray, (p,)
    D, sigma2 : float
        Variance of the intercepts and of the errors.
    """

    beta: np.ndarray
    D: float
    sigma2: float

    @property
    def icc(self) -> float:
        """Intraclass correlation."""
        return self.D / (self.D + self.sigma2)


def fit_random_intercept(y: np.ndarray, X: np.ndarray, cluster: np.ndarray, *, reml: bool) -> InterceptFit:
    """Fit by profiling over the variance ratio, whose derivative is solved for its root.

    Parameters
    ----------
    y : ndarray, (n,)
    X : ndarray, (n, p)
        Columns that are dependent are dropped as lme4 does; their coefficient is zero.
    cluster : ndarray of int, (n,)
    reml : bool
    """
    used, cluster = np.unique(cluster, return_inverse=True)
    columns = _independent(X)
    x = X[:, columns]
    n, p = x.shape
    sizes = np.bincount(cluster).astype(float)
    both = np.column_stack([x, y])
    gram = both.T @ both
    sums = np.zeros((used.size, p + 1))
    np.add.at(sums, cluster, both)
    degrees = n - p if reml else n

    def parts(ratio: float):
        cross = gram - (sums * (ratio / (1.0 + sizes * ratio))[:, None]).T @ sums
        beta = np.linalg.solve(cross[:p, :p], cross[:p, p])
        return cross[:p, :p], beta, float(cross[p, p] - beta @ cross[:p, p])

    def slope(log_ratio: float) -> float:
        ratio = np.exp(log_ratio)
        xvx, beta, rss = parts(ratio)
        shrink = 1.0 / (1.0 + sizes * ratio)
        left = sums[:, p] - sums[:, :p] @ beta
        out = (sizes * shrink).sum() - degrees * ((left * shrink) ** 2).sum() / rss
        if reml:
            scaled = sums[:, :p] * shrink[:, None]
            out -= np.trace(np.linalg.solve(xvx, scaled.T @ scaled))
        return out

    grid = np.linspace(-14.0, 9.0, 47)
    slopes = np.array([slope(g) for g in grid])
    ratio = 0.0
    up = np.flatnonzero((slopes[:-1] < 0.0) & (slopes[1:] >= 0.0))
    if up.size:
        ratio = float(np.exp(brentq(slope, grid[up[0]], grid[up[0] + 1], xtol=1e-14, rtol=1e-14)))
    _, beta, rss = parts(ratio)
    full = np.zeros(X.shape[1])
    full[columns] = beta
    sigma2 = rss / degrees
    return InterceptFit(full, ratio * sigma2, sigma2)


def _independent(X: np.ndarray) -> np.ndarray:
    """Indices of columns that are not combinations of earlier ones."""
    keep: list[int] = []
    for column in range(X.shape[1]):
        trial = [*keep, column]
        if np.linalg.matrix_rank(X[:, trial], tol=1e-7 * max(np.abs(X[:, column]).max(), 1e-300)) == len(trial):
            keep.append(column)
    return np.array(keep)
