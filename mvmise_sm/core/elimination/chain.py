"""Elimination of a nested chain of grouping factors, followed by a dense or sparse remainder."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.core.elimination.chain_posterior import ChainPosterior, chain_posterior
from mvmise_sm.core.elimination.chain_structure import ChainStructure
from mvmise_sm.core.elimination.crossprod import replace_response
from mvmise_sm.core.elimination.dense_remainder import DenseRemainder
from mvmise_sm.core.elimination.krylov import KrylovRemainder, Probes
from mvmise_sm.core.elimination.levels import apply, factor_levels, product, rows_gram
from mvmise_sm.core.elimination.pair_sums import panel_pair_sums
from mvmise_sm.core.elimination.schur import SparseRemainder, logdet_derivatives
from mvmise_sm.exceptions import NotAvailableError

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import FixedBasis
    from mvmise_sm.core.elimination.crossprod import CrossProducts
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.elimination.levels import LevelFactor
    from mvmise_sm.core.interfaces import PairSums

__all__ = ["ChainFactorization", "ChainSystem"]

NO_BLOCKS = (
    "covariances of single random effects need the inverse that a fit with a stochastic log-determinant does not form"
)
NO_PAIRS = (
    "Kenward and Roger's degrees of freedom need sums over all pairs of levels, which a fit with a stochastic "
    "log-determinant does not form; take ddf='satterthwaite'"
)


class ChainSystem:
    """Cross-products of a model with large or several grouping factors.

    Parameters
    ----------
    layout : Layout
    products : CrossProducts
        Scaled.
    remainder : {"none", "dense", "sparse", "krylov"}
        How the factors outside the chain are eliminated.
    structure : ChainStructure, optional
        What does not depend on the response, shared by refits.
    probes : Probes, optional
        For a remainder whose log-determinant is estimated.
    """

    def __init__(
        self,
        layout: Layout,
        products: CrossProducts,
        remainder: str,
        structure: ChainStructure | None = None,
        probes: Probes | None = None,
    ) -> None:
        self.layout = layout
        self.products = products
        self.gram = products.gram
        self.remainder = remainder
        self.structure = structure or ChainStructure(layout, products, remainder)
        self.probes = probes

    @property
    def factors_densely(self) -> bool:
        """Whether what remains of the chain is one dense block."""
        return self.remainder == "dense"

    def with_probes(self, probes: Probes) -> ChainSystem:
        """The same system with log|M| estimated along these probes; itself where nothing is left to estimate."""
        if self.remainder == "none":
            return self
        structure = self.structure if self.remainder == "krylov" else None
        return ChainSystem(self.layout, self.products, "krylov", structure, probes)

    def with_response(
        self, basis: FixedBasis, X: np.ndarray, y: np.ndarray, origin: np.ndarray, weights: np.ndarray | None
    ) -> ChainSystem:
        """The same design with another response (nobs,)."""
        products = replace_response(self.products, self.layout, basis, X, y, origin, weights)
        return ChainSystem(self.layout, products, self.remainder, self.structure, self.probes)

    def factorize(self, lambdas: list[np.ndarray]) -> ChainFactorization:
        """Eliminate the random effects at relative factors `lambdas`, one (q, q) per grouping factor."""
        return ChainFactorization(self, lambdas)

    def level_products(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Z_k'Z_k diagonals (q, J) and Z_k'[X y] (q, J, m) per factor."""
        own = [c.diagonal(axis1=0, axis2=1).T for c in self.products.own]
        return list(zip(own, self.products.rhs, strict=True))


