"""Reported parameters (standard deviations, correlations, ranges) as functions of an optimiser's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mvmise_sm.core.covariance.base import Parameter

__all__ = ["LogDeviation", "ReportedParameter", "from_line", "parameter_label", "to_line"]

_STEP = 1e-5
# correlations are kept off one by this much, where their transform is infinite
_OPEN = 1e-12


class Reporting(Protocol):
    """Whatever reports parameters of a stretch of theta."""

    def parameters(self, theta: np.ndarray, names: Sequence[str], a: np.ndarray | None = None) -> list[Parameter]:
        """As `CovarianceStructure.parameters`."""


def parameter_label(parameter: Parameter, group: str) -> str:
    """Row name of a parameter: ``sd_x|g``, ``cor_a.b|g``, ``rho|g`` ..."""
    levels = ".".join(parameter.levels)
    return f"{parameter.name}_{levels}|{group}" if levels else f"{parameter.name}|{group}"


def to_line(kind: str, value: float) -> tuple[float, float]:
    """A parameter's value on the scale that profiles use, and the derivative of that scale."""
    if kind == "cor":
        value = float(np.clip(value, -1.0 + _OPEN, 1.0 - _OPEN))
        return float(np.arctanh(value)), 1.0 / (1.0 - value * value)
    if kind == "positive":
        return float(np.log(value)), 1.0 / value
    if kind == "share":
        value = float(np.clip(value, _OPEN, 1.0 - _OPEN))
        return float(np.log(value / (1.0 - value))), 1.0 / (value * (1.0 - value))
    return value, 1.0


def from_line(kind: str, c: float) -> float:
    """The inverse of `to_line`."""
    if kind == "cor":
        return float(np.tanh(c))
    if kind == "positive":
        return float(np.exp(c))
    if kind == "share":
        return float(1.0 / (1.0 + np.exp(-c)))
    return float(c)


class ReportedParameter:
    """One reported parameter as a constraint: standard deviations as they are, others on the real line.

    Parameters
    ----------
    structure : Reporting
    index : int
        Place in what `structure` reports.
    names : sequence of str
        Column names of the term.
    a : ndarray or None
        Map to the user's coordinates (q, q).
    at : slice
        Place of the structure's parameters.
    rho : int or None
        Place of log sigma2; None where theta is absolute.
    """

    def __init__(
        self, structure: Reporting, index: int, names: Sequence[str], a: np.ndarray | None, at: slice, rho: int | None
    ) -> None:
        self.structure, self.index, self.names, self.a, self.at, self.rho = structure, index, names, a, at, rho

    def value(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient (k,)."""
        found = self.structure.parameters(x[self.at], self.names, self.a)[self.index]
        gradient = np.zeros(x.size)
        value, slope = to_line(found.kind, found.value)
        gradient[self.at] = slope * found.gradient
        if found.kind == "sd" and self.rho is not None:
            size = float(np.exp(0.5 * x[self.rho]))
            value, gradient = size * value, size * gradient
            gradient[self.rho] = 0.5 * value
        return value, gradient

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient (k,) and Hessian (k, k), the latter by differences of the gradient."""
        value, gradient = self.value(x)
        hessian = np.zeros((x.size, x.size))
        places = list(range(*self.at.indices(x.size)))
        for i in places if self.rho is None else [*places, self.rho]:
            up, down = x.copy(), x.copy()
            up[i] += _STEP
            down[i] -= _STEP
            hessian[i] = (self.value(up)[1] - self.value(down)[1]) / (2.0 * _STEP)
        return value, gradient, 0.5 * (hessian + hessian.T)


class LogDeviation(ReportedParameter):
    """The log of a standard deviation, sigma included.

    Parameters
    ----------
    structure, index, at, rho
        As in `ReportedParameter`.
    """

    def __init__(self, structure: Reporting, index: int, at: slice, rho: int) -> None:
        super().__init__(structure, index, (), None, at, rho)

    def value(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = super().value(x)
        return float(np.log(value)), gradient / value
