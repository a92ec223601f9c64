"""Posterior moments at a point: missing outcomes and random effects given everything observed and what was missing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import numpy as np

from mvmise_sm.selection.crossed import CrossedFactorLikelihood
from mvmise_sm.selection.error import ErrorLikelihood
from mvmise_sm.selection.factor import FactorLikelihood
from mvmise_sm.selection.likelihood import SelectionLikelihood


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


@singledispatch
def posterior_moments(likelihood: SelectionLikelihood, theta: np.ndarray) -> PosteriorMoments:
    """Moments of a model at a point."""
    raise TypeError(f"there are no posterior moments of {type(likelihood).__name__}")


def _finish(
    likelihood: SelectionLikelihood,
    mean: np.ndarray,
    variance: np.ndarray,
    fitted: np.ndarray,
    effects: np.ndarray,
    effects_cov: np.ndarray,
) -> PosteriorMoments:
    data = likelihood.data
    mean = np.where(data.observed, data.Y, mean)
    sd = np.where(data.observed, 0.0, np.sqrt(np.maximum(variance, 0.0)))
    return PosteriorMoments(mean, sd, fitted, effects, effects_cov)


@posterior_moments.register
def _factor_moments(likelihood: FactorLikelihood, theta: np.ndarray) -> PosteriorMoments:
    data, units = likelihood.data, likelihood.units
    params, _, _, _, _, bh, P = likelihood.gaussian(theta)
    posterior = likelihood.posterior(params, bh, P)
    variance_b = posterior.b2 - posterior.b**2
    s, row = params.sigma2[likelihood.group], data.cluster
    # a missing entry's error moves by its unit's pull times the unit's share of the entry's variance
    reach, shift, second, cross = (np.zeros(data.Y.shape) for _ in range(4))
    if len(units):
        phi1 = params.phi.reshape(-1, 3)[units.slot, 1]
        moments = [phi1 * posterior.unit[:, 0], 2.0 * phi1**2 * posterior.unit[:, 2]]
        moments.append(phi1 * (posterior.unit[:, 1] - posterior.b[units.cluster] * posterior.unit[:, 0]))
        single = units.row >= 0
        for target, values in zip((shift, second, cross), moments, strict=True):
            blocks = np.zeros(data.block_missing.shape)
            blocks[units.cluster[~single], units.outcome[~single]] = values[~single]
            target += blocks[row]
            target[units.row[single], units.outcome[single]] = values[single]
        reach += (s / data.sizes[row])[:, None]
        reach[units.row[single], units.outcome[single]] = s[units.row[single]]
    loading = likelihood.loading(params)
    fitted = data.X @ params.beta + posterior.b[row][:, None] * loading
    error = reach * shift
    variance = loading**2 * variance_b[row][:, None] + s[:, None] + reach**2 * second - error**2
    variance += 2.0 * loading * reach * cross
    return _finish(likelihood, fitted + error, variance, fitted, posterior.b[:, None], variance_b[:, None, None])


@posterior_moments.register
def _crossed_moments(likelihood: CrossedFactorLikelihood, theta: np.ndarray) -> PosteriorMoments:
    data, units = likelihood.data, likelihood.units
    law = likelihood.law(theta)
    found = likelihood.moments(law)
    params, (omega, delta) = law.params, law.params.spread
    K, s2, row = params.tau.size, float(law.params.sigma2[0]), data.cluster
    cov = found.second - found.mean[:, :, None] * found.mean[:, None, :]
    coefficients = np.zeros((data.n_rows, K, found.mean.shape[1]))
    coefficients[:, :, 0] = params.tau
    coefficients[:, np.arange(K), 1 + np.arange(K)] = omega
    coefficients[np.arange(data.n_rows), :, 1 + K + likelihood.place] = delta
    fitted = data.X @ params.beta + np.einsum("nkq,nq->nk", coefficients, found.mean[row])
    variance = np.einsum("nkq,nqr,nkr->nk", coefficients, cov[row], coefficients) + s2
    mean = fitted.copy()
    if len(units):
        # a missing block's own effect and mean error move together, and its values with them
        phi1 = params.phi.reshape(-1, 3)[units.slot, 1]
        reach = omega**2 + s2 * units.share[:, 0]
        shift, second, along = (np.zeros(data.block_missing.shape) for _ in range(3))
        where = (units.cluster, units.outcome)
        shift[where] = reach * phi1 * found.unit[:, 0]
        second[where] = reach**2 * 2.0 * phi1**2 * found.unit[:, 3]
        along[where] = reach * phi1 * (found.unit[:, 1] - found.mean[units.cluster, 0] * found.unit[:, 0])
        mean = mean + shift[row]
        variance = variance + second[row] - shift[row] ** 2 + 2.0 * params.tau * along[row]
    effects, effects_cov = found.mean[:, :1], cov[:, :1, :1]
    return _finish(likelihood, mean, variance, fitted, effects, effects_cov)


@posterior_moments.register
def _error_moments(likelihood: ErrorLikelihood, theta: np.ndarray) -> PosteriorMoments:
    data, row = likelihood.data, likelihood.data.cluster
    state = likelihood.conditioned(theta)
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
        tilt = likelihood.product.tilt(params.phi, law)
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
