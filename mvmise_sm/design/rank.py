"""Which columns of a design matrix are linear combinations of earlier ones."""

from __future__ import annotations

import numpy as np
from scipy import linalg
from scipy.linalg.lapack import dpotrf

__all__ = ["independent_columns"]

_SUSPICIOUS = 1e-8  # squared relative residual below which the Gram matrix alone is not trusted
_UNLIKE = 1e-2  # residual of a column on earlier ones, relative, above which nothing else need be looked at
_CONSTANT = 1e-13  # spread relative to the largest value below which a column counts as constant
_CHUNK = 65536  # rows handled at a time, so that centring needs no copy of X


def independent_columns(exog: np.ndarray, tol: float = 1e-7) -> np.ndarray:
    """Find the columns that earlier columns do not determine.

    Columns are scaled to unit length, and centred if X holds a constant column, so the answer does not change when a
    column is multiplied by 1e6 or shifted by 1e6. A thinned set of rows or the Gram matrix settles clear cases; a
    column that looks dependent there is checked on all rows with a QR decomposition.

    Parameters
    ----------
    exog : ndarray
        Design matrix (n, p), finite.
    tol : float, optional
        A column is dependent if what earlier columns leave of it is shorter than `tol` times its length.

    Returns
    -------
    ndarray
        Positions (r,) of the independent columns, ascending.
    """
    n, p = exog.shape
    if p == 0:
        return np.arange(0)
    step = n // max(4096, 50 * p)
    if step > 1 and _clearly_independent(np.asarray(exog[::step])):
        return np.arange(p)
    if _clearly_independent(exog):
        return np.arange(p)
    return _sequential(exog, tol)


def _normalisation(exog: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and length (p,) of every column; the centre is 0 unless X holds a non-zero constant column."""
    n, p = exog.shape
    center = np.zeros(p)
    largest = np.abs(exog).max(axis=0, initial=0.0) if n <= _CHUNK else np.maximum(exog.max(axis=0), -exog.min(axis=0))
    mean = exog.mean(axis=0)
    length = np.zeros(p)
    spread = np.zeros(p)
    for first in range(0, n, _CHUNK):
        block = exog[first : first + _CHUNK]
        length += np.einsum("ij,ij->j", block, block)
        block = block - mean
        spread += np.einsum("ij,ij->j", block, block)
    constant = (np.sqrt(spread / n) <= _CONSTANT * largest) & (largest > 0)
    if constant.any():
        intercept = int(np.argmax(constant))
        center = np.where(np.arange(p) == intercept, 0.0, mean)
        length = np.where(np.arange(p) == intercept, length, spread)
        length[constant & (np.arange(p) != intercept)] = 0.0
    return center, np.sqrt(length)


def _unlike(exog: np.ndarray) -> bool:
    """Whether the raw columns, at unit length, are far from dependent: then they are so however they are moved."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        gram = exog.T @ exog
        size = np.sqrt(gram.diagonal())
        # numbers that are not finite fail the comparison
        factor, info = dpotrf(gram / np.multiply.outer(size, size), lower=1)
        return not info and bool(factor.diagonal().min() > _UNLIKE)


def _clearly_independent(exog: np.ndarray) -> bool:
    """Whether the normalised Gram matrix alone proves full column rank."""
    n, p = exog.shape
    if n < p:
        return False
    if n <= _CHUNK and _unlike(exog):
        return True
    center, length = _normalisation(exog)
    if not (length > 0).all():
        return False
    gram = np.zeros((p, p))
    for first in range(0, n, _CHUNK):
        block = (exog[first : first + _CHUNK] - center) / length
        gram += block.T @ block
    try:
        pivots = np.diag(np.linalg.cholesky(gram))
    except np.linalg.LinAlgError:
        return False
    return bool((pivots**2 > _SUSPICIOUS).all())


def _sequential(exog: np.ndarray, tol: float) -> np.ndarray:
    """Walk through the columns and keep those whose residual on the kept ones is not negligible."""
    center, length = _normalisation(exog)
    n, p = exog.shape
    basis = np.empty((n, min(n, p)), order="F")
    kept: list[int] = []
    for j in range(p):
        if length[j] == 0.0 or len(kept) == n:
            continue
        column = (exog[:, j] - center[j]) / length[j]
        # Rounding of the values themselves limits what a residual can tell.
        floor = 8 * np.finfo(float).eps * np.abs(exog[:, j]).max() * np.sqrt(n) / length[j]
        q = basis[:, : len(kept)]
        residual = column - q @ (q.T @ column)
        residual -= q @ (q.T @ residual)
        size = float(linalg.norm(residual))
        if size <= max(tol, floor):
            continue
        basis[:, len(kept)] = residual / size
        kept.append(j)
    return np.array(kept, dtype=int)
