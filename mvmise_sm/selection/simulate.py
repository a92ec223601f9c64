"""Outcomes drawn from a selection model, and which of them go missing."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from mvmise_sm.selection.crossed import CrossedFactorLikelihood
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.error import ErrorLikelihood
from mvmise_sm.selection.factor import FactorLikelihood
from mvmise_sm.selection.likelihood import SelectionLikelihood
from mvmise_sm.selection.prediction import posterior_moments
from mvmise_sm.selection.units import Slot

# draws in which an outcome is never seen cannot be fitted; so many are drawn again before the simulation gives up
MAX_REDRAWS = 100


@singledispatch
def complete_outcomes(
    likelihood: SelectionLikelihood, theta: np.ndarray, rng: np.random.Generator, conditional: bool
) -> np.ndarray:
    """Outcomes of a complete data set, rows as in the data (N, K).

    Parameters
    ----------
    likelihood : SelectionLikelihood
    theta : ndarray
        The point (k,).
    rng : Generator
    conditional : bool
        Take the posterior means of the random effects instead of new ones.
    """
    raise TypeError(f"there is no simulation of {type(likelihood).__name__}")


@complete_outcomes.register
def _factor_outcomes(
    likelihood: FactorLikelihood, theta: np.ndarray, rng: np.random.Generator, conditional: bool
) -> np.ndarray:
    data, params = likelihood.data, likelihood.params(theta)
    if conditional:
        b = posterior_moments(likelihood, theta).effects[:, 0]
    else:
        b = rng.standard_normal(data.n_clusters)
    sd = np.sqrt(params.sigma2)[likelihood.group]
    mean = data.X @ params.beta + b[data.cluster][:, None] * likelihood.loading(params)
    return mean + sd[:, None] * rng.standard_normal(mean.shape)


@complete_outcomes.register
def _crossed_outcomes(
    likelihood: CrossedFactorLikelihood, theta: np.ndarray, rng: np.random.Generator, conditional: bool
) -> np.ndarray:
    data, params = likelihood.data, likelihood.params(theta)
    if conditional:
        mean = posterior_moments(likelihood, theta).fitted
    else:
        K, (omega, delta) = params.tau.size, params.spread
        mean = data.X @ params.beta + rng.standard_normal(data.n_clusters)[data.cluster][:, None] * params.tau
        mean = mean + omega * rng.standard_normal((data.n_clusters, K))[data.cluster]
        mean = mean + delta * rng.standard_normal((data.n_rows, 1))
    return mean + np.sqrt(params.sigma2[0]) * rng.standard_normal(mean.shape)


@complete_outcomes.register
def _error_outcomes(
    likelihood: ErrorLikelihood, theta: np.ndarray, rng: np.random.Generator, conditional: bool
) -> np.ndarray:
    data, params = likelihood.data, likelihood.params(theta)
    if conditional:
        b = posterior_moments(likelihood, theta).effects
    else:
        b = np.sqrt(params.D) * rng.standard_normal((data.n_clusters, params.D.size))
    root = np.linalg.cholesky(params.error_cov)
    sd = np.sqrt(params.sigma2)[likelihood.group]
    mean = data.X @ params.beta + np.einsum("nkq,nq->nk", data.Z, b[data.cluster])
    return mean + sd[:, None] * (rng.standard_normal(mean.shape) @ root.T)


def missing_pattern(
    data: SelectionData, slots: tuple[Slot, ...], phi: np.ndarray, Y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Which values go missing, True where missing (N, K).

    Blocks go missing as a whole by their mechanism and single values of the others by theirs. Where single values have
    no mechanism, those of the data that are missing in a seen block stay missing (at random); without a mechanism of
    blocks, so do the data's blocks.
    """
    blocks = next((k for k, slot in enumerate(slots) if not slot.single), None)
    values = next((k for k, slot in enumerate(slots) if slot.single), None)
    gone = data.block_missing if values is None else np.zeros_like(data.block_missing)
    if blocks is not None:
        cov = 0.0 if data.cov_miss is None else data.cluster_mean(data.cov_miss)
        part = phi[3 * blocks : 3 * blocks + 3]
        eta = part[0] + part[1] * data.cluster_mean(Y) + part[2] * cov
        gone = rng.uniform(size=eta.shape) < slots[blocks].mechanism.prob(eta)
    missing = gone[data.cluster]
    if values is not None:
        cov = 0.0 if data.cov_miss is None else data.cov_miss
        part = phi[3 * values : 3 * values + 3]
        eta = part[0] + part[1] * Y + part[2] * cov
        return missing | (rng.uniform(size=eta.shape) < slots[values].mechanism.prob(eta))
    return missing | (~data.observed & ~data.block_missing[data.cluster])


def simulate(
    likelihood: SelectionLikelihood, theta: np.ndarray, rng: np.random.Generator, conditional: bool, missing: bool
) -> tuple[np.ndarray, int]:
    """One data set in the order of the data's rows, and how many draws were discarded.

    Returns
    -------
    Y : ndarray
        (N, K), NaN where missing.
    redrawn : int
        Draws in which an outcome was never seen.

    Raises
    ------
    ValueError
        If an outcome is never seen in `MAX_REDRAWS` draws.
    """
    data, params = likelihood.data, likelihood.params(theta)
    slots = likelihood.part.slots if likelihood.part.shown.size else ()
    for redrawn in range(MAX_REDRAWS):
        Y = complete_outcomes(likelihood, theta, rng, conditional)
        if not missing:
            return Y, redrawn
        Y = np.where(missing_pattern(data, slots, params.phi, Y, rng), np.nan, Y)
        if np.isfinite(Y).any(axis=0).all():
            return Y, redrawn
    raise ValueError(f"an outcome was missing everywhere in {MAX_REDRAWS} simulated data sets: its mechanism says so")
