"""The mechanism of a fitted selection model: likelihood-ratio test, profile interval, sensitivity curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.exceptions import OptionError
from mvmise_sm.selection.information import covariance
from mvmise_sm.selection.profile import MechanismProfile

__all__ = ["MechanismTest", "checked_slopes", "profile_interval", "ratio_test", "sensitivity", "sensitivity_rows"]


@dataclass(frozen=True)
class MechanismTest:
    """Likelihood-ratio test that missingness does not depend on the outcome.

    Attributes
    ----------
    statistic, pvalue : float
    df : int
    llf_null : float
        Objective (log-likelihood minus penalties) without the dependence.
    beta_null : ndarray, (p,)
        Fixed effects there.
    """

    statistic: float
    pvalue: float
    llf_null: float
    df: int = 1
    beta_null: np.ndarray | None = None


def _profile(result) -> MechanismProfile:
    outcome = result._outcome
    if outcome is None:
        raise OptionError("the data of this result were removed")
    if outcome.maximum is None:
        raise OptionError("method='mvmise' has no likelihood to profile; fit with method='ml'")
    if result.restricted:
        raise OptionError("profiles of the mechanism belong to the likelihood; fit with reml=False")
    if result.phi is None or "y" not in result.phi.index:
        raise OptionError("the mechanism does not depend on the outcome (missing_y is False or no block is missing)")
    from mvmise_sm.inference.fits import require_maximum

    require_maximum(result, "profiles of the mechanism")
    return result.memo("profile", lambda: MechanismProfile(outcome.objective, outcome.maximum))


def ratio_test(result) -> MechanismTest | None:
    """The test for `summary`; None where it does not apply."""
    if result._outcome.maximum is None or result.phi is None or "y" not in result.phi.index or not result.converged:
        return None
    if result.restricted:
        return None
    if result.error_penalty:
        # the fit without the dependence would have a sparsity pattern of its own, and the ratio no known law
        return None
    test = _profile(result).test(0.0)
    beta = test.restricted.theta[result._outcome.objective.likelihood.slices["beta"]]
    return MechanismTest(test.statistic, test.pvalue, test.restricted.value, beta_null=beta)


def profile_interval(result, alpha: float) -> tuple[float, float]:
    """Likelihood-ratio interval of the slope."""
    profile = _profile(result)
    se = float(result.bse_phi["y"])
    return profile.interval(alpha, se=se if np.isfinite(se) and se > 0 else 0.1 * max(abs(profile.estimate), 0.1))


def sensitivity(result, phi_y, alpha: float, hold: str = "refit") -> pd.DataFrame:
    """Restricted fits over a grid of slopes, as a long frame."""
    profile = _profile(result)
    if phi_y is None:
        width = 3.0 * float(result.bse_phi["y"])
        phi_y = np.unique(np.r_[0.0, np.linspace(profile.estimate - width, profile.estimate + width, 13)])
    values = checked_slopes(phi_y, hold)
    if hold == "rate":
        if not profile.has_level:
            raise OptionError("hold='rate' moves the mechanism's Intercept, which is held in this model; use 'refit'")
        fits = [profile.at_rate(float(value)) for value in values]
    else:
        fits = [*profile.path(values)]
    quantile = stats.t.isf(alpha / 2.0, result.df_resid_inference) if result.use_t else stats.norm.isf(alpha / 2.0)
    likelihood, rows = result._outcome.objective.likelihood, []
    for value, fit in zip(values, fits, strict=True):
        llf, beta = np.nan, np.full(len(result.params), np.nan)
        se = beta
        if fit is not None:
            llf, beta = likelihood.value_and_score(fit.theta)[0], fit.theta[likelihood.slices["beta"]]
        if fit is not None and fit.information is not None:
            cov = covariance(likelihood, fit.theta, fit.information)
            se = np.sqrt(np.diag(cov.beta if result.cov_type == "information" else cov.beta_small_sample))
        rows.append((float(value), llf, beta, se, fit is not None and fit.converged))
    return sensitivity_rows(rows, list(result.model.exog_names), quantile)


def checked_slopes(phi_y, hold) -> np.ndarray:
    """The grid of slopes as floats.

    Raises
    ------
    OptionError
        If they are not finite, or `hold` is unknown.
    """
    if not isinstance(hold, str) or hold not in ("refit", "rate"):
        raise OptionError(f"hold must be 'refit' or 'rate', got {hold!r}")
    try:
        values = np.atleast_1d(np.asarray(phi_y, dtype=float))
    except (TypeError, ValueError):
        raise OptionError(f"phi_y must be finite numbers, got {phi_y!r}") from None
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise OptionError("phi_y must be finite numbers")
    return values


def sensitivity_rows(
    rows: list[tuple[float, float, np.ndarray, np.ndarray, bool]], names: list[str], quantile: float | np.ndarray
) -> pd.DataFrame:
    """The long frame of slope, log-likelihood, estimates, standard errors and convergence at every slope."""
    frames = [
        pd.DataFrame(
            {
                "phi_y": value,
                "llf": llf,
                "term": names,
                "estimate": beta,
                "std_error": se,
                "conf_low": beta - quantile * se,
                "conf_high": beta + quantile * se,
                "converged": converged,
            }
        )
        for value, llf, beta, se, converged in rows
    ]
    return pd.concat(frames, ignore_index=True)
