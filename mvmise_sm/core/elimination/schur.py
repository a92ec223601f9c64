"""Grouping factors outside the nested chain: one dense or sparse Schur complement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.linalg.blas import dsymm
from scipy.linalg.lapack import dpotrf, dpotri, dtrtrs
from scipy.sparse.linalg import splu

from mvmise_sm.core.covariance.structures import semidefinite_cholesky
from mvmise_sm.core.elimination.levels import relative_times
from mvmise_sm.core.elimination.selected_inverse import selected_inverse

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.chain import ChainStructure, ChainSystem
    from mvmise_sm.core.elimination.kernels import Kernel, SparseKernel
    from mvmise_sm.core.elimination.levels import LevelFactor

__all__ = ["DenseRemainder", "RemainderBase", "SparseRemainder", "logdet_derivatives", "smallest"]

# below this diagonal of Lambda, quantities that divide by Lambda are formed without it
_SMALL_LAMBDA = 1e-4
_PRODUCT_CELLS = 20_000_000


class RemainderBase:
    """Places and relative factors of the remainder's blocks.

    Attributes
    ----------
    selected : bool
        Whether elements of the posterior covariance can be read; otherwise its traces are estimated.
    """

    selected = True

    def __init__(self, structure: ChainStructure, lambdas: list[np.ndarray]) -> None:
        self.structure = structure
        self.lambdas = lambdas
        factors = [structure.layout.factors[r] for r in structure.layout.remainder]
        offsets = [structure.offsets[r] for r in structure.layout.remainder]
        self.blocks = [(o, f.q, f.n_levels) for o, f in zip(offsets, factors, strict=True)]
        self.scalar = all(f.q == 1 for f in factors)
        self.n = structure.n_rest

    def apply(self, rows: np.ndarray, transpose: bool) -> np.ndarray:
        """Lambda' rows or Lambda rows for `rows` (n, c)."""
        return relative_times(self.blocks, self.lambdas, rows, transpose=transpose)

    @property
    def diagonal(self) -> np.ndarray:
        """Lambda of scalar blocks (n,)."""
        return np.repeat([lam[0, 0] for lam in self.lambdas], [j for _, _, j in self.blocks])


