"""Small-sample inference for models with structured residuals, from the observed information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mvmise_sm.core.uncertainty.kenward_roger import KenwardRoger
from mvmise_sm.core.uncertainty.second_order import SecondOrder, semidefinite_inverse

__all__ = ["InformationParts", "residual_kenward_roger", "residual_second_order"]


@dataclass(frozen=True, slots=True, eq=False)
class InformationParts:
    """Contractions of the derivatives dV_i of V (relative to sigma^2) in the covariance parameters (k,).

    Attributes
    ----------
    single : ndarray
        X'V^-1 dV_i V^-1 X (k, p, p).
    double : ndarray
        X'V^-1 dV_i V^-1 dV_j V^-1 X (k, k, p, p).
    traces : ndarray
        tr(V^-1 dV_i) (k,).
    pairs : ndarray
        tr(V^-1 dV_i V^-1 dV_j) (k, k).
    average : ndarray
        a_i'P a_j with a_i = dV_i V^-1 e (k, k).
    score : ndarray
        a_i'V^-1 e (k,).
    gradient : ndarray
        Of the criterion (k,).
    curvature : ndarray
        <dcrit/dV, d2V_ij> (k, k).
    """

    single: np.ndarray
    double: np.ndarray
    traces: np.ndarray
    pairs: np.ndarray
    average: np.ndarray
    score: np.ndarray
    gradient: np.ndarray
    curvature: np.ndarray


def _hessian(criterion: Any, parts: InformationParts, solution: Any) -> np.ndarray:
    """Exact Hessian of the criterion in (theta, log sigma2), beta profiled or integrated (k + 1, k + 1).

    observed = 2 A - E + <D, d2V>, with V itself as its derivative in log sigma2.
    """
    k, c, s2 = len(parts.traces), solution.cov_beta, solution.sigma2
    out = np.empty((k + 1, k + 1))
    expected, first = parts.pairs.copy(), parts.traces.copy()
    size = float(criterion.nobs)
    if criterion.reml:
        half = parts.single @ c
        expected -= 2.0 * np.einsum("ijmn,nm->ij", parts.double, c)
        expected += np.einsum("imn,jnm->ij", half, half)
        first -= np.trace(half, axis1=1, axis2=2)
        size -= criterion.k_fe
    out[:k, :k] = 2.0 * parts.average / s2 - expected + parts.curvature
    out[:k, k] = out[k, :k] = 2.0 * parts.score / s2 - first + parts.gradient
    out[k, k] = 2.0 * solution.r2 / s2 - size + (size - solution.r2 / s2)
    return 0.5 * (out + out.T)


def residual_second_order(criterion: Any, theta: np.ndarray) -> SecondOrder:
    """Uncertainty of (theta, log sigma2) and the slopes of the covariance of beta, without differences of gradients.

    Parameters
    ----------
    criterion : MarginalDeviance
    theta : ndarray
        At the optimum (k,).
    """
    parts, solution = criterion.information_parts(theta), criterion.eliminated(theta)[1]
    hessian = _hessian(criterion, parts, solution)
    k = theta.size
    cov = 2.0 * semidefinite_inverse(hessian)
    a, s2 = criterion.basis.a, solution.sigma2
    half = a @ solution.cov_beta
    slopes = np.concatenate([half @ parts.single @ half.T, (half @ a.T)[None]]) * s2
    slope = -hessian[:k, k] / hessian[k, k]
    profiled = hessian[:k, :k] - np.outer(hessian[:k, k], hessian[:k, k]) / hessian[k, k]
    return SecondOrder(cov, slopes, profiled, slope)


def residual_kenward_roger(criterion: Any, theta: np.ndarray) -> KenwardRoger:
    """Kenward and Roger's adjusted covariance, first order, with the observed information (SAS, mmrm).

    Parameters
    ----------
    criterion : MarginalDeviance or WhitenedDeviance
        REML, without priors.
    theta : ndarray
        At the optimum (k,).

    References
    ----------
    Kenward and Roger (1997), Biometrics 53; Kenward and Roger (2009), Computational Statistics and Data Analysis 53.
    """
    solution = criterion.eliminated(theta)[1]
    weights = criterion.second_order(theta).cov
    singles, doubles = criterion.products(theta)
    k, p = theta.size, criterion.k_fe
    c, s2, a = solution.cov_beta, solution.sigma2, criterion.basis.a
    gram = np.linalg.inv(c) if p else c
    single = np.concatenate([singles, gram[None]])
    double = np.empty((k + 1, k + 1, p, p))
    double[:k, :k] = doubles
    double[:k, k] = double[k, :k] = singles
    double[k, k] = gram
    sandwich = single @ c
    u = np.einsum("ij,ijmn->mn", weights, double) - np.einsum(
        "ij,imk,jkn->mn", weights, sandwich, single, optimize=True
    )
    half = a @ c
    phi = s2 * half @ a.T
    adjusted = phi + 2.0 * s2 * half @ (0.5 * (u + u.T)) @ half.T
    return KenwardRoger(phi, adjusted, -s2 * (half @ single @ half.T), weights)
