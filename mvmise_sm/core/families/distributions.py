"""Densities of the exponential families by row, as functions of the mean."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from scipy.special import digamma, gammaln, polygamma, xlogy

from mvmise_sm.core.families.negative_binomial import CountTables, psi1

__all__ = ["DISTRIBUTIONS", "Distribution", "Gamma", "NegativeBinomial"]


class Distribution(ABC):
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
    # a smaller shape is its limit
    least_shape = -np.inf

    def __init__(self, y: np.ndarray, w: np.ndarray | None, alpha: float | None = None) -> None:
        self.y, self.w, self.phi = y, w, 1.0

    def _weighted(self, values: np.ndarray) -> np.ndarray:
        return values if self.w is None else self.w * values

    @abstractmethod
    def constant(self) -> float:
        """The part of the log-likelihood that does not depend on the mean."""

    @abstractmethod
    def start_mean(self) -> np.ndarray:
        """Means close to the data (nobs,), inside the family's range."""

    @abstractmethod
    def loglik(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        """Log-likelihood by row without its constant (nobs,), nu = 1 - mu where the family has it."""

    @abstractmethod
    def slopes(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First two derivatives of log f in the mean (nobs,)."""

    @abstractmethod
    def third(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        """Third derivative of log f in the mean (nobs,)."""

    @abstractmethod
    def precision(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """w / (phi V) and its derivative in the mean (nobs,)."""

    @abstractmethod
    def unit_deviance(self, mu: np.ndarray) -> np.ndarray:
        """Contributions to the deviance, prior weights included (nobs,)."""

    @abstractmethod
    def variance(self, mu: np.ndarray) -> np.ndarray:
        """The variance function V (nobs,)."""

    def start_shape(self) -> float | None:
        """Start of the shape parameter, None where there is none."""
        return None

    def set_shape(self, shape: float | None) -> None:
        """Take over the shape parameter: log phi, or log alpha; nothing for families without."""
        return None

    def shape_terms(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray | float, float]:
        """d log f / d shape by row (nobs,), the factor of score and weight in it, and the information.

        Raises
        ------
        TypeError
            For a family without such a parameter.
        """
        raise TypeError(f"{type(self).__name__} has no shape parameter")

    def mean_response(self) -> float:
        return float(np.average(self.y, weights=self.w))

    def valid(self, mu: np.ndarray) -> np.ndarray:
        """Rows whose mean the family allows."""
        return mu > 0.0

    def difference(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        """y - mu."""
        return self.y - mu

    def residual(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        """(y - mu) w / (phi V)."""
        return self.difference(mu, nu) * self.precision(mu, nu)[0]

    def shape_slopes(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of `slopes` in the shape (nobs,)."""
        first, second = self.slopes(mu, nu)
        return -first, -second

    def pearson(self, mu: np.ndarray) -> np.ndarray:
        """Pearson residuals (nobs,), dispersion left out."""
        return (self.y - mu) * np.sqrt(self.phi * self.precision(mu, 1.0 - mu)[0])


class Binomial(Distribution):
    """Proportions of w trials."""

    def constant(self) -> float:
        if self.w is None:
            return 0.0
        successes = self.w * self.y
        return float((gammaln(self.w + 1.0) - gammaln(successes + 1.0) - gammaln(self.w - successes + 1.0)).sum())

    def start_mean(self) -> np.ndarray:
        w = np.ones_like(self.y) if self.w is None else self.w
        return (w * self.y + 0.5) / (w + 1.0)

    def mean_response(self) -> float:
        return float(np.clip(super().mean_response(), 1e-3, 1.0 - 1e-3))

    def valid(self, mu: np.ndarray) -> np.ndarray:
        return (mu > 0.0) & (mu <= 1.0)

    def difference(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return self.y * nu - (1.0 - self.y) * mu

    def loglik(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return self._weighted(xlogy(self.y, mu) + xlogy(1.0 - self.y, nu))

    def slopes(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = self.y
        up, down = y / mu, (1.0 - y) / nu
        return self._weighted(up - down), self._weighted(-up / mu - down / nu)

    def third(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return self._weighted(2.0 * (self.y / mu**3 - (1.0 - self.y) / nu**3))

    def precision(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inverse = 1.0 / (mu * nu)
        return self._weighted(inverse), self._weighted(-(nu - mu) * inverse * inverse)

    def unit_deviance(self, mu: np.ndarray) -> np.ndarray:
        y = self.y
        return self._weighted(2.0 * (xlogy(y, y / mu) + xlogy(1.0 - y, (1.0 - y) / (1.0 - mu))))

    def variance(self, mu: np.ndarray) -> np.ndarray:
        return mu * (1.0 - mu)


class Poisson(Distribution):
    """Counts."""

    def constant(self) -> float:
        return -float(self._weighted(gammaln(self.y + 1.0)).sum())

    def start_mean(self) -> np.ndarray:
        return self.y + 0.1

    def loglik(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return self._weighted(xlogy(self.y, mu) - mu)

    def slopes(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ratio = self.y / mu
        return self._weighted(ratio - 1.0), self._weighted(-ratio / mu)

    def third(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return self._weighted(2.0 * self.y / mu**3)

    def precision(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._weighted(1.0 / mu), self._weighted(-1.0 / mu**2)

    def unit_deviance(self, mu: np.ndarray) -> np.ndarray:
        return self._weighted(2.0 * (xlogy(self.y, self.y / mu) - (self.y - mu)))

    def variance(self, mu: np.ndarray) -> np.ndarray:
        return mu


class _Dispersed(Distribution):
    """Families with a dispersion phi; the shape is log phi."""

    dispersed = True

    def start_shape(self) -> float:
        mean = self.mean_response()
        spread = float(np.average((self.y - mean) ** 2, weights=self.w))
        return math.log(max(spread / float(self.variance(np.array([mean]))[0]), 1e-8)) - 0.7

    def set_shape(self, shape: float | None) -> None:
        if shape is not None:
            self.phi = math.exp(shape)

    def multiplier(self) -> np.ndarray | float:
        """1 / phi times the weights."""
        return 1.0 / self.phi if self.w is None else self.w / self.phi

    def start_mean(self) -> np.ndarray:
        return self.y.copy()

    def profile(self, deviance: float) -> tuple[float, float]:
        """-2 log L at phi = deviance / n, plus 2, and its derivative in the deviance (weights of one)."""
        n, before = self.y.size, self.phi
        self.phi = deviance / n
        value = -2.0 * self.constant() + n + 2.0
        self.phi = before
        return value, n / deviance

    def shape_terms(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray | float, float]:
        """As in `Distribution`, for log phi."""
        return 0.5 * (self.unit_deviance(mu) / self.phi - 1.0), -1.0, 0.5 * self.y.size


class Gaussian(_Dispersed):
    """Normal with variance phi / w."""

    def constant(self) -> float:
        n = self.y.size
        return -0.5 * (
            n * math.log(2.0 * math.pi * self.phi) - (0.0 if self.w is None else float(np.log(self.w).sum()))
        )

    def valid(self, mu: np.ndarray) -> np.ndarray:
        return np.isfinite(mu)

    def start_mean(self) -> np.ndarray:
        # a link with a restricted range takes the mean of the responses where one of them is outside
        return self.y.copy() if (self.y > 0.0).all() else np.full(self.y.size, self.mean_response())

    def loglik(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return -0.5 * self.multiplier() * (self.y - mu) ** 2

    def slopes(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = self.multiplier()
        return k * (self.y - mu), -k * np.ones_like(mu)

    def third(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return np.zeros_like(mu)

    def precision(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.multiplier() * np.ones_like(mu), np.zeros_like(mu)

    def unit_deviance(self, mu: np.ndarray) -> np.ndarray:
        return self._weighted((self.y - mu) ** 2)

    def variance(self, mu: np.ndarray) -> np.ndarray:
        return np.ones_like(mu)


class Gamma(_Dispersed):
    """Gamma with shape w / phi."""

    def constant(self) -> float:
        k = self.multiplier() * np.ones_like(self.y)
        return float((k * np.log(k) - gammaln(k) + (k - 1.0) * np.log(self.y)).sum())

    def loglik(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return -self.multiplier() * (np.log(mu) + self.y / mu)

    def slopes(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k, ratio = self.multiplier(), self.y / mu
        return k * (ratio - 1.0) / mu, k * (1.0 - 2.0 * ratio) / mu**2

    def third(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return self.multiplier() * (6.0 * self.y / mu - 2.0) / mu**3

    def precision(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = self.multiplier()
        return k / mu**2, -2.0 * k / mu**3

    def unit_deviance(self, mu: np.ndarray) -> np.ndarray:
        return self._weighted(2.0 * ((self.y - mu) / mu - np.log(self.y / mu)))

    def variance(self, mu: np.ndarray) -> np.ndarray:
        return mu**2

    def profile(self, deviance: float) -> tuple[float, float]:
        n = self.y.size
        k = n / deviance
        value = -2.0 * (n * (k * math.log(k) - gammaln(k) - k) - float(np.log(self.y).sum())) + n + 2.0
        return value, 2.0 * k * k * (math.log(k) - digamma(k))

    def shape_terms(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray | float, float]:
        k = self.multiplier() * np.ones_like(mu)
        ratio = self.y / mu
        slope = np.log(ratio) - ratio + np.log(k) + 1.0 - digamma(k)
        return -k * slope, -1.0, float((k * k * (polygamma(1, k) - 1.0 / k)).sum())


class InverseGaussian(_Dispersed):
    """Inverse Gaussian with variance phi mu^3 / w."""

    def constant(self) -> float:
        n = self.y.size
        out = n * math.log(2.0 * math.pi * self.phi) + 3.0 * float(np.log(self.y).sum())
        return -0.5 * (out - (0.0 if self.w is None else float(np.log(self.w).sum())))

    def loglik(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return -0.5 * self.multiplier() * (self.y - mu) ** 2 / (self.y * mu * mu)

    def slopes(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = self.multiplier()
        return k * (self.y - mu) / mu**3, k * (2.0 * mu - 3.0 * self.y) / mu**4

    def third(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        return self.multiplier() * (12.0 * self.y - 6.0 * mu) / mu**5

    def precision(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = self.multiplier()
        return k / mu**3, -3.0 * k / mu**4

    def unit_deviance(self, mu: np.ndarray) -> np.ndarray:
        return self._weighted((self.y - mu) ** 2 / (self.y * mu * mu))

    def variance(self, mu: np.ndarray) -> np.ndarray:
        return mu**3


class NegativeBinomial(Distribution):
    """Counts with variance mu + alpha mu^2; the shape is log alpha.

    The density is computed without differences of log-gammas, so that alpha near zero costs no digits: see
    `mvmise_sm.core.families.negative_binomial`.
    """

    # alpha of 1e-8: one of zero has the same likelihood to nine digits
    least_shape = -18.5

    def __init__(self, y: np.ndarray, w: np.ndarray | None, alpha: float | None = None) -> None:
        super().__init__(y, w)
        self.alpha = 1.0 if alpha is None else float(alpha)
        self._tables = CountTables(y)

    def start_shape(self) -> float:
        return math.log(self.alpha) if self.alpha > 0.0 else -math.inf

    def moment_shape(self) -> float:
        """log alpha from the marginal mean and variance, shrunk for what groups explain."""
        mean = self.mean_response()
        spread = float(np.average((self.y - mean) ** 2, weights=self.w))
        return math.log(min(max(0.5 * (spread - mean) / mean**2, 1e-2), 1e2))

    def set_shape(self, shape: float | None) -> None:
        if shape is not None:
            self.alpha = math.exp(shape)

    def constant(self) -> float:
        return float(self._weighted(self._tables.density(self.alpha)).sum())

    def start_mean(self) -> np.ndarray:
        return self.y + np.where(self.y == 0.0, 1.0 / 6.0, 0.0)

    def loglik(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        excess = self.alpha * mu
        grown = np.log1p(excess)
        # log1p(x) / x loses no digits for small x
        spread = grown / self.alpha if self.alpha > 0.0 else mu
        return self._weighted(xlogy(self.y, mu) - self.y * grown - spread)

    def slopes(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total, scaled = 1.0 + self.alpha * mu, 1.0 + self.alpha * self.y
        ratio, other = self.y / mu, scaled / total
        return self._weighted(ratio - other), self._weighted(self.alpha * other / total - ratio / mu)

    def third(self, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
        total, scaled = 1.0 + self.alpha * mu, 1.0 + self.alpha * self.y
        return self._weighted(2.0 * self.y / mu**3 - 2.0 * self.alpha**2 * scaled / total**3)

    def shape_slopes(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, y = self.alpha, self.y
        total = 1.0 + a * mu
        second = ((1.0 + 2.0 * a * y) * total - 2.0 * a * mu * (1.0 + a * y)) / total**3
        return self._weighted(-a * (y - mu) / total**2), self._weighted(a * second)

    def precision(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v = mu * (1.0 + self.alpha * mu)
        return self._weighted(1.0 / v), self._weighted(-(1.0 + 2.0 * self.alpha * mu) / v**2)

    def unit_deviance(self, mu: np.ndarray) -> np.ndarray:
        y, a = self.y, self.alpha
        if a == 0.0:
            return self._weighted(2.0 * (xlogy(y, y / mu) - (y - mu)))
        return self._weighted(2.0 * (xlogy(y, y / mu) - (y + 1.0 / a) * np.log1p(a * (y - mu) / (1.0 + a * mu))))

    def variance(self, mu: np.ndarray) -> np.ndarray:
        return mu * (1.0 + self.alpha * mu)

    def shape_terms(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray | float, float]:
        x = self.alpha * mu
        slope, bend = self._tables.shape_slopes(self.alpha)
        total = 1.0 + x
        spread = x * mu * psi1(x)
        rows = self._weighted(slope - self.y * x / total + spread)
        second = (self.y - mu) * x / total**2 + spread
        information = float(self._weighted(second - bend).sum())
        return rows, -x / total, max(information, 1e-3 * abs(float(rows.sum())), 1e-4)


DISTRIBUTIONS: dict[str, type[Distribution]] = {
    cls.__name__: cls for cls in (Binomial, Poisson, Gaussian, Gamma, InverseGaussian, NegativeBinomial)
}
