"""Uncertainty of (theta, sigma2) and what it does to the covariance of the fixed effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mvmise_sm.core.optimise.steps import differences, symmetric

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import FixedBasis
    from mvmise_sm.core.criteria.linear import ProfiledDeviance
    from mvmise_sm.core.criteria.solution import Evaluation
    from mvmise_sm.core.interfaces import Factorization

__all__ = ["SecondOrder", "gram_slopes", "second_order", "semidefinite_inverse"]

# width of the differences relative to theta, below _SMALL absolute: truncation and rounding are both near 1e-8
_STEP, _SMALL = 1e-4, 0.05
# share of the largest curvature below which a direction counts as flat, a hundred times the differences' error
_FLAT = 1e-6


class ProfiledCriterion(Protocol):
    """What the uncertainty of (theta, sigma2) is found from: a criterion of normal responses, whatever its residuals.

    Attributes
    ----------
    k_theta, k_fe : int
        Parameters of the covariances, and fixed effects.
    basis : FixedBasis
        Working coordinates of the fixed effects.
    """

    k_fe: int
    k_theta: int
    basis: FixedBasis

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Value, gradient and information at a working theta."""

    def eliminated(self, theta: np.ndarray) -> tuple[Any, Any, Any, float]:
        """Factorisation, solution of the inner problem, relative factors and objective at a working theta."""


@dataclass(frozen=True, slots=True, eq=False)
class SecondOrder:
    """Second-order shape of the objective at the optimum.

    Attributes
    ----------
    cov : ndarray
        Asymptotic covariance of (working theta, log sigma2) (k_theta + 1, k_theta + 1): twice the inverse Hessian of
        the objective with beta profiled or integrated; directions in which it is flat have variance 0.
    slopes : ndarray
        Derivatives of the covariance matrix of beta in the same parameters, user's coordinates (k_theta + 1, p, p).
    hessian : ndarray
        Hessian of the objective, sigma2 profiled, in the working theta (k_theta, k_theta).
    scale_slope : ndarray
        d log sigma2 / d working theta along the profile (k_theta,).
    """

    cov: np.ndarray
    slopes: np.ndarray
    hessian: np.ndarray
    scale_slope: np.ndarray


def score_columns(factorization: Factorization, m: int) -> list[np.ndarray]:
    """Z_k'V^-1[X y] of every grouping factor (q, J, m)."""
    columns = [factorization.scores(unit) for unit in np.eye(m)]
    return [np.stack([column[k] for column in columns], axis=2) for k in range(len(columns[0]))]


def gram_slopes(criterion: ProfiledDeviance, theta: np.ndarray) -> np.ndarray:
    """Derivatives of the gram matrix K = [X y]'V^-1[X y] in the working theta.

    With G = Z'V^-1[X y] the derivative in Sigma along E is -sum_j G_j' E G_j.

    Parameters
    ----------
    criterion : ProfiledDeviance
    theta : ndarray
        Working theta (k_theta,).

    Returns
    -------
    ndarray
        (k_theta, m, m).
    """
    factorization, _, terms, _ = criterion.eliminated(theta)
    m = criterion.k_fe + 1
    products = []
    for g in score_columns(factorization, m):
        q = g.shape[0]
        wide = g.transpose(1, 0, 2).reshape(-1, q * m)
        products.append((wide.T @ wide).reshape(q, m, q, m))
    zero = [np.zeros_like(lam) for lam in terms]
    directions = criterion.space.chain_rule(theta, terms, zero, [False] * len(terms))[1]
    return np.array([-np.einsum("ab,ambn->mn", e, products[k]) for k, e in directions])


def second_order(criterion: ProfiledCriterion, theta: np.ndarray, slopes_of_gram: np.ndarray) -> SecondOrder:
    """Shape of the objective and of the covariance of beta at the optimum.

    The Hessian is a central difference of the analytic gradient; the derivatives of the covariance of beta are
    analytic.

    Parameters
    ----------
    criterion : ProfiledCriterion
    theta : ndarray
        Working theta at the optimum (k_theta,).
    slopes_of_gram : ndarray
        Derivatives of X'V^-1X (k_theta, p, p), of random effects alone from `gram_slopes`.

    Returns
    -------
    SecondOrder
    """
    k, p = criterion.k_theta, criterion.k_fe

    def slopes_and_scale(moved: np.ndarray) -> np.ndarray:
        gradient = criterion.evaluate(moved).gradient
        return np.append(gradient, np.log(criterion.eliminated(moved)[1].sigma2))

    rows = differences(slopes_and_scale, theta, _STEP * np.maximum(np.abs(theta), _SMALL))
    hessian, scale_slope = symmetric(rows[:, :k]), rows[:, k]
    inner = criterion.eliminated(theta)[1]
    cov = np.empty((k + 1, k + 1))
    inverse = semidefinite_inverse(hessian)
    cov[:k, :k] = inverse
    cov[:k, k] = cov[k, :k] = inverse @ scale_slope
    cov[k, k] = inner.curvature_c + scale_slope @ inverse @ scale_slope
    half = criterion.basis.a @ inner.cov_beta
    slopes = np.empty((k + 1, p, p))
    slopes[:k] = -inner.sigma2 * (half @ slopes_of_gram @ half.T)
    slopes[k] = inner.sigma2 * (half @ criterion.basis.a.T)
    return SecondOrder(2.0 * cov, slopes, hessian, scale_slope)


def semidefinite_inverse(h: np.ndarray) -> np.ndarray:
    """Inverse on the directions in which `h` is clearly positive."""
    size = np.sqrt(np.maximum(np.abs(h.diagonal()), 1e-300))
    values, vectors = np.linalg.eigh(h / size / size[:, None])
    keep = values > _FLAT
    vectors = vectors[:, keep] / size[:, None]
    return (vectors / values[keep]) @ vectors.T
