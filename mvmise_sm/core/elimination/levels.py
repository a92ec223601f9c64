"""Elimination of block-diagonal levels, vectorised over the levels (arrays (q, q, J), loops over q only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LevelFactor", "factor_levels", "relative_times", "sandwich"]


@dataclass(frozen=True, slots=True, eq=False)
class LevelFactor:
    """One factor's levels eliminated.

    Attributes
    ----------
    c : ndarray
        Blocks C_j (q, q, J).
    h : ndarray
        L_j^-1 Lambda' (q, q, J) with L_j L_j' = Lambda' C_j Lambda + I.
    w : ndarray
        W_j = (Sigma^-1 + C_j)^-1 (q, q, J), defined for singular Sigma.
    i_minus_cw : ndarray
        I - C_j W_j (q, q, J).
    logdet : ndarray
        log|M_j| (J,).
    """

    c: np.ndarray
    h: np.ndarray
    w: np.ndarray
    i_minus_cw: np.ndarray
    logdet: np.ndarray


def factor_levels(c: np.ndarray, lam: np.ndarray) -> LevelFactor:
    """Eliminate blocks `c` (q, q, J) at the relative factor `lam` (q, q)."""
    q = lam.shape[0]
    if q == 1:
        size = lam[0, 0]
        m = size * size * c[0, 0] + 1.0
        h = (size / np.sqrt(m))[None, None]
        i_minus_cw = (1.0 / m)[None, None]
        return LevelFactor(c, h, size * size * i_minus_cw, i_minus_cw, np.log(m))
    m = sandwich(lam, c)
    for a in range(q):
        m[a, a] += 1.0
    h = np.zeros_like(c)
    logdet = np.zeros(c.shape[2])
    for i in range(q):
        for j in range(i):
            # row i of L overwrites row i of M
            for k in range(j):
                m[i, j] -= m[i, k] * m[j, k]
            m[i, j] /= m[j, j]
        for k in range(i):
            m[i, i] -= m[i, k] * m[i, k]
        m[i, i] = np.sqrt(m[i, i])
        logdet += np.log(m[i, i])
        for a in range(q):
            h[i, a] = lam[a, i]
        for k in range(i):
            for a in range(q):
                h[i, a] -= m[i, k] * h[k, a]
        h[i] /= m[i, i]
    w = product(h.transpose(1, 0, 2), h)
    i_minus_cw = -product(c, w)
    for a in range(q):
        i_minus_cw[a, a] += 1.0
    return LevelFactor(c, h, w, i_minus_cw, 2.0 * logdet)


def relative_times(
    places: list[tuple[int, int, int]], lambdas: list[np.ndarray], rows: np.ndarray, *, transpose: bool
) -> np.ndarray:
    """Lambda' rows or Lambda rows for `rows` (n, c) in any memory order.

    Parameters
    ----------
    places : list of (int, int, int)
        First row, q and number of levels J of every factor.
    lambdas : list of ndarray
        Relative factors (q, q), one per factor.
    rows : ndarray
        (n, c), random effects by factor, column, level.
    transpose : bool
        Whether Lambda' multiplies.

    Returns
    -------
    ndarray
        (n, c) in C order.
    """
    if len(places) == 1:
        q, lam = places[0][1], lambdas[0]
        return np.matmul(lam.T if transpose else lam, rows.reshape(q, -1)).reshape(rows.shape)
    out = np.empty(rows.shape)  # not empty_like: in Fortran order the views below would be copies, and lost
    for (o, q, j), lam in zip(places, lambdas, strict=True):
        left = lam.T if transpose else lam
        np.matmul(left, rows[o : o + q * j].reshape(q, -1), out=out[o : o + q * j].reshape(q, -1))
    return out


def sandwich(lam: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Lambda' C_j Lambda of every level (q, q, J)."""
    q = lam.shape[0]
    rows = np.matmul(lam.T, c.reshape(q, -1)).reshape(c.shape)
    return np.matmul(lam.T, rows)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A_j B_j of every level: (r, s, J) times (s, t, J)."""
    out = np.zeros((a.shape[0], b.shape[1], a.shape[2]))
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            out[i] += a[i, k] * b[k]
    return out


def apply(a: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """A_j R_j of every level: (r, s, J) times (s, J, c)."""
    if a.shape[0] == a.shape[1] == 1:
        return a[0, 0][:, None] * rhs
    out = np.zeros((a.shape[0], *rhs.shape[1:]))
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            out[i] += a[i, k][:, None] * rhs[k]
    return out


def rows_gram(rows: np.ndarray) -> np.ndarray:
    """Sum over levels of R_j'R_j (c, c) for `rows` (q, J, c)."""
    flat = rows.reshape(-1, rows.shape[2])
    return flat.T @ flat
