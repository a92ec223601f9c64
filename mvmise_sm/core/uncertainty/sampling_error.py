"""What an estimated log-determinant leaves open: Monte-Carlo errors of the criterion and of every estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.linear import ProfiledDeviance
    from mvmise_sm.core.interfaces import EstimatedFactorization

__all__ = ["SamplingError", "sampling_error"]


@dataclass(frozen=True, slots=True, eq=False)
class SamplingError:
    """Errors that come from the probes alone.

    Attributes
    ----------
    criterion : float
        Half width of an interval around the criterion: four standard errors of the mean over probes and the error of
        the quadrature; an interval from sampling, not a bound.
    theta, beta : ndarray
        Standard errors over probes of the user's theta (k_theta,) and fixed effects (p,).
    scale : float
        The same of the residual variance.
    share : float
        The largest of theta's, as a share of its standard error over data.
    """

    criterion: float
    theta: np.ndarray
    beta: np.ndarray
    scale: float
    share: float


def sampling_error(criterion: ProfiledDeviance, theta: np.ndarray) -> SamplingError:
    """Errors at a working theta where the estimated score is zero.

    With the score's covariance C over probes and the average information H, theta has H^-1 C H^-1.

    Parameters
    ----------
    criterion : ProfiledDeviance
        Whose log-determinant is estimated.
    theta : ndarray
        (k_theta,).
    """
    evaluation = criterion.evaluate(theta)
    exact_or_not, _, terms, _ = criterion.eliminated(theta)
    factorization = cast("EstimatedFactorization", exact_or_not)
    width = factorization.rest.logdet_error
    rest = factorization.estimated[1]
    count, ddf = len(rest[0]), max(len(rest[0]) - 3, 1)
    exact = [False] * len(terms)
    scores = np.array(
        [
            criterion.space.chain_rule(theta, terms, criterion.space.by_term([part[i] for part in rest]), exact)[0]
            for i in range(count)
        ]
    )
    free = (theta > criterion.lower) & (evaluation.information.diagonal() > 0.0)
    cov = np.zeros((theta.size, theta.size))
    share = 0.0
    if free.any():
        inverse = np.linalg.pinv(evaluation.information[np.ix_(free, free)])
        cov[np.ix_(free, free)] = inverse @ (scores[:, free].T @ scores[:, free]) @ inverse / (count * ddf)
        statistical = np.maximum(2.0 * inverse.diagonal(), 1e-300)
        share = float(np.sqrt((cov.diagonal()[free] / statistical).max()))
    here, user = criterion.inner_solution(theta), criterion.user_theta(theta)
    moved = np.zeros(theta.size)
    beta, scale = np.zeros(criterion.k_fe), 0.0
    values, vectors = np.linalg.eigh(cov)
    for value, vector in zip(values, vectors.T, strict=True):
        if not value > 0.0:
            continue
        there = np.maximum(theta + np.sqrt(value) * vector, criterion.lower)
        inner = criterion.inner_solution(there)
        moved += np.square(criterion.user_theta(there) - user)
        beta += np.square(criterion.basis.a @ (inner.beta - here.beta))
        scale += (inner.sigma2 - here.sigma2) ** 2
    return SamplingError(width, np.sqrt(moved), np.sqrt(beta), float(np.sqrt(scale)), share)
