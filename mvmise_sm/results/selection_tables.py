"""Tables of a selection model: summary, tidy, glance."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.iolib.table import SimpleTable
from statsmodels.iolib.tableformatting import fmt_params

from mvmise_sm.exceptions import OptionError
from mvmise_sm.results.mechanism_checks import mechanism_sentences
from mvmise_sm.results.tables import chosen_names

__all__ = ["glance", "summary", "tidy"]

_TIDY = ["effect", "group", "term", "estimate", "std_error", "statistic", "df", "p_value"]
_METHODS = {"ml": "Maximum likelihood", "em": "EM", "mvmise": "mvMISE 1.0 (R)"}
# correlation tables of more outcomes would not fit a page
MAX_TABLE = 12


def _cells(values) -> list[str]:
    return ["" if v is None or not np.isfinite(v) else f"{v:.4f}" for v in values]


def _variance_rows(result) -> list[tuple[str, str, float, float]]:
    """Group, name, estimate and standard error of every variance parameter."""
    group = result.model.group_name
    rows = []
    if result.tau is not None:
        se = [np.nan] * len(result.tau) if result.bse_tau is None else result.bse_tau
        rows += [(group, f"tau[{name}]", value, e) for (name, value), e in zip(result.tau.items(), se, strict=True)]
    else:
        D = result.cov_re[group]
        se = [np.nan] * len(D) if result.bse_re is None else result.bse_re
        rows += [(group, f"Var({name})", D.loc[name, name], e) for name, e in zip(D.index, se, strict=True)]
        Sigma = result.error_cov
        for name in Sigma.index:
            e = np.nan if result.bse_error_cov is None else result.bse_error_cov.loc[name, name]
            rows.append(("Residual", f"Var({name})", Sigma.loc[name, name], e))
    if result.omega is not None:
        rows.append((f"{group}:outcome", "omega", result.omega, result.bse_omega))
    if result.delta is not None:
        rows.append(("sample", "delta", result.delta, result.bse_delta))
    sigma2 = pd.Series([result.sigma2], ["sigma2"]) if np.isscalar(result.sigma2) else result.sigma2
    bse = result.bse_sigma2
    for i, (name, value) in enumerate(sigma2.items()):
        e = np.nan if bse is None else np.atleast_1d(bse)[i]
        if result.tau is None and e == 0.0:
            continue
        rows.append(("Residual", str(name) if name == "sigma2" else f"sigma2[{name}]", value, e))
    return rows


def variance_table(result) -> SimpleTable:
    """Loadings or random-effect variances, and error variances."""
    rows = _variance_rows(result)
    cells = [[name, *_cells([value, se])] for _, name, value, se in rows]
    stubs = [row[0] if i == 0 or rows[i - 1][0] != row[0] else "" for i, row in enumerate(rows)]
    return SimpleTable(cells, ["Name", "Estimate", "Std.Err."], stubs, title="Random effects", txt_fmt=fmt_params)


def _mechanisms(result) -> str:
    """Names of the mechanisms at work; those of single values say so."""
    return " + ".join(slot.mechanism.name + " (values)" * slot.single for slot in result.slots)


def mechanism_table(result) -> SimpleTable | None:
    """The mechanism's coefficients."""
    if result.phi is None:
        return None
    se = result.bse_phi if result.bse_phi is not None else pd.Series(np.nan, result.phi.index)
    z = result.phi / se
    cells = [_cells(row) for row in zip(result.phi, se, z, 2.0 * stats.norm.sf(np.abs(z)), strict=True)]
    title = f"Missing-data mechanism ({_mechanisms(result)})"
    return SimpleTable(
        cells, ["coef", "std err", "z", "P>|z|"], list(result.phi.index), title=title, txt_fmt=fmt_params
    )


def correlation_table(result) -> SimpleTable | None:
    """Error correlations of model e."""
    if result.error_cov is None or not 1 < len(result.error_cov) <= MAX_TABLE:
        return None
    sd = np.sqrt(np.diag(result.error_cov))
    corr = result.error_cov.to_numpy() / np.outer(sd, sd)
    names = list(result.error_cov.index)
    cells = [[f"{corr[i, j]:.3f}" if j < i else "" for j in range(len(names) - 1)] for i in range(1, len(names))]
    return SimpleTable(cells, names[:-1], names[1:], title="Error correlations", txt_fmt=fmt_params)


