"""The logistic-normal integral ``G = log E F(eta)``, ``eta ~ N(mean, var)``, F the logistic function.

Up to eight standard deviations of eta the trapezoidal rule runs over the standardised eta. Beyond, the logistic density
is narrow beside the normal one, and ``E F = int F'(u) Phi((mean - u) / sd) du`` takes few nodes. Where many means share
a variance, G is interpolated from a grid.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_expit, log_ndtr

__all__ = ["logistic_normal"]

LOG_2PI = float(np.log(2.0 * np.pi))
# step h in standard deviations s of eta: the normal density costs exp(-2 pi^2 / h^2) and the poles of the logistic
# function exp(-2 pi^2 / (h s) + pi^2 / (2 s^2)), which is to have this exponent; nodes reach nine standard deviations
NORMAL_STEP, POLE_EXPONENT, SPAN = 0.7, 36.0, 9.0
LARGEST_EXPONENT = 700.0
# standard deviations of eta up to which this is the rule
WIDE = 8.0
# step over the logistic density, and the distance in the integrand's logarithm that nodes cover
DENSITY_STEP, DENSITY_SPAN = 0.54, 38.0
# beyond this many logarithms, and standard deviations, E F is its tail to double precision
TAIL, TAIL_SD = 40.0, 9.0
# from so many means on of one variance, G is computed on a grid of this spacing (this many times the standard deviation
# of eta where that is more) and interpolated by polynomials through so many of its points: their error is 2e-11 at
# variance zero and below 1e-12 from a standard deviation of 0.4 on
MANY, SPACING, WIDE_SPACING, STENCIL = 128, 0.125, 0.0625, 10
# powers of the distance from the middle of an interval, from values at the points around it
MIDDLE = STENCIL // 2 - 1
POWERS = np.linalg.inv(np.vander(np.arange(STENCIL) - MIDDLE - 0.5, increasing=True))


def logistic_normal(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """G, its derivative in the mean and that in the variance, (3, ...) of the shape that the arguments broadcast to."""
    mean, var = np.asarray(mean, dtype=float), np.asarray(var, dtype=float)
    if mean.size < MANY or var.ndim != mean.ndim or var.shape[-1] != 1:
        return _by_rule(*np.broadcast_arrays(mean, var))
    # one variance for every row of means
    out = np.empty((3, *np.broadcast_shapes(mean.shape, var.shape)))
    mean = np.broadcast_to(mean, out.shape[1:])
    variances, which = np.unique(var[..., 0], return_inverse=True)
    which = np.broadcast_to(which.reshape(var.shape[:-1]), out.shape[1:-1])
    for k, one in enumerate(variances):
        own = which == k
        out[:, own] = _one_variance(mean[own], float(one))
    return out


def _one_variance(mean: np.ndarray, var: float) -> np.ndarray:
    """The integral at many means with one variance, in closed form where they are far out."""
    reach = TAIL + TAIL_SD * np.sqrt(var)
    below, above = mean < -var - reach, mean > reach
    inside = ~(below | above)
    if inside.all():
        return _interpolated(mean, var)
    # exp(eta) far below zero, one far above
    out = np.zeros((3, *mean.shape))
    out[:, below] = mean[below] + 0.5 * var, np.ones(below.sum()), np.full(below.sum(), 0.5)
    if inside.any():
        out[:, inside] = _interpolated(mean[inside], var)
    return out


def _interpolated(mean: np.ndarray, var: float) -> np.ndarray:
    """The integral at many means with one variance, from its values on a grid.

    The grid is the multiples of the spacing, wherever the means are, so that the error is smooth in them. Where it has
    not much fewer points than there are means, the integral is computed at the means.
    """
    spacing = max(SPACING, WIDE_SPACING * float(np.sqrt(var)))
    low, high = np.floor(mean.min() / spacing), np.floor(mean.max() / spacing)
    if not high - low + STENCIL < 0.5 * mean.size:
        return _by_rule(mean, np.full_like(mean, var))
    grid = spacing * np.arange(low - MIDDLE, high + MIDDLE + 2.0)
    values = _by_rule(grid, np.full_like(grid, var))
    # one polynomial around the middle of every interval: (power, function, interval)
    windows = np.lib.stride_tricks.sliding_window_view(values, STENCIL, axis=1)
    by_power = np.ascontiguousarray(np.moveaxis(windows @ POWERS.T, 2, 0))
    position = mean.ravel() / spacing
    interval = np.floor(position)
    along, interval = position - interval - 0.5, (interval - low).astype(int)
    out = np.empty((3, along.size))
    for k in range(3):
        total = by_power[-1, k].take(interval)
        for power in by_power[-2::-1, k]:
            total *= along
            total += power.take(interval)
        out[k] = total
    return out.reshape(3, *mean.shape)


def _by_rule(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """The integral at means and variances of one shape, by the rule for the variance."""
    sd = np.sqrt(var)
    wide = sd > WIDE
    if not wide.any():
        return _over_normal(mean, var, sd)
    out = np.empty((3, *mean.shape))
    for own, rule in ((~wide, _over_normal), (wide, _over_density)):
        if own.any():
            out[:, own] = rule(mean[own], var[own], sd[own])
    return out


def _over_normal(mean: np.ndarray, var: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Trapezoidal rule over the standardised eta, from nine deviations below to nine above the tilted mean."""
    widest = float(sd.max(initial=0.0))
    if widest < 0.5 * NORMAL_STEP:
        # the poles lie beyond what the normal density asks for
        step = NORMAL_STEP
    else:
        step = min(NORMAL_STEP, 2.0 * np.pi**2 / (POLE_EXPONENT * widest + 0.5 * np.pi**2 / widest))
    nodes = step * np.arange(-np.ceil(SPAN / step), np.ceil((SPAN + widest) / step) + 1.0)
    low = mean < 0.0
    odds = np.exp(np.minimum(mean[..., None] + sd[..., None] * nodes, LARGEST_EXPONENT))
    not_missing = 1.0 / (1.0 + odds)
    # below zero F is exp(eta) (1 - F), and exp(eta) moves the normal density by its standard deviation
    centre = np.where(low, sd, 0.0)
    weight = np.exp(-0.5 * (nodes - centre[..., None]) ** 2)
    weight *= np.where(low[..., None], not_missing, odds * not_missing)
    total = weight.sum(axis=-1)
    value = np.where(low, mean + 0.5 * var, 0.0) + np.log(total * step) - 0.5 * LOG_2PI
    first = np.einsum("...n,...n->...", weight, not_missing)
    second = np.einsum("...n,...n,...n->...", weight, not_missing, not_missing)
    return np.stack([value, first / total, (second - 0.5 * first) / total])


