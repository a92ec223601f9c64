"""Priors of a family's dispersion: densities of log d."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import CovariancePrior, Dimensions, Prior
from mvmise_sm.priors.quadratic import QuadraticPenalty

__all__ = ["DispersionPrior", "LogDeviation", "bind_dispersion"]

_NEEDED = "dispersion_prior must be a prior of log d (Normal, StudentT, Laplace or a density of your own)"


@dataclass(frozen=True, eq=False)
class DispersionPrior:
    """-2 log density of log d.

    Attributes
    ----------
    text : str
        What results print.
    blocks : tuple of QuadraticPenalty
        A prior of coefficients, log d being the only one; empty for `own`.
    own : Prior or None
        A density with value, gradient and curvature.
    """

    text: str
    blocks: tuple[QuadraticPenalty, ...] = ()
    own: Prior | None = None

    def evaluate(self, log_d: float) -> tuple[float, float, float]:
        """Value, first and second derivative at log d."""
        if self.own is not None:
            return float(self.own.value(log_d)), float(self.own.gradient(log_d)), float(self.own.curvature(log_d))
        value = first = second = 0.0
        for block in self.blocks:
            at = block.evaluate(np.array([log_d]))
            value += at.value
            first += float(at.gradient[0])
            second += at.d2 * float(at.slope[0]) ** 2 + at.weight * float(block.precision[0, 0])
        return value, first, second


class LogDeviation(CovariancePrior):
    """The residual variance s of a linear model under a prior of log sd = log(s) / 2."""

    common_scale = False

    def __init__(self, prior: DispersionPrior) -> None:
        super().__init__()
        self.prior = prior

    def value(self, s: np.ndarray) -> float:
        """Return -2 log density at s (1, 1); inf where the density is zero."""
        return self.prior.evaluate(0.5 * math.log(float(s[0, 0])))[0] if s[0, 0] > 0.0 else math.inf

    def gradient(self, s: np.ndarray) -> np.ndarray:
        """Return the derivative of `value` in s (1, 1)."""
        variance = float(s[0, 0])
        return np.array([[0.5 * self.prior.evaluate(0.5 * math.log(variance))[1] / variance]])

    def hessian(self, s: np.ndarray) -> np.ndarray:
        """Return the second derivative of `value` in s (1, 1)."""
        variance = float(s[0, 0])
        _, first, second = self.prior.evaluate(0.5 * math.log(variance))
        return np.array([[(0.25 * second - 0.5 * first) / variance**2]])

    def describe(self) -> str:
        """Return the text that results print."""
        return self.prior.text


def bind_dispersion(given: Sequence[Prior | None], nobs: int, what: str) -> DispersionPrior | None:
    """The prior of log d, `what` naming d in print; None for a flat one.

    Raises
    ------
    OptionError
        If it is no prior of one number that may be negative.
    """
    priors = [prior for prior in given if prior is not None]
    if not priors:
        return None
    (prior,) = priors[:1] if len(priors) == 1 else (None,)
    of_coefficients = prior is not None and type(prior).fixef is not Prior.fixef
    if prior is None or not (prior.one_number or of_coefficients):
        raise OptionError(f"{_NEEDED}, got {given[0] if len(given) == 1 else list(given)!r}.")
    if of_coefficients:
        dims = Dimensions(nobs, 1, has_scale=False, fixef_names=("log d",))
        blocks = prior.fixef(dims)
        return DispersionPrior(f"log {what} ~ {blocks[0].text}", tuple(blocks)) if blocks else None
    for x in (-2.0, 0.0, 2.0):
        found: Any = prior.value(x)
        if not isinstance(found, (int, float, np.number)) or not math.isfinite(float(found)):
            raise OptionError(f"dispersion_prior: {prior!r} must have a finite value(log d), got {found!r} at {x:g}.")
    return DispersionPrior(f"log {what} ~ {prior.describe()}", own=prior)
