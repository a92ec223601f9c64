"""Densities of the exponential families by row, as functions of the mean."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import digamma, gammaln, polygamma, xlogy

__all__ = ["DISTRIBUTIONS"]


class Distribution:
    """One family's density for a response.

    Parameters
    ----------
    y : ndarray
        (nobs,).
    w : ndarray or None
        Prior weights (nobs,).
    alpha : float or None
        Parameter of the variance function.

    Attributes
    ----------
    phi : float
        Dispersion; the variance of a row is phi V(mu) / w.
    dispersed : bool
        Whether the family has a dispersion to estimate.
    """

    dispersed = False

    def __init__(self, y, w, alpha=None):
        self.y, self.w, self.phi = y, w, 1.0

    def _weighted(self, values):
        return values if self.w is None else self.w * values

    def start_shape(self):
        """Start of the shape parameter, None where there is none."""

    def set_shape(self, shape):
        """Take over the shape parameter: log phi, or log alpha."""

    def mean_response(self):
        return float(np.average(self.y, weights=self.w))

    def valid(self, mu):
        """Rows whose mean the family allows."""
        return mu > 0.0

    def difference(self, mu, nu):
        """y - mu."""
        return self.y - mu

    def residual(self, mu, nu):
        """(y - mu) w / (phi V)."""
        return self.difference(mu, nu) * self.precision(mu, nu)[0]

    def pearson(self, mu):
        """Pearson residuals (nobs,), dispersion left out."""
        return (self.y - mu) * np.sqrt(self.phi * self.precision(mu, 1.0 - mu)[0])


class Binomial(Distribution):
    """Proportions of w trials."""

    def constant(self):
        if self.w is None:
            return 0.0
        successes = self.w * self.y
        return float((gammaln(self.w + 1.0) - gammaln(successes + 1.0) - gammaln(self.w - successes + 1.0)).sum())

    def start_mean(self):
        w = 1.0 if self.w is None else self.w
        return (w * self.y + 0.5) / (w + 1.0)

    def mean_response(self):
        return float(np.clip(super().mean_response(), 1e-3, 1.0 - 1e-3))

    def valid(self, mu):
        return (mu > 0.0) & (mu <= 1.0)

    def difference(self, mu, nu):
        return self.y * nu - (1.0 - self.y) * mu

    def loglik(self, mu, nu):
        return self._weighted(xlogy(self.y, mu) + xlogy(1.0 - self.y, nu))

    def precision(self, mu, nu):
        inverse = 1.0 / (mu * nu)
        return self._weighted(inverse), self._weighted(-(nu - mu) * inverse * inverse)

    def unit_deviance(self, mu):
        y = self.y
        return self._weighted(2.0 * (xlogy(y, y / mu) + xlogy(1.0 - y, (1.0 - y) / (1.0 - mu))))

    def variance(self, mu):
        return mu * (1.0 - mu)


class Poisson(Distribution):
    """Counts."""

    def constant(self):
        return -float(self._weighted(gammaln(self.y + 1.0)).sum())

    def start_mean(self):
        return self.y + 0.1

    def loglik(self, mu, nu):
        return self._weighted(xlogy(self.y, mu) - mu)

    def precision(self, mu, nu):
        return self._weighted(1.0 / mu), self._weighted(-1.0 / mu**2)

    def unit_deviance(self, mu):
        return self._weighted(2.0 * (xlogy(self.y, self.y / mu) - (self.y - mu)))

    def variance(self, mu):
        return mu


class _Dispersed(Distribution):
    """Families with a dispersion phi; the shape is log phi."""

    dispersed = True

    def start_shape(self):
        spread = np.average((self.y - self.mean_response()) ** 2, weights=self.w)
        return math.log(max(float(spread / self.variance(self.mean_response())), 1e-8)) - 0.7

    def set_shape(self, shape):
        self.phi = math.exp(shape)

    def _k(self):
        return (1.0 if self.w is None else self.w) / self.phi

    def start_mean(self):
        return self.y.copy()

    def profile(self, deviance):
        """-2 log L at phi = deviance / n, plus 2, and its derivative in the deviance (weights of one)."""
        n, before = self.y.size, self.phi
        self.phi = deviance / n
        value = -2.0 * self.constant() + n + 2.0
        self.phi = before
        return value, n / deviance

    def shape_terms(self, mu, nu):
        """d log f / d log phi by row, the common factor of score and weight, and the information."""
        return 0.5 * (self.unit_deviance(mu) / self.phi - 1.0), -1.0, 0.5 * self.y.size


class Gaussian(_Dispersed):
    """Normal with variance phi / w."""

    def constant(self):
        n = self.y.size
        return -0.5 * (
            n * math.log(2.0 * math.pi * self.phi) - (0.0 if self.w is None else float(np.log(self.w).sum()))
        )

    def valid(self, mu):
        return np.isfinite(mu)

    def start_mean(self):
        # a link with a restricted range takes the mean of the responses where one of them is outside
        return self.y.copy() if (self.y > 0.0).all() else np.full(self.y.size, self.mean_response())

    def loglik(self, mu, nu):
        return -0.5 * self._k() * (self.y - mu) ** 2

    def precision(self, mu, nu):
        return self._k() * np.ones_like(mu), np.zeros_like(mu)

    def unit_deviance(self, mu):
        return self._weighted((self.y - mu) ** 2)

    def variance(self, mu):
        return np.ones_like(mu)


class Gamma(_Dispersed):
    """Gamma with shape w / phi."""

    def constant(self):
        k = self._k() * np.ones_like(self.y)
        return float((k * np.log(k) - gammaln(k) + (k - 1.0) * np.log(self.y)).sum())

    def loglik(self, mu, nu):
        return -self._k() * (np.log(mu) + self.y / mu)

    def precision(self, mu, nu):
        k = self._k()
        return k / mu**2, -2.0 * k / mu**3

    def unit_deviance(self, mu):
        return self._weighted(2.0 * ((self.y - mu) / mu - np.log(self.y / mu)))

    def variance(self, mu):
        return mu**2

    def profile(self, deviance):
        n = self.y.size
        k = n / deviance
        value = -2.0 * (n * (k * math.log(k) - gammaln(k) - k) - float(np.log(self.y).sum())) + n + 2.0
        return value, 2.0 * k * k * (math.log(k) - digamma(k))

    def shape_terms(self, mu, nu):
        k = self._k() * np.ones_like(mu)
        ratio = self.y / mu
        slope = np.log(ratio) - ratio + np.log(k) + 1.0 - digamma(k)
        return -k * slope, -1.0, float((k * k * (polygamma(1, k) - 1.0 / k)).sum())


class InverseGaussian(_Dispersed):
    """Inverse Gaussian with variance phi mu^3 / w."""

    def constant(self):
        n = self.y.size
        out = n * math.log(2.0 * math.pi * self.phi) + 3.0 * float(np.log(self.y).sum())
        return -0.5 * (out - (0.0 if self.w is None else float(np.log(self.w).sum())))

    def loglik(self, mu, nu):
        return -0.5 * self._k() * (self.y - mu) ** 2 / (self.y * mu * mu)

    def precision(self, mu, nu):
        k = self._k()
        return k / mu**3, -3.0 * k / mu**4

    def unit_deviance(self, mu):
        return self._weighted((self.y - mu) ** 2 / (self.y * mu * mu))

    def variance(self, mu):
        return mu**3


class NegativeBinomial(Distribution):
    """Counts with variance mu + alpha mu^2; the shape is log alpha."""

    def __init__(self, y, w, alpha=None):
        super().__init__(y, w)
        self.alpha = 1.0 if alpha is None else float(alpha)

    def start_shape(self):
        return math.log(self.alpha)

    def moment_shape(self):
        """log alpha from the marginal mean and variance, shrunk for what groups explain."""
        mean = self.mean_response()
        spread = float(np.average((self.y - mean) ** 2, weights=self.w))
        return math.log(min(max(0.5 * (spread - mean) / mean**2, 1e-2), 1e2))

    def set_shape(self, shape):
        self.alpha = math.exp(shape)

    def constant(self):
        r = 1.0 / self.alpha
        rows = gammaln(self.y + r) - gammaln(r) - gammaln(self.y + 1.0)
        return float(self._weighted(rows).sum())

    def start_mean(self):
        return self.y + np.where(self.y == 0.0, 1.0 / 6.0, 0.0)

    def loglik(self, mu, nu):
        excess = self.alpha * mu
        return self._weighted(xlogy(self.y, excess / (1.0 + excess)) - np.log1p(excess) / self.alpha)

    def precision(self, mu, nu):
        v = mu * (1.0 + self.alpha * mu)
        return self._weighted(1.0 / v), self._weighted(-(1.0 + 2.0 * self.alpha * mu) / v**2)

    def unit_deviance(self, mu):
        r = 1.0 / self.alpha
        return self._weighted(2.0 * (xlogy(self.y, self.y / mu) - (self.y + r) * np.log((self.y + r) / (mu + r))))

    def variance(self, mu):
        return mu * (1.0 + self.alpha * mu)

    def shape_terms(self, mu, nu):
        y, r = self.y, 1.0 / self.alpha
        total = r + mu
        first = digamma(y + r) - digamma(r) - np.log1p(mu / r) + (mu - y) / total
        second = polygamma(1, y + r) - polygamma(1, r) + mu / (r * total) - (mu - y) / total**2
        rows = -r * self._weighted(first)
        bend = -float(self._weighted(r * r * second + r * first).sum())
        return rows, -self.alpha * mu / (1.0 + self.alpha * mu), max(bend, 1e-3 * abs(float(rows.sum())), 1e-4)


DISTRIBUTIONS = {cls.__name__: cls for cls in (Binomial, Poisson, Gaussian, Gamma, InverseGaussian, NegativeBinomial)}
