"""Families of counts: nb1, generalised Poisson, and counts without zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import betainc, gammaln, xlogy

from mvmise_sm.core.families.base import Derivatives, Family, compose
from mvmise_sm.core.families.checks import bad_counts, broken_counts
from mvmise_sm.core.families.exponential import NegativeBinomial, Poisson
from mvmise_sm.core.families.negative_binomial import nb_derivatives

__all__ = [
    "GeneralizedPoisson",
    "NegativeBinomial1",
    "TruncatedNegativeBinomial",
    "TruncatedNegativeBinomial1",
    "TruncatedPoisson",
]

# counts beyond this many standard deviations of the largest mean have no probability to speak of
_REACH = 60.0


class NegativeBinomial1(Family):
    """Counts with variance mean (1 + d) (nb1)."""

    name, label = "nb1", "NegativeBinomial1"
    has_dispersion = integer = True
    zero_part = "inflated"
    edges = (0.0,)
    limit = ("poisson", "the counts are not overdispersed")

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        eta, disp = parts[0], parts[2]
        d = np.exp(disp)
        r = np.exp(eta - disp)
        return y * (disp - np.log1p(d)) - r * np.log1p(d) + gammaln(y + r) - gammaln(r) - gammaln(y + 1.0)

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        eta, disp = predictors
        with np.errstate(over="ignore"):
            m = np.exp(eta)
        # the size is m / d, so that eta moves it too
        f = nb_derivatives(y, m, eta - disp, True, cubic=full)
        out: Derivatives = {
            (): f[""],
            (0,): f["e"] + f["k"],
            (0, 0): f["ee"] + 2.0 * f["ek"] + f["kk"],
        }
        if full:
            out[(0, 0, 0)] = f["eee"] + 3.0 * (f["eek"] + f["ekk"]) + f["kkk"]
            out[(1,)], out[(1, 1)] = -f["k"], f["kk"]
            out[(0, 1)] = -(f["ek"] + f["kk"])
            out[(0, 0, 1)] = -(f["eek"] + 2.0 * f["ekk"] + f["kkk"])
        return out

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return mean * (1.0 + d)

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        return rng.poisson(rng.gamma(mean / d, d * np.ones_like(mean))).astype(float)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        from scipy.stats import nbinom

        return nbinom.ppf(u, mean / d, 1.0 / (1.0 + d))

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        return bad_counts(self.name, y) or broken_counts(y)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        count = np.floor(y)
        return np.where(count < 0.0, 0.0, betainc(mean / d, np.maximum(count, 0.0) + 1.0, 1.0 / (1.0 + d)))

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return np.log(0.5 * (y + max(float(np.average(y, weights=w)), 1e-3)))


class GeneralizedPoisson(Family):
    """Counts with variance mean d, overdispersed or underdispersed (genpois)."""

    name, label = "genpois", "GeneralizedPoisson"
    has_dispersion = integer = True
    zero_part = "inflated"
    edges = (0.0,)

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        eta, disp = parts[0], parts[2]
        root = np.exp(-0.5 * disp)
        theta = np.exp(eta) * root
        rate = theta + (1.0 - root) * y
        return eta - 0.5 * disp + (y - 1.0) * np.log(rate) - rate - gammaln(y + 1.0)

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return mean * d

    def _log_mass(self, y: Any, mean: Any, d: Any) -> Any:
        root = 1.0 / np.sqrt(d)
        theta = mean * root
        rate = theta + (1.0 - root) * y
        with np.errstate(all="ignore"):
            value = np.log(theta) + xlogy(y - 1.0, np.maximum(rate, 0.0)) - rate - gammaln(y + 1.0)
        return np.where(rate > 0.0, value, -np.inf)

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        return self.quantile(rng.random(mean.shape), mean, w, d, shape)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        u, mean, d = np.broadcast_arrays(np.asarray(u, float), mean, d)
        out = np.zeros(mean.shape)
        total = np.exp(self._log_mass(0.0, mean, d))
        open_ = total < u
        last = mean + _REACH * np.sqrt(mean * d) + 20.0
        count = 0.0
        while open_.any():
            count += 1.0
            part = np.exp(self._log_mass(count, mean[open_], d[open_]))
            total[open_] += part
            out[open_] = count
            # a lower dispersion bounds the counts, so that the probabilities add up to a little less than one
            open_ &= (total < u) & (count < last)
        return out

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        return bad_counts(self.name, y) or broken_counts(y)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        y, mean, d = np.broadcast_arrays(np.asarray(y, float), mean, d)
        total = np.zeros(mean.shape)
        for count in range(int(np.floor(y.max(initial=-1.0))) + 1):
            total += np.where(count <= y, np.exp(self._log_mass(float(count), mean, d)), 0.0)
        return np.minimum(total, 1.0)

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return np.log(0.5 * (y + max(float(np.average(y, weights=w)), 1e-3)))


class _Truncated(Family):
    """Counts of `base` given that they are not zero; the mean of the linear predictor is the untruncated one."""

    integer = True
    zero_part = "hurdle"
    # counts of one only leave no finite mean
    edges = (1.0,)
    base: Any = None

    def __init__(self, link: Any = None) -> None:
        super().__init__(link)
        self.within = self.base(self.link)
        self.has_dispersion = self.within.has_dispersion

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        from mvmise_sm.core.families.jets import log1mexp

        none = self.within.log_density(np.zeros_like(y), w, parts, shape)
        return self.within.log_density(y, w, parts, shape) - log1mexp(none)

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        out = self.within.expand(y, w, predictors, full)
        none = self.within.expand(np.zeros_like(y), w, predictors, full)
        with np.errstate(all="ignore"):
            g = none[()]
            odds = 1.0 / np.expm1(-g)
            bend = odds * (1.0 + odds)
            value = np.where(g > -0.6931, -np.log(-np.expm1(g)), -np.log1p(-np.exp(g)))
            extra = compose((value, odds, bend, bend * (1.0 + 2.0 * odds) if full else None), none)
        for key, part in extra.items():
            out[key] = out[key] + part if key in out else part
        return out

    def _none(self, mean: Any, d: Any) -> Any:
        return self.within.cdf(np.zeros_like(mean), mean, None, d)

    def moments(self, eta: np.ndarray, d: Any = 1.0, shape: Sequence = (), w: Any = None) -> tuple[Any, Any]:
        inner = self.link.inverse(eta)
        some = 1.0 - self._none(inner, d)
        mean = inner / some
        return mean, (self.within.variance(inner, d) + inner**2) / some - mean**2

    def mean(self, eta: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return self.moments(eta, d)[0]

    def centre(self, eta: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        """The UNTRUNCATED mean."""
        return self.link.inverse(eta)

    def link_variance(self, mean: Any, d: Any = 1.0, shape: Sequence = ()) -> float:
        """That of the untruncated counts, which the linear predictor is about."""
        return self.within.link_variance(mean, d, shape)

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        """Variance of the truncated counts with this UNTRUNCATED mean."""
        return self.moments(self.link(mean), d)[1]

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        """Draw truncated counts with this UNTRUNCATED mean."""
        none = self._none(mean, d)
        u = none + (1.0 - none) * rng.random(mean.shape)
        return np.maximum(self.within.quantile(u, mean, None, d), 1.0)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        none = self._none(mean, d)
        return np.maximum(self.within.quantile(none + (1.0 - none) * u, mean, None, d), 1.0)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        none = self._none(mean, d)
        return np.maximum(self.within.cdf(y, mean, None, d) - none, 0.0) / (1.0 - none)

    def deviance_rows(self, y: Any, mu: Any, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        # the mean of the truncated counts has no linear predictor in closed form: the untruncated one stands for it
        return self.within.deviance_rows(y, mu, w, d, shape)

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        wrong = bad_counts(self.name, y) or broken_counts(y)
        zeros = int((y == 0.0).sum())
        if wrong or not zeros:
            return wrong
        other = {"truncated_poisson": "poisson", "truncated_nb1": "nb1", "truncated_nb2": "nb2"}[self.name]
        return (
            f"family {self.name!r} has no zeros, found {zeros}; give zero_inflation='~ 1' (hurdle) or use "
            f"family={other!r}"
        )

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return self.within.start(y, w)


class TruncatedPoisson(_Truncated):
    """Poisson counts without zeros."""

    concave_links = ("log",)
    name, label, base = "truncated_poisson", "TruncatedPoisson", Poisson


class TruncatedNegativeBinomial(_Truncated):
    """Negative binomial counts (nb2) without zeros."""

    concave_links = ("log",)
    name, label, base = "truncated_nb2", "TruncatedNegativeBinomial", NegativeBinomial


class TruncatedNegativeBinomial1(_Truncated):
    """Negative binomial counts (nb1) without zeros."""

    name, label, base = "truncated_nb1", "TruncatedNegativeBinomial1", NegativeBinomial1
