"""Tables of a fit: summary, tidy, glance."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.iolib.table import SimpleTable
from statsmodels.iolib.tableformatting import fmt_params

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short

__all__ = ["chosen_names", "glance", "summary", "summary2", "tidy"]


_FEW = 12  # levels of a factor below which normal tests of the fixed effects are clearly optimistic


def _format(x: float) -> str:
    """Format a variance or standard deviation to four significant digits at least."""
    if not np.isfinite(x):
        return ""
    return f"{x:.4g}" if x != 0.0 and (abs(x) < 1e-3 or abs(x) >= 1e6) else f"{x:.4f}"


def _random_cells(result):
    """Rows of the random-effects table: group, name, variance, standard deviation, correlations."""
    rows = result._variance_rows()
    order = {}
    for group, var1, var2, vcov, sdcor in rows:
        if var2 is None:
            order[group, var1] = [group, var1, _format(vcov), _format(sdcor)]
    correlations: dict[tuple[str, str], list[str]] = {}
    for group, _, var2, _, sdcor in rows:
        if var2 is not None:
            correlations.setdefault((group, var2), []).append(f"{sdcor:.2f}" if np.isfinite(sdcor) else "")
    width = max((len(c) for c in correlations.values()), default=0)
    cells, previous = [], None
    for key, cell in order.items():
        corr = correlations.get(key, [])
        cells.append([cell[1] or "", *cell[2:], *corr, *[""] * (width - len(corr))])
        cells[-1].insert(0, "" if cell[0] == previous else cell[0])
        previous = cell[0]
    if result.k_scale and not any(row[0] == "Residual" for row in rows):
        cells.append(["Residual", "", _format(result.scale), _format(np.sqrt(result.scale)), *[""] * width])
    header = ["", "Name", "Variance", "Std.Dev.", *(["Corr"] + [""] * (width - 1) if width else [])]
    return header, cells


def random_table(result) -> SimpleTable:
    """Random-effects table: standard deviations and correlations by grouping factor."""
    header, cells = _random_cells(result)
    stubs = [row[0] for row in cells]
    return SimpleTable([row[1:] for row in cells], header[1:], stubs, title="Random effects", txt_fmt=fmt_params)


def notes(result, tests_are_normal: bool = False) -> list[str]:
    """Lines below the tables: groups, priors and what the reader must know about the fit."""
    lines = ["Groups: " + ", ".join(f"{name}: {n}" for name, n in result.n_groups.items())] if result.n_groups else []
    lines += result.structure_notes()
    if result.priors is not None:
        lines += [str(line) for line in result.priors.describe()]
        lines.append(f"Prior dev  : {result.penalty:.4f}")
    few = min(result.n_groups, key=result.n_groups.get, default=None)
    if tests_are_normal and result.linear and few is not None and result.n_groups[few] <= _FEW:
        lines.append(
            f"{few} has only {result.n_groups[few]} levels, and z tests are optimistic; use ddf='satterthwaite'."
        )
    if result.dropped:
        lines.append("Rank deficient fixed effects; dropped: " + ", ".join(result.dropped))
    if result.singular:
        lines.append("Singular fit: a covariance matrix of the random effects is on the boundary.")
    if not result.converged:
        lines.append(f"Not converged: {result.message}")
    return lines


def _header(result):
    left = [
        ("Dep. Variable:", None),
        ("Model:", None),
        ("Method:", [result._estimator]),
        ("Date:", None),
        ("Time:", None),
        ("No. Observations:", None),
        ("Df Residuals:", None),
    ]
    right = [
        (result._criterion_name + ":", [f"{result.criterion:.4f}"]),
        ("Log-Likelihood:", [f"{result.llf:.4f}"]),
        ("AIC:", [f"{result.aic:.4f}"]),
        ("BIC:", [f"{result.bic:.4f}"]),
        ("Scale:", [_format(result.scale)]),
        ("Converged:", ["yes" if result.converged else "no"]),
        ("Singular:", ["yes" if result.singular else "no"]),
    ]
    for i, row in enumerate(result._header_rows()):
        (left, right)[i % 2].insert(3 + i // 2, row)
    return left, right


def summary(result, *, yname=None, xname=None, title=None, alpha=0.05, ddf=None):
    """Build statsmodels' Summary; parameters as in `MixedModelResults.summary`."""
    from statsmodels.iolib.summary import Summary

    xname = chosen_names(xname, result.coef_names)
    left, right = _header(result)
    out = Summary()
    out.add_table_2cols(
        result, gleft=left, gright=right, yname=yname, xname=xname, title=title or f"{result.model.title} Results"
    )
    if ddf is None and len(result.coefficient_tables()) == 1:
        out.add_table_params(result, yname=yname, xname=xname or result.coef_names, alpha=alpha, use_t=result.use_t)
    elif ddf is None:
        out.tables += _params_tables(result, yname, xname, alpha)
    else:
        out.tables.append(_params_with_df(result, xname, alpha, ddf))
    out.tables.append(random_table(result))
    out.add_extra_txt(notes(result, ddf is None and not result.use_t))
    return out


