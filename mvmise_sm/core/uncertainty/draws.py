"""Draws of random effects from their normal law given the data and the other parameters.

A draw from the law before the data is corrected by the conditional mean of its own noisy observation (Papandreou and
Yuille 2010), so that nothing is factorised but what a fit factorises.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.core.criteria.pirls import weighed

__all__ = ["laplace_effects", "linear_effects"]


def linear_effects(
    criterion: Any, theta: np.ndarray, sigma2: float, y: np.ndarray, prior: tuple, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """One joint draw of fixed and random effects of a linear model given theta and sigma2.

    Parameters
    ----------
    criterion : ProfiledDeviance or ResidualCriterion
    theta : ndarray
        The user's theta (k_theta,).
    sigma2 : float
    y : ndarray
        Response (nobs,).
    prior : tuple
        Random effects drawn from their law without the data, a list of (n_levels, q), and a response (nobs,) simulated
        from them with fixed effects and offset zero.
    rng : Generator

    Returns
    -------
    beta : ndarray
        (p,).
    b : list of ndarray
        One (n_levels, q) per term.
    """
    solution = criterion.solve(theta)
    beta = solution.beta + root(sigma2 * solution.cov_beta) @ rng.standard_normal(len(solution.beta))
    effects, simulated = prior
    correction = criterion.refitted(y - simulated).random_effects_at(theta, beta)
    return beta, [a + c for a, c in zip(effects, correction, strict=True)]


def laplace_effects(criterion: Any, mode: Any, rng: np.random.Generator, count: int) -> list[list[np.ndarray]]:
    """Draws of the deviations of the random effects from their mode, from Laplace's normal law N(0, P).

    Parameters
    ----------
    criterion : LaplaceDeviance
        Evaluated last where `mode` was found.
    mode : Mode
    rng : Generator
    count : int

    Returns
    -------
    list
        `count` lists of (q, J), one array per factor in working coordinates.
    """
    inc = criterion.incidence
    weight = mode.terms.convex()
    if weight is not mode.terms.weight and (weight != mode.terms.weight).any():
        return _dense_draws(mode, rng, count)
    half = _row_root(weight)
    prior, rhs = [], []
    for _ in range(count):
        b = [lam @ rng.standard_normal(x.shape) for lam, x in zip(criterion.merged_lambdas, mode.b, strict=True)]
        zb = inc.times(b)
        prior.append(b)
        rhs.append(inc.transposed(weighed(half, rng.standard_normal(zb.shape)) - weighed(weight, zb)))
    stacked = [np.stack([one[k] for one in rhs], axis=2) for k in range(len(rhs[0]))]
    coef = mode.weighted.solve_blocks(stacked)[0]
    return [[b + c[:, :, i] for b, c in zip(one, coef, strict=True)] for i, one in enumerate(prior)]


def _row_root(weight: np.ndarray) -> np.ndarray:
    """Symmetric roots of the weights by row, (n,) or (R, R, n)."""
    if weight.ndim == 1:
        return np.sqrt(weight)
    values, vectors = np.linalg.eigh(weight.transpose(2, 0, 1))
    return np.einsum("nik,nk,njk->ijn", vectors, np.sqrt(np.maximum(values, 0.0)), vectors)


def _dense_draws(mode: Any, rng: np.random.Generator, count: int) -> list[list[np.ndarray]]:
    """The same from the root of all of P: rows with a negative weight simulate no observation."""
    sizes = [x.size for x in mode.b]
    unit = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1])
    rhs = [u.reshape(*x.shape, -1) for u, x in zip(unit, mode.b, strict=True)]
    full = np.concatenate([c.reshape(-1, sum(sizes)) for c in mode.weighted.solve_blocks(rhs)[0]])
    sample = root(0.5 * (full + full.T)) @ rng.standard_normal((sum(sizes), count))
    parts = np.split(sample, np.cumsum(sizes)[:-1])
    return [[p[:, i].reshape(x.shape) for p, x in zip(parts, mode.b, strict=True)] for i in range(count)]


def root(cov: np.ndarray) -> np.ndarray:
    """R with RR' = cov (k, k), which may be singular."""
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(np.maximum(values, 0.0))