class ChainFactorization:
    """The model eliminated at one theta.

    Attributes
    ----------
    logdet : float
        log|M|.
    gram : ndarray
        K (m, m); not formed where m = 0.
    """

    def __init__(self, system: ChainSystem, lambdas: list[np.ndarray], keep_cross: bool = False) -> None:
        self.system, self.lambdas, self.keep_cross = system, lambdas, keep_cross
        structure = self.structure = system.structure
        self.levels: list[LevelFactor] = []
        self.chain_logdet = 0.0
        own = list(system.products.own)
        cross = {key: value for key, value in system.products.cross.items() if key in structure.scatter}
        values = list(structure.values)
        rest = self._remainder(system, [lambdas[r] for r in system.layout.remainder])
        for k in structure.chain:
            level = factor_levels(own[k], lambdas[k])
            self.levels.append(level)
            self.chain_logdet += float(level.logdet.sum())
            later = [m for m in structure.chain if m > k]
            for m in later:
                wc = product(level.w, cross[k, m])
                own[m] = own[m] - self._sum_levels(k, m, product(cross[k, m].transpose(1, 0, 2), wc))
                for n in later:
                    if n > m:
                        change = product(cross[k, m].transpose(1, 0, 2), product(level.w, cross[k, n]))
                        cross[m, n] = cross[m, n] - self._sum_levels(k, m, change)
                if rest is not None:
                    values[m] = self._shrink_rows(k, m, cross[k, m], level, values)
            if rest is not None:
                rest.subtract(structure.kernels[k], level, values[k])
        self.cross, self.values = cross, values
        self.rest: Any = rest
        if rest is not None:
            rest.factor()
        if system.gram.size:
            self._reduced, taken = self._forward(system.products.rhs)
            self.gram = system.gram - taken

    @staticmethod
    def _remainder(system: ChainSystem, lambdas: list[np.ndarray]) -> Any:
        if not lambdas:
            return None
        if system.probes is not None:
            return KrylovRemainder(system.structure, lambdas, system.probes)
        return (DenseRemainder if system.remainder == "dense" else SparseRemainder)(system.structure, lambdas)

    @property
    def logdet(self) -> float:
        """log|M|."""
        return self.chain_logdet if self.rest is None else self.chain_logdet + self.rest.logdet

    def _sum_levels(self, k: int, m: int, blocks: np.ndarray) -> np.ndarray:
        """Sum blocks (r, s, J_k) over the levels of k within each level of m."""
        r, s, j = blocks.shape
        return (self.structure.scatter[k, m] @ blocks.reshape(-1, j).T).T.reshape(r, s, -1)

    def _shrink_rows(
        self, k: int, m: int, block: np.ndarray, level: LevelFactor, values: list[np.ndarray]
    ) -> np.ndarray:
        """Rows of factor m against the remainder after k is eliminated."""
        entries, place = self.structure.entries[k], self.structure.place[k, m]
        wc = product(block.transpose(1, 0, 2), level.w)[:, :, entries.row]
        out = values[m].copy()
        for a in range(out.shape[0]):
            change = sum(wc[a, i] * values[k][i] for i in range(values[k].shape[0]))
            out[a] -= np.bincount(place, change, minlength=out.shape[1])
        return out

    def _forward(
        self, rhs: list[np.ndarray] | tuple[np.ndarray, ...]
    ) -> tuple[tuple[list, np.ndarray | None], np.ndarray]:
        """Reduce columns `rhs` (q, J, c) per factor; returns the reduced columns and rhs' (Sigma^-1 + Z'Z)^-1 rhs (c,
        c).
        """
        structure, factors = self.structure, self.system.layout.factors
        reduced = list(rhs)
        taken = np.zeros((rhs[0].shape[2],) * 2)
        rest = None
        if self.rest is not None:
            rest = structure.flatten([rhs[r] for r in self.system.layout.remainder])
        for k in structure.chain:
            level = self.levels[k]
            taken += rows_gram(apply(level.h, reduced[k]))
            if len(structure.chain) == 1 and rest is None:
                break
            solved = apply(level.w, reduced[k])
            for m in structure.chain[k + 1 :]:
                part = apply(self.cross[k, m].transpose(1, 0, 2), solved)
                reduced[m] = reduced[m] - np.stack([structure.scatter[k, m] @ x for x in part])
            if rest is not None:
                for a in range(factors[k].q):
                    rest = rest - structure.entries[k].transposed_times(self.values[k][a], solved[a])
        if self.rest is not None and rest is not None:
            taken += self.rest.quadratic(rest)
        return (reduced, rest), taken

    def _backward(
        self, reduced: list[np.ndarray], rest: np.ndarray | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Coefficients W r and residual products Z'V^-1 of reduced columns, (q, J, c) per factor."""
        structure, layout = self.structure, self.system.layout
        coef: list[Any] = [None] * len(layout.factors)
        scores: list[Any] = [None] * len(layout.factors)
        if self.rest is None or rest is None:
            return self._back_to_chain(reduced, None, coef, scores)
        solved = self.rest.solve(rest)
        residual = self.rest.residual(rest, solved)
        for r, b, g in zip(layout.remainder, structure.unflatten(solved), structure.unflatten(residual), strict=True):
            coef[r], scores[r] = b, g
        return self._back_to_chain(reduced, solved, coef, scores)

    def _back_to_chain(
        self, reduced: list[np.ndarray], solved: np.ndarray | None, coef: list[Any], scores: list[Any]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Fill in what the chain has of `coef` and `scores`, given the remainder's coefficients (n_R, c)."""
        structure, layout = self.structure, self.system.layout
        for k in reversed(structure.chain):
            column = reduced[k]
            for m in structure.chain[k + 1 :]:
                column = column - apply(self.cross[k, m], coef[m][:, layout.parent[k, m]])
            if solved is not None:
                column = column - np.stack([structure.entries[k].times(v, solved) for v in self.values[k]])
            level = self.levels[k]
            coef[k], scores[k] = apply(level.w, column), apply(level.i_minus_cw, column)
        return coef, scores

    @cached_property
    def _g(self) -> list[np.ndarray]:
        return self._backward(*self._reduced)[1]

    def derivatives(self, weights: np.ndarray) -> list[np.ndarray]:
        """D_k (q, q) of log|M| + value(K) for every factor, given d value / dK."""
        out = []
        scores = self._g  # first: the traces turn the factor of a dense remainder into its inverse
        for trace, g in zip(self.traces(), scores, strict=True):
            q = g.shape[0]
            out.append(trace - (g @ weights).reshape(q, -1) @ g.reshape(q, -1).T)
        return out

    def scores(self, xi: np.ndarray) -> list[np.ndarray]:
        """Z_k'V^-1[X y] xi (q, J) of every factor."""
        return [g @ xi for g in self._g]

    def expected(self, directions: list[tuple[int, np.ndarray]], cov_beta: np.ndarray | None) -> None:
        """See `Factorization.expected`: the average information alone is cheap here."""

    def information(
        self, directions: list[tuple[int, np.ndarray]], xi: np.ndarray, cov_beta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A and b of the average information, see `DenseFactorization.information`."""
        p = cov_beta.shape[0]
        h = [np.zeros((*g.shape[:2], len(directions))) for g in self._g]
        for t, (k, d) in enumerate(directions):
            h[k][:, :, t] = d @ (self._g[k] @ xi)
        zzh = self.structure.multiply(h)
        size = len(directions)
        whole, b, ax = np.zeros((size, size)), np.zeros(size), np.zeros((size, p))
        for x, z, g in zip(h, zzh, self._g, strict=True):
            flat = x.reshape(-1, size)
            whole += flat.T @ z.reshape(-1, size)
            by_column = flat.T @ g.reshape(-1, g.shape[2])
            ax += by_column[:, :p]
            b += by_column @ xi
        return whole - self._forward(zzh)[1] - ax @ cov_beta @ ax.T, b

    @cached_property
    def estimated(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Traces of every factor from the probes of the remainder, and what every probe has left (c, q, q)."""
        layout = self.system.layout
        chain = [t for t in chain_posterior(self, None).traces if t is not None]
        traces, rest = self.rest.traces()
        single, sample = len(self.structure.chain) == 1, self.rest.sample
        # the first term of the Neumann series is exact where rows of the chain do not mix levels
        tail = sample.run.x - sample.z if single else sample.run.x
        z, x = (self._of_chain(self.rest.from_scaled(v)) for v in (sample.z, tail))
        out: list[Any] = [None] * len(layout.factors)
        left: list[Any] = [None] * len(layout.factors)
        for r, trace, part in zip(layout.remainder, traces, rest, strict=True):
            out[r], left[r] = trace, part
        for k in self.structure.chain:
            each = np.einsum("ajc,bjc->cab", z[k], x[k])
            found, deflated = self.rest.split_mean(0.5 * (each + each.transpose(0, 2, 1)))
            out[k], left[k] = chain[k] - found.mean - deflated, -found.rest
            if single:
                level = self.levels[k]
                own = self.rest.row_squares(self.structure.entries[k], self.values[k])
                out[k] -= product(product(level.i_minus_cw, own), level.i_minus_cw.transpose(1, 0, 2)).sum(axis=2)
        return out, left

    def _of_chain(self, coef: np.ndarray) -> list[np.ndarray]:
        """Z_k'V_chain^-1 Z_R times coefficients (n_R, c), of every factor of the chain."""
        size = len(self.system.layout.factors)
        zeros = [np.zeros((f.q, f.n_levels, coef.shape[1])) for f in self.system.layout.factors]
        return [-g for g in self._back_to_chain(zeros, coef, [None] * size, [None] * size)[1] if g is not None]

    @cached_property
    def _posterior(self) -> ChainPosterior:
        return chain_posterior(self, self.rest)

    def traces(self) -> list[np.ndarray]:
        """sum_j (Z_k'V^-1Z_k)_jj (q, q) per factor."""
        if self.rest is not None and not self.rest.selected:
            return self.estimated[0]
        out = list(self._posterior.traces)
        missing = [k for k, trace in enumerate(out) if trace is None]
        found = logdet_derivatives(self.system, self.lambdas, self.logdet, missing)
        for k, trace in zip(missing, found, strict=True):
            out[k] = trace
        return out

    def posterior_cov(self) -> list[np.ndarray]:
        """(Sigma^-1 + Z'Z)^-1 by level, (q, q, J) per factor."""
        if self.rest is not None and not self.rest.selected:
            raise NotAvailableError(NO_BLOCKS)
        return self._posterior.blocks

    def posterior_cross(self, k: int, m: int) -> np.ndarray:
        """(Sigma^-1 + Z'Z)^-1 between factors k < m on the cells of the pair (q_k, q_m, cells); needs `keep_cross`."""
        structure, layout = self.structure, self.system.layout
        pair, on_rest = self._posterior.pair, self._posterior.on_rest
        if (k, m) in pair:
            return pair[k, m]
        if k in on_rest:
            return on_rest[k][:, structure.cell_entries[k, m]]
        pattern, f, g = layout.patterns[k, m], layout.factors[k], layout.factors[m]
        rows = structure.offsets[k] + pattern.rows
        cols = structure.offsets[m] + pattern.indices
        return np.array(
            [
                [self.rest.posterior_at(rows + a * f.n_levels, cols + b * g.n_levels) for b in range(g.q)]
                for a in range(f.q)
            ]
        )

    def solve_blocks(self, rhs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(Sigma^-1 + C)^-1 R and R - C (Sigma^-1 + C)^-1 R, one (q, J, c) per factor; C = Z'Z."""
        return self._backward(*self._forward(rhs)[0])

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """(Sigma^-1 + Z'Z)^-1 rhs for `rhs` (n, c), random effects by factor, column, level."""
        layout = self.system.layout
        return layout.join(self.solve_blocks(layout.split(rhs))[0])

    def multiply(self, h: list[np.ndarray]) -> list[np.ndarray]:
        """C h."""
        return self.structure.multiply(h)

    def pair_sums(self, g: list[np.ndarray]) -> PairSums:
        """See `Factorization.pair_sums`."""
        if self.rest is not None and not self.rest.selected:
            raise NotAvailableError(NO_PAIRS)
        return panel_pair_sums(self.system.layout, self._columns, g)

    def _columns(self, at: np.ndarray) -> np.ndarray:
        """Columns `at` of Z'V^-1Z = Z'Z - Z'Z (Sigma^-1 + Z'Z)^-1 Z'Z."""
        layout = self.system.layout
        unit = np.zeros((layout.n_random, len(at)))
        unit[at, np.arange(len(at))] = 1.0
        products = self.multiply(layout.split(unit))
        return layout.join(products) - layout.join(self.multiply(self.solve_blocks(products)[0]))
