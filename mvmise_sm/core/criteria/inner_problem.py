"""The problem in (beta, sigma2) that remains at one theta, without priors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg.lapack import dpotrf, dtrtri, dtrtrs

__all__ = ["FlatInnerProblem", "HeldScaleProblem", "InnerProblem", "InnerSolution"]

_LOG_2PI = float(np.log(2.0 * np.pi))


@dataclass(frozen=True, slots=True, eq=False)
class InnerSolution:
    """Optimum over (beta, sigma2) at one theta, working coordinates.

    Attributes
    ----------
    value : float
        The objective without log|M| and without the constant of the prior weights.
    penalty : float
        The part of `value` that is -2 log prior.
    beta : ndarray
        (p,).
    sigma2 : float
        Residual variance.
    r2 : float
        Residual quadratic form at beta.
    nu : float
        Degrees of freedom of the profile.
    logdet_x : float
        log|X'V^-1X| in the user's coordinates.
    gram_weights : ndarray
        d value / d gram (m, m), symmetric.
    sigma_gradients : tuple or None
        Explicit d value / d Sigma of every term in the user's coordinates (q, q), None where there is none.
    sigma_hessians : tuple or None
        Per term a function that returns the second derivative of its covariance prior in vec(Sigma) at fixed sigma2
        (q * q, q * q); None where there is no prior.
    sigma_crosses : tuple or None
        Mixed derivative of the covariance priors in Sigma and log sigma2 (q, q), None where there is none.
    projection : ndarray or None
        For the average information in place of `cov_beta`, where beta is least squares with other weights (p, p).
    cov_beta : ndarray
        Unscaled covariance of beta (p, p).
    curvature_c : float
        c of the average information A / sigma2 - c b b' / sigma2**2.
    """

    value: float
    penalty: float
    beta: np.ndarray
    sigma2: float
    r2: float
    nu: float
    logdet_x: float
    gram_weights: np.ndarray
    cov_beta: np.ndarray
    curvature_c: float
    sigma_gradients: tuple | None = None
    sigma_hessians: tuple | None = None
    sigma_crosses: tuple | None = None
    projection: np.ndarray | None = None


class InnerProblem(Protocol):
    """What the deviance asks of the problem in (beta, sigma2).

    Attributes
    ----------
    uses_sigmas : bool
        Whether `solve` needs the relative covariances.
    repels : tuple of bool
        For every term, whether a prior makes a singular covariance impossible; empty without priors.
    attracts : tuple of bool
        For every term, whether a prior makes a standard deviation of 0 a local mode; empty without priors.
    several_modes : bool
        Whether priors in conflict with the data may leave more than one mode.
    """

    uses_sigmas: bool
    repels: tuple
    attracts: tuple
    several_modes: bool

    def solve(self, gram: np.ndarray, sigmas: list[np.ndarray] | None) -> InnerSolution:
        """Minimise over (beta, sigma2) given the gram matrix K (m, m) and the terms' relative covariances."""

    def check(self, sigmas: list[np.ndarray] | None) -> None:
        """Raise ValueError if covariances are no estimate, although the objective is finite there."""

    def evaluate(
        self, gram: np.ndarray, sigmas: list[np.ndarray], beta: np.ndarray, sigma2: float | None = None
    ) -> tuple[float, float, float]:
        """-2 log L without log|M|, penalty and sigma2 at given working `beta` (p,); sigma2 is profiled if None."""


class HeldScaleProblem(InnerProblem, Protocol):
    """An inner problem whose residual variance can be held, as profiles ask."""

    def at_scale(self, rho: float) -> InnerProblem:
        """The same problem in beta alone, at sigma2 = exp(rho)."""


class FlatInnerProblem:
    """Maximum likelihood or REML without priors (blme paper, equations 6 and 8).

    Parameters
    ----------
    nobs, k_fe : int
        Rows and fixed effects.
    reml : bool
        Integrate beta.
    logdet_a : float
        log |det A| of the working coordinates.
    """

    repels = ()
    attracts = ()
    several_modes = False

    def __init__(self, nobs: int, k_fe: int, reml: bool, logdet_a: float) -> None:
        self.p = k_fe
        self.nobs = nobs
        self.reml = reml
        self.nu = float(nobs - k_fe if reml else nobs)
        self.logdet_a = logdet_a
        self.uses_sigmas = False

    def solve(self, gram: np.ndarray, sigmas: list[np.ndarray] | None = None) -> InnerSolution:
        p, nu = self.p, self.nu
        # the last row of the factor solves for beta, and its last pivot is the root of the residual
        factor, info = dpotrf(gram.T, lower=1)
        if 0 < info <= p:
            raise np.linalg.LinAlgError("X'V^-1X is not positive definite")
        xi = np.ones(p + 1)
        if p:
            upper = factor[:p, :p]
            half = factor[p, :p] if not info else dtrtrs(upper, gram[:p, p], lower=1)[0]
            beta = dtrtrs(upper, half, lower=1, trans=1)[0]
            logdet_x = 2.0 * float(np.add.reduce(np.log(upper.diagonal())))
            root = dtrtri(upper, lower=1)[0]
            cov_beta = root.T @ root
            np.negative(beta, out=xi[:p])
        else:
            beta, logdet_x, cov_beta = np.zeros(0), 0.0, np.zeros((0, 0))
        # no residual but rounding
        r2 = 1e-300 if info else max(float(factor[p, p]) * float(factor[p, p]), 1e-300)
        sigma2 = r2 / nu
        weights = np.multiply.outer(xi, xi / sigma2)
        value = nu * (1.0 + _LOG_2PI + math.log(sigma2))
        logdet_user = logdet_x - 2.0 * self.logdet_a
        if self.reml:
            value += logdet_user
            weights[:p, :p] += cov_beta
        return InnerSolution(value, 0.0, beta, sigma2, r2, nu, logdet_user, weights, cov_beta, 1.0 / nu)

    def check(self, sigmas: list[np.ndarray] | None) -> None:
        """Accept all covariances."""

    def evaluate(
        self, gram: np.ndarray, sigmas: list[np.ndarray], beta: np.ndarray, sigma2: float | None = None
    ) -> tuple[float, float, float]:
        """-2 log L without log|M|, penalty and sigma2 at given working `beta` (p,); sigma2 is profiled if None."""
        xi = np.append(-beta, 1.0)
        residual = float(xi @ gram @ xi)
        sigma2 = residual / self.nobs if sigma2 is None else sigma2
        return self.nobs * (_LOG_2PI + float(np.log(sigma2))) + residual / sigma2, 0.0, sigma2
