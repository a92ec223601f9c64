"""Posterior moments at a point: missing outcomes and random effects given everything observed and what was missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.selection.error import ErrorLikelihood
from mvmise_sm.selection.factor import FactorLikelihood


@dataclass(frozen=True)
class PosteriorMoments:
    """Moments in the sorted row order of the data.

    Attributes
    ----------
    mean, sd : ndarray, (N, K)
        Of every outcome; observed values are themselves with sd zero.
    fitted : ndarray, (N, K)
        Fixed effects plus predicted random effects.
    effects : ndarray, (n_clusters, q)
        Means of the random effects; one column, the shared effect b, in model b.
    effects_cov : ndarray, (n_clusters, q, q)
    """

    mean: np.ndarray
    sd: np.ndarray
    fitted: np.ndarray
    effects: np.ndarray
    effects_cov: np.ndarray


def posterior_moments(likelihood: FactorLikelihood | ErrorLikelihood, theta: np.ndarray) -> PosteriorMoments:
    """Moments of model b or e at a point."""
    if isinstance(likelihood, FactorLikelihood):
        return _factor_moments(likelihood, theta)
    return _error_moments(likelihood, theta)


def _finish(likelihood, mean, variance, fitted, effects, effects_cov) -> PosteriorMoments:
    data = likelihood.data
    mean = np.where(data.observed, data.Y, mean)
    sd = np.where(data.observed, 0.0, np.sqrt(np.maximum(variance, 0.0)))
    return PosteriorMoments(mean, sd, fitted, effects, effects_cov)


def _factor_moments(likelihood: FactorLikelihood, theta: np.ndarray) -> PosteriorMoments:
    data, blocks = likelihood.data, likelihood.blocks
    params, _, _, _, _, bh, P = likelihood.gaussian(theta)
    posterior = likelihood.posterior(params, bh, P)
    variance_b = posterior.b2 - posterior.b**2
    # per missing block: shift of its errors, their excess second moment and covariance with b, in units of s_j / n
    shape = data.block_missing.shape
    shift, second, cross = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    where = (blocks.cluster, blocks.outcome)
    phi1 = params.phi[1]
    shift[where] = phi1 * posterior.block[:, 0]
    second[where] = 2.0 * phi1**2 * posterior.block[:, 2]
    cross[where] = phi1 * (posterior.block[:, 1] - posterior.b[blocks.cluster] * posterior.block[:, 0])
    s = params.sigma2[likelihood.group]
    reach = (s / data.sizes[data.cluster])[:, None]
    row = data.cluster
    fitted = data.X @ params.beta + posterior.b[row][:, None] * params.tau
    error = reach * shift[row]
    variance = params.tau**2 * variance_b[row][:, None] + s[:, None] + reach**2 * second[row] - error**2
    variance += 2.0 * params.tau * reach * cross[row]
    return _finish(likelihood, fitted + error, variance, fitted, posterior.b[:, None], variance_b[:, None, None])


def _error_moments(likelihood: ErrorLikelihood, theta: np.ndarray) -> PosteriorMoments:
    data, row = likelihood.data, likelihood.data.cluster
    state = likelihood.state(theta)
    params, Sigma = state.params, state.params.error_cov
    A = state.A[likelihood.pattern]
    law = likelihood.missing_law(state)
    bh = _times(state.P, state.score_b)
    base = data.X @ params.beta
    mean = base + _times(data.Z, bh[row]) + _times(A, state.residual - _times(data.Z, bh[row])) @ Sigma
    loading = data.Z - Sigma @ state.AZ
    cov = Sigma - Sigma @ A @ Sigma
    variance = ((loading @ state.P[row]) * loading).sum(axis=2) + state.s[:, None] * np.diagonal(cov, axis1=1, axis2=2)
    effects, effects_cov = bh, state.P
    if likelihood.has_tilt:
        tilt = likelihood.tilt(params, law)
        phi1 = params.phi[1]
        pull, slack, spread = phi1 * tilt.weight, phi1 * tilt.slack, 2.0 * phi1**2 * tilt.spread
        missing = data.block_missing.astype(float)
        reach_b = state.P @ law.loading.transpose(0, 2, 1)
        reach = loading @ reach_b[row] + (state.s / data.sizes[row])[:, None, None] * cov * missing[row][:, None, :]
        mean = mean + _times(reach, pull[row])
        variance = variance + (reach**2 * spread[row][:, None, :]).sum(axis=2) - _times(reach, slack[row]) ** 2
        effects = bh + _times(reach_b, pull)
        change = (reach_b * spread[:, None, :]) @ reach_b.transpose(0, 2, 1)
        along = _times(reach_b, slack)
        effects_cov = state.P + change - along[:, :, None] * along[:, None, :]
    fitted = base + _times(data.Z, effects[row])
    return _finish(likelihood, mean, variance, fitted, effects, effects_cov)


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (matrices @ vectors[:, :, None])[:, :, 0]
