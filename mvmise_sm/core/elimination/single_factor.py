"""A single grouping factor: levels are independent, and levels with equal blocks are merged into classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mvmise_sm.core.elimination.crossprod import replace_response
from mvmise_sm.core.elimination.levels import apply, factor_levels, product, rows_gram

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import FixedBasis
    from mvmise_sm.core.elimination.crossprod import CrossProducts
    from mvmise_sm.core.elimination.krylov import Probes
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.interfaces import PairSums

__all__ = ["SingleFactorization", "SingleSystem"]

# levels that are looked at before all are compared
_PROBE = 200
# representatives, class of every level, levels ordered by class, first place of each class in that order
Classes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class SingleSystem:
    """Cross-products of a model with one grouping factor.

    Levels whose Z_j'Z_j agree to the last bit form a class; only the classes' second moments of Z_j'[X y] enter
    value, gradient and information, so one evaluation costs as much as there are classes.

    Parameters
    ----------
    layout : Layout
    products : CrossProducts
        Scaled.
    classes : tuple or None
        (representatives, class of every level), found from the blocks when not given.
    """

    # log|M| is exact, and costs little
    probes: Probes | None = None
    factors_densely = False

    def __init__(self, layout: Layout, products: CrossProducts, classes: Classes | None = None) -> None:
        self.layout = layout
        self.products = products
        self.gram = products.gram
        self.own, self.rhs = products.own[0], products.rhs[0]
        q, _, self.n_levels = self.own.shape
        m = self.gram.shape[0]
        self.classes = _classes(self.own, q * m) if classes is None else classes
        self.count: np.ndarray | None = None
        self.moments: np.ndarray | None = None
        if self.classes is None:
            self.blocks = self.own
        else:
            first, member, order, starts = self.classes
            self.blocks = np.ascontiguousarray(self.own[:, :, first])
            self.count = np.bincount(member, minlength=first.size).astype(float)
            stacked = np.ascontiguousarray(self.rhs.transpose(1, 0, 2).reshape(self.n_levels, q * m)[order])
            stops = np.append(starts[1:], self.n_levels)
            self.moments = np.array([part.T @ part for part in map(stacked.__getitem__, map(slice, starts, stops))])

    def with_response(
        self, basis: FixedBasis, X: np.ndarray, y: np.ndarray, origin: np.ndarray, weights: np.ndarray | None
    ) -> SingleSystem:
        """The same design with another response (nobs,)."""
        products = replace_response(self.products, self.layout, basis, X, y, origin, weights)
        return SingleSystem(self.layout, products, self.classes)

    def with_probes(self, probes: Probes) -> SingleSystem:
        """Itself: nothing is estimated."""
        return self

    def factorize(self, lambdas: list[np.ndarray]) -> SingleFactorization:
        """Eliminate the random effects at the relative factor ``lambdas[0]`` (q, q)."""
        return SingleFactorization(self, lambdas[0])

    def level_products(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Z'Z diagonals (q, J) and Z'[X y] (q, J, m), a list of one."""
        return [(self.own.diagonal(axis1=0, axis2=1).T, self.rhs)]