def notes(result) -> list[str]:
    """Lines below the tables."""
    lines = ["Groups: " + ", ".join(f"{name}: {n}" for name, n in result.n_groups.items())]
    test = result.mechanism_test
    if test is not None:
        lines.append(
            f"Likelihood-ratio test that missingness does not depend on the outcome: chi2(1) = {test.statistic:.3f}, "
            f"p = {test.pvalue:.3g}"
        )
        lines.append(sensitivity_line(result))
    if result._outcome is not None and result.method != "mvmise":
        lines += mechanism_sentences(result)
    if result.model.priors is not None:
        lines += [str(line) for line in result.model.priors.describe()]
    if result.error_penalty:
        lines.append(f"Graphical lasso on the error precision: penalty {result.error_penalty:.4g}")
    if result.penalty:
        lines.append(f"Penalty on the deviance scale: {result.penalty:.4f}")
    if result.saturated > 0.1:
        lines.append(f"The mechanism is at its cap for {100 * result.saturated:.0f} % of the missing blocks.")
    if result.method == "mvmise":
        lines.append("R's algorithm is not maximum likelihood; the log-likelihood shown is its stopping value.")
    if not result.converged:
        lines.append(f"Not converged: {result.message}")
    return lines


def sensitivity_line(result) -> str:
    """Estimates without the mechanism's dependence on y beside the fitted ones."""
    null = result.mechanism_test.beta_null
    names = list(result.model.exog_names)
    shown = [j for j, name in enumerate(names) if not name.startswith(("Intercept", "const"))][:4] or [0]
    beta = np.asarray(result.params)
    parts = ", ".join(f"{names[j]} {null[j]:.4g} beside {beta[j]:.4g}" for j in shown)
    return f"Missing at random (phi_y = 0): {parts}; contrasts within batches hardly move."


def summary(result, *, yname=None, xname=None, title=None, alpha=0.05):
    """Build statsmodels' Summary; parameters as in `SelectionResults.summary`."""
    from statsmodels.iolib.summary import Summary

    names = result.model.outcome_names
    shown = names if len(names) <= 3 else [names[0], "...", names[-1]]
    left = [
        ("Outcomes:", [f"{len(names)}: {', '.join(shown)}"]),
        ("Model:", [type(result.model).__name__]),
        ("Method:", [_METHODS[result.method]]),
        ("Date:", None),
        ("Time:", None),
        ("No. Samples:", [f"{result.nobs}"]),
        ("Missing values:", [f"{result.n_missing} ({100 * result.n_missing / (result.nobs * len(names)):.0f} %)"]),
        ("Missing blocks:", [f"{result.n_missing_blocks}"]),
    ]
    right = [
        ("Mechanism:", [_mechanisms(result) or "none"]),
        ("Log-Likelihood:", [f"{result.llf:.4f}"]),
        ("AIC:", [f"{result.aic:.4f}"]),
        ("BIC:", [f"{result.bic:.4f}"]),
        ("Parameters:", [f"{result.k_params}"]),
        ("Iterations:", [f"{result.n_iter}"]),
        ("Converged:", ["yes" if result.converged else "no"]),
    ]
    out = Summary()
    xname = chosen_names(xname, result.coef_names)
    out.add_table_2cols(
        result, gleft=left, gright=right, yname=yname, xname=xname, title=title or f"{result.model.title} Results"
    )
    out.add_table_params(result, yname=yname, xname=xname, alpha=alpha, use_t=result.use_t)
    extra = [mechanism_table(result), variance_table(result), correlation_table(result)]
    out.tables += [table for table in extra if table is not None]
    out.add_extra_txt(notes(result))
    return out


def summary2(result, yname=None, xname=None, title=None, alpha=0.05, float_format="%.4f"):
    """Build statsmodels' second Summary; parameters as in `SelectionResults.summary`."""
    from statsmodels.iolib import summary2 as iolib

    xname = chosen_names(xname, result.coef_names)
    out = iolib.Summary()
    info = {
        "Model:": type(result.model).__name__,
        "Method:": _METHODS[result.method],
        "Samples:": result.nobs,
        "Log-Likelihood:": f"{result.llf:.4f}",
        "AIC:": f"{result.aic:.4f}",
        "BIC:": f"{result.bic:.4f}",
    }
    out.add_dict(info)
    out.add_df(
        iolib.summary_params(result, yname=yname, xname=xname, alpha=alpha, use_t=result.use_t),
        float_format=float_format,
    )
    rows = [(name, *_cells([value, se])) for _, name, value, se in _variance_rows(result)]
    if result.phi is not None:
        se = [np.nan] * len(result.phi) if result.bse_phi is None else result.bse_phi
        rows += [(f"phi[{name}]", *_cells([v, e])) for (name, v), e in zip(result.phi.items(), se, strict=True)]
    out.add_df(pd.DataFrame([r[1:] for r in rows], index=[r[0] for r in rows], columns=["Estimate", "Std.Err."]))
    out.add_title(title or f"{result.model.title} Results")
    for line in notes(result):
        out.add_text(line)
    return out


