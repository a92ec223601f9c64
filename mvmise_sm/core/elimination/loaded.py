"""Random effects whose levels are correlated by a known matrix, or of which a row has several: dense rows of Z.

A factor with known covariance A = LL' between its levels has Z L in place of Z and independent effects; a
multi-membership factor has several non-zeros in a row. Either way Z'Z is not block diagonal; one dense block
serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mvmise_sm.core.elimination.incidence import Incidence
from mvmise_sm.core.elimination.reweighted import DenseElimination, Eliminator

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.layout import Layout

__all__ = ["LoadedElimination", "LoadedEliminator", "LoadedIncidence"]


class LoadedIncidence(Incidence):
    """Z as dense rows, with what the weighted criteria ask of it.

    Parameters
    ----------
    layout : Layout
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.rows = np.concatenate([f.rows() for f in layout.factors], axis=1)

    def times(self, b: list[np.ndarray]) -> np.ndarray:
        return self.rows @ np.concatenate([effects.ravel() for effects in b])

    def transposed(self, v: np.ndarray) -> list[np.ndarray]:
        return [part[:, :, 0] for part in self.layout.split((v @ self.rows)[:, None])]

    def transposed_many(self, v: np.ndarray) -> list[np.ndarray]:
        return self.layout.split((v @ self.rows).T)


class LoadedEliminator(Eliminator):
    """Chooses the one tier there is for such models.

    Parameters
    ----------
    layout : Layout
    incidence : LoadedIncidence
    """

    def __init__(self, layout: Layout, incidence: Incidence) -> None:
        super().__init__(layout, incidence)
        self._tier = LoadedElimination


class LoadedElimination(DenseElimination):
    """One dense block from dense rows of Z."""

    def _cross_products(self, w: np.ndarray) -> np.ndarray:
        self._rows = self.incidence.rows  # type: ignore[attr-defined]
        return self._rows.T @ (w[:, None] * self._rows)

    def leverage(self) -> np.ndarray:
        return ((self._rows @ self._posterior) * self._rows).sum(axis=1)
