"""Variances of many features moderated towards a common prior."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mvmise_sm.core.moderation import fit_prior, posterior_variances
from mvmise_sm.exceptions import DataError
from mvmise_sm.options import strict

__all__ = ["SqueezedVariances", "squeeze_variances"]


class SqueezedVariances(NamedTuple):
    """Moderated variances and their prior.

    Attributes
    ----------
    posterior : ndarray
        Moderated variances (m,), NaN where there was no variance.
    df_prior : float
        Degrees of freedom of the prior, infinite where the variances do not differ more than by chance.
    var_prior : float
        Variance of the prior.
    """

    posterior: np.ndarray
    df_prior: float
    var_prior: float


@strict
def squeeze_variances(var: ArrayLike, df: ArrayLike) -> SqueezedVariances:
    """Squeeze variances towards a common value.

    A variance is a scaled chi-squared variable, and the true variances have a scaled inverse chi-squared distribution
    whose two parameters are estimated from all of them.

    Parameters
    ----------
    var : array_like
        Variances (m,), not negative; NaN takes no part.
    df : array_like
        Their degrees of freedom (m,), or one number for all; where they are zero or NaN the variance takes no part.

    Returns
    -------
    SqueezedVariances
        ``posterior, df_prior, var_prior``.

    Raises
    ------
    DataError
        If a variance is negative, shapes differ, or fewer than two variances can be used.

    References
    ----------
    Smyth (2004). Linear models and empirical Bayes methods for assessing differential expression in microarray
    experiments. Statistical Applications in Genetics and Molecular Biology 3, section 6.2.

    Examples
    --------
    >>> import mvmise_sm as ms
    >>> squeezed = ms.squeeze_variances([0.1, 0.5, 1.0, 4.0], 3)
    >>> squeezed.posterior.round(3)
    array([0.303, 0.533, 0.821, 2.546])
    """
    try:
        variances, degrees = np.asarray(var, dtype=float), np.asarray(df, dtype=float)
    except (TypeError, ValueError):
        raise DataError("var and df must be numbers") from None
    return _squeezed(variances, degrees)


def _squeezed(var: np.ndarray, df: np.ndarray) -> SqueezedVariances:
    """`squeeze_variances` of arrays."""
    if var.ndim != 1:
        raise DataError(f"var must have one dimension, found shape {var.shape}")
    if df.ndim > 1 or (df.ndim == 1 and df.shape != var.shape):
        raise DataError(f"df must be one number or have the shape of var, {var.shape}; found {df.shape}")
    if (var < 0.0).any():
        raise DataError(f"var must not be negative, found {np.nanmin(var):g}")
    df = np.broadcast_to(df, var.shape)
    if (df < 0.0).any():
        raise DataError(f"df must not be negative, found {np.nanmin(df):g}")
    # a variance with infinite df is known and says as much about the prior as any other
    df = np.minimum(df, _KNOWN)
    known = np.isfinite(var) & (df > 0.0)
    if known.sum() < 2:
        raise DataError(f"two variances with positive df are needed, found {int(known.sum())}")
    df_prior, var_prior = fit_prior(var[known], df[known])
    posterior = np.full(var.shape, np.nan)
    posterior[known] = posterior_variances(var[known], df[known], df_prior, var_prior)
    return SqueezedVariances(posterior, df_prior, var_prior)


_KNOWN = 1e10
