"""Cross-products summed block by block: the whole of what a linear mixed model needs of rows that are never together.

The sums of a union are the sums of its parts, so blocks, files and sites add up. Rows are shifted into working
coordinates before they are multiplied: sums of raw products would lose the digits of columns far from zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mvmise_sm.core.covariance.coordinates import FixedBasis

__all__ = ["Block", "FactorShape", "PairTable", "RunningSums", "SumPlan"]

# pairs of levels are summed in a table of at most so many numbers (320 MB), else by sorted keys
_TABLE_CELLS = 40_000_000
# sorted parts are merged when the last is at least this share of the one before, so that merging stays n log n
_LIKE_SIZE = 0.5
# rows whose products are formed while they are near the processor
_CACHED_ROWS = 16_384


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
    X : sequence of (ndarray or None)
        p columns (n,), None for ones.
    codes : sequence of ndarray
        Levels by grouping factor (n,).
    columns : sequence of sequence
        Random-effects columns by grouping factor, q of them (n,), None for ones.
    weights : ndarray or None
        (n,).
    """

    y: np.ndarray
    X: Sequence[np.ndarray | None]
    codes: Sequence[np.ndarray]
    columns: Sequence[Sequence[np.ndarray | None]]
    weights: np.ndarray | None = None


class PairTable:
    """Sums over the pairs of levels of two factors that occur together.

    Parameters
    ----------
    shape : tuple of int
        Levels of the two factors.
    width : int
        Numbers summed per pair.
    """

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        self.shape, self.width = shape, width
        cells = shape[0] * shape[1]
        self._table = [np.zeros(cells) for _ in range(width)] if cells * width <= _TABLE_CELLS else None
        self._seen = np.zeros(cells if self._table is not None else 0, dtype=bool)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, first: np.ndarray, second: np.ndarray, values: np.ndarray) -> None:
        """Add rows with levels `first` and `second` (n,) and their `values` (width, n)."""
        keys = first.astype(np.int64) * self.shape[1] + second
        if self._table is None:
            self.add_sums(*_by_key(keys, values))
            return
        self._seen[keys] = True
        for total, column in zip(self._table, values, strict=True):
            np.add.at(total, keys, column)

    def add_sums(self, keys: np.ndarray, sums: np.ndarray) -> None:
        """Add sums (width, k) of distinct sorted keys (k,)."""
        if self._table is not None:
            self._seen[keys] = True
            for total, column in zip(self._table, sums, strict=True):
                total[keys] += column
            return
        self._parts.append((keys, sums))
        while len(self._parts) > 1 and len(self._parts[-1][0]) >= _LIKE_SIZE * len(self._parts[-2][0]):
            self._merge_last()

    def _merge_last(self) -> None:
        (a, x), (b, y) = self._parts.pop(), self._parts.pop()
        self._parts.append(_by_key(np.concatenate([b, a]), np.concatenate([y, x], axis=1)))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted keys ``first * n_second + second`` (k,) and sums (width, k); a table gives its room back."""
        if self._table is not None:
            keys, self._seen = np.flatnonzero(self._seen), np.zeros(0, dtype=bool)
            sums = np.empty((self.width, len(keys)))
            for column in sums:
                np.take(self._table.pop(0), keys, out=column, mode="clip")  # other modes make a copy of `out`
            self._table, self._parts = None, [(keys, sums)]
        while len(self._parts) > 1:
            self._merge_last()
        return self._parts[0] if self._parts else (np.zeros(0, dtype=np.int64), np.zeros((self.width, 0)))


def _by_key(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, sorted, and the sums of the values (c, n) of each."""
    if not len(keys):
        return keys, values
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.array([np.add.reduceat(column[order], starts) for column in values])


