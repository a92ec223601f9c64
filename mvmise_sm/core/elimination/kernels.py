"""Row kernels between a block-diagonal factor and a dense remainder.

Row j of the factor holds sparse entries c_e (q,) at remainder columns r_e. Every kernel answers ``subtract_gram``, S
-= sum_j c_j' W_j c_j, and ``quad``, c_j Phi c_j' by level; they differ in cost only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse
from scipy.linalg.blas import dsyrk

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.levels import LevelFactor

__all__ = ["Entries", "Kernel", "PairKernel", "PanelKernel", "SparseKernel", "choose_kernel", "with_data"]

_MAX_PAIRS = 15_000_000
_PANEL_CELLS = 500_000
_PIECE_PAIRS = 500_000


@dataclass(frozen=True, eq=False)
class Entries:
    """Sparse rows of one chain factor against the remainder.

    Attributes
    ----------
    indptr : ndarray
        Entries of level j are ``indptr[j]:indptr[j + 1]`` (J + 1,).
    row, col : ndarray
        Level and remainder column of each entry (nnz,), columns ascending within a row.
    n_cols : int
        Remainder columns.
    """

    indptr: np.ndarray
    row: np.ndarray
    col: np.ndarray
    n_cols: int

    @property
    def n_rows(self) -> int:
        return self.indptr.size - 1

    def row_sums(self, values: np.ndarray) -> np.ndarray:
        """Sum `values` (..., nnz) within rows (..., J)."""
        out = np.zeros((*values.shape[:-1], self.n_rows))
        filled = np.flatnonzero(np.diff(self.indptr))
        if filled.size:
            out[..., filled] = np.add.reduceat(values, self.indptr[filled], axis=-1)
        return out

    @cached_property
    def complete(self) -> bool:
        """Whether every row meets every column, so that entries are the elements of a dense matrix in C order."""
        return self.row.size == self.n_rows * self.n_cols

    @cached_property
    def _pattern(self) -> tuple[sparse.csr_matrix, sparse.csc_matrix]:
        """Rows and their transpose, checked once, for copies with other values."""
        rows = sparse.csr_matrix((np.zeros(self.row.size), self.col, self.indptr), shape=(self.n_rows, self.n_cols))
        return rows, rows.T

    def matrix(self, values: np.ndarray) -> sparse.csr_matrix:
        """Compressed sparse rows (J, n_cols) with `values` (nnz,)."""
        return with_data(self._pattern[0], values)

    def times(self, values: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Rows with `values` (nnz,) times v (n_cols, c)."""
        if self.complete:
            return values.reshape(self.n_rows, self.n_cols) @ v
        return self.matrix(values) @ v

    def transposed_times(self, values: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The transpose of rows with `values` (nnz,) times v (J, c)."""
        if self.complete:
            return values.reshape(self.n_rows, self.n_cols).T @ v
        return with_data(self._pattern[1], values) @ v

    def dense(self, values: np.ndarray, lo: int, hi: int) -> np.ndarray:
        """The rows ``lo:hi`` (hi - lo, n_cols) with `values` (those rows' entries)."""
        shape = (hi - lo, self.n_cols)
        if self.complete:
            return values.reshape(shape)
        return self.panel(values, lo, hi).toarray()

    def panel(self, values: np.ndarray, lo: int, hi: int) -> sparse.csr_matrix:
        """The rows ``lo:hi`` with `values` (those rows' entries), sparse."""
        at = slice(int(self.indptr[lo]), int(self.indptr[hi]))
        return sparse.csr_matrix((values, self.col[at], self.indptr[lo : hi + 1] - at.start), (hi - lo, self.n_cols))


def with_data(pattern: Any, values: np.ndarray) -> Any:
    """A compressed sparse matrix with the pattern of another, which is not checked again."""
    out = copy.copy(pattern)
    out.data = values
    return out


class Kernel(Protocol):
    """What a chain factor's rows do with a remainder.

    Attributes
    ----------
    entries : Entries
    reads_lower : bool
        Whether `quad` reads the lower triangle of Phi only.
    """

    entries: Entries
    reads_lower: bool

    def subtract_gram(self, s: np.ndarray, level: LevelFactor, values: np.ndarray) -> None:
        """Take sum_j c_j'W_j c_j of the entries' `values` (q, nnz) off the lower triangle of `s` (n, n)."""

    def quad(self, phi: np.ndarray, values: np.ndarray) -> np.ndarray:
        """c_j Phi c_j' by level (q, q, J)."""

    def row_times(self, phi: np.ndarray, values: np.ndarray) -> np.ndarray:
        """c Phi at the entries (q, nnz)."""

    def with_values(self, values: np.ndarray) -> Any:
        """The same rows with other values of the entries (q, nnz)."""


def choose_kernel(entries: Entries, values: np.ndarray, constant: bool) -> Kernel:
    """The cheapest kernel for these entries by estimated cost.

    Parameters
    ----------
    entries : Entries
    values : ndarray
        (q, nnz).
    constant : bool
        Whether the values are the same at every theta (the first factor of a chain).
    """
    q = values.shape[0]
    count = np.diff(entries.indptr).astype(float)
    pairs = float((count * (count + 1)).sum() / 2)
    panel_flops = 3.0 * q * entries.n_rows * float(entries.n_cols) ** 2
    pair_cost = pairs * (10e-9 + 6e-9 * q * q)
    panel_cost = panel_flops / 2e10
    if panel_cost < pair_cost or (not constant and panel_cost < 4 * pair_cost):
        return PanelKernel(entries)
    if constant and pairs <= _MAX_PAIRS:
        return PairKernel(entries, values)
    return SparseKernel(entries)


class PairKernel:
    """A list of all pairs of entries that share a row; for entries that are the same at every theta.

    Pairs stand row by row and are worked off in pieces, so that nothing but their places is as long as the list.
    """

    reads_lower = True

    def __init__(self, entries: Entries, values: np.ndarray) -> None:
        self.entries = entries
        count = np.diff(entries.indptr)
        self.per_row = count * (count + 1) // 2
        self.stops = np.concatenate([[0], np.cumsum(self.per_row)])
        small = entries.n_cols**2 < np.iinfo(np.int32).max
        self.key: np.ndarray = np.empty(int(self.stops[-1]), dtype=np.int32 if small else np.int64)
        self.unit = values.shape[0] == 1 and bool((values == 1.0).all())
        self.products = {} if self.unit else self._empty_products(values.shape[0])
        for lo, hi in self._pieces():
            first, second = self._pairs_of_rows(lo, hi)
            at = slice(int(self.stops[lo]), int(self.stops[hi]))
            self.key[at] = entries.col[second].astype(np.int64) * entries.n_cols + entries.col[first]
            self._fill_products(at, values, first, second)
        self._pairs: tuple[np.ndarray, np.ndarray] | None = None

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows with about equally many pairs."""
        n = self.per_row.size
        marks = np.arange(_PIECE_PAIRS, int(self.stops[-1]), _PIECE_PAIRS)
        edges = np.unique(np.concatenate([[0], np.searchsorted(self.stops, marks), [n]]))
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)

    def _pairs_of_rows(self, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
        """First and second entry of every pair of the rows ``lo:hi``."""
        indptr = self.entries.indptr
        start, stop = int(indptr[lo]), int(indptr[hi])
        row = self.entries.row[start:stop]
        place = np.arange(start, stop) - indptr[row]
        first = np.repeat(np.arange(start, stop), place + 1)
        stops = np.cumsum(place + 1)
        second = np.arange(first.size) - np.repeat(stops - (place + 1), place + 1) + np.repeat(indptr[row], place + 1)
        return first, second

    def _empty_products(self, q: int) -> dict[tuple[int, int], np.ndarray]:
        return {(a, b): np.empty(self.key.size) for a in range(q) for b in range(a, q)}

    def _fill_products(self, at: slice, values: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
        for (a, b), x in self.products.items():
            x[at] = values[a][first] * values[b][second]
            if a != b:
                x[at] += values[b][first] * values[a][second]

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """First and second entry of every pair, formed when weights change or blocks between factors are needed."""
        if self._pairs is None:
            self._pairs = self._pairs_of_rows(0, self.per_row.size)
        return self._pairs

    def with_values(self, values: np.ndarray) -> PairKernel:
        """The same pairs with other values of the entries (q, nnz)."""
        out = copy.copy(self)
        out._pairs = self.pairs
        out.unit = False
        out.products = self._empty_products(values.shape[0])
        out._fill_products(slice(None), values, *out._pairs)
        return out

    def row_times(self, phi: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(c Phi) at the places of the entries (q, nnz); `phi` is symmetric in Fortran order."""
        first, second = self.pairs
        weighted = phi.ravel(order="K")[self.key]
        off = weighted * (first != second)
        size = values.shape[1]
        return np.array(
            [
                np.bincount(first, weighted * v[second], minlength=size)
                + np.bincount(second, off * v[first], minlength=size)
                for v in values
            ]
        )

    def subtract_gram(self, s: np.ndarray, level: LevelFactor, values: np.ndarray) -> None:
        """S -= sum_j c_j' W_j c_j on the lower triangle of `s` (n, n), Fortran order."""
        flat = s.ravel(order="K")
        for lo, hi in self._pieces():
            at, per_row = slice(int(self.stops[lo]), int(self.stops[hi])), self.per_row[lo:hi]
            if self.unit:
                total = np.repeat(level.w[0, 0, lo:hi], per_row)
            else:
                total = np.zeros(at.stop - at.start)
                for (a, b), x in self.products.items():
                    total += np.repeat(level.w[a, b, lo:hi], per_row) * x[at]
            np.subtract.at(flat, self.key[at], total)

    def quad(self, phi: np.ndarray, values: np.ndarray) -> np.ndarray:
        """c_j Phi c_j' by level (q, q, J); the lower triangle of `phi` (Fortran order) is read."""
        flat, entries = phi.ravel(order="K"), self.entries
        q = values.shape[0]
        out = np.zeros((q, q, self.per_row.size))
        for lo, hi in self._pieces():
            at = slice(int(self.stops[lo]), int(self.stops[hi]))
            filled = np.flatnonzero(self.per_row[lo:hi])
            if not filled.size:
                continue
            starts = self.stops[lo + filled] - at.start
            weighted = flat[self.key[at]]
            if self.unit:
                out[0, 0, lo + filled] = np.add.reduceat(weighted, starts)
            for (a, b), x in self.products.items():
                out[a, b, lo + filled] = np.add.reduceat(weighted * x[at], starts)
        own = phi.diagonal()[entries.col]
        for a in range(q):
            for b in range(a, q):
                # every pair stands once in the list and twice in the sum, an entry with itself once
                once = entries.row_sums(own * values[a] * values[b])
                out[a, b] = (2.0 if a == b else 1.0) * out[a, b] - once
                out[b, a] = out[a, b]
        return out


class _RowTimes:
    """Kernels that form c_j Phi on the entries' own places."""

    reads_lower = False

    def __init__(self, entries: Entries) -> None:
        self.entries = entries

    def quad(self, phi: np.ndarray, values: np.ndarray) -> np.ndarray:
        times = self.row_times(phi, values)
        q = values.shape[0]
        out = np.empty((q, q, self.entries.n_rows))
        for a in range(q):
            for b in range(q):
                out[a, b] = self.entries.row_sums(times[a] * values[b])
        return out

    def _panels(self, q: int) -> Iterator[tuple[int, int, slice]]:
        e = self.entries
        step = max(1, _PANEL_CELLS // (q * e.n_cols))
        for lo in range(0, e.n_rows, step):
            hi = min(lo + step, e.n_rows)
            yield lo, hi, slice(int(e.indptr[lo]), int(e.indptr[hi]))

    def with_values(self, values: np.ndarray) -> Any:
        """Itself: the values are handed over at every call."""
        return self

    def row_times(self, phi: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(c Phi) at the places of the entries (q, nnz); `phi` is full and symmetric."""
        e = self.entries
        q = values.shape[0]
        out = np.empty_like(values)
        for lo, hi, at in self._panels(q):
            for a in range(q):
                times = self._multiply(lo, hi, values[a, at], phi)
                out[a, at] = times.ravel() if e.complete else times[e.row[at] - lo, e.col[at]]
        return out

    def _multiply(self, lo: int, hi: int, values: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """Product of the rows ``lo:hi``, with their entries' `values`, with Phi (hi - lo, n_cols)."""
        raise NotImplementedError


class PanelKernel(_RowTimes):
    """Dense row panels and BLAS; for many entries per row."""

    def subtract_gram(self, s: np.ndarray, level: LevelFactor, values: np.ndarray) -> None:
        q = values.shape[0]
        for lo, hi, at in self._panels(q):
            rows, h = self._rows(values[:, at], lo, hi), level.h[..., lo:hi]
            panel = rows * h[0, :, :, None] if q == 1 else np.einsum("iaj,ajr->ijr", h, rows)
            result = dsyrk(-1.0, panel.reshape(-1, panel.shape[2]).T, beta=1.0, c=s, lower=1, overwrite_c=1)
            if result is not s:
                s[:] = result

    def quad(self, phi: np.ndarray, values: np.ndarray) -> np.ndarray:
        q = values.shape[0]
        out = np.empty((q, q, self.entries.n_rows))
        for lo, hi, at in self._panels(q):
            rows = self._rows(values[:, at], lo, hi)
            times = (rows.reshape(-1, rows.shape[2]) @ phi).reshape(rows.shape)
            for a in range(q):
                for b in range(a, q):
                    out[a, b, lo:hi] = out[b, a, lo:hi] = np.einsum("jr,jr->j", times[a], rows[b])
        return out

    def _rows(self, values: np.ndarray, lo: int, hi: int) -> np.ndarray:
        """Dense rows ``lo:hi`` (q, hi - lo, n_cols) with `values` (q, those rows' entries)."""
        rows = [self.entries.dense(own, lo, hi) for own in values]
        return rows[0][None] if len(rows) == 1 else np.stack(rows)

    def _multiply(self, lo: int, hi: int, values: np.ndarray, phi: np.ndarray) -> np.ndarray:
        return self.entries.dense(values, lo, hi) @ phi


class SparseKernel(_RowTimes):
    """Sparse matrix products; for few entries per row and values that change with theta."""

    def gram(self, level: LevelFactor, values: np.ndarray) -> sparse.csr_matrix:
        """sum_j c_j' W_j c_j as a sparse matrix."""
        q = values.shape[0]
        total = None
        for i in range(q):
            x = sum(level.h[i, a][self.entries.row] * values[a] for a in range(q))
            rows = self.entries.matrix(x)
            part = rows.T.tocsr() @ rows
            total = part if total is None else total + part
        return total

    def subtract_gram(self, s: np.ndarray, level: LevelFactor, values: np.ndarray) -> None:
        q, n = values.shape[0], self.entries.n_cols
        step = max(1, _PANEL_CELLS // n)
        for i in range(q):
            rows = self.entries.matrix(sum(level.h[i, a][self.entries.row] * values[a] for a in range(q)))
            columns = rows.T.tocsr()
            for lo in range(0, n, step):
                s[:, lo : lo + step] -= (columns[lo : lo + step] @ rows).toarray().T

    def _multiply(self, lo: int, hi: int, values: np.ndarray, phi: np.ndarray) -> np.ndarray:
        return self.entries.panel(values, lo, hi) @ phi
