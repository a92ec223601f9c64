"""Quasi-Monte-Carlo evaluation of model e's likelihood, to check the marginal-product form."""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import qmc

from mvmise_sm.selection.error import ErrorLikelihood


def quasi_monte_carlo_llf(
    likelihood: ErrorLikelihood, theta: np.ndarray, *, n_points: int = 512, rng: int | np.random.Generator | None = None
) -> float:
    """Log-likelihood of model e with the capped mechanism, by sequential importance sampling (GHK) on Sobol points.

    Parameters
    ----------
    likelihood : ErrorLikelihood
    theta : ndarray
    n_points : int, optional
        Points for every cluster with more than one missing block; a power of two.
    rng : int or numpy.random.Generator, optional
        Seed of the scrambling.

    Returns
    -------
    float
    """
    seen, _ = likelihood.part.observed(likelihood.part.expand(theta[likelihood.slices["phi"]]))
    state = likelihood.conditioned(theta)
    value = state.log_density + seen
    if not likelihood.has_tilt:
        return value
    law, phi = likelihood.missing_law(state), state.params.phi
    missing = likelihood.data.block_missing
    cov_mean = likelihood.product.cov_mean
    generator = np.random.default_rng(rng)
    for cluster in np.flatnonzero(missing.any(axis=1)):
        m = missing[cluster]
        mean = phi[0] + phi[1] * law.mean[cluster, m] + phi[2] * cov_mean[cluster, m]
        cov = phi[1] ** 2 * law.cov[cluster][np.ix_(m, m)]
        value += mean.sum() + 0.5 * cov.sum() + _log_cap(mean + cov.sum(axis=1), cov, n_points, generator)
    return float(value)


def _log_cap(mean: np.ndarray, cov: np.ndarray, n_points: int, rng: np.random.Generator) -> float:
    """``log E exp(-sum max(eta, 0))`` for ``eta ~ N(mean, cov)``, one coordinate after the other."""
    k = mean.size
    factor = np.linalg.cholesky(cov + 1e-14 * np.trace(cov) * np.eye(k))
    points = qmc.Sobol(max(k - 1, 1), rng=rng).random(n_points)
    points = np.clip(points, 1e-12, 1.0 - 1e-12)
    normal = np.zeros((n_points, k))
    log_weight = np.zeros(n_points)
    for j in range(k):
        m, s = mean[j] + normal[:, :j] @ factor[j, :j], factor[j, j]
        below = log_ndtr(-m / s)
        above = -m + 0.5 * s * s + log_ndtr((m - s * s) / s)
        total = np.logaddexp(below, above)
        log_weight += total
        if j == k - 1:
            break
        # the step's own law: N(m, s) cut to eta < 0, or N(m - s^2, s) cut to eta > 0
        u, share = points[:, j], np.exp(below - total)
        low = u < share
        inside = np.where(low, u / np.maximum(share, 1e-300), (u - share) / np.maximum(1.0 - share, 1e-300))
        inside = np.clip(inside, 1e-12, 1.0 - 1e-12)
        cut = -m / s
        left = ndtri(np.clip(inside * ndtr(cut), 1e-300, 1.0))
        tail = ndtr(-(cut + s))
        right = -ndtri(np.clip((1.0 - inside) * tail, 1e-300, 1.0)) - s
        normal[:, j] = np.where(low, left, right)
    top = log_weight.max()
    return float(top + np.log(np.exp(log_weight - top).mean()))
