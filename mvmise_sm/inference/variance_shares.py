"""Shares of variance: Nakagawa's R^2 and intraclass correlations."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import with_rows

__all__ = ["icc", "r2", "random_variance", "variance_parts"]


def random_variance(result):
    """Mean over the rows of z'Sigma z, the variance of the random effects' part of the linear predictor."""
    return sum(share for _, share in _shares(with_rows(result)))


def _shares(result):
    """Random-effects terms of the linear predictor of the mean, each with its mean over the rows of z'Sigma z."""
    random = result.model.random_effects
    lambdas, out = random.lambdas(result.theta), []
    for i in result.mean_terms():
        term = random.terms[i]
        columns = np.column_stack([np.ones(result.nobs) if c is None else c for c in term.columns])
        out.append((term, float(result.scale * np.square(columns @ lambdas[i]).sum(axis=1).mean())))
    return out


def variance_parts(result):
    """Variance of the linear predictor by source.

    Returns
    -------
    fixed : float
        Variance of X beta over the rows.
    random : dict
        Grouping factor -> mean over the rows of z'Sigma z (Johnson 2014); factors with one level per row are left to
        `rest`.
    rest : float
        Residual variance, for generalized models on the scale of the link.
    """
    result = with_rows(result)
    model = result.model
    fixed = float(np.var(np.asarray(model.exog) @ np.asarray(result.params), ddof=1))
    random: dict[str, float] = {}
    rest = _residual(result)
    for term, share in _shares(result):
        name = term.factor.name
        if term.factor.n_levels == result.nobs:
            rest += share
        else:
            random[name] = random.get(name, 0.0) + share
    return fixed, random, rest


def _residual(result):
    """Residual variance, for generalized models that of the family on the scale of the link."""
    model = result.model
    if result.linear:
        relative = result.residual_variances()
        return float(result.scale * np.mean(relative if model.weights is None else relative / model.weights))
    family, link = model.family, model.family.link
    known = {"logit": np.pi**2 / 3.0, "probit": 1.0, "cloglog": np.pi**2 / 6.0}
    if family.latent and link.name in known:
        return known[link.name]
    return family.link_variance(result.typical_mean(), result.dispersion, result.shapes)


def r2(result):
    """Nakagawa's R^2.

    Returns
    -------
    Series
        ``marginal`` (fixed effects) and ``conditional`` (fixed and random effects).

    References
    ----------
    Nakagawa, Johnson and Schielzeth (2017). The coefficient of determination R^2 and intra-class correlation
    coefficient from generalized linear mixed-effects models revisited and expanded. Journal of the Royal Society
    Interface 14. Johnson (2014). Extension of Nakagawa and Schielzeth's R^2_GLMM to random slopes models. Methods in
    Ecology and Evolution 5.
    """
    fixed, random, rest = variance_parts(result)
    total = fixed + sum(random.values()) + rest
    return pd.Series({"marginal": fixed / total, "conditional": (fixed + sum(random.values())) / total})


def icc(result, adjusted=True):
    """Intraclass correlation of each grouping factor.

    Parameters
    ----------
    result : MixedModelResults
    adjusted : bool, optional
        Shares of the variance that the fixed effects leave; otherwise of all variance.

    Returns
    -------
    Series
        One share per grouping factor.
    """
    fixed, random, rest = variance_parts(result)
    if not random:
        if not result.model.random_layout.terms:
            raise OptionError("the model has no random effects; residual_corr has the correlations of a subject's rows")
        raise OptionError("every grouping factor has one level per row, so no two rows share a group")
    total = sum(random.values()) + rest + (0.0 if adjusted else fixed)
    return pd.Series({name: share / total for name, share in random.items()})
