"""Compound symmetry: one correlation for all pairs of columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mvmise_sm.core.covariance.base import SINGULAR, CovarianceStructure, Parameter
from mvmise_sm.core.covariance.correlations import Compound
from mvmise_sm.core.covariance.scaled import ScaledStructure, checked_hom

__all__ = ["CompoundSymmetric", "HomogeneousCompound"]


class CompoundSymmetric(ScaledStructure):
    """One correlation for all pairs of columns, a variance per column or one.

    Parameters
    ----------
    q : int
    hom : bool, optional
        One variance.
    """

    def __init__(self, q: int, hom: bool = False) -> None:
        super().__init__(Compound(q), checked_hom("cs", hom))

    def without(self, column: int) -> CompoundSymmetric | None:
        """The other columns; with one variance for all, none of them can have variance zero."""
        return None if self.hom else CompoundSymmetric(self.q - 1)


class HomogeneousCompound(CovarianceStructure):
    """One variance and one correlation, Lambda = t1 J/q + t2 (I - J/q) with J = 11': linear, with bounds at zero.

    t1 = 0 is the correlation -1/(q - 1), t2 = 0 the correlation 1.

    Parameters
    ----------
    q : int
    """

    linear: ClassVar[bool] = True
    described = "compound symmetry, one variance"

    def __init__(self, q: int) -> None:
        self.q = q
        mean = np.full((q, q), 1.0 / q)
        self._parts = np.stack([mean, np.eye(q) - mean]) if q > 1 else np.ones((1, 1, 1))
        self._lower = np.zeros(len(self._parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HomogeneousCompound) and other.q == self.q

    def __hash__(self) -> int:
        return hash(("homcs", self.q))

    @classmethod
    def for_columns(
        cls, names: Sequence[str], coordinates: np.ndarray | None = None, hom: bool = True, **options: Any
    ) -> Any:
        """One variance; ``hom=False`` gives every column its own."""
        made = cls if checked_hom("homcs", hom) else CompoundSymmetric
        return made(len(names), **options)

    @property
    def k_theta(self) -> int:
        return len(self._parts)

    @property
    def lower(self) -> np.ndarray:
        return self._lower

    def factor(self, theta: np.ndarray) -> np.ndarray:
        return np.tensordot(theta, self._parts, axes=1)

    def tangents(self, theta: np.ndarray) -> np.ndarray:
        return self._parts

    def theta_from(self, sigma: np.ndarray) -> np.ndarray:
        # the eigenvalues: of J/q, and the mean of the others
        first = float(sigma.sum()) / self.q
        if self.q == 1:
            return np.sqrt(np.maximum([first], 0.0))
        rest = (float(np.trace(sigma)) - first) / (self.q - 1)
        return np.sqrt(np.maximum([first, rest], 0.0))

    def parameters(self, theta: np.ndarray, names: Sequence[str], a: np.ndarray | None = None) -> list[Parameter]:
        q = self.q
        if q == 1:
            return [Parameter("sd", "sd", (), float(theta[0]), np.ones(1))]
        t1, t2 = (float(t) for t in theta)
        variance = (t1 * t1 + (q - 1) * t2 * t2) / q
        sd = float(np.sqrt(variance))
        slope = np.array([t1, (q - 1) * t2]) / q
        out = [Parameter("sd", "sd", (), sd, slope / sd if sd > 0.0 else np.zeros(2))]
        if variance <= 0.0:
            return [*out, Parameter("cor", "rho", (), float("nan"), np.zeros(2))]
        shared = (t1 * t1 - t2 * t2) / q
        gradient = 2.0 * np.array([t1, -t2]) / q / variance - shared * 2.0 * slope / variance**2
        return [*out, Parameter("cor", "rho", (), shared / variance, gradient, -1.0 / (q - 1))]

    def kr_directions(self, theta: np.ndarray) -> np.ndarray:
        """The two matrices in which Sigma is linear, without those at their bound."""
        return self._parts[np.asarray(theta) >= SINGULAR]

    def theta_names(self, names: Sequence[str]) -> list[str]:
        return ["mean", "contrast"][: self.k_theta]
