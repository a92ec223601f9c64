"""Uncertainty of a generalised linear mixed model at its optimum: Hessian, conditional covariances, variances of
predictions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.core.optimise.steps import differences, symmetric
from mvmise_sm.core.uncertainty.posterior import NewRows, level_covariances

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.laplace import LaplaceDeviance

__all__ = ["below_saddle", "conditional_cov", "hessian", "parameter_cov", "prediction_variance", "working_cov"]

# width of the forward differences in standard errors of the working model: truncation and rounding are both near 1e-6
_STEP = 1e-5
# share of the information below zero that curvature has at a saddle, and the fall of the objective beside it
_SADDLE, _FALLS = 1e-2, 1e-3


def hessian(criterion: LaplaceDeviance, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Second derivatives of the objective at a working vector, by forward differences of the exact gradient.

    Parameters
    ----------
    criterion : LaplaceDeviance
    x : ndarray
        Working vector (k,).

    Returns
    -------
    hessian : ndarray
        (k, k) over the free parameters, zero elsewhere.
    free : ndarray
        Parameters off their lower bound (k,).
    """
    criterion.sharpen(x)
    here = criterion.evaluate(x)
    free = x > criterion.lower + 1e-8
    sizes = _STEP / np.sqrt(np.maximum(0.5 * here.information.diagonal(), 1e-12))
    widths = np.where(free, sizes, 0.0)

    def gradient(moved: np.ndarray) -> np.ndarray:
        criterion.value(moved)
        return criterion.working_gradient(moved)

    out = differences(gradient, x, widths, here.gradient)
    criterion.value(x)
    out[:, ~free] = 0.0
    return symmetric(out), free


def below_saddle(criterion: LaplaceDeviance, x: np.ndarray) -> np.ndarray | None:
    """A point beside a stationary one at which the objective is lower, along its most negative curvature.

    Parameters
    ----------
    criterion : LaplaceDeviance
    x : ndarray
        Working vector (k,).

    Returns
    -------
    ndarray or None
        (k,); None where `x` is no saddle, or the objective falls by rounding only.
    """
    try:
        curvature, free = hessian(criterion, x)
        value, unit = criterion.value(x), np.sqrt(np.maximum(criterion.evaluate(x).information.diagonal()[free], 1e-12))
        scaled = curvature[np.ix_(free, free)] / np.outer(unit, unit)
        if not free.any() or not np.isfinite(scaled).all():
            return None
        values, vectors = np.linalg.eigh(scaled)
        if values[0] > -_SADDLE:
            return None
        step = np.zeros_like(x)
        step[free] = vectors[:, 0] / unit
        beside = [np.maximum(x + side * step, criterion.lower) for side in (1.0, -1.0)]
        lowest, best = min((criterion.value(point), i) for i, point in enumerate(beside))
    except np.linalg.LinAlgError:
        return None
    finally:
        criterion.value(x)
    return beside[best] if lowest < value - _FALLS else None


def parameter_cov(criterion: LaplaceDeviance, x: np.ndarray) -> np.ndarray | None:
    """Covariance of the parameters from the Hessian, beta in the user's coordinates.

    Parameters
    ----------
    criterion : LaplaceDeviance
    x : ndarray
        Working vector (k,).

    Returns
    -------
    ndarray or None
        (k, k), zero for parameters on their bound; None where the Hessian is not positive definite, or the objective
        is not finite around `x`.
    """
    try:
        out = working_cov(criterion, x)
    except np.linalg.LinAlgError:
        criterion.value(x)
        return None
    if out is None:
        return None
    if not criterion.profiles_beta:
        at = slice(criterion.k_theta, criterion.k_theta + criterion.k_fe)
        out[at] = criterion.fixed_map @ out[at]
        out[:, at] = out[:, at] @ criterion.fixed_map.T
    return out


def working_cov(criterion: LaplaceDeviance, x: np.ndarray) -> np.ndarray | None:
    """`parameter_cov` with beta in working coordinates too."""
    h, free = hessian(criterion, x)
    out = _inverse(h, free)
    if out is None and criterion.k_shape:
        # alpha that runs to zero leaves the objective flat in log alpha
        free = free & (np.arange(x.size) < x.size - 1)
        out = _inverse(h, free)
    return out


def _inverse(h: np.ndarray, free: np.ndarray) -> np.ndarray | None:
    """Twice the inverse of the free part of a Hessian, zero elsewhere; None where that is not positive definite."""
    scale = 1.0 / np.sqrt(np.maximum(h.diagonal()[free], 1e-300))
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = h[np.ix_(free, free)] * scale[:, None] * scale
    if not np.isfinite(scaled).all() or np.linalg.eigvalsh(scaled)[0] <= 1e-10:
        return None
    out = np.zeros_like(h)
    out[np.ix_(free, free)] = 2.0 * np.linalg.inv(scaled) * scale[:, None] * scale
    return out


def conditional_cov(criterion: Any, x: Any) -> Any:
    """Var(b | y) at the mode, by level.

    Returns
    -------
    tuple of ndarray
        One (n_levels, q_k, q_k) per grouping factor in the order of ``random.factors``.
    """
    return level_covariances(criterion.layout, criterion.mode(x).weighted)


def prediction_variance(criterion: Any, x: Any, cov_beta: Any, exog: Any, rows: Any) -> Any:
    """Var(x'(beta_hat - beta) + z'(b_hat - b)) of new rows.

    Parameters
    ----------
    criterion : LaplaceDeviance
    x : ndarray
        Working vector (k,).
    cov_beta : ndarray
        Covariance of beta in the user's coordinates (p, p).
    exog : ndarray
        (m, p).
    rows : sequence of (ndarray, ndarray)
        Per term: level of every row (m,), -1 for a level without data, and columns (m, q).

    Returns
    -------
    ndarray
        (m,); a level without data contributes its marginal variance.
    """
    mode = criterion.mode(x)
    new = NewRows.build(criterion.layout, criterion.lambdas(x), exog @ criterion.fixed_map, rows)
    back = np.linalg.inv(criterion.fixed_map)
    zx = np.concatenate([z.reshape(-1, z.shape[2]) for z in criterion.fixed_system(mode).zx])
    return new.variance(mode.weighted, zx, back @ cov_beta @ back.T)
