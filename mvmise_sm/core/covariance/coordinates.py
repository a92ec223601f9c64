"""Working coordinates: shift and scale of X, y and Z that keep the cross-products free of cancellation.

Fits are equivariant, so the engine may work on ``X A``, ``y - X b0`` and ``Z A_k`` and undo it at the end. The
constants come from a sample of rows: they serve rounding only, so an approximate mean is as good as the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpotrf, dpotrs

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.random_effects import RandomTerm

__all__ = [
    "FixedBasis",
    "ResponseOrigin",
    "TermBasis",
    "fixed_basis",
    "fixed_basis_of",
    "sample_rows",
    "term_basis",
    "term_basis_of",
]

_SAMPLE = 20_000
_ILL_CONDITIONED = 1e3
_FAR_FROM_SINGULAR = 1e-2


@dataclass(frozen=True, slots=True)
class FixedBasis:
    """X in working coordinates, ``((X - shift) @ rotation) * scale == X @ A``.

    Attributes
    ----------
    shift : ndarray or None
        Subtracted from the columns first (p,); None where nothing needs shifting.
    rotation : ndarray or None
        Applied to the shifted rows (p, p); None where the scaled columns are well conditioned.
    scale : ndarray
        Applied to the cross-products, after the data pass (p,).
    a : ndarray
        The matrix A (p, p): beta = A beta_working + b0.
    logdet : float
        log |det A|.
    """

    shift: np.ndarray | None
    rotation: np.ndarray | None
    scale: np.ndarray
    a: np.ndarray
    logdet: float

    def rows(self, X: np.ndarray, lo: int, hi: int, out: np.ndarray) -> None:
        """Write the rows ``lo:hi`` of the shifted and rotated X into `out` (hi - lo, p)."""
        if self.shift is None:
            np.copyto(out, X[lo:hi])
        elif 4 * np.count_nonzero(self.shift) > len(self.scale):
            np.subtract(X[lo:hi], self.shift, out=out)
        else:
            np.copyto(out, X[lo:hi])
            for j in np.flatnonzero(self.shift):
                out[:, j] -= self.shift[j]
        if self.rotation is not None:
            out[:] = out @ self.rotation

    def columns(self, X: Sequence[np.ndarray | None], lo: int, out: np.ndarray) -> None:
        """The same for columns (n,) that stand apart, None for ones: rows from `lo` on go into `out` (p, rows)."""
        for j, column in enumerate(X):
            moved = 0.0 if self.shift is None else self.shift[j]
            if column is None:
                out[j] = 1.0 - moved
            else:
                np.subtract(column[lo : lo + out.shape[1]], moved, out=out[j])
        if self.rotation is not None:
            out[:] = self.rotation.T @ out


@dataclass(frozen=True, slots=True)
class TermBasis:
    """Columns of one term in working coordinates, ``(Z - shift) * scale == Z @ a``.

    Attributes
    ----------
    shift : ndarray
        (q,), zero unless the term has an intercept and a linear structure.
    scale : ndarray
        (q,), applied to the cross-products.
    a, a_inv : ndarray
        A_k and its inverse (q, q): b = A_k b_working, Sigma = A_k Sigma_working A_k'.
    """

    shift: np.ndarray
    scale: np.ndarray
    a: np.ndarray
    a_inv: np.ndarray


def sample_rows(n: int, largest: int = _SAMPLE) -> slice:
    """A strided slice with at most some `largest` of `n` rows."""
    return slice(None, None, max(1, n // largest))


def fixed_basis(X: np.ndarray, largest: int = _SAMPLE) -> FixedBasis:
    """Choose working coordinates for the columns of X (n, p) from a sample of at most some `largest` rows."""
    rows = X[sample_rows(X.shape[0], largest)]
    p = rows.shape[1]
    if p == 0:
        return FixedBasis(None, None, np.ones(0), np.eye(0), 0.0)
    n = rows.shape[0]
    mean = np.add.reduce(rows) / n
    deviation = rows - mean
    spread = np.sqrt(np.einsum("ij,ij->j", deviation, deviation) / n)
    alike = [j for j, (size, at) in enumerate(zip(spread.tolist(), mean.tolist(), strict=True)) if size == 0.0 != at]
    # a column that is constant in the sample only must not carry the shift
    constant = [j for j in alike if rows.shape[0] == X.shape[0] or np.ptp(X[:, j]) == 0.0]
    shift, scale, a = _shifted(mean, spread, constant)
    if shift is not None:
        rows = rows - shift
    rotation = None
    if p > 2 and rows.shape[0] > p:
        scaled = rows * scale
        gram = scaled.T @ scaled
        values = np.linalg.eigvalsh(gram)
        if values[0] * _ILL_CONDITIONED**2 < values[-1]:
            r = np.linalg.qr(scaled, mode="r") / np.sqrt(rows.shape[0])
            rotation, scale = _rotated(r, scale)
    return _fixed_basis(shift, rotation, scale, a)


def fixed_basis_of(n: int, mean: np.ndarray, scatter: np.ndarray, constant: int | None) -> FixedBasis:
    """Working coordinates of the fixed effects from the moments of a sample.

    Parameters
    ----------
    n : int
        Rows of the sample.
    mean, scatter : ndarray
        Mean (p,) and sum of squares and products about it (p, p).
    constant : int or None
        Column that is constant in all data.
    """
    p = len(mean)
    if p == 0:
        return FixedBasis(None, None, np.ones(0), np.eye(0), 0.0)
    spread = np.sqrt(np.maximum(scatter.diagonal(), 0.0) / n)
    shift, scale, a = _shifted(mean, spread, [] if constant is None else [constant])
    rotation = None
    if p > 2 and n > p:
        centre = mean if shift is None else mean - shift
        gram = (scatter / n + np.multiply.outer(centre, centre)) * scale[:, None] * scale
        values = np.linalg.eigvalsh(gram)
        # beyond half the digits the moments cannot tell ill-conditioned columns from dependent ones
        if np.finfo(float).eps ** 0.5 * values[-1] < values[0] < values[-1] / _ILL_CONDITIONED**2:
            rotation, scale = _rotated(np.linalg.cholesky(gram).T, scale)
    return _fixed_basis(shift, rotation, scale, a)


def _shifted(
    mean: np.ndarray, spread: np.ndarray, constant: list[int]
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Shift (p,) or None, scale (p,) and A (p, p) for columns with these means and standard deviations."""
    a = np.eye(len(mean))
    shift = None
    size = np.hypot(mean, spread)
    if len(constant):
        k = constant[0]
        far = np.abs(mean) > spread
        far[constant] = False
        if far.any():
            shift = np.where(far, mean, 0.0)
            a[k, far] = -mean[far] / mean[k]
            size = np.where(far, spread, size)
    return shift, 1.0 / np.where(size > 0.0, size, 1.0), a


