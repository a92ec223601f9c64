"""Rows of a generalised linear model: log-likelihood, score and weights as functions of one linear predictor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import xlogy

from mvmise_sm.core.families.distributions import DISTRIBUTIONS, Distribution, Gamma, NegativeBinomial

if TYPE_CHECKING:
    from mvmise_sm.core.families.exponential import Binomial, Poisson

__all__ = ["FamilyResponse", "RowTerms", "make_response", "make_rows"]


# numbers from 1 to 2 whose product is far from the largest float
_FACTORS = 64


def _no_rows() -> np.ndarray:
    return np.zeros(0)


@dataclass(slots=True, eq=False)
class RowTerms:
    """One linear predictor's rows; all arrays (nobs,), but empty where the predictor is outside the link's domain.

    Attributes
    ----------
    eta : ndarray
        Linear predictor.
    loglik : float
        Sum of the log-likelihood without its constant; -inf outside the domain of the link.
    score : ndarray
        d log f / d eta.
    weight : ndarray
        What enters M: -d2 log f / d eta2, or its expectation with ``curvature="expected"``.
    observed : ndarray
        -d2 log f / d eta2; the same object as `weight` where that is the same.
    slope : ndarray or None
        d weight / d eta; None until `FamilyResponse.slope` is asked for it.
    mean : ndarray
        Mean at eta.
    """

    eta: np.ndarray
    loglik: float
    score: np.ndarray = field(default_factory=_no_rows)
    weight: np.ndarray = field(default_factory=_no_rows)
    observed: np.ndarray = field(default_factory=_no_rows)
    slope: np.ndarray | None = None
    mean: np.ndarray = field(default_factory=_no_rows)

    @property
    def inside(self) -> bool:
        """Whether the predictor lies in the domain of the link; elsewhere there are no derivatives."""
        return self.loglik > -np.inf

    def convex(self) -> np.ndarray:
        """Weights of a Newton step that always ascends, where those observed are not positive definite."""
        return np.maximum(self.observed, 0.0) if self.observed is self.weight else self.weight


def make_response(family: Any, y: np.ndarray, weights: np.ndarray | None = None, *, curvature: str = "observed") -> Any:
    """The rows of `family` for a response.

    Parameters
    ----------
    family : Family
    y : ndarray
        Response (nobs,); proportions for the binomial family.
    weights : ndarray, optional
        Prior weights (nobs,), numbers of trials for the binomial family.
    curvature : {"observed", "expected"}, optional
        Weights that enter M.

    Returns
    -------
    FamilyResponse or None
        None where the family needs the engine of several predictors.
    """
    return family.response(y, weights, curvature)


def make_rows(family: Any, y: np.ndarray, weights: np.ndarray | None, curvature: str) -> Any:
    """The rows of an exponential family."""
    cls = _FAST.get((family.row_formulas, family.link.name, curvature))
    cls = cls or _FAST.get((family.row_formulas, family.link.name, None), FamilyResponse)
    return cls(family, y, weights, curvature)


class FamilyResponse:
    """A response of an exponential family with any link.

    Attributes
    ----------
    y, w : ndarray
        Response and prior weights (nobs,); `w` is None where all are one.
    shape : float or None
        log of the dispersion phi, or of the negative binomial alpha where it is estimated; None for families without.
    scale : float
        phi, 1.0 for families without.
    """

    def __init__(
        self, family: Any, y: np.ndarray, weights: np.ndarray | None = None, curvature: str = "observed"
    ) -> None:
        self.family = family
        self.y = y
        self.w = weights
        self.link = family.link
        self.curvature = curvature
        self.distribution: Distribution = DISTRIBUTIONS[family.row_formulas](y, weights, family.alpha)
        self.estimates_shape = family.has_dispersion
        self.canonical = self.link.name == family.canonical
        self.set_shape(self.distribution.start_shape())

    def refitted(self, y: np.ndarray) -> FamilyResponse:
        """The same family and weights for another response (nobs,)."""
        out = type(self)(self.family, y, self.w, self.curvature)
        out.estimates_shape = self.estimates_shape
        return out

    def set_shape(self, shape: float | None) -> None:
        """Use another log dispersion or log alpha."""
        self.shape = shape
        self.distribution.set_shape(shape)
        self.constant = self.distribution.constant()

    @property
    def concave(self) -> bool:
        """Whether the log density is concave in the linear predictor."""
        return self.link.name in self.family.concave_links

    @property
    def dispersed(self) -> bool:
        """Whether the random effects are relative to a dispersion phi that is estimated."""
        return self.distribution.dispersed

    @property
    def scale(self) -> float:
        return self.distribution.phi

    def start_eta(self) -> np.ndarray:
        """A linear predictor close to the data (nobs,)."""
        return self.link(self.distribution.start_mean())

    def constant_eta(self) -> Any:
        """The linear predictor of the mean response."""
        return float(self.link(np.atleast_1d(self.distribution.mean_response()))[0])

    def row_loglik(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-likelihood by row without its constant, and score (nobs,)."""
        mu, nu, d1, _ = self.link.rows(eta)
        with np.errstate(all="ignore"):
            rows = self.distribution.loglik(mu, nu)
            score = self.distribution.residual(mu, nu) * d1
        bad = ~(self.distribution.valid(mu) & np.isfinite(rows))
        if bad.any():
            rows, score = np.where(bad, -np.inf, rows), np.where(bad, 0.0, score)
        return rows, score

    def row_values(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`row_loglik` under the name that responses with several predictors have it."""
        return self.row_loglik(eta)

    def loglik(self, eta: Any) -> Any:
        """Log-likelihood without its constant."""
        mu, nu, _, _ = self.link.rows(eta)
        return self._total(mu, nu)

    def _total(self, mu: np.ndarray, nu: np.ndarray) -> float:
        if not self.distribution.valid(mu).all():
            return -np.inf
        with np.errstate(all="ignore"):
            total = float(self.distribution.loglik(mu, nu).sum())
        return total if np.isfinite(total) else -np.inf

    def rows(self, eta: np.ndarray) -> RowTerms:
        """Everything at a linear predictor but the slope of the weights.

        Returns
        -------
        RowTerms
        """
        mu, nu, d1, d2 = self.link.rows(eta)
        total = self._total(mu, nu)
        if total == -np.inf:
            return RowTerms(eta, total)
        with np.errstate(all="ignore"):
            if self.canonical or self.curvature == "expected":
                ratio = self.distribution.residual(mu, nu)
                information, bend = self.distribution.precision(mu, nu)
                score = ratio * d1
                weight = observed = information * d1 * d1
                if not self.canonical:
                    # (y - mu) V' / V^2 = -(y - mu) (1/V)' has `bend` = (1/V)' w / phi
                    observed = weight - (self.distribution.difference(mu, nu) * bend * d1 * d1 + ratio * d2)
            else:
                first, second = self.distribution.slopes(mu, nu)
                score = first * d1
                weight = observed = -(second * d1 * d1 + first * d2)
        if not (np.isfinite(score).all() and np.isfinite(observed).all()):
            return RowTerms(eta, -np.inf)
        return RowTerms(eta, total, score, weight, observed, None, mu)

    def slope(self, terms: RowTerms) -> np.ndarray:
        """d weight / d eta of the rows (nobs,)."""
        if terms.slope is None:
            terms.slope = self._slope(terms)
        return terms.slope

    def _slope(self, terms: RowTerms) -> np.ndarray:
        eta = terms.eta
        mu, nu, d1, d2 = self.link.rows(eta)
        with np.errstate(all="ignore"):
            if self.canonical or self.curvature == "expected":
                information, bend = self.distribution.precision(mu, nu)
                return d1 * (2.0 * information * d2 + bend * d1 * d1)
            first, second = self.distribution.slopes(mu, nu)
            third = self.distribution.third(mu, nu)
            return -(third * d1**3 + 3.0 * second * d1 * d2 + first * self.link.third(eta, d1, d2))

    def shape_terms(self, terms: RowTerms) -> tuple[float, np.ndarray, np.ndarray, float]:
        """How the log-likelihood, score and weight of the rows depend on the shape.

        Returns
        -------
        total : float
            d log L / d shape.
        score, weight : ndarray
            Derivatives of the score and of the weight (nobs,).
        information : float
            Positive, about -d2 log L / d shape2.
        """
        mu, nu, d1, d2 = self.link.rows(terms.eta)
        rows, factor, information = self.distribution.shape_terms(mu, nu)
        if self.curvature == "expected" or self.distribution.dispersed:
            return float(rows.sum()), terms.score * factor, terms.weight * factor, information
        first, second = self.distribution.shape_slopes(mu, nu)
        return float(rows.sum()), first * d1, -(second * d1 * d1 + first * d2), information

    def shape_rows(self, eta: np.ndarray) -> np.ndarray:
        """d log f / d shape by row (nobs,)."""
        mu, nu, _, _ = self.link.rows(eta)
        return self.distribution.shape_terms(mu, nu)[0] + np.zeros(eta.size)

    def deviance_rows(self, mu: Any) -> Any:
        """Contributions to the deviance (nobs,), prior weights included."""
        return self.distribution.unit_deviance(mu)


def _log_product(x: np.ndarray) -> float:
    """Sum of the logarithms of numbers from 1 to 2 (n,), by logarithms of the products of 64 of them."""
    width = x.size // _FACTORS
    whole = x[: _FACTORS * width].reshape(_FACTORS, width)
    return float(np.log(np.multiply.reduce(whole, axis=0)).sum()) + float(np.log(x[_FACTORS * width :]).sum())


class LogisticResponse(FamilyResponse):
    """Bernoulli or binomial with the logit link."""

    def __init__(
        self, family: Binomial, y: np.ndarray, weights: np.ndarray | None = None, curvature: str = "observed"
    ) -> None:
        super().__init__(family, y, weights, curvature)
        self._wy = y if weights is None else weights * y

    def _log_partition(self, eta: np.ndarray, e: np.ndarray) -> np.ndarray:
        out: np.ndarray = np.log1p(e)
        out += np.maximum(eta, 0.0)
        if self.w is not None:
            out *= self.w
        return out

    def _total_of(self, eta: np.ndarray, e: np.ndarray, grown: np.ndarray, positive: np.ndarray) -> float:
        """Log-likelihood without its constant: ``e = exp(-|eta|)``, ``grown = 1 + e``, and where eta is positive."""
        if self.w is None:
            total = float(eta @ (self._wy - positive)) - _log_product(grown)
        else:
            total = float(eta @ (self._wy - self.w * positive)) - float(self.w @ np.log1p(e))
        return total if np.isfinite(total) else -np.inf

    def loglik(self, eta: Any) -> Any:
        e = np.exp(-np.abs(eta))
        return self._total_of(eta, e, 1.0 + e, (eta >= 0.0).astype(float))

    def row_loglik(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        e = np.exp(-np.abs(eta))
        rows = self._wy * eta
        rows -= self._log_partition(eta, e)
        mu = np.where(eta >= 0.0, 1.0, e)
        mu /= 1.0 + e
        if self.w is not None:
            mu *= self.w
        return rows, self._wy - mu

    def rows(self, eta: np.ndarray) -> RowTerms:
        e = np.abs(eta)
        np.negative(e, out=e)
        np.exp(e, out=e)
        grown = 1.0 + e
        mean = (eta >= 0.0).astype(float)
        total = self._total_of(eta, e, grown, mean)
        if total == -np.inf:
            return RowTerms(eta, total)
        # 1 / (1 + e) where eta is positive, e / (1 + e) elsewhere; a choice by rows would take longer than all the rest
        np.maximum(mean, e, out=mean)
        mean /= grown
        weight = np.divide(e, grown, out=e)
        weight /= grown
        if self.w is None:
            score = self._wy - mean
        else:
            score = self._wy - self.w * mean
            weight *= self.w
        return RowTerms(eta, total, score, weight, weight, None, mean)

    def _slope(self, terms: RowTerms) -> np.ndarray:
        return terms.weight * (1.0 - 2.0 * terms.mean)


class PoissonLogResponse(FamilyResponse):
    """Poisson with the log link."""

    def __init__(
        self, family: Poisson, y: np.ndarray, weights: np.ndarray | None = None, curvature: str = "observed"
    ) -> None:
        super().__init__(family, y, weights, curvature)
        self._wy = y if weights is None else weights * y

    def loglik(self, eta: Any) -> Any:
        with np.errstate(over="ignore"):
            mu = np.exp(eta)
        total = float(self._wy @ eta) - float(mu.sum() if self.w is None else self.w @ mu)
        return total if np.isfinite(total) else -np.inf

    def row_loglik(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(over="ignore"):
            mu = np.exp(eta)
        if self.w is not None:
            mu *= self.w
        score = self._wy - mu
        return self._wy * eta - mu, np.where(np.isfinite(score), score, 0.0)

    def rows(self, eta: np.ndarray) -> RowTerms:
        with np.errstate(over="ignore"):
            mean = np.exp(eta)
        mu = mean if self.w is None else self.w * mean
        total = float(self._wy @ eta) - float(mu.sum())
        if not np.isfinite(total):
            return RowTerms(eta, -np.inf)
        return RowTerms(eta, total, self._wy - mu, mu, mu, mu, mean)


class NegativeBinomialLogResponse(FamilyResponse):
    """Negative binomial with the log link, observed weights."""

    distribution: NegativeBinomial

    def rows(self, eta: np.ndarray) -> RowTerms:
        a, y = self.distribution.alpha, self.y
        with np.errstate(over="ignore", invalid="ignore"):
            mu = np.exp(eta)
            total = 1.0 + a * mu
            spread = np.log1p(a * mu)
            values = xlogy(y, mu) - y * spread - (spread / a if a > 0.0 else mu)
            score = (y - mu) / total
            weight = mu * (1.0 + a * y) / (total * total)
            if self.w is not None:
                values, score, weight = self.w * values, self.w * score, self.w * weight
        value = float(values.sum())
        if not (np.isfinite(value) and np.isfinite(weight).all()):
            return RowTerms(eta, -np.inf)
        return RowTerms(eta, value, score, weight, weight, None, mu)

    def _slope(self, terms: RowTerms) -> np.ndarray:
        x = self.distribution.alpha * terms.mean
        return terms.weight * (1.0 - x) / (1.0 + x)

    def shape_terms(self, terms: RowTerms) -> tuple[float, np.ndarray, np.ndarray, float]:
        a, y, mu = self.distribution.alpha, self.y, terms.mean
        rows, factor, information = self.distribution.shape_terms(mu, mu)
        total = 1.0 + a * mu
        weight = a * mu * (y * total - 2.0 * mu * (1.0 + a * y)) / total**3
        if self.w is not None:
            weight = self.w * weight
        return float(rows.sum()), terms.score * factor, weight, information


class GammaLogResponse(FamilyResponse):
    """Gamma with the log link, observed weights."""

    distribution: Gamma

    def rows(self, eta: np.ndarray) -> RowTerms:
        k = self.distribution.multiplier()
        with np.errstate(over="ignore", invalid="ignore"):
            mu = np.exp(eta)
            ratio = self.y / mu
            weight = k * ratio
            total = -float((k * (eta + ratio)).sum())
        if not np.isfinite(total):
            return RowTerms(eta, -np.inf)
        return RowTerms(eta, total, weight - k, weight, weight, None, mu)

    def _slope(self, terms: RowTerms) -> np.ndarray:
        return -terms.weight


_FAST: dict[tuple[str, str, str | None], type[FamilyResponse]] = {
    ("Binomial", "logit", None): LogisticResponse,
    ("Poisson", "log", None): PoissonLogResponse,
    ("NegativeBinomial", "log", "observed"): NegativeBinomialLogResponse,
    ("Gamma", "log", "observed"): GammaLogResponse,
}
