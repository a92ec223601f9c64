"""Any covariance matrix: the lower triangle of a Cholesky factor, as in lme4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar, Literal

import numpy as np

from mvmise_sm.core.covariance.base import (
    SINGULAR,
    BoundMove,
    LinearStructure,
    Parameter,
    reported_correlation,
    reported_sd,
    semidefinite_cholesky,
)

__all__ = ["Unstructured"]


@dataclass(frozen=True)
class Unstructured(LinearStructure):
    """Any positive semidefinite covariance; theta is the lower triangle of a Cholesky factor by columns, as in lme4.

    Parameters
    ----------
    q : int
        Columns.
    order : tuple of int, optional
        Order in which the columns are factored. With the largest variance first the factor stays well conditioned
        near the boundary; the rows of Lambda keep the order of the columns, so Lambda is triangular only after
        permuting its rows.
    """

    order: tuple[int, ...] | None = None

    invariance: ClassVar[Literal["linear", "diagonal", "none"]] = "linear"
    described = "unstructured"

    @classmethod
    def for_columns(cls, names: Sequence[str], coordinates: np.ndarray | None = None, **options: Any) -> Any:
        if cls is Unstructured and not options:
            return _shared(len(names), None)
        return super().for_columns(names, coordinates, **options)

    @cached_property
    def _triangle(self) -> tuple[np.ndarray, np.ndarray]:
        cols = np.concatenate([np.full(self.q - j, j) for j in range(self.q)])
        rows = np.concatenate([np.arange(j, self.q) for j in range(self.q)])
        return rows, cols

    @cached_property
    def rows(self) -> np.ndarray:
        rows = self._triangle[0]
        return rows if self.order is None else np.array(self.order)[rows]

    @cached_property
    def cols(self) -> np.ndarray:
        return self._triangle[1]

    @cached_property
    def lower(self) -> np.ndarray:
        rows, cols = self._triangle
        return np.where(rows == cols, 0.0, -np.inf)

    @cached_property
    def _diagonal(self) -> np.ndarray:
        return np.flatnonzero(self.lower == 0.0)

    def on_boundary(self, theta: np.ndarray) -> bool:
        return any(size < SINGULAR for size in theta[self._diagonal].tolist())

    def theta_from(self, sigma: np.ndarray) -> np.ndarray:
        if self.order is not None:
            sigma = sigma[np.ix_(self.order, self.order)]
        return semidefinite_cholesky(sigma)[self._triangle]

    def start(self, variances: np.ndarray) -> np.ndarray:
        """Standard deviations without correlation: the Cholesky factor of a diagonal matrix."""
        theta = np.zeros(self.k_theta)
        sizes = np.sqrt(np.maximum(np.asarray(variances, dtype=float), 0.0))
        theta[self._diagonal] = sizes if self.order is None else sizes[list(self.order)]
        return theta

    def rescaled(self, theta: np.ndarray, a: np.ndarray) -> np.ndarray:
        return super().rescaled(theta, a) if self.q > 1 else np.abs(a[0, 0] * theta)

    def ordered_by(self, variances: np.ndarray) -> Unstructured:
        """The same family, factored in decreasing order of `variances` (q,)."""
        order = tuple(int(i) for i in np.argsort(-np.asarray(variances), kind="stable"))
        return _shared(self.q, None if order == tuple(range(self.q)) else order)

    def bound_directions(self, theta: np.ndarray) -> list[Callable[[float], np.ndarray]]:
        return [partial(self._along, theta, unit) for unit in np.eye(self.q)]

    def bound_moves(self, theta: np.ndarray, slope: np.ndarray) -> list[BoundMove]:
        """Sigma + t v v' for the eigenvectors v of `slope`: optimal over the cone where none of them descends."""
        if all(size > SINGULAR for size in theta[self._diagonal].tolist()):
            return []
        values, vectors = np.linalg.eigh(slope)
        return [BoundMove(float(w), partial(self._along, theta, v)) for w, v in zip(values, vectors.T, strict=True)]

    def _along(self, theta: np.ndarray, v: np.ndarray, t: float) -> np.ndarray:
        lam = self.factor(theta)
        return self.theta_from(lam @ lam.T + t * np.outer(v, v))

    def kr_directions(self, theta: np.ndarray) -> np.ndarray:
        """Unit matrices of all elements, also at a singular Lambda, where tangents lose rank."""
        places = [(a, b) for a in range(self.q) for b in range(a + 1)]
        out = np.zeros((len(places), self.q, self.q))
        for i, (a, b) in enumerate(places):
            out[i, a, b] = out[i, b, a] = 1.0
        return out

    def parameters(self, theta: np.ndarray, names: Sequence[str], a: np.ndarray | None = None) -> list[Parameter]:
        rows, tangents = self.factor(theta), self.tangents(theta)
        if a is not None:
            rows, tangents = a @ rows, a @ tangents
        out = [reported_sd(rows, tangents, i, (names[i],)) for i in range(self.q)]
        pairs = [(i, j) for i in range(self.q) for j in range(i + 1, self.q)]
        return out + [reported_correlation(rows, tangents, i, j, (names[i], names[j])) for i, j in pairs]

    def without(self, column: int) -> Unstructured:
        return Unstructured(self.q - 1)


@lru_cache(maxsize=256)
def _shared(q: int, order: tuple[int, ...] | None) -> Unstructured:
    """One structure for all models of its size: what it knows of its places is found once."""
    return Unstructured(q, order)
