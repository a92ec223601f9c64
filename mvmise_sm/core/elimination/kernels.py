"""Row kernels between a block-diagonal factor and a dense remainder.

Row j of the factor holds sparse entries c_e (q,) at remainder columns r_e. Every kernel answers ``subtract_gram``, S
-= sum_j c_j' W_j c_j, and ``quad``, c_j Phi c_j' by level; they differ in cost only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse
from scipy.linalg.blas import dsyrk

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.levels import LevelFactor

__all__ = ["Entries", "Kernel", "PairKernel", "PanelKernel", "SparseKernel", "choose_kernel"]

_MAX_PAIRS = 15_000_000
_PANEL_CELLS = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
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

    def matrix(self, values: np.ndarray) -> sparse.csr_matrix:
        """Compressed sparse rows (J, n_cols) with `values` (nnz,)."""
        return sparse.csr_matrix((values, self.col, self.indptr), shape=(self.n_rows, self.n_cols))


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
    """A list of all pairs of entries that share a row; for entries that are the same at every theta."""

    reads_lower = True

    def __init__(self, entries: Entries, values: np.ndarray) -> None:
        count = np.diff(entries.indptr)
        place = np.arange(entries.row.size) - entries.indptr[entries.row]
        first = np.repeat(np.arange(entries.row.size, dtype=np.int32), place + 1)
        stops = np.cumsum(place + 1)
        second = (np.arange(first.size) - np.repeat(stops - (place + 1), place + 1)).astype(np.int32)
        second += entries.indptr[entries.row[first]].astype(np.int32)
        self.key = entries.col[second].astype(np.intp) * entries.n_cols + entries.col[first]
        self.n_cols = entries.n_cols
        self.per_row = count * (count + 1) // 2
        self.starts = np.cumsum(self.per_row) - self.per_row
        self.products = self._pair_products(values, first, second)
        self.twice = np.where(first == second, 1.0, 2.0)
        self.unit = values.shape[0] == 1 and (self.products[0, 0] == 1.0).all()
        self.entries = entries
        self._pairs: tuple[np.ndarray, np.ndarray] | None = None

    @staticmethod
    def _pair_products(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
        q = values.shape[0]
        products = {}
        for a in range(q):
            for b in range(a, q):
                x = values[a][first] * values[b][second]
                if a != b:
                    x += values[b][first] * values[a][second]
                products[a, b] = x
        return products

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """First and second entry of every pair, formed when weights change or blocks between factors are needed."""
        if self._pairs is None:
            entries = self.entries
            place = np.arange(entries.row.size) - entries.indptr[entries.row]
            first = np.repeat(np.arange(entries.row.size), place + 1)
            stops = np.cumsum(place + 1)
            second = (
                np.arange(first.size) - np.repeat(stops - (place + 1), place + 1) + entries.indptr[entries.row[first]]
            )
            self._pairs = first, second
        return self._pairs

    def with_values(self, values: np.ndarray) -> PairKernel:
        """The same pairs with other values of the entries (q, nnz)."""
        out = copy.copy(self)
        out._pairs = self.pairs
        out.products = self._pair_products(values, *out._pairs)
        out.unit = False
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
        total = None
        for (a, b), x in self.products.items():
            part = np.repeat(level.w[a, b], self.per_row)
            if not self.unit:
                part *= x
            total = part if total is None else np.add(total, part, out=total)
        flat = s.ravel(order="K")
        flat -= np.bincount(self.key, weights=total, minlength=flat.size)

    def quad(self, phi: np.ndarray, values: np.ndarray) -> np.ndarray:
        """c_j Phi c_j' by level (q, q, J); the lower triangle of `phi` (Fortran order) is read."""
        weighted = phi.ravel(order="K")[self.key]
        weighted *= self.twice
        q = values.shape[0]
        out = np.zeros((q, q, self.per_row.size))
        filled = np.flatnonzero(self.per_row)
        for (a, b), x in self.products.items():
            part = np.add.reduceat(weighted if self.unit else weighted * x, self.starts[filled])
            out[a, b, filled] = part if a == b else 0.5 * part
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
            row = e.row[at] - lo
            for a in range(q):
                part = sparse.csr_matrix(
                    (values[a, at], e.col[at], e.indptr[lo : hi + 1] - e.indptr[lo]), (hi - lo, e.n_cols)
                )
                out[a, at] = self._multiply(part, phi)[row, e.col[at]]
        return out

    @staticmethod
    def _multiply(part: sparse.csr_matrix, phi: np.ndarray) -> np.ndarray:
        """Product of a panel of rows with Phi."""
        raise NotImplementedError


class PanelKernel(_RowTimes):
    """Dense row panels and BLAS; for many entries per row."""

    def subtract_gram(self, s: np.ndarray, level: LevelFactor, values: np.ndarray) -> None:
        e = self.entries
        q = values.shape[0]
        for lo, hi, at in self._panels(q):
            row, col = e.row[at], e.col[at]
            panel = np.zeros((q, hi - lo, e.n_cols))
            for i in range(q):
                panel[i, row - lo, col] = sum(level.h[i, a][row] * values[a, at] for a in range(q))
            flat = panel.reshape(-1, e.n_cols)
            result = dsyrk(-1.0, flat.T, beta=1.0, c=s, lower=1, overwrite_c=1)
            if result is not s:
                s[:] = result

    @staticmethod
    def _multiply(part: sparse.csr_matrix, phi: np.ndarray) -> np.ndarray:
        return part.toarray() @ phi


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
        s -= self.gram(level, values).toarray()

    @staticmethod
    def _multiply(part: sparse.csr_matrix, phi: np.ndarray) -> np.ndarray:
        return part @ phi
