"""Families that statsmodels has too: binomial, Poisson, normal, gamma, inverse Gaussian, negative binomial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import betainc, digamma, gammainc, gammaincinv, gammaln, ndtr, ndtri, pdtr, polygamma, xlogy

from mvmise_sm.core.families.base import Derivatives, Family, through_link
from mvmise_sm.core.families.checks import bad_counts, bad_positive, bad_proportions, broken_counts
from mvmise_sm.core.families.negative_binomial import nb_derivatives
from mvmise_sm.core.families.response import make_rows

__all__ = ["Binomial", "Gamma", "Gaussian", "InverseGaussian", "NegativeBinomial", "Poisson"]


class Exponential(Family):
    """A family whose density `mvmise_sm.core.families.distributions` has as a function of the mean.

    Attributes
    ----------
    row_formulas : str
        Its name there.
    canonical : str
        Link with equal observed and expected weights.
    """

    row_formulas = ""
    canonical = ""
    alpha: float | None = None
    strict_links = False

    def response(self, y: np.ndarray, w: np.ndarray | None, curvature: str = "observed") -> Any:
        return make_rows(self, y, w, curvature)

    def dispersion_of(self, scale: float, alpha: float | None) -> float:
        """d for the dispersion phi and the negative binomial alpha of a fit."""
        return 1.0

    def log_dispersion_rate(self) -> float:
        """Derivative of log d in log phi or log alpha, which is a constant."""
        return float(np.log(self.dispersion_of(np.e, np.e) / self.dispersion_of(1.0, 1.0)))


class Binomial(Exponential):
    """Proportions of w trials, or zeros and ones."""

    concave_links = ("logit", "probit", "cloglog", "loglog")
    name, label, row_formulas, canonical = "binomial", "Binomial", "Binomial", "logit"
    links = ("logit", "probit", "cloglog", "loglog", "cauchit", "log", "identity")
    trials = latent = True
    mean_range = (0.0, 1.0)
    zero_part = "inflated"
    edges = (0.0, 1.0)

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        n = 1.0 if w is None else w
        successes = n * y
        rows = gammaln(n + 1.0) - gammaln(successes + 1.0) - gammaln(n - successes + 1.0)
        mu = self.inverse(parts[0])
        return n * (y * np.log(mu) + (1.0 - y) * np.log(1.0 - mu)) + rows

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        eta = predictors[0]
        n = 1.0 if w is None else w
        mu, nu, _, _ = self.link.rows(eta)
        log_mu, log_nu = self.link.log_mean(eta)
        successes, failures = n * y, n * (1.0 - y)
        rows = gammaln(n + 1.0) - gammaln(successes + 1.0) - gammaln(failures + 1.0)
        with np.errstate(all="ignore"):
            value = np.where(successes > 0.0, successes * log_mu, 0.0) + np.where(
                failures > 0.0, failures * log_nu, 0.0
            )
            slopes: Derivatives = {
                (): value + rows,
                (0,): successes / mu - failures / nu,
                (0, 0): -successes / mu**2 - failures / nu**2,
            }
            if full:
                slopes[(0, 0, 0)] = 2.0 * (successes / mu**3 - failures / nu**3)
        return through_link(self.link, eta, slopes, full)

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return mean * (1.0 - mean)

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        trials = np.broadcast_to(np.round(1.0 if w is None else w), mean.shape).astype(int)
        return rng.binomial(trials, np.clip(mean, 0.0, 1.0)) / trials

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        return bad_proportions(self.name, y)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        trials = np.round(1.0 if w is None else w) * np.ones_like(mean)
        # a proportion times its trials may fall short of the count by rounding
        count = np.floor(y * trials + 1e-9)
        inside = np.clip(count, 0.0, np.maximum(trials - 1.0, 0.0))
        below = betainc(trials - inside, inside + 1.0, 1.0 - mean)
        return np.where(count < 0.0, 0.0, np.where(count >= trials, 1.0, below))

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        from scipy.stats import binom

        trials = np.round(1.0 if w is None else w)
        return binom.ppf(u, trials, mean) / trials

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        n = 1.0 if w is None else w
        return self.link((n * y + 0.5) / (n + 1.0))


class Poisson(Exponential):
    """Counts with variance equal to the mean."""

    concave_links = ("log", "sqrt", "identity")
    name, label, row_formulas, canonical = "poisson", "Poisson", "Poisson", "log"
    links = ("log", "sqrt", "identity")
    mean_range = (0.0, np.inf)
    integer = True
    zero_part = "inflated"
    edges = (0.0,)

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        mu = self.inverse(parts[0])
        return y * np.log(mu) - mu - gammaln(y + 1.0)

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        eta = predictors[0]
        if self.link.name == "log":
            with np.errstate(over="ignore"):
                m = np.exp(eta)
            out: Derivatives = {(): y * eta - m - gammaln(y + 1.0), (0,): y - m, (0, 0): -m}
            if full:
                out[(0, 0, 0)] = -m
            return out
        m = self.link.inverse(eta)
        with np.errstate(all="ignore"):
            ratio = y / m
            slopes: Derivatives = {(): xlogy(y, m) - m - gammaln(y + 1.0), (0,): ratio - 1.0, (0, 0): -ratio / m}
            if full:
                slopes[(0, 0, 0)] = 2.0 * ratio / m**2
        return through_link(self.link, eta, slopes, full)

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return mean

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        return rng.poisson(mean).astype(float)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        from scipy.stats import poisson

        return poisson.ppf(u, mean)

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        return bad_counts(self.name, y) or broken_counts(y)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        count = np.floor(y)
        return np.where(count < 0.0, 0.0, pdtr(np.maximum(count, 0.0), mean))

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return self.link(y + 0.1)


class Gaussian(Exponential):
    """Normal with standard deviation d."""

    concave_links = ("identity",)
    name, label, row_formulas, canonical = "gaussian", "Gaussian", "Gaussian", "identity"
    links = ("identity", "log", "inverse")
    has_dispersion = True
    weights_scale = True

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        log_sd = parts[2] if w is None else parts[2] - 0.5 * np.log(w)
        z = (y - self.inverse(parts[0])) * np.exp(-log_sd)
        return -0.5 * z * z - log_sd - 0.5 * np.log(2.0 * np.pi)

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        eta, log_sd = predictors
        r = y - self.link.inverse(eta)
        k = np.exp(-2.0 * log_sd) * (1.0 if w is None else w)
        square = k * r * r
        value = -0.5 * square - log_sd - 0.5 * np.log(2.0 * np.pi) + (0.0 if w is None else 0.5 * np.log(w))
        slopes: Derivatives = {(): value, (0,): k * r, (0, 0): -k * np.ones_like(r)}
        if full:
            slopes[(0, 0, 0)] = np.zeros_like(r)
            slopes[(1,)], slopes[(1, 1)] = square - 1.0, -2.0 * square
            slopes[(0, 1)], slopes[(0, 0, 1)] = -2.0 * k * r, 2.0 * k * np.ones_like(r)
        return through_link(self.link, eta, slopes, full)

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return d * d * np.ones_like(mean)

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        return mean + d / np.sqrt(1.0 if w is None else w) * rng.standard_normal(mean.shape)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        return ndtr((y - mean) * np.sqrt(1.0 if w is None else w) / d)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        return mean + d / np.sqrt(1.0 if w is None else w) * ndtri(u)

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        # a link with a restricted range takes the mean of the responses where one of them is outside
        good = self.link.name == "identity" or (y > 0.0).all()
        return self.link(y if good else np.full(y.size, float(np.average(y, weights=w))))

    def start_dispersion(self, y: np.ndarray, w: np.ndarray | None = None) -> float:
        return float(np.log(max(np.std(y), 1e-8))) - 0.35

    def dispersion_of(self, scale: float, alpha: float | None) -> float:
        return float(np.sqrt(scale))

    def deviance_rows(self, y: Any, mu: Any, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return (1.0 if w is None else w) * (y - mu) ** 2


class Gamma(Exponential):
    """Gamma with shape d = 1 / scale; the variance is mean^2 / d."""

    concave_links = ("log", "inverse")
    name, label, row_formulas, canonical = "gamma", "Gamma", "Gamma", "inverse"
    links: tuple[str, ...] = ("inverse", "log", "identity")
    mean_range = (0.0, np.inf)
    has_dispersion = True
    weights_scale = True
    zero_part: str | None = None

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        log_k = parts[2] if w is None else parts[2] + np.log(w)
        k, mu = np.exp(log_k), self.inverse(parts[0])
        return k * (log_k - np.log(mu)) + (k - 1.0) * np.log(y) - k * y / mu - gammaln(k)

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        if not (full and self.link.name == "log"):
            return super().expand(y, w, predictors, full)
        eta, log_k = predictors
        log_k = log_k if w is None else log_k + np.log(w)
        k = np.exp(log_k)
        ratio = y * np.exp(-eta)
        with np.errstate(all="ignore"):
            log_ratio = np.log(y) - eta
            first = log_ratio - ratio + log_k + 1.0 - digamma(k)
            return {
                (): k * (log_k + log_ratio - ratio) - np.log(y) - gammaln(k),
                (0,): k * (ratio - 1.0),
                (0, 0): -k * ratio,
                (0, 0, 0): k * ratio,
                (1,): k * first,
                (1, 1): k * first + k * (1.0 - k * polygamma(1, k)),
                (0, 1): k * (ratio - 1.0),
                (0, 0, 1): -k * ratio,
            }

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return mean**2 / d

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        k = d * (1.0 if w is None else w)
        return rng.gamma(k, mean / k)

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        return bad_positive(self.name, y, "; use 'hurdle_gamma' with zero_inflation='~ 1'")

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        k = d * (1.0 if w is None else w)
        return gammainc(k, k * np.maximum(y, 0.0) / mean)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        k = d * (1.0 if w is None else w)
        return gammaincinv(k, u) * mean / k

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return self.link(y)

    def start_dispersion(self, y: np.ndarray, w: np.ndarray | None = None) -> float:
        return 0.5

    def dispersion_of(self, scale: float, alpha: float | None) -> float:
        return 1.0 / scale


class InverseGaussian(Exponential):
    """Inverse Gaussian with variance d mean^3."""

    concave_links = ("1/mu^2",)
    name, label, row_formulas, canonical = "inversegaussian", "InverseGaussian", "InverseGaussian", "1/mu^2"
    links = ("1/mu^2", "inverse", "identity", "log")
    mean_range = (0.0, np.inf)
    has_dispersion = True
    weights_scale = True

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        log_phi = parts[2] if w is None else parts[2] - np.log(w)
        mu = self.inverse(parts[0])
        square = (y - mu) * (y - mu) / (y * mu * mu)
        return -0.5 * (square * np.exp(-log_phi) + log_phi + np.log(2.0 * np.pi) + 3.0 * np.log(y))

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return d * mean**3

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        return rng.wald(mean, (1.0 if w is None else w) / d)

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        return bad_positive(self.name, y)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        from scipy.stats import invgauss

        lam = (1.0 if w is None else w) / d
        return invgauss.cdf(y, mean / lam, scale=lam)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        from scipy.stats import invgauss

        lam = (1.0 if w is None else w) / d
        return invgauss.ppf(u, mean / lam, scale=lam)

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return self.link(y)

    def start_dispersion(self, y: np.ndarray, w: np.ndarray | None = None) -> float:
        mean = float(np.mean(y))
        return float(np.log(max(np.var(y) / mean**3, 1e-8)))

    def dispersion_of(self, scale: float, alpha: float | None) -> float:
        return scale


class NegativeBinomial(Exponential):
    """Counts with variance mean + mean^2 / d (nb2); d = 1 / alpha is the size.

    Parameters
    ----------
    link : str or Link, optional
    alpha : float, optional
        Known alpha; estimated by default.
    """

    concave_links = ("log",)
    name, label, row_formulas = "nb2", "NegativeBinomial", "NegativeBinomial"
    alias = "negativebinomial"
    links = ("log", "sqrt", "identity")
    mean_range = (0.0, np.inf)
    integer = True
    zero_part = "inflated"
    edges = (0.0,)
    limit = ("poisson", "the counts are not overdispersed")

    def __init__(self, link: Any = None, alpha: float | None = None):
        super().__init__(link)
        # families load without statsmodels, whose classes the errors derive from
        from mvmise_sm.option_values import not_negative

        self.alpha = None if alpha is None else float(not_negative("alpha", alpha))
        self.has_dispersion = alpha is None

    def _log_size(self, predictors: Sequence) -> Any:
        if self.alpha is None:
            return predictors[1]
        return np.full_like(predictors[0], -np.log(max(self.alpha, 1e-300)))

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        kappa = parts[2] if self.alpha is None else -np.log(max(self.alpha, 1e-300))
        k, m = np.exp(kappa), self.inverse(parts[0])
        return gammaln(y + k) - gammaln(k) - gammaln(y + 1.0) + k * (kappa - np.log(k + m)) + y * np.log(m / (k + m))

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        log_k = self._log_size(predictors)
        log = self.link.name == "log"
        with np.errstate(over="ignore"):
            m = np.exp(predictors[0]) if log else self.link.inverse(predictors[0])
        found = nb_derivatives(y, m, log_k, full)
        keys = {
            "": (),
            "e": (0,),
            "ee": (0, 0),
            "eee": (0, 0, 0),
            "k": (1,),
            "kk": (1, 1),
            "ek": (0, 1),
            "eek": (0, 0, 1),
        }
        out = {keys[k]: v for k, v in found.items() if self.alpha is None or "k" not in k}
        if log:
            return out
        with np.errstate(all="ignore"):
            return through_link(self.link, predictors[0], _in_mean(out, m), full)

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return mean + mean * mean / d

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        if np.isinf(d).all():
            return rng.poisson(mean).astype(float)
        return rng.poisson(mean * rng.gamma(d, 1.0 / d, mean.shape)).astype(float)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        from scipy.stats import nbinom

        if np.isinf(d).all():
            return Poisson().quantile(u, mean)
        return nbinom.ppf(u, d, d / (d + mean))

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        return bad_counts(self.spoken, y) or broken_counts(y)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        if np.isinf(d).all():
            return Poisson().cdf(y, mean)
        count = np.floor(y)
        return np.where(count < 0.0, 0.0, betainc(d, np.maximum(count, 0.0) + 1.0, d / (d + mean)))

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return self.link(y + np.where(y == 0.0, 1.0 / 6.0, 0.0))

    def dispersion_of(self, scale: float, alpha: float | None) -> float:
        return 1.0 / alpha if alpha else np.inf


def _in_mean(found: Derivatives, m: np.ndarray) -> Derivatives:
    """Derivatives in the mean for those in its logarithm."""
    out = dict(found)
    first, second = found[(0,)], found[(0, 0)]
    out[(0,)], out[(0, 0)] = first / m, (second - first) / m**2
    if (0, 0, 0) in found:
        out[(0, 0, 0)] = (found[(0, 0, 0)] - 3.0 * second + 2.0 * first) / m**3
    if (0, 1) in found:
        out[(0, 1)] = found[(0, 1)] / m
        out[(0, 0, 1)] = (found[(0, 0, 1)] - found[(0, 1)]) / m**2
    return out
