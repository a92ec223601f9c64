"""Cluster-robust covariance of fixed effects and what its degrees of freedom need, from the blocks of V by cluster."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["ADJUSTMENTS", "Block", "ClusterRobust", "cluster_robust"]

ADJUSTMENTS = ("CR0", "CR1", "CR1p", "CR1S", "CR2", "CR3")
_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Clusters of one size.

    Attributes
    ----------
    exog : ndarray
        Design (m, n, p).
    cov : ndarray
        Covariance of the response that the model implies (m, n, n).
    resid : ndarray
        Response less its fitted mean without random effects (m, n).
    """

    exog: np.ndarray
    cov: np.ndarray
    resid: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class ClusterRobust:
    """A robust covariance with the moments of its law under the model.

    Attributes
    ----------
    cov : ndarray
        Robust covariance (p, p).
    bread : ndarray
        M = (X'V^-1X)^-1 (p, p).
    meat : ndarray
        P_i = E_i'V_iE_i of every cluster (m, p, p), E_i = sqrt(f) A_i'V_i^-1X_i.
    cross : ndarray
        K_i = X_i'E_i (m, p, p).
    """

    cov: np.ndarray
    bread: np.ndarray
    meat: np.ndarray
    cross: np.ndarray

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.meat)

    def _projected(self, contrasts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """U_s (q, m, p) with rows K_i M l_s, and D_st (q, q, m) = l_s'M P_i M l_t."""
        half = contrasts @ self.bread
        u = np.einsum("ijk,sk->sij", self.cross, half)
        d = np.einsum("sj,ijk,tk->sti", half, self.meat, half, optimize=True)
        return u, d

    def df(self, contrasts: np.ndarray) -> np.ndarray:
        """Satterthwaite's degrees of freedom tr(G)^2 / tr(G^2) of each row of `contrasts` (q, p)."""
        out = np.empty(len(contrasts))
        for s, row in enumerate(contrasts):
            u, d = self._projected(row[None])
            u, d = u[0], d[0, 0]
            own = np.einsum("ij,jk,ik->i", u, self.bread, u)
            inner = self.bread @ (u.T @ u)
            square = float(d @ d - 2.0 * d @ own + np.trace(inner @ inner))
            trace = float(d.sum() - own.sum())
            out[s] = trace**2 / square if square > 0.0 else np.nan
        return out

    def hotelling(self, contrasts: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
        """F statistic of L beta with degrees of freedom after Pustejovsky and Tipton's approximation HTZ.

        Parameters
        ----------
        contrasts : ndarray
            L of full row rank (q, p).
        values : ndarray
            L beta_hat less its hypothetical value (q,).

        Returns
        -------
        statistic, df_denom, eta : float
            NaN for the first two where `eta` is not above q - 1: there are too few clusters.
        """
        q = len(contrasts)
        # Standardised by E[L cov L'], so that a constant factor of the covariance changes nothing but F.
        expected = self._traces(contrasts)
        sizes, vectors = np.linalg.eigh(expected)
        rows = (vectors / np.sqrt(sizes)) @ vectors.T @ contrasts
        u, d = self._projected(rows)
        own = np.einsum("sij,jk,tik->sti", u, self.bread, u)
        products = np.einsum("sij,tik->stjk", u, u)
        through = np.einsum("jk,stkl->stjl", self.bread, products)
        spread = 0.0
        for s in range(q):
            for t in range(q):
                spread += d[s, t] @ d[s, t] - 2.0 * d[s, t] @ own[s, t] + np.sum(through[t, s] * through[t, s].T)
                spread += d[s, s] @ d[t, t] - d[s, s] @ own[t, t] - d[t, t] @ own[s, s]
                spread += np.sum(through[s, t] * through[t, s].T)
        eta = q * (q + 1.0) / float(spread)
        if not eta > q - 1.0:
            return np.nan, np.nan, eta
        wald = float(values @ np.linalg.solve(contrasts @ self.cov @ contrasts.T, values))
        df = eta - q + 1.0
        return df / (eta * q) * wald, df, eta

    def _traces(self, contrasts: np.ndarray) -> np.ndarray:
        """tr G(l_s, l_t), the expectation of L cov L' under the model (q, q)."""
        u, d = self._projected(contrasts)
        return d.sum(axis=2) - np.einsum("sij,jk,tik->st", u, self.bread, u)


def cluster_robust(blocks: Iterable[Block], bread: np.ndarray, adjustment: str, nobs: int) -> ClusterRobust:
    """Robust covariance of the fixed effects.

    Parameters
    ----------
    blocks : iterable of Block
        All clusters, those of one size together.
    bread : ndarray
        (X'V^-1X)^-1 (p, p).
    adjustment : {"CR0", "CR1", "CR1p", "CR1S", "CR2", "CR3"}
        No correction; a factor m / (m - 1), m / (m - p), or Stata's; corrections of the residuals that make the
        covariance unbiased under the model (CR2), or near the jackknife (CR3).
    nobs : int
        Rows in all clusters.

    Returns
    -------
    ClusterRobust

    References
    ----------
    Bell and McCaffrey (2002), Survey Methodology 28; Pustejovsky and Tipton (2018), Journal of Business and Economic
    Statistics 36, equations 7 to 10.
    """
    scores, meat, cross = [], [], []
    for block in blocks:
        e = _adjusted(block, bread, adjustment)
        scores.append(np.einsum("mnp,mn->mp", e, block.resid))
        meat.append(e.transpose(0, 2, 1) @ block.cov @ e)
        cross.append(block.exog.transpose(0, 2, 1) @ e)
    score, p_i, k_i = np.concatenate(scores), np.concatenate(meat), np.concatenate(cross)
    m, p = score.shape
    factor = {
        "CR1": m / (m - 1.0),
        "CR1p": m / (m - p) if m > p else np.nan,
        "CR1S": m * (nobs - 1.0) / ((m - 1.0) * (nobs - p)),
    }.get(adjustment, 1.0)
    cov = factor * bread @ (score.T @ score) @ bread
    return ClusterRobust(cov, bread, factor * p_i, np.sqrt(factor) * k_i)


def _adjusted(block: Block, bread: np.ndarray, adjustment: str) -> np.ndarray:
    """E_i = A_i'V_i^-1X_i (m, n, p) without the common factor."""
    weighted = np.linalg.solve(block.cov, block.exog)
    if adjustment == "CR3":
        hat = block.exog @ bread @ weighted.transpose(0, 2, 1)
        left = np.eye(block.exog.shape[1]) - hat.transpose(0, 2, 1)
        return np.stack([np.linalg.pinv(a, rcond=_TOLERANCE) @ b for a, b in zip(left, weighted, strict=True)])
    if adjustment != "CR2":
        return weighted
    upper = np.linalg.cholesky(block.cov).transpose(0, 2, 1)
    left = block.cov - block.exog @ bread @ block.exog.transpose(0, 2, 1)
    values, vectors = np.linalg.eigh(upper @ left @ upper.transpose(0, 2, 1))
    keep = values > _TOLERANCE * np.maximum(values[:, -1:], 1e-300)
    root = np.where(keep, 1.0 / np.sqrt(np.where(keep, values, 1.0)), 0.0)
    rotated = vectors.transpose(0, 2, 1) @ (upper @ weighted)
    return upper.transpose(0, 2, 1) @ (vectors @ (root[:, :, None] * rotated))
