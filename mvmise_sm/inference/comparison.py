"""Model comparison: terms left out, tests of random effects, Kenward-Roger and parametric bootstrap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.core.optimise.constrained import free_minimum
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.ddf import denominator
from mvmise_sm.inference.fits import (
    check_same_response,
    deviance_ratio,
    fit_options,
    labels_of,
    ml_fit,
    quietly,
    ratio_error,
    ratio_p_value,
    require_maximum,
    unreached,
    unwrap,
    with_rows,
)
from mvmise_sm.inference.hypotheses import model_spec_of
from mvmise_sm.inference.nesting import check_nested, check_same_criterion, refuse_priors
from mvmise_sm.inference.tables import table

__all__ = ["boundary_p_value", "bootstrap_test", "drop1", "droppable", "kenward_roger_test", "random_terms"]


def refit_with(result, exog=None, terms=None):
    """The same kind of fit with other fixed columns or other random-effects terms, see `reduced_random`."""
    model = result.model
    keywords = {**model._get_init_kwds()}
    if terms is not None:
        keywords |= model.reduced_random(terms)
    elif keywords.get("random_effects") is None:
        keywords["random_effects"] = model.random_effects
    settings = fit_options(result)
    exog = model.exog if exog is None else exog
    smaller = quietly(type(model), model.endog, exog, missing="none", **keywords)
    return unwrap(quietly(smaller.fit, **settings))


def droppable(spec):
    """Terms that no other term contains as a subset of its factors."""
    terms = [t for t in spec.terms if t.factors]
    return [t for t in terms if not any(set(t.factors) < set(o.factors) for o in terms)]


def drop1(result):
    """Leave one term out at a time; parameters as in `MixedModelResults.drop1`."""
    refuse_priors([unwrap(result)], "drop1")
    fit = ml_fit(with_rows(result))
    spec = model_spec_of(fit)
    exog = np.asarray(fit.model.exog)
    rows = {"<none>": (np.nan, fit.aic, np.nan, np.nan)}
    fits = [("<none>", fit)]
    for term in droppable(spec):
        keep = np.setdiff1d(np.arange(exog.shape[1]), np.arange(exog.shape[1])[spec.term_slices[term]])
        if not len(keep):
            continue
        small = fit.without_columns(keep, term.name())
        df = fit.k_params - small.k_params
        chisq = deviance_ratio(small, fit)
        fits.append((term.name(), small))
        rows[term.name()] = (df, small.aic, chisq, ratio_p_value(chisq, df, ratio_error(small, fit)))
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["df", "aic", "chisq", "p_value"])
    note = " The REML fit was refitted by maximum likelihood." if unwrap(result).restricted else ""
    return table(frame, "Single term deletions, likelihood-ratio tests." + note + unreached(fits))


def boundary_p_value(chisq, df_variance, df_covariance):
    """P-value where one variance is zero under the hypothesis, together with its covariances.

    The likelihood ratio is then an equal mixture of chi-squared variables with `df_covariance` and `df_covariance` +
    1 degrees of freedom.

    Parameters
    ----------
    chisq : float
        Likelihood-ratio statistic.
    df_variance : int
        Variances at the boundary; the mixture is that of one, and for more of them an upper bound.
    df_covariance : int
        Covariances that vanish with them.

    Returns
    -------
    float

    References
    ----------
    Self and Liang (1987), JASA 82; Stram and Lee (1994), Biometrics 50.
    """
    upper = df_covariance + df_variance
    below = stats.chi2.sf(chisq, upper - 1) if upper > 1 else float(chisq <= 0.0)
    return float(0.5 * below + 0.5 * stats.chi2.sf(chisq, upper))


def _reductions(result):
    """Smaller sets of random effects: label, terms with None for those left out, variances and covariances that go."""
    random, of_mean = result.model.random_effects, set(result.mean_terms())
    for i, term in enumerate(random.terms):
        own = "" if i in of_mean else "zi:"
        slopes = [j for j, c in enumerate(term.columns) if c is not None]
        parts = [(j, term.structure.without(j)) for j in slopes] if term.q > 1 else []
        if not parts or any(smaller is None for _, smaller in parts):
            others = [None if k == i else t for k, t in enumerate(random.terms)]
            # elements bounded by zero are what lies on the boundary; the others vanish with them
            bounded = int((term.structure.lower == 0.0).sum())
            rest = term.structure.k_theta - bounded
            yield own + (term.text or term.factor.name), others, bounded, rest
            continue
        for j, structure in parts:
            others = list(random.terms)
            others[i] = _sub_term(term, j, structure)
            linked = term.structure.k_theta - structure.k_theta - 1
            yield f"{term.names[j]} in {own}{term.text or f'({term.factor.name})'}", others, 1, linked


def _sub_term(term, column, structure):
    keep = [k for k in range(term.q) if k != column]
    return replace(
        term,
        columns=tuple(term.columns[k] for k in keep),
        names=tuple(term.names[k] for k in keep),
        structure=structure,
    )


def random_terms(result):
    """Likelihood-ratio tests of random-effects terms; see `MixedModelResults.anova_random`."""
    result = with_rows(result)
    if result.priors is not None:
        raise OptionError("tests of random effects compare likelihoods; fit without priors")
    require_maximum(result, "tests of random effects")
    rows = {"<none>": (result.k_params, result.llf, result.aic, np.nan, np.nan, np.nan, np.nan)}
    fits = []
    for label, terms, variances, covariances in _reductions(result):
        if result.residual_structure() is None and not any(terms):
            llf, count = _without_random(result)
            aic = -2.0 * llf + 2.0 * count
        else:
            small = refit_with(result, terms=terms)
            llf, count, aic = small.llf, small.k_params, small.aic
            fits.append((label, small))
            llf = llf if small.converged else np.nan
        error = ratio_error(result, *(fit for _, fit in fits[-1:]))
        chisq, df = np.maximum(2.0 * (result.llf - llf), 0.0), result.k_params - count
        rows[label] = (
            count,
            llf,
            aic,
            chisq,
            df,
            p := ratio_p_value(chisq, df, error),
            boundary_p_value(chisq, variances, covariances) if np.isfinite(p) else np.nan,
        )
    columns = ["n_params", "llf", "aic", "chisq", "df", "p_value", "p_boundary"]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table(
        frame,
        "Random-effects terms. p_value ignores that a variance of zero is on the boundary and is conservative; "
        "p_boundary is the mixture of chi-squared distributions that holds there." + unreached(fits),
    )


def _without_random(result):
    """Log-likelihood (REML: restricted) and number of parameters without any random effect."""
    model = result.model
    if not result.linear:
        return _generalized_without_random(result.deviance_function()), result.k_params - len(result.theta)
    criterion = result.deviance_function()
    at_zero = criterion.solve(model.random_effects.zero())
    return -0.5 * at_zero.criterion, model.exog.shape[1] + 1


def _generalized_without_random(criterion):
    """Log-likelihood at theta = 0, the fixed effects and the shape at their optimum there."""
    k = criterion.k_theta
    zero = criterion.random.zero()
    x = np.array(criterion.start_at(zero), dtype=float)

    def evaluate(rest):
        here = criterion.evaluate(np.concatenate([zero, rest]))
        return here.value, here.gradient[k:], here.information[k:, k:]

    value = criterion.value(x) if x.size == k else free_minimum(evaluate, x[k:])[1]
    return -0.5 * value


def _restriction(small, large):
    """Contrasts L with L beta = 0 exactly where the large design gives what the small one can (q, p_large)."""
    x_small, x_large = np.asarray(small.model.exog), np.asarray(large.model.exog)
    inside, *_ = np.linalg.lstsq(x_large, x_small, rcond=None)
    scale = max(1.0, np.abs(x_small).max(initial=0.0))
    if np.abs(x_large @ inside - x_small).max(initial=0.0) > 1e-8 * scale:
        raise OptionError("the fixed effects of the smaller fit are not a special case of the larger one's")
    u, s, _ = np.linalg.svd(inside)
    rank = int((s > 1e-10 * s.max(initial=1.0)).sum())
    return u[:, rank:].T


def kenward_roger_test(small, large):
    """Kenward and Roger's F test of the fixed effects that the smaller fit lacks.

    Returns
    -------
    DataFrame
        One row: ``df_num, df_denom, F, scaling, p_value``; F includes the scaling.
    """
    check_same_response([small, large])
    require_maximum(large, "Kenward-Roger tests")
    if large.undetermined is not None:
        raise OptionError("the data do not determine the variances of the larger fit; check() names them")
    method = denominator(large, "kenward-roger")
    contrasts = _restriction(small, large)
    if not len(contrasts):
        raise OptionError("the two fits have the same fixed effects")
    f, df, scaling = method._parts.f_test(contrasts, contrasts @ np.asarray(large.params))
    q = len(contrasts)
    row = {"df_num": q, "df_denom": df, "F": f, "scaling": scaling, "p_value": stats.f.sf(f, q, df)}
    first, second = labels_of([small, large])
    return table([row], f"Kenward-Roger F test of {first!r} within {second!r}", index=[second])


def bootstrap_test(small, large, n=1000, rng=None, n_jobs=1, progress=False):
    """Likelihood-ratio test whose distribution is simulated from the smaller fit.

    Parameters
    ----------
    small, large : MixedModelResults
    n : int, optional
        Simulated responses.
    rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
    n_jobs : int, optional
        Processes; the answer does not depend on it.
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        One row: ``chisq, df, p_value`` (chi-squared), ``p_bootstrap`` = (b + 1) / (n + 1), ``n``.
    """
    from mvmise_sm.inference.resampling import likelihood_ratios

    check_same_response([small, large])
    check_same_criterion([small, large])
    refuse_priors([small, large], "a likelihood-ratio test")
    refitted = small.restricted or large.restricted
    small, large = ml_fit(small), ml_fit(large)
    check_nested([small, large])
    for fit in (small, large):
        require_maximum(fit, "bootstrap tests")
    chisq = max(2.0 * (large.llf - small.llf), 0.0)
    simulated, restarted = likelihood_ratios(small, large, n, rng, n_jobs, progress)
    df = large.k_params - small.k_params
    row = {
        "chisq": chisq,
        "df": df,
        "p_value": ratio_p_value(chisq, df, ratio_error(small, large)),
        "p_bootstrap": (1.0 + np.sum(simulated >= chisq)) / (1.0 + len(simulated)),
        "n": len(simulated),
    }
    first, second = labels_of([small, large])
    note = " REML fits were refitted by maximum likelihood." if refitted else ""
    note += f" {restarted} of {n} resamples needed a second start." if restarted else ""
    return table(
        [row],
        f"Likelihood ratio of {second!r} to {first!r} with its parametric bootstrap distribution.{note}",
        index=[second],
    )
