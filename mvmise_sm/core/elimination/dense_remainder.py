"""Grouping factors outside the nested chain as one dense block, in one array.

The lower triangle holds S, then M = Lambda'S Lambda + I, its Cholesky factor and, once traces are asked for, the
posterior covariance Phi = Lambda M^-1 Lambda'. S itself is applied from its sparse parts where it is needed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg.blas import dsymm
from scipy.linalg.lapack import dpotrf, dpotri, dtrtrs

from mvmise_sm.core.elimination.schur import SMALL_LAMBDA, RemainderBase, smallest

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.chain_structure import ChainStructure
    from mvmise_sm.core.elimination.kernels import Kernel
    from mvmise_sm.core.elimination.levels import LevelFactor

__all__ = ["DenseRemainder"]

# numbers in a panel of columns: 8 MB
_PANEL_CELLS = 1_000_000


class DenseRemainder(RemainderBase):
    """S = Z_R'V_chain^-1 Z_R and what follows from it, lower triangle in Fortran order.

    Attributes
    ----------
    logdet : float
        log|Lambda'S Lambda + I|, after `factor`.
    """

    def __init__(self, structure: ChainStructure, lambdas: list[np.ndarray]) -> None:
        super().__init__(structure, lambdas)
        self.matrix = np.zeros((self.n, self.n), order="F")
        rows, cols, values = structure.rest_lower
        self.matrix[rows, cols] = values
        self._explained: list[tuple[Kernel, LevelFactor, np.ndarray]] = []
        self._inverse_blocks: list[np.ndarray] | None = None
        self._full = False

    def subtract(self, kernel: Kernel, level: LevelFactor, values: np.ndarray) -> None:
        """Take off what one chain factor explains."""
        kernel.subtract_gram(self.matrix, level, values)
        self._explained.append((kernel, level, values))

    def factor(self) -> None:
        """Replace S by the Cholesky factor of M."""
        self._sandwich(transpose=True)
        self.matrix[np.diag_indices(self.n)] += 1.0
        self.matrix, info = dpotrf(self.matrix, lower=1, overwrite_a=1, clean=0)
        if info:
            raise np.linalg.LinAlgError("M is not positive definite")
        self.logdet = 2.0 * float(np.log(self.matrix.diagonal()).sum())
        self._full = False

    def _columns(self) -> Iterator[slice]:
        step = max(1, _PANEL_CELLS // max(self.n, 1))
        for lo in range(0, self.n, step):
            yield slice(lo, min(lo + step, self.n))

    def _sandwich(self, transpose: bool) -> None:
        """Lambda' A Lambda, or Lambda A Lambda' for A in the lower triangle, in place."""
        a = self.matrix
        if self.scalar:
            d = self.diagonal
            for at in self._columns():
                a[at.start :, at] *= d[at.start :, None]
                a[at.start :, at] *= d[at]
            return
        self._fill()
        for o, q, j, lam in self._factors(transpose):
            step = max(1, _PANEL_CELLS // (self.n * q))
            for lo in range(0, j, step):
                # the columns of the same levels move together
                moved = [slice(o + b * j + lo, o + b * j + min(lo + step, j)) for b in range(q)]
                old = [a[:, where].copy() for where in moved]
                for b, where in enumerate(moved):
                    a[:, where] = sum(lam[c, b] * old[c] for c in range(q))
        for at in self._columns():
            part = a[:, at]
            for o, q, j, lam in self._factors(transpose):
                rows = part[o : o + q * j].reshape(q, -1)
                part[o : o + q * j] = (lam.T @ rows).reshape(q * j, -1)

    def _factors(self, transpose: bool) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """Places and the matrix that stands on the right of every block."""
        for (o, q, j), lam in zip(self.blocks, self.lambdas, strict=True):
            yield o, q, j, lam if transpose else lam.T

    def _fill(self) -> None:
        """Copy the lower triangle to the upper one."""
        if self._full:
            return
        a = self.matrix
        for at in self._columns():
            own = a[at, at]
            a[at, at] = np.tril(own) + np.tril(own, -1).T
            a[at, at.stop :] = a[at.stop :, at].T
        self._full = True

    # --- products with the posterior covariance

    def _half(self, rest: np.ndarray) -> np.ndarray:
        return dtrtrs(self.matrix, self.apply(rest, transpose=True), lower=1)[0]

    @property
    def _inverted(self) -> bool:
        return self._inverse_blocks is not None

    def quadratic(self, rest: np.ndarray) -> np.ndarray:
        """rest' W_R rest (c, c)."""
        if self._inverted:
            out = rest.T @ self.solve(rest)
            return 0.5 * (out + out.T)
        half = self._half(rest)
        return half.T @ half

    def solve(self, rest: np.ndarray) -> np.ndarray:
        """W_R rest (n, c)."""
        if self._inverted:
            return np.ascontiguousarray(dsymm(1.0, self.matrix, rest, lower=1))
        spherical = np.ascontiguousarray(dtrtrs(self.matrix, self._half(rest), lower=1, trans=1)[0])
        return self.apply(spherical, transpose=False)

    def times_s(self, v: np.ndarray) -> np.ndarray:
        """S v (n, c) from the sparse parts of S."""
        out = self.structure.rest_gram @ v
        for kernel, level, values in self._explained:
            entries = kernel.entries
            through = [entries.times(row, v) for row in values]
            for a, row in enumerate(values):
                taken = sum(level.w[a, b][:, None] * part for b, part in enumerate(through))
                out -= entries.transposed_times(row, taken)
        return out

    # --- elements of the posterior covariance

    def phi(self, full: bool) -> np.ndarray:
        """Lambda M_R^-1 Lambda', the posterior covariance of the remainder; lower triangle unless `full`."""
        if not self._inverted:
            self.matrix = dpotri(self.matrix, lower=1, overwrite_c=1)[0]
            self._inverse_blocks = list(self._level_blocks(self.matrix))
            self._sandwich(transpose=False)
        if full:
            self._fill()
        return self.matrix

    def _level_blocks(self, matrix: np.ndarray) -> Iterator[np.ndarray]:
        """Diagonal blocks by level (q, q, J) of a matrix with a valid lower triangle."""
        for o, q, j in self.blocks:
            at = o + np.arange(j)
            out = np.empty((q, q, j))
            for a in range(q):
                for b in range(a + 1):
                    out[a, b] = out[b, a] = matrix[at + a * j, at + b * j]
            yield out

    def traces(self) -> list[np.ndarray]:
        """sum_j (Z_k'V^-1Z_k)_jj (q, q) per factor."""
        self.phi(full=False)
        out = []
        for (o, q, j), lam, inverse in zip(self.blocks, self.lambdas, self._inverse_blocks or [], strict=True):
            if smallest(lam) >= SMALL_LAMBDA:
                left = np.linalg.solve(lam.T, j * np.eye(q) - inverse.sum(axis=2))
                out.append(np.linalg.solve(lam.T, left.T))
            else:
                out.append(self._trace_directly(o, q, j))
        return out

    def _trace_directly(self, o: int, q: int, j: int) -> np.ndarray:
        """sum_j (S - S Phi S)_jj for one factor, whatever its Lambda."""
        out = np.zeros((q, q))
        step = max(1, _PANEL_CELLS // (self.n * q))
        for lo in range(0, j, step):
            level = np.arange(lo, min(lo + step, j))
            unit = np.zeros((self.n, q, level.size))
            for a in range(q):
                unit[o + a * j + level, a, np.arange(level.size)] = 1.0
            columns = self.times_s(unit.reshape(self.n, -1))
            through = self.solve(columns).reshape(unit.shape)
            columns = columns.reshape(unit.shape)
            for a in range(q):
                for b in range(q):
                    own = columns[o + a * j + level, b, np.arange(level.size)].sum()
                    out[a, b] += own - np.vdot(columns[:, a], through[:, b])
        return out

    def posterior_blocks(self) -> list[np.ndarray]:
        """Diagonal blocks of the posterior covariance by level (q, q, J), per factor."""
        return list(self._level_blocks(self.phi(full=False)))

    def posterior_at(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Elements of the posterior covariance (c,)."""
        return self.phi(full=False)[np.maximum(rows, cols), np.minimum(rows, cols)]

    def quad(self, kernel: Kernel, values: np.ndarray) -> np.ndarray:
        """c_j Phi c_j' by level of a chain factor."""
        return kernel.quad(self.phi(full=not kernel.reads_lower), values)

    def row_times(self, kernel: Kernel, values: np.ndarray) -> np.ndarray:
        """(c Phi) on the entries of a chain factor (q, nnz)."""
        return kernel.row_times(self.phi(full=True), values)
