"""Random effects and a residual structure that describe the same covariance: which, and how it is split.

Where the data determine only the sum of two covariances, every split has the same likelihood, and where an optimiser
stops depends on its start. Of all splits the one with the largest entropy of random effects and residuals is taken:
the largest log|G| + log|R|. It is unique, because the splits form an affine set on which that is strictly concave, and
it keeps away from singular covariances.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from mvmise_sm.core.optimise.steps import first_taken

__all__ = ["Redundancy", "largest_entropy", "redundancy"]

# eigenvalue of the scaled information below which a direction is not determined, and the share of a term in it
_FLAT, _SHARE = 1e-8, 0.01
# step of central differences in parameters of order one
_STEP = 1e-4
# a covariance that moves by less than this share of the one that moves most takes no part
_MOVED = 1e-3
# Newton's method on a concave function of a few variables
_ITERATIONS, _DECREMENT = 50, 1e-18
# a split whose criterion differs by more than this from the optimum is none
_SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Redundancy:
    """What the data leave open.

    Attributes
    ----------
    terms : tuple of int
        Random-effects terms whose covariance the residual structure can take over.
    directions : ndarray
        Flat directions of the working parameters (k_theta, d).
    """

    terms: tuple[int, ...]
    directions: np.ndarray


def redundancy(criterion: Any, theta: np.ndarray) -> Redundancy | None:
    """Find random terms and residual parameters of which the data determine only the sum.

    Parameters
    ----------
    criterion : WhitenedDeviance
    theta : ndarray
        Working parameters at the optimum (k_theta,).

    Returns
    -------
    Redundancy or None
        None if the data determine everything.
    """
    solution = criterion.eliminated(theta)[1]
    xi = np.append(-solution.beta, 1.0)
    a, b = criterion.derivatives(theta, solution.gram_weights, xi, solution.cov_beta)[2:]
    b = b / solution.sigma2
    information = a / solution.sigma2 - solution.curvature_c * np.outer(b, b)
    free = np.flatnonzero((theta > criterion.lower) & (information.diagonal() > 0.0))
    if not free.size:
        return None
    size = np.sqrt(information.diagonal()[free])
    values, vectors = np.linalg.eigh(information[np.ix_(free, free)] / np.outer(size, size))
    vectors = vectors[:, values < _FLAT]
    share = np.zeros(theta.size)
    share[free] = np.square(vectors).sum(axis=1)
    if share[criterion.k_g :].sum() < _SHARE:
        return None
    directions = np.zeros((theta.size, vectors.shape[1]))
    directions[free] = vectors / size[:, None]
    directions /= np.abs(directions).max(axis=0)
    # theta is relative to sigma, which moves along a flat direction; what counts is the covariance itself
    moves = _moves(criterion, theta, directions)
    amount = np.array([max(float(np.abs(move[k]).max()) for move in moves) for k in range(len(moves[0]))])
    found = np.flatnonzero(amount[: len(criterion.random.terms)] > _MOVED * amount.max())
    return Redundancy(tuple(int(t) for t in found), directions) if found.size else None


def largest_entropy(criterion: Any, theta: np.ndarray, found: Redundancy) -> np.ndarray | None:
    """Working parameters (k_theta,) of the equivalent split with the largest log|G| + log|R|.

    Parameters
    ----------
    criterion : WhitenedDeviance
    theta : ndarray
        Working parameters at an optimum (k_theta,).
    found : Redundancy

    Returns
    -------
    ndarray or None
        None where the equivalent splits are no affine set, or the optimum is singular.
    """
    here, moves = _covariances(criterion, theta), _moves(criterion, theta, found.directions)
    counts = [np.full(1, float(t.factor.n_effects)) for t in criterion.random.terms]
    counts += [batch.counts for batch in criterion.residual.rows.batches]
    try:
        best = _maximise(here, moves, counts)
        moved = None if best is None else _parameters(criterion, theta, best)
        same = moved is not None and abs(criterion.value(moved) - criterion.value(theta)) < _SAME
    except np.linalg.LinAlgError:
        return None
    return moved if same else None


def _covariances(criterion: Any, theta: np.ndarray) -> list[np.ndarray]:
    """Sigma of every term (1, q, q) and R of every pattern (s, m, m), times sigma^2."""
    _, solution, terms, _ = criterion.eliminated(theta)
    sigmas = [sigma[None] for sigma in criterion.space.user_sigmas(terms)]
    structure, phi = criterion.residual.structure, theta[criterion.k_g :]
    blocks = [structure.blocks(phi, batch) for batch in criterion.residual.rows.batches]
    return [solution.sigma2 * c for c in [*sigmas, *blocks]]


def _moves(criterion: Any, theta: np.ndarray, directions: np.ndarray) -> list[list[np.ndarray]]:
    """Derivatives of `_covariances` along every direction."""
    out = []
    for direction in directions.T:
        up, down = (_covariances(criterion, theta + sign * _STEP * direction) for sign in (1.0, -1.0))
        out.append([(u - d) / (2.0 * _STEP) for u, d in zip(up, down, strict=True)])
    return out


def _entropy(covariances: list[np.ndarray], counts: list[np.ndarray]) -> float:
    """Sum of log-determinants, -inf where a matrix is not positive definite."""
    total = 0.0
    for c, count in zip(covariances, counts, strict=True):
        try:
            root = np.linalg.cholesky(c)
        except np.linalg.LinAlgError:
            return -np.inf
        total += 2.0 * float(count @ np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1))
    return total


def _maximise(here: list[np.ndarray], moves: list, counts: list[np.ndarray]) -> list[np.ndarray] | None:
    """The member of ``here + sum_i x_i moves_i`` with the largest entropy; None from a singular start."""
    d = len(moves)
    value = _entropy(here, counts)
    if not np.isfinite(value):
        return None
    for _ in range(_ITERATIONS):
        gradient, curvature = np.zeros(d), np.zeros((d, d))
        for k, count in enumerate(counts):
            inverse = np.linalg.inv(here[k])
            along = [inverse @ move[k] for move in moves]
            for i in range(d):
                gradient[i] += count @ np.trace(along[i], axis1=1, axis2=2)
                for j in range(i + 1):
                    curvature[i, j] += count @ (along[i] * along[j].transpose(0, 2, 1)).sum(axis=(1, 2))
        curvature = np.tril(curvature) + np.tril(curvature, -1).T
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        if gradient @ step <= _DECREMENT * max(abs(value), 1.0):
            break
        taken = first_taken(partial(_higher, here, moves, counts, step, value), shortest=1e-10)
        if taken is None:
            break
        here, value = taken
    return here


def _higher(
    here: list[np.ndarray], moves: list, counts: list[np.ndarray], step: np.ndarray, value: float, size: float
) -> tuple[list[np.ndarray], float] | None:
    """The covariances after a step and their entropy, None where that is no larger than `value`."""
    tried = [h + sum(size * x * m[k] for x, m in zip(step, moves, strict=True)) for k, h in enumerate(here)]
    reached = _entropy(tried, counts)
    return (tried, reached) if reached > value else None


def _parameters(criterion: Any, theta: np.ndarray, covariances: list[np.ndarray]) -> np.ndarray:
    """Working parameters (k_theta,) of these covariances."""
    count, structure = len(criterion.random.terms), criterion.residual.structure
    batches = criterion.residual.rows.batches
    target = np.concatenate([c.ravel() for c in covariances[count:]])

    def gap(x: np.ndarray) -> np.ndarray:
        blocks = [structure.blocks(x[1:], batch).ravel() for batch in batches]
        return np.exp(x[0]) * np.concatenate(blocks) - target

    def slopes(x: np.ndarray) -> np.ndarray:
        tangents = [structure.block_tangents(x[1:], batch).reshape(structure.k_phi, -1) for batch in batches]
        return np.exp(x[0]) * np.column_stack([(gap(x) + target) / np.exp(x[0]), np.concatenate(tangents, axis=1).T])

    start = np.append(np.log(criterion.eliminated(theta)[1].sigma2), theta[criterion.k_g :])
    x = least_squares(gap, start, slopes, xtol=1e-15, ftol=1e-15, gtol=1e-15).x
    user = criterion.user_theta(theta)
    for term, at, sigma in zip(criterion.random.terms, criterion.random.theta_slices, covariances[:count], strict=True):
        user[at] = term.structure.theta_from(sigma[0] / np.exp(x[0]))
    user[criterion.k_g :] = x[1:]
    return np.asarray(criterion.working_theta(user))