def _classes(own: np.ndarray, width: int) -> Classes | None:
    """Classes of levels with identical blocks, or None where there are too many to gain by merging."""
    q, _, j = own.shape
    keys = own.reshape(q * q, j).T
    probe = keys[:: max(1, j // _PROBE)]
    if np.unique(probe, axis=0).shape[0] * width > max(0.5 * probe.shape[0], 2 * width) and j > 2 * _PROBE:
        return None
    if q == 1:
        _, first, member = np.unique(keys[:, 0], return_index=True, return_inverse=True)
    else:
        _, first, member = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    member = member.ravel()
    if first.size * width > 0.5 * j and first.size > 4:
        return None
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(first.size))
    return first, member, order, starts


class SingleFactorization:
    """The model with one grouping factor eliminated at one theta.

    Attributes
    ----------
    logdet : float
        log|M|.
    gram : ndarray
        K (m, m).
    """

    def __init__(self, system: SingleSystem, lam: np.ndarray) -> None:
        self.system = system
        self.lam = lam
        level = self.level = factor_levels(system.blocks, lam)
        q, m = lam.shape[0], system.gram.shape[0]
        if system.moments is None or system.count is None:
            self.logdet = float(level.logdet.sum())
            self.gram = system.gram - rows_gram(apply(level.h, system.rhs))
            return
        self.logdet = float(level.logdet @ system.count)
        moments = system.moments.reshape(-1, q, m, q, m)
        self.gram = system.gram.copy()
        for a in range(q):
            for b in range(q):
                self.gram -= np.tensordot(level.w[a, b], moments[:, a, :, b], axes=1)

    def _scores(self) -> np.ndarray:
        return apply(self.level.i_minus_cw, self.system.rhs)

    def _residual_moments(self, by_class: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Sum over levels (or by class) of G_j weights G_j' (q, q, classes)."""
        level = self.level
        q, m = self.lam.shape[0], self.system.gram.shape[0]
        moments = by_class.reshape(-1, q, m, q, m)
        inner = np.einsum("uambn,mn->abu", moments, weights, optimize=False)
        return product(product(level.i_minus_cw, inner), level.i_minus_cw.transpose(1, 0, 2))

    def derivatives(self, weights: np.ndarray) -> list[np.ndarray]:
        """D (q, q) of log|M| + value(K), given d value / dK; a list of one."""
        level, system = self.level, self.system
        trace = product(level.i_minus_cw, level.c)
        if system.moments is None:
            g = self._scores()
            flat = g.reshape(g.shape[0], -1)
            return [trace.sum(axis=2) - (g @ weights).reshape(g.shape[0], -1) @ flat.T]
        return [trace @ system.count - self._residual_moments(system.moments, weights).sum(axis=2)]

    def scores(self, xi: np.ndarray) -> list[np.ndarray]:
        """Z'V^-1[X y] xi (q, J), a list of one."""
        system = self.system
        if system.classes is None:
            return [self._scores() @ xi]
        return [apply(self.level.i_minus_cw[:, :, system.classes[1]], (system.rhs @ xi)[:, :, None])[:, :, 0]]

    def expected(self, directions: list[tuple[int, np.ndarray]], cov_beta: np.ndarray | None) -> None:
        """See `Factorization.expected`: the average information alone is cheap here."""

    def information(
        self, directions: list[tuple[int, np.ndarray]], xi: np.ndarray, cov_beta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A and b of the average information, see `DenseFactorization.information`."""
        level, system = self.level, self.system
        k = len(directions)
        p = cov_beta.shape[0]
        inner = product(level.i_minus_cw, level.c)
        if system.moments is None:
            g = self._scores()
            e = g @ xi
            q = e.shape[0]
            h = np.stack([d @ e for _, d in directions])
            zvh = np.zeros_like(h)
            for i in range(q):
                for j in range(q):
                    zvh[:, i] += inner[i, j] * h[:, j]
            flat = h.reshape(k, -1)
            ax = flat @ g.reshape(-1, g.shape[2])[:, :p]
            return flat @ zvh.reshape(k, -1).T - ax @ cov_beta @ ax.T, flat @ e.ravel()
        q, m = self.lam.shape[0], system.gram.shape[0]
        moments = system.moments.reshape(-1, q, m, q, m)
        by_column = np.einsum("uambn,n->uamb", moments, xi, optimize=False)
        # Z'V^-1[X y] xi against Z'V^-1 X and against itself, summed over the levels of a class
        cross = np.einsum("cau,uamb,dbu->cmdu", level.i_minus_cw, by_column, level.i_minus_cw, optimize=False)
        ee = np.einsum("cmdu,m->cdu", cross, xi, optimize=False)
        cross = cross.sum(axis=3)[:, :p]
        e2 = ee.sum(axis=2)
        a_mat, b = np.empty((k, k)), np.empty(k)
        ax = np.empty((k, p))
        for s, (_, ds) in enumerate(directions):
            b[s] = np.vdot(ds, e2)
            ax[s] = np.einsum("dc,cmd->m", ds, cross)
            for t, (_, dt) in enumerate(directions[: s + 1]):
                left = np.einsum("ab,bcu,cd->adu", ds.T, inner, dt)
                a_mat[s, t] = a_mat[t, s] = np.vdot(left, ee)
        return a_mat - ax @ cov_beta @ ax.T, b

    def _by_level(self, blocks: np.ndarray) -> np.ndarray:
        """Blocks of every level (q, q, J) for blocks of every class."""
        classes = self.system.classes
        return blocks if classes is None else blocks[:, :, classes[1]]

    def posterior_cov(self) -> list[np.ndarray]:
        """(Sigma^-1 + Z'Z)^-1 by level (q, q, J), a list of one."""
        return [self._by_level(self.level.w)]

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """(Sigma^-1 + Z'Z)^-1 rhs for `rhs` (q * J, c)."""
        q = self.lam.shape[0]
        shaped = rhs.reshape(q, self.system.n_levels, -1)
        return apply(self.posterior_cov()[0], shaped).reshape(rhs.shape)

    def solve_blocks(self, rhs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(Sigma^-1 + C)^-1 R and R - C (Sigma^-1 + C)^-1 R for `rhs`, one (q, J, c); C = Z'Z."""
        return (
            [apply(self._by_level(self.level.w), rhs[0])],
            [apply(self._by_level(self.level.i_minus_cw), rhs[0])],
        )

    def multiply(self, h: list[np.ndarray]) -> list[np.ndarray]:
        """C h."""
        return [apply(self.system.own, h[0])]

    def _level_sum(self, blocks: np.ndarray) -> np.ndarray:
        """Sum over the levels (q, q) of blocks by class."""
        count = self.system.count
        return blocks.sum(axis=2) if count is None else blocks @ count

    def traces(self) -> list[np.ndarray]:
        """sum_j (Z'V^-1Z)_jj (q, q), a list of one."""
        return [self._level_sum(product(self.level.i_minus_cw, self.level.c))]

    def pair_sums(self, g: list[np.ndarray]) -> PairSums:
        """See `Factorization.pair_sums`; T is block diagonal by level."""
        blocks = product(self.level.i_minus_cw, self.level.c)
        counts = np.ones(blocks.shape[2]) if self.system.count is None else self.system.count
        pairs = np.einsum("acu,bdu,u->abcd", blocks, blocks, counts, optimize=True)
        by_level, columns = self._by_level(blocks), g[0]
        q, _, p = columns.shape
        mixed = np.empty((q, q, q, q, p, p))
        for b in range(q):
            for c in range(q):
                weighted = columns * by_level[b, c][:, None]
                for a in range(q):
                    for d in range(q):
                        mixed[a, b, c, d] = columns[a].T @ weighted[d]
        return [self._level_sum(blocks)], {(0, 0): pairs}, {(0, 0): mixed}
