"""Families of continuous responses: t, lognormal, gamma with zeros, Tweedie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, gammainc, gammaln, logit, ndtr, ndtri, stdtr, stdtrit

from mvmise_sm.core.families.base import Derivatives, Family
from mvmise_sm.core.families.checks import bad_positive
from mvmise_sm.core.families.exponential import Gamma, Gaussian
from mvmise_sm.core.families.jets import segment_logsumexp, value, variables

__all__ = ["HurdleGamma", "LogNormal", "StudentT", "Tweedie"]

_LOG_2PI = float(np.log(2.0 * np.pi))
# terms of the Tweedie series beyond the largest: so many of its standard deviations, and a few more
_SERIES_SD, _SERIES_MORE = 8.0, 30.0


class StudentT(Family):
    """Student's t about the mean with scale d.

    Parameters
    ----------
    df : float, optional
        Known degrees of freedom; estimated by default.
    link : str or Link, optional
    """

    name, label, links = "t", "StudentT", ("identity", "log")
    has_dispersion = True

    def __init__(self, link: Any = None, df: float | None = None):
        super().__init__(link)
        # families load without statsmodels, whose classes the errors derive from
        from mvmise_sm.option_values import positive

        self.df = None if df is None else float(positive("df", df))
        self.shape_names = ("df",) if df is None else ()

    def _df(self, shape: Any) -> Any:
        return self.df if self.df is not None else np.exp(shape[0])

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        v, log_s = self._df(shape), parts[2]
        z = (y - self.inverse(parts[0])) * np.exp(-log_s)
        const = gammaln(0.5 * (v + 1.0)) - gammaln(0.5 * v) - 0.5 * np.log(np.pi * v)
        return const - log_s - 0.5 * (v + 1.0) * np.log1p(z * z / v)

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        if full or self.link.name != "identity":
            return super().expand(y, w, predictors, full)
        v, log_s = self._df(predictors[2:]), predictors[1]
        r = y - predictors[0]
        b = v * np.exp(2.0 * log_s)
        a = b + r * r
        const = gammaln(0.5 * (v + 1.0)) - gammaln(0.5 * v) - 0.5 * np.log(np.pi * v)
        rows = const - log_s - 0.5 * (v + 1.0) * np.log1p(r * r / b)
        return {(): rows, (0,): (v + 1.0) * r / a, (0, 0): (v + 1.0) * (r * r - b) / (a * a)}

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        v = self._df(shape)
        return np.where(v > 2.0, d * d * v / np.maximum(v - 2.0, 1e-300), np.inf) * np.ones_like(mean)

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        return mean + d * rng.standard_t(self._df(shape) * np.ones_like(mean))

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        return mean + d * stdtrit(self._df(shape), u)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        return stdtr(self._df(shape), (y - mean) / d)

    def shape_start(self) -> tuple[float, ...]:
        return () if self.df is not None else (float(np.log(6.0)),)

    def shape_value(self, shape: Sequence) -> tuple[float, ...]:
        return tuple(float(np.exp(s)) for s in shape)

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        good = self.link.name == "identity" or (y > 0.0).all()
        return self.link(y if good else np.full(y.shape, float(np.average(y, weights=w))))

    def start_dispersion(self, y: np.ndarray, w: np.ndarray | None = None) -> float:
        spread = float(np.subtract(*np.percentile(y, [75, 25]))) / 1.35
        return float(np.log(max(spread, 1e-6 * max(float(np.std(y)), 1e-6)))) - 0.5


class LogNormal(Family):
    """Positive responses whose logarithm is normal about the linear predictor with standard deviation d."""

    concave_links = ("identity",)
    name, label, links = "lognormal", "LogNormal", ("identity",)
    has_dispersion = True
    weights_scale = True
    log_mean = True

    def __init__(self, link: Any = None):
        super().__init__(link)
        self._normal = Gaussian(self.link)

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        return self._normal.log_density(np.log(y), w, parts, shape) - np.log(y)

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        with np.errstate(all="ignore"):
            z = np.log(y)
        out = self._normal.expand(z, w, predictors, full)
        out[()] = out[()] - z
        return out

    def mean(self, eta: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return np.exp(self.link.inverse(eta) + 0.5 * np.square(d))

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return mean**2 * np.expm1(np.square(d))

    def link_variance(self, mean: Any, d: Any = 1.0, shape: Sequence = ()) -> float:
        """The variance of the logarithm, which the linear predictor is about."""
        return float(np.mean(np.square(d)))

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        return np.exp(self._centre(mean, d) + d * rng.standard_normal(mean.shape))

    @staticmethod
    def _centre(mean: np.ndarray, d: Any) -> np.ndarray:
        return np.log(mean) - 0.5 * np.square(d)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        return np.exp(self._centre(mean, d) + d * ndtri(u))

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        with np.errstate(all="ignore"):
            return np.where(y > 0.0, ndtr((np.log(np.maximum(y, 1e-300)) - self._centre(mean, d)) / d), 0.0)

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        return bad_positive(self.name, y)

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return np.log(y)

    def start_dispersion(self, y: np.ndarray, w: np.ndarray | None = None) -> float:
        return float(np.log(max(np.std(np.log(y)), 1e-8))) - 0.35

    def deviance_rows(self, y: Any, mu: Any, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return (np.log(y) - self._centre(mu, d)) ** 2


class HurdleGamma(Gamma):
    """Gamma with shape d beside a share of zeros."""

    name, label = "hurdle_gamma", "HurdleGamma"
    links = ("log", "inverse")
    zero_part = "hurdle"
    strict_links = True

    def response(self, y: np.ndarray, w: np.ndarray | None, curvature: str = "observed") -> Any:
        return None

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        return bad_positive(self.name, y, "; give zero_inflation='~ 1' for them")


class Tweedie(Family):
    """Responses that are sums of a Poisson number of gamma variables: zero or positive, variance d mean^p, 1 < p < 2.

    References
    ----------
    Dunn and Smyth (2005). Series evaluation of Tweedie exponential dispersion model densities. Statistics and
    Computing 15.
    """

    concave_links = ("log",)
    name, label, links = "tweedie", "Tweedie", ("log",)
    has_dispersion = zero_mass = True
    shape_names = ("power",)
    edges = (0.0,)

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        return self._exponent(y, parts[0], parts[2], shape[0]) + self._series(y, parts[2], shape[0])

    @staticmethod
    def _exponent(y: np.ndarray, eta: Any, disp: Any, psi: Any) -> Any:
        p = 1.0 + 1.0 / (1.0 + np.exp(-psi))
        left, right = np.exp((1.0 - p) * eta), np.exp((2.0 - p) * eta)
        return (y * left / (1.0 - p) - right / (2.0 - p)) * np.exp(-disp)

    @staticmethod
    def _series(y: np.ndarray, disp: Any, psi: Any) -> Any:
        """The part of the density without the mean, zero where y is zero."""
        positive = np.flatnonzero(y > 0.0)
        if not positive.size:
            return 0.0 * disp + np.zeros_like(y)
        z = y[positive]
        log_phi, share = value(disp), value(psi)
        log_phi = (log_phi * np.ones_like(y))[positive]
        p = 1.0 + expit(share * np.ones_like(y))[positive]
        alpha = (2.0 - p) / (p - 1.0)
        centre = np.maximum(np.exp((2.0 - p) * np.log(z) - log_phi) / (2.0 - p), 1.0)
        last = np.ceil(centre + _SERIES_SD * np.sqrt(centre / alpha) + _SERIES_MORE).astype(int)
        first = np.maximum(np.floor(centre - _SERIES_SD * np.sqrt(centre / alpha) - _SERIES_MORE), 1.0).astype(int)
        count = last - first + 1
        row = np.repeat(np.arange(z.size), count)
        j = (np.arange(row.size) - np.repeat(np.cumsum(count) - count, count) + first[row]).astype(float)
        at = positive[row]

        def spread(x: Any) -> Any:
            if not hasattr(x, "coef"):
                return (x * np.ones_like(y))[at]
            coef = [None if c is None else (c * np.ones_like(y))[at] for c in x.coef]
            return type(x)(coef, x.n_vars, x.order)

        disp_j, psi_j = spread(disp), spread(psi)
        s = 1.0 / (1.0 + np.exp(-psi_j))
        a = (1.0 - s) / s
        log_z = np.log(z)[row]
        terms = j * ((log_z - np.log(s)) * a - (1.0 + a) * disp_j - np.log(1.0 - s)) - gammaln(j * a)
        terms = terms - gammaln(j + 1.0)
        if not hasattr(terms, "coef"):
            top = np.full(z.size, -np.inf)
            np.maximum.at(top, row, terms)
            total = np.log(np.bincount(row, np.exp(terms - top[row]), minlength=z.size)) + top - np.log(z)
            out = np.zeros_like(y)
            out[positive] = total
            return out
        total = segment_logsumexp(terms, row, z.size) - np.log(z)
        coef = []
        for c in total.coef:
            full = None
            if c is not None:
                full = np.zeros_like(y)
                full[positive] = c
            coef.append(full)
        return type(total)(coef, total.n_vars, total.order)

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        eta, disp, psi = predictors
        if not full:
            p = 1.0 + expit(psi)
            with np.errstate(over="ignore"):
                left, right = y * np.exp((1.0 - p) * eta - disp), np.exp((2.0 - p) * eta - disp)
            rows = left / (1.0 - p) - right / (2.0 - p)
            return {(): rows, (0,): left - right, (0, 0): (1.0 - p) * left - (2.0 - p) * right}
        jets = variables([eta, disp, psi], 3)
        out: Derivatives = self._exponent(y, *jets).derivatives()
        # the series does not know the mean, so that second derivatives are enough
        rest = self._series(y, *variables([disp, psi], 2)).derivatives()
        for key, part in rest.items():
            moved = tuple(k + 1 for k in key)
            out[moved] = out[moved] + part if moved in out else part
        return out

    def row_constant(self, y: np.ndarray, w: Any, others: Sequence) -> Any:
        return self._series(y, *others)

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return d * mean ** self.shape_value(shape)[0]

    def _parts(self, mean: np.ndarray, d: Any, shape: Sequence) -> tuple[Any, Any, Any]:
        p = self.shape_value(shape)[0]
        return mean ** (2.0 - p) / (d * (2.0 - p)), (2.0 - p) / (p - 1.0), d * (p - 1.0) * mean ** (p - 1.0)

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        rate, alpha, scale = self._parts(mean, d, shape)
        n = rng.poisson(rate)
        return np.where(n > 0, rng.gamma(np.maximum(n * alpha, 1e-12), scale), 0.0)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        rate, alpha, scale = self._parts(mean, d, shape)
        rate, scale = np.broadcast_arrays(rate, scale)
        total = np.exp(-rate)
        for n in range(1, int(rate.max() + 10.0 * np.sqrt(rate.max()) + 30.0)):
            mass = np.exp(n * np.log(rate) - rate - gammaln(n + 1.0))
            total = total + mass * gammainc(n * alpha, np.maximum(y, 0.0) / scale)
        return np.where(y < 0.0, 0.0, np.minimum(total, 1.0))

    def shape_start(self) -> tuple[float, ...]:
        return (0.0,)

    def shape_value(self, shape: Sequence) -> tuple[float, ...]:
        return (1.0 + float(expit(shape[0])),)

    def shape_working(self, power: float) -> float:
        """Working value of a power."""
        return float(logit(power - 1.0))

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        low = float(y.min(initial=0.0))
        return f"family 'tweedie' needs responses that are not negative, found {low:g}" if low < 0.0 else None

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return np.log(0.5 * (y + max(float(np.average(y, weights=w)), 1e-3)))

    def start_dispersion(self, y: np.ndarray, w: np.ndarray | None = None) -> float:
        mean = max(float(np.mean(y)), 1e-3)
        return float(np.log(max(float(np.var(y)) / mean**1.5, 1e-3))) - 0.3
