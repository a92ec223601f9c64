"""The marginal law of all units of a mechanism, seen or missing, and the missing rate that it implies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.selection.likelihood import SelectionLikelihood, SelectionParams


@dataclass(frozen=True)
class MarginalUnits:
    """All units of one mechanism.

    Attributes
    ----------
    cluster, outcome, row : ndarray of int, (m,)
        Positions; the row of a block is -1.
    mean : ndarray, (m,)
        Marginal mean of the outcome.
    expected : ndarray, (m,)
        Marginal probability of being missing.
    missing : ndarray of bool, (m,)
    """

    cluster: np.ndarray
    outcome: np.ndarray
    row: np.ndarray
    mean: np.ndarray
    expected: np.ndarray
    missing: np.ndarray


def marginal_units(likelihood: SelectionLikelihood, params: SelectionParams, k: int) -> MarginalUnits:
    """The units of the mechanism in slot `k` at given parameters."""
    data, slots = likelihood.data, likelihood.part.slots
    phi = params.phi[3 * k : 3 * k + 3]
    rows = data.X @ params.beta
    blocks, values = unit_variances(likelihood, params)
    cov: np.ndarray | float = 0.0
    if not slots[k].single:
        cluster, outcome = np.indices(data.block_missing.shape).reshape(2, -1)
        mean, var = data.cluster_mean(rows)[cluster, outcome], blocks[cluster, outcome]
        gone = data.block_missing[cluster, outcome]
        if data.cov_miss is not None:
            cov = data.cluster_mean(data.cov_miss)[cluster, outcome]
        row = np.full(cluster.size, -1)
    else:
        in_blocks = any(not slot.single for slot in slots)
        skip = data.block_missing[data.cluster] if in_blocks else np.zeros(data.Y.shape, bool)
        row, outcome = np.nonzero(~skip)
        cluster, mean, var = data.cluster[row], rows[row, outcome], values[row, outcome]
        gone = ~data.observed[row, outcome]
        if data.cov_miss is not None:
            cov = data.cov_miss[row, outcome]
    eta = phi[0] + phi[1] * mean + phi[2] * cov
    expected = np.minimum(np.exp(slots[k].mechanism.missing(eta, phi[1] ** 2 * var)[0]), 1.0)
    return MarginalUnits(cluster, outcome, row, mean, expected, gone)


def unit_variances(likelihood: SelectionLikelihood, params: SelectionParams) -> tuple[np.ndarray, np.ndarray]:
    """Marginal variances of block means (C, K) and of values (N, K)."""
    data = likelihood.data
    s = params.sigma2[likelihood.group]
    share = data.cluster_sum(s)[:, None] / data.sizes[:, None] ** 2
    if params.tau is not None:
        omega, delta = (0.0, 0.0) if params.spread is None else params.spread
        block = params.tau**2 + omega**2 + delta**2 / data.sizes[:, None] + share
        return block, params.tau**2 + omega**2 + delta**2 + s[:, None] * np.ones(params.tau.size)
    diagonal = np.diag(np.asarray(params.error_cov))
    zbar = data.cluster_mean(data.Z)
    return (zbar**2 @ params.D) + share * diagonal, (data.Z**2 @ params.D) + s[:, None] * diagonal


def value_block_covariances(likelihood: SelectionLikelihood, params: SelectionParams) -> np.ndarray:
    """Covariances of every value with the mean of its block, (N, K)."""
    data = likelihood.data
    share = (params.sigma2[likelihood.group] / data.sizes[data.cluster])[:, None]
    if params.tau is not None:
        omega, delta = (0.0, 0.0) if params.spread is None else params.spread
        return params.tau**2 + omega**2 + delta**2 / data.sizes[data.cluster][:, None] + share
    zbar = data.cluster_mean(data.Z)[data.cluster]
    return ((data.Z * zbar) @ params.D) + share * np.diag(np.asarray(params.error_cov))
