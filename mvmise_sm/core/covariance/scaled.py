"""Structures made of standard deviations and a family of correlation matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from mvmise_sm.core.covariance.base import SINGULAR, CovarianceStructure, Parameter
from mvmise_sm.core.covariance.correlations import CorrelationFamily

__all__ = ["ScaledStructure", "checked_hom"]


class ScaledStructure(CovarianceStructure):
    """Sigma = diag(s) C(x) diag(s); theta is the standard deviations s (one or q) and then x.

    Parameters
    ----------
    family : CorrelationFamily
    hom : bool
        One standard deviation for all columns.
    """

    def __init__(self, family: CorrelationFamily, hom: bool) -> None:
        self.family, self.hom = family, hom
        self.q = family.m
        self.n_sd = 1 if hom else self.q
        self.invariance: Literal["linear", "diagonal", "none"] = "none" if hom else "diagonal"  # type: ignore[misc]
        self._lower = np.append(np.zeros(self.n_sd), np.full(family.size, -np.inf))
        self.described = f"{family.described}, {'one variance' if hom else 'a variance per column'}"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def k_theta(self) -> int:
        return self.n_sd + self.family.size

    @property
    def lower(self) -> np.ndarray:
        return self._lower

    def split(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standard deviations (q,) and the family's parameters."""
        s = theta[: self.n_sd]
        return (np.full(self.q, s[0]) if self.hom else s), theta[self.n_sd :]

    def factor(self, theta: np.ndarray) -> np.ndarray:
        s, x = self.split(theta)
        return s[:, None] * self.family.root(x)

    def tangents(self, theta: np.ndarray) -> np.ndarray:
        s, x = self.split(theta)
        root = self.family.root(x)
        out = np.zeros((self.k_theta, self.q, self.q))
        if self.hom:
            out[0] = root
        else:
            out[np.arange(self.q), np.arange(self.q)] = root
        if self.family.size:
            out[self.n_sd :] = s[:, None] * self.family.tangents(x)
        return out

    def theta_from(self, sigma: np.ndarray) -> np.ndarray:
        variances = np.maximum(np.diag(sigma), 0.0)
        s = np.sqrt(variances)
        x = self.family.free
        if self.family.size and (s > 0.0).all():
            x = self.family.nearest(sigma / np.outer(s, s))
        return np.append(np.sqrt(variances.mean()) if self.hom else s, x)

    def rescaled(self, theta: np.ndarray, a: np.ndarray) -> np.ndarray:
        out = np.array(theta, dtype=float)
        out[: self.n_sd] *= np.diag(a)[: self.n_sd]
        return out

    def start(self, variances: np.ndarray) -> np.ndarray:
        s = np.sqrt(np.asarray(variances, dtype=float))
        return np.append(np.sqrt(np.square(s).mean()) if self.hom else s, self.family.free)

    def other_starts(self, theta: np.ndarray) -> list[np.ndarray]:
        return [np.append(theta[: self.n_sd], x) for x in self.family.other_starts(theta[self.n_sd :])]

    def on_boundary(self, theta: np.ndarray) -> bool:
        return super().on_boundary(theta) or bool(self.family.bounds(theta[self.n_sd :]))

    def bound_directions(self, theta: np.ndarray) -> list[Callable[[float], np.ndarray]]:
        out = super().bound_directions(theta)
        for i, off in self.family.bounds(theta[self.n_sd :]):
            out.append(partial(self._moved, theta, self.n_sd + i, off))
        return out

    @staticmethod
    def _moved(theta: np.ndarray, i: int, off: Callable[[float], float], t: float) -> np.ndarray:
        out = np.array(theta, dtype=float)
        out[i] = off(t)
        return out

    def kr_directions(self, theta: np.ndarray) -> np.ndarray:
        """dSigma / dtheta without parameters at their bound."""
        free = np.ones(self.k_theta, dtype=bool)
        free[: self.n_sd] = theta[: self.n_sd] >= SINGULAR
        for i, _ in self.family.bounds(theta[self.n_sd :]):
            free[self.n_sd + i] = False
        if not free[: self.n_sd].any():
            free[:] = False
        return self.sigma_tangents(theta)[free]

    def parameters(self, theta: np.ndarray, names: Sequence[str], a: np.ndarray | None = None) -> list[Parameter]:
        unit = np.eye(self.k_theta)
        size = np.ones(self.q) if a is None else np.diag(a)
        levels = [()] if self.hom else [(name,) for name in names]
        out = [
            Parameter("sd", "sd", level, float(size[i] * theta[i]), size[i] * unit[i]) for i, level in enumerate(levels)
        ]
        for kind, name, value, gradient in self.family.reported(theta[self.n_sd :]):
            wide = np.append(np.zeros(self.n_sd), gradient)
            out.append(Parameter(kind, name, (), value, wide, self.family.least))  # type: ignore[arg-type]
        return out

    def theta_names(self, names: Sequence[str]) -> list[str]:
        sds = ["sd"] if self.hom else list(names)
        count = self.family.size
        return sds + ([self._word] if count == 1 else [f"{self._word}[{i + 1}]" for i in range(count)])

    _word: ClassVar[str] = "angle"


def checked_hom(name: str, hom: bool) -> bool:
    """`hom` if it is a truth value; `name` is the structure's, for the message."""
    if not isinstance(hom, bool):
        raise ValueError(f"{name}: hom must be True or False, got {hom!r}")
    return hom
