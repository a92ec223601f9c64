"""Coordinates of the error covariance of model e: log-Cholesky, or the free elements of a sparse precision matrix."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class CovarianceCoordinates(Protocol):
    """A map from a free vector to a covariance matrix."""

    size: int

    def covariance(self, vector: np.ndarray) -> np.ndarray | None: ...
    def vector(self, covariance: np.ndarray) -> np.ndarray: ...
    def gradient(self, vector: np.ndarray, slope: np.ndarray) -> np.ndarray: ...
    def metric(self, vector: np.ndarray, n_rows: float) -> np.ndarray: ...


class LogCholesky:
    """Lower Cholesky factor with logarithms on its diagonal, row by row: every covariance, no constraint."""

    def __init__(self, n_outcomes: int) -> None:
        self.rows, self.columns = np.tril_indices(n_outcomes)
        self.size = self.rows.size
        self._diagonal = np.flatnonzero(self.rows == self.columns)
        self._n = n_outcomes

    def _factor(self, vector: np.ndarray) -> np.ndarray:
        values = vector.copy()
        values[self._diagonal] = np.exp(values[self._diagonal])
        factor = np.zeros((self._n, self._n))
        factor[self.rows, self.columns] = values
        return factor

    def covariance(self, vector: np.ndarray) -> np.ndarray | None:
        """The covariance, or None where it over- or underflows."""
        if np.abs(vector[self._diagonal]).max() > 30.0 or not np.isfinite(vector).all():
            return None
        factor = self._factor(vector)
        return factor @ factor.T

    def vector(self, covariance: np.ndarray) -> np.ndarray:
        """Coordinates of a positive definite matrix."""
        out = np.linalg.cholesky(covariance)[self.rows, self.columns]
        out[self._diagonal] = np.log(out[self._diagonal])
        return out

    def gradient(self, vector: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Gradient of a function with differential ``tr(slope dSigma)``, slope symmetric."""
        factor = self._factor(vector)
        out = 2.0 * (slope @ factor)[self.rows, self.columns]
        out[self._diagonal] *= np.diag(factor)
        return out

    def metric(self, vector: np.ndarray, n_rows: float) -> np.ndarray:
        """Information of ``n_rows`` normal errors: ``n (|X|_F^2 + |diag X|^2)`` with ``X = L^-1 dL``."""
        factor = self._factor(vector)
        inverse = np.linalg.inv(factor)
        move = inverse[:, self.rows] * np.where(self.rows == self.columns, np.diag(factor)[self.rows], 1.0)
        # column (a, b) of the map is move[:, a] placed in column b, so only equal b overlap
        out = (move.T @ move) * (self.columns[:, None] == self.columns)
        corner = inverse[self.columns, self.rows] * np.where(self.rows == self.columns, np.diag(factor)[self.rows], 1.0)
        out += np.outer(corner, corner) * (self.columns[:, None] == self.columns)
        return n_rows * out


class CompoundSymmetry:
    """One variance and one correlation for all outcomes, as the logarithms of the two distinct eigenvalues.

    Parameters
    ----------
    n_outcomes : int
        At least two.
    """

    size = 2

    def __init__(self, n_outcomes: int) -> None:
        self._n = n_outcomes
        self._common = np.full((n_outcomes, n_outcomes), 1.0 / n_outcomes)

    def covariance(self, vector: np.ndarray) -> np.ndarray | None:
        """The covariance, or None where it over- or underflows."""
        if np.abs(vector).max() > 60.0 or not np.isfinite(vector).all():
            return None
        own, shared = np.exp(vector)
        return own * np.eye(self._n) + (shared - own) * self._common

    def vector(self, covariance: np.ndarray) -> np.ndarray:
        """Coordinates of the nearest covariance of this structure: averages of variances and of covariances."""
        n = self._n
        shared = float(covariance.sum()) / n
        own = (float(np.trace(covariance)) - shared) / (n - 1)
        return np.log(np.maximum([own, shared], 1e-300))

    def gradient(self, vector: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Gradient of a function with differential ``tr(slope dSigma)``, slope symmetric."""
        shared = float((slope * self._common).sum())
        return np.exp(vector) * np.array([float(np.trace(slope)) - shared, shared])

    def metric(self, vector: np.ndarray, n_rows: float) -> np.ndarray:
        """Information of ``n_rows`` normal errors."""
        return 0.5 * n_rows * np.diag([self._n - 1.0, 1.0])


class SparsePrecision:
    """Elements of the precision matrix in a given pattern; all others are zero.

    Parameters
    ----------
    pattern : ndarray of bool, (K, K)
        Free off-diagonal elements; the diagonal is always free.
    """

    def __init__(self, pattern: np.ndarray) -> None:
        keep = np.tril(pattern, -1) | np.eye(len(pattern), dtype=bool)
        self.rows, self.columns = np.nonzero(keep)
        self.size = self.rows.size
        self.off_diagonal = self.rows != self.columns
        self._n = len(pattern)

    def precision(self, vector: np.ndarray) -> np.ndarray:
        """The precision matrix."""
        out = np.zeros((self._n, self._n))
        out[self.rows, self.columns] = vector
        out[self.columns, self.rows] = vector
        return out

    def covariance(self, vector: np.ndarray) -> np.ndarray | None:
        """The covariance, or None where the precision is not positive definite."""
        try:
            factor = np.linalg.cholesky(self.precision(vector))
        except np.linalg.LinAlgError:
            return None
        inverse = np.linalg.inv(factor)
        return inverse.T @ inverse

    def _inside(self, vector: np.ndarray) -> np.ndarray:
        """The covariance at a point of the domain."""
        covariance = self.covariance(vector)
        if covariance is None:
            raise ValueError("The precision matrix is not positive definite.")
        return covariance

    def vector(self, covariance: np.ndarray) -> np.ndarray:
        """Pattern elements of the inverse of a covariance (its other elements are dropped)."""
        return np.linalg.inv(covariance)[self.rows, self.columns]

    def gradient(self, vector: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Gradient of a function with differential ``tr(slope dSigma)``, from ``dSigma = -Sigma dTheta Sigma``."""
        covariance = self._inside(vector)
        turned = -(covariance @ slope @ covariance)[self.rows, self.columns]
        return turned * np.where(self.off_diagonal, 2.0, 1.0)

    def metric(self, vector: np.ndarray, n_rows: float) -> np.ndarray:
        """Information of ``n_rows`` normal errors, ``n/2 tr(Sigma dTheta Sigma dTheta)``."""
        S = self._inside(vector)
        r, c = self.rows, self.columns
        half = np.where(self.off_diagonal, 1.0, 0.5)
        pairs = S[np.ix_(c, r)] * S[np.ix_(r, c)] + S[np.ix_(r, r)] * S[np.ix_(c, c)]
        return n_rows * pairs * np.outer(half, half)
