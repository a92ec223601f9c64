"""One scalar term whose levels are related: rotated once, its effects are independent.

With Z'Z = Q D Q' for the term's effects u, the rotated effects Q'u have diagonal cross-products D, and log|M| is the
sum of log(1 + theta^2 d). The eigenvalues take one decomposition; after it an evaluation, and a refit to another
response, costs as much as there are effects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

from mvmise_sm.core.elimination.crossprod import CrossProducts
from mvmise_sm.core.elimination.single_factor import SingleFactorization, SingleSystem

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import FixedBasis
    from mvmise_sm.core.elimination.krylov import Probes
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.interfaces import PairSums

__all__ = ["EigenFactorization", "EigenSystem"]

# share of the largest eigenvalue below which one is rounding
_ROUNDING = 1e-14


class EigenSystem:
    """Cross-products of a model whose only random effects are one scalar term of related levels.

    Parameters
    ----------
    layout : Layout
    c : ndarray
        Z'Z (n, n).
    rhs : ndarray
        Z'[X y] (n, m).
    gram : ndarray
        [X y]'[X y] (m, m).
    decomposition : tuple of ndarray, optional
        Eigenvalues (n,) and vectors (n, n) of `c`; found when not given.
    """

    def __init__(
        self,
        layout: Layout,
        c: np.ndarray,
        rhs: np.ndarray,
        gram: np.ndarray,
        decomposition: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.layout, self.c, self.rhs, self.gram = layout, c, rhs, gram
        values: np.ndarray
        vectors: np.ndarray
        values, vectors = eigh(c, driver="evd") if decomposition is None else decomposition
        self.vectors = vectors
        self.values = np.where(values > _ROUNDING * values.max(initial=0.0), values, 0.0)
        rotated = CrossProducts(gram, (self.values[None, None],), ((self.vectors.T @ rhs)[None],), {})
        self.rotated = SingleSystem(layout, rotated)

    probes: Probes | None = None

    @staticmethod
    def fits(layout: Layout) -> bool:
        """Whether the layout is one scalar term of related levels."""
        return layout.loaded and len(layout.factors) == 1 and layout.factors[0].q == 1

    @classmethod
    def build(
        cls,
        layout: Layout,
        basis: FixedBasis,
        X: np.ndarray,
        y: np.ndarray,
        origin: np.ndarray,
        weights: np.ndarray | None,
    ) -> EigenSystem:
        """Form the cross-products from the data."""
        return cls(layout, _own(layout, weights), *_products(layout, basis, X, y, origin, weights))

    @property
    def factors_densely(self) -> bool:
        return False

    def with_probes(self, probes: Probes) -> EigenSystem:
        """Itself: log|M| is exact."""
        return self

    def with_response(
        self, basis: FixedBasis, X: np.ndarray, y: np.ndarray, origin: np.ndarray, weights: np.ndarray | None
    ) -> EigenSystem:
        """The same design, and its eigenvalues, with another response (nobs,)."""
        rhs, gram = _products(self.layout, basis, X, y, origin, weights)
        return EigenSystem(self.layout, self.c, rhs, gram, (self.values, self.vectors))

    def factorize(self, lambdas: list[np.ndarray]) -> EigenFactorization:
        """Eliminate the random effects at the relative factor ``lambdas[0]`` (1, 1)."""
        return EigenFactorization(self, self.rotated.factorize(lambdas))

    def level_products(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Z'Z diagonals (1, n) and Z'[X y] (1, n, m), a list of one."""
        return [(self.c.diagonal()[None], self.rhs[None])]


def _column(layout: Layout, weights: np.ndarray | None, nobs: int) -> np.ndarray:
    """The term's column in working coordinates times the roots of the weights (nobs,)."""
    f = layout.factors[0]
    values = f.values(0)
    z = np.full(nobs, f.scale[0]) if values is None else values * f.scale[0]
    return z if weights is None else z * np.sqrt(weights)


