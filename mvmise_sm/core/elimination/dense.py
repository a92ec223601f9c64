"""All random effects in one dense block: the tier for small models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dpotrf, dtrtrs

from mvmise_sm.core.elimination.crossprod import cross_products, replace_response, scaled
from mvmise_sm.core.elimination.levels import relative_times
from mvmise_sm.core.elimination.pair_sums import panel_pair_sums

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import FixedBasis
    from mvmise_sm.core.elimination.crossprod import CrossProducts
    from mvmise_sm.core.elimination.krylov import Probes
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.interfaces import PairSums

__all__ = ["DenseFactorization", "DenseSystem"]

_DIRECT_CELLS = 2_000_000


class DenseSystem:
    """Cross-products of a small model as dense matrices.

    Parameters
    ----------
    layout : Layout
    s : ndarray
        Z'Z beside Z'[X y], (n, n + m); random effects by factor, column, level.
    gram : ndarray
        [X y]'[X y] (m, m).
    design : ndarray or None
        The rows [Z X] in working coordinates (nobs, n + p), kept for new responses of small data.
    products : CrossProducts or None
        Kept for new responses of larger data.
    """

    # log|M| is exact, and costs little
    probes: Probes | None = None
    factors_densely = False

    def __init__(
        self,
        layout: Layout,
        s: np.ndarray,
        gram: np.ndarray,
        design: np.ndarray | None = None,
        products: CrossProducts | None = None,
    ) -> None:
        self.layout = layout
        self.s = s
        self.gram = gram
        self.design = design
        self.blocks = layout.places
        self.n = layout.n_random
        self.scalar = all(f.q == 1 for f in layout.factors)
        self.levels = [f.n_levels for f in layout.factors]
        self._products = products

    @classmethod
    def build(
        cls,
        layout: Layout,
        basis: FixedBasis,
        X: np.ndarray,
        y: np.ndarray,
        origin: np.ndarray,
        weights: np.ndarray | None,
    ) -> DenseSystem:
        """Form the cross-products from the data, with dense rows where these are few."""
        nobs = y.shape[0]
        if layout.loaded:
            return cls._from_rows(layout, basis, X, y, origin, weights)
        if nobs * (layout.n_random + X.shape[1] + 1) > _DIRECT_CELLS:
            products = scaled(cross_products(layout, basis, X, y, origin, weights), layout, basis)
            return cls.of_products(layout, products)
        n, p = layout.n_random, X.shape[1]
        rows = np.zeros((nobs, n + p + 1))
        at, index = 0, np.arange(nobs)
        for f in layout.factors:
            for a in range(f.q):
                values = f.values(a)
                rows[index, at + f.codes] = f.scale[a] if values is None else values * f.scale[a]
                at += f.n_levels
        basis.rows(X, 0, nobs, rows[:, n : n + p])
        np.subtract(y, rows[:, n : n + p] @ origin, out=rows[:, n + p])
        rows[:, n : n + p] *= basis.scale
        if weights is not None:
            rows *= np.sqrt(weights)[:, None]
        full = rows.T @ rows
        return cls(layout, full[:n], full[n:, n:], rows[:, : n + p])

    @classmethod
    def _from_rows(
        cls,
        layout: Layout,
        basis: FixedBasis,
        X: np.ndarray,
        y: np.ndarray,
        origin: np.ndarray,
        weights: np.ndarray | None,
    ) -> DenseSystem:
        """From dense rows of Z, a piece of the data at a time."""
        nobs, p, n = y.shape[0], X.shape[1], layout.n_random
        full = np.zeros((n + p + 1, n + p + 1))
        step = max(1, _DIRECT_CELLS // (n + p + 1))
        for lo in range(0, nobs, step):
            hi = min(lo + step, nobs)
            rows = np.empty((hi - lo, n + p + 1))
            rows[:, :n] = np.concatenate([f.rows(lo, hi) for f in layout.factors], axis=1)
            basis.rows(X, lo, hi, rows[:, n : n + p])
            np.subtract(y[lo:hi], rows[:, n : n + p] @ origin, out=rows[:, n + p])
            rows[:, n : n + p] *= basis.scale
            if weights is not None:
                rows *= np.sqrt(weights[lo:hi])[:, None]
            full += rows.T @ rows
        return cls(layout, full[:n], full[n:, n:])

    @classmethod
    def of_products(cls, layout: Layout, products: CrossProducts) -> DenseSystem:
        """The dense matrices of scaled cross-products."""
        return cls(layout, _assemble(layout, products), products.gram, products=products)

    def with_response(
        self, basis: FixedBasis, X: np.ndarray, y: np.ndarray, origin: np.ndarray, weights: np.ndarray | None
    ) -> DenseSystem:
        """The same design with another response."""
        if self.layout.loaded:
            return self._from_rows(self.layout, basis, X, y, origin, weights)
        if self._products is not None:
            products = replace_response(self._products, self.layout, basis, X, y, origin, weights)
            return DenseSystem.of_products(self.layout, products)
        # the kept rows carry the column scales and the square roots of the weights
        target = y if weights is None else y * np.sqrt(weights)
        design: Any = self.design
        residual = target - design[:, self.n :] @ (origin / basis.scale)
        column = residual @ design
        s, gram = self.s.copy(), self.gram.copy()
        s[:, -1] = column[: self.n]
        gram[-1, :-1] = gram[:-1, -1] = column[self.n :]
        gram[-1, -1] = residual @ residual
        out = DenseSystem.__new__(DenseSystem)
        out.__dict__.update(self.__dict__, s=s, gram=gram)
        return out

    def with_probes(self, probes: Probes) -> DenseSystem:
        """Itself: nothing is estimated."""
        return self

    def factorize(self, lambdas: list[np.ndarray]) -> DenseFactorization:
        """Eliminate the random effects at relative factors `lambdas`, one (q, q) per grouping factor."""
        return DenseFactorization(self, lambdas)

    def level_products(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Z_k'Z_k diagonals (q, J) and Z_k'[X y] (q, J, m) per factor."""
        diagonal, rhs = self.s.diagonal(), self.s[:, self.n :]
        return [
            (diagonal[o : o + q * j].reshape(q, j), rhs[o : o + q * j].reshape(q, j, -1)) for o, q, j in self.blocks
        ]