def add_products_by_level(
    codes: np.ndarray, z: np.ndarray, xy: np.ndarray, count: np.ndarray, total: np.ndarray, product: np.ndarray
) -> None:
    """Add the sums of z_a z_b and z_a xy_c over the rows of each level, every distinct product once.

    Parameters
    ----------
    codes : ndarray
        Levels (n,).
    z, xy : ndarray
        Random-effects columns (q, n), and [X y] (m, n).
    count : ndarray
        Rows of this block by level (J,).
    total : ndarray
        (q, J, q + m).
    product : ndarray
        Overwritten (n,).
    """
    n, n_levels = z.shape[1], len(count)
    present: np.ndarray | slice = slice(None)
    if n_levels > n:
        # most levels do not occur among these rows
        present, codes = np.unique(codes, return_inverse=True)
        count = count[present]
    ones = np.broadcast_to(1.0, n)
    columns = [ones if _equal(column, ones) else column for column in (*z, *xy)]
    same = [
        next(j for j, other in enumerate(columns[: i + 1]) if _equal(column, other)) for i, column in enumerate(columns)
    ]
    found: dict[tuple[int, int], np.ndarray] = {}
    for a in range(len(z)):
        for c in range(len(columns)):
            first, second = sorted((same[a], same[c]))
            if (first, second) not in found:
                found[first, second] = _sums_of_product(codes, columns[first], columns[second], count, product)
            total[a, present, c] += found[first, second]


def _sums_of_product(
    codes: np.ndarray, a: np.ndarray, b: np.ndarray, count: np.ndarray, product: np.ndarray
) -> np.ndarray:
    """Sums of a * b (n,) by level (J,); a column of ones has stride 0. `product` (n,) is overwritten."""
    constant = [not column.strides[0] for column in (a, b)]
    if all(constant):
        return count
    values = b if constant[0] else a if constant[1] else np.multiply(a, b, out=product)
    return np.bincount(codes, values, minlength=len(count))


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two columns (n,) hold the same numbers; a few of them tell most others apart."""
    return a is b or (np.array_equal(a[:8], b[:8]) and np.array_equal(a, b))


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
    _memory: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        m = len(self.plan.origin) + 1
        factors = self.plan.factors
        self._memory = np.zeros(0)
        self.gram = np.zeros((m, m))
        # by column in memory, which is how they are added to
        self.levels = [np.zeros((f.q, f.q + m, f.n_levels)).transpose(0, 2, 1) for f in factors]
        self.counts = [np.zeros(f.n_levels, dtype=np.int64) for f in factors]
        self.pairs = {
            (k, n): PairTable((factors[k].n_levels, factors[n].n_levels), factors[k].q * factors[n].q)
            for k in range(len(factors))
            for n in range(k + 1, len(factors))
        }

    def add(self, block: Block) -> None:
        """Add the rows of a block."""
        n = len(block.y)
        self.nobs += n
        if block.weights is not None:
            self.log_weights += float(np.log(block.weights).sum())
        p = len(self.plan.origin)
        root = None if block.weights is None else np.sqrt(block.weights)
        # columns are rows here: each is read by itself
        xy, *columns, (product,) = self._workspace([p + 1, *(factor.q for factor in self.plan.factors), 1], n)
        for lo in range(0, n, _CACHED_ROWS):
            here = slice(lo, lo + _CACHED_ROWS)
            part = xy[:, here]
            self.plan.basis.columns(block.X, lo, part[:p])
            np.subtract(block.y[here], self.plan.origin @ part[:p], out=part[p])
            for z, factor, given in zip(columns, self.plan.factors, block.columns, strict=True):
                for own, moved, column in zip(z, factor.shift, given, strict=True):
                    if column is None:
                        own[here] = 1.0 - moved
                    else:
                        np.subtract(column[here], moved, out=own[here])
            if root is not None:
                for values in (part, *(z[:, here] for z in columns)):
                    values *= root[here]
            self.gram += part @ part.T
        for factor, codes, z, total, count in zip(
            self.plan.factors, block.codes, columns, self.levels, self.counts, strict=True
        ):
            rows = np.bincount(codes, minlength=factor.n_levels)
            count += rows
            add_products_by_level(codes, z, xy, rows, total, product)
        for (k, m), table in self.pairs.items():
            values = (columns[k][:, None] * columns[m]).reshape(-1, n)
            table.add(block.codes[k], block.codes[m], values)

    def _workspace(self, rows: Sequence[int], n: int) -> list[np.ndarray]:
        """Arrays (rows, n) in memory that is kept from block to block: new pages cost as much as the sums."""
        stops = np.cumsum([0, *rows]) * n
        if self._memory.size < stops[-1]:
            self._memory = np.empty(stops[-1])
        return [self._memory[a:b].reshape(k, n) for a, b, k in zip(stops[:-1], stops[1:], rows, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memory": np.zeros(0)}

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
