"""Grouping factors outside the nested chain: what remainders share, and a sparse Schur complement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from mvmise_sm.core.covariance.structures import semidefinite_cholesky
from mvmise_sm.core.elimination.levels import relative_times
from mvmise_sm.core.elimination.selected_inverse import selected_inverse

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.chain import ChainStructure, ChainSystem
    from mvmise_sm.core.elimination.kernels import SparseKernel
    from mvmise_sm.core.elimination.levels import LevelFactor

__all__ = ["SMALL_LAMBDA", "RemainderBase", "SparseRemainder", "logdet_derivatives", "smallest"]

# below this diagonal of Lambda, quantities that divide by Lambda are formed without it
SMALL_LAMBDA = 1e-4
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

    def times_s(self, v: np.ndarray) -> np.ndarray:
        """S v (n, c)."""
        raise NotImplementedError

    def residual(self, rest: np.ndarray, solved: np.ndarray) -> np.ndarray:
        """(I - S W_R) rest (n, c) for `solved` = W_R rest, without division by a singular Lambda."""
        if min(smallest(lam) for lam in self.lambdas) < SMALL_LAMBDA:
            return rest - self.times_s(solved)
        out = np.empty(rest.shape)
        for (o, q, j), lam in zip(self.blocks, self.lambdas, strict=True):
            if q == 1:
                out[o : o + j] = solved[o : o + j] / (lam[0, 0] * lam[0, 0])
                continue
            spherical = np.linalg.solve(lam, solved[o : o + q * j].reshape(q, -1))
            out[o : o + q * j] = np.linalg.solve(lam.T, spherical).reshape(q * j, -1)
        return out

    @property
    def diagonal(self) -> np.ndarray:
        """Lambda of scalar blocks (n,)."""
        return np.repeat([lam[0, 0] for lam in self.lambdas], [j for _, _, j in self.blocks])


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
            if smallest(lam) < SMALL_LAMBDA:
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
