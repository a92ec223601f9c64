"""Objectives whose profiles are traced: deviances in (theta, log sigma2), with a fixed effect held if wanted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.inner_problem import HeldScaleProblem
    from mvmise_sm.core.criteria.linear import ProfiledDeviance
    from mvmise_sm.core.interfaces import Factorization

__all__ = ["LinearTarget", "ResidualTarget"]

# beyond exp(+-300) squares of the scale are no longer numbers
_LARGEST_LOG = 300.0
_LOG_2PI = float(np.log(2.0 * np.pi))
# d objective / d rho by differences: the second one keeps half the digits that this leaves
_RHO_STEP = 1e-4
# width of the difference in the held value, relative; below _SMALL_SHIFT absolute
_HELD_STEP, _SMALL_SHIFT = 1e-5, 1e-3
# the objective is convex in rho near every profile's path; where the difference says otherwise, nearly flat
_LEAST_CURVATURE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A held contrast: working beta = t gamma + shift with gamma free, d shift / d value = unit."""

    t: np.ndarray
    shift: np.ndarray
    unit: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _AtScale:
    """The problem in beta at given sigma2 = exp(rho): value without log|M|, its derivatives in rho and in the gram
    matrix, (-beta, 1), covariance of beta, and gradients in the covariances (None without priors).
    """

    value: float
    first: float
    second: float
    weights: np.ndarray
    xi: np.ndarray
    cov: np.ndarray
    sigma_gradients: tuple | None


class LinearTarget:
    """The objective of a linear mixed model in x = (working theta, log sigma2); beta is profiled, with REML integrated.

    Parameters
    ----------
    criterion : ProfiledDeviance
        Fixed effects can be held with maximum likelihood only.
    priors : callable, optional
        Bound priors as an inner problem for any coordinates of beta: ``(nobs, k, a, b0) -> HeldScaleProblem``.
    """

    def __init__(
        self, criterion: ProfiledDeviance, priors: Callable[[int, int, np.ndarray, np.ndarray], Any] | None = None
    ) -> None:
        self.criterion = criterion
        self.k_theta = criterion.k_theta
        self._make_inner = priors
        self._held: _Held | None = None
        self._inner: HeldScaleProblem | None = None
        if priors is not None:
            basis = criterion.basis
            self._inner = priors(criterion.nobs, criterion.k_fe, basis.a, criterion.origin)

    def hold(self, contrast: np.ndarray, value: float) -> LinearTarget:
        """The same objective with ``contrast @ beta`` (user's coordinates) held at `value`."""
        criterion = self.criterion
        weights = criterion.basis.a.T @ contrast
        rest = value - float(contrast @ criterion.origin)
        size = float(weights @ weights)
        t = np.linalg.qr(np.column_stack([weights, np.eye(weights.size)]))[0][:, 1 : weights.size]
        return self._holding(_Held(t, weights * (rest / size), weights / size))

    def _holding(self, held: _Held) -> LinearTarget:
        out = copy.copy(self)
        out._held = held
        if self._make_inner is not None:
            a = self.criterion.basis.a
            b0 = self.criterion.origin + a @ held.shift
            out._inner = self._make_inner(self.criterion.nobs, held.t.shape[1], a @ held.t, b0)
        return out

    def start(self, theta: np.ndarray, sigma2: float) -> np.ndarray:
        """x for the user's theta and sigma2."""
        return np.append(self.criterion.working_theta(theta), np.log(sigma2))

    def _solve(self, gram: np.ndarray, rho: float, sigmas: list[np.ndarray] | None) -> _AtScale:
        if self._held is None:
            return self._solve_free(gram, rho, sigmas)
        t, shift = self._held.t, self._held.shift
        # takes (gamma, 1) coefficients of the held problem to those of [X y]
        reduction = np.zeros((t.shape[0] + 1, t.shape[1] + 1))
        reduction[:-1, :-1] = t
        reduction[:-1, -1] = -shift
        reduction[-1, -1] = 1.0
        out = self._solve_free(reduction.T @ gram @ reduction, rho, sigmas)
        return replace(out, weights=reduction @ out.weights @ reduction.T, xi=reduction @ out.xi, cov=t @ out.cov @ t.T)

    def _solve_free(self, gram: np.ndarray, rho: float, sigmas: list[np.ndarray] | None) -> _AtScale:
        if self._inner is None:
            return _flat(gram, rho, self.criterion.nobs, self.criterion.reml)
        return _with_priors(self._inner, gram, rho, sigmas)

    def held_slope(self, x: np.ndarray) -> float:
        """d objective / d held value at `x`.

        Raises
        ------
        ValueError
            If nothing is held.
        """
        if self._held is None:
            raise ValueError("no contrast is held")
        held = self._held
        factorization, terms = self._factorization(x)
        sigmas = self._sigmas(terms)
        gram, rho = factorization.gram, x[-1]
        if self._inner is None:
            xi = self._solve(gram, rho, sigmas).xi
            move = np.append(-held.unit, 0.0)
            return 2.0 * float(move @ gram @ xi) * float(np.exp(-rho))
        step = _HELD_STEP * max(float(np.abs(held.shift).max()), _SMALL_SHIFT)
        above, below = (
            self._holding(replace(held, shift=held.shift + move * held.unit))._solve(gram, rho, sigmas).value
            for move in (step, -step)
        )
        return (above - below) / (2.0 * step)

    def _factorization(self, x: np.ndarray) -> tuple[Factorization, list[np.ndarray]]:
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
        inner = self._solve(factorization.gram, rho, self._sigmas(terms))
        slopes = space.by_term(factorization.derivatives(inner.weights))
        if inner.sigma_gradients is not None:
            for t, (basis, part) in enumerate(zip(criterion.layout.term_bases, inner.sigma_gradients, strict=True)):
                if part is not None:
                    slopes[t] = slopes[t] + basis.a.T @ part @ basis.a
        gradient, directions, _, curvature = space.chain_rule(x[:-1], terms, slopes, [False] * len(terms))
        a, b = factorization.information(directions, inner.xi, inner.cov)
        s2 = float(np.exp(rho))
        information = np.empty((k + 1, k + 1))
        information[:k, :k] = a / s2 + curvature
        information[:k, k] = information[k, :k] = b / s2
        information[k, k] = inner.second
        value = inner.value + factorization.logdet + criterion.constant
        return value, np.append(gradient, inner.first), information


