"""Quantile residuals of values whose being seen depends on themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

from mvmise_sm.selection.likelihood import SelectionLikelihood, SelectionParams
from mvmise_sm.selection.marginal import unit_variances, value_block_covariances
from mvmise_sm.selection.mechanism import Mechanism

# the law of a seen value is integrated on this many nodes over nine standard deviations on both sides
NODES, SPAN = 801, 9.0
SMALLEST = 1e-15


def seen_quantiles(
    y: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    mechanism: Mechanism | None,
    base: np.ndarray | float,
    slope: float,
) -> np.ndarray:
    """Normal quantiles of ``int_-inf^y h / int h`` with ``h(t) = N(t; mean, sd^2) (1 - F(base + slope t))``.

    Parameters
    ----------
    y : ndarray, (n,)
        Seen values; NaN gives NaN.
    mean, sd : ndarray, (n,)
        Their marginal law before anything goes missing.
    mechanism : Mechanism or None
        None leaves the missingness out.
    base : ndarray or float
        Predictor of the mechanism at zero.
    slope : float

    Returns
    -------
    ndarray, (n,)
    """
    if mechanism is None or slope == 0.0:
        return (y - mean) / sd
    start = np.broadcast_to(np.asarray(base, dtype=float), y.shape)
    return weighted_quantiles(
        y, mean, sd, lambda rows, at: np.asarray(mechanism.seen(start[rows, None] + slope * at)[0])
    )


def weighted_quantiles(
    y: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    log_seen: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """The same for any log-probability of being seen: (rows (m,), values there (m, nodes)) -> (m, nodes)."""
    grid = np.linspace(-SPAN, SPAN, NODES)
    rows = np.flatnonzero(np.isfinite(y))
    out = np.full(y.shape, np.nan)
    z = (y[rows] - mean[rows]) / sd[rows]
    with np.errstate(invalid="ignore", over="ignore"):
        log_density = log_seen(rows, mean[rows, None] + sd[rows, None] * grid) - 0.5 * grid**2
    log_density = np.where(np.isfinite(log_density), log_density, -np.inf)
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    # trapezoidal rule up to every node, and a linear density within the last step
    below = np.cumsum(density, axis=1) - 0.5 * (density[:, :1] + density)
    total, step = below[:, -1], grid[1] - grid[0]
    k = np.clip((z + SPAN) / step, 0, NODES - 2).astype(int)
    at = np.arange(rows.size)
    share = np.clip((z - grid[k]) / step, 0.0, 1.0)
    left, right = density[at, k], density[at, k + 1]
    probability = (below[at, k] + share * (left + 0.5 * share * (right - left))) / total
    out[rows] = ndtri(np.clip(probability, SMALLEST, 1.0 - SMALLEST))
    return out


def outcome_quantiles(likelihood: SelectionLikelihood, params: SelectionParams) -> np.ndarray:
    """Quantile residuals of the seen outcomes (N, K) of model b or e, NaN where missing.

    A value is seen if its block is, whose mean is normal given the value, and if it does not go missing by itself.
    """
    data, slots = likelihood.data, likelihood.part.slots
    mean = data.X @ params.beta
    blocks, values = unit_variances(likelihood, params)
    across = value_block_covariances(likelihood, params)
    row, outcome = np.nonzero(data.observed)
    cluster, pick = data.cluster[row], (row, outcome)
    y, centre, var = data.Y[pick], mean[pick], values[pick]
    whole = data.cluster_mean(mean)[cluster, outcome]
    follow = across[pick] / var
    rest = np.maximum(blocks[cluster, outcome] - follow * across[pick], 0.0)
    terms = []
    for k, slot in enumerate(slots):
        phi = params.phi[3 * k : 3 * k + 3]
        base, covariate = np.full(y.size, phi[0]), data.cov_miss
        if covariate is not None:
            own = covariate[pick] if slot.single else data.cluster_mean(covariate)[cluster, outcome]
            base = base + phi[2] * own
        terms.append((slot, base, phi[1]))

    def log_seen(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        out = np.zeros_like(at)
        for slot, base, slope in terms:
            if slot.single:
                out += np.asarray(slot.mechanism.seen(base[rows, None] + slope * at)[0])
                continue
            block = whole[rows, None] + follow[rows, None] * (at - centre[rows, None])
            spread = np.broadcast_to(slope**2 * rest[rows, None], at.shape)
            gone = np.exp(slot.mechanism.missing(base[rows, None] + slope * block, spread)[0])
            out += np.log(np.maximum(1.0 - gone, np.finfo(float).tiny))
        return out

    found = weighted_quantiles(y, centre, np.sqrt(var), log_seen) if terms else (y - centre) / np.sqrt(var)
    result = np.full(data.Y.shape, np.nan)
    result[pick] = found
    return result
