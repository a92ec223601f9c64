"""Fits to multiply imputed data pooled by Rubin's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.ddf import full_rank
from mvmise_sm.inference.fits import unwrap
from mvmise_sm.options import strict

__all__ = ["PooledLaw", "Shares", "pool", "rubin"]

_SMALLEST = 1e-4  # share of the variance that is due to missing values, as mice bounds it


@dataclass(frozen=True, eq=False)
class Shares:
    """What missing values do to single estimates; all (q,).

    Attributes
    ----------
    within, between : ndarray
        Mean of the variances, and variance of the estimates.
    riv : ndarray
        Relative increase of the variance.
    share : ndarray
        Rubin's lambda, the share of the variance that is due to missing values.
    df : ndarray
        Barnard and Rubin's degrees of freedom.
    fmi : ndarray
        Fraction of missing information.
    """

    within: np.ndarray
    between: np.ndarray
    riv: np.ndarray
    share: np.ndarray
    df: np.ndarray
    fmi: np.ndarray


class PooledLaw:
    """Wald tests of pooled estimates: Barnard and Rubin's degrees of freedom, F tests after Reiter.

    Parameters
    ----------
    within, between : ndarray
        Mean covariance of the estimates and covariance between them (p, p).
    m : int
        Number of fits.
    df_complete : float
        Degrees of freedom that complete data would have.

    References
    ----------
    Rubin (1987), Multiple Imputation for Nonresponse in Surveys; Barnard and Rubin (1999), Biometrika 86; Li,
    Raghunathan and Rubin (1991), JASA 86; Reiter (2007), Biometrika 94.
    """

    label = "Barnard and Rubin"

    def __init__(self, within: np.ndarray, between: np.ndarray, m: int, df_complete: float) -> None:
        self.within, self.between = within, between
        self.m, self.df_complete = m, float(df_complete)
        self.cov = within + (1.0 + 1.0 / m) * between

    def shares(self, contrasts: np.ndarray) -> Shares:
        """What missing values do to each row of `contrasts` (q, p), taken by itself."""
        within = np.einsum("qi,ij,qj->q", contrasts, self.within, contrasts)
        between = np.einsum("qi,ij,qj->q", contrasts, self.between, contrasts)
        extra = (1.0 + 1.0 / self.m) * between
        share = np.maximum(extra / (within + extra), _SMALLEST)
        df = _combined((self.m - 1.0) / share**2, self._observed(share))
        riv = extra / within
        return Shares(within, between, riv, share, df, (riv + 2.0 / (df + 3.0)) / (1.0 + riv))

    def _observed(self, share: np.ndarray) -> np.ndarray:
        """Degrees of freedom of the observed data."""
        n = self.df_complete
        return np.full_like(share, np.inf) if np.isinf(n) else (n + 1.0) / (n + 3.0) * n * (1.0 - share)

    def df(self, contrasts: np.ndarray) -> np.ndarray:
        """Degrees of freedom of each row of `contrasts` (q, p), taken by itself."""
        return self.shares(contrasts).df

    def f_test(self, contrasts: np.ndarray, values: np.ndarray) -> tuple[float, int, float]:
        """F statistic (D1) and degrees of freedom of L beta, `values` being its distance from the hypothesis (q,)."""
        contrasts, values = full_rank(contrasts, values)
        k, m = len(values), self.m
        within = contrasts @ self.within @ contrasts.T
        between = contrasts @ self.between @ contrasts.T
        r = (1.0 + 1.0 / m) * float(np.trace(np.linalg.solve(within, between))) / k
        f = float(values @ np.linalg.solve(within, values)) / (k * (1.0 + r))
        return f, k, _joint_df(k, m, max(r, _SMALLEST / (1.0 - _SMALLEST)), self.df_complete)


def _combined(old: np.ndarray, observed: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(observed), old, old * observed / (old + observed))


def _joint_df(k: int, m: int, r: float, n: float) -> float:
    """Denominator degrees of freedom of a joint test of `k` contrasts."""
    t = k * (m - 1.0)
    size = n * (n + 1.0) / (n + 3.0) if np.isfinite(n) else np.inf
    if k == 1 or t <= 4.0:
        old = 0.5 * (k + 1.0) * (m - 1.0) * (1.0 + 1.0 / r) ** 2
        return float(_combined(np.array(old), np.array(size / (1.0 + r))))
    if np.isinf(size):
        return 4.0 + (t - 4.0) * (1.0 + (1.0 - 2.0 / t) / r) ** 2
    a = r * t / (t - 2.0)
    c1, c2 = size - 2.0 * (1.0 + a), size - 4.0 * (1.0 + a)
    terms = (
        a**2 * c1 / ((1.0 + a) ** 2 * c2)
        + 8.0 * a**2 * c1 / ((1.0 + a) * c2**2)
        + 4.0 * a**2 / ((1.0 + a) * c2)
        + 4.0 * a**2 / (c1 * c2)
        + 16.0 * a**2 * c1 / c2**3
        + 8.0 * a**2 / c2**2
    )
    return 4.0 + 1.0 / (1.0 / c2 + terms / (t - 4.0))


def rubin(params: np.ndarray, covs: np.ndarray, df_complete: float) -> tuple[np.ndarray, PooledLaw]:
    """Pool estimates (m, p) with covariances (m, p, p): their mean and its law."""
    between = np.atleast_2d(np.cov(params, rowvar=False))
    return params.mean(axis=0), PooledLaw(covs.mean(axis=0), between, len(params), df_complete)


@strict
def pool(results: Sequence[Any], df_complete: float | None = None) -> Any:
    """Pool fits of one model to multiply imputed data by Rubin's rules.

    Parameters
    ----------
    results : sequence
        At least two fits with the same fixed effects, one for each completed data set.
    df_complete : float, optional
        Degrees of freedom that complete data would have; by default the number of rows less all estimated parameters.
        ``numpy.inf`` leaves out Barnard and Rubin's correction.

    Returns
    -------
    PooledResults
        With ``params``, ``bse``, ``cov_params()``, ``tidy()``, ``wald_test()``, ``summary()`` and ``marginal_means()``.

    Raises
    ------
    OptionError
        If there are fewer than two fits, or their fixed effects differ.

    References
    ----------
    Rubin (1987), Multiple Imputation for Nonresponse in Surveys; Barnard and Rubin (1999), Biometrika 86.
    """
    from mvmise_sm.results.pooled import PooledResults

    fits = [unwrap(result) for result in results]
    if len(fits) < 2:
        raise OptionError(f"pool needs at least two fits, got {len(fits)}")
    names = list(fits[0].model.exog_names)
    for i, fit in enumerate(fits[1:], start=2):
        other = list(fit.model.exog_names)
        if other == names:
            continue
        odd = [f"{name} is missing in fit {i}" for name in names if name not in other]
        odd += [f"{name} is missing in fit 1" for name in other if name not in names]
        why = "; ".join(odd) or f"their order differs in fit {i}"
        raise OptionError(f"the fits have different fixed effects: {why}")
    if df_complete is None:
        df_complete = min(float(fit.nobs - fit.k_params) for fit in fits)
    if not float(df_complete) > 0.0:
        raise OptionError(f"df_complete must be positive, got {df_complete!r}")
    return PooledResults(fits, float(df_complete))