def _over_density(mean: np.ndarray, var: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Trapezoidal rule over the logistic density, one axis."""
    # exp(eta) tilts N(m, v) into N(m + v, v): G(m, v) = m + v / 2 + G(-m - v, v), which keeps the mass near zero
    low = mean < -0.5 * var
    z = np.where(low, -mean - var, mean) / sd
    # how fast the integrand falls just below zero: the density's slope less the Mills ratio of Phi
    fall = float((1.0 - np.exp(-0.5 * (z * z + LOG_2PI) - log_ndtr(z)) / sd).min())
    points = np.ceil(DENSITY_SPAN / DENSITY_STEP)
    u = DENSITY_STEP * np.arange(-np.ceil(points / fall), points + 1.0)
    z = z[:, None] - u / sd[:, None]
    phi = log_ndtr(z)
    logs = log_expit(u) + log_expit(-u) + phi
    scale = logs.max(axis=1)
    weight = np.exp(logs - scale[:, None])
    total = weight.sum(axis=1)
    pull = weight * np.exp(-0.5 * (z * z + LOG_2PI) - phi)
    value = scale + np.log(total * DENSITY_STEP)
    d_mean, d_var = pull.sum(axis=1) / sd / total, -0.5 * np.einsum("mn,mn->m", pull, z) / var / total
    return np.where(low, [mean + 0.5 * var + value, 1.0 - d_mean, 0.5 - d_mean + d_var], [value, d_mean, d_var])
