"""Analysis of variance by term, likelihood-ratio tables and comparison by information criteria."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import (
    check_same_response,
    deviance_ratio,
    labels_of,
    ml_fit,
    ratio_error,
    ratio_p_value,
    unreached,
    unwrap,
    with_statistic,
)
from mvmise_sm.inference.hypotheses import term_contrasts
from mvmise_sm.inference.nesting import check_nested, check_same_criterion, refuse_priors
from mvmise_sm.inference.tables import table
from mvmise_sm.option_values import short
from mvmise_sm.options import refuse_unknown, strict

__all__ = ["anova", "anova_table", "anova_terms", "compare", "default_ddf", "f_sf", "likelihood_ratio"]

_TYPES = {1: "sequential", 2: "each term after those that do not contain it", 3: "each term after all others"}


def anova_terms(result, type=3, ddf="default"):
    """F tests of the terms of one fit; parameters as in `MixedModelResults.anova`."""
    return anova_table(result, term_contrasts(result, type), with_statistic(result).denominator(ddf), type)


def anova_table(result, hypotheses, method, type):
    """F tests of hypotheses by term (dict of contrasts (q, p)) under a law of Wald tests."""
    rows = {}
    for name, contrasts in hypotheses.items():
        f, df_num, df_denom = method.f_test(contrasts, contrasts @ np.asarray(result.params))
        rows[name] = (df_num, df_denom, f, f_sf(f, df_num, df_denom))
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["df_num", "df_denom", "F", "p_value"])
    how = f"{method.label}'s" if method.label in ("Satterthwaite", "Kenward-Roger") else ""
    return table(
        frame.astype({"df_num": int}),
        f"Type {type} analysis of variance ({_TYPES[type]})"
        + (f" with {how} degrees of freedom" if how else ", Wald tests"),
    )


def default_ddf(result):
    """Satterthwaite where it is defined, else None."""
    return "satterthwaite" if result.linear and (result.priors is None or not result.priors.fixef) else None


def f_sf(f, df_num, df_denom):
    """Upper tail of F, of chi-squared over `df_num` where `df_denom` is infinite."""
    if np.isinf(df_denom):
        return float(stats.chi2.sf(f * df_num, df_num))
    return float(stats.f.sf(f, df_num, df_denom))


@strict
def anova(*results, ddf="default", type=3, test="lrt", **options):
    """Compare nested fits, or test the terms of a single one.

    Parameters
    ----------
    *results : MixedModelResults
        One fit: its analysis of variance. Two or more fits to the same response: a table in order of size.
    ddf, type
        For one fit, see `MixedModelResults.anova`.
    test : {"lrt", "kenward-roger", "bootstrap"}, optional
        Two or more fits: likelihood ratio with the chi-squared distribution; Kenward and Roger's F test of the fixed
        effects that the smaller of two fits lacks; or the likelihood ratio with its parametric bootstrap
        distribution.
    **options
        For ``test="bootstrap"``: ``n``, ``rng``, ``n_jobs``, ``progress``.

    Returns
    -------
    DataFrame
        One fit: ``df_num, df_denom, F, p_value`` by term. Several: ``n_params, llf, aic, bic, deviance, chisq, df,
        p_value``. REML fits are refitted by maximum likelihood, and the heading says so.

    Raises
    ------
    DataError
        If the fits are not to the same response.
    OptionError
        If an option is unknown or does not go with the fits.
    """
    if not results:
        raise OptionError("anova needs at least one result")
    allowed = ("n", "rng", "n_jobs", "progress") if test == "bootstrap" and len(results) > 1 else ()
    refuse_unknown("anova", options, ("ddf", "type", "test", *allowed))
    if len(results) == 1:
        if test != "lrt":
            raise OptionError(f"test={test!r} compares two fits, and there is one; give the smaller one too")
        return results[0].anova(ddf=ddf, type=type)
    for name, value, usual in (("ddf", ddf, "default"), ("type", type, 3)):
        if value != usual:
            raise OptionError(f"{name}={short(value)} is for the terms of one fit; several fits are compared by test=")
    if test == "lrt":
        return likelihood_ratio(results)
    from mvmise_sm.inference import comparison

    if len(results) != 2 or test not in ("kenward-roger", "bootstrap"):
        raise OptionError(
            f"test must be 'lrt', or for two fits 'kenward-roger' or 'bootstrap'; got {test!r} with {len(results)} fits"
        )
    small, large = sorted(map(unwrap, results), key=lambda r: r.k_params)
    if test == "kenward-roger":
        return comparison.kenward_roger_test(small, large)
    return comparison.bootstrap_test(small, large, **options)


def likelihood_ratio(results):
    """Likelihood-ratio table of nested fits, smallest first; see `anova`."""
    given = [unwrap(r) for r in results]
    check_same_response(given)
    check_same_criterion(given)
    refuse_priors(given, "a likelihood-ratio test")
    refitted = any(r.restricted for r in given)
    fits = [ml_fit(r) for r in given]
    order = sorted(range(len(fits)), key=lambda i: fits[i].k_params)
    fits = [fits[i] for i in order]
    check_nested(fits)
    llf = np.array([r.llf for r in fits])
    n_params = np.array([r.k_params for r in fits])
    chisq = np.append(np.nan, [deviance_ratio(small, large) for small, large in pairwise(fits)])
    df = np.append(np.nan, np.diff(n_params).astype(float))
    error = np.append(0.0, [ratio_error(small, large) for small, large in pairwise(fits)])
    p = np.where(df > 0, ratio_p_value(chisq, np.maximum(df, 1.0), error), np.nan)
    frame = pd.DataFrame(
        {
            "n_params": n_params,
            "llf": llf,
            "aic": [r.aic for r in fits],
            "bic": [r.bic for r in fits],
            "deviance": -2.0 * llf,
            "chisq": chisq,
            "df": df,
            "p_value": p,
        },
        index=labels_of(fits),
    )
    heading = "Likelihood-ratio tests. "
    if refitted:
        heading += "REML fits were refitted by maximum likelihood."
    heading = heading.strip() + unreached(zip(frame.index, fits, strict=True))
    return table(frame, heading)


@strict
def compare(*results):
    """Line fits up by information criteria.

    Parameters
    ----------
    *results : MixedModelResults
        Fits to the same response. If their fixed effects differ, REML fits are refitted by maximum likelihood.

    Returns
    -------
    DataFrame
        ``n_params, llf, aic, aicc, bic, delta, weight``, best AICc first; `weight` is the Akaike weight from AICc.
    """
    given = [unwrap(r) for r in results]
    if not given:
        raise OptionError("compare needs at least one result")
    check_same_response(given)
    check_same_criterion(given)
    names = labels_of(given)
    modes = {r.restricted for r in given}
    spaces = {tuple(r.model.exog_names) for r in given}
    refit = True in modes and (len(spaces) > 1 or len(modes) > 1)
    fits = [ml_fit(r) for r in given] if refit else given
    k = np.array([r.k_params for r in fits], dtype=float)
    n = float(fits[0].nobs)
    aic = np.array([r.aic for r in fits])
    aicc = aic + np.where(n > k + 1, 2.0 * k * (k + 1.0) / np.where(n > k + 1, n - k - 1.0, 1.0), np.nan)
    delta = aicc - np.nanmin(aicc)
    weight = np.exp(-0.5 * delta)
    frame = pd.DataFrame(
        {
            "n_params": k.astype(int),
            "llf": [r.llf for r in fits],
            "aic": aic,
            "aicc": aicc,
            "bic": [r.bic for r in fits],
            "delta": delta,
            "weight": weight / np.nansum(weight),
        },
        index=names,
    )
    note = "REML fits were refitted by maximum likelihood." if refit else ""
    if any(r.priors is not None for r in fits):
        note += " Fits with priors do not maximise the likelihood, so that their criteria are upper bounds."
        note += _prior_note(fits, names)
    widest = max(ratio_error(r) for r in fits)
    if widest > 0.0:
        note += f" The log-determinants are estimated: the criteria are known to +-{widest:.2g}."
    return table(frame.sort_values("aicc"), f"Information criteria, best first. {note}".strip())


def _prior_note(fits, names):
    """The priors of fits that are lined up, and whether they are the same."""
    texts = ["flat" if r.priors is None else "; ".join(text for _, text in r.priors.lines()) for r in fits]
    if len(set(texts)) == 1:
        return f" All fits have the priors {texts[0]}."
    each = ", ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True))
    return f" The priors differ ({each})."
