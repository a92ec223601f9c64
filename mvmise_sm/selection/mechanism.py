"""The missing-data mechanism: the probability that a whole block is missing, given its outcomes.

``Pr(r = 1) = exp(eta)`` with ``eta = phi0 + phi1 * mean(y) + phi2 * mean(c)`` (Wang et al. 2018) is a probability only
while ``eta <= 0``. :class:`Capped` takes the minimum with one, which bounds the likelihood; :class:`LogLinear` keeps
the closed form, whose likelihood has no global maximum as soon as one block is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import log_ndtr

LOG_2PI = float(np.log(2.0 * np.pi))
# below this standard deviation of eta the integral over it equals the integrand to double precision
MIN_SD = 1e-9


@dataclass(frozen=True)
class BlockIntegral:
    """``G = log E Pr(r = 1)`` for ``eta ~ N(mean, var)``, elementwise.

    Attributes
    ----------
    value, d_mean, d_var : ndarray
        G and its derivatives with respect to the mean and the variance of eta, shape of the arguments.
    """

    value: np.ndarray
    d_mean: np.ndarray
    d_var: np.ndarray


class Mechanism(Protocol):
    """What the likelihoods ask of a mechanism."""

    name: str
    bounded: bool

    def missing(self, mean: np.ndarray, var: np.ndarray) -> BlockIntegral: ...


class Capped:
    """``Pr(r = 1) = min(1, exp(eta))``."""

    name = "capped"
    bounded = True

    def missing(self, mean: np.ndarray, var: np.ndarray) -> BlockIntegral:
        """Integrate the probability over a normal linear predictor.

        ``E min(1, exp(eta)) = exp(m + s2/2) Phi(-(m + s2)/s) + Phi(m/s)``; its derivative in s2 is half the second
        derivative in m (heat equation).
        """
        sd = np.maximum(np.sqrt(var), MIN_SD)
        z = mean / sd
        below = mean + 0.5 * var + log_ndtr(-(z + sd))
        value = np.logaddexp(below, log_ndtr(z))
        weight = np.exp(below - value)
        density = np.exp(-0.5 * (z * z + LOG_2PI) - value) / sd
        return BlockIntegral(value, weight, 0.5 * (weight - density))


class LogLinear:
    """``Pr(r = 1) = exp(eta)``, not capped: the closed form of the mvMISE manual."""

    name = "log"
    bounded = False

    def missing(self, mean: np.ndarray, var: np.ndarray) -> BlockIntegral:
        """Integrate the probability over a normal linear predictor: ``G = m + s2/2``."""
        value = mean + 0.5 * var
        return BlockIntegral(value, np.ones_like(value), np.full_like(value, 0.5))


MECHANISMS: dict[str, Mechanism] = {"capped": Capped(), "log": LogLinear()}


def log_seen(eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability that a block is seen, ``log(1 - exp(eta))``, and its derivative.

    Both mechanisms agree here. Where eta >= 0 the value is -inf and the derivative zero.
    """
    negative = eta < 0.0
    safe = np.where(negative, eta, -1.0)
    short = np.expm1(safe)
    return np.where(negative, np.log(-short), -np.inf), np.where(negative, (short + 1.0) / short, 0.0)
