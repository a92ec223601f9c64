"""Products with Z and Z' row by row, without Z: what weights that change from one iteration to the next need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.layout import FactorLayout, Layout

__all__ = ["Incidence", "PartsIncidence"]


class Incidence:
    """Z of all grouping factors in working coordinates.

    Parameters
    ----------
    layout : Layout

    Attributes
    ----------
    codes : list of ndarray
        Level of every row, per factor in elimination order (nobs,).
    columns : list of list
        The q working columns of each factor (nobs,), None for ones.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        # bincount would convert other integers at every call
        self.codes = [np.asarray(f.codes, dtype=np.intp) for f in layout.factors]
        self.levels = [f.n_levels for f in layout.factors]
        self.columns = [[self._column(f, a) for a in range(f.q)] for f in layout.factors]
        self.nobs = self.codes[0].size
        self._cells: dict[tuple[int, int], tuple[np.ndarray, int]] | None = None

    @staticmethod
    def _column(factor: FactorLayout, a: int) -> np.ndarray | None:
        values = factor.values(a)
        if values is None:
            return None if factor.scale[a] == 1.0 else np.full(factor.codes.size, factor.scale[a])
        return values * factor.scale[a]

    def zeros(self) -> list[np.ndarray]:
        """Random effects of zero, (q, J) per factor."""
        return [np.zeros((len(z), j)) for z, j in zip(self.columns, self.levels, strict=True)]

    def times(self, b: list[np.ndarray]) -> np.ndarray:
        """Z b (nobs,) for `b` with one (q, J) per factor."""
        out: Any = None
        for codes, columns, effects in zip(self.codes, self.columns, b, strict=True):
            for column, effect in zip(columns, effects, strict=True):
                part = effect[codes]
                if column is not None:
                    part *= column
                out = part if out is None else np.add(out, part, out=out)
        return out

    def transposed(self, v: np.ndarray) -> list[np.ndarray]:
        """Z'v, (q, J) per factor, for `v` (nobs,)."""
        out = []
        for codes, columns, j in zip(self.codes, self.columns, self.levels, strict=True):
            block = np.empty((len(columns), j))
            for a, column in enumerate(columns):
                block[a] = np.bincount(codes, v if column is None else v * column, minlength=j)
            out.append(block)
        return out

    def transposed_many(self, v: np.ndarray) -> list[np.ndarray]:
        """Z'V, (q, J, c) per factor, for `v` with c columns in rows (c, nobs)."""
        out = [np.empty((len(z), j, len(v))) for z, j in zip(self.columns, self.levels, strict=True)]
        for i, row in enumerate(v):
            for block, part in zip(out, self.transposed(row), strict=True):
                block[:, :, i] = part
        return out

    def own(self, w: np.ndarray) -> list[np.ndarray]:
        """Z_k' diag(w) Z_k by level, (q, q, J) per factor."""
        out = []
        for codes, columns, j in zip(self.codes, self.columns, self.levels, strict=True):
            q = len(columns)
            block = np.empty((q, q, j))
            for a in range(q):
                left = w if columns[a] is None else w * columns[a]
                for b in range(a + 1):
                    both = left if columns[b] is None else left * columns[b]
                    block[a, b] = block[b, a] = np.bincount(codes, both, minlength=j)
            out.append(block)
        return out

    @property
    def cells(self) -> dict[tuple[int, int], tuple[np.ndarray, int]]:
        """(k, l) -> cell of every row (nobs,) and number of cells; for a nested pair the cells are the levels of k."""
        if self._cells is None:
            layout = self.layout
            self._cells = {}
            for k in range(len(self.codes)):
                for m in range(k + 1, len(self.codes)):
                    if (k, m) in layout.parent:
                        self._cells[k, m] = (self.codes[k], self.levels[k])
                    else:
                        pattern = layout.patterns[k, m]
                        self._cells[k, m] = (np.asarray(pattern.cell, dtype=np.intp), pattern.nnz)
        return self._cells

    def cross(self, w: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
        """(k, l) -> Z_k' diag(w) Z_l on the cells of the pair (q_k, q_l, cells)."""
        out = {}
        for (k, m), (cell, n) in self.cells.items():
            first, second = self.columns[k], self.columns[m]
            block = np.empty((len(first), len(second), n))
            for a, left in enumerate(first):
                part = w if left is None else w * left
                for b, right in enumerate(second):
                    block[a, b] = np.bincount(cell, part if right is None else part * right, minlength=n)
            out[k, m] = block
        return out

    def level_quadratic(self, k: int, blocks: np.ndarray) -> np.ndarray:
        """z_k' B_j z_k of every row (nobs,) for blocks (q, q, J) of factor k."""
        codes, columns = self.codes[k], self.columns[k]
        out: Any = 0.0
        for a, left in enumerate(columns):
            for b in range(a + 1):
                part = blocks[a, b][codes] if a == b else 2.0 * blocks[a, b][codes]
                for column in (left, columns[b]):
                    if column is not None:
                        part *= column
                out = part if a == b == 0 else np.add(out, part, out=out)
        return out

    def cell_bilinear(self, k: int, m: int, blocks: np.ndarray) -> np.ndarray:
        """z_k' B_c z_m of every row (nobs,) for blocks (q_k, q_m, cells) of a pair of factors."""
        cell = self.cells[k, m][0]
        out = np.zeros(self.nobs)
        for a, left in enumerate(self.columns[k]):
            for b, right in enumerate(self.columns[m]):
                part = blocks[a, b][cell]
                for column in (left, right):
                    if column is not None:
                        part *= column
                out += part
        return out


class PartsIncidence(Incidence):
    """The same where several linear predictors have random effects: rows carry a leading axis of predictors.

    Parameters
    ----------
    layout : Layout
    parts : sequence of int
        Predictor, from 0 to R - 1, that each random-effects term enters.
    """

    def __init__(self, layout: Layout, parts: Sequence[int]) -> None:
        super().__init__(layout)
        self.n_parts = max(parts) + 1
        self.part: list[np.ndarray] = []
        for f in layout.factors:
            part = np.empty(f.q, dtype=int)
            for t, place in zip(f.terms, f.places, strict=True):
                part[place] = parts[t]
            self.part.append(part)

    def times(self, b: list[np.ndarray]) -> np.ndarray:
        """Z b (R, nobs)."""
        out = np.zeros((self.n_parts, self.nobs))
        for codes, columns, part, effects in zip(self.codes, self.columns, self.part, b, strict=True):
            for column, at, effect in zip(columns, part, effects, strict=True):
                out[at] += effect[codes] if column is None else effect[codes] * column
        return out

    def transposed(self, v: np.ndarray) -> list[np.ndarray]:
        """Z'v, (q, J) per factor, for `v` (R, nobs)."""
        out = []
        for codes, columns, part, j in zip(self.codes, self.columns, self.part, self.levels, strict=True):
            block = np.empty((len(columns), j))
            for a, column in enumerate(columns):
                row = v[part[a]]
                block[a] = np.bincount(codes, row if column is None else row * column, minlength=j)
            out.append(block)
        return out

    def own(self, w: np.ndarray) -> list[np.ndarray]:
        """Z_k' W Z_k by level, (q, q, J) per factor, for `w` (R, R, nobs)."""
        out = []
        for codes, columns, part, j in zip(self.codes, self.columns, self.part, self.levels, strict=True):
            q = len(columns)
            block = np.empty((q, q, j))
            for a in range(q):
                for b in range(a + 1):
                    both = _scaled(w[part[a], part[b]], columns[a], columns[b])
                    block[a, b] = block[b, a] = np.bincount(codes, both, minlength=j)
            out.append(block)
        return out

    def cross(self, w: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
        """(k, l) -> Z_k' W Z_l on the cells of the pair (q_k, q_l, cells)."""
        out = {}
        for (k, m), (cell, n) in self.cells.items():
            block = np.empty((len(self.columns[k]), len(self.columns[m]), n))
            for a, left in enumerate(self.columns[k]):
                for b, right in enumerate(self.columns[m]):
                    both = _scaled(w[self.part[k][a], self.part[m][b]], left, right)
                    block[a, b] = np.bincount(cell, both, minlength=n)
            out[k, m] = block
        return out

    def level_quadratic(self, k: int, blocks: np.ndarray) -> np.ndarray:
        """z_ka' B_j z_kb of every row and pair of predictors (R, R, nobs)."""
        codes, columns, part = self.codes[k], self.columns[k], self.part[k]
        out = np.zeros((self.n_parts, self.n_parts, self.nobs))
        for a, left in enumerate(columns):
            for b, right in enumerate(columns):
                out[part[a], part[b]] += _scaled(blocks[a, b][codes], left, right)
        return out

    def cell_bilinear(self, k: int, m: int, blocks: np.ndarray) -> np.ndarray:
        """Half of z_k' B_c z_m plus its transpose of every row and pair of predictors (R, R, nobs)."""
        cell = self.cells[k, m][0]
        out = np.zeros((self.n_parts, self.n_parts, self.nobs))
        for a, left in enumerate(self.columns[k]):
            for b, right in enumerate(self.columns[m]):
                half = 0.5 * _scaled(blocks[a, b][cell], left, right)
                out[self.part[k][a], self.part[m][b]] += half
                out[self.part[m][b], self.part[k][a]] += half
        return out


def _scaled(row: np.ndarray, left: np.ndarray | None, right: np.ndarray | None) -> np.ndarray:
    """A row times columns that are None where they are ones."""
    if left is not None:
        row = row * left
    return row if right is None else row * right
