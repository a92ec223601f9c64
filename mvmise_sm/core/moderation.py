"""Variances of many features moderated towards a common prior: limma's empirical Bayes."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma, polygamma

__all__ = ["fit_prior", "inverse_trigamma", "posterior_variances"]

# variances far below the others (rounding, constant features) would dominate the logarithms
_FLOOR = 1e-5
_NEWTON_STEPS = 60


def inverse_trigamma(x: float) -> float:
    """Solve trigamma(y) = x for y.

    Newton's iteration on 1 / trigamma, which is convex and nearly linear, so that it approaches from one side (Smyth
    2004, appendix).
    """
    y = 0.5 + 1.0 / x
    for _ in range(_NEWTON_STEPS):
        value = float(polygamma(1, y))
        step = value * (1.0 - value / x) / float(polygamma(2, y))
        y += step
        if -step < 1e-14 * y:
            break
    return y


def fit_prior(var: np.ndarray, df: np.ndarray) -> tuple[float, float]:
    """Degrees of freedom and variance of the prior by the moments of the logarithms.

    Parameters
    ----------
    var, df : ndarray
        Variances and their degrees of freedom (m,), finite and positive df; at least two.

    Returns
    -------
    df_prior, var_prior : float
        `df_prior` is infinite where the variances do not differ more than by chance.

    References
    ----------
    Smyth (2004). Linear models and empirical Bayes methods for assessing differential expression in microarray
    experiments. Statistical Applications in Genetics and Molecular Biology 3, section 6.2.
    """
    centre = float(np.median(var))
    floored = np.maximum(var, _FLOOR * (centre if centre > 0.0 else 1.0))
    e = np.log(floored) - digamma(0.5 * df) + np.log(0.5 * df)
    spread = float(e.var(ddof=1) - polygamma(1, 0.5 * df).mean())
    if spread <= 0.0:
        return np.inf, float(floored.mean())
    df_prior = 2.0 * inverse_trigamma(spread)
    return df_prior, float(np.exp(e.mean() + digamma(0.5 * df_prior) - np.log(0.5 * df_prior)))


def posterior_variances(var: np.ndarray, df: np.ndarray, df_prior: float, var_prior: float) -> np.ndarray:
    """Variances (m,) averaged with the prior's, weighted by degrees of freedom."""
    if np.isinf(df_prior):
        return np.full(var.shape, var_prior)
    share = df_prior / (df_prior + df)
    return share * var_prior + (1.0 - share) * var
