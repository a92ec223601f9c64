"""Tests of selection models: hypotheses about several outcomes, and degrees of freedom that count clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.core.uncertainty.second_order import SecondOrder
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.anova import anova_table
from mvmise_sm.inference.comparison import droppable
from mvmise_sm.inference.ddf import SatterthwaiteDf, full_rank
from mvmise_sm.inference.fits import deviance_ratio, fit_options, quietly, ratio_error, ratio_p_value, unreached, unwrap
from mvmise_sm.inference.hypotheses import design_contrasts
from mvmise_sm.inference.tables import table

__all__ = ["ClusterDf", "RestrictedDf", "anova", "drop1", "hypotheses", "no_ddf"]


class ClusterDf:
    """Wald tests whose degrees of freedom are those of the coefficients: a combination has the smallest of its own.

    Parameters
    ----------
    cov : ndarray
        Covariance of the fixed effects (p, p).
    df : ndarray
        Degrees of freedom of the coefficients (p,); infinite for the normal distribution.
    """

    label = "those of the coefficients, which count clusters and samples"

    def __init__(self, cov: np.ndarray, df: np.ndarray) -> None:
        self.cov = cov
        self.coefficients = np.asarray(df, dtype=float)
        self.label = "those of the coefficients" if np.isfinite(df).any() else "infinite (normal distribution)"

    def df(self, contrasts: np.ndarray) -> np.ndarray:
        """Degrees of freedom of each row of `contrasts` (q, p), taken by itself."""
        size = np.abs(contrasts)
        # contrasts come out of factorisations: what is rounding away from zero is zero
        used = size > 1e-9 * size.max(axis=1, keepdims=True)
        own = np.where(used, self.coefficients, np.inf).min(axis=1)
        return np.where(used.any(axis=1), own, self.coefficients.min())

    def f_test(self, contrasts: np.ndarray, values: np.ndarray) -> tuple[float, int, float]:
        """F statistic and degrees of freedom of L beta, `values` being its distance from the hypothesis (q,)."""
        smallest = float(self.df(contrasts).min())
        contrasts, values = full_rank(contrasts, values)
        inner = contrasts @ self.cov @ contrasts.T
        return float(values @ np.linalg.solve(inner, values)) / len(values), len(values), smallest


class RestrictedDf(SatterthwaiteDf):
    """Satterthwaite's degrees of freedom of the covariance that takes the variances as known.

    Parameters
    ----------
    cov : ndarray
        Covariance of the fixed effects (p, p) that tests use.
    conditional : ndarray
        That at known variances (p, p), whose sampling variation is counted.
    nuisance : ndarray
        Covariance of the variance parameters (k, k).
    slopes : ndarray
        Derivatives of `conditional` in them (k, p, p).
    """

    def __init__(self, cov: np.ndarray, conditional: np.ndarray, nuisance: np.ndarray, slopes: np.ndarray) -> None:
        super().__init__(cov, SecondOrder(nuisance, slopes, np.empty(0), np.empty(0)))
        self._counted = SatterthwaiteDf(conditional, self._shape)

    def df(self, contrasts: np.ndarray) -> np.ndarray:
        """Degrees of freedom of each row of `contrasts` (q, p), taken by itself."""
        # coefficients that were left out of the fit have none, others none of their own to lose
        known = np.isfinite(np.diag(self._counted.cov))
        if known.all():
            return self._counted.df(contrasts)
        out = np.full(len(contrasts), np.nan)
        fine = ~(np.abs(contrasts[:, ~known]) > 0).any(axis=1)
        inner = SecondOrder(self._shape.cov, self._shape.slopes[:, known][:, :, known], np.empty(0), np.empty(0))
        out[fine] = SatterthwaiteDf(self._counted.cov[np.ix_(known, known)], inner).df(contrasts[fine][:, known])
        return out


def hypotheses(result: Any, type: int = 3) -> dict[str, np.ndarray]:
    """Contrast matrices (q, p) of the terms; effects of their own of several outcomes are tested jointly.

    Parameters
    ----------
    result : SelectionResults
    type : {1, 2, 3}
    """
    design = result.model.design
    if design.design is None:
        unit = np.eye(len(result.params))
        return {name: unit[columns] for name, columns in design.terms.items() if name != "Intercept"}
    exog = result.model.exog if design.common_exog is None else design.common_exog.to_numpy(dtype=float)
    maps = design.outcome_maps()
    out = {}
    for name, contrasts in design_contrasts(design.design, exog, type).items():
        stacked = np.concatenate([contrasts @ each for each in maps])
        rows, order = np.unique(stacked, axis=0, return_index=True)
        out[name] = rows[np.argsort(order)]
    return out


def no_ddf(ddf: Any) -> None:
    """Fail where degrees of freedom are asked for that only linear mixed models have."""
    if ddf not in (None, "default"):
        raise OptionError(
            f"ddf={ddf!r} is defined for linear mixed models; a selection model counts its clusters: leave ddf out"
        )


def anova(result: Any, type: int = 3, ddf: Any = None) -> pd.DataFrame:
    """Wald F tests of the terms; see `SelectionResults.anova`."""
    no_ddf(ddf)
    return anova_table(result, hypotheses(result, type), result.wald_law(), type)


def drop1(result: Any) -> pd.DataFrame:
    """Likelihood-ratio tests of the terms that no other contains; see `SelectionResults.drop1`."""
    result = unwrap(result)
    model = result.model
    if result.method == "mvmise":
        raise OptionError("method='mvmise' has no likelihood to compare; fit with method='ml'")
    if model.design.design is None:
        names = [name for name in model.design.terms if name != "Intercept"]
    else:
        names = [term.name() for term in droppable(model.design.design.model_spec)]
    exog = np.asarray(model.exog)
    rows: dict[str, tuple[float, ...]] = {"<none>": (np.nan, result.aic, np.nan, np.nan)}
    fits = [("<none>", result)]
    for name in names:
        keep = np.setdiff1d(np.arange(exog.shape[1]), model.design.terms[name])
        columns = pd.DataFrame(exog[:, keep], columns=[model.exog_names[j] for j in keep])
        smaller = type(model)(model.design.endog, columns, **model._get_init_kwds())
        small = unwrap(quietly(smaller.fit, **fit_options(result)))
        df = float(exog.shape[1] - len(keep))
        chisq = deviance_ratio(small, result)
        fits.append((name, small))
        rows[name] = (df, small.aic, chisq, float(ratio_p_value(chisq, df, ratio_error(small, result))))
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["df", "aic", "chisq", "p_value"])
    return table(frame, "Single term deletions, likelihood-ratio tests." + unreached(fits))
