"""Elimination of the random effects at weights that change: (Sigma^-1 + Z'WZ)^-1 on the tiers of the linear model.

All three tiers answer ``logdet`` (of Lambda'Z'WZ Lambda + I), ``solve_blocks``, ``multiply``, ``traces``, ``leverage``
and ``posterior_cov``; none divides by Lambda, so that a singular Sigma is an ordinary value.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from mvmise_sm.core.elimination.chain import ChainFactorization, ChainSystem
from mvmise_sm.core.elimination.chain_structure import ChainStructure
from mvmise_sm.core.elimination.choose import remainder_kind
from mvmise_sm.core.elimination.crossprod import CrossProducts
from mvmise_sm.core.elimination.levels import apply, factor_levels, product, relative_times

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.incidence import Incidence
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.interfaces import WeightedElimination

__all__ = ["Eliminator"]


class Eliminator:
    """Chooses the tier once and eliminates for any weights.

    Parameters
    ----------
    layout : Layout
    incidence : Incidence
    """

    def __init__(self, layout: Layout, incidence: Incidence) -> None:
        self.layout, self.incidence = layout, incidence
        self._structure: ChainStructure | None = None
        self._tier: Callable[[Eliminator, np.ndarray, list[np.ndarray]], WeightedElimination]
        if len(layout.factors) == 1:
            self._tier = SingleElimination
        elif layout.dense:
            self._tier = DenseElimination
        else:
            self._tier = ChainElimination
            self.remainder = remainder_kind(layout)

    def __call__(self, w: np.ndarray, lambdas: list[np.ndarray]) -> WeightedElimination:
        """Eliminate at weights `w` (nobs,) and relative factors, one (q, q) per factor in elimination order.

        Raises
        ------
        numpy.linalg.LinAlgError
            If Lambda'Z'WZ Lambda + I is not positive definite, which negative weights can cause.
        """
        return self._tier(self, w, lambdas)

    def system(self, w: np.ndarray) -> ChainSystem:
        """The chain's cross-products at weights `w`."""
        inc = self.incidence
        rhs = tuple(np.zeros((len(z), j, 0)) for z, j in zip(inc.columns, inc.levels, strict=True))
        products = CrossProducts(np.zeros((0, 0)), tuple(inc.own(w)), rhs, inc.cross(w))
        if self._structure is None:
            self._structure = ChainStructure(self.layout, products, self.remainder)
            return ChainSystem(self.layout, products, self.remainder, self._structure)
        return ChainSystem(self.layout, products, self.remainder, self._structure.with_products(products))


