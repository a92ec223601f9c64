"""Log-likelihood minus penalties: what is maximised, with or without priors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol

import numpy as np

from mvmise_sm.selection.data import SelectionData, spread_of
from mvmise_sm.selection.likelihood import P, SelectionLikelihood


class Penalty(Protocol):
    """A negative log prior density over the natural parameters.

    Calling it returns the value and its gradient; the gradient is of their class (start from
    ``params.zeros()``). For a covariance the gradient is with respect to a symmetric matrix, ``dvalue = tr(g dSigma)``.
    """

    def __call__(self, params: P) -> tuple[float, P]: ...


@dataclass(frozen=True)
class PenalisedObjective(Generic[P]):
    """``theta -> (log-likelihood - penalties, gradient)``.

    Attributes
    ----------
    likelihood : SelectionLikelihood
    penalties : tuple of Penalty
    """

    likelihood: SelectionLikelihood[P]
    penalties: tuple[Penalty, ...] = ()

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, score = self.likelihood.value_and_score(theta)
        if self.penalties and np.isfinite(value):
            amount, gradient = self.penalty(theta)
            return value - amount, score - gradient
        return value, score

    def penalty(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Sum of the penalties and its gradient over theta."""
        total, gradient = 0.0, np.zeros_like(theta)
        params = self.likelihood.params(theta)
        for penalty in self.penalties:
            value, slope = penalty(params)
            total += value
            gradient += self.likelihood.chain(theta, slope)
        return total, gradient


@dataclass(frozen=True)
class MechanismPrior:
    """Student-t prior on phi1, the dependence of missingness on the outcome, in units of one over an outcome's spread.

    The default says that a standard deviation of a block mean changes the log-probability of being missing by less than
    2.5 with good confidence, after Gelman et al. (2008, Annals of Applied Statistics 2, 1360-1383).

    Attributes
    ----------
    spread : float
        Standard deviation of an outcome, which makes the prior equivariant to the unit of the outcomes.
    scale, df : float
        An infinite `df` is the normal distribution.
    location : float
        Its centre, in the same units.
    """

    spread: float
    scale: float = 1.0
    df: float = 7.0
    location: float = 0.0

    @classmethod
    def for_data(
        cls, data: SelectionData, scale: float = 1.0, df: float = 7.0, location: float = 0.0
    ) -> MechanismPrior:
        """The prior in the unit of a data set: spread of the observed block means, of the values if there is one."""
        return cls(spread_of(data.observed_blocks.mean, data), scale, df, location)

    def __call__(self, params: P) -> tuple[float, P]:
        return PhiPrior(1, self.scale / self.spread, self.df, self.location / self.spread)(params)


@dataclass(frozen=True)
class PhiPrior:
    """Student-t prior (normal where `df` is infinite) on one element of phi in its own unit.

    Attributes
    ----------
    index : int
    scale, df, location : float
    """

    index: int
    scale: float
    df: float = 7.0
    location: float = 0.0

    def __call__(self, params: P) -> tuple[float, P]:
        ratio = (params.phi[self.index] - self.location) / self.scale
        if np.isinf(self.df):
            value, slope = 0.5 * ratio**2, ratio / self.scale
        else:
            value = 0.5 * (self.df + 1.0) * np.log1p(ratio**2 / self.df)
            slope = (self.df + 1.0) * ratio / (self.df + ratio**2) / self.scale
        gradient = params.zeros()
        gradient.phi[self.index] = slope
        return float(value), gradient


@dataclass(frozen=True)
class PhiNormal:
    """Normal prior on neighbouring elements of phi together, that of an estimated curve.

    Attributes
    ----------
    mean : ndarray, (m,)
    cov : ndarray, (m, m)
    first : int
        Position of the first element.
    """

    mean: np.ndarray
    cov: np.ndarray
    first: int = 0

    def __call__(self, params: P) -> tuple[float, P]:
        own = slice(self.first, self.first + self.mean.size)
        away = params.phi[own] - self.mean
        slope = np.linalg.solve(self.cov, away)
        gradient = params.zeros()
        gradient.phi[own] = slope
        return 0.5 * float(away @ slope), gradient
