"""Marginal means of factor combinations and their differences."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.design.columns import names_in
from mvmise_sm.design.new_data import new_exog
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.anova import default_ddf
from mvmise_sm.inference.ddf import denominator
from mvmise_sm.inference.fits import unwrap
from mvmise_sm.inference.hypotheses import model_spec_of
from mvmise_sm.inference.tables import table

__all__ = ["marginal_means", "reference_grid"]

_TWO = 2
_ADJUSTMENTS = ("tukey", "holm", "sidak", "bonferroni", None)


def reference_grid(result, at=None):
    """All combinations of the factors of the fixed effects, numeric variables at their means (two values: at both).

    Parameters
    ----------
    result : MixedModelResults
        Of a formula model.
    at : dict, optional
        Variable -> value or values to use instead.

    Returns
    -------
    grid : DataFrame
        One row per combination.
    exog : ndarray
        Their rows of the design (m, k_fe).
    """
    design = result.model.data.design
    frame = design.frame
    values = {}
    for factor, info in model_spec_of(result).factor_infos.items():
        quoted, plain_names = names_in(factor)
        for name in [*quoted, *sorted(plain_names)]:
            if name in frame.columns:
                values.setdefault(name, _grid_values(frame[name], info))
    for name, given in (at or {}).items():
        if name not in values:
            raise OptionError(f"at: {name!r} is not a variable of the fixed effects; these are {', '.join(values)}")
        values[name] = list(np.atleast_1d(given))
    grid = pd.DataFrame(list(product(*values.values())), columns=list(values))
    for name in grid.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            grid[name] = pd.Categorical(grid[name], dtype=frame[name].dtype)
    return grid, new_exog(design, grid).to_numpy()


def _grid_values(column, info):
    """Levels of a factor, the mean of a number; a number with two values counts as a factor, as in emmeans."""
    if info.type == "categorical":
        # a numeric column inside C() has its numbers as levels; the column's own labels otherwise
        return list(info.categories)
    if column.dtype == bool or not pd.api.types.is_numeric_dtype(column):
        return list(pd.unique(column.dropna()))
    distinct = np.unique(column.dropna())
    return distinct.tolist() if len(distinct) <= _TWO else [float(column.mean())]


def marginal_means(
    result, specs, by=None, ddf="default", pairs=False, adjust="tukey", which="linear", at=None, alpha=0.05
):
    """Marginal means or their differences; see `InferentialResults.marginal_means`."""
    result = unwrap(result)
    if which not in ("linear", "mean"):
        raise OptionError(f"which must be 'linear' or 'mean', got {which!r}")
    if adjust not in _ADJUSTMENTS:
        raise OptionError(f"adjust must be 'tukey', 'holm', 'sidak', 'bonferroni' or None, got {adjust!r}")
    model_spec_of(result)
    grid, exog = reference_grid(result, at)
    wanted = _names(specs, grid.columns, "specs")
    groups = [] if by is None else _names(by, grid.columns, "by")
    if set(groups) & set(wanted):
        raise OptionError(f"by and specs must differ, both have {sorted(set(groups) & set(wanted))}")
    missing = _without_data(result, grid)
    keys = grid.groupby([*groups, *wanted], sort=False, observed=True).ngroup().to_numpy()
    first = [int(np.argmax(keys == k)) for k in range(keys.max() + 1)]
    contrasts = np.array([exog[keys == k].mean(axis=0) for k in range(len(first))])
    contrasts[[bool(missing[keys == k].any()) for k in range(len(first))]] = np.nan
    levels = grid.loc[first, [*groups, *wanted]].reset_index(drop=True)
    method = denominator(result, default_ddf(result) if ddf == "default" else ddf)
    if pairs:
        return _pair_table(result, method, contrasts, levels, groups, wanted, adjust, which, alpha)
    estimate, se, df = _estimates(result, method, contrasts)
    half = stats.t.ppf(1.0 - 0.5 * alpha, df) * se
    low, high = estimate - half, estimate + half
    if which == "mean" and hasattr(result.model, "link"):
        link = result.model.link
        ends = np.sort(np.column_stack([link.inverse(low), link.inverse(high)]), axis=1)
        se = np.abs(link.inverse_deriv(estimate)) * se
        estimate, low, high = link.inverse(estimate), ends[:, 0], ends[:, 1]
    columns = {"estimate": estimate, "std_error": se, "df": df, "conf_low": low, "conf_high": high}
    return table(levels.assign(**columns), _heading(grid, wanted, groups, which))


def _heading(grid, wanted, groups, which):
    averaged = [c for c in grid.columns if c not in wanted and c not in groups and _varies(grid[c])]
    held = {c: grid[c].iloc[0] for c in grid.columns if c not in wanted and c not in groups and not _varies(grid[c])}
    text = f"Marginal means of {', '.join(wanted)}"
    if averaged:
        text += f", averaged over {', '.join(averaged)}"
    if held:
        text += ", at " + ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in held.items())
    return text + (" (response scale)" if which == "mean" else "")


def _varies(column):
    return len(column.unique()) > 1


def _names(given, columns, option):
    names = [given] if isinstance(given, str) else list(given)
    for name in names:
        if name not in columns:
            raise OptionError(
                f"{option}: {name!r} is not a variable of the fixed effects; these are {', '.join(columns)}"
            )
    return names


def _without_data(result, grid):
    """Combinations (m,) of factors of one term that the data do not have, where columns were dropped for that."""
    missing = np.zeros(len(grid), dtype=bool)
    if not result.dropped:
        return missing
    frame = result.model.data.design.frame
    for term in model_spec_of(result).terms:
        names = [c for f in term.factors for c in [*names_in(f)[0], *names_in(f)[1]] if c in grid.columns]
        names = [c for c in dict.fromkeys(names) if _varies(grid[c])]
        if len(names) > 1:
            seen = set(map(tuple, frame[names].astype(str).to_numpy()))
            missing |= np.array([tuple(row) not in seen for row in grid[names].astype(str).to_numpy()])
    return missing


def _estimates(result, method, contrasts):
    """Estimates, standard errors and degrees of freedom; NaN for rows that are not estimable."""
    known = ~np.isnan(contrasts).any(axis=1)
    out = np.full((3, len(contrasts)), np.nan)
    rows = contrasts[known]
    out[0, known] = rows @ result.params
    out[1, known] = np.sqrt(np.einsum("qi,ij,qj->q", rows, method.cov, rows))
    out[2, known] = method.df(rows)
    return out


def _pair_table(result, method, contrasts, levels, groups, wanted, adjust, which, alpha):
    labels = levels[wanted].astype(str).agg(" ".join, axis=1).to_numpy()
    parts = []
    blocks = [(None, levels)] if not groups else levels.groupby(groups, sort=False, observed=True)
    for _, block in blocks:
        index = block.index.to_numpy()
        chosen = list(combinations(index, 2))
        if not chosen:
            continue
        rows = np.array([contrasts[i] - contrasts[j] for i, j in chosen])
        estimate, se, df = _estimates(result, method, rows)
        statistic = estimate / se
        p, quantile = _adjusted(statistic, df, len(index), adjust, alpha)
        part = levels.loc[[i for i, _ in chosen], groups].reset_index(drop=True)
        part["contrast"] = [f"{labels[i]} - {labels[j]}" for i, j in chosen]
        low, high = estimate - quantile * se, estimate + quantile * se
        if which == "mean" and hasattr(result.model, "link"):
            part["contrast"], estimate, se, low, high = _on_response(
                result, method, contrasts, chosen, labels, estimate, se, low, high, quantile
            )
        columns = {"estimate": estimate, "std_error": se, "df": df, "statistic": statistic, "p_value": p}
        parts.append(part.assign(**columns, conf_low=low, conf_high=high))
    if not parts:
        raise OptionError("pairs need at least two levels")
    name = {"tukey": "Tukey", "holm": "Holm", "sidak": "Sidak", "bonferroni": "Bonferroni"}.get(adjust)
    heading = f"Differences of marginal means of {', '.join(wanted)}"
    heading += f", p-values adjusted after {name}" if name else ", p-values not adjusted"
    return table(pd.concat(parts, ignore_index=True), heading)


def _on_response(result, method, contrasts, chosen, labels, estimate, se, low, high, quantile):
    """Ratios for log links, odds ratios for logits, differences of means otherwise."""
    link = result.model.link
    kind = type(link).__name__
    if kind in ("Log", "Logit"):
        ratio = np.exp(estimate)
        names = [f"{labels[i]} / {labels[j]}" for i, j in chosen]
        return names, ratio, ratio * se, np.exp(low), np.exp(high)
    names = [f"{labels[i]} - {labels[j]}" for i, j in chosen]
    eta = contrasts @ result.params
    slopes = link.inverse_deriv(eta)[:, None] * contrasts
    rows = np.array([slopes[i] - slopes[j] for i, j in chosen])
    difference = np.array([link.inverse(eta[i]) - link.inverse(eta[j]) for i, j in chosen])
    error = np.sqrt(np.einsum("qi,ij,qj->q", rows, method.cov, rows))
    return names, difference, error, difference - quantile * error, difference + quantile * error


def _adjusted(statistic, df, n_means, adjust, alpha):
    """Adjusted p-values and the quantile of simultaneous intervals; Holm's intervals are Bonferroni's."""
    count = len(statistic)
    raw = 2.0 * stats.t.sf(np.abs(statistic), df)
    if adjust is None or count == 1:
        return raw, stats.t.ppf(1.0 - 0.5 * alpha, df)
    if adjust == "tukey":
        size = np.sqrt(2.0)
        p = stats.studentized_range.sf(np.abs(statistic) * size, n_means, df)
        return np.asarray(p), np.asarray(stats.studentized_range.ppf(1.0 - alpha, n_means, df)) / size
    from statsmodels.stats.multitest import multipletests

    p = np.full(count, np.nan)
    known = np.isfinite(raw)
    if known.any():
        p[known] = multipletests(
            raw[known], method={"holm": "holm", "sidak": "sidak", "bonferroni": "bonferroni"}[adjust]
        )[1]
    level = 1.0 - (1.0 - alpha) ** (1.0 / count) if adjust == "sidak" else alpha / count
    return p, stats.t.ppf(1.0 - 0.5 * level, df)