def _params_tables(result, yname, xname, alpha):
    """statsmodels' table of the coefficients, one for each part of the model."""
    from statsmodels.iolib.summary import summary_params

    names = result.coef_names if xname is None else list(xname)
    intervals = np.asarray(result.conf_int(alpha))
    tables = []
    for title, at in result.coefficient_tables():
        if not len(names[at]):
            continue
        given = (np.asarray(v)[at] for v in (result.params, result.bse, result.tvalues, result.pvalues))
        parts = (result, *given, intervals[at])
        table = summary_params(parts, yname=yname, xname=names[at], alpha=alpha, use_t=result.use_t)
        if title is not None:
            table.title = title
        tables.append(table)
    return tables


def _params_with_df(result, xname, alpha, ddf):
    """Fixed-effects table with the degrees of freedom of every coefficient."""
    from statsmodels.iolib.summary import forg

    from mvmise_sm.inference.wald import coefficient_table

    table = coefficient_table(result, ddf, alpha)
    names = ("std_error", "df", "statistic", "p_value", "conf_low", "conf_high")
    cells = [
        [forg(estimate, prec=4), forg(se), f"{df:.2f}", forg(t), f"{p:#6.3f}", forg(low), forg(high)]
        for estimate, se, df, t, p, low, high in zip(result.params, *(table[name] for name in names), strict=True)
    ]
    header = ["coef", "std err", "df", "t", "P>|t|", f"[{alpha / 2}", f"{1 - alpha / 2}]"]
    stubs = list(result.model.exog_names) if xname is None else list(xname)
    return SimpleTable(cells, header, stubs, txt_fmt=fmt_params)


def chosen_names(names, known):
    """`names` as a list, one for each of the `known`; None where none are given."""
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable) or len(list(names)) != len(known):
        raise OptionError(f"xname must be a list of {len(known)} names, got {short(names)}")
    return list(names)


def summary2(result, yname=None, xname=None, title=None, alpha=0.05, float_format="%.4f"):
    """Build statsmodels' second Summary; parameters as in `MixedModelResults.summary2`."""
    from statsmodels.iolib import summary2 as iolib

    xname = chosen_names(xname, result.coef_names)
    out = iolib.Summary()
    title = title or f"{result.model.title} Results"
    if result.k_fe:
        out.add_base(result, alpha=alpha, float_format=float_format, xname=xname, yname=yname, title=title)
    else:
        out.add_dict(iolib.summary_model(result), align="l")
        out.add_title(title)
    header, cells = _random_cells(result)
    stubs = [row[0] or " " for row in cells]
    out.add_df(pd.DataFrame([row[1:] for row in cells], index=stubs, columns=[h or " " for h in header[1:]]))
    for line in notes(result):
        out.add_text(line)
    return out


_TIDY = ["effect", "group", "term", "estimate", "std_error", "statistic", "df", "p_value"]


def _fixed_rows(result, ddf, alpha):
    from mvmise_sm.inference.wald import coefficient_table

    table = coefficient_table(result, ddf, alpha)
    df = np.where(np.isinf(table["df"]), np.nan, table["df"])
    start = {"effect": "fixed", "group": None, "term": result.coef_names, "estimate": result.params}
    return pd.DataFrame({**start, **table, "df": df})


