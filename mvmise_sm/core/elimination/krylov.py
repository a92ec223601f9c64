"""Grouping factors outside the chain that are too many for a dense block: conjugate gradients and fixed probes.

With the blocks by level I + Lambda'C Lambda = L L' of the remainder and H = L^-1 Lambda',

    L^-1 M_R L^-T = I - X,    X = B'B - H S_off H',    B = W^(1/2) C_1R H',

where B has the sparsity of the data. Everything linear in the response is solved to rounding. log|M_R| = log|P| +
tr log(I - X) and the traces of the score are means over probes z with signs at random: exact on a few deflated
directions U, and with z'Xz and z'X^2z, whose means are known, as control variates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from mvmise_sm.core.elimination.conjugate import Run, conjugate_gradients
from mvmise_sm.core.elimination.levels import factor_levels, product
from mvmise_sm.core.elimination.schur import SMALL_LAMBDA, RemainderBase, smallest
from mvmise_sm.exceptions import ProblemTooLargeError

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.chain_structure import ChainStructure
    from mvmise_sm.core.elimination.kernels import Entries, Kernel
    from mvmise_sm.core.elimination.levels import LevelFactor

__all__ = ["Estimate", "KrylovRemainder", "Probes"]

# relative residuals of solves that enter estimates of theta and beta, and of those of the probes
_SOLVED, _PROBED = 1e-11, 1e-7
_ITERATIONS = 3_000
# pairs of entries that share a row; with more the second control variate is left out
_SECOND_PAIRS = 5e7
_PANEL_PAIRS = 4e6
# the regression on control variates leaves residuals with a share of their degrees of freedom at least
_LEAST_PROBES = 8
# standard errors of the mean over probes that count as its error: their spread is itself an estimate
_WIDTH = 4.0
_SUBSPACE_STEPS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """Fixed directions along which traces are estimated.

    Attributes
    ----------
    count : int
        Random signs.
    seed : int
    second : bool
        Whether tr X^2 is formed as a control variate of the log-determinant.
    basis : ndarray or None
        Orthonormal deflated directions (n_R, d).
    """

    count: int
    seed: int
    second: bool = False
    basis: np.ndarray | None = None

    def signs(self, n: int) -> np.ndarray:
        """Random signs (n, count)."""
        return 2.0 * np.random.default_rng(self.seed).integers(0, 2, (n, self.count)).astype(float) - 1.0

    def deflating(self, basis: np.ndarray) -> Probes:
        """The same probes off other directions."""
        return replace(self, basis=basis)


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A mean over probes.

    Attributes
    ----------
    mean : ndarray
        (...).
    rest : ndarray
        What the control variates leave of every probe's value (c, ...).
    ddf : int
        Degrees of freedom of `rest`.
    """

    mean: np.ndarray
    rest: np.ndarray
    ddf: int

    @property
    def error(self) -> float:
        """Standard error of a scalar mean."""
        return float(np.sqrt(np.square(self.rest).sum() / (self.ddf * len(self.rest))))


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Probes off the deflated directions, the directions themselves, and what I - X makes of both, side by side."""

    z: np.ndarray
    xz: np.ndarray
    run: Run
    probes: int


class KrylovRemainder(RemainderBase):
    """The remainder without its Schur complement.

    Attributes
    ----------
    logdet : float
        log|Lambda'S Lambda + I|, estimated.
    """

    selected = False

    def __init__(self, structure: ChainStructure, lambdas: list[np.ndarray], probes: Probes) -> None:
        super().__init__(structure, lambdas)
        self.probes = probes
        self._rows: list[sparse.csr_matrix] = []
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    # --- the chain is eliminated

    def subtract(self, kernel: Kernel, level: LevelFactor, values: np.ndarray) -> None:
        """Keep what one chain factor explains, as rows R with S = Z_R'Z_R - R'R."""
        entries = kernel.entries
        q = values.shape[0]
        for i in range(q):
            row = sum(level.h[i, a][entries.row] * values[a] for a in range(q))
            self._rows.append(entries.matrix(np.asarray(row)))

    def factor(self) -> None:
        """Factor the blocks by level and scale the rows."""
        products, layout = self.structure.products, self.structure.layout
        self.levels = [
            factor_levels(products.own[r], lam) for r, lam in zip(layout.remainder, self.lambdas, strict=True)
        ]
        self.rows = self._rows[0] if len(self._rows) == 1 else sparse.vstack(self._rows, format="csr")
        if self.scalar:
            self.h_diagonal = np.concatenate([level.h[0, 0] for level in self.levels])
            scaled = self.rows.copy()
            scaled.data = scaled.data * self.h_diagonal[scaled.indices]
            self.b = scaled
        else:
            self.h = _block_diagonal([level.h for level in self.levels], [j for _, _, j in self.blocks])
            self.b = (self.rows @ self.h.T).tocsr()
        self.bt = self.b.T.tocsr()
        cross = self.structure.rest_cross
        self.off = None
        if cross is not None:
            self.off = (self.h @ cross @ self.h.T).tocsr() if not self.scalar else _scaled(cross, self.h_diagonal)

    def to_scaled(self, rows: np.ndarray) -> np.ndarray:
        """H rows (n, c)."""
        return self.h_diagonal[:, None] * rows if self.scalar else self.h @ rows

    def from_scaled(self, rows: np.ndarray) -> np.ndarray:
        """H'rows (n, c)."""
        return self.h_diagonal[:, None] * rows if self.scalar else self.h.T @ rows

    def times_x(self, v: np.ndarray) -> np.ndarray:
        """X v (n, c)."""
        out = self.bt @ (self.b @ v)
        return out if self.off is None else out - self.off @ v

    def _times(self, v: np.ndarray) -> np.ndarray:
        out = self.times_x(v)
        return np.subtract(v, out, out=out)

    # --- what is exact

    def solve(self, rest: np.ndarray) -> np.ndarray:
        """W_R rest (n, c) to rounding."""
        if self._last is not None and self._last[0] is rest:
            return self._last[1]
        run = conjugate_gradients(self._times, self.to_scaled(rest), _SOLVED, _ITERATIONS)
        self._certify(run)
        out = self.from_scaled(run.x)
        self._last = (rest, out)
        return out

    def quadratic(self, rest: np.ndarray) -> np.ndarray:
        """rest' W_R rest (c, c)."""
        out = rest.T @ self.solve(rest)
        return 0.5 * (out + out.T)

    def times_s(self, v: np.ndarray) -> np.ndarray:
        """S v (n, c)."""
        return self.structure.rest_gram @ v - self.rows.T @ (self.rows @ v)

    def _certify(self, run: Run) -> None:
        if not run.converged:
            raise ProblemTooLargeError(
                f"the {self.n:,} crossed random effects are too many for an exact fit and so weakly connected that "
                f"{_ITERATIONS:,} iterations do not solve for them; nothing certifies a stochastic log-determinant"
            )

    # --- probes

    def deflated_basis(self, size: int, seed: int) -> np.ndarray:
        """Orthonormal directions (n, d) near the largest eigenvalues of X: a few steps of subspace iteration."""
        rng = np.random.default_rng([seed, 1])
        start = rng.standard_normal((self.n, min(size, self.n // 2)))
        place = 0
        for (o, q, j), r in zip(self.blocks, self.structure.layout.remainder, strict=True):
            own = self.structure.products.own[r]
            for a in range(q):
                if place < start.shape[1]:
                    # with equal effects of all levels the factors cannot be told apart, X is then close to one
                    start[:, place] = 0.0
                    start[o + a * j : o + (a + 1) * j, place] = np.sqrt(own[a, a])
                    place += 1
        for _ in range(_SUBSPACE_STEPS):
            start = self.times_x(np.linalg.qr(start)[0])
        return np.linalg.qr(start)[0]

    @cached_property
    def sample(self) -> _Sample:
        """The probes and (I - X)^-1 times them."""
        z, basis = self.probes.signs(self.n), self.probes.basis
        count = z.shape[1]
        if basis is not None:
            z -= basis @ (basis.T @ z)
            z = np.concatenate([z, basis], axis=1)
        run = conjugate_gradients(self._times, z, _PROBED, _ITERATIONS)
        self._certify(run)
        return _Sample(z, self.times_x(z), run, count)

    @cached_property
    def _squares(self) -> tuple[float, float | None]:
        """tr X and, where asked for and cheap, tr X^2."""
        first = float(self.b.data @ self.b.data)
        if not self.probes.second:
            return first, None
        count = np.diff(self.b.indptr).astype(float)
        pairs = float(count @ count) if self.off is None else float(count @ count) + 4.0 * self.off.nnz
        if pairs > _SECOND_PAIRS:
            return first, None
        second = 0.0
        step = max(1, int(self.n * _PANEL_PAIRS / max(pairs, 1.0)))
        for lo in range(0, self.n, step):
            part = self.bt[lo : lo + step] @ self.b
            if self.off is not None:
                part = part - self.off[lo : lo + step]
            second += float(part.data @ part.data)
        return first, second

    @cached_property
    def _variates(self) -> np.ndarray:
        """Control variates less their means (c, 1 or 2)."""
        s = self.sample
        c = s.probes
        first, second = self._squares
        along = np.einsum("ij,ij->j", s.z, s.xz)
        out = [along[:c] - (first - along[c:].sum())]
        if second is not None:
            length = np.einsum("ij,ij->j", s.xz, s.xz)
            out.append(length[:c] - (second - length[c:].sum()))
        return np.column_stack(out)

    def estimate(self, values: np.ndarray) -> Estimate:
        """Mean over probes of `values` (c, ...) with the control variates regressed out."""
        c = len(values)
        flat = values.reshape(c, -1)
        variates = self._variates[:, : max(0, min(2, c - _LEAST_PROBES))]
        size = np.sqrt(np.square(variates).mean(axis=0))
        design = np.column_stack([np.ones(c), variates / np.where(size > 0.0, size, 1.0)])
        coef = np.linalg.lstsq(design, flat, rcond=None)[0]
        rest = flat - design @ coef
        return Estimate(coef[0].reshape(values.shape[1:]), rest.reshape(values.shape), max(c - design.shape[1], 1))

    @cached_property
    def _logs(self) -> tuple[float, Estimate, float]:
        """log|P|, the mean of z'log(I - X)z with what deflated directions add, and the error of the quadrature."""
        s = self.sample
        logs, shorter = s.run.quadrature(np.log), s.run.quadrature(np.log, without=1)
        found = self.estimate(logs[: s.probes])
        found = replace(found, mean=found.mean + logs[s.probes :].sum())
        moved = np.abs(logs - shorter)
        return (
            float(sum(level.logdet.sum() for level in self.levels)),
            found,
            float(moved[: s.probes].mean() + moved[s.probes :].sum()),
        )

    @property
    def logdet(self) -> float:
        """log|M_R|."""
        return self._logs[0] + float(self._logs[1].mean)

    @property
    def logdet_error(self) -> float:
        """Half width of an interval around `logdet`: a sampling interval, not a bound."""
        return _WIDTH * self._logs[1].error + self._logs[2]

    # --- traces of the score

    def traces(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """sum_j (Z_k'V^-1Z_k)_jj (q, q) per factor, and what the control variates leave of every probe (c, q, q)."""
        s = self.sample
        z, tail = self.from_scaled(s.z), self.from_scaled(s.run.x - s.z - s.xz)
        traces, rest = [], []
        for place, ((o, q, j), lam, level) in enumerate(zip(self.blocks, self.lambdas, self.levels, strict=True)):
            if smallest(lam) < SMALL_LAMBDA:
                found = self._direct_traces(o, q, j)
                traces.append(found.mean)
                rest.append(found.rest)
                continue
            # I - N = (I - P^-1) - P^-1 K P^-1 - the rest of the Neumann series, the first two terms of which are exact
            middle = product(product(level.i_minus_cw, self._own_rows[place]), level.i_minus_cw.transpose(1, 0, 2))
            exact = (product(level.i_minus_cw, level.c) - middle).sum(axis=2)
            left, right = z[o : o + q * j].reshape(q, j, -1), tail[o : o + q * j].reshape(q, j, -1)
            each = np.einsum("ajc,bjc->cab", left, right)
            found, deflated = self.split_mean(0.5 * (each + each.transpose(0, 2, 1)))
            back = np.linalg.inv(lam @ lam.T)
            traces.append(exact - back @ (found.mean + deflated) @ back)
            rest.append(-back @ found.rest @ back)
        return traces, rest

    def split_mean(self, each: np.ndarray) -> tuple[Estimate, np.ndarray]:
        """Mean over the probes and sum over the deflated directions of values (c + d, ...)."""
        count = self.sample.probes
        return self.estimate(each[:count]), each[count:].sum(axis=0)

    @cached_property
    def _own_rows(self) -> list[np.ndarray]:
        """Diagonal blocks of R'R by level (q, q, J) per factor."""
        out = []
        columns = self.rows.tocsc()
        for o, q, j in self.blocks:
            block = np.empty((q, q, j))
            parts = [columns[:, o + a * j : o + (a + 1) * j] for a in range(q)]
            for a in range(q):
                for b in range(a + 1):
                    block[a, b] = block[b, a] = np.asarray(parts[a].multiply(parts[b]).sum(axis=0)).ravel()
            out.append(block)
        return out

    def row_squares(self, entries: Entries, values: np.ndarray) -> np.ndarray:
        """c_j H'H c_j' by level of a chain factor (q, q, J), for entries with `values` (q, nnz)."""
        if self.scalar:
            rows = values * self.h_diagonal[entries.col]
            return np.array([[entries.row_sums(a * b) for b in rows] for a in rows])
        parts = [entries.matrix(v) @ self.h.T for v in values]
        return np.array([[np.asarray(a.multiply(b).sum(axis=1)).ravel() for b in parts] for a in parts])

    def _direct_traces(self, o: int, q: int, j: int) -> Estimate:
        """sum_j (S - S Phi S)_jj of one factor, whatever its Lambda, from probes of its levels."""
        signs = self.probes.signs(j)
        count = signs.shape[1]
        unit = np.zeros((self.n, q, count))
        for a in range(q):
            unit[o + a * j : o + (a + 1) * j, a] = signs
        products = self.times_s(unit.reshape(self.n, -1))
        kept = products - self.times_s(self.solve(products))
        each = np.empty((count, q, q))
        for a in range(q):
            each[:, a] = np.einsum("jc,jbc->cb", signs, kept.reshape(self.n, q, count)[o + a * j : o + (a + 1) * j])
        each = 0.5 * (each + each.transpose(0, 2, 1))
        mean = each.mean(axis=0)
        return Estimate(mean, each - mean, max(count - 1, 1))


def _block_diagonal(blocks: list[np.ndarray], levels: list[int]) -> sparse.csr_matrix:
    """Blocks (q, q, J) by level of every factor as one sparse matrix, rows and columns by factor, column, level."""
    parts = []
    for block, j in zip(blocks, levels, strict=True):
        q = block.shape[0]
        grid = [[sparse.diags_array(block[a, b]) for b in range(q)] for a in range(q)]
        parts.append(sparse.block_array(grid) if q > 1 else sparse.diags_array(block[0, 0], shape=(j, j)))
    return sparse.csr_matrix(sparse.block_diag(parts, format="csr"))


def _scaled(matrix: sparse.csr_matrix, d: np.ndarray) -> sparse.csr_matrix:
    """D M D for a diagonal D."""
    out = matrix.copy()
    out.data = out.data * d[out.indices] * np.repeat(d, np.diff(out.indptr))
    return out
