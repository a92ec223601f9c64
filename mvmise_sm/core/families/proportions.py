"""Families of proportions: beta and beta-binomial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import betainc, betaincinv, gammaln

from mvmise_sm.core.families.base import Derivatives, Family, through_link
from mvmise_sm.core.families.checks import bad_proportions, plural
from mvmise_sm.core.families.gamma_functions import log_gamma_derivatives

__all__ = ["Beta", "BetaBinomial"]

_LINKS = ("logit", "probit", "cloglog", "loglog", "cauchit")


class Beta(Family):
    """Proportions strictly between 0 and 1 with variance mean (1 - mean) / (1 + d)."""

    name, label, links = "beta", "Beta", _LINKS
    has_dispersion = True
    zero_part = "hurdle"

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        d, m = np.exp(parts[2]), self.inverse(parts[0])
        a, b = m * d, d - m * d
        value = gammaln(d) - gammaln(a) - gammaln(b)
        return value + (a - 1.0) * np.log(y) + (b - 1.0) * np.log1p(-y)

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        eta, disp = predictors
        d = np.exp(disp)
        m, n, _, _ = self.link.rows(eta)
        a, b = m * d, n * d
        with np.errstate(all="ignore"):
            up, down = np.log(y), np.log1p(-y)
            of_a, of_b = log_gamma_derivatives(np.stack([a, b]), 0, 3 if full else 2).swapaxes(0, 1)
            slope = of_b[1] - of_a[1] + up - down
            value = a * up + b * down - of_a[0] - of_b[0]
            slopes: Derivatives = {(): value, (0,): d * slope, (0, 0): -d * d * (of_a[2] + of_b[2])}
            if full:
                log_gamma, first, second = log_gamma_derivatives(d, 0, 2)
                slopes[()] = value + (log_gamma - up - down)
                slopes[(0, 0, 0)] = -(d**3) * (of_a[3] - of_b[3])
                slopes[(1,)] = d * (first - m * of_a[1] - n * of_b[1] + m * up + n * down)
                slopes[(1, 1)] = slopes[(1,)] + d * (d * second - m * a * of_a[2] - n * b * of_b[2])
                slopes[(0, 1)] = d * slope + d * (b * of_b[2] - a * of_a[2])
                slopes[(0, 0, 1)] = 2.0 * slopes[(0, 0)] - d * d * (a * of_a[3] + b * of_b[3])
        return through_link(self.link, eta, slopes, full)

    def row_constant(self, y: np.ndarray, w: Any, others: Sequence) -> Any:
        with np.errstate(all="ignore"):
            return gammaln(np.exp(others[0])) - np.log(y) - np.log1p(-y)

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return mean * (1.0 - mean) / (1.0 + d)

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        return rng.beta(mean * d, (1.0 - mean) * d)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        return betaincinv(mean * d, (1.0 - mean) * d, u)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        return betainc(mean * d, (1.0 - mean) * d, np.clip(y, 0.0, 1.0))

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        low, high = float(y.min(initial=0.5)), float(y.max(initial=0.5))
        if low < 0.0 or high > 1.0:
            return f"family 'beta' needs responses strictly between 0 and 1, found values from {low:g} to {high:g}"
        zeros, ones = int((y == 0.0).sum()), int((y == 1.0).sum())
        if not zeros and not ones:
            return None
        parts = [plural(zeros, "zero", "zeros")] if zeros else []
        parts += [plural(ones, "one", "ones")] if ones else []
        return (
            f"family 'beta' needs responses strictly between 0 and 1, found {' and '.join(parts)}; "
            "zero_inflation='~ 1' takes the zeros, ones must be moved off the edge"
        )

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return self.link(np.clip(0.5 * (y + np.mean(y)), 1e-3, 1.0 - 1e-3))

    def start_dispersion(self, y: np.ndarray, w: np.ndarray | None = None) -> float:
        mean, spread = float(np.mean(y)), max(float(np.var(y)), 1e-8)
        return float(np.log(np.clip(mean * (1.0 - mean) / spread - 1.0, 0.5, 1e4)))


class BetaBinomial(Family):
    """Proportions of w trials whose probability varies as a beta variable with precision d."""

    name, label, links = "betabinomial", "BetaBinomial", _LINKS
    has_dispersion = trials = True
    zero_part = "inflated"
    edges = (0.0, 1.0)

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        n = np.ones_like(y) if w is None else w
        hits, misses = n * y, n * (1.0 - y)
        d, m = np.exp(parts[2]), self.inverse(parts[0])
        a = m * d
        b = d - a
        out = gammaln(a + hits) - gammaln(a) + gammaln(b + misses) - gammaln(b) + gammaln(d) - gammaln(d + n)
        return out + (gammaln(n + 1.0) - gammaln(hits + 1.0) - gammaln(misses + 1.0))

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        return mean * (1.0 - mean)

    def moments(self, eta: np.ndarray, d: Any = 1.0, shape: Sequence = (), w: Any = None) -> tuple[Any, Any]:
        mean = self.link.inverse(eta)
        n = 1.0 if w is None else w
        return mean, mean * (1.0 - mean) / n * (1.0 + (n - 1.0) / (d + 1.0))

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        trials = np.broadcast_to(np.round(1.0 if w is None else w), mean.shape).astype(int)
        return rng.binomial(trials, rng.beta(mean * d, (1.0 - mean) * d)) / trials

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        from scipy.stats import betabinom

        trials = np.round(1.0 if w is None else w) * np.ones_like(mean)
        return betabinom.ppf(u, trials, mean * d, (1.0 - mean) * d) / trials

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        from scipy.stats import betabinom

        trials = np.round(1.0 if w is None else w) * np.ones_like(mean)
        return betabinom.cdf(np.floor(y * trials + 1e-9), trials, mean * d, (1.0 - mean) * d)

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        return bad_proportions(self.name, y)

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        n = 1.0 if w is None else w
        return self.link((n * y + 0.5) / (n + 1.0))

    def start_dispersion(self, y: np.ndarray, w: np.ndarray | None = None) -> float:
        return 1.5
