"""Quantile residuals of values whose being seen depends on themselves."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

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
    z = (y - mean) / sd
    if mechanism is None or slope == 0.0:
        return z
    grid = np.linspace(-SPAN, SPAN, NODES)
    base = np.broadcast_to(np.asarray(base, dtype=float), y.shape)
    eta = base[:, None] + slope * (mean[:, None] + sd[:, None] * grid)
    with np.errstate(invalid="ignore"):
        density = np.exp(-0.5 * grid**2) * np.exp(np.asarray(mechanism.seen(eta)[0]))
    below = np.cumsum(density, axis=1)
    # trapezoidal rule up to every node, and a linear density within the last step
    total = below[:, -1] - 0.5 * (density[:, 0] + density[:, -1])
    step = grid[1] - grid[0]
    out = np.full(y.shape, np.nan)
    for i in np.flatnonzero(np.isfinite(z)):
        cumulative = below[i] - 0.5 * (density[i, 0] + density[i])
        k = int(np.clip((z[i] + SPAN) / step, 0, NODES - 2))
        share = (z[i] - grid[k]) / step
        inside = share * (density[i, k] + 0.5 * share * (density[i, k + 1] - density[i, k]))
        at = (cumulative[k] + inside) / total[i] if total[i] > 0 else ndtr(z[i])
        out[i] = ndtri(np.clip(at, SMALLEST, 1.0 - SMALLEST))
    return out
