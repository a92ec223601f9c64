"""The mean as a function of the linear predictor, of families whose link is that of something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MeanFunction"]

# width of the differences of fourth order: their error and rounding are both near 1e-13
_STEP = 1e-3


@dataclass(frozen=True, eq=False)
class MeanFunction:
    """What a link's inverse is to other families: the mean and its derivative at a linear predictor.

    Attributes
    ----------
    family : Family
    d : float or ndarray
        Dispersion, by row (n,) where it has a formula.
    shape : sequence
        Working values of the family's further parameters.
    """

    family: Any
    d: Any = 1.0
    shape: Sequence = ()

    def inverse(self, eta: Any) -> np.ndarray:
        """Mean (n,)."""
        return self.family.mean(np.asarray(eta, dtype=float), self.d, self.shape)

    def inverse_deriv(self, eta: Any) -> np.ndarray:
        """Derivative of the mean (n,), by a difference of fourth order."""
        eta, h, f = np.asarray(eta, dtype=float), _STEP, self.inverse
        return (f(eta - 2 * h) - 8.0 * f(eta - h) + 8.0 * f(eta + h) - f(eta + 2 * h)) / (12.0 * h)
