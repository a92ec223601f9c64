"""Missing-data mechanisms: the probability that a value, or a whole block of values, is missing given itself.

A *unit* is what goes missing at once: one value, or all values of an outcome in a cluster. Its linear predictor is
``eta = phi0 + phi1 * y + phi2 * c + offset`` with y its value (the mean of a block), and ``Pr(missing) = F(eta)``. A
mechanism is one class that knows F; likelihoods ask it for nothing that is not in :class:`Mechanism`.

``Capped`` and ``LogLinear`` are those of mvMISE (Wang et al. 2018): ``exp(eta)`` is a probability only while
``eta <= 0``, so the first takes the minimum with one, which bounds the likelihood, and the second keeps the closed
form, whose likelihood has no global maximum as soon as one block is missing.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from scipy.special import erfcx, expit, log_expit, log_ndtr, logit, ndtr, ndtri

from mvmise_sm.option_values import real
from mvmise_sm.selection.logistic_normal import logistic_normal

LOG_2PI = float(np.log(2.0 * np.pi))
# above this one two terms of the capped integral cancel to fewer digits than the rest has
CAPPED_WIDE = 8.0
# below this standard deviation of eta the integral over it equals the integrand to double precision
MIN_SD = 1e-9


class BlockIntegral(NamedTuple):
    """``G = log E F(eta)`` for ``eta ~ N(mean, var)``, elementwise.

    Attributes
    ----------
    value, d_mean, d_var : ndarray
        G and its derivatives with respect to the mean and the variance of eta, shape of the arguments.
    """

    value: np.ndarray
    d_mean: np.ndarray
    d_var: np.ndarray


class SeenTerm(NamedTuple):
    """``log(1 - F(eta))``, elementwise, with its first and second derivative; -inf and zeros at and above `upper`."""

    value: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray


@runtime_checkable
class Mechanism(Protocol):
    """The contract of a mechanism; `mvmise_sm.mechanisms.register` checks it.

    Attributes
    ----------
    name : str
    upper : float
        The eta of a unit that was seen stays below it: infinity, or 0 for the exponential mechanisms.
    exponential : bool
        Whether ``log F(eta) = eta`` wherever ``F < 1``; model e, EM and R's algorithm need it.
    bounded : bool
        Whether F never exceeds one.
    width : float
        Width in eta of the bend of log F, which sets the step of the quadrature: 0 for a kink, 1 probit, 1.7 logit.
    """

    name: str
    upper: float
    exponential: bool
    bounded: bool
    width: float

    def prob(self, eta: np.ndarray) -> np.ndarray:
        """``F(eta)``, elementwise."""
        ...

    def seen(self, eta: np.ndarray) -> SeenTerm:
        """``log(1 - F(eta))`` with its first and second derivative, elementwise."""
        ...

    def missing(self, mean: np.ndarray, var: np.ndarray) -> BlockIntegral:
        """``G(mean, var) = log E F(eta)``, ``eta ~ N(mean, var)``, with its derivatives; arguments broadcast."""
        ...

    def start(self, rate: float) -> float:
        """The eta at which ``F(eta) = rate``."""
        ...


class Held:
    """A mechanism some of whose parameters may be given as numbers; those are held there in every fit.

    Derive from it to let users write ``MyMechanism(Intercept=..., y=...)``.

    Parameters
    ----------
    Intercept, y, covariate : float, optional
        Elements of phi that are known; all are estimated by default.

    Attributes
    ----------
    held : dict
        The numbers given, by name.
    """

    def __init__(
        self, *, Intercept: float | None = None, y: float | None = None, covariate: float | None = None
    ) -> None:
        given = {"Intercept": Intercept, "y": y, "covariate": covariate}
        self.held = {name: real(name, value) for name, value in given.items() if value is not None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value:g}' for name, value in self.held.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and type(self) is type(other) and self.held == other.held

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.held.items())))


class Capped(Held):
    """``Pr(missing) = min(1, exp(eta))``, the mechanism of mvMISE where it is a probability.

    Parameters
    ----------
    Intercept, y, covariate : float, optional
        Elements of phi that are held at a number.
    """

    name = "capped"
    upper = 0.0
    exponential = True
    bounded = True
    width = 0.0

    def prob(self, eta: np.ndarray) -> np.ndarray:
        """``min(1, exp(eta))``."""
        return np.exp(np.minimum(eta, 0.0))

    def seen(self, eta: np.ndarray) -> SeenTerm:
        """``log(1 - exp(eta))`` below zero."""
        return _exponential_seen(eta)

    def missing(self, mean: np.ndarray, var: np.ndarray) -> BlockIntegral:
        """``E min(1, exp(eta)) = exp(m + s2/2) Phi(-(m + s2)/s) + Phi(m/s)``."""
        sd = np.maximum(np.sqrt(var), MIN_SD)
        z = mean / sd
        below = np.asarray(mean + 0.5 * var + log_ndtr(-(z + sd)))
        wide = np.broadcast_to((sd > CAPPED_WIDE) & (z + sd > 0.0), below.shape)
        if wide.any():
            # s2/2 and the logarithm of Phi cancel; by Mills' ratio they do not
            at, u = (np.broadcast_to(x, below.shape)[wide] for x in (z, z + sd))
            below[wide] = np.log(0.5 * erfcx(u / np.sqrt(2.0))) - 0.5 * at * at
        value = np.logaddexp(below, log_ndtr(z))
        weight = np.exp(below - value)
        density = np.exp(-0.5 * (z * z + LOG_2PI) - value) / sd
        # the derivative in the variance is half the second derivative in the mean (heat equation)
        return BlockIntegral(value, weight, 0.5 * (weight - density))

    def start(self, rate: float) -> float:
        """``log(rate)``."""
        return float(np.log(rate))


class LogLinear(Held):
    """``Pr(missing) = exp(eta)``, not capped: the closed form of the mvMISE manual, whose likelihood can diverge.

    Parameters
    ----------
    Intercept, y, covariate : float, optional
        Elements of phi that are held at a number.
    """

    name = "log"
    upper = 0.0
    exponential = True
    bounded = False
    width = 0.0

    def prob(self, eta: np.ndarray) -> np.ndarray:
        """``exp(eta)``, which is no probability above zero."""
        return np.exp(eta)

    def seen(self, eta: np.ndarray) -> SeenTerm:
        """``log(1 - exp(eta))`` below zero."""
        return _exponential_seen(eta)

    def missing(self, mean: np.ndarray, var: np.ndarray) -> BlockIntegral:
        """``G = m + s2/2``."""
        value = mean + 0.5 * var
        return BlockIntegral(value, np.ones_like(value), np.full_like(value, 0.5))

    def start(self, rate: float) -> float:
        """``log(rate)``."""
        return float(np.log(rate))


class Logit(Held):
    """``Pr(missing) = 1 / (1 + exp(-eta))``.

    Parameters
    ----------
    Intercept, y, covariate : float, optional
        Elements of phi that are held at a number: ``Logit(Intercept=21.0, y=-1.2)``.
    """

    name = "logit"
    upper = np.inf
    exponential = False
    bounded = True
    width = 1.7

    def prob(self, eta: np.ndarray) -> np.ndarray:
        """The logistic distribution function."""
        return expit(eta)

    def seen(self, eta: np.ndarray) -> SeenTerm:
        """``-log(1 + exp(eta))``."""
        F = expit(eta)
        return SeenTerm(log_expit(-np.asarray(eta)), -F, -F * expit(-np.asarray(eta)))

    def missing(self, mean: np.ndarray, var: np.ndarray) -> BlockIntegral:
        """By trapezoidal rules, interpolated in the mean where many share a variance."""
        return BlockIntegral(*logistic_normal(mean, var))

    def start(self, rate: float) -> float:
        """``log(rate / (1 - rate))``."""
        return float(logit(rate))


class Probit(Held):
    """``Pr(missing) = Phi(eta)``, the normal distribution function.

    Parameters
    ----------
    Intercept, y, covariate : float, optional
        Elements of phi that are held at a number: ``Probit(Intercept=12.6, y=-0.72)``.
    """

    name = "probit"
    upper = np.inf
    exponential = False
    bounded = True
    width = 1.0

    def prob(self, eta: np.ndarray) -> np.ndarray:
        """The normal distribution function."""
        return ndtr(eta)

    def seen(self, eta: np.ndarray) -> SeenTerm:
        """``log Phi(-eta)``."""
        eta = np.asarray(eta, dtype=float)
        value = log_ndtr(-eta)
        hazard = np.exp(-0.5 * (eta * eta + LOG_2PI) - value)
        return SeenTerm(value, -hazard, -hazard * (hazard - eta))

    def missing(self, mean: np.ndarray, var: np.ndarray) -> BlockIntegral:
        """``E Phi(eta) = Phi(m / sqrt(1 + s2))``."""
        shrink = 1.0 / np.sqrt(1.0 + np.asarray(var, dtype=float))
        z = mean * shrink
        value = log_ndtr(z)
        mills = np.exp(-0.5 * (z * z + LOG_2PI) - value)
        return BlockIntegral(value, shrink * mills, -0.5 * shrink**2 * z * mills)

    def start(self, rate: float) -> float:
        """The normal quantile."""
        return float(ndtri(rate))


def _exponential_seen(eta: np.ndarray) -> SeenTerm:
    """``log(1 - exp(eta))`` with two derivatives; -inf and zeros where eta is not negative."""
    negative = np.asarray(eta) < 0.0
    short = np.expm1(np.where(negative, eta, -1.0))
    value = np.where(negative, np.log(-short), -np.inf)
    slope = np.where(negative, (short + 1.0) / short, 0.0)
    return SeenTerm(value, slope, np.where(negative, -(short + 1.0) / short**2, 0.0))