class Elimination:
    """What the tiers share."""

    layout: Layout

    def least_pivot(self) -> float:
        """A number near zero where M is nearly singular; one where the tier does not keep its pivots apart."""
        return 1.0

    def solve_blocks(self, rhs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(Sigma^-1 + C)^-1 R and R - C (Sigma^-1 + C)^-1 R for `rhs`, one (q, J, c) per factor; C = Z'WZ."""
        raise NotImplementedError

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """(Sigma^-1 + C)^-1 rhs for `rhs` (n, c), random effects by factor, column, level."""
        return self.layout.join(self.solve_blocks(self.layout.split(rhs))[0])


class SingleElimination(Elimination):
    """One grouping factor: its levels are independent."""

    def __init__(self, owner: Eliminator, w: np.ndarray, lambdas: list[np.ndarray]) -> None:
        self.incidence, self.layout = owner.incidence, owner.layout
        with np.errstate(invalid="ignore", divide="ignore"):
            self.level = factor_levels(self.incidence.own(w)[0], lambdas[0])
        self.logdet = _checked(float(self.level.logdet.sum()))

    def least_pivot(self) -> float:
        """The smallest determinant of a level's block of M: near zero where M is nearly singular."""
        return float(np.exp(self.level.logdet.min()))

    def solve_blocks(self, rhs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(Sigma^-1 + C)^-1 R and R - C (Sigma^-1 + C)^-1 R for `rhs`, one (q, J, c) per factor; C = Z'WZ."""
        return [apply(self.level.w, rhs[0])], [apply(self.level.i_minus_cw, rhs[0])]

    def multiply(self, h: list[np.ndarray]) -> list[np.ndarray]:
        """C h."""
        return [apply(self.level.c, h[0])]

    def traces(self) -> list[np.ndarray]:
        """Sum over levels of the diagonal blocks of C - C (Sigma^-1 + C)^-1 C, (q, q) per factor."""
        return [product(self.level.i_minus_cw, self.level.c).sum(axis=2)]

    def leverage(self) -> np.ndarray:
        """z_i' (Sigma^-1 + C)^-1 z_i of every row (nobs,)."""
        return self.incidence.level_quadratic(0, self.level.w)

    def posterior_cov(self) -> list[np.ndarray]:
        """Diagonal blocks of (Sigma^-1 + C)^-1 by level, (q, q, J) per factor."""
        return [self.level.w]


class DenseElimination(Elimination):
    """Several small grouping factors in one dense block."""

    def __init__(self, owner: Eliminator, w: np.ndarray, lambdas: list[np.ndarray]) -> None:
        self.incidence = owner.incidence
        self.layout = owner.layout
        self.blocks, self.n = self.layout.places, self.layout.n_random
        self.lambdas = lambdas
        self.c = self._cross_products(w)
        m = self._apply(self._apply(self.c, True).T, True)
        m.flat[:: self.n + 1] += 1.0
        if not np.isfinite(m).all():
            raise np.linalg.LinAlgError("the weights are not finite")
        self.factor, info = dpotrf(m.T, lower=1, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError("M is not positive definite")
        self.logdet = 2.0 * float(np.log(self.factor.diagonal()).sum())

    def least_pivot(self) -> float:
        """The smallest squared pivot of M."""
        return float(self.factor.diagonal().min()) ** 2

    def _cross_products(self, w: np.ndarray) -> np.ndarray:
        """Z'WZ (n, n)."""
        return self._assemble(self.incidence.own(w), self.incidence.cross(w))

    def _assemble(self, own: list[np.ndarray], cross: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
        c = np.zeros((self.n, self.n))
        for (o, q, j), block in zip(self.blocks, own, strict=True):
            at = o + np.arange(j)
            for a in range(q):
                for b in range(q):
                    c[at + a * j, at + b * j] = block[a, b]
        for (k, m), values in cross.items():
            pattern = self.layout.patterns[k, m]
            (o, _, j), (s, _, i) = self.blocks[k], self.blocks[m]
            rows, cols = o + pattern.rows, s + pattern.indices
            for a in range(values.shape[0]):
                for b in range(values.shape[1]):
                    c[rows + a * j, cols + b * i] = c[cols + b * i, rows + a * j] = values[a, b]
        return c

    def _apply(self, rows: np.ndarray, transpose: bool) -> np.ndarray:
        """Lambda' rows or Lambda rows."""
        return relative_times(self.blocks, self.lambdas, rows, transpose=transpose)

    def solve_blocks(self, rhs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """As `SingleElimination.solve_blocks`."""
        flat = self.layout.join(rhs)
        inner = dpotrs(self.factor, self._apply(flat, True), lower=1)[0]
        coef = self._apply(inner, False)
        return self.layout.split(coef), self.layout.split(flat - self.c @ coef)

    def multiply(self, h: list[np.ndarray]) -> list[np.ndarray]:
        """C h."""
        return self.layout.split(self.c @ self.layout.join(h))

    @cached_property
    def _posterior(self) -> np.ndarray:
        inner = dpotrs(self.factor, self._apply(np.eye(self.n), True), lower=1)[0]
        return self._apply(inner, False)

    def traces(self) -> list[np.ndarray]:
        """As `SingleElimination.traces`."""
        through = self.c @ self._posterior
        out = []
        for o, q, j in self.blocks:
            block = np.empty((q, q))
            for a in range(q):
                for b in range(q):
                    at = np.arange(j)
                    own = self.c[o + a * j + at, o + b * j + at].sum()
                    rows = through[o + a * j : o + (a + 1) * j]
                    block[a, b] = own - np.vdot(rows, self.c[:, o + b * j : o + (b + 1) * j].T)
            out.append(block)
        return out

    def _diagonal(self, k: int) -> np.ndarray:
        o, q, j = self.blocks[k]
        return self._posterior[o : o + q * j, o : o + q * j].reshape(q, j, q, j).diagonal(axis1=1, axis2=3)

    def leverage(self) -> np.ndarray:
        """As `SingleElimination.leverage`."""
        inc = self.incidence
        out: Any = sum(inc.level_quadratic(k, self._diagonal(k)) for k in range(len(self.blocks)))
        for (k, m), pattern in self.layout.patterns.items():
            (o, q, j), (s, r, i) = self.blocks[k], self.blocks[m]
            rows, cols = o + pattern.rows, s + pattern.indices
            values = np.array([[self._posterior[rows + a * j, cols + b * i] for b in range(r)] for a in range(q)])
            out += 2.0 * inc.cell_bilinear(k, m, values)
        return out

    def posterior_cov(self) -> list[np.ndarray]:
        """As `SingleElimination.posterior_cov`."""
        return [self._diagonal(k) for k in range(len(self.blocks))]


class ChainElimination(Elimination):
    """A nested chain of factors, crossed with a dense or sparse remainder."""

    def __init__(self, owner: Eliminator, w: np.ndarray, lambdas: list[np.ndarray]) -> None:
        self.incidence = owner.incidence
        self.layout = owner.layout
        with np.errstate(invalid="ignore", divide="ignore"):
            self.factorization = ChainFactorization(owner.system(w), lambdas, keep_cross=True)
        self.logdet = _checked(self.factorization.logdet)

    def solve_blocks(self, rhs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """As `SingleElimination.solve_blocks`."""
        return self.factorization.solve_blocks(rhs)

    def multiply(self, h: list[np.ndarray]) -> list[np.ndarray]:
        """C h."""
        return self.factorization.multiply(h)

    def traces(self) -> list[np.ndarray]:
        """As `SingleElimination.traces`."""
        return self.factorization.traces()

    def leverage(self) -> np.ndarray:
        """As `SingleElimination.leverage`."""
        inc, f = self.incidence, self.factorization
        out: Any = sum(inc.level_quadratic(k, block) for k, block in enumerate(f.posterior_cov()))
        for pair in inc.cells:
            out += 2.0 * inc.cell_bilinear(*pair, f.posterior_cross(*pair))
        return out

    def posterior_cov(self) -> list[np.ndarray]:
        """As `SingleElimination.posterior_cov`."""
        return self.factorization.posterior_cov()


def _checked(logdet: float) -> float:
    if not np.isfinite(logdet):
        raise np.linalg.LinAlgError("M is not positive definite")
    return logdet
