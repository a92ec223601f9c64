"""Covariance structures of one random-effects term: theta <-> Lambda."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

__all__ = ["CovarianceStructure", "Diagonal", "Unstructured", "semidefinite_cholesky"]


def semidefinite_cholesky(a, tol=1e-13):
    """Lower Cholesky factor of a positive semidefinite matrix.

    Parameters
    ----------
    a : array_like
        Symmetric matrix (q, q); only the lower triangle is read.
    tol : float, optional
        A pivot at or below `tol` times its diagonal element counts as zero, and its column is set to zero.

    Returns
    -------
    ndarray
        Lower triangular factor (q, q) with a non-negative diagonal.
    """
    a = np.array(a, dtype=float)
    q = a.shape[0]
    out = np.zeros_like(a)
    for j in range(q):
        row = out[j, :j]
        pivot = a[j, j] - row @ row
        if pivot <= tol * a[j, j] or a[j, j] <= 0.0:
            continue
        out[j, j] = np.sqrt(pivot)
        out[j + 1 :, j] = (a[j + 1 :, j] - out[j + 1 :, :j] @ row) / out[j, j]
    return out


class CovarianceStructure(Protocol):
    """What the engine asks of a covariance structure.

    Attributes
    ----------
    q : int
        Number of columns of the term.
    k_theta : int
        Number of parameters.
    lower : ndarray
        Lower bounds (k_theta,): 0 for elements that are scale-like, -inf otherwise.
    invariance : {"linear", "diagonal", "none"}
        Matrices A for which A Sigma A' stays inside the family: all invertible, diagonal only, or multiples of I.
    """

    q: int
    k_theta: int
    lower: np.ndarray
    invariance: Literal["linear", "diagonal", "none"]

    def factor(self, theta: np.ndarray) -> np.ndarray:
        """Return Lambda (q, q)."""

    def tangents(self, theta: np.ndarray) -> np.ndarray:
        """Return dLambda / dtheta_t (k_theta, q, q)."""

    def pullback(self, theta: np.ndarray, d_lambda: np.ndarray) -> np.ndarray:
        """Return the gradient in theta (k_theta,) of a function with gradient `d_lambda` (q, q) in Lambda."""

    def theta_from(self, sigma: np.ndarray) -> np.ndarray:
        """Return theta (k_theta,) of the member of the family nearest to Sigma (q, q), exact for a member."""

    def ordered_by(self, variances: np.ndarray) -> CovarianceStructure:
        """Return the same family in the parametrisation that suits columns of these variances (q,) best."""


@dataclass(frozen=True)
class _Linear:
    """A structure whose Lambda holds theta at fixed places (`rows`, `cols`)."""

    q: int

    def factor(self, theta):
        out = np.zeros((self.q, self.q))
        out[self.rows, self.cols] = theta
        return out

    def tangents(self, theta):
        return self._tangents

    @cached_property
    def _tangents(self):
        out = np.zeros((self.k_theta, self.q, self.q))
        out[np.arange(self.k_theta), self.rows, self.cols] = 1.0
        return out

    def pullback(self, theta, d_lambda):
        return d_lambda[self.rows, self.cols]

    @cached_property
    def k_theta(self):
        return self.rows.size


@dataclass(frozen=True)
class Unstructured(_Linear):
    """Any positive semidefinite covariance; theta is the lower triangle of a Cholesky factor by columns, as in lme4.

    Parameters
    ----------
    q : int
        Columns.
    order : tuple of int, optional
        Order in which the columns are factored. With the largest variance first the factor stays well conditioned
        near the boundary; the rows of Lambda keep the order of the columns, so Lambda is triangular only after
        permuting its rows.
    """

    order: tuple[int, ...] | None = None

    invariance = "linear"

    @cached_property
    def _triangle(self):
        cols = np.concatenate([np.full(self.q - j, j) for j in range(self.q)])
        rows = np.concatenate([np.arange(j, self.q) for j in range(self.q)])
        return rows, cols

    @cached_property
    def rows(self):
        rows = self._triangle[0]
        return rows if self.order is None else np.array(self.order)[rows]

    @cached_property
    def cols(self):
        return self._triangle[1]

    @cached_property
    def lower(self):
        rows, cols = self._triangle
        return np.where(rows == cols, 0.0, -np.inf)

    def theta_from(self, sigma):
        if self.order is not None:
            sigma = sigma[np.ix_(self.order, self.order)]
        return semidefinite_cholesky(sigma)[self._triangle]

    def ordered_by(self, variances):
        """The same family, factored in decreasing order of `variances` (q,)."""
        order = tuple(int(i) for i in np.argsort(-np.asarray(variances), kind="stable"))
        return Unstructured(self.q, None if order == tuple(range(self.q)) else order)


@dataclass(frozen=True)
class Diagonal(_Linear):
    """Independent columns; theta is the diagonal of Lambda."""

    invariance = "diagonal"

    @cached_property
    def rows(self):
        return np.arange(self.q)

    @cached_property
    def cols(self):
        return np.arange(self.q)

    @cached_property
    def lower(self):
        return np.zeros(self.q)

    def theta_from(self, sigma):
        return np.sqrt(np.maximum(np.diag(sigma), 0.0))

    def ordered_by(self, variances):
        """Itself: the order of independent columns does not matter."""
        return self