def _tidy_term(var1, var2, vcov):
    """``sd_x``, ``cor_x.y``, or a structure's own word."""
    if var2 is not None:
        return f"cor_{var1}.{var2}"
    if var1 is None:
        return "sigma"
    return var1 if var1 == "sd" or np.isnan(vcov) else f"sd_{var1}"


def _random_rows(result):
    rows = [
        ("random", group, _tidy_term(var1, var2, vcov), sdcor, *[np.nan] * 4)
        for group, var1, var2, vcov, sdcor in result._variance_rows()
    ]
    if result.k_scale and not any(row[1] == "Residual" for row in rows):
        rows.append(("random", "Residual", "sigma", float(np.sqrt(result.scale)), *[np.nan] * 4))
    return pd.DataFrame(rows, columns=_TIDY)


def _mode_rows(result, alpha):
    """Conditional modes with intervals from their conditional variances."""
    z, parts = stats.norm.isf(0.5 * alpha), []
    for group, modes in result.random_effects.items():
        variances = np.diagonal(result.random_effects_cov[group], axis1=1, axis2=2)
        for j, name in enumerate(modes.columns):
            estimate = modes.iloc[:, j].to_numpy()
            se = np.sqrt(variances[:, j]) if result.converged else np.full(len(estimate), np.nan)
            columns = {"effect": "ran_vals", "group": group, "level": modes.index, "term": name}
            columns |= {"estimate": estimate, "std_error": se}
            parts.append(pd.DataFrame({**columns, "conf_low": estimate - z * se, "conf_high": estimate + z * se}))
    if not parts:
        names = ["effect", "group", "level", "term", "estimate", "std_error", "conf_low", "conf_high"]
        return pd.DataFrame(columns=names)
    return pd.concat(parts, ignore_index=True)


def _exponentiated(fixed):
    out = fixed.copy()
    out["estimate"] = np.exp(fixed["estimate"])
    out["std_error"] = out["estimate"] * fixed["std_error"]
    out[["conf_low", "conf_high"]] = np.exp(fixed[["conf_low", "conf_high"]])
    return out


def tidy(result, effects="fixed", conf_int=False, alpha=0.05, ddf=None, exponentiate=False):
    """Build the tidy frame; parameters as in `MixedModelResults.tidy`."""
    effects = "random" if effects == "ran_pars" else effects
    if effects not in ("fixed", "random", "ran_vals", "all"):
        raise OptionError(f"effects must be 'fixed', 'random', 'ran_vals' or 'all', got {effects!r}")
    if effects == "ran_vals":
        modes = _mode_rows(result, alpha)
        return modes if conf_int else modes.drop(columns=["conf_low", "conf_high"])
    parts = []
    if effects != "random":
        fixed = _fixed_rows(result, ddf, alpha)
        fixed = _exponentiated(fixed) if exponentiate else fixed
        parts.append(fixed if conf_int else fixed[_TIDY])
    if effects != "fixed":
        random = _random_rows(result)
        if conf_int and len(random):
            from mvmise_sm.inference.variance_intervals import random_intervals

            se, low, high = random_intervals(result, list(random["term"]), alpha)
            random["std_error"] = se
            random[["conf_low", "conf_high"]] = np.column_stack([low, high])
        parts.append(random)
    out = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    return result.with_components(out)


def glance(result):
    """Build the one-row frame of `MixedModelResults.glance`."""
    return pd.DataFrame(
        {
            "nobs": [result.nobs],
            "sigma": [float(np.sqrt(result.scale))],
            "llf": [result.llf],
            "aic": [result.aic],
            "bic": [result.bic],
            "criterion": [result.criterion],
            "penalty": [result.penalty],
            "deviance": [result.deviance],
            "df_resid": [result.df_resid],
            "n_params": [result.k_params],
            "method": [result._estimator],
            "converged": [result.converged],
            "singular": [result.singular],
        }
    )
