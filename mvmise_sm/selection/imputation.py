"""Draws of the missing outcomes at a point, given everything observed and which units are missing.

With one shared effect the units are independent given it: b comes from its law on a grid, then every unit's mean error
from its own. Other models have missing blocks only; there the missing values of a cluster are normal given the seen
ones, and the mechanism enters by rejection, under the tangents of ``log F`` at the mode where it is concave.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

import numpy as np
from scipy import linalg

from mvmise_sm.selection.crossed import CrossedFactorLikelihood
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.error import ErrorLikelihood
from mvmise_sm.selection.factor import FactorLikelihood
from mvmise_sm.selection.likelihood import SelectionLikelihood, SelectionParams
from mvmise_sm.selection.mechanism import Mechanism
from mvmise_sm.selection.units import MechanismPart, Units

# a grid of densities, in their standard deviations: linear between points, it errs by less than 1e-3 in the variance
GRID = np.linspace(-8.0, 8.0, 241)
# steps to the mode of a tilted normal law, which only make rejections rare
MODE_STEPS = 30
# proposals for one cluster, drawn so many at a time, before the draw gives up
BATCH, MAX_BATCHES = 64, 2000
# excess of a logarithm over its tangent that is rounding
ROUNDING = 1e-8
SLOPE_STEP = 1e-4


@singledispatch
def draw_missing(likelihood: SelectionLikelihood, theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Complete outcomes, rows as in the data (N, K), those seen as they are.

    Parameters
    ----------
    likelihood : SelectionLikelihood
    theta : ndarray
        The point (k,).
    rng : Generator

    Raises
    ------
    ValueError
        If the mechanism and the missing blocks agree so badly that no proposal is accepted.
    """
    raise TypeError(f"there are no imputations of {type(likelihood).__name__}")


