"""Rows of a generalised linear model: log-likelihood, score and weights as functions of the linear predictor.

Families and links are handed in and used by their attributes (``link``, ``variance``, ``alpha``, statsmodels' own).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.core.families.distributions import DISTRIBUTIONS
from mvmise_sm.core.families.links import mean_function

__all__ = ["FamilyResponse", "RowTerms", "make_response"]


@dataclass(slots=True, eq=False)
class RowTerms:
    """One linear predictor's rows; all arrays (nobs,).

    Attributes
    ----------
    eta : ndarray
        Linear predictor.
    loglik : float
        Sum of the log-likelihood without its constant; -inf outside the domain of the link.
    score : ndarray
        d log f / d eta.
    weight : ndarray
        Expected -d2 log f / d eta2.
    observed : ndarray
        -d2 log f / d eta2; the same object as `weight` for a canonical link.
    slope : ndarray
        d weight / d eta.
    mean : ndarray
        Mean at eta.
    """

    eta: np.ndarray
    loglik: float
    score: np.ndarray | None = None
    weight: np.ndarray | None = None
    observed: np.ndarray | None = None
    slope: np.ndarray | None = None
    mean: np.ndarray | None = None


def make_response(family, y, weights=None, *, estimate_shape=None):
    """The rows of `family` for a response.

    Parameters
    ----------
    family : object
        A statsmodels family instance: ``link``, ``variance``, and ``alpha`` where the variance has one.
    y : ndarray
        Response (nobs,); proportions for the binomial family.
    weights : ndarray, optional
        Prior weights (nobs,), numbers of trials for the binomial family.
    estimate_shape : bool, optional
        Whether the dispersion, or alpha of the negative binomial, is estimated; by default where the family has a
        dispersion.

    Returns
    -------
    FamilyResponse

    Raises
    ------
    ValueError
        If the family has no likelihood here.
    """
    cls = _FAST.get((_kind(family), type(family.link).__name__), FamilyResponse)
    return cls(family, y, weights, estimate_shape=estimate_shape)


def _kind(family):
    for cls in type(family).__mro__:
        if cls.__name__ in DISTRIBUTIONS:
            return cls.__name__
    raise ValueError(f"family must be one of {', '.join(DISTRIBUTIONS)}, got {type(family).__name__}")


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

    def __init__(self, family, y, weights=None, *, estimate_shape=None):
        self.family = family
        self.y = y
        self.w = weights
        self.name = _kind(family)
        self.link = mean_function(family.link)
        self.distribution = DISTRIBUTIONS[self.name](y, weights, getattr(family, "alpha", None))
        self.estimates_shape = self.distribution.dispersed if estimate_shape is None else estimate_shape
        self.canonical = self.link.canonical_for == self.name
        self.set_shape(self.distribution.start_shape())

    def refitted(self, y):
        """The same family and weights for another response (nobs,)."""
        return type(self)(self.family, y, self.w, estimate_shape=self.estimates_shape)

    def set_shape(self, shape):
        """Use another log dispersion or log alpha."""
        self.shape = shape
        self.distribution.set_shape(shape)
        self.constant = self.distribution.constant()

    @property
    def scale(self):
        return self.distribution.phi

    def start_eta(self):
        """A linear predictor close to the data (nobs,)."""
        return self.link.link(self.distribution.start_mean())

    def constant_eta(self):
        """The linear predictor of the mean response."""
        return float(self.link.link(np.atleast_1d(self.distribution.mean_response()))[0])

    def row_loglik(self, eta):
        """Log-likelihood by row without its constant, and score (nobs,)."""
        mu, nu, d1, _ = self.link(eta)
        with np.errstate(all="ignore"):
            rows = self.distribution.loglik(mu, nu)
            score = self.distribution.residual(mu, nu) * d1
        bad = ~(self.distribution.valid(mu) & np.isfinite(rows))
        if bad.any():
            rows, score = np.where(bad, -np.inf, rows), np.where(bad, 0.0, score)
        return rows, score

    def loglik(self, eta):
        """Log-likelihood without its constant."""
        mu, nu, _, _ = self.link(eta)
        return self._total(mu, nu)

    def _total(self, mu, nu):
        if not self.distribution.valid(mu).all():
            return -np.inf
        with np.errstate(all="ignore"):
            total = float(self.distribution.loglik(mu, nu).sum())
        return total if np.isfinite(total) else -np.inf

    def rows(self, eta):
        """Everything at a linear predictor.

        Returns
        -------
        RowTerms
        """
        mu, nu, d1, d2 = self.link(eta)
        total = self._total(mu, nu)
        if total == -np.inf:
            return RowTerms(eta, total)
        with np.errstate(all="ignore"):
            ratio = self.distribution.residual(mu, nu)
            information, bend = self.distribution.precision(mu, nu)
            score = ratio * d1
            weight = information * d1 * d1
            slope = d1 * (2.0 * information * d2 + bend * d1 * d1)
            if self.canonical:
                observed = weight
            else:
                # (y - mu) V' / V^2 = -(y - mu) (1/V)' has `bend` = (1/V)' w / phi
                observed = weight - (self.distribution.difference(mu, nu) * bend * d1 * d1 + ratio * d2)
        if not (np.isfinite(score).all() and np.isfinite(observed).all()):
            return RowTerms(eta, -np.inf)
        return RowTerms(eta, total, score, weight, observed, slope, mu)

    def shape_terms(self, terms):
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
        mu, nu, _, _ = self.link(terms.eta)
        rows, factor, information = self.distribution.shape_terms(mu, nu)
        return float(rows.sum()), terms.score * factor, terms.weight * factor, information

    def shape_rows(self, eta):
        """d log f / d shape by row (nobs,)."""
        mu, nu, _, _ = self.link(eta)
        return self.distribution.shape_terms(mu, nu)[0] + np.zeros(eta.size)

    def deviance_rows(self, mu):
        """Contributions to the deviance (nobs,), prior weights included."""
        return self.distribution.unit_deviance(mu)


class LogisticResponse(FamilyResponse):
    """Bernoulli or binomial with the logit link."""

    def __init__(self, family, y, weights=None, *, estimate_shape=None):
        super().__init__(family, y, weights, estimate_shape=estimate_shape)
        self.canonical = True
        self._wy = y if weights is None else weights * y

    def _log_partition(self, eta, e):
        out = np.log1p(e)
        out += np.maximum(eta, 0.0)
        if self.w is not None:
            out *= self.w
        return out

    def loglik(self, eta):
        e = np.exp(-np.abs(eta))
        total = float(self._wy @ eta) - float(self._log_partition(eta, e).sum())
        return total if np.isfinite(total) else -np.inf

    def row_loglik(self, eta):
        e = np.exp(-np.abs(eta))
        rows = self._wy * eta
        rows -= self._log_partition(eta, e)
        mu = np.where(eta >= 0.0, 1.0, e)
        mu /= 1.0 + e
        if self.w is not None:
            mu *= self.w
        return rows, self._wy - mu

    def rows(self, eta):
        e = np.exp(-np.abs(eta))
        total = float(self._wy @ eta) - float(self._log_partition(eta, e).sum())
        if not np.isfinite(total):
            return RowTerms(eta, -np.inf)
        r = 1.0 / (1.0 + e)
        weight = e * r
        mean = np.where(eta >= 0.0, r, weight)
        weight *= r
        if self.w is None:
            score = self._wy - mean
        else:
            score = self._wy - self.w * mean
            weight *= self.w
        return RowTerms(eta, total, score, weight, weight, weight * (1.0 - 2.0 * mean), mean)


class PoissonLogResponse(FamilyResponse):
    """Poisson with the log link."""

    def __init__(self, family, y, weights=None, *, estimate_shape=None):
        super().__init__(family, y, weights, estimate_shape=estimate_shape)
        self.canonical = True
        self._wy = y if weights is None else weights * y

    def loglik(self, eta):
        with np.errstate(over="ignore"):
            mu = np.exp(eta)
        total = float(self._wy @ eta) - float(mu.sum() if self.w is None else self.w @ mu)
        return total if np.isfinite(total) else -np.inf

    def row_loglik(self, eta):
        with np.errstate(over="ignore"):
            mu = np.exp(eta)
        if self.w is not None:
            mu *= self.w
        score = self._wy - mu
        return self._wy * eta - mu, np.where(np.isfinite(score), score, 0.0)

    def rows(self, eta):
        with np.errstate(over="ignore"):
            mean = np.exp(eta)
        mu = mean if self.w is None else self.w * mean
        total = float(self._wy @ eta) - float(mu.sum())
        if not np.isfinite(total):
            return RowTerms(eta, -np.inf)
        return RowTerms(eta, total, self._wy - mu, mu, mu, mu, mean)


_FAST = {("Binomial", "Logit"): LogisticResponse, ("Poisson", "Log"): PoissonLogResponse}
