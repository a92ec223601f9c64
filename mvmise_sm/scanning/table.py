"""From the numbers of all fits to the table: moderation, p-values and q-values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import special, stats

from mvmise_sm.caller import warn
from mvmise_sm.core.moderation import fit_prior, posterior_variances
from mvmise_sm.exceptions import DataWarning, OptionError
from mvmise_sm.scanning.result import COLUMNS, ScanResult

__all__ = ["finished", "own_numbers", "qvalues"]

_FEWEST = 10
_Q_METHODS = ("bh", "storey")


def qvalues(p: np.ndarray, method: str = "bh") -> np.ndarray:
    """q-values of p-values; NaN stays NaN and does not count.

    Parameters
    ----------
    p : array_like, (m,)
    method : {"bh", "storey"}, optional
        Benjamini and Hochberg (1995), or Storey (2002) with ``pi0 = #{p > 0.5} / (0.5 m)``, at most one.

    Returns
    -------
    ndarray, (m,)
    """
    if method not in _Q_METHODS:
        raise OptionError(f"q_method must be 'bh' or 'storey', got {method!r}")
    p = np.asarray(p, dtype=float)
    out = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    if not known.any():
        return out
    out[known] = stats.false_discovery_control(p[known])
    if method == "storey":
        # one more than counted keeps the estimate of the nulls away from zero
        out *= min(1.0, (1.0 + (p[known] > 0.5).sum()) / (0.5 * known.sum()))
    return out


def two_sided(z: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Two-sided p-values of Student's t, of the normal distribution where `df` is infinite."""
    z = -np.abs(z)
    return 2.0 * np.where(np.isinf(df), special.ndtr(z), special.stdtr(np.where(np.isinf(df), 1.0, df), z))