def _assemble(layout: Layout, products: CrossProducts) -> np.ndarray:
    """Z'Z beside Z'[X y] from the cross-products."""
    n = layout.n_random
    m = products.gram.shape[0]
    s = np.zeros((n, n + m))
    stops = np.cumsum([0] + [f.size for f in layout.factors])
    for k, f in enumerate(layout.factors):
        j, o = np.arange(f.n_levels), stops[k]
        for a in range(f.q):
            s[o + a * f.n_levels + j, n:] = products.rhs[k][a]
            for b in range(f.q):
                s[o + a * f.n_levels + j, o + b * f.n_levels + j] = products.own[k][a, b]
    for (k, other), values in products.cross.items():
        pattern = layout.patterns[k, other]
        f, g = layout.factors[k], layout.factors[other]
        for a in range(f.q):
            for b in range(g.q):
                r = stops[k] + a * f.n_levels + pattern.rows
                c = stops[other] + b * g.n_levels + pattern.indices
                s[r, c] = s[c, r] = values[a, b]
    return s


class DenseFactorization:
    """The small model eliminated at one theta.

    Attributes
    ----------
    logdet : float
        log|M|.
    gram : ndarray
        K (m, m).
    """

    def __init__(self, system: DenseSystem, lambdas: list[np.ndarray]) -> None:
        self.system = system
        self.lambdas = lambdas
        n = system.n
        if system.scalar:
            d = np.repeat([lam[0, 0] for lam in lambdas], system.levels)
            rows = d[:, None] * system.s
            m = rows[:, :n] * d
        else:
            rows = relative_times(system.blocks, lambdas, system.s, transpose=True)
            m = relative_times(system.blocks, lambdas, rows[:, :n].T, transpose=True)
        m.flat[:: n + 1] += 1.0
        self._rows = rows
        # m is symmetric, so its transpose is the same matrix in the order that lapack wants
        self.factor, info = dpotrf(m.T, lower=1, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError("M is not positive definite")
        self._half = dtrtrs(self.factor, rows, lower=1)[0]
        self.logdet = 2.0 * float(np.log(self.factor.diagonal()).sum())
        v = self._half[:, n:]
        self.gram = system.gram - v.T @ v
        self._t: np.ndarray | None = None

    @property
    def t(self) -> np.ndarray:
        """Z'V^-1[Z X y] (n, n + m)."""
        if self._t is None:
            n = self.system.n
            self._t = self.system.s - self._half[:, :n].T @ self._half
        return self._t

    def derivatives(self, weights: np.ndarray) -> list[np.ndarray]:
        """D_k (q, q) of log|M| + value(K) for every factor, given d value / dK."""
        n = self.system.n
        g = self.t[:, n:]
        gw = g @ weights
        out = []
        for o, q, j in self.system.blocks:
            stop = o + q * j
            if q == 1:
                trace = self.t.ravel()[o * (self.t.shape[1] + 1) : stop * (self.t.shape[1] + 1) : self.t.shape[1] + 1]
                out.append(np.array([[trace.sum() - np.vdot(gw[o:stop], g[o:stop])]]))
                continue
            block = self.t[o:stop, o:stop].reshape(q, j, q, j).diagonal(axis1=1, axis2=3)
            out.append(block.sum(axis=2) - gw[o:stop].reshape(q, -1) @ g[o:stop].reshape(q, -1).T)
        return out

    def scores(self, xi: np.ndarray) -> list[np.ndarray]:
        """Z_k'V^-1[X y] xi (q, J) of every factor."""
        g = self.t[:, self.system.n :] @ xi
        return [g[o : o + q * j].reshape(q, j) for o, q, j in self.system.blocks]

    def information(
        self, directions: list[tuple[int, np.ndarray]], xi: np.ndarray, cov_beta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A and b of the average information.

        Parameters
        ----------
        directions : list of (int, ndarray)
            Factor and dSigma/dtheta_t (q, q) of each parameter.
        xi : ndarray
            (-beta, 1) (m,).
        cov_beta : ndarray
            (X'V^-1X)^-1 (p, p).
        """
        n = self.system.n
        e = self.t[:, n:] @ xi
        h = np.zeros((n, len(directions)))
        for i, (k, d) in enumerate(directions):
            o, q, j = self.system.blocks[k]
            if q == 1:
                h[o : o + j, i] = d[0, 0] * e[o : o + j]
            else:
                h[o : o + q * j, i] = (d @ e[o : o + q * j].reshape(q, j)).ravel()
        product = h.T @ self.t[:, :-1]
        ax = product[:, n:]
        return product[:, :n] @ h - ax @ cov_beta @ ax.T, h.T @ e

    def expected(self, directions: list[tuple[int, np.ndarray]], cov_beta: np.ndarray | None) -> np.ndarray:
        """See `Factorization.expected`."""
        n, blocks = self.system.n, self.system.blocks
        inner = self.t[:, :n]
        if cov_beta is not None:
            g = self.t[:, n:-1]
            inner = inner - g @ cov_beta @ g.T
        out = np.empty((len(directions), len(directions)))
        own = [[i for i, (k, _) in enumerate(directions) if k == factor] for factor in range(len(blocks))]
        flat = [np.array([directions[i][1].ravel() for i in rows]) for rows in own]
        for k, (o, q, j) in enumerate(blocks):
            for m, (at, r, i) in enumerate(blocks[: k + 1]):
                if not own[k] or not own[m]:
                    continue
                if q == r == 1 and len(own[k]) == len(own[m]) == 1:
                    # intercepts, which is all that most small models have, need no shapes
                    one, other = own[k][0], own[m][0]
                    square = inner[o : o + j, at : at + i]
                    out[one, other] = flat[k][0, 0] * float((square * square).sum()) * flat[m][0, 0]
                    out[other, one] = out[one, other]
                    continue
                part = (
                    inner[o : o + q * j, at : at + r * i].reshape(q, j, r, i).transpose(0, 2, 1, 3).reshape(q * r, -1)
                )
                # sums over levels u, v of P[b, u, c, v] P[a, u, d, v], indexed [b, c, a, d]
                pairs = (part @ part.T).reshape(q, r, q, r).transpose(2, 0, 1, 3).reshape(q * q, r * r)
                block = flat[k] @ pairs @ flat[m].T
                if len(blocks) == 1:
                    return block
                out[np.ix_(own[k], own[m])] = block
                out[np.ix_(own[m], own[k])] = block.T
        return out

    def posterior_cov(self) -> list[np.ndarray]:
        """(Sigma^-1 + Z'Z)^-1 by level, (q, q, J) per factor."""
        full = self.solve(np.eye(self.system.n))
        out = []
        for o, q, j in self.system.blocks:
            out.append(full[o : o + q * j, o : o + q * j].reshape(q, j, q, j).diagonal(axis1=1, axis2=3))
        return out

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """(Sigma^-1 + Z'Z)^-1 rhs for `rhs` (n, c)."""
        half = dtrtrs(self.factor, relative_times(self.system.blocks, self.lambdas, rhs, transpose=True), lower=1)[0]
        inner = dtrtrs(self.factor, half, lower=1, trans=1)[0]
        return relative_times(self.system.blocks, self.lambdas, inner, transpose=False)

    def solve_blocks(self, rhs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(Sigma^-1 + C)^-1 R and R - C (Sigma^-1 + C)^-1 R, one (q, J, c) per factor; C = Z'Z."""
        layout, flat = self.system.layout, self.system.layout.join(rhs)
        coef = self.solve(flat)
        return layout.split(coef), layout.split(flat - self.system.s[:, : self.system.n] @ coef)

    def multiply(self, h: list[np.ndarray]) -> list[np.ndarray]:
        """C h."""
        layout = self.system.layout
        return layout.split(self.system.s[:, : self.system.n] @ layout.join(h))

    def traces(self) -> list[np.ndarray]:
        """sum_j (Z_k'V^-1Z_k)_jj (q, q) per factor."""
        out = []
        for o, q, j in self.system.blocks:
            block = self.t[o : o + q * j, o : o + q * j].reshape(q, j, q, j)
            out.append(block.diagonal(axis1=1, axis2=3).sum(axis=2))
        return out

    def pair_sums(self, g: list[np.ndarray]) -> PairSums:
        """See `Factorization.pair_sums`."""
        return panel_pair_sums(self.system.layout, lambda at: self.t[:, at], g)
