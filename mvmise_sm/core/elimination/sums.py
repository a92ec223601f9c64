"""Cross-products summed block by block: the whole of what a linear mixed model needs of rows that are never together.

The sums of a union are the sums of its parts, so blocks, files and sites add up. Rows are shifted into working
coordinates before they are multiplied: sums of raw products would lose the digits of columns far from zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from mvmise_sm.core.covariance.coordinates import FixedBasis

__all__ = ["Block", "FactorShape", "PairTable", "RunningSums", "SumPlan"]

# pairs of levels are counted in a table of at most so many cells, else by sorted keys
_TABLE_CELLS = 40_000_000
# sorted parts are merged when the last is at least this share of the one before, so that merging stays n log n
_LIKE_SIZE = 0.5


@dataclass(frozen=True)
class FactorShape:
    """One grouping factor as the sums see it.

    Attributes
    ----------
    n_levels, q : int
        Levels and columns of all its terms.
    shift : ndarray
        Subtracted from the columns (q,).
    """

    n_levels: int
    q: int
    shift: np.ndarray


@dataclass(frozen=True, eq=False)
class SumPlan:
    """Coordinates in which rows are summed; sums of different plans do not add.

    Attributes
    ----------
    basis : FixedBasis
        Working coordinates of X.
    origin : ndarray
        Coefficients of the shifted and rotated columns taken off y (p,).
    factors : tuple of FactorShape
        In the order of ``RandomEffects.factors``.
    """

    basis: FixedBasis
    origin: np.ndarray
    factors: tuple[FactorShape, ...]


@dataclass(frozen=True, eq=False)
class Block:
    """Complete rows of one block.

    Attributes
    ----------
    y : ndarray
        Response without offset (n,).
    X : ndarray
        (n, p).
    codes : sequence of ndarray
        Levels by grouping factor (n,).
    columns : sequence of ndarray
        Random-effects columns by grouping factor (n, q).
    weights : ndarray or None
        (n,).
    """

    y: np.ndarray
    X: np.ndarray
    codes: Sequence[np.ndarray]
    columns: Sequence[np.ndarray]
    weights: np.ndarray | None = None


class PairTable:
    """Sums over the pairs of levels of two factors that occur together.

    Parameters
    ----------
    shape : tuple of int
        Levels of the two factors.
    width : int
        Numbers summed per pair, besides the count of rows.
    """

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        self.shape, self.width = shape, width
        cells = shape[0] * shape[1]
        self._table = np.zeros((cells, width + 1)) if cells * (width + 1) <= _TABLE_CELLS else None
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, first: np.ndarray, second: np.ndarray, values: np.ndarray) -> None:
        """Add rows with levels `first` and `second` (n,) and their `values` (n, width)."""
        keys = first.astype(np.int64) * self.shape[1] + second
        self.add_sums(*_by_key(keys, np.column_stack([values, np.ones(len(keys))])))

    def add_sums(self, keys: np.ndarray, sums: np.ndarray) -> None:
        """Add sums (k, width + 1), counts last, of distinct sorted keys (k,)."""
        if self._table is not None:
            self._table[keys] += sums
            return
        self._parts.append((keys, sums))
        while len(self._parts) > 1 and len(self._parts[-1][0]) >= _LIKE_SIZE * len(self._parts[-2][0]):
            self._merge_last()

    def _merge_last(self) -> None:
        (a, x), (b, y) = self._parts.pop(), self._parts.pop()
        self._parts.append(_by_key(np.concatenate([b, a]), np.concatenate([y, x])))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted keys ``first * n_second + second`` (k,) and sums (k, width + 1), counts last."""
        if self._table is not None:
            keys = np.flatnonzero(self._table[:, -1])
            return keys, self._table[keys]
        while len(self._parts) > 1:
            self._merge_last()
        return self._parts[0] if self._parts else (np.zeros(0, dtype=np.int64), np.zeros((0, self.width + 1)))


def _by_key(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, sorted, and the sums of the values (n, c) of each."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, dtype=int)
    if not len(starts):
        return keys, values
    return keys[starts], np.add.reduceat(values[order], starts, axis=0)


@dataclass(eq=False)
class RunningSums:
    """Sums over the rows seen so far.

    Attributes
    ----------
    plan : SumPlan
    nobs : int
    log_weights : float
        Sum of the logarithms of the weights.
    gram : ndarray
        [X y]'[X y] in working coordinates before column scales (m, m).
    levels : list of ndarray
        Z_k'[Z_k X y] by level, (q, J, q + m) per factor.
    counts : list of ndarray
        Rows by level (J,) per factor.
    pairs : dict
        (k, l), k < l -> PairTable with the q_k * q_l products.
    """

    plan: SumPlan
    nobs: int = 0
    log_weights: float = 0.0
    gram: np.ndarray = field(init=False)
    levels: list[np.ndarray] = field(init=False)
    counts: list[np.ndarray] = field(init=False)
    pairs: dict[tuple[int, int], PairTable] = field(init=False)

    def __post_init__(self) -> None:
        m = len(self.plan.origin) + 1
        factors = self.plan.factors
        self.gram = np.zeros((m, m))
        self.levels = [np.zeros((f.q, f.n_levels, f.q + m)) for f in factors]
        self.counts = [np.zeros(f.n_levels, dtype=np.int64) for f in factors]
        self.pairs = {
            (k, n): PairTable((factors[k].n_levels, factors[n].n_levels), factors[k].q * factors[n].q)
            for k in range(len(factors))
            for n in range(k + 1, len(factors))
        }

    def add(self, block: Block) -> None:
        """Add the rows of a block."""
        n = len(block.y)
        if not n:
            return
        p = len(self.plan.origin)
        self.nobs += n
        xy = np.empty((n, p + 1))
        self.plan.basis.rows(block.X, 0, n, xy[:, :p])
        np.subtract(block.y, xy[:, :p] @ self.plan.origin, out=xy[:, p])
        root = None
        if block.weights is not None:
            self.log_weights += float(np.log(block.weights).sum())
            root = np.sqrt(block.weights)
            xy *= root[:, None]
        self.gram += xy.T @ xy
        shifted = []
        for factor, codes, columns, total, count in zip(
            self.plan.factors, block.codes, block.columns, self.levels, self.counts, strict=True
        ):
            z = columns - factor.shift
            if root is not None:
                z = z * root[:, None]
            shifted.append(z)
            count += np.bincount(codes, minlength=factor.n_levels)
            rows = np.column_stack([z, xy])
            indptr = np.arange(n + 1)
            for a in range(factor.q):
                # one column per row: the product scatters whole rows of the block, all columns at once
                indicator = sparse.csc_matrix((z[:, a], codes, indptr), shape=(factor.n_levels, n), copy=False)
                total[a] += indicator @ rows
        for (k, m), table in self.pairs.items():
            values = (shifted[k][:, :, None] * shifted[m][:, None, :]).reshape(n, -1)
            table.add(block.codes[k], block.codes[m], values)

    def merge(self, other: RunningSums) -> None:
        """Add the sums of other rows under the same plan."""
        self.nobs += other.nobs
        self.log_weights += other.log_weights
        self.gram += other.gram
        for mine, theirs in zip(self.levels, other.levels, strict=True):
            mine += theirs
        for mine, theirs in zip(self.counts, other.counts, strict=True):
            mine += theirs
        for key, table in self.pairs.items():
            table.add_sums(*other.pairs[key].result())