def f_tail(f: np.ndarray, df_num: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Upper tail of F, of chi-squared over `df_num` where `df` is infinite."""
    normal = np.isinf(df)
    with np.errstate(invalid="ignore"):
        chi2 = special.chdtrc(df_num, np.maximum(f, 0.0) * df_num)
        return np.where(normal, chi2, special.fdtrc(df_num, np.where(normal, 1.0, df), np.maximum(f, 0.0)))


def finished(
    raw: pd.DataFrame,
    names: list[str],
    *,
    ragged: bool,
    moderate: str | None,
    q_method: str,
    units: Callable[[np.ndarray], pd.DataFrame] | None = None,
) -> ScanResult:
    """The table of a scan.

    Parameters
    ----------
    raw : DataFrame
        Rows as in `scanning.rows`.
    names : list of str
        Features in the order to report them in.
    ragged : bool
        Whether to report the number of outcomes.
    moderate : {None, "contrast", "residual"}
    q_method : {"bh", "storey"}
    units : callable, optional
        Median theta -> units of the features' variances, rows ``feature, kind, term, unit``; needed for ``"contrast"``.

    Returns
    -------
    ScanResult
    """
    position = pd.Index(names).get_indexer(raw["feature"])
    raw = raw.iloc[np.argsort(position, kind="stable")]
    raw = raw[np.sort(position) >= 0]
    terms = raw[raw["kind"] == "term"].reset_index(drop=True)
    tests = raw[raw["kind"] == "test"].reset_index(drop=True)
    terms["se_own"], terms["df_own"] = terms["se"], terms["df"]
    prior = None
    if moderate is not None and len(terms):
        prior = _moderated(raw, terms, tests, moderate, units)
    with np.errstate(invalid="ignore", divide="ignore"):
        terms["z"] = terms["estimate"] / terms["se"]
    terms["p"] = two_sided(terms["z"].to_numpy(), terms["df"].to_numpy())
    terms["q"] = _by_term(terms, q_method)
    columns = [*COLUMNS]
    if prior is not None:
        columns += ["se_own", "df_own"]
    if ragged:
        columns += ["n_outcomes"]
    out = ScanResult(terms[columns])
    out.prior = prior
    if len(tests):
        out.tests = _test_table(tests, q_method)
    shares = raw[raw["kind"] == "share"]
    if len(shares):
        out.variance_shares = _share_table(shares)
    return out


def own_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of kind "term" that a finished table was made from."""
    out = table.copy(deep=False)
    if "se_own" in out.columns:
        out["se"], out["df"] = out["se_own"], out["df_own"]
    n_outcomes = out["n_outcomes"] if "n_outcomes" in out.columns else 1
    return out.assign(kind="term", df_num=np.nan, n_outcomes=n_outcomes)


def _by_term(table: pd.DataFrame, q_method: str) -> np.ndarray:
    out = np.full(len(table), np.nan)
    p = table["p"].to_numpy()
    for at in table.groupby("term", sort=False).indices.values():
        out[at] = qvalues(p[at], q_method)
    return out


def _test_table(tests: pd.DataFrame, q_method: str) -> pd.DataFrame:
    out = tests[["feature", "term", "df_num"]].assign(f=tests["estimate"], df_denom=tests["df"])
    out["p"] = f_tail(out["f"].to_numpy(), out["df_num"].to_numpy(), out["df_denom"].to_numpy())
    out["q"] = _by_term(out, q_method)
    return out[["feature", "term", "f", "df_num", "df_denom", "p", "q"]]


def _share_table(shares: pd.DataFrame) -> pd.DataFrame:
    out = shares.pivot(index="feature", columns="term", values="estimate")
    order = [*[c for c in pd.unique(shares["term"]) if c != "Residual"], "Residual"]
    out = out.reindex(index=pd.unique(shares["feature"]), columns=order)
    out.columns.name = None
    return out


def _moderated(
    raw: pd.DataFrame,
    terms: pd.DataFrame,
    tests: pd.DataFrame,
    moderate: str,
    units: Callable[[np.ndarray], pd.DataFrame] | None,
) -> pd.DataFrame:
    """Moderate `se` and `df` of the terms and F and df of the tests in place; returns the prior by term."""
    if moderate == "residual":
        return _by_residual(raw, terms, tests)
    theta = raw[raw["kind"] == "theta"].groupby("term")["estimate"].median()
    median = theta.reindex([str(i) for i in range(len(theta))]).to_numpy()
    assert units is not None
    unit = units(median).set_index(["feature", "kind", "term"])["unit"]
    rows = {}
    for table, kind in ((terms, "term"), (tests, "test")):
        keys = pd.MultiIndex.from_arrays([table["feature"], [kind] * len(table), table["term"]])
        table["unit"] = unit.reindex(keys).to_numpy()
        for term, at in table.groupby("term", sort=False).indices.items():
            part = table.iloc[at]
            u, df = part["unit"].to_numpy(), part["df"].to_numpy()
            with np.errstate(invalid="ignore", divide="ignore"):
                s2 = np.square(part["se"].to_numpy()) / u
            found = _squeezed(s2, df, str(term))
            if kind == "term":
                rows[term] = (*found[2:], int((np.isfinite(s2) & (df > 0.0)).sum()))
            _replace(table, at, np.sqrt(found[0] / s2), found[1])
    return _prior_table(rows)


def _by_residual(raw: pd.DataFrame, terms: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """Moderate the residual variance, and every standard error with it."""
    sigma = raw[raw["kind"] == "sigma2"].set_index("feature")[["estimate", "df"]]
    s2, df = sigma["estimate"].to_numpy(), sigma["df"].to_numpy()
    posterior, _, df_prior, var_prior = _squeezed(s2, df, "the residual variance")
    ratio = pd.Series(np.sqrt(posterior / s2), sigma.index)
    row = (df_prior, var_prior, int((np.isfinite(s2) & (df > 0.0)).sum()))
    rows = {}
    for table in (terms, tests):
        for term, at in table.groupby("term", sort=False).indices.items():
            own = table["df"].to_numpy()[at]
            factor = ratio.reindex(table["feature"].to_numpy()[at]).to_numpy()
            if np.isfinite(df_prior) or not np.isfinite(posterior).all():
                total = own + (0.0 if np.isnan(df_prior) else df_prior)
            else:
                total = np.full(len(own), np.inf)
            _replace(table, at, factor, np.minimum(total, np.nansum(own)))
            if table is terms:
                rows[term] = row
    return _prior_table(rows)


def _squeezed(s2: np.ndarray, df: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Moderated variances and degrees of freedom, and the prior; features without a variance take no part."""
    known = np.isfinite(s2) & (df > 0.0)
    if known.sum() < _FEWEST:
        warn(
            f"moderate: {int(known.sum())} features have a variance for {what}, fewer than {_FEWEST}; "
            "their variances are left as they are",
            DataWarning,
        )
        return s2, df, np.nan, np.nan
    own = np.minimum(df[known], 1e10)
    df_prior, var_prior = fit_prior(s2[known], own)
    posterior, total = np.full(s2.shape, np.nan), np.full(s2.shape, np.nan)
    posterior[known] = posterior_variances(s2[known], own, df_prior, var_prior)
    total[known] = np.minimum(df[known] + df_prior, df[known].sum())
    return posterior, total, df_prior, var_prior


def _replace(table: pd.DataFrame, at: np.ndarray, ratio: np.ndarray, df: np.ndarray) -> None:
    """Multiply standard errors by `ratio`, and divide F by its square."""
    column = {name: table.columns.get_loc(name) for name in ("estimate", "se", "df")}
    if table["kind"].iloc[0] == "term":
        table.iloc[at, column["se"]] = table["se"].to_numpy()[at] * ratio
    else:
        table.iloc[at, column["estimate"]] = table["estimate"].to_numpy()[at] / ratio**2
    table.iloc[at, column["df"]] = df


def _prior_table(rows: dict) -> pd.DataFrame:
    out = pd.DataFrame.from_dict(rows, orient="index", columns=["df_prior", "var_prior", "n_features"])
    out.index.name = "term"
    return out