@draw_missing.register
def _factor_draw(likelihood: FactorLikelihood, theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    data, units = likelihood.data, likelihood.units
    params, _, _, _, _, bh, P = likelihood.gaussian(theta)
    b = bh + np.sqrt(P) * rng.standard_normal(bh.shape)
    s = params.sigma2[likelihood.group]
    error = np.sqrt(s)[:, None] * rng.standard_normal(data.Y.shape)
    if len(units):
        posterior = likelihood.posterior(params, bh, P)
        base, slope, var = likelihood.predictors(params)
        touched, starts = np.unique(units.cluster, return_index=True)
        sd = np.sqrt(np.maximum(posterior.b2 - posterior.b**2, 0.0))[touched]
        at = posterior.b[touched, None] + sd[:, None] * GRID
        row = np.searchsorted(touched, units.cluster)
        eta = base[:, None] + slope[:, None] * at[row]
        value = likelihood.part.integral(units.slot, eta, var[:, None]).value
        density = np.add.reduceat(value, starts, axis=0) - 0.5 * (at - bh[touched, None]) ** 2 / P[touched, None]
        b[touched] = _inverse_draw(at, density, rng)
        shift = unit_errors(likelihood.part, units, params, base + slope * b[units.cluster], rng)
        _move_units(data, units, s, error, shift)
    Y = data.X @ params.beta + b[data.cluster][:, None] * likelihood.loading(params) + error
    return np.where(data.observed, data.Y, Y)


def unit_errors(
    part: MechanismPart, units: Units, params: SelectionParams, eta: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Mean errors of the missing units (m,), given the rest of their linear predictors."""
    phi1 = params.phi.reshape(-1, 3)[units.slot, 1]
    var = units.share @ params.sigma2
    g = part.integral(units.slot, eta, phi1**2 * var)
    mean = phi1 * var * g.d_mean
    spread = np.maximum(var + (phi1 * var) ** 2 * (2.0 * g.d_var - g.d_mean**2), 0.0)
    at = mean[:, None] + np.sqrt(spread)[:, None] * GRID
    density = -0.5 * at**2 / var[:, None]
    for k, slot in enumerate(part.slots):
        own = units.slot == k
        density[own] += _log_prob(slot.mechanism, eta[own, None] + phi1[own, None] * at[own])
    return _inverse_draw(at, density, rng)


def _move_units(data: SelectionData, units: Units, s: np.ndarray, error: np.ndarray, mean: np.ndarray) -> None:
    """Give the errors (N, K) of the missing units their means; s are the variances of the rows."""
    single = units.row >= 0
    error[units.row[single], units.outcome[single]] = mean[single]
    blocks = np.zeros(data.block_missing.shape)
    where = (units.cluster[~single], units.outcome[~single])
    blocks[where] = (mean[~single] - data.cluster_mean(error)[where]) / data.cluster_mean(s[:, None])[where[0], 0]
    error += s[:, None] * blocks[data.cluster]


def _inverse_draw(at: np.ndarray, density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One draw from every row of logarithms of densities on equally spaced points, both (m, points)."""
    weight = np.exp(density - density.max(axis=1, keepdims=True))
    total = np.zeros_like(weight)
    total[:, 1:] = np.cumsum(0.5 * (weight[:, 1:] + weight[:, :-1]), axis=1)
    u = rng.uniform(size=len(at)) * total[:, -1]
    right = np.clip((total < u[:, None]).sum(axis=1), 1, at.shape[1] - 1)
    row = np.arange(len(at))
    low, high = total[row, right - 1], total[row, right]
    share = np.where(high > low, (u - low) / np.where(high > low, high - low, 1.0), 0.5)
    return at[row, right - 1] + share * (at[row, right] - at[row, right - 1])


def _log_prob(mechanism: Mechanism, eta: np.ndarray) -> np.ndarray:
    """Logarithm of the probability of being missing, finite."""
    return np.log(np.maximum(mechanism.prob(eta), np.finfo(float).tiny))


@draw_missing.register
def _crossed_draw(likelihood: CrossedFactorLikelihood, theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    params = likelihood.params(theta)
    tau, omega, delta = (theta[likelihood.slices[name]] for name in ("tau", "omega", "delta"))
    # an effect that is not in the model has no element
    omega, delta, K = omega.sum(), delta.sum(), tau.size
    between = np.outer(tau, tau) + omega**2 * np.eye(K)
    within = delta**2 * np.ones((K, K)) + params.sigma2[0] * np.eye(K)

    def covariance(rows: slice) -> np.ndarray:
        n = rows.stop - rows.start
        return np.kron(np.ones((n, n)), between) + np.kron(np.eye(n), within)

    return _dense_draw(likelihood, params, covariance, rng)


@draw_missing.register
def _error_draw(likelihood: ErrorLikelihood, theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    params = likelihood.params(theta)
    s, Z = params.sigma2[likelihood.group], likelihood.data.Z

    def covariance(rows: slice) -> np.ndarray:
        own = Z[rows].reshape(-1, Z.shape[2])
        return (own * params.D) @ own.T + np.kron(np.diag(s[rows]), params.error_cov)

    return _dense_draw(likelihood, params, covariance, rng)


def _dense_draw(
    likelihood: CrossedFactorLikelihood | ErrorLikelihood,
    params: SelectionParams,
    covariance: Callable[[slice], np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Cluster by cluster from the dense covariance (n K, n K) of its outcomes."""
    data, units = likelihood.data, likelihood.units
    K, out = data.Y.shape[1], data.Y.copy()
    mean = data.X @ params.beta
    ends = np.r_[data.starts[1:], data.n_rows]
    phi = params.phi[:3]
    for i in np.unique(data.cluster[~data.observed.all(axis=1)]):
        rows = slice(int(data.starts[i]), int(ends[i]))
        seen = data.observed[rows].ravel()
        V = covariance(rows)
        across = V[np.ix_(~seen, seen)]
        centre, cov = mean[rows].ravel()[~seen], V[np.ix_(~seen, ~seen)]
        if seen.any():
            root = linalg.cho_factor(V[np.ix_(seen, seen)], lower=True)
            centre = centre + across @ linalg.cho_solve(root, (data.Y[rows] - mean[rows]).ravel()[seen])
            cov = cov - across @ linalg.cho_solve(root, across.T)
        own = np.flatnonzero(units.cluster == i)
        outcome = np.tile(np.arange(K), rows.stop - rows.start)[~seen]
        average = (units.outcome[own][:, None] == outcome) / (rows.stop - rows.start)
        whole = out[rows].ravel()
        if own.size:
            known = phi[0] + phi[2] * units.covariate[own] + units.offset[own]
            mechanism = likelihood.part.slots[0].mechanism
            whole[~seen] = _tilted_draw(centre, cov, phi[1] * average, known, mechanism, rng)
        else:
            whole[~seen] = centre + linalg.cholesky(cov, lower=True) @ rng.standard_normal(centre.size)
        out[rows] = whole.reshape(-1, K)
    return out


def _tilted_draw(
    centre: np.ndarray,
    cov: np.ndarray,
    coefficients: np.ndarray,
    known: np.ndarray,
    mechanism: Mechanism,
    rng: np.random.Generator,
) -> np.ndarray:
    """One draw of ``N(y; centre, cov) prod F(known + coefficients y)`` by rejection."""
    root = linalg.cholesky(cov, lower=True)
    reach = cov @ coefficients.T
    mode = known + coefficients @ centre
    start, spread = mode, coefficients @ reach

    def slopes(eta: np.ndarray) -> np.ndarray:
        ahead, behind = _log_prob(mechanism, eta + SLOPE_STEP), _log_prob(mechanism, eta - SLOPE_STEP)
        return (ahead - behind) / (2.0 * SLOPE_STEP)

    for _ in range(MODE_STEPS):
        mode = 0.5 * mode + 0.5 * (start + spread @ slopes(mode))
    height, slope = _log_prob(mechanism, mode), slopes(mode)
    for _ in range(MAX_BATCHES):
        proposals = centre + reach @ slope + rng.standard_normal((BATCH, centre.size)) @ root.T
        eta = known + proposals @ coefficients.T
        excess = (_log_prob(mechanism, eta) - height - (eta - mode) * slope).sum(axis=1)
        if excess.max() > ROUNDING * (1.0 + np.abs(slope).sum()) and slope.any():
            # log F lies above its tangent: F itself, at most one, is the bound
            height, slope = np.zeros_like(height), np.zeros_like(slope)
            continue
        accepted = np.flatnonzero(np.log(rng.uniform(size=BATCH)) < excess)
        if accepted.size:
            return proposals[accepted[0]]
    raise ValueError("the missing blocks of a cluster have next to no probability under the fitted mechanism")
