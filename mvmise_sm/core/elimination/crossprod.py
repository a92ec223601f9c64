"""The one pass over the data: cross-products of y, X and Z per level, summed over chunks of rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import FixedBasis
    from mvmise_sm.core.elimination.layout import FactorLayout, Layout

__all__ = ["CrossProducts", "cross_products", "replace_response"]

_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class CrossProducts:
    """Sums over rows; the sums of two pieces of the data add up to those of the whole.

    Attributes
    ----------
    gram : ndarray
        [X y]'[X y] (m, m) with m = p + 1.
    own : tuple of ndarray
        Z_k'Z_k of every factor by level, each (q, q, J).
    rhs : tuple of ndarray
        Z_k'[X y] of every factor, each (q, J, m).
    cross : dict
        (k, l) -> Z_k'Z_l on the cells of its pattern (q_k, q_l, cells); for a nested pair the cells are the levels of
        k.
    """

    gram: np.ndarray
    own: tuple
    rhs: tuple
    cross: dict

    def __add__(self, other: CrossProducts) -> CrossProducts:
        return CrossProducts(
            self.gram + other.gram,
            tuple(a + b for a, b in zip(self.own, other.own, strict=True)),
            tuple(a + b for a, b in zip(self.rhs, other.rhs, strict=True)),
            {key: value + other.cross[key] for key, value in self.cross.items()},
        )


def cross_products(
    layout: Layout,
    basis: FixedBasis,
    X: np.ndarray,
    y: np.ndarray,
    origin: np.ndarray,
    weights: np.ndarray | None = None,
    rows: tuple[int, int] | None = None,
) -> CrossProducts:
    """Cross-products of a piece of the data in working coordinates, before column scales.

    Parameters
    ----------
    layout : Layout
        Grouping factors (codes and columns of all rows).
    basis : FixedBasis
        Working coordinates of X.
    X : ndarray
        (nobs, p).
    y : ndarray
        (nobs,), offset already taken off.
    origin : ndarray
        Coefficients of the shifted and rotated columns taken off y (p,), see `ResponseOrigin`.
    weights : ndarray, optional
        Prior weights (nobs,).
    rows : tuple of int, optional
        The piece ``(lo, hi)``; all rows by default.

    Returns
    -------
    CrossProducts
        Scaled by `scaled` before use.
    """
    lo, hi = rows or (0, y.shape[0])
    p = X.shape[1]
    m = p + 1
    gram = np.zeros((m, m))
    factors = layout.factors
    sums = [np.zeros((f.q, f.n_levels, f.q + m)) for f in factors]
    widest = max(f.q for f in factors)
    pairs = [(k, n) for k in range(len(factors)) for n in range(k + 1, len(factors))]
    cross = {pair: np.zeros((factors[pair[0]].q, factors[pair[1]].q, _cells(layout, pair))) for pair in pairs}
    buffer = np.empty((min(_CHUNK, hi - lo), widest + m))
    for start in range(lo, hi, _CHUNK):
        stop = min(start + _CHUNK, hi)
        chunk = buffer[: stop - start]
        xy = chunk[:, widest:]
        basis.rows(X, start, stop, xy[:, :p])
        np.subtract(y[start:stop], xy[:, :p] @ origin, out=xy[:, p])
        root = None if weights is None else np.sqrt(weights[start:stop])
        if root is not None:
            xy *= root[:, None]
        gram += xy.T @ xy
        z = []
        for f, total in zip(factors, sums, strict=True):
            z.append(_level_sums(f, chunk[:, widest - f.q :], root, start, stop, total))
        for pair in pairs:
            _cell_sums(layout, pair, z, start, stop, cross[pair])
    own = tuple(np.ascontiguousarray(s[:, :, : f.q].transpose(0, 2, 1)) for f, s in zip(factors, sums, strict=True))
    rhs = tuple(np.ascontiguousarray(s[:, :, f.q :]) for f, s in zip(factors, sums, strict=True))
    return CrossProducts(gram, own, rhs, cross)


def _level_sums(
    factor: FactorLayout, chunk: np.ndarray, root: np.ndarray | None, start: int, stop: int, total: np.ndarray
) -> list[np.ndarray]:
    """Add Z_k'[Z_k X y] of one chunk to `total` (q, J, q + m); `chunk` has room for Z_k in front. Returns Z_k."""
    n = stop - start
    z = []
    for a in range(factor.q):
        values = factor.values(a, start, stop)
        if values is None:
            values = np.ones(n) if root is None else root
        elif root is not None:
            values = values * root
        chunk[:, a] = values
        z.append(values)
    indptr = np.arange(n + 1)
    codes = factor.codes[start:stop]
    for a in range(factor.q):
        # one column per row: the product scatters whole rows of the chunk, all columns at once
        indicator = sparse.csc_matrix((z[a], codes, indptr), shape=(factor.n_levels, n), copy=False)
        total[a] += indicator @ chunk
    return z


def _cells(layout: Layout, pair: tuple[int, int]) -> int:
    return layout.factors[pair[0]].n_levels if pair in layout.parent else layout.patterns[pair].nnz


def _cell_sums(
    layout: Layout, pair: tuple[int, int], z: list[list[np.ndarray]], start: int, stop: int, total: np.ndarray
) -> None:
    k, n = pair
    cell = (layout.factors[k].codes if pair in layout.parent else layout.patterns[pair].cell)[start:stop]
    for a, first in enumerate(z[k]):
        for b, second in enumerate(z[n]):
            total[a, b] += np.bincount(cell, first * second, minlength=total.shape[2])


def scaled(products: CrossProducts, layout: Layout, basis: FixedBasis) -> CrossProducts:
    """Apply the column scales of the working coordinates."""
    s = np.append(basis.scale, 1.0)
    scales = [f.scale for f in layout.factors]
    return CrossProducts(
        products.gram * s[:, None] * s,
        tuple(c * t[:, None, None] * t[:, None] for c, t in zip(products.own, scales, strict=True)),
        tuple(b * t[:, None, None] * s for b, t in zip(products.rhs, scales, strict=True)),
        {(k, n): c * scales[k][:, None, None] * scales[n][:, None] for (k, n), c in products.cross.items()},
    )


def replace_response(
    products: CrossProducts,
    layout: Layout,
    basis: FixedBasis,
    X: np.ndarray,
    y: np.ndarray,
    origin: np.ndarray,
    weights: np.ndarray | None = None,
) -> CrossProducts:
    """The scaled cross-products with another response; only its column is computed anew."""
    p = X.shape[1]
    gram = products.gram.copy()
    rhs = tuple(b.copy() for b in products.rhs)
    column, total = np.zeros(p), 0.0
    weighted = np.empty(y.shape[0])
    for start in range(0, y.shape[0], _CHUNK):
        stop = min(start + _CHUNK, y.shape[0])
        part = np.empty((stop - start, p))
        basis.rows(X, start, stop, part)
        residual = y[start:stop] - part @ origin
        weighted[start:stop] = residual if weights is None else residual * weights[start:stop]
        column += weighted[start:stop] @ part
        total += residual @ weighted[start:stop]
    gram[:p, p] = gram[p, :p] = column * basis.scale
    gram[p, p] = total
    for factor, b in zip(layout.factors, rhs, strict=True):
        for a in range(factor.q):
            values = factor.values(a)
            target = weighted if values is None else weighted * values
            b[a, :, p] = np.bincount(factor.codes, target, minlength=factor.n_levels) * factor.scale[a]
    return replace(products, gram=gram, rhs=rhs)
