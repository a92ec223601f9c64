"""The rows of a linear mixed model, for as long as it holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mvmise_sm.core.elimination.choose import LogDeterminant, build_system

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import FixedBasis, ResponseOrigin
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.interfaces import System

__all__ = ["LinearRows"]


@dataclass(frozen=True, slots=True, eq=False)
class LinearRows:
    """Everything by row but the response.

    Attributes
    ----------
    X : ndarray
        (n, p).
    weights, offset : ndarray or None
        (n,).
    basis : FixedBasis
    origin : ResponseOrigin
        What is taken off a response before cross-products are formed.
    """

    X: np.ndarray
    weights: np.ndarray | None
    offset: np.ndarray | None
    basis: FixedBasis
    origin: ResponseOrigin

    @property
    def constant(self) -> float:
        """What the weights add to -2 log L."""
        return 0.0 if self.weights is None else -float(np.log(self.weights).sum())

    def system(self, layout: Layout, y: np.ndarray, logdet: LogDeterminant) -> tuple[np.ndarray, System]:
        """Origin of the fixed effects in the user's coordinates (p,), and the cross-products, for a response (n,)."""
        target = self._target(y)
        origin = self.origin(target)
        system = build_system(layout, self.basis, self.X, target, origin, self.weights, logdet)
        return self.origin.user(origin), system

    def another(self, system: System, y: np.ndarray) -> tuple[np.ndarray, System]:
        """The same for another response of a system that is there: only the products with y are formed."""
        target = self._target(y)
        origin = self.origin(target)
        return self.origin.user(origin), system.with_response(self.basis, self.X, target, origin, self.weights)

    def _target(self, y: np.ndarray) -> np.ndarray:
        return y if self.offset is None else y - self.offset
