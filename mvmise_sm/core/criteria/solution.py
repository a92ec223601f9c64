"""What the profiled deviance hands on: its shape at one theta, and the solution there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Evaluation", "GeneralizedSolution", "PLSSolution"]


@dataclass(frozen=True, slots=True, eq=False)
class PLSSolution:
    """Penalised least squares at one theta, in the user's coordinates.

    Attributes
    ----------
    theta : ndarray
        (k_theta,).
    beta : ndarray
        (p,).
    b : tuple of ndarray
        Conditional modes of the random effects, one (n_levels, q) per term.
    sigma2 : float
        Residual variance.
    cov_beta : ndarray
        Covariance of beta over sigma2 (p, p).
    logdet_m, logdet_x : float
        log|M| and log|X'V^-1X|.
    r2 : float
        Penalised residual sum of squares.
    nu : float
        Degrees of freedom of the profile.
    criterion : float
        REML criterion or -2 log L, without the prior.
    penalty : float
        -2 log prior.
    """

    theta: np.ndarray
    beta: np.ndarray
    b: tuple
    sigma2: float
    cov_beta: np.ndarray
    logdet_m: float
    logdet_x: float
    r2: float
    nu: float
    criterion: float
    penalty: float

    @property
    def objective(self) -> float:
        """What was minimised: criterion + penalty."""
        return self.criterion + self.penalty


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The objective and its local shape at one working theta.

    Attributes
    ----------
    theta : ndarray
        Working theta (k_theta,).
    value : float
    gradient : ndarray
        (k_theta,).
    information : ndarray
        Positive semidefinite approximation of the Hessian (k_theta, k_theta).
    slopes : tuple of ndarray
        D of every term (q, q): derivative of the objective in the working Sigma.
    """

    theta: np.ndarray
    value: float
    gradient: np.ndarray
    information: np.ndarray
    slopes: tuple


@dataclass(frozen=True, slots=True, eq=False)
class GeneralizedSolution:
    """A generalised linear mixed model at one point, in the user's coordinates.

    Attributes
    ----------
    theta : ndarray
        Covariance parameters relative to the dispersion (k_theta,).
    beta : ndarray
        (p,).
    b : tuple of ndarray
        Conditional modes, one (n_levels, q) per term.
    sigma2 : float
        Dispersion phi, 1.0 for families without.
    alpha : float or None
        Parameter of the negative binomial variance.
    cov_beta : ndarray
        (X'V^-1X)^-1 of the penalised least squares step at the mode over sigma2 (p, p), without the prior of beta as in
        blme; with it where beta is profiled.
    eta : ndarray or None
        Linear predictor (nobs,); None once the rows are let go.
    square : float
        u'u.
    logdet_m : float
        log|M|.
    criterion : float
        -2 log L.
    penalty : float
        -2 log prior.
    """

    theta: np.ndarray
    beta: np.ndarray
    b: tuple
    sigma2: float
    alpha: float | None
    cov_beta: np.ndarray
    eta: np.ndarray | None
    square: float
    logdet_m: float
    criterion: float
    penalty: float

    @property
    def objective(self) -> float:
        """What was minimised: criterion + penalty."""
        return self.criterion + self.penalty