def _own(layout: Layout, weights: np.ndarray | None) -> np.ndarray:
    """Z'Z (n, n)."""
    f = layout.factors[0]
    factor = layout.random.factors[f.index]
    z = _column(layout, weights, len(f.codes))
    if factor.loadings is None and factor.root is not None:
        seen = np.bincount(factor.codes, z * z, minlength=factor.n_levels)
        half = np.sqrt(seen[seen > 0.0])[:, None] * factor.root[seen > 0.0]
    else:
        half = z[:, None] * f.shares()
    return half.T @ half


def _products(
    layout: Layout, basis: FixedBasis, X: np.ndarray, y: np.ndarray, origin: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Z'[X y] (n, m) and [X y]'[X y] (m, m)."""
    f, p = layout.factors[0], X.shape[1]
    factor = layout.random.factors[f.index]
    rows = np.empty((len(y), p + 1))
    basis.rows(X, 0, len(y), rows[:, :p])
    np.subtract(y, rows[:, :p] @ origin, out=rows[:, p])
    rows[:, :p] *= basis.scale
    if weights is not None:
        rows *= np.sqrt(weights)[:, None]
    loaded = _column(layout, weights, len(y))[:, None] * rows
    if (root := factor.root) is not None and factor.loadings is None:
        sums = np.column_stack([np.bincount(factor.codes, part, minlength=factor.n_levels) for part in loaded.T])
        return root.T @ sums, rows.T @ rows
    return f.shares().T @ loaded, rows.T @ rows


class EigenFactorization:
    """The rotated model eliminated at one theta; what it answers is turned back.

    Attributes
    ----------
    logdet : float
        log|M|.
    gram : ndarray
        K (m, m).
    """

    def __init__(self, system: EigenSystem, rotated: SingleFactorization) -> None:
        self.system, self.rotated = system, rotated
        self.vectors = system.vectors
        self.logdet, self.gram = rotated.logdet, rotated.gram
        # sums over levels of products of Z'V^-1Z, and its trace, are the same in rotated coordinates
        self.derivatives, self.information = rotated.derivatives, rotated.information
        self.traces, self.expected = rotated.traces, rotated.expected

    def _turned(self, block: np.ndarray) -> np.ndarray:
        """Q'R for a block R (1, n, c)."""
        return (self.vectors.T @ block[0])[None]

    def _back(self, block: np.ndarray) -> np.ndarray:
        """QR for a block R (1, n, c)."""
        return (self.vectors @ block[0])[None]

    def scores(self, xi: np.ndarray) -> list[np.ndarray]:
        """Z'V^-1[X y] xi (1, n), a list of one."""
        return [(self.vectors @ self.rotated.scores(xi)[0][0])[None]]

    def posterior_cov(self) -> list[np.ndarray]:
        """(Sigma^-1 + Z'Z)^-1 by level (1, 1, n), a list of one."""
        own = self.rotated.posterior_cov()[0][0, 0]
        return [(np.square(self.vectors) @ own)[None, None]]

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """(Sigma^-1 + Z'Z)^-1 rhs for `rhs` (n, c)."""
        return self.vectors @ self.rotated.solve(self.vectors.T @ rhs)

    def solve_blocks(self, rhs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(Sigma^-1 + C)^-1 R and R - C (Sigma^-1 + C)^-1 R for `rhs`, one (1, n, c); C = Z'Z."""
        solved, rest = self.rotated.solve_blocks([self._turned(rhs[0])])
        return [self._back(solved[0])], [self._back(rest[0])]

    def multiply(self, h: list[np.ndarray]) -> list[np.ndarray]:
        """C h."""
        return [(self.system.c @ h[0][0])[None]]

    def pair_sums(self, g: list[np.ndarray]) -> PairSums:
        """See `Factorization.pair_sums`."""
        return self.rotated.pair_sums([self._turned(g[0])])
