"""Wald tests and intervals with degrees of freedom by contrast."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats
from statsmodels.formula._manager import FormulaManager
from statsmodels.stats.contrast import ContrastResults

from mvmise_sm.exceptions import OptionError

_NEGLIGIBLE = 1e-10  # rounding of eliminated coefficients

__all__ = ["coefficient_table", "t_test", "untestable", "wald_intervals", "wald_test"]


def _hypothesis(result, r_matrix):
    """Contrasts L (q, p) and hypothetical values (q,), from anything that statsmodels' ``t_test`` takes."""
    constraint = FormulaManager().get_linear_constraints(r_matrix, result.model.data.cov_names)
    contrasts = np.asarray(constraint.constraint_matrix, dtype=float)
    given = constraint.constraint_values
    values = np.zeros(len(contrasts)) if given is None else np.broadcast_to(np.ravel(given), len(contrasts))
    if contrasts.shape[1] != len(result.params):
        raise OptionError(
            f"r_matrix must have {len(result.params)} columns, one for each fixed effect, found {contrasts.shape[1]}"
        )
    return contrasts, values


def t_test(result, r_matrix, ddf):
    """Test each row of a hypothesis; see `InferentialResults.t_test`."""
    contrasts, values = _hypothesis(result, r_matrix)
    method = result.denominator(ddf)
    effect = contrasts @ result.params
    sd = np.sqrt(np.einsum("qi,ij,qj->q", contrasts, method.cov, contrasts))
    return ContrastResults(effect=effect, t=(effect - values) / sd, sd=sd, df_denom=method.df(contrasts))


def wald_test(result, r_matrix, ddf):
    """Test all rows of a hypothesis jointly; see `InferentialResults.wald_test`."""
    contrasts, values = _reduced(*_hypothesis(result, r_matrix))
    f, df_num, df_denom = result.denominator(ddf).f_test(contrasts, contrasts @ result.params - values)
    return ContrastResults(F=f, df_num=df_num, df_denom=df_denom)


def untestable(result: Any, r_matrix: Any, use_f: bool) -> ContrastResults | None:
    """The test without an answer of a hypothesis that has no standard errors; None where it has."""
    contrasts, _ = _hypothesis(result, r_matrix)
    if np.isfinite(result.cov_params(r_matrix=contrasts)).all():
        return None
    q = int(np.linalg.matrix_rank(contrasts))
    if use_f:
        # as statsmodels chooses them: of the coefficients where a class has such, else of the residuals
        df = vars(result).get("df_resid_inference", result.df_resid)
        return ContrastResults(F=np.nan, df_denom=np.min(df), df_num=q)
    return ContrastResults(chi2=np.nan, df_denom=q, statistic=np.nan, distribution="chi2", distargs=(q,))


def _reduced(contrasts, values):
    """The reduced row echelon form of a hypothesis, rows of zeros left out.

    Satterthwaite's degrees of freedom depend on the rows that write a hypothesis; in this form it has one answer.
    """
    work = np.column_stack([contrasts, values]).astype(float)
    size = np.abs(contrasts).max(initial=0.0)
    row = 0
    for column in range(contrasts.shape[1]):
        if row == len(work):
            break
        best = row + int(np.argmax(np.abs(work[row:, column])))
        if abs(work[best, column]) <= _NEGLIGIBLE * size:
            work[row:, column] = 0.0
            continue
        work[[row, best]] = work[[best, row]]
        work[row] /= work[row, column]
        others = np.arange(len(work)) != row
        work[others] -= np.multiply.outer(work[others, column], work[row])
        size = np.abs(work[:, :-1]).max()
        row += 1
    if row < len(work) and np.abs(work[row:, -1]).max(initial=0.0) > _NEGLIGIBLE * max(1.0, np.abs(values).max()):
        raise OptionError("the hypothesis contradicts itself: some of its equations cannot hold together")
    return (work[:row, :-1], work[:row, -1]) if row else (contrasts, values)


def coefficient_table(result, ddf=None, alpha=0.05):
    """Standard errors, statistics, degrees of freedom, p-values and intervals of the fixed effects.

    Returns
    -------
    dict of ndarray
        ``std_error, statistic, df, p_value, conf_low, conf_high`` (k_fe,); `df` is infinite for the normal
        distribution.
    """
    method = result.denominator(ddf)
    params = np.asarray(result.params)
    se = np.sqrt(np.diag(method.cov))
    statistic = np.divide(params, se, out=np.full_like(params, np.nan), where=se > 0.0)
    df = method.df(np.eye(len(params)))
    law = stats.norm if np.isinf(df).all() else stats.t(df)
    half = law.isf(0.5 * alpha) * se
    return {
        "std_error": se,
        "statistic": statistic,
        "df": df,
        "p_value": 2.0 * law.sf(np.abs(statistic)),
        "conf_low": params - half,
        "conf_high": params + half,
    }


def wald_intervals(result, alpha, ddf=None):
    """Wald intervals of the fixed effects (k_fe, 2)."""
    table = coefficient_table(result, ddf, alpha)
    return np.column_stack([table["conf_low"], table["conf_high"]])