class ResidualTarget(LinearTarget):
    """The same for a criterion with structured residuals, x = (theta, phi, log sigma2)."""

    criterion: Any

    def _factorization(self, x: np.ndarray) -> tuple[Any, list[np.ndarray]]:
        factorization, _, terms, _ = self.criterion.eliminated(x[:-1])
        return factorization, terms

    def evaluate(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient (k,) and positive semidefinite information (k, k) at x."""
        theta, rho, k = x[:-1], x[-1], self.k_theta
        factorization, solution, terms, value = self.criterion.eliminated(theta)
        inner = self._solve(factorization.gram, rho, self._sigmas(terms))
        gradient, curvature, a, b = self.criterion.derivatives(theta, inner.weights, inner.xi, inner.cov)
        s2 = float(np.exp(rho))
        information = np.empty((k + 1, k + 1))
        information[:k, :k] = a / s2 + curvature
        information[:k, k] = information[k, :k] = b / s2
        information[k, k] = inner.second
        return value - solution.value + inner.value, np.append(gradient, inner.first), information


def _flat(gram: np.ndarray, rho: float, nobs: int, reml: bool) -> _AtScale:
    p = gram.shape[0] - 1
    inverse = np.linalg.inv(gram[:p, :p])
    beta = inverse @ gram[:p, p]
    xi = np.append(-beta, 1.0)
    if abs(rho) > _LARGEST_LOG:
        raise np.linalg.LinAlgError("the residual variance is out of range")
    s2 = float(np.exp(rho))
    r2 = float(xi @ gram @ xi)
    nu = nobs - p if reml else nobs
    value = nu * (_LOG_2PI + rho) + r2 / s2
    weights = np.multiply.outer(xi, xi / s2)
    if reml:
        value -= float(np.linalg.slogdet(inverse)[1])
        weights[:p, :p] += inverse
    return _AtScale(value, nu - r2 / s2, r2 / s2, weights, xi, inverse, None)


def _with_priors(inner: HeldScaleProblem, gram: np.ndarray, rho: float, sigmas: list[np.ndarray] | None) -> _AtScale:
    """The same with priors; derivatives in rho by differences at the fixed gram matrix."""
    middle, above, below = (inner.at_scale(r).solve(gram, sigmas) for r in (rho, rho + _RHO_STEP, rho - _RHO_STEP))
    first = (above.value - below.value) / (2.0 * _RHO_STEP)
    second = (above.value - 2.0 * middle.value + below.value) / _RHO_STEP**2
    return _AtScale(
        middle.value,
        first,
        max(second, _LEAST_CURVATURE),
        middle.gram_weights,
        np.append(-middle.beta, 1.0),
        middle.cov_beta,
        middle.sigma_gradients,
    )
