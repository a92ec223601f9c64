"""Inverse links with two derivatives, stable in the tails where statsmodels clips."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, ndtr

__all__ = ["mean_function"]

_CANONICAL = {
    "Logit": "Binomial",
    "Log": "Poisson",
    "Identity": "Gaussian",
    "InversePower": "Gamma",
    "InverseSquared": "InverseGaussian",
}
# beyond these linear predictors the square of a tail probability underflows
_PROBIT_LIMIT = 26.0
_CLOGLOG_LIMITS = (-340.0, 5.8)


class MeanFunction:
    """A link by its own methods.

    Parameters
    ----------
    link : object
        A statsmodels link: callable on means, with ``inverse``, ``inverse_deriv`` and ``inverse_deriv2``.

    Attributes
    ----------
    canonical_for : str or None
        Family for which the link is canonical.
    """

    def __init__(self, link):
        self.link = link
        self.canonical_for = _CANONICAL.get(type(link).__name__)

    def __call__(self, eta):
        """Mean, one minus the mean, and the first two derivatives of the mean (nobs,)."""
        with np.errstate(all="ignore"):
            mu = self.link.inverse(eta)
            return mu, 1.0 - mu, self.link.inverse_deriv(eta), self.link.inverse_deriv2(eta)


class _Logit(MeanFunction):
    def __call__(self, eta):
        mu, nu = expit(eta), expit(-eta)
        d1 = mu * nu
        return mu, nu, d1, d1 * (nu - mu)


class _Probit(MeanFunction):
    def __call__(self, eta):
        eta = np.clip(eta, -_PROBIT_LIMIT, _PROBIT_LIMIT)
        d1 = np.exp(-0.5 * eta * eta) / np.sqrt(2.0 * np.pi)
        return ndtr(eta), ndtr(-eta), d1, -eta * d1


class _CLogLog(MeanFunction):
    def __call__(self, eta):
        e = np.exp(np.clip(eta, *_CLOGLOG_LIMITS))
        nu = np.exp(-e)
        d1 = e * nu
        return -np.expm1(-e), nu, d1, d1 * (1.0 - e)


class _Cauchit(MeanFunction):
    def __call__(self, eta):
        d1 = 1.0 / (np.pi * (1.0 + eta * eta))
        # arctan2 keeps the small tail exact
        return np.arctan2(1.0, -eta) / np.pi, np.arctan2(1.0, eta) / np.pi, d1, -2.0 * np.pi * eta * d1 * d1


class _Log(MeanFunction):
    def __call__(self, eta):
        with np.errstate(over="ignore"):
            mu = np.exp(eta)
        return mu, 1.0 - mu, mu, mu


_STABLE = {"Logit": _Logit, "Probit": _Probit, "CLogLog": _CLogLog, "Cauchy": _Cauchit, "Log": _Log}


def mean_function(link):
    """The `MeanFunction` of a link."""
    return _STABLE.get(type(link).__name__, MeanFunction)(link)
