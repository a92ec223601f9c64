"""Independent columns, with a variance each or one for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from mvmise_sm.core.covariance.base import CovarianceStructure, LinearStructure, Parameter, reported_sd

__all__ = ["Diagonal", "HomogeneousDiagonal"]


@dataclass(frozen=True)
class Diagonal(LinearStructure):
    """Independent columns; theta is the diagonal of Lambda."""

    invariance: ClassVar[Literal["linear", "diagonal", "none"]] = "diagonal"
    independent: ClassVar[bool] = True
    described = "independent, a variance per column"

    @classmethod
    def for_columns(
        cls, names: Sequence[str], coordinates: np.ndarray | None = None, hom: bool = False, **options: Any
    ) -> Diagonal | HomogeneousDiagonal:
        """Independent columns; ``hom=True`` gives them one variance."""
        return HomogeneousDiagonal(len(names), **options) if hom else cls(len(names), **options)

    @cached_property
    def rows(self) -> np.ndarray:
        return np.arange(self.q)

    @cached_property
    def cols(self) -> np.ndarray:
        return np.arange(self.q)

    @cached_property
    def lower(self) -> np.ndarray:
        return np.zeros(self.q)

    def theta_from(self, sigma: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(np.diag(sigma), 0.0))

    def kr_directions(self, theta: np.ndarray) -> np.ndarray:
        """Unit matrices of the variances, also where one is zero."""
        out = np.zeros((self.q, self.q, self.q))
        out[np.arange(self.q), np.arange(self.q), np.arange(self.q)] = 1.0
        return out

    def parameters(self, theta: np.ndarray, names: Sequence[str], a: np.ndarray | None = None) -> list[Parameter]:
        rows, tangents = self.factor(theta), self.tangents(theta)
        if a is not None:
            rows, tangents = a @ rows, a @ tangents
        return [reported_sd(rows, tangents, i, (names[i],)) for i in range(self.q)]

    def without(self, column: int) -> Diagonal:
        return Diagonal(self.q - 1)


@dataclass(frozen=True)
class HomogeneousDiagonal(CovarianceStructure):
    """Independent columns of one variance; theta is its root."""

    q: int
    linear: ClassVar[bool] = True
    # priors on independent columns are priors on their own variances, of which there is only one here
    independent: ClassVar[bool] = False
    described = "independent, one variance"

    @classmethod
    def for_columns(
        cls, names: Sequence[str], coordinates: np.ndarray | None = None, hom: bool = True, **options: Any
    ) -> Any:
        """Independent columns of one variance; ``hom=False`` gives each its own."""
        return cls(len(names), **options) if hom else Diagonal(len(names), **options)

    @property
    def k_theta(self) -> int:
        return 1

    @cached_property
    def lower(self) -> np.ndarray:
        return np.zeros(1)

    def factor(self, theta: np.ndarray) -> np.ndarray:
        return theta[0] * np.eye(self.q)

    def tangents(self, theta: np.ndarray) -> np.ndarray:
        return np.eye(self.q)[None]

    def theta_from(self, sigma: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum([np.diag(sigma).mean()], 0.0))

    def kr_directions(self, theta: np.ndarray) -> np.ndarray:
        """The unit matrix, also where the variance is zero."""
        return np.eye(self.q)[None]

    def parameters(self, theta: np.ndarray, names: Sequence[str], a: np.ndarray | None = None) -> list[Parameter]:
        return [Parameter("sd", "sd", tuple(names) if self.q == 1 else (), float(theta[0]), np.ones(1))]

    def theta_names(self, names: Sequence[str]) -> list[str]:
        return ["sd"]
