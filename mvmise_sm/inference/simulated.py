"""What the distribution of single responses says: quantile residuals and prediction intervals of a family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.checks import simulated_residuals
from mvmise_sm.inference.fits import with_rows

__all__ = ["prediction_interval", "quantile_residuals"]

_DRAWS = 250
# rounds in which linear predictors outside of a link's domain are drawn again
_TRIES = 20


def quantile_residuals(result: Any, rng: Any = None) -> Any:
    """Randomised quantile residuals given the random effects, standard normal if the model holds.

    The distribution function of the fitted model is taken at the response; where it jumps, a uniform point of the jump.
    Families without one take the quantile among simulated responses.

    Returns
    -------
    ndarray or Series
        (nobs,).

    References
    ----------
    Dunn and Smyth (1996). Randomized quantile residuals. Journal of Computational and Graphical Statistics 5.
    """
    result = with_rows(result)
    rng = check_random_state(rng)
    model, family = result.model, result.family
    y, w = np.asarray(model.endog), model.weights
    predictors = result.own_predictors()
    upper = result.cumulative(y, predictors, w)
    if upper is None:
        u = np.asarray(simulated_residuals(result, _DRAWS, rng, "conditional"))
    else:
        lower = upper
        if family.trials:
            lower = result.cumulative(y - 1.0 / (1.0 if w is None else w), predictors, w)
        elif family.integer:
            lower = result.cumulative(y - 1.0, predictors, w)
        # continuous families have a jump at zero only
        lower = np.where(y == 0.0, 0.0, lower) if (family.integer or family.trials or result.has_zero_mass) else lower
        u = lower + rng.random(y.shape) * (upper - lower)
    tiny = np.finfo(float).tiny
    values = ndtri(np.clip(u, tiny, 1.0 - 1e-16))
    labels = model.data.row_labels
    return values if labels is None else pd.Series(values, index=labels)


def prediction_interval(
    result: Any,
    frame: Any = None,
    alpha: float = 0.05,
    random: Any = "all",
    n: int = 2000,
    rng: Any = None,
    allow_new_levels: bool = False,
) -> pd.DataFrame:
    """Means and quantiles of simulated responses.

    Every draw takes the linear predictor from its normal distribution (uncertainty of the coefficients and of the
    random effects), then a response from the family. With ``random="none"`` the random effects are new ones.

    Returns
    -------
    DataFrame
        ``mean, pi_low, pi_high``.
    """
    result = with_rows(result)
    if not 0.0 < alpha < 1.0:
        raise OptionError(f"alpha must lie between 0 and 1, got {alpha!r}")
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 10:
        raise OptionError(f"n must be a whole number of at least 10 draws, got {n!r}")
    rng = check_random_state(rng)
    predictors, sd, index = result.predictor_law(frame, random, allow_new_levels)
    m = len(predictors[0])
    draws = np.empty((m, n))
    for i in range(n):
        moved = [p + s * rng.standard_normal(m) for p, s in zip(predictors, sd, strict=True)]
        moved[0] = _in_domain(result.family, moved[0], predictors[0], sd[0], rng)
        draws[:, i] = result.drawn(rng, moved, None)
    low, high = np.quantile(draws, [0.5 * alpha, 1.0 - 0.5 * alpha], axis=1, method="inverted_cdf")
    mean = result.on_scale(predictors, "mean")
    return pd.DataFrame({"mean": mean, "pi_low": low, "pi_high": high}, index=index)


def _in_domain(family: Any, eta: Any, centre: Any, sd: Any, rng: Any) -> Any:
    """Drawn linear predictors, those without a mean in the family's range drawn again: what a normal distribution
    beyond the domain of a link would say is no response.
    """
    if family.mean_range is None:
        return eta
    low, high = family.mean_range
    for _ in range(_TRIES):
        with np.errstate(all="ignore"):
            mean = family.link.inverse(eta)
            outside = ~((mean > low) & (mean < high)) & np.isfinite(eta)
        if not outside.any():
            return eta
        eta = np.where(outside, centre + sd * rng.standard_normal(len(eta)), eta)
    return np.where(outside, centre, eta)