def _frame(effect, rows, conf_int, alpha, df=None):
    frame = pd.DataFrame(rows, columns=["group", "term", "estimate", "std_error"])
    frame.insert(0, "effect", effect)
    wald = effect != "random"
    frame["statistic"] = frame["estimate"] / frame["std_error"] if wald else np.nan
    frame["df"] = np.nan
    frame["p_value"] = 2.0 * stats.norm.sf(np.abs(frame["statistic"])) if wald else np.nan
    if conf_int:
        q = stats.norm.isf(alpha / 2.0) if df is None else stats.t.isf(alpha / 2.0, df)
        frame["conf_low"] = frame["estimate"] - q * frame["std_error"]
        frame["conf_high"] = frame["estimate"] + q * frame["std_error"]
    return frame


def _random_frame(result, conf_int, alpha):
    """Variance parameters: loadings have symmetric intervals, variances such on the scale of their logarithm."""
    df = max(result.model.n_groups - 1, 1) if result.use_t else None
    frame = _frame("random", _variance_rows(result), conf_int, alpha, df)
    if conf_int:
        variance = ~frame["term"].str.startswith("tau[")
        estimate = frame.loc[variance, "estimate"].astype(float)
        # a variance of zero has no logarithm and no interval
        width = stats.norm.isf(alpha / 2.0) * frame.loc[variance, "std_error"] / estimate.where(estimate > 0)
        frame.loc[variance, "conf_low"] = estimate * np.exp(-width)
        frame.loc[variance, "conf_high"] = estimate * np.exp(width)
    return frame


def tidy(result, effects="fixed", conf_int=False, alpha=0.05) -> pd.DataFrame:
    """Build the tidy frame; parameters as in `SelectionResults.tidy`."""
    if effects not in ("fixed", "random", "mechanism", "all"):
        raise OptionError(f"effects must be 'fixed', 'random', 'mechanism' or 'all', got {effects!r}")
    parts = []
    if effects in ("fixed", "all"):
        estimates = zip(result.model.exog_names, result.params, result.bse, strict=True)
        rows = [(None, name, b, s) for name, b, s in estimates]
        df = result.df_resid_inference if result.use_t else None
        frame = _frame("fixed", rows, conf_int, alpha, df)
        frame["p_value"] = np.asarray(result.pvalues)
        if result.use_t:
            frame["df"] = result.df_resid_inference
        parts.append(frame)
    if effects in ("random", "all"):
        parts.append(_random_frame(result, conf_int, alpha))
    if effects in ("mechanism", "all") and result.phi is not None:
        se = result.bse_phi if result.bse_phi is not None else pd.Series(np.nan, result.phi.index)
        parts.append(_frame("mechanism", [(None, k, v, se[k]) for k, v in result.phi.items()], conf_int, alpha))
    if not parts:
        return pd.DataFrame(columns=_TIDY)
    # frames without the group column's values would change its type on concatenation
    return parts[0] if len(parts) == 1 else pd.concat([p.astype({"group": object}) for p in parts], ignore_index=True)


def glance(result) -> pd.DataFrame:
    """Build the one-row frame of `SelectionResults.glance`."""
    test = result.mechanism_test
    return pd.DataFrame(
        {
            "nobs": [result.nobs],
            "n_observed": [result.n_observed],
            "n_groups": [result.model.n_groups],
            "llf": [result.llf],
            "aic": [result.aic],
            "bic": [result.bic],
            "penalty": [result.penalty],
            "n_params": [result.k_params],
            "phi_y": [np.nan if result.phi is None else result.phi.get("y", np.nan)],
            "mechanism_p_value": [np.nan if test is None else test.pvalue],
            "method": [result.method],
            "n_iter": [result.n_iter],
            "converged": [result.converged],
        }
    )
