"""Objectives whose profiles are traced: deviances in (theta, log sigma2), with a fixed effect held if wanted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.inner_problem import InnerProblem, InnerSolution
    from mvmise_sm.core.criteria.linear import ProfiledDeviance
    from mvmise_sm.core.elimination.dense import DenseFactorization

__all__ = ["LinearTarget"]

_LOG_2PI = float(np.log(2.0 * np.pi))
_RHO_STEP = 1e-4


class LinearTarget:
    """The objective of a linear mixed model in x = (working theta, log sigma2); beta is profiled, with REML integrated.

    Parameters
    ----------
    criterion : ProfiledDeviance
        Fixed effects can be held with maximum likelihood only.
    priors : object, optional
        Bound priors that make an inner problem for any coordinates of beta: ``inner(nobs, k, a, b0)``.
    """

    def __init__(self, criterion: ProfiledDeviance, priors: Callable[..., Any] | None = None) -> None:
        self.criterion = criterion
        self.k_theta = criterion.k_theta
        self._make_inner = priors
        self._held = None
        self._inner = None
        if priors is not None:
            basis = criterion.basis
            self._inner = priors(criterion.nobs, criterion.k_fe, basis.a, criterion.origin)

    def hold(self, contrast: np.ndarray, value: float) -> LinearTarget:
        """The same objective with ``contrast @ beta`` (user's coordinates) held at `value`."""
        out = copy.copy(self)
        criterion = self.criterion
        weights = criterion.basis.a.T @ contrast
        rest = value - float(contrast @ criterion.origin)
        size = float(weights @ weights)
        # working beta = t gamma + shift with gamma free
        t = np.linalg.qr(np.column_stack([weights, np.eye(weights.size)]))[0][:, 1 : weights.size]
        shift = weights * (rest / size)
        out._held = (t, shift, weights / size)
        if self._make_inner is not None:
            a = criterion.basis.a
            out._inner = self._make_inner(criterion.nobs, weights.size - 1, a @ t, criterion.origin + a @ shift)
        return out

    def start(self, theta: np.ndarray, sigma2: float) -> np.ndarray:
        """x for the user's theta and sigma2."""
        return np.append(self.criterion.working_theta(theta), np.log(sigma2))

    def _reduction(self) -> np.ndarray:
        """Matrix that takes (gamma, 1) coefficients of the held problem to those of [X y] (m, m')."""
        t, shift, _ = self._held
        out = np.zeros((t.shape[0] + 1, t.shape[1] + 1))
        out[:-1, :-1] = t
        out[:-1, -1] = -shift
        out[-1, -1] = 1.0
        return out

    def _solve(
        self, gram: np.ndarray, rho: float, sigmas: list[np.ndarray] | None
    ) -> tuple[float | np.ndarray | list[np.ndarray] | None, ...]:
        """value without log|M|, d value / d rho, its second derivative, weights, xi, cov_beta, covariance gradients."""
        reduction = None
        if self._held is not None:
            reduction = self._reduction()
            gram = reduction.T @ gram @ reduction
        if self._inner is None:
            out = _flat(gram, rho, self.criterion.nobs, self.criterion.reml)
        else:
            out = _with_priors(self._inner, gram, rho, sigmas)
        value, first, second, weights, xi, cov, extra = out
        if reduction is not None:
            t = self._held[0]
            weights = reduction @ weights @ reduction.T
            xi, cov = reduction @ xi, t @ cov @ t.T
        return value, first, second, weights, xi, cov, extra

    def held_slope(self, x: np.ndarray) -> float:
        """d objective / d held value at `x`."""
        factorization, terms = self._factorization(x)
        sigmas = self._sigmas(terms)
        gram, rho = factorization.gram, x[-1]
        if self._inner is None:
            xi = self._solve(gram, rho, sigmas)[4]
            move = np.append(-self._held[2], 0.0)
            return 2.0 * float(move @ gram @ xi) * float(np.exp(-rho))
        sides = []
        for sign in (1.0, -1.0):
            t, shift, unit = self._held
            moved = copy.copy(self)
            step = 1e-5 * max(np.abs(shift).max(), 1e-3)
            moved._held = (t, shift + sign * step * unit, unit)
            a = self.criterion.basis.a
            moved._inner = self._make_inner(
                self.criterion.nobs, t.shape[1], a @ t, self.criterion.origin + a @ moved._held[1]
            )
            sides.append(moved._solve(gram, rho, sigmas)[0])
        return (sides[0] - sides[1]) / (2.0 * step)

    def _factorization(self, x: np.ndarray) -> tuple[DenseFactorization, list[np.ndarray]]:
        merged, terms = self.criterion.space.factors(x[:-1])
        return self.criterion.system.factorize(merged), terms

    def _sigmas(self, terms: list[np.ndarray]) -> list[np.ndarray] | None:
        if self._inner is None or not self._inner.uses_sigmas:
            return None
        return self.criterion.space.user_sigmas(terms)

    def evaluate(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient (k,) and positive semidefinite information (k, k) at x."""
        criterion, space = self.criterion, self.criterion.space
        factorization, terms = self._factorization(x)
        rho, k = x[-1], self.k_theta
        value, first, second, weights, xi, cov, extra = self._solve(factorization.gram, rho, self._sigmas(terms))
        slopes = space.by_term(factorization.derivatives(weights))
        if extra is not None:
            for t, (basis, part) in enumerate(zip(criterion.layout.term_bases, extra, strict=True)):
                if part is not None:
                    slopes[t] = slopes[t] + basis.a.T @ part @ basis.a
        gradient, directions, _, curvature = space.chain_rule(x[:-1], terms, slopes, [False] * len(terms))
        a, b = factorization.information(directions, xi, cov)
        s2 = float(np.exp(rho))
        information = np.empty((k + 1, k + 1))
        information[:k, :k] = a / s2 + curvature
        information[:k, k] = information[k, :k] = b / s2
        information[k, k] = second
        return value + factorization.logdet + criterion.constant, np.append(gradient, first), information


def _flat(gram: np.ndarray, rho: float, nobs: int, reml: bool) -> tuple[float | np.ndarray | None, ...]:
    p = gram.shape[0] - 1
    inverse = np.linalg.inv(gram[:p, :p])
    beta = inverse @ gram[:p, p]
    xi = np.append(-beta, 1.0)
    s2 = float(np.exp(rho))
    r2 = float(xi @ gram @ xi)
    nu = nobs - p if reml else nobs
    value = nu * (_LOG_2PI + rho) + r2 / s2
    weights = np.multiply.outer(xi, xi / s2)
    if reml:
        value -= float(np.linalg.slogdet(inverse)[1])
        weights[:p, :p] += inverse
    return value, nu - r2 / s2, r2 / s2, weights, xi, inverse, None


def _with_priors(
    inner: InnerProblem, gram: np.ndarray, rho: float, sigmas: list[np.ndarray] | None
) -> tuple[float | np.ndarray | list[np.ndarray] | None, ...]:
    """The same through a inner whose sigma2 is held; derivatives in rho by differences at the fixed gram matrix."""

    def at(r: float) -> InnerSolution:
        fixed = copy.copy(inner)
        fixed.fixed_rho = float(r)
        return fixed.solve(gram, sigmas)

    middle, above, below = at(rho), at(rho + _RHO_STEP), at(rho - _RHO_STEP)
    first = (above.value - below.value) / (2.0 * _RHO_STEP)
    second = (above.value - 2.0 * middle.value + below.value) / _RHO_STEP**2
    xi = np.append(-middle.beta, 1.0)
    return middle.value, first, max(second, 1e-3), middle.gram_weights, xi, middle.cov_beta, middle.sigma_gradients
