"""Random effects at positions, correlated by their distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mvmise_sm.core.covariance.correlations import Distance
from mvmise_sm.core.covariance.scaled import ScaledStructure

__all__ = ["ExponentialEffects", "GaussianEffects", "MaternEffects"]


class _DistanceEffects(ScaledStructure):
    """Random effects at positions, correlated by distance."""

    needs_coordinates: ClassVar[bool] = True
    kernel: ClassVar[str]
    _word: ClassVar[str] = "log_range"

    def __init__(self, coordinates: np.ndarray, nu: float | None = None) -> None:
        super().__init__(Distance(self.kernel, coordinates, nu), True)

    @classmethod
    def for_columns(cls, names: Sequence[str], coordinates: np.ndarray | None = None, **options: Any) -> Any:
        """The structure at the positions `coordinates` (q, d)."""
        if coordinates is None:
            raise ValueError(f"{cls.kernel}() needs numeric coordinates left of the bar, as in {cls.kernel}(u + v | g)")
        return cls(coordinates, **options)


class ExponentialEffects(_DistanceEffects):
    """Correlation exp(-d / range)."""

    kernel: ClassVar[str] = "exp"

    def __init__(self, coordinates: np.ndarray) -> None:
        super().__init__(coordinates)


class GaussianEffects(_DistanceEffects):
    """Correlation exp(-(d / range)^2)."""

    kernel: ClassVar[str] = "gau"

    def __init__(self, coordinates: np.ndarray) -> None:
        super().__init__(coordinates)


class MaternEffects(_DistanceEffects):
    """Matern correlation with smoothness 1.5 or 2.5."""

    kernel: ClassVar[str] = "mat"

    def __init__(self, coordinates: np.ndarray, nu: float = 1.5) -> None:
        if nu not in (1.5, 2.5):
            raise ValueError(f"mat(): nu must be 1.5 or 2.5, got {nu!r}")
        super().__init__(coordinates, float(nu))