def _rotated(r: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Rotation by the inverse of a triangular factor (p, p), and the scale left; None where the columns depend."""
    if np.abs(np.diag(r)).min() <= 1e-10 * np.abs(np.diag(r)).max():
        return None, scale
    return np.diag(scale) @ solve_triangular(r, np.eye(len(scale))), np.ones(len(scale))


def _fixed_basis(shift: np.ndarray | None, rotation: np.ndarray | None, scale: np.ndarray, a: np.ndarray) -> FixedBasis:
    a = (a if rotation is None else a @ rotation) * scale
    logdet = float(np.log(np.abs(scale)).sum())
    if rotation is not None:
        # triangular, and the shift has determinant one: no determinant of a matrix with elements of all sizes
        logdet += float(np.log(np.abs(rotation.diagonal())).sum())
    return FixedBasis(shift, rotation, scale, a, logdet)


class ResponseOrigin:
    """Least-squares coefficients of a sample of rows, taken off y before cross-products are formed.

    They belong to the shifted and rotated columns, whose products keep all digits where those of raw columns cancel.

    Parameters
    ----------
    X : ndarray
        (n, p); factored once, so that refits cost one product.
    basis : FixedBasis
    largest : int, optional
        Rows of the sample.
    """

    def __init__(self, X: np.ndarray, basis: FixedBasis, largest: int = _SAMPLE) -> None:
        self._rows = sample_rows(X.shape[0], largest)
        self._to_user = basis.a / basis.scale
        sample = np.empty((len(range(*self._rows.indices(X.shape[0]))), X.shape[1]))
        basis.rows(X[self._rows], 0, sample.shape[0], sample)
        size = np.sqrt(np.einsum("ij,ij->j", sample, sample))
        size[size == 0.0] = 1.0
        self._solve = _least_squares(sample / size) / size[:, None] if X.shape[1] else sample.T

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Coefficients of the shifted and rotated columns (p,)."""
        return self._solve @ y[self._rows]

    def user(self, origin: np.ndarray) -> np.ndarray:
        """The same in the user's coordinates: b0 of beta = A beta_working + b0."""
        return self._to_user @ origin


def _least_squares(columns: np.ndarray) -> np.ndarray:
    """What turns y into coefficients of columns of unit length (p, n): by their products where these are far from
    singular, which is cheaper than a decomposition and as good for an origin.
    """
    factor, info = dpotrf(columns.T @ columns, lower=1)
    if not info and factor.diagonal().min() > _FAR_FROM_SINGULAR:
        return dpotrs(factor, columns.T, lower=1)[0]
    return np.linalg.pinv(columns, rcond=1e-12)


def term_basis(term: RandomTerm) -> TermBasis:
    """Choose working coordinates for the columns of one random-effects term."""
    step = sample_rows(len(term.factor.codes))
    moments = [None if c is None else _mean_and_sd(c[step]) for c in term.columns]
    return term_basis_of(term.structure.invariance, moments)


def _mean_and_sd(column: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of a column (n,)."""
    mean = float(np.add.reduce(column)) / column.size
    deviation = column - mean
    return mean, math.sqrt(float(deviation @ deviation) / column.size)


def term_basis_of(invariance: str, moments: Sequence[tuple[float, float] | None]) -> TermBasis:
    """Working coordinates of a term's columns from their means and standard deviations.

    Parameters
    ----------
    invariance : str
        Of the term's structure.
    moments : sequence
        (mean, standard deviation) of every column, None for a column of ones (q).
    """
    q = len(moments)
    shift, scale = np.zeros(q), np.ones(q)
    a = np.eye(q)
    if invariance == "none" or all(m is None for m in moments):
        return TermBasis(shift, scale, a, np.eye(q))
    intercept = next((i for i, m in enumerate(moments) if m is None), None)
    for i, known in enumerate(moments):
        if known is None:
            continue
        mean, spread = known
        size = math.hypot(mean, spread)
        if invariance == "linear" and intercept is not None and abs(mean) > spread > 1e-14 * abs(mean):
            shift[i] = mean
            a[intercept, i] = -mean
            size = spread
        scale[i] = 1.0 / size if size > 0.0 else 1.0
    a = a * scale
    return TermBasis(shift, scale, a, np.linalg.inv(a) if shift.any() else np.diag(1.0 / scale))
