"""The pattern of a nested chain crossed with a remainder: what neither theta nor the response changes."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from mvmise_sm.core.elimination.kernels import Entries, SparseKernel, choose_kernel, with_data
from mvmise_sm.core.elimination.levels import apply

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.crossprod import CrossProducts
    from mvmise_sm.core.elimination.layout import Layout

__all__ = ["ChainStructure"]


class ChainStructure:
    """Everything about the random effects that neither theta nor the response changes.

    Attributes
    ----------
    scatter : dict
        (k, m) -> indicator (J_m, J_k), sums levels of k within levels of m.
    entries, values : list
        Rows of each chain factor against the remainder and their values (q, nnz).
    kernels : list
        One row kernel per chain factor.
    place : dict
        (k, m) -> place of each entry of k among those of m, for chain members k before m.
    """

    def __init__(self, layout: Layout, products: CrossProducts, remainder: str) -> None:
        self.layout = layout
        self.products = products
        factors = layout.factors
        self.chain = layout.chain
        sizes = [factors[k].size for k in layout.remainder]
        self.offsets = dict(zip(layout.remainder, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True)) if sizes else {}
        self.n_rest = int(sum(sizes))
        self.scatter = {
            (k, m): sparse.csr_matrix(
                (np.ones(par.size), (par, np.arange(par.size))), shape=(factors[m].n_levels, par.size)
            )
            for (k, m), par in layout.parent.items()
        }
        self.entries: list[Entries] = []
        self.values: list[np.ndarray] = []
        self.kernels: list[Any] = []
        self.place: dict[tuple[int, int], np.ndarray] = {}
        self._orders: list[np.ndarray | None] = []
        if not self.n_rest:
            return
        for k in self.chain:
            entries, values, order = self._rows(k)
            self._orders.append(order)
            self.entries.append(entries)
            self.values.append(values)
            if remainder != "dense":
                self.kernels.append(SparseKernel(entries))
            else:
                self.kernels.append(choose_kernel(entries, values, constant=len(self.chain) == 1))
        for (k, m), par in layout.parent.items():
            keys = self.entries[m].row * self.n_rest + self.entries[m].col
            self.place[k, m] = np.searchsorted(keys, par[self.entries[k].row] * self.n_rest + self.entries[k].col)

    def _rows(self, k: int) -> tuple[Entries, np.ndarray, np.ndarray | None]:
        """Entries of chain factor `k` against all remainder columns."""
        factors = self.layout.factors
        rows, cols, values = [], [], []
        for r in self.layout.remainder:
            pattern, f = self.layout.patterns[k, r], factors[r]
            for b in range(f.q):
                rows.append(pattern.rows)
                start = self.offsets[r] + b * f.n_levels
                cols.append(start + pattern.indices if start else pattern.indices)
                values.append(self.products.cross[k, r][:, b])
        if len(rows) == 1:
            # one list is as long as the table of pairs: it is shared, not copied
            row, col, value, order = rows[0], cols[0], np.ascontiguousarray(values[0]), None
        else:
            row, col, value = np.concatenate(rows), np.concatenate(cols), np.concatenate(values, axis=1)
            order = np.argsort(row * self.n_rest + col)
            row, col, value = row[order], col[order], np.ascontiguousarray(value[:, order])
        indptr = np.searchsorted(row, np.arange(factors[k].n_levels + 1))
        return Entries(indptr, row, col, self.n_rest), value, order

    def with_products(self, products: CrossProducts) -> ChainStructure:
        """The same pattern with other cross-products, as they come from other weights."""
        if self.n_rest:
            # formed once for all weights
            self._rest_pattern, self._rest_lower  # noqa: B018
        out = copy.copy(self)
        for name in ("rest_gram", "rest_cross"):
            out.__dict__.pop(name, None)
        out.products = products
        out.values = [self._entry_values(k, products) for k in self.chain] if self.n_rest else []
        out.kernels = [kernel.with_values(v) for kernel, v in zip(self.kernels, out.values, strict=True)]
        return out

    def _entry_values(self, k: int, products: CrossProducts) -> np.ndarray:
        """Values of the entries of chain factor `k` (q, nnz)."""
        parts = [products.cross[k, r][:, b] for r in self.layout.remainder for b in range(self.layout.factors[r].q)]
        if self._orders[k] is None:
            return np.ascontiguousarray(parts[0])
        return np.concatenate(parts, axis=1)[:, self._orders[k]]

    @cached_property
    def cell_entries(self) -> dict[tuple[int, int], np.ndarray]:
        """(k, r) -> entry of every cell of that pair and column of r (q_r, cells)."""
        out = {}
        for k, order in zip(self.chain, self._orders, strict=True):
            place = np.arange(self.entries[k].row.size)
            if order is not None:
                place[order] = place.copy()
            start = 0
            for r in self.layout.remainder:
                size, q = self.layout.patterns[k, r].nnz, self.layout.factors[r].q
                out[k, r] = place[start : start + q * size].reshape(q, size)
                start += q * size
        return out

    @cached_property
    def _rest_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the elements of Z_R'Z_R as `_rest_values` has them."""
        factors = self.layout.factors
        rows: list[np.ndarray] = []
        cols: list[np.ndarray] = []
        for r in self.layout.remainder:
            f = factors[r]
            j = np.arange(f.n_levels)
            for a in range(f.q):
                for b in range(f.q):
                    rows.append(self.offsets[r] + a * f.n_levels + j)
                    cols.append(self.offsets[r] + b * f.n_levels + j)
            for t in self.layout.remainder:
                if t <= r:
                    continue
                pattern, g = self.layout.patterns[r, t], factors[t]
                for a in range(f.q):
                    for b in range(g.q):
                        first = self.offsets[r] + a * f.n_levels + pattern.rows
                        second = self.offsets[t] + b * g.n_levels + pattern.indices
                        rows += [first, second]
                        cols += [second, first]
        return np.concatenate(rows), np.concatenate(cols)

    def _rest_values(self) -> np.ndarray:
        """Elements of Z_R'Z_R at `_rest_places`."""
        values: list[np.ndarray] = []
        for r in self.layout.remainder:
            values.extend(block for row in self.products.own[r] for block in row)
            for t in self.layout.remainder:
                if t > r:
                    values.extend(block for row in self.products.cross[r, t] for block in row for _ in range(2))
        return np.concatenate(values)

    @cached_property
    def _rest_pattern(self) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Z_R'Z_R without its values, and the element of `_rest_values` that belongs to each."""
        row, col = self._rest_places
        # from 1 upwards: zeros might be dropped
        order = np.arange(1.0, row.size + 1.0)
        pattern = sparse.csr_matrix((order, (row, col)), shape=(self.n_rest, self.n_rest))
        return pattern, pattern.data.astype(np.intp) - 1

    @cached_property
    def rest_gram(self) -> sparse.csr_matrix:
        """Z_R'Z_R as a sparse matrix (n_R, n_R)."""
        pattern, order = self._rest_pattern
        return with_data(pattern, self._rest_values()[order])

    @cached_property
    def _rest_lower(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which elements of Z_R'Z_R are on and below the diagonal, and their rows and columns."""
        row, col = self._rest_places
        lower = np.flatnonzero(row >= col)
        return lower, row[lower], col[lower]

    @property
    def rest_lower(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and values of the elements of Z_R'Z_R on and below the diagonal."""
        lower, row, col = self._rest_lower
        return row, col, self._rest_values()[lower]

    @cached_property
    def rest_cross(self) -> sparse.csr_matrix | None:
        """Z_R'Z_R between different factors of the remainder; None where there is one."""
        if len(self.layout.remainder) == 1:
            return None
        gram = self.rest_gram.tocoo()
        starts = np.array([self.offsets[r] for r in self.layout.remainder])
        apart = np.searchsorted(starts, gram.row, side="right") != np.searchsorted(starts, gram.col, side="right")
        places = (gram.row[apart], gram.col[apart])
        return sparse.csr_matrix((gram.data[apart], places), shape=gram.shape)

    def multiply(self, h: list[np.ndarray]) -> list[np.ndarray]:
        """Z'Z h for `h`, a list with (q, J, c) of every factor."""
        factors, products = self.layout.factors, self.products
        out = [apply(c, x) for c, x in zip(products.own, h, strict=True)]
        for (k, m), par in self.layout.parent.items():
            block = products.cross[k, m]
            out[k] += apply(block, h[m][:, par])
            out[m] += np.stack([self.scatter[k, m] @ x for x in apply(block.transpose(1, 0, 2), h[k])])
        if not self.n_rest:
            return out
        rest = self.flatten([h[r] for r in self.layout.remainder])
        flat = self.rest_gram @ rest
        for k, entries, values in zip(self.chain, self.entries, self.values, strict=True):
            for a in range(factors[k].q):
                out[k][a] += entries.times(values[a], rest)
                flat += entries.transposed_times(values[a], h[k][a])
        for r, part in zip(self.layout.remainder, self.unflatten(flat), strict=True):
            out[r] = part
        return out

    @staticmethod
    def flatten(blocks: list[np.ndarray]) -> np.ndarray:
        """Stack (q, J, c) blocks of the remainder to (n_R, c)."""
        return np.concatenate([b.reshape(-1, b.shape[2]) for b in blocks])

    def unflatten(self, flat: np.ndarray) -> list[np.ndarray]:
        """Split (n_R, c) into (q, J, c) blocks of the remainder."""
        out = []
        for r in self.layout.remainder:
            f, o = self.layout.factors[r], self.offsets[r]
            out.append(flat[o : o + f.size].reshape(f.q, f.n_levels, -1))
        return out