class DenseRemainder(RemainderBase):
    """S = Z_R'V_chain^-1 Z_R as a dense matrix, lower triangle in Fortran order.

    Attributes
    ----------
    logdet : float
        log|Lambda'S Lambda + I|, after `factor`.
    """

    def __init__(self, structure: ChainStructure, lambdas: list[np.ndarray]) -> None:
        super().__init__(structure, lambdas)
        self.s = structure.dense_rest_gram.copy(order="F")
        self._n_inverse: np.ndarray | None = None
        self._phi: np.ndarray | None = None

    def subtract(self, kernel: Kernel, level: LevelFactor, values: np.ndarray) -> None:
        """Take off what one chain factor explains."""
        kernel.subtract_gram(self.s, level, values)

    def factor(self) -> None:
        if self.scalar:
            d = self.diagonal
            m = self.s * d
            m *= d[:, None]
        else:
            self.s = _symmetric(self.s)
            rows = self.apply(self.s, transpose=True)
            m = self.apply(rows.T, transpose=True).T
        m[np.diag_indices(self.n)] += 1.0
        self.l, info = dpotrf(m, lower=1, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError("M is not positive definite")
        self.logdet = 2.0 * float(np.log(self.l.diagonal()).sum())

    def _half(self, rest: np.ndarray) -> np.ndarray:
        return dtrtrs(self.l, self.apply(rest, transpose=True), lower=1)[0]

    def quadratic(self, rest: np.ndarray) -> np.ndarray:
        """rest' W_R rest (c, c)."""
        half = self._half(rest)
        return half.T @ half

    def solve(self, rest: np.ndarray) -> np.ndarray:
        """W_R rest (n, c)."""
        self._spherical = np.ascontiguousarray(dtrtrs(self.l, self._half(rest), lower=1, trans=1)[0])
        return self.apply(self._spherical, transpose=False)

    def residual(self, rest: np.ndarray, solved: np.ndarray) -> np.ndarray:
        """(I - S W_R) rest (n, c), without division by a singular Lambda."""
        if min(smallest(lam) for lam in self.lambdas) < _SMALL_LAMBDA:
            return rest - dsymm(1.0, self.s, solved, lower=1)
        out = np.empty_like(rest)
        for (o, q, j), lam in zip(self.blocks, self.lambdas, strict=True):
            stop = o + q * j
            out[o:stop] = np.linalg.solve(lam.T, self._spherical[o:stop].reshape(q, -1)).reshape(q * j, -1)
        return out

    @property
    def n_inverse(self) -> np.ndarray:
        """M_R^-1, lower triangle."""
        if self._n_inverse is None:
            self._n_inverse = dpotri(self.l, lower=1)[0]
        return self._n_inverse

    def phi(self, full: bool) -> np.ndarray:
        """Lambda M_R^-1 Lambda', the posterior covariance of the remainder; lower triangle unless `full`."""
        if self._phi is None:
            if self.scalar:
                d = self.diagonal
                self._phi = self.n_inverse * d
                self._phi *= d[:, None]
            else:
                rows = self.apply(_symmetric(self.n_inverse), transpose=False)
                self._phi = self.apply(rows.T, transpose=False).T
        return _symmetric(self._phi) if full and self.scalar else self._phi

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
        out = []
        inverse_blocks = list(self._level_blocks(self.n_inverse))
        for (o, q, j), lam, inverse in zip(self.blocks, self.lambdas, inverse_blocks, strict=True):
            if smallest(lam) >= _SMALL_LAMBDA:
                left = np.linalg.solve(lam.T, j * np.eye(q) - inverse.sum(axis=2))
                out.append(np.linalg.solve(lam.T, left.T))
            else:
                out.append(self._trace_directly(o, q, j))
        return out

    def _trace_directly(self, o: int, q: int, j: int) -> np.ndarray:
        """sum_j (S - S Phi S)_jj for one factor, whatever its Lambda."""
        s = _symmetric(self.s)
        columns = s[:, o : o + q * j]
        through = self.phi(full=True) @ columns
        out = np.empty((q, q))
        for a in range(q):
            left = columns[:, a * j : (a + 1) * j]
            for b in range(q):
                own = s[np.arange(o + a * j, o + (a + 1) * j), np.arange(o + b * j, o + (b + 1) * j)].sum()
                out[a, b] = own - np.vdot(left, through[:, b * j : (b + 1) * j])
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


class SparseRemainder(RemainderBase):
    """S as a sparse matrix, factored by SuperLU in symmetric mode.

    Attributes
    ----------
    logdet : float
        log|Lambda'S Lambda + I|, after `factor`.
    """

    def __init__(self, structure: ChainStructure, lambdas: list[np.ndarray]) -> None:
        super().__init__(structure, lambdas)
        self.s = structure.rest_gram
        self._parts = [structure.rest_gram]
        blocks = [
            sparse.kron(sparse.csc_matrix(lam), sparse.eye(j))
            for (_, _, j), lam in zip(self.blocks, lambdas, strict=True)
        ]
        self.lam = sparse.block_diag(blocks, format="csc")

    def subtract(self, kernel: SparseKernel, level: LevelFactor, values: np.ndarray) -> None:
        """Take off what one chain factor explains."""
        gram = kernel.gram(level, values)
        self._parts.append(gram)
        self.s = self.s - gram

    def factor(self) -> None:
        m = (self.lam.T @ self.s @ self.lam + sparse.eye(self.n)).tocsc()
        self.lu = splu(m, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        pivots = self.lu.U.diagonal()
        if (pivots <= 0.0).any():
            raise np.linalg.LinAlgError("M is not positive definite")
        self.logdet = float(np.log(pivots).sum())

    def solve(self, rest: np.ndarray) -> np.ndarray:
        """W_R rest (n, c)."""
        return self.lam @ self.lu.solve(np.ascontiguousarray(self.lam.T @ rest))

    def quadratic(self, rest: np.ndarray) -> np.ndarray:
        """rest' W_R rest (c, c)."""
        return rest.T @ self.solve(rest)

    def residual(self, rest: np.ndarray, solved: np.ndarray) -> np.ndarray:
        """(I - S W_R) rest (n, c)."""
        return rest - self.s @ solved

    @cached_property
    def _inverse(self) -> sparse.csr_matrix:
        """M_R^-1 on the pattern of its factor."""
        return selected_inverse(self.lu)

    @cached_property
    def _phi(self) -> sparse.csr_matrix:
        """Lambda M_R^-1 Lambda', the posterior covariance of the remainder, on the pattern of S."""
        phi = (self.lam @ self._inverse @ self.lam.T).tocsr()
        pattern = sum(abs(part.sign()) for part in self._parts)
        return phi.multiply(pattern != 0).tocsr()

    def row_times(self, kernel: SparseKernel, values: np.ndarray) -> np.ndarray:
        """(c Phi) on the entries of a chain factor (q, nnz)."""
        e, phi = kernel.entries, self._phi
        out = np.empty_like(values)
        step = max(1, int(_PRODUCT_CELLS * e.n_rows / max(e.row.size * phi.nnz / max(self.n, 1), 1.0)))
        for lo in range(0, e.n_rows, step):
            hi = min(lo + step, e.n_rows)
            at = slice(int(e.indptr[lo]), int(e.indptr[hi]))
            for a, row in enumerate(values):
                part = sparse.csr_matrix((row[at], e.col[at], e.indptr[lo : hi + 1] - e.indptr[lo]), (hi - lo, self.n))
                times = part @ phi
                times.sort_indices()
                out[a, at] = np.asarray(times[e.row[at] - lo, e.col[at]]).ravel()
        return out

    def quad(self, kernel: SparseKernel, values: np.ndarray) -> np.ndarray:
        """c_j Phi c_j' by level of a chain factor."""
        times, q = self.row_times(kernel, values), values.shape[0]
        return np.array([[kernel.entries.row_sums(times[a] * values[b]) for b in range(q)] for a in range(q)])

    def _level_blocks(self, matrix: sparse.csr_matrix) -> Iterator[np.ndarray]:
        """Diagonal blocks by level (q, q, J) of a sparse matrix, per factor."""
        for o, q, j in self.blocks:
            at = o + np.arange(j)
            yield np.array([[np.asarray(matrix[at + a * j, at + b * j]).ravel() for b in range(q)] for a in range(q)])

    def traces(self) -> list[np.ndarray | None]:
        """sum_j (Z_k'V^-1Z_k)_jj (q, q) per factor, None where Lambda is too close to singular."""
        out: list[np.ndarray | None] = []
        for (_, q, j), lam, block in zip(self.blocks, self.lambdas, self._level_blocks(self._inverse), strict=True):
            if smallest(lam) < _SMALL_LAMBDA:
                out.append(None)
                continue
            left = np.linalg.solve(lam.T, j * np.eye(q) - block.sum(axis=2))
            out.append(np.linalg.solve(lam.T, left.T))
        return out

    def posterior_blocks(self) -> list[np.ndarray]:
        """Diagonal blocks of the posterior covariance by level (q, q, J), per factor."""
        return list(self._level_blocks(self._phi))

    def posterior_at(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Elements of the posterior covariance on the pattern of S (c,)."""
        return np.asarray(self._phi[rows, cols]).ravel()


def logdet_derivatives(
    system: ChainSystem, lambdas: list[np.ndarray], value: float, which: list[int]
) -> list[np.ndarray]:
    """d log|M| / dSigma_k (q, q) of the factors `which` by fourth-order differences of the factorisation.

    Steps go along positive semidefinite directions v v' and are one-sided where Sigma_k is near the boundary.
    """
    out = []
    for k in which:
        lam = lambdas[k]
        q = lam.shape[0]
        sigma = lam @ lam.T
        small = float(np.linalg.eigvalsh(sigma)[0])
        d = np.zeros((q, q))
        along = {}
        for a in range(q):
            for b in range(a + 1):
                v = np.zeros(q)
                v[[a, b]] = 1.0

                def at(t: float, k: int = k, v: np.ndarray = v, sigma: np.ndarray = sigma) -> float:
                    moved = list(lambdas)
                    moved[k] = semidefinite_cholesky(sigma + t * np.outer(v, v))
                    return system.factorize(moved).logdet

                along[a, b] = _slope(at, small / float(v @ v), value)
        for a in range(q):
            d[a, a] = along[a, a]
            for b in range(a):
                d[a, b] = d[b, a] = 0.5 * (along[a, b] - along[a, a] - along[b, b])
        out.append(d)
    return out


def _slope(f: Callable[..., Any], room: float, value: float) -> float:
    """Derivative at 0 of f, where steps below ``-room`` leave the domain."""
    if room > 3e-3:
        h = min(0.03 * room, 1e-2)
        return (8.0 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12.0 * h)
    h = 1e-4
    return (-25.0 * value + 48.0 * f(h) - 36.0 * f(2 * h) + 16.0 * f(3 * h) - 3.0 * f(4 * h)) / (12.0 * h)


def smallest(lam: np.ndarray) -> float:
    """The smallest singular value of a relative factor."""
    return abs(float(lam[0, 0])) if lam.size == 1 else float(np.linalg.norm(lam, -2))


def _symmetric(lower: np.ndarray) -> np.ndarray:
    """The full matrix of a lower triangle."""
    return np.tril(lower) + np.tril(lower, -1).T
